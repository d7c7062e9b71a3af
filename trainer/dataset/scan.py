"""One pass over a data folder: each file read, hashed, verified by the scaled decode that training needs, cached.

What is in the cache is not decoded again, and not even read where the file is still the one that was read before. What
cannot be trained on is listed with a reason and the run goes on; what would make the result a lie (one photo under two
classes, an empty class) stops it.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from trapline.csv_rows import CsvRows
from trapline.preprocessing import MAX_PIXELS
from trapline.v1.metadata_pb2 import Preprocessing

from ..errors import DatasetError, TrainerError
from .cache import PixelCache
from .duplicates import without_duplicates
from .fingerprint import data_digest
from .layout import File, find_files, shown
from .photo import Photo, Rejected
from .reader import Reader

_FILES_IN_FLIGHT_PER_THREAD = 4
_FILES_IN_ONE_LOOKUP = 500

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What one pass found.

    Attributes:
        root: The data folder.
        labels: Class names, sorted; each has at least one photo outside `val/` and `test/`.
        photos: What can be trained on, sorted by path, no two with the same bytes.
        rejected: What cannot, sorted by path.
    """

    root: Path
    labels: tuple[str, ...]
    photos: tuple[Photo, ...]
    rejected: tuple[Rejected, ...]

    @property
    def data_digest(self) -> str:
        """SHA-256, in hex, over path and SHA-256 of every photo: the same photos under the same names, anywhere."""
        return data_digest({photo.path: photo.sha256 for photo in self.photos})


def scan(
    root: Path,
    *,
    preprocessing: Preprocessing,
    cache: PixelCache,
    threads: int,
    max_pixels: int = MAX_PIXELS,
    report: Callable[[int, int], None],
    say: Callable[[str], object] = lambda _: None,
) -> Scan:
    """Reads the data folder `root` once.

    Args:
        root: See `trainer.dataset.layout`.
        preprocessing: The rules that `cache` was opened with.
        cache: Where decoded pixels are looked up and stored.
        threads: Files read and decoded at the same time (Pillow and hashlib release the interpreter's lock).
        max_pixels: Largest width × height that is decoded.
        report: Called in this thread with (files done, files in all), first with 0 done.
        say: Told in a sentence, before anything is decoded, what room the cache needs and has.

    Raises:
        UsageError: `root` is missing or no folder.
        DatasetError: The folder's shape is wrong, a class has no photo left, or a photo lies under two classes.
        TrainerError: The cache has no room for the photos (nothing was decoded then), its disk is full, or there is too
            little memory to decode a photo.
        KeyboardInterrupt: Passed on when the photos being decoded are done; what is cached stays cached.
    """
    layout = find_files(root)
    reader = Reader(root, preprocessing=preprocessing, cache=cache, max_pixels=max_pixels)
    report(0, len(layout.files))
    outcomes = _lookups(reader, layout.files, threads=threads, report=report)
    known = [outcome.sha256 for outcome in outcomes if isinstance(outcome, Photo)]
    room = cache.make_room(known=known, new=outcomes.count(None))
    for sentence in (*cache.notes, room.sentence):
        say(sentence)
    if room.moved:
        outcomes = _lookups(reader, layout.files, threads=threads, report=report)
    try:
        examined = _examined(reader, layout.files, outcomes, threads=threads, report=report)
    finally:
        reader.remember()
    readable = [outcome for outcome in examined if isinstance(outcome, Photo)]
    if not cache.flush():
        readable = _placed(readable, cache)
    photos, repeated = without_duplicates(readable)
    rejected = [outcome for outcome in examined if isinstance(outcome, Rejected)]
    rejected += [*layout.rejected, *repeated]
    rejected.sort(key=lambda row: row.path)
    _check_not_empty(root, layout.labels, layout.parts, photos=photos, rejected=rejected)
    return Scan(root=root, labels=layout.labels, photos=tuple(photos), rejected=tuple(rejected))


