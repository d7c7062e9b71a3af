"""The photos of a finished run again: their classes, their parts, and the pixels that it saw, from the cache."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trapline.v1.metadata_pb2 import ModelMetadata

from ..dataset.cache import PixelCache
from ..dataset.photo import Photo
from ..progress import Report
from ..run_data import run_data

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
    with run_data(run, metadata, data=data, cache_dir=cache_dir, cache_gib=cache_gib, report=report) as found:
        number = {label.id: index for index, label in enumerate(metadata.labels)}
        yield RunPhotos(
            photos=found.scan.photos,
            parts=tuple(found.split.parts[photo.path] for photo in found.scan.photos),
            targets=np.array([number[photo.label] for photo in found.scan.photos], dtype=np.int64),
            cache=found.cache,
        )
