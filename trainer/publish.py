"""An exported file into a model repository, as its next version: `MODELS/ID/VERSION/model.onnx`.

A version appears whole or not at all: written into a folder that no server looks at, synced, then renamed.
"""

import errno
import os
import shutil
import tempfile
from pathlib import Path

from .errors import TrainerError

MODEL_FILE = "model.onnx"


def publish(model: Path, models: Path, model_id: str) -> Path:
    """Copies `model` into the repository `models` under `model_id`; gives the new version's folder.

    Raises:
        TrainerError: The repository cannot be written.
    """
    home = models / model_id
    try:
        home.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".publishing-", dir=home))
        try:
            shutil.copyfile(model, temporary / MODEL_FILE)
            # mkdtemp's folder is private; a server often runs as another user.
            temporary.chmod(0o755)
            _sync(temporary / MODEL_FILE)
            _sync(temporary)
            version = _rename_to_next(temporary, home)
            _sync(home)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise TrainerError(f"cannot publish into {home} ({error.strerror}); nothing was changed there") from error
    return version


def _rename_to_next(temporary: Path, home: Path) -> Path:
    while True:
        versions = [int(entry.name) for entry in home.iterdir() if entry.name.isascii() and entry.name.isdigit()]
        version = home / str(max(versions, default=0) + 1)
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