def write_scan_csv(scan: Scan, path: Path) -> None:
    """Writes one row a file, sorted by path: `path,label,part,status,reason,sha256,camera,taken`.

    `status` is `ok` or one of `trainer.dataset.photo.Status`. UTF-8; file names that are no UTF-8 keep their bytes.
    """
    rows = [
        (photo.path, photo.label, photo.part, "ok", "", photo.sha256, photo.camera, photo.taken)
        for photo in scan.photos
    ]
    rows += [(row.path, row.label, row.part, row.status, row.reason, "", "", "") for row in scan.rejected]
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = CsvRows(file)
        writer.writerow(("path", "label", "part", "status", "reason", "sha256", "camera", "taken"))
        writer.writerows(sorted(rows))


def _lookups(
    reader: Reader, files: Sequence[File], *, threads: int, report: Callable[[int, int], None]
) -> list[Photo | Rejected | None]:
    """What the cache knows of each file, None where it must be examined."""
    outcomes: list[Photo | Rejected | None] = []
    known = 0

    def add(some: list[Photo | Rejected | None]) -> None:
        nonlocal known
        outcomes.extend(some)
        if any(some):
            known += sum(outcome is not None for outcome in some)
            report(known, len(files))

    starts = range(0, len(files), _FILES_IN_ONE_LOOKUP)
    chunks = (files[start : start + _FILES_IN_ONE_LOOKUP] for start in starts)
    _in_threads(reader.known, chunks, threads=threads, each=add)
    return outcomes


def _examined(
    reader: Reader,
    files: Sequence[File],
    outcomes: Sequence[Photo | Rejected | None],
    *,
    threads: int,
    report: Callable[[int, int], None],
) -> list[Photo | Rejected]:
    """`outcomes` with what examining the others told in the gaps."""
    unknown = [index for index, outcome in enumerate(outcomes) if outcome is None]
    found: list[Photo | Rejected] = []

    def add(outcome: Photo | Rejected) -> None:
        found.append(outcome)
        report(len(files) - len(unknown) + len(found), len(files))

    _in_threads(reader.examine, (files[index] for index in unknown), threads=threads, each=add)
    rest = iter(found)
    return [next(rest) if outcome is None else outcome for outcome in outcomes]


def _placed(photos: Sequence[Photo], cache: PixelCache) -> list[Photo]:
    """The photos with the rows that they lie in now."""
    found = cache.find([photo.sha256 for photo in photos])
    if any(photo.sha256 not in found for photo in photos):
        raise TrainerError(f"photos left the cache {cache.folder} while it was filled; run the same command again")
    return [replace(photo, cache_row=found[photo.sha256].row) for photo in photos]


def _in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, each: Callable[[Result], None]
) -> None:
    """Calls `each` with `work` of every item, in order; few wait, so that memory does not grow with the folder."""
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="scan")
    try:
        for item in items:
            if len(waiting) >= threads * _FILES_IN_FLIGHT_PER_THREAD:
                each(waiting.popleft().result())
            waiting.append(pool.submit(work, item))
        while waiting:
            each(waiting.popleft().result())
    finally:
        # On Ctrl-C or a full disk only the photos being decoded are waited for: they still use the cache.
        pool.shutdown(wait=True, cancel_futures=True)


def _check_not_empty(
    root: Path,
    labels: Iterable[str],
    parts: tuple[str, ...],
    *,
    photos: list[Photo],
    rejected: list[Rejected],
) -> None:
    """Every class needs a photo to train on, every given part at least one photo."""
    learnable = Counter(photo.label for photo in photos if photo.part == parts[0])
    for label in labels:
        if learnable[label]:
            continue
        lost = [row for row in rejected if row.label == label and row.part == parts[0]]
        why = f"; {len(lost)} left out, e.g. {shown(lost[0].path)}: {lost[0].reason}" if lost else ""
        raise DatasetError(
            f"{root}: the class {shown(label)} has no photo to train on{why}; add photos of it or remove its folder"
        )
    for part in parts[1:]:
        if not any(photo.part == part for photo in photos):
            raise DatasetError(f"{root}: {part}/ has no readable photo; add some, or remove {part}/")
