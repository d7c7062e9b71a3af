"""The user's cache folder: what in it is ours, how large it is, who uses it, and how it is cleared.

    <--cache-dir>/.trapline-cache-lock      held for moments, by whoever opens, grows or deletes a folder of rules
    <--cache-dir>/trapline-files.sqlite     see `hashes`
    <--cache-dir>/<16 hex digits>/          one for each set of preprocessing rules:
        cache.json                              what it is, in words; its time is that of the last use
        images.u8                               rows of height × width × 3 bytes; locked (shared) by whoever has it open
        index.sqlite                            see `index`

Nothing is ever deleted but these names, in folders called and filled like this.
"""

import fcntl
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import platformdirs

from trapline.v1.metadata_pb2 import Preprocessing

from ...errors import TrainerError
from .hashes import HASHES_FILE
from .index import photo_count

#: Counts up when the tables, the row format or the difference hash change: a folder of another format is made anew.
FORMAT = 2
INDEX_FILE = "index.sqlite"
IMAGES_FILE = "images.u8"
CARD_FILE = "cache.json"
_LOCK_FILE = ".trapline-cache-lock"
_INDEX_FILES = (INDEX_FILE, f"{INDEX_FILE}-wal", f"{INDEX_FILE}-shm", f"{INDEX_FILE}-journal")
_KIND = "Trapline's decoded photos"
_NAME = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class CacheFolder:
    """One folder of rules, as it was found.

    Attributes:
        path: The folder.
        rules: In words, e.g. `224 × 224 px, stretch, bilinear`.
        is_current: Whether this version of Trapline, with this version of Pillow, can use it.
        photo_count: Photos in it; None where its index cannot be read.
        size_bytes: What its files take.
        last_used: Unix time.
        in_use: Whether a process has it open.
    """

    path: Path
    rules: str
    is_current: bool
    photo_count: int | None
    size_bytes: int
    last_used: float
    in_use: bool


def user_cache_folder(chosen: Path | None) -> Path:
    """The folder that `--cache-dir` names, else the user's own."""
    return chosen or Path(platformdirs.user_cache_dir("trapline"))


def rules_digest(preprocessing: Preprocessing) -> str:
    """The name of the folder for these rules: 16 hex digits over the rules and what decodes by them.

    Pillow's whole version counts, because each of its wheels brings its own JPEG, WebP and TIFF libraries.
    """
    text = f"Pillow {PIL.__version__} ".encode()
    return hashlib.sha256(text + preprocessing.SerializeToString(deterministic=True)).hexdigest()[:16]


def write_card(folder: Path, preprocessing: Preprocessing) -> None:
    """Writes `cache.json`, whole or not at all."""
    card = {"kind": _KIND, "format": FORMAT, "pillow": PIL.__version__, "rules": _words(preprocessing)}
    temporary = folder / f".{CARD_FILE}.tmp"
    temporary.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / CARD_FILE)


def is_current(folder: Path) -> bool:
    """Whether `folder` was made by this format and this version of Pillow."""
    card = _card(folder)
    return card.get("format") == FORMAT and card.get("pillow") == PIL.__version__


def is_cache(folder: Path) -> bool:
    """Whether `folder` is recognisably a folder of rules, of whatever version."""
    if not _NAME.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return False
    # The first format had no card.
    return bool(_card(folder)) or all((folder / name).is_file() for name in (INDEX_FILE, IMAGES_FILE))


def folders(cache: Path) -> list[CacheFolder]:
    """The folders of rules in the user's cache folder, least recently used first; call it while `locked`."""
    found = [_described(path) for path in (cache.iterdir() if cache.is_dir() else ()) if is_cache(path)]
    return sorted(found, key=lambda folder: (folder.last_used, folder.path))


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Keeps other processes, and other threads of this one, from opening, growing or deleting folders of rules."""
    with (cache / _LOCK_FILE).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_alone(images: int) -> bool:
    """Whether nobody else has the file of pixels `images` open; if so this process holds it exclusively from now on.

    Only for whoever has the user's cache folder `locked`: elsewhere the lock that is given up for a moment may be lost.
    """
    try:
        fcntl.flock(images, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        share(images)
        return False
    return True


def share(images: int) -> None:
    """Says that this process uses the file of pixels `images`."""
    fcntl.flock(images, fcntl.LOCK_SH)


def used_bytes(cache: Path) -> int:
    """What all that is ours in the user's cache folder takes, without SQLite's passing journals of a few MiB."""
    hashes = cache / HASHES_FILE
    return sum(_size(path) for path in cache.iterdir() if is_cache(path)) + (
        hashes.stat().st_size if hashes.is_file() else 0
    )


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turns what the disk and SQLite answer into a sentence that names the cache folder and the option."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise TrainerError(
            f"the cache {folder} cannot be used ({reason}); make room there, remove that folder, or name another one "
            "with --cache-dir, and run the same command again"
        ) from error


def remove_index(folder: Path) -> None:
    """Deletes the index of a folder of rules, which nobody may have open."""
    for name in _INDEX_FILES:
        (folder / name).unlink(missing_ok=True)


def delete(folder: Path) -> None:
    """Deletes what is ours in a folder of rules, and the folder where nothing else is in it."""
    # Killed in between, what is left is still known as ours, and never an index without its pixels.
    remove_index(folder)
    for name in (IMAGES_FILE, f".{CARD_FILE}.tmp", CARD_FILE):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # somebody else's file is in it
        folder.rmdir()


def _described(path: Path) -> CacheFolder:
    card = _card(path)
    known = path / CARD_FILE if card else path / IMAGES_FILE
    current = is_current(path)
    return CacheFolder(
        path=path,
        rules=str(card.get("rules", "")),
        is_current=current,
        photo_count=photo_count(path / INDEX_FILE) if current else None,
        size_bytes=_size(path),
        last_used=known.stat().st_mtime,
        in_use=_in_use(path / IMAGES_FILE),
    )


def _in_use(images: Path) -> bool:
    try:
        with images.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _size(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in (INDEX_FILE, IMAGES_FILE) if (folder / name).is_file())


def _card(folder: Path) -> dict[str, Any]:
    """What `cache.json` says; empty where it is missing, or not ours."""
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) and card.get("kind") == _KIND else {}


def _words(preprocessing: Preprocessing) -> str:
    fit = Preprocessing.Fit.Name(preprocessing.fit).removeprefix("FIT_").lower()
    interpolation = Preprocessing.Interpolation.Name(preprocessing.interpolation).removeprefix("INTERPOLATION_").lower()
    words = [f"{preprocessing.width_px} × {preprocessing.height_px} px", fit, interpolation]
    if preprocessing.resize_px:
        words.append(f"of {preprocessing.resize_px} px")
    return ", ".join(words)
