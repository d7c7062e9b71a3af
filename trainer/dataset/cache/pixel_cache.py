"""Decoded pixels on disk, keyed by a file's SHA-256: a photo is decoded once, whatever its name and however many runs.

One folder for each set of preprocessing rules, shared by any number of threads and processes; `folder` tells
what lies where.

Why a kill or a crash at any moment leaves no wrong pixel: a process takes free rows for itself; it writes a photo's
bytes to one; only then it records that the photo lies there, with the checksum of the bytes. A recorded row is never
written again. Of two processes with the same photo the first to record it wins, and the other's row is free again; rows
that a killed process had taken are free when the next one opens the folder alone. After a power cut the index may be
newer than the pixels: unless the last user had brought all pixels to the disk and said so, and the file has not changed
since, `find` compares every checksum. In any case `pixels` compares a row's when it first reads it, so that no changed
byte is ever handed out.
"""

import os
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from trapline.v1.metadata_pb2 import Preprocessing

from ...errors import TrainerError
from .folder import IMAGES_FILE, is_alone, locked, share, storage_errors
from .index import Entry, Facts
from .opening import Opened, open_folder
from .room import UNBOUNDED, Place, Room, make_room
from .rows import PixelRows
from .space import cut, give_back, row_count, take_free, take_new

_ROWS_TAKEN_AT_ONCE = 64
_RECORDED_AT_ONCE = 32
_SECONDS_UNRECORDED = 1.0
# Linux brings what was written to the disk by itself after half a minute.
_SECONDS_TO_DISK = 60.0
_TOUCHED_AGAIN_AFTER_NS = 86_400 * 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedPhoto:
    """A photo that the cache has: the row of its pixels, and its facts."""

    row: int
    facts: Facts


