"""An exported file into a model repository, as its next version: `MODELS/ID/VERSION/model.onnx`.

A version appears whole or not at all: written into a folder that no server looks at, synced, then renamed. The files of
other precisions that lie beside the exported one, `model.int8.onnx` and `model.fp16.onnx`, go along.
"""

import errno
import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trapline import model_file
from trapline.v1.metadata_pb2 import ModelMetadata

from .errors import TrainerError, UsageError
from .run_folder import write_atomically

MODEL_FILE = model_file.file_name()
# How the folder is called that a version is written into.
_TEMPORARY = ".publishing-"
# Publishing takes seconds; what is a day old was left behind by one that was killed.
_LEFT_BEHIND_SECONDS = 24 * 3600


class VersionAppeared(TrainerError):
    """Somebody else published meanwhile."""


def chosen_id(model: Path, metadata: ModelMetadata, asked: str | None) -> str:
    """The id to publish an exported file under: what was asked for, else what the file says.

    Args:
        model: The file.
        metadata: What it says of itself.
        asked: As `--model-id` has it; None where it was not given.

    Raises:
        UsageError: Neither names one, the file's can't name a folder, or the file is not the one that others belong to.
    """
    if metadata.precision in model_file.PRECISIONS[1:]:
        raise UsageError(
            f"{model} is an {metadata.precision} file, which is served beside the {MODEL_FILE} that it was made of; "
            f"name the run folder, or its {MODEL_FILE}, and it goes along"
        )
    model_id = asked or metadata.model_id
    if not model_id:
        raise UsageError(f"--model-id is required: {model} names no id of its own")
    return _checked(model_id)


def publish(model: Path, models: Path, model_id: str, *, after: int | None = None) -> Path:
    """Copies `model` into the repository `models` under `model_id`; gives the new version's folder.

    Args:
        model: The file.
        models: The model repository.
        model_id: The id to publish under.
        after: What `newest_number` must still give; any where absent.

    Raises:
        UsageError: The id can't name a model's folder.
        TrainerError: The repository cannot be written.
        VersionAppeared: The newest version is another one than `after`; nothing was changed.
    """
    home = models / _checked(model_id)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _temporary(home) as temporary:
            for source, name in ((model, MODEL_FILE), *((path, path.name) for path in _beside(model))):
                shutil.copyfile(source, temporary / name)
                _sync(temporary / name)
            # It was private so far; a server often runs as another user.
            temporary.chmod(0o755)
            _sync(temporary)
            version = _rename_to_next(temporary, home, after)
            _sync(home)
    except OSError as error:
        raise TrainerError(f"cannot publish into {home} ({error.strerror}); nothing was changed there") from error
    return version


def publish_beside(model: Path, models: Path, model_id: str) -> Path:
    """Puts the files of other precisions beside `model` into the newest version of the same `model`; gives its folder.

    Where no version has that file, all of them are published as the next one. Each file appears whole or not at all.

    Raises:
        UsageError: The id can't name a model's folder.
        TrainerError: The repository cannot be written.
    """
    version = next(_versions_of(model, models, model_id), None)
    if version is None:
        return publish(model, models, model_id)
    for path in _beside(model):
        write_atomically(version / path.name, functools.partial(shutil.copyfile, path))
    _sync(version)
    return version


def take_back(model: Path, models: Path, model_id: str, precisions: Iterable[str]) -> list[Path]:
    """Deletes the files of these precisions beside the same `model` in the repository; gives those that were there.

    Raises:
        UsageError: The id can't name a model's folder.
        TrainerError: The repository cannot be written.
    """
    names = [model_file.file_name(precision) for precision in precisions]
    found = [version / name for version in _versions_of(model, models, model_id) for name in names]
    found = [path for path in found if path.exists()]
    try:
        for path in found:
            path.unlink()
            _sync(path.parent)
    except OSError as error:
        raise TrainerError(f"cannot delete {path} ({error.strerror}), which was refused: do so by hand") from error
    return found


def _versions_of(model: Path, models: Path, model_id: str) -> Iterator[Path]:
    """The folders of the versions whose `model.onnx` is that very file, the newest first."""
    content = model.read_bytes()
    versions = [path for path in models.glob(f"{_checked(model_id)}/*/{MODEL_FILE}") if path.parent.name.isdigit()]
    for version in sorted(versions, key=lambda path: int(path.parent.name), reverse=True):
        if version.stat().st_size == len(content) and version.read_bytes() == content:
            yield version.parent


def _checked(model_id: str) -> str:
    """The id itself: one that a file brought along may be anything, and becomes a path."""
    try:
        return model_file.check_model_id(model_id)
    except ValueError as error:
        raise UsageError(f"{error}; give --model-id") from error


def _beside(model: Path) -> list[Path]:
    """The files of other precisions that belong to `model`; none where it has a name of its own."""
    if model.name != MODEL_FILE:
        return []
    paths = [model.with_name(model_file.file_name(precision)) for precision in model_file.PRECISIONS[1:]]
    return [path for path in paths if path.is_file()]


def newest_number(home: Path) -> int:
    """The highest number that a folder of a model has; 0 where none has one.

    Raises:
        TrainerError: The repository cannot be read.
    """
    try:
        names = [entry.name for entry in home.iterdir()] if home.is_dir() else []
    except OSError as error:
        raise TrainerError(f"cannot read {home} ({error.strerror}); nothing was changed there") from error
    return max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)


def _rename_to_next(temporary: Path, home: Path, after: int | None) -> Path:
    while True:
        newest = newest_number(home)
        if after is not None and newest != after:
            raise VersionAppeared(f"version {newest} appeared in {home}; nothing was changed there")
        version = home / str(newest + 1)
        try:
            # Onto a folder with files in it rename fails, so two publishers never share a version.
            return temporary.rename(version)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


@contextmanager
def _temporary(home: Path) -> Iterator[Path]:
    """A folder in `home`, gone afterwards unless it was renamed. Those of publishers that were killed are deleted."""
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=home))
    try:
        # By the clock of the storage, which more machines than this one may publish to.
        _delete_left_behind(home, before=temporary.stat().st_mtime - _LEFT_BEHIND_SECONDS)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _delete_left_behind(home: Path, *, before: float) -> None:
    """Deletes folders of publishers that nothing was written into since `before`.

    No lock tells whether one is still at work: on NFS a lock on a folder is known to its own machine alone.
    """
    for folder in home.glob(f"{_TEMPORARY}*"):
        with suppress(OSError):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_mtime < before:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The descriptor of a folder, or of a file to be synced."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    with _opened(path) as descriptor:
        os.fsync(descriptor)
