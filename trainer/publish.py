"""An exported file into a model repository, as its next version: `MODELS/ID/VERSION/model.onnx`.

A version appears whole or not at all: written into a folder that no server looks at, synced, then renamed. The files of
other precisions that lie beside the exported one, `model.int8.onnx` and `model.fp16.onnx`, go along.
"""

import errno
import functools
import os
import shutil
import tempfile
from pathlib import Path

from trapline import model_file

from .errors import TrainerError
from .run_folder import write_atomically

MODEL_FILE = model_file.file_name()


class VersionAppeared(TrainerError):
    """Somebody else published meanwhile."""


def publish(model: Path, models: Path, model_id: str, *, after: int | None = None) -> Path:
    """Copies `model` into the repository `models` under `model_id`; gives the new version's folder.

    Args:
        model: The file.
        models: The model repository.
        model_id: The id to publish under.
        after: What `newest_number` must still give; any where absent.

    Raises:
        TrainerError: The repository cannot be written.
        VersionAppeared: The newest version is another one than `after`; nothing was changed.
    """
    home = models / model_id
    try:
        home.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".publishing-", dir=home))
        try:
            for source, name in ((model, MODEL_FILE), *((path, path.name) for path in _beside(model))):
                shutil.copyfile(source, temporary / name)
                _sync(temporary / name)
            # mkdtemp's folder is private; a server often runs as another user.
            temporary.chmod(0o755)
            _sync(temporary)
            version = _rename_to_next(temporary, home, after)
            _sync(home)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise TrainerError(f"cannot publish into {home} ({error.strerror}); nothing was changed there") from error
    return version


def publish_beside(model: Path, models: Path, model_id: str) -> Path:
    """Puts the files of other precisions beside `model` into the newest version of the same `model`; gives its folder.

    Where no version has that file, all of them are published as the next one. Each file appears whole or not at all.

    Raises:
        TrainerError: The repository cannot be written.
    """
    content = model.read_bytes()
    versions = [path for path in models.glob(f"{model_id}/*/{MODEL_FILE}") if path.parent.name.isdigit()]
    for version in sorted(versions, key=lambda path: int(path.parent.name), reverse=True):
        if version.stat().st_size == len(content) and version.read_bytes() == content:
            for path in _beside(model):
                write_atomically(version.with_name(path.name), functools.partial(shutil.copyfile, path))
            _sync(version.parent)
            return version.parent
    return publish(model, models, model_id)


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
