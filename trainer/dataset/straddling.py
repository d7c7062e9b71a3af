"""Near-duplicate photos that lie in two parts of a split: what is measured on them flatters.

Groups are made from difference hashes at most 5 bits apart, and those never straddle what Trapline cuts. A copy that
somebody put into a given part may have been made smaller, brighter and cropped, so between given parts hashes up to 12
bits apart count, too, where the photos' pixels agree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .near_duplicates import MAX_BITS, clusters
from .photo import Photo

# A photo of the first is compared with those of the second.
_PAIRS = (("test", "train"), ("test", "val"), ("val", "train"))
# Between given parts: most bits, nearest photos compared, least correlation of grey thumbnails of so many cells a side.
_MOST_BITS, _MOST_COMPARED, _LEAST_CORRELATION, _CELLS = 12, 8, 0.95, 28
# Shares of each edge that one of two photos may lack, and the least correlation then: a copy cut alike has 0.99,
# two night photos that are dark above and light below may have 0.96.
_CUTS, _LEAST_CORRELATION_CUT = (0.01, 0.02, 0.03), 0.98

Row = tuple[int, int, int]
Pixels = Callable[[Sequence[int]], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A photo that nearly repeats one of another part.

    Attributes:
        path: Of the photo.
        part: Its part, `test` or `val`.
        other_path: The nearest photo of the other part.
        other_part: That part.
        distance: Bits in which their difference hashes differ: at most 5, or 12 where `given`.
        same_group: Whether the rule that made the groups put both into one; else they are of other visits or sites.
        given: Whether the data folder has them in different parts, whatever part they were cut into.
    """

    path: str
    part: str
    other_path: str
    other_part: str
    distance: int
    same_group: bool
    given: bool


def straddling(
    photos: Sequence[Photo], parts: Mapping[str, str], groups: Mapping[str, str], *, pixels: Pixels
) -> list[Duplicate]:
    """Each photo of `test` and `val` with a near duplicate in another part, beside the nearest one there.

    Test photos come first, in the order of `photos`. One that repeats photos of two other parts has two rows. A photo
    too flat to be compared (hash 0) repeats none.

    Args:
        photos: Of the whole data set.
        parts: Path -> part.
        groups: Path -> group.
        pixels: Gives uint8 [n, H, W, 3] of some of `photos`, by index.
    """
    hashes = np.array([photo.difference_hash for photo in photos], np.uint64)
    part = np.array([parts[photo.path] for photo in photos])
    given = np.array([photo.part for photo in photos])
    near = _clustered(hashes)
    found = []
    for one, other in _PAIRS:
        rows: list[Row] = []
        for members in near:
            rows += _nearest(hashes, members[part[members] == one], members[part[members] == other])
        left = np.setdiff1d(np.flatnonzero((part == one) & (hashes > 0)), [row[0] for row in rows])
        others = np.flatnonzero((part == other) & (hashes > 0))
        # A part has the photos of one given folder: its own, or train/ where it was cut from that.
        if len(left) and len(others) and given[left[0]] != given[others[0]]:
            rows += _alike(hashes, left, others, pixels)
        found += [
            Duplicate(
                path=photos[row].path,
                part=one,
                other_path=photos[nearest].path,
                other_part=other,
                distance=distance,
                same_group=groups[photos[row].path] == groups[photos[nearest].path],
                given=photos[row].part != photos[nearest].part,
            )
            for row, nearest, distance in sorted(rows)
        ]
    return found


def _clustered(hashes: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """The members of each cluster of several photos."""
    cluster = clusters(hashes.tolist())
    crowded = np.flatnonzero(np.bincount(cluster, minlength=len(hashes))[cluster] > 1)
    ordered = crowded[np.argsort(cluster[crowded], kind="stable")]
    return np.split(ordered, np.flatnonzero(np.diff(cluster[ordered])) + 1)


def _nearest(hashes: NDArray[np.uint64], ones: NDArray[np.int64], others: NDArray[np.int64]) -> list[Row]:
    """Each of `ones` near one of `others`, with the nearest and the distance."""
    if not len(others):
        return []
    rows = []
    for one in ones.tolist():
        distances = np.bitwise_count(hashes[others] ^ hashes[one])
        best = int(distances.argmin())
        if distances[best] <= MAX_BITS:
            rows.append((one, int(others[best]), int(distances[best])))
    return rows


def _alike(hashes: NDArray[np.uint64], ones: NDArray[np.int64], others: NDArray[np.int64], pixels: Pixels) -> list[Row]:
    """Each of `ones` whose pixels agree with those of one of the `others` that are not much farther than near."""
    rows = []
    for one in ones.tolist():
        distances = np.bitwise_count(hashes[others] ^ hashes[one])
        nearest = np.argsort(distances, kind="stable")[:_MOST_COMPARED]
        nearest = nearest[distances[nearest] <= _MOST_BITS]
        if len(nearest):
            own, *rest = pixels([one, *others[nearest].tolist()])
            surplus = [_surplus(own, other) for other in rest]
            best = int(np.argmax(surplus))
            if surplus[best] >= 0:
                rows.append((one, int(others[nearest[best]]), int(distances[nearest[best]])))
    return rows


def _surplus(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """By how much two photos agree more than it takes, whole or with the edges of one of them cut off.

    Whole alone, a facade or a fence is unlike its own copy that shows 1 % less: the bars slide out of their cells.
    """
    whole = _thumbnail(one, 0) @ _thumbnail(other, 0)
    pairs = [
        (_thumbnail(longer, cut), _thumbnail(shorter, 0))
        for longer, shorter in ((one, other), (other, one))
        for cut in _CUTS
    ]
    return max(float(whole) - _LEAST_CORRELATION, *(float(a @ b) - _LEAST_CORRELATION_CUT for a, b in pairs))


def _thumbnail(pixels: NDArray[np.uint8], cut: float) -> NDArray[np.float32]:
    """A photo without a share of each edge in grey and small, with mean 0 and length 1: float32 [cells]."""
    height, width, _ = pixels.shape
    box = (cut * width, cut * height, (1 - cut) * width, (1 - cut) * height)
    image = Image.fromarray(pixels).convert("L").resize((_CELLS, _CELLS), Image.Resampling.BOX, box=box)
    cells = np.asarray(image, np.float32).ravel()
    cells -= cells.mean()
    result: NDArray[np.float32] = cells / max(float(np.linalg.norm(cells)), 1e-6)
    return result
