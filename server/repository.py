"""The model repository on disk: `MODELS/ID/VERSION/model.onnx`, versions 1, 2, 3 ..."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from trapline.errors import UsageError
from trapline.model_file import MODEL_ID_PATTERN
from trapline.service.errors import shown

_log = logging.getLogger(__name__)

#: In a model's folder: the version that it stays with.
PIN_FILE = "pinned"
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


#: When a file was written, when it or its rights were changed, and its bytes.
Signature: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one look found of a model.

    Attributes:
        signatures: By version, newest first; a signature changes when the version's file does.
        pinned: The version that its pin file names; None for the newest.
        problem: What could not be seen, and what to do: which version is wanted is then not known. Empty where all was.
    """

    signatures: dict[int, Signature]
    pinned: int | None
    problem: str = ""

    @property
    def versions(self) -> list[int]:
        """The versions, newest first; empty where there is none, or the folder cannot be read."""
        return list(self.signatures)


class Repository:
    """A folder of models. What is not named like a model or a version (a publisher's temporary folder) is not seen."""

    def __init__(self, root: Path) -> None:
        """Takes the folder `root`.

        Raises:
            UsageError: It is missing, no folder, or cannot be read.
        """
        self.root = root
        try:
            self._names(root)
        except OSError as error:
            raise UsageError(
                f"--models: cannot read the folder {root} ({error.strerror}); "
                "name the folder that `trainer publish` writes to"
            ) from error

    def model_ids(self) -> list[str]:
        """Ids of the models' folders, sorted."""
        return sorted(name for name in self._names(self.root) if MODEL_ID_PATTERN.fullmatch(name))

    def look(self, model_id: str) -> Found:
        """What there is of a model: its versions, their files' signatures, its pin."""
        home = self.root / model_id
        try:
            names = self._names(home)
        except FileNotFoundError:
            names = []
        except OSError as error:
            problem = f"its folder cannot be read ({error.strerror}); have the server's user read it"
            return Found(signatures={}, pinned=None, problem=problem)
        versions = sorted((int(name) for name in names if _VERSION.fullmatch(name)), reverse=True)
        signatures = {version: self.signature(model_id, version) for version in versions}
        pinned, problem = _pinned(home / PIN_FILE)
        return Found(signatures=signatures, pinned=pinned, problem=problem)

    def file(self, model_id: str, version: int) -> Path:
        """The file of one version, whether it is there or not."""
        return self.root / model_id / str(version) / "model.onnx"

    def pin(self, model_id: str, version: int | None) -> bool:
        """Pins a model to a version, for every server of the repository and past a restart; None takes the pin away.

        Returns:
            Whether it could be written down; the log says why not.
        """
        path = self.root / model_id / PIN_FILE
        try:
            if version is None:
                path.unlink(missing_ok=True)
            else:
                temporary = path.with_name(f".{PIN_FILE}-{os.getpid()}")
                temporary.write_text(f"{version}\n", encoding="ascii")
                temporary.replace(path)
        except OSError as error:
            _log.warning("event=pin_not_kept model=%s version=%s reason=%r", model_id, version, error.strerror)
            return False
        return True

    def signature(self, model_id: str, version: int) -> Signature:
        """Changes when a version's file or who may read it does; zeros where there is none."""
        try:
            status = self.file(model_id, version).stat()
        except OSError:
            return 0, 0, 0
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size

    @staticmethod
    def _names(folder: Path) -> list[str]:
        return [entry.name for entry in folder.iterdir() if entry.is_dir()]


def _pinned(path: Path) -> tuple[int | None, str]:
    """The version that a pin file names, None for the newest, and what keeps it from being told."""
    name, advice = f"its file {path.name}", "write the number of a version into it, or delete it for the newest"
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"{name} cannot be read ({error.strerror}); have the server's user read it, or {advice}"
    except UnicodeDecodeError:
        return None, f"{name} is no text; {advice}"
    pinned = parse_version(text)
    return pinned, "" if pinned is not None else f"{name} has {shown(text)} in it; {advice}"


def parse_version(text: str) -> int | None:
    """The number that names a version's folder; None where `text` is no such number."""
    return int(text) if _VERSION.fullmatch(text) else None
