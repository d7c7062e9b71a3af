"""One folder of rules, opened: made where it is missing, made anew where it is another version's or damaged."""

import os
import sqlite3
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from trapline.v1.metadata_pb2 import Preprocessing

from ...errors import TrainerError
from .folder import (
    CARD_FILE,
    IMAGES_FILE,
    INDEX_FILE,
    delete,
    is_alone,
    is_cache,
    is_current,
    remove_index,
    rules_digest,
    share,
    write_card,
)
from .hashes import HASHES_FILE, KnownHashes
from .index import Index
from .space import fits, reclaim

# What SQLite answers where a file is no database, damaged, or one with other tables.
_DAMAGED = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_TOOBIG,
)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What is held open of a folder of rules.

    Attributes:
        folder: The folder.
        images: The file of pixels, locked as shared.
        index: The index.
        hashes: The hashes of files that all folders of rules share.
        notes: Sentences on what was made anew.
    """

    folder: Path
    images: int
    index: Index
    hashes: KnownHashes
    notes: tuple[str, ...]


def open_folder(cache: Path, preprocessing: Preprocessing) -> Opened:
    """The folder of these rules in the user's cache folder, which must be `locked`.

    Raises:
        TrainerError: Another process uses it as another version.
        OSError: The disk.
        sqlite3.Error: The index, where another process uses it too.
    """
    folder = cache / rules_digest(preprocessing)
    row_bytes = preprocessing.height_px * preprocessing.width_px * 3
    notes = []
    with ExitStack() as stack:
        if is_cache(folder) and not is_current(folder):
            _delete_other_version(folder)
            notes.append(f"the cache {folder} was another version's: it is made anew, and its photos are decoded again")
        folder.mkdir(exist_ok=True)
        if not is_cache(folder):
            write_card(folder, preprocessing)
        images = os.open(folder / IMAGES_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        stack.callback(os.close, images)
        alone = is_alone(images)
        try:
            index = Index.open(folder / INDEX_FILE, check=alone)
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
            if not alone or code & 0xFF not in _DAMAGED:
                raise
            remove_index(folder)
            os.ftruncate(images, 0)
            index = Index.open(folder / INDEX_FILE, check=False)
            notes.append(f"the index of the cache {folder} was damaged: its photos are decoded again")
        stack.callback(index.close)
        facts = os.fstat(images)
        file_rows = facts.st_size // row_bytes
        if alone and (index.settled() != (facts.st_size, facts.st_mtime_ns) or not fits(index, file_rows)):
            reclaim(index, file_rows)
        hashes = KnownHashes.open(cache / HASHES_FILE)
        share(images)
        os.utime(folder / CARD_FILE)
        stack.pop_all()
    return Opened(folder=folder, images=images, index=index, hashes=hashes, notes=tuple(notes))


def _delete_other_version(folder: Path) -> None:
    images = os.open(folder / IMAGES_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not is_alone(images):
            raise TrainerError(
                f"the cache {folder} is in use by a run of another version of Trapline; wait for it to end, or name "
                "another folder with --cache-dir"
            )
        delete(folder)
    finally:
        os.close(images)
