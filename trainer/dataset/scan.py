"""One pass over a data folder: each file read, hashed, verified by the scaled decode that training needs, cached.

A file whose bytes are in the cache is read and hashed only. What cannot be trained on is listed with a reason and the
run goes on; what would make the result a lie (one photo under two classes, an empty class) stops it.
"""

import csv
import hashlib
import io
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from trapline.errors import ImageTooLarge, ImageUnreadable
from trapline.formats import IMAGE_FORMATS
from trapline.preprocessing import MAX_PIXELS, load_image_and_exif
from trapline.v1.metadata_pb2 import Preprocessing

from ..errors import DatasetError
from .cache import CachedPhoto, Facts, PixelCache
from .difference_hash import difference_hash
from .duplicates import without_duplicates
from .fingerprint import data_digest
from .layout import File, find_files, shown
from .photo import Photo, Rejected, Status

#: Files above this are refused unread: no format needs more for `MAX_PIXELS`, and a pool of readers must fit in memory.
MAX_FILE_BYTES = 1 << 30

_FILES_IN_FLIGHT_PER_THREAD = 4
# Pillow opens an MPO as a JPEG and has no opener of that name.
_OPENED_FORMATS = tuple(name for name in IMAGE_FORMATS if name != "MPO")


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
) -> Scan:
    """Reads the data folder `root` once.

    Args:
        root: See `trainer.dataset.layout`.
        preprocessing: The rules that `cache` was opened with.
        cache: Where decoded pixels are looked up and stored.
        threads: Files read and decoded at the same time (Pillow and hashlib release the interpreter's lock).
        max_pixels: Largest width × height that is decoded.
        report: Called in this thread with (files done, files in all), first with 0 done.

    Raises:
        UsageError: `root` is missing or no folder.
        DatasetError: The folder's shape is wrong, a class has no photo left, or a photo lies under two classes.
        TrainerError: The cache's disk is full.
        KeyboardInterrupt: Passed on when the photos being decoded are done; what is cached stays cached.
    """
    layout = find_files(root)
    reader = _Reader(root=root, preprocessing=preprocessing, cache=cache, max_pixels=max_pixels)
    outcomes = _in_threads(reader.examine, layout.files, threads=threads, report=report)
    readable = [outcome for outcome in outcomes if isinstance(outcome, Photo)]
    photos, repeated = without_duplicates(readable)
    rejected = [outcome for outcome in outcomes if isinstance(outcome, Rejected)]
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
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "part", "status", "reason", "sha256", "camera", "taken"))
        writer.writerows(sorted(rows))


@dataclass(frozen=True, kw_only=True)
class _Reader:
    root: Path
    preprocessing: Preprocessing
    cache: PixelCache
    max_pixels: int

    def examine(self, file: File) -> Photo | Rejected:
        """The photo in `file`, its pixels cached, or why it is none."""
        try:
            sha256, cached = self._read(self.root / file.path)
        except ImageTooLarge as error:
            return _rejected(file, "too_large", str(error))
        except ImageUnreadable as error:
            return _rejected(file, "unreadable", str(error))
        except MemoryError:
            return _rejected(file, "too_large", "there is not enough memory to decode it")
        return Photo(
            path=file.path,
            label=file.label,
            part=file.part,
            sha256=sha256,
            camera=cached.facts.camera,
            taken=cached.facts.taken,
            difference_hash=cached.facts.difference_hash,
            cache_row=cached.row,
        )

    def _read(self, path: Path) -> tuple[str, CachedPhoto]:
        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise ImageTooLarge(f"the file has {size:,} bytes, the limit is {MAX_FILE_BYTES:,}; leave it out")
            data = path.read_bytes()
        except OSError as error:
            raise ImageUnreadable(f"the file cannot be read ({error.strerror})") from error
        sha256 = hashlib.sha256(data).hexdigest()
        cached = self.cache.find([sha256]).get(sha256)
        # Decoded before under a higher limit, the photo must not slip through a lower one.
        if cached is not None and cached.facts.width_px * cached.facts.height_px <= self.max_pixels:
            return sha256, cached
        failure = self.cache.failures([sha256]).get(sha256)
        if failure is not None:
            raise ImageUnreadable(failure)
        return sha256, self._decode(data, sha256)

    def _decode(self, data: bytes, sha256: str) -> CachedPhoto:
        try:
            pixels, exif = load_image_and_exif(data, self.preprocessing, max_pixels=self.max_pixels)
        except ImageUnreadable as error:
            self.cache.put_failure(sha256, str(error))
            raise
        with Image.open(io.BytesIO(data), formats=_OPENED_FORMATS) as header:
            width_px, height_px = header.size
        letterboxed = self.preprocessing.fit == Preprocessing.FIT_LETTERBOX
        facts = Facts(
            camera=exif.camera,
            taken=exif.taken,
            difference_hash=difference_hash(pixels, pad_rgb=self.preprocessing.pad_rgb if letterboxed else None),
            width_px=width_px,
            height_px=height_px,
        )
        return CachedPhoto(row=self.cache.put(sha256, pixels, facts), facts=facts)


def _rejected(file: File, status: Status, reason: str) -> Rejected:
    return Rejected(path=file.path, label=file.label, part=file.part, status=status, reason=reason)


def _in_threads(
    examine: Callable[[File], Photo | Rejected],
    files: tuple[File, ...],
    *,
    threads: int,
    report: Callable[[int, int], None],
) -> list[Photo | Rejected]:
    """`examine` of every file, in their order, with so few waiting that memory does not grow with the folder."""
    outcomes: list[Photo | Rejected] = []
    waiting: deque[Future[Photo | Rejected]] = deque()
    report(0, len(files))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="scan")
    try:
        for file in files:
            if len(waiting) >= threads * _FILES_IN_FLIGHT_PER_THREAD:
                outcomes.append(waiting.popleft().result())
                report(len(outcomes), len(files))
            waiting.append(pool.submit(examine, file))
        while waiting:
            outcomes.append(waiting.popleft().result())
            report(len(outcomes), len(files))
    finally:
        # On Ctrl-C or a full disk only the photos being decoded are waited for: they still use the cache.
        pool.shutdown(wait=True, cancel_futures=True)
    return outcomes


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
