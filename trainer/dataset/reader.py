"""One file of a data folder at a time: what the cache knows of it already, or what reading and decoding it tells."""

import hashlib
import io
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from trapline.errors import ImageTooLarge, ImageUnreadable
from trapline.preprocessing import load_image_and_exif
from trapline.v1.metadata_pb2 import Preprocessing

from ..errors import TrainerError
from .cache import CachedPhoto, PixelCache
from .cache.hashes import file_key, is_settled
from .cache.index import Facts
from .difference_hash import difference_hash
from .layout import File, shown
from .photo import Photo, Rejected, Status

#: Files above this are refused unread: no format needs more for `MAX_PIXELS`, and a pool of readers must fit in memory.
MAX_FILE_BYTES = 1 << 30

_REMEMBERED_AT_ONCE = 256


class Reader:
    """Reads the files of one data folder, from many threads."""

    def __init__(self, root: Path, *, preprocessing: Preprocessing, cache: PixelCache, max_pixels: int) -> None:
        self._root = root
        self._preprocessing = preprocessing
        self._cache = cache
        self._max_pixels = max_pixels
        self._lock = threading.Lock()
        self._hashes: dict[bytes, str] = {}

    def known(self, files: Sequence[File]) -> list[Photo | Rejected | None]:
        """What is known of each file without opening it; None for a file that must be examined."""
        keys = [self._key(file) for file in files]
        sha256_of = self._cache.hashes.find([key for key in keys if key])
        sha256s = [sha256_of.get(key, "") for key in keys]
        wanted = [sha256 for sha256 in sha256s if sha256]
        cached = self._cache.find(wanted)
        missing = [sha256 for sha256 in wanted if sha256 not in cached]
        failures = self._cache.failures(missing)
        outcomes: list[Photo | Rejected | None] = []
        for file, sha256 in zip(files, sha256s, strict=True):
            if sha256 in failures:
                outcomes.append(_rejected(file, "unreadable", failures[sha256]))
            elif sha256 in cached and self._is_allowed(cached[sha256]):
                outcomes.append(_photo(file, sha256, cached[sha256]))
            else:
                outcomes.append(None)
        return outcomes

    def examine(self, file: File) -> Photo | Rejected:
        """The photo in `file`, its pixels cached, or why it is none.

        Raises:
            TrainerError: There is too little memory to decode it: that says nothing of the photo, and a run without it
                would be one of other photos.
        """
        try:
            sha256, cached = self._read(f"{self._root}/{file.path}")
        except ImageTooLarge as error:
            return _rejected(file, "too_large", str(error))
        except ImageUnreadable as error:
            return _rejected(file, "unreadable", str(error))
        except MemoryError as error:
            advice = "free some, or leave the photo out, and run the same command again"
            raise TrainerError(f"there is not enough memory to decode {shown(file.path)}; {advice}") from error
        return _photo(file, sha256, cached)

    def remember(self) -> None:
        """Writes down which files were read, so that the next run need not."""
        with self._lock:
            hashes, self._hashes = self._hashes, {}
        self._cache.hashes.put(hashes)

    def _key(self, file: File) -> bytes:
        try:
            return file_key(os.stat(f"{self._root}/{file.path}"))  # noqa: PTH116  # of 100,000 files: Path doubles it
        except OSError:
            return b""

    def _is_allowed(self, cached: CachedPhoto) -> bool:
        """Whether no lower limit than now held when it was decoded: a photo must not slip through a lower one."""
        return cached.facts.max_pixels <= self._max_pixels

    def _read(self, path: str) -> tuple[str, CachedPhoto]:
        now = time.time_ns()
        try:
            with io.FileIO(path) as file:
                facts = os.fstat(file.fileno())
                if facts.st_size > MAX_FILE_BYTES:
                    size = f"{facts.st_size:,}"
                    raise ImageTooLarge(f"the file has {size} bytes, the limit is {MAX_FILE_BYTES:,}; leave it out")
                data = file.readall()
        except OSError as error:
            raise ImageUnreadable(f"the file cannot be read ({error.strerror})") from error
        sha256 = hashlib.sha256(data).hexdigest()
        if len(data) == facts.st_size and is_settled(facts, now):
            with self._lock:
                self._hashes[file_key(facts)] = sha256
            if len(self._hashes) >= _REMEMBERED_AT_ONCE:
                self.remember()
        cached = self._cache.find([sha256]).get(sha256)
        if cached is not None and self._is_allowed(cached):
            return sha256, cached
        failure = self._cache.failures([sha256]).get(sha256)
        if failure is not None:
            raise ImageUnreadable(failure)
        return sha256, self._decode(data, sha256)

    def _decode(self, data: bytes, sha256: str) -> CachedPhoto:
        try:
            pixels, exif = load_image_and_exif(data, self._preprocessing, max_pixels=self._max_pixels)
        except ImageUnreadable as error:
            self._cache.put_failure(sha256, str(error))
            raise
        letterboxed = self._preprocessing.fit == Preprocessing.FIT_LETTERBOX
        facts = Facts(
            camera=exif.camera,
            taken=exif.taken,
            difference_hash=difference_hash(pixels, pad_rgb=self._preprocessing.pad_rgb if letterboxed else None),
            max_pixels=self._max_pixels,
        )
        return CachedPhoto(row=self._cache.put(sha256, pixels, facts), facts=facts)


def _photo(file: File, sha256: str, cached: CachedPhoto) -> Photo:
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


def _rejected(file: File, status: Status, reason: str) -> Rejected:
    return Rejected(path=file.path, label=file.label, part=file.part, status=status, reason=reason)
