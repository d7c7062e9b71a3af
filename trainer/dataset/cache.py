"""Decoded pixels on disk, keyed by a file's SHA-256: a photo is decoded once, whatever its name and however many runs.

One folder for each set of preprocessing rules, shared by any number of threads and processes:

    images.u8       rows of height × width × 3 bytes, nothing else
    index.sqlite    SHA-256 -> row, checksum and facts of the photo; SHA-256 -> reason of files that cannot be decoded

Why a kill or a crash at any moment leaves no wrong pixel: a key gets its row first, without a checksum; then the bytes
are written; only then the checksum is stored, and a row without one does not exist for `find`. After a power cut the
index may be newer than the pixels, so `find` compares the checksum before it names a row. Whoever meets an unfinished
or broken row decodes the photo again and writes the same bytes to the same row, so two writers cannot disagree.
"""

import fcntl
import hashlib
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import PIL
from numpy.typing import NDArray

from trapline.v1.metadata_pb2 import Preprocessing

from ..errors import TrainerError

# Counts up when the tables, the row format or the difference hash change: older folders are then left alone.
_FORMAT = 1
_KEYS_IN_ONE_QUERY = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS photos (
    sha256 TEXT PRIMARY KEY, row INTEGER UNIQUE NOT NULL, checksum INTEGER,
    camera TEXT, taken TEXT, difference_hash TEXT, width_px INTEGER, height_px INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (sha256 TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What decoding a photo told besides its pixels.

    Attributes:
        camera: As in `Photo`.
        taken: As in `Photo`.
        difference_hash: As in `Photo`.
        width_px: Width of the original as stored, before it is turned upright.
        height_px: Height likewise.
    """

    camera: str
    taken: str
    difference_hash: int
    width_px: int
    height_px: int


@dataclass(frozen=True, kw_only=True)
class CachedPhoto:
    """A photo that the cache has: the row of its pixels, and its facts."""

    row: int
    facts: Facts


class PixelCache:
    """The pixels under one set of preprocessing rules, shared by threads; `PixelCache.open` gives it, `with` closes it.

    Every method that touches the disk raises `TrainerError`, naming the folder and `--cache-dir`, where the disk is
    full or the folder cannot be used.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], index: sqlite3.Connection, images: int) -> None:
        self.folder = folder
        self._shape = shape
        self._row_bytes = shape[0] * shape[1] * shape[2]
        self._index = index
        self._index_lock = threading.Lock()
        self._images = images
        self._mapped: NDArray[np.uint8] = np.empty((0, *shape), np.uint8)

    @classmethod
    def open(cls, folder: Path, preprocessing: Preprocessing) -> Self:
        """The cache in `folder` (the user's `--cache-dir`) for the rules `preprocessing`; made where it is missing."""
        place = folder / rules_digest(preprocessing)
        with _storage_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            images = os.open(place / "images.u8", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                # Turning to WAL does not wait for another process that does the same; this lock does.
                fcntl.flock(images, fcntl.LOCK_EX)
                index = _open_index(place / "index.sqlite")
                fcntl.flock(images, fcntl.LOCK_UN)
            except BaseException:
                os.close(images)
                raise
        return cls(place, (preprocessing.height_px, preprocessing.width_px, 3), index, images)

    def find(self, sha256s: Sequence[str]) -> dict[str, CachedPhoto]:
        """Those of the photos that are cached; each one's bytes were compared with their checksum just now."""
        rows = self._select("sha256, row, checksum, camera, taken, difference_hash, width_px, height_px", sha256s)
        found = {}
        for sha256, row, checksum, camera, taken, difference_hash, width_px, height_px in rows:
            if not self._is_intact(row, checksum):
                continue
            facts = Facts(
                camera=camera,
                taken=taken,
                difference_hash=int(difference_hash, 16),
                width_px=width_px,
                height_px=height_px,
            )
            found[sha256] = CachedPhoto(row=row, facts=facts)
        return found

    def put(self, sha256: str, pixels: NDArray[np.uint8], facts: Facts) -> int:
        """Stores a photo's pixels (RGB, uint8, [height_px, width_px, 3] of the rules) and facts; gives their row."""
        if pixels.shape != self._shape or pixels.dtype != np.uint8:
            raise ValueError(f"the cache holds uint8 {self._shape}, not {pixels.dtype} {pixels.shape}")
        data = np.ascontiguousarray(pixels).data.cast("B")
        with _storage_errors(self.folder):
            with self._index_lock:
                row = self._row_for(sha256)
            self._write(row, data)
            with self._index_lock:
                self._index.execute(
                    "UPDATE photos SET checksum = ?, camera = ?, taken = ?, difference_hash = ?, width_px = ?, "
                    "height_px = ? WHERE sha256 = ?",
                    (
                        zlib.crc32(data),
                        facts.camera,
                        facts.taken,
                        f"{facts.difference_hash:016x}",  # SQLite's integers are signed: 64 bits do not fit
                        facts.width_px,
                        facts.height_px,
                        sha256,
                    ),
                )
        return row

    def failures(self, sha256s: Sequence[str]) -> dict[str, str]:
        """Those of the files that could not be decoded before, and why."""
        return dict(self._select("sha256, reason", sha256s, table="failures"))

    def put_failure(self, sha256: str, reason: str) -> None:
        """Remembers that a file cannot be decoded, whatever the limits."""
        with _storage_errors(self.folder), self._index_lock:
            self._index.execute("INSERT OR REPLACE INTO failures VALUES (?, ?)", (sha256, reason))

    def pixels(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pixels of rows that `find` or `put` gave: a copy, RGB, uint8, [len(rows), height_px, width_px, 3]."""
        wanted = np.asarray(rows, np.int64)
        if wanted.size and wanted.max() >= len(self._mapped):
            with _storage_errors(self.folder):
                count = os.fstat(self._images).st_size // self._row_bytes
                self._mapped = np.memmap(self.folder / "images.u8", np.uint8, "r", shape=(count, *self._shape))
        return np.asarray(self._mapped[wanted])

    def close(self) -> None:
        """Lets go of the files; a second call does nothing."""
        if self._images >= 0:
            self._index.close()
            os.close(self._images)
            self._images = -1
            self._mapped = np.empty((0, *self._shape), np.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _select(self, columns: str, keys: Sequence[str], *, table: str = "photos") -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        with _storage_errors(self.folder), self._index_lock:
            for start in range(0, len(keys), _KEYS_IN_ONE_QUERY):
                some = keys[start : start + _KEYS_IN_ONE_QUERY]
                marks = ",".join("?" * len(some))
                query = f"SELECT {columns} FROM {table} WHERE sha256 IN ({marks})"  # noqa: S608  # our own names only
                rows += self._index.execute(query, list(some))
        return rows

    def _is_intact(self, row: int, checksum: int | None) -> bool:
        if checksum is None:
            return False
        with _storage_errors(self.folder):
            data = os.pread(self._images, self._row_bytes, row * self._row_bytes)
        return len(data) == self._row_bytes and zlib.crc32(data) == checksum

    def _row_for(self, sha256: str) -> int:
        """The row of a key, a new one for a new key; one statement, so that processes cannot take the same."""
        self._index.execute(
            "INSERT OR IGNORE INTO photos (sha256, row) SELECT ?, coalesce(max(row) + 1, 0) FROM photos", (sha256,)
        )
        row: int = self._index.execute("SELECT row FROM photos WHERE sha256 = ?", (sha256,)).fetchone()[0]
        return row

    def _write(self, row: int, data: memoryview) -> None:
        # Written, not mapped: a full disk is then an error and not a SIGBUS.
        done = 0
        while done < len(data):
            done += os.pwrite(self._images, data[done:], row * self._row_bytes + done)


def rules_digest(preprocessing: Preprocessing) -> str:
    """The name of the folder for these rules: 16 hex digits over the rules and what decodes by them.

    Pillow's whole version counts, because each of its wheels brings its own JPEG, WebP and TIFF libraries.
    """
    text = f"{_FORMAT} Pillow {PIL.__version__} ".encode()
    return hashlib.sha256(text + preprocessing.SerializeToString(deterministic=True)).hexdigest()[:16]


def _open_index(path: Path) -> sqlite3.Connection:
    index = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    try:
        index.execute("PRAGMA journal_mode = WAL")
        index.execute("PRAGMA synchronous = NORMAL")
        index.executescript(_SCHEMA)
    except BaseException:
        index.close()
        raise
    return index


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise TrainerError(
            f"the cache {folder} cannot be used ({reason}); make room there, remove that folder, or name another one "
            "with --cache-dir"
        ) from error
