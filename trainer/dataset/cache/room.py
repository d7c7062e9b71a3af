"""Room for the photos of a run: how much they need, what the bound and the disk leave, what is dropped for them.

Least recently used goes first, whether it is a whole folder of other rules that nobody has open, or the rows of the own
folder that one earlier run used last. Folders that this version cannot use go before all others. Nothing is dropped
unless dropping is enough.
"""

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import TrainerError
from .folder import delete, folders, used_bytes
from .index import Index
from .rows import INDEX_BYTES, JOURNAL_BYTES, PixelRows
from .space import cut, evict, free_count, move, moves, row_count, uses

#: A bound that no disk reaches.
UNBOUNDED = 1 << 62

_MIB, _GIB = 1 << 20, 1 << 30
_LARGEST_RESERVE = 256 * _MIB
_ROWS_MOVED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where room is made.

    Attributes:
        cache: The user's cache folder, `locked`.
        own: The folder of the run's rules.
        index: Its index.
        rows: Its file of pixels.
        most_bytes: The bound on the user's cache folder.
        alone: Whether nobody else has `own` open.
        known: SHA-256 of the run's photos that are in the cache.
        now: The time (see `Entry.used`) that marks the photos of this run.
    """

    cache: Path
    own: Path
    index: Index
    rows: PixelRows
    most_bytes: int
    alone: bool
    known: Sequence[str]
    now: int

    @property
    def photo_bytes(self) -> int:
        """What one photo takes, with what is written down of it."""
        return self.rows.row_bytes + INDEX_BYTES

    @property
    def free_rows(self) -> int:
        """Rows of the file that hold no photo."""
        return free_count(self.index) + max(0, self.rows.count() - row_count(self.index))


@dataclass(frozen=True, kw_only=True)
class Room:
    """What making room came to.

    Attributes:
        sentence: What is needed and what there is.
        moved: Whether photos lie in other rows than before.
    """

    sentence: str
    moved: bool


@dataclass(frozen=True, kw_only=True)
class _Droppable:
    """A whole folder of `size_bytes`, or so many `rows` of the own one."""

    last_used: float
    size_bytes: int = 0
    rows: int = 0
    words: str
    drop: Callable[[], None]


def make_room(place: Place, *, new: int) -> Room:
    """Drops what must be dropped for `new` more photos at most; says what they need and what there is.

    Raises:
        TrainerError: The bound or the disk leaves too little, whatever is dropped. Nothing was.
    """
    total = len(place.known) + new
    new_rows = max(0, new - place.free_rows)
    needed = new_rows * place.photo_bytes
    disk = shutil.disk_usage(place.cache)
    reserve = JOURNAL_BYTES + min(_LARGEST_RESERVE, disk.total // 50)
    used = used_bytes(place.cache) + JOURNAL_BYTES
    over_bound = used + needed - place.most_bytes
    over_disk = needed + reserve - disk.free if needed else 0
    lacking = max(0, over_bound, over_disk)
    droppable = _droppable(place) if lacking else []
    most = _freed(place, droppable, new_rows)
    if over_bound > most and (needed or total * place.photo_bytes + JOURNAL_BYTES > place.most_bytes):
        raise TrainerError(_no_bound(place, total=total, lacking=over_bound - most))
    if over_disk > most:
        raise TrainerError(
            f"the disk of the cache {place.cache} has {_size(disk.free)} free, and up to {_size(needed + reserve)} are "
            f"needed for {new:,} photos; make room there, or name another folder with --cache-dir"
        )
    enough = droppable if most >= lacking else []
    first = [item for count, item in enumerate(enough) if _freed(place, enough[:count], new_rows) < lacking]
    for item in first:
        item.drop()
    moved = _shrink(place, kept_rows=new)
    sentence = f"cache {place.own}: {total - new:,} of {total:,} files are in it"
    if new:
        bound = f", --cache-gib allows {_size(place.most_bytes)} in all" if place.most_bytes < UNBOUNDED else ""
        more = _size(new * place.photo_bytes)
        sentence += f"; the others need up to {more}, the disk has {_size(disk.free)} free{bound}"
    if first:
        sentence += f"; dropped to make room: {', '.join(item.words for item in first)}"
    return Room(sentence=sentence, moved=moved)


def _droppable(place: Place) -> list[_Droppable]:
    place.index.touch(place.known, used=place.now)
    found = [
        _Droppable(
            last_used=folder.last_used if folder.is_current else 0,
            size_bytes=folder.size_bytes,
            words=f"the folder {folder.path.name}",
            drop=partial(delete, folder.path),
        )
        for folder in folders(place.cache)
        if folder.path != place.own and not folder.in_use
    ]
    found += [
        _Droppable(
            last_used=used / 1e9,
            rows=count,
            words=f"{count:,} photos of an earlier run",
            drop=partial(evict, place.index, used),
        )
        for used, count in (uses(place.index) if place.alone else ())
        if used != place.now
    ]
    return sorted(found, key=lambda item: item.last_used)


def _freed(place: Place, dropped: Sequence[_Droppable], new_rows: int) -> int:
    """What dropping these frees: own rows are taken by new photos first, and by cutting the file then."""
    rows = sum(item.rows for item in dropped)
    taken = min(rows, new_rows) * place.photo_bytes + max(0, rows - new_rows) * place.rows.row_bytes
    return taken + sum(item.size_bytes for item in dropped)


def _shrink(place: Place, *, kept_rows: int) -> bool:
    """Where the bound was lowered: moves the last rows into free ones and cuts the file; `kept_rows` stay free.

    A row is written to its new place before the index says so: killed in between, the old one is still there.
    """
    over = math.ceil((used_bytes(place.cache) + JOURNAL_BYTES - place.most_bytes) / place.rows.row_bytes)
    surplus = min(place.free_rows - kept_rows, over)
    if surplus <= 0 or not place.alone:
        return False
    place.index.settle(None)
    file, size = place.rows.file, place.rows.row_bytes
    first_cut = place.rows.count() - surplus
    moved = moves(place.index, first_cut)
    for start in range(0, len(moved), _ROWS_MOVED_AT_ONCE):
        some = moved[start : start + _ROWS_MOVED_AT_ONCE]
        for _, old, new in some:
            os.pwrite(file, os.pread(file, size, old * size), new * size)
        move(place.index, some)
    place.rows.cut(cut(place.index, first_cut))
    place.index.compact()
    return True


def _no_bound(place: Place, *, total: int, lacking: int) -> str:
    allowed = f"--cache-gib {place.most_bytes / _GIB:g}"
    alone = total * place.photo_bytes + JOURNAL_BYTES
    enough = math.ceil((place.most_bytes + lacking) / _GIB * 10) / 10
    if alone > place.most_bytes:
        return (
            f"{total:,} photos need up to {_size(alone)} in the cache {place.cache}, and {allowed} allows "
            f"{_size(place.most_bytes)}; give --cache-gib {enough:g}"
        )
    return (
        f"{total:,} photos need up to {_size(alone)} in the cache {place.cache}, of which other runs use so much now "
        f"that {allowed} does not suffice; wait for them to end, or give --cache-gib {enough:g}"
    )


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{math.ceil(count / _MIB):,} MiB"
