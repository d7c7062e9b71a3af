"""A 64-bit picture of a photo's shape: near duplicates differ in few of the bits (Krawetz 2013, "Kind of like that").

Each bit says whether one of 8 × 8 neighbouring pairs of grey blocks (9 × 8 blocks in all) grows brighter to the right.
Two changes to the published hash, both for infra-red night frames. A bit is set from one grey level on, not from
any difference, so that sensor noise in black areas flips none. And a photo in which hardly any pair differs (lens cap,
fog, white-out) gets 0, "not to be compared", because all such photos would otherwise be one another's duplicates.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_ROWS, _COLUMNS = 8, 9
_LEAST_INFORMATIVE_PAIRS = 8
_LUMA = np.array([0.299, 0.587, 0.114])


def difference_hash(pixels: NDArray[np.uint8], *, pad_rgb: int | None = None) -> int:
    """The hash of a photo as an int below 2**64; 0 for a photo too flat to be compared.

    Args:
        pixels: RGB, uint8, shape [height, width, 3].
        pad_rgb: Colour 0xRRGGBB of letterbox bars to cut off first, so that bars do not make photos alike.
    """
    if pad_rgb is not None:
        pixels = _without_bars(pixels, pad_rgb)
    height, width, _ = pixels.shape
    if height < _ROWS or width < _COLUMNS:
        return 0
    strips, lefts, areas = _blocks(height, width)
    sums = np.empty((_ROWS, width, 3), np.uint32)
    for row, (top, bottom) in enumerate(strips):
        np.add.reduce(pixels[top:bottom], axis=0, dtype=np.uint32, out=sums[row])
    grey = (np.add.reduceat(sums, lefts, axis=1) * _LUMA).sum(axis=2) / areas
    steps = grey[:, 1:] - grey[:, :-1]
    if np.count_nonzero(np.abs(steps) >= 1) < _LEAST_INFORMATIVE_PAIRS:
        return 0
    bits = int.from_bytes(np.packbits(steps >= 1).tobytes(), "big")
    return bits or 1  # 0 is taken


@lru_cache(maxsize=16)
def _blocks(height: int, width: int) -> tuple[tuple[tuple[int, int], ...], NDArray[np.int64], NDArray[np.int64]]:
    """Top and bottom of each row of blocks, left of each column, and the blocks' areas, in pixels."""
    tops = np.arange(_ROWS + 1) * height // _ROWS
    lefts = np.arange(_COLUMNS + 1) * width // _COLUMNS
    return tuple(pairwise(tops.tolist())), lefts[:-1], np.outer(np.diff(tops), np.diff(lefts))


def _without_bars(pixels: NDArray[np.uint8], pad_rgb: int) -> NDArray[np.uint8]:
    pad = np.array([pad_rgb >> 16, pad_rgb >> 8 & 0xFF, pad_rgb & 0xFF], np.uint8)
    content = (pixels != pad).any(axis=2)
    rows, columns = np.flatnonzero(content.any(axis=1)), np.flatnonzero(content.any(axis=0))
    if not rows.size:
        return pixels[:0]
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
