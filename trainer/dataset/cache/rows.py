"""The file of pixels of one cache folder: rows of height × width × 3 bytes, written, grown, compared and gathered."""

import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import TrainerError
from .folder import used_bytes

#: What a photo takes in the index and among the known hashes, rounded up.
INDEX_BYTES = 512
#: What the bound leaves to SQLite's passing journals.
JOURNAL_BYTES = 16 << 20


class PixelRows:
    """The open file, shared by threads; other processes may have it open too. Raises `OSError`.

    Attributes:
        file: Its descriptor.
        shape: Height, width and 3.
        row_bytes: What a row takes.
    """

    def __init__(self, path: Path, file: int, *, shape: tuple[int, int, int], most_bytes: int) -> None:
        self.file = file
        self.shape = shape
        self.row_bytes = shape[0] * shape[1] * shape[2]
        self._path = path
        self._cache = path.parent.parent
        self._most_bytes = most_bytes
        self.reset()

    def reset(self) -> None:
        """Forgets what is known of the file's length and rows: it was changed as a whole."""
        # By row: the checksum to compare when it is first gathered; -1 where there is nothing to compare any more.
        self._checksums: NDArray[np.int64] = np.empty(0, np.int64)
        self._mapped: NDArray[np.uint8] = np.empty((0, *self.shape), np.uint8)

    def count(self) -> int:
        """Whole rows that the file has."""
        return os.fstat(self.file).st_size // self.row_bytes

    def state(self) -> tuple[int, int]:
        """Length and time of the last change (nanoseconds) of the file: whoever writes to it changes them."""
        facts = os.fstat(self.file)
        return facts.st_size, facts.st_mtime_ns

    def write(self, row: int, data: memoryview) -> None:
        """Puts the bytes of a row in place."""
        # Written, not mapped: a full disk is then an error and not a SIGBUS.
        done = 0
        while done < len(data):
            done += os.pwrite(self.file, data[done:], row * self.row_bytes + done)

    def grow(self, given: int, most: int) -> int:
        """Makes the file longer than the rows `given` out, by up to `most`; gives by how many.

        Its length is what all runs count against the bound; call it while the user's cache folder is `locked`.

        Raises:
            TrainerError: The bound is reached.
        """
        spare = self.count() - given
        left = self._most_bytes - JOURNAL_BYTES - used_bytes(self._cache)
        more = min(most, spare + left // (self.row_bytes + INDEX_BYTES))
        if more < 1:
            raise TrainerError(
                f"the cache {self._cache} has grown to the bound of --cache-gib, because other runs fill it too; run "
                "the same command again when they have ended, or with a larger --cache-gib"
            )
        if more > spare:
            os.ftruncate(self.file, (given + more) * self.row_bytes)
        return more

    def cut(self, count: int) -> None:
        """Cuts off what was made longer than `count` rows; only for whoever has the folder alone."""
        if self.count() > count:
            os.ftruncate(self.file, count * self.row_bytes)
            self.reset()

    def is_intact(self, row: int, checksum: int) -> bool:
        """Whether the row's bytes have that CRC-32."""
        data = os.pread(self.file, self.row_bytes, row * self.row_bytes)
        return len(data) == self.row_bytes and zlib.crc32(data) == checksum

    def compare_later(self, checksums: Mapping[int, int]) -> None:
        """Has `gather` compare these rows with their CRC-32 when it first meets them."""
        lacking = max(checksums, default=-1) + 1 - len(self._checksums)
        if lacking > 0:
            self._checksums = np.concatenate([self._checksums, np.full(2 * lacking, -1, np.int64)])
        for row, checksum in checksums.items():
            self._checksums[row] = checksum

    def gather(self, rows: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.uint8], bool]:
        """A copy of rows, uint8 [len(rows), height, width, 3], and whether all of them are as they were written."""
        wanted = np.asarray(rows, np.int64)
        if wanted.size and wanted.max() >= len(self._mapped):
            if wanted.max() >= self.count():
                return np.empty((0, *self.shape), np.uint8), False
            self._mapped = np.memmap(self._path, np.uint8, "r", shape=(self.count(), *self.shape))
        found = np.asarray(self._mapped[wanted])
        known = np.flatnonzero(wanted < len(self._checksums))
        unread = known[self._checksums[wanted[known]] >= 0]
        for position in unread.tolist():
            if zlib.crc32(found[position]) != self._checksums[wanted[position]]:
                return found, False
        self._checksums[wanted[unread]] = -1
        return found, True

    def damaged(self) -> list[int]:
        """Those of the rows still to be compared that are not as they were written."""
        rows = np.flatnonzero(self._checksums >= 0).tolist()
        return [row for row in rows if not self.is_intact(row, int(self._checksums[row]))]

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self.file)
        self.reset()
