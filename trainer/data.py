"""What a run trains on: the scanned photos, their parts and groups, their pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .dataset.cache import PixelCache
from .dataset.scan import Scan
from .dataset.split import Split

if TYPE_CHECKING:
    from .recipe.part import Part


@dataclass(frozen=True, kw_only=True)
class Data:
    """Photos, parts, pixels; a position is an index into `scan.photos`.

    Attributes:
        scan: The photos.
        split: Their parts and groups.
        cache: Their pixels.
    """

    scan: Scan
    split: Split
    cache: PixelCache

    def positions(self, part: str) -> list[int]:
        """Positions of the photos of `train`, `val` or `test`."""
        return [index for index, photo in enumerate(self.scan.photos) if self.split.parts[photo.path] == part]

    def targets(self, positions: Sequence[int]) -> NDArray[np.int64]:
        """Class of each photo, int64 [n]."""
        index = {label: number for number, label in enumerate(self.scan.labels)}
        return np.array([index[self.scan.photos[position].label] for position in positions], dtype=np.int64)

    def groups(self, positions: Sequence[int]) -> NDArray[np.int64]:
        """Group of each photo, as a number, int64 [n]."""
        names = [self.split.groups[self.scan.photos[position].path] for position in positions]
        return np.unique(names, return_inverse=True)[1].astype(np.int64)

    def known_groups(self, positions: Sequence[int]) -> NDArray[np.int64] | None:
        """Likewise; None where no rule grouped them: each is a group then, but bursts may be among them."""
        return None if self.split.grouping == "none" else self.groups(positions)

    def pixels(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        """Uint8 [n, H, W, 3]."""
        return self.cache.pixels([self.scan.photos[position].cache_row for position in positions])

    def part(self, name: str) -> "Part":
        """The images of one part as the training loop takes them."""
        from .recipe.part import Part

        positions = self.positions(name)
        return Part(
            pixels=lambda batch: self.pixels([positions[index] for index in batch]),
            targets=self.targets(positions),
            names=[self.scan.photos[position].path for position in positions],
        )
