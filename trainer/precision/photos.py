"""The photos of a finished run again: their classes, their parts, and the pixels that it saw, from the cache."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trapline.processors import thread_count
from trapline.v1.metadata_pb2 import ModelMetadata

from ..dataset.cache import PixelCache
from ..dataset.cache.folder import user_cache_folder
from ..dataset.photo import Photo
from ..dataset.scan import scan
from ..errors import UsageError
from ..progress import Progress, Report

_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class RunPhotos:
    """The photos that a run used.

    Attributes:
        photos: By path.
        parts: `train`, `val` or `test` of each.
        targets: Class of each, int64 [photos].
        cache: Their pixels.
    """

    photos: tuple[Photo, ...]
    parts: tuple[str, ...]
    targets: NDArray[np.int64]
    cache: PixelCache

    def positions(self, part: str) -> NDArray[np.int64]:
        """Positions of the photos of one part."""
        return np.flatnonzero(np.array(self.parts) == part)

    def batches(self, positions: Sequence[int] | NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Their pixels in order, uint8 [at most 16, height_px, width_px, 3] at a time."""
        for start in range(0, len(positions), _BATCH):
            yield self.cache.pixels([self.photos[index].cache_row for index in positions[start : start + _BATCH]])

    def calibration(self, most: int) -> NDArray[np.int64]:
        """Positions of training photos to calibrate with: at most `most`, and a quarter of them; classes alike.

        Always the same ones: which depends on the photos' bytes alone.
        """
        waiting = defaultdict(list)
        training = self.positions("train")
        for index in sorted(training, key=lambda index: self.photos[index].sha256):
            waiting[self.targets[index]].append(index)
        wanted = max(1, min(most, len(training) // 4))
        picked: list[int] = []
        while len(picked) < wanted:
            picked += [queue.pop() for _, queue in sorted(waiting.items()) if queue]
        return np.sort(np.array(picked[:wanted], dtype=np.int64))


@contextmanager
def run_photos(
    run: Path, metadata: ModelMetadata, *, data: Path, cache_dir: Path | None, cache_gib: float, report: Report
) -> Iterator[RunPhotos]:
    """The photos of the run in `run`.

    Args:
        run: The run folder.
        metadata: Of its model file.
        data: Where the photos are.
        cache_dir: Where their decoded pixels are, or will be; the user's cache folder where absent.
        cache_gib: Most that all of `cache_dir` may take.
        report: Where progress goes.

    Raises:
        UsageError: `data` is missing, or has other photos than the run.
        TrainerError: The cache has no room.
    """
    if not data.is_dir():
        raise UsageError(f"--data: there is no folder {data}; name the folder that the run's photos are in now")
    with PixelCache.open(
        user_cache_folder(cache_dir), metadata.preprocessing, most_bytes=int(cache_gib * 2**30)
    ) as cache:
        seen = scan(
            data,
            preprocessing=metadata.preprocessing,
            cache=cache,
            threads=thread_count("auto"),
            report=lambda done, total: report.progress(Progress(phase="scan", done=done, total=total)),
        )
        if seen.data_digest != metadata.data_digest:
            raise UsageError(f"--data: {data} has other photos than the run in {run}; name the folder that it saw")
        with (run / "split.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            parts = {row["path"]: row["part"] for row in csv.DictReader(file)}
        number = {label.id: index for index, label in enumerate(metadata.labels)}
        yield RunPhotos(
            photos=seen.photos,
            parts=tuple(parts[photo.path] for photo in seen.photos),
            targets=np.array([number[photo.label] for photo in seen.photos], dtype=np.int64),
            cache=cache,
        )