class PixelCache:
    """The pixels under one set of preprocessing rules, shared by threads; `PixelCache.open` gives it, `with` closes it.

    Every method that touches the disk raises `TrainerError`, naming the folder and `--cache-dir`, where the disk is
    full or the folder cannot be used.

    Attributes:
        folder: The folder of these rules.
        hashes: SHA-256 of files that were read before, under whatever rules.
        notes: Sentences on what opening it had to do.
    """

    def __init__(self, opened: Opened, rows: PixelRows, most_bytes: int) -> None:
        self.folder = opened.folder
        self.hashes = opened.hashes
        self.notes = opened.notes
        self._rows = rows
        self._index = opened.index
        self._most_bytes = most_bytes
        self._find_compares = opened.index.settled() != rows.state()
        self._now = time.time_ns()
        self._lock = threading.Lock()
        self._is_open = True
        self._has_written = False
        self._has_failures = opened.index.has_failures()
        self._taken: list[int] = []
        self._written: dict[str, Entry] = {}
        self._recorded = time.monotonic()
        self._wrote_last = -_SECONDS_TO_DISK
        self._lost_rows = False

    @classmethod
    def open(cls, folder: Path, preprocessing: Preprocessing, *, most_bytes: int = UNBOUNDED) -> Self:
        """The cache in `folder` (the user's `--cache-dir`) for the rules `preprocessing`; made where it is missing.

        Args:
            folder: The user's cache folder.
            preprocessing: The rules.
            most_bytes: Most that all of `folder` may take.
        """
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                opened = open_folder(folder, preprocessing)
        shape = (preprocessing.height_px, preprocessing.width_px, 3)
        rows = PixelRows(opened.folder / IMAGES_FILE, opened.images, shape=shape, most_bytes=most_bytes)
        return cls(opened, rows, most_bytes)

    def make_room(self, *, known: Sequence[str], new: int) -> Room:
        """Drops what was not used for longest where more photos need its room; says what they need and find.

        Args:
            known: SHA-256 of the run's photos that `find` found; they stay, but may move to other rows.
            new: How many more there are at most.

        Raises:
            TrainerError: The bound or the disk leaves too little. Nothing was dropped.
        """
        with storage_errors(self.folder), locked(self.folder.parent):
            place = Place(
                cache=self.folder.parent,
                own=self.folder,
                index=self._index,
                rows=self._rows,
                most_bytes=self._most_bytes,
                alone=is_alone(self._rows.file),
                known=known,
                now=self._now,
            )
            try:
                room = make_room(place, new=new)
            finally:
                share(self._rows.file)
        if room.moved:
            self._rows.reset()
        return room

    def find(self, sha256s: Sequence[str]) -> dict[str, CachedPhoto]:
        """Those of the photos that are cached."""
        with storage_errors(self.folder):
            entries = self._index.find(sha256s)
            with self._lock:
                entries |= {key: self._written[key] for key in sha256s if key in self._written}
            if not entries:
                return {}
            damaged = self._damaged(entries)
            if damaged:
                self._index.forget(damaged)
            seldom = [key for key, entry in entries.items() if entry.used < self._now - _TOUCHED_AGAIN_AFTER_NS]
            if seldom:
                self._index.touch(seldom, used=self._now)
        gone = frozenset(damaged)
        return {key: CachedPhoto(row=entry.row, facts=entry.facts) for key, entry in entries.items() if key not in gone}

    def put(self, sha256: str, pixels: NDArray[np.uint8], facts: Facts) -> int:
        """Stores a photo's pixels (RGB, uint8, [height_px, width_px, 3] of the rules) and facts; gives their row.

        The row is good until the next `flush`, which says whether it is afterwards. Other processes find the photo
        after a second, 32 photos or `flush`, whichever is first.
        """
        if pixels.shape != self._rows.shape or pixels.dtype != np.uint8:
            raise ValueError(f"the cache holds uint8 {self._rows.shape}, not {pixels.dtype} {pixels.shape}")
        data = np.ascontiguousarray(pixels).data.cast("B")
        with storage_errors(self.folder):
            with self._lock:
                row = self._taken.pop() if self._taken else self._take()
            self._rows.write(row, data)
            self._wrote_last = time.monotonic()
            entry = Entry(row=row, checksum=zlib.crc32(data), facts=facts, used=self._now)
            with self._lock:
                kept = self._written.setdefault(sha256, entry)
                if kept is not entry:
                    # Another thread decoded a copy of the photo at the same time.
                    self._taken.append(row)
                waited = time.monotonic() - self._recorded
                if len(self._written) >= _RECORDED_AT_ONCE or waited > _SECONDS_UNRECORDED:
                    self._record()
        return kept.row

    def flush(self) -> bool:
        """Records what was put, so that every process finds it, even if this one is killed.

        Returns:
            Whether all rows that `put` gave are still the photos'. Another process may have put the same photo first:
            then `find` has its row.
        """
        with storage_errors(self.folder), self._lock:
            self._record()
            return not self._lost_rows

    def failures(self, sha256s: Sequence[str]) -> dict[str, str]:
        """Those of the files that could not be decoded before, and why; perhaps not those of other runs just now."""
        if not self._has_failures:
            return {}
        with storage_errors(self.folder):
            return self._index.failures(sha256s)

    def put_failure(self, sha256: str, reason: str) -> None:
        """Remembers that a file cannot be decoded, whatever the limits."""
        with storage_errors(self.folder):
            self._index.put_failure(sha256, reason)
            self._has_failures = True

    def pixels(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pixels of rows that `find` or `put` gave: a copy, RGB, uint8, [len(rows), height_px, width_px, 3].

        Raises:
            TrainerError: Bytes of them were changed since they were written. The cache forgets such photos, so that the
                next run decodes them again.
        """
        with storage_errors(self.folder):
            found, are_intact = self._rows.gather(rows)
            if are_intact:
                return found
            damaged = self._rows.damaged()
            self._index.forget_rows(damaged)
        raise TrainerError(
            f"the pixels of {len(damaged):,} photos in the cache {self.folder} were changed since they were written, "
            "and are not used; run the same command again, which decodes these photos again"
        )

    def close(self) -> None:
        """Brings what was put to the disk and lets go of the files; a second call does nothing."""
        if not self._is_open:
            return
        try:
            self.flush()
            with storage_errors(self.folder):
                self._settle()
        finally:
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._is_open:
            with suppress(TrainerError), storage_errors(self.folder):  # a full disk is told once
                self.flush()
                # Whoever is interrupted does not wait for the disk: what was written long ago is there.
                if time.monotonic() - self._wrote_last > _SECONDS_TO_DISK:
                    self._settle()
            self._let_go()

    def _take(self) -> int:
        """A row to write to; takes more of them from the index, for later calls."""
        if not self._has_written:
            self._index.settle(None)
            self._has_written = True
        self._taken = take_free(self._index, _ROWS_TAKEN_AT_ONCE)
        if not self._taken:
            with locked(self.folder.parent):
                self._taken = take_new(self._index, self._rows.grow(row_count(self._index), _ROWS_TAKEN_AT_ONCE))
        self._taken.reverse()
        return self._taken.pop()

    def _record(self) -> None:
        self._lost_rows |= bool(self._index.put(self._written))
        self._written.clear()
        self._recorded = time.monotonic()

    def _damaged(self, entries: Mapping[str, Entry]) -> list[str]:
        """Those of the photos whose pixels are not as they were written, as far as must be told now."""
        count = self._rows.count()
        if self._find_compares:
            return [key for key, entry in entries.items() if not self._rows.is_intact(entry.row, entry.checksum)]
        with self._lock:
            self._rows.compare_later({entry.row: entry.checksum for entry in entries.values() if entry.row < count})
        return [key for key, entry in entries.items() if entry.row >= count]

    def _settle(self) -> None:
        """Brings all rows to the disk and says so, unless another process writes more of them."""
        give_back(self._index, self._taken)
        if self._index.settled() == self._rows.state():
            return
        os.fdatasync(self._rows.file)  # here, where nobody waits for it; what is left below is little
        with locked(self.folder.parent):
            if is_alone(self._rows.file):
                self._rows.cut(cut(self._index, 0))
                os.fdatasync(self._rows.file)
                self._index.settle(self._rows.state())

    def _let_go(self) -> None:
        self._is_open = False
        self._index.close()
        self.hashes.close()
        self._rows.close()
