"""Near-duplicate photos that lie in two parts of a split: what is measured on them flatters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .near_duplicates import MAX_BITS, clusters
from .photo import Photo

# A photo of the first is compared with those of the second.
_PAIRS = (("test", "train"), ("test", "val"), ("val", "train"))


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A photo that nearly repeats one of another part.

    Attributes:
        path: Of the photo.
        part: Its part, `test` or `val`.
        other_path: The nearest photo of the other part.
        other_part: That part.
        distance: Bits in which their difference hashes differ, 0 to `near_duplicates.MAX_BITS`.
        same_group: Whether the rule that made the groups put both into one; else they are of other visits or sites.
    """

    path: str
    part: str
    other_path: str
    other_part: str
    distance: int
    same_group: bool


def straddling(photos: Sequence[Photo], parts: Mapping[str, str], groups: Mapping[str, str]) -> list[Duplicate]:
    """Each photo of `test` and `val` with a near duplicate in another part, beside the nearest one there.

    Test photos come first, in the order of `photos`. One that repeats photos of two other parts has two rows. A photo
    too flat to be compared (hash 0) repeats none.

    Args:
        photos: Of the whole data set.
        parts: Path -> part.
        groups: Path -> group.
    """
    hashes = np.array([photo.difference_hash for photo in photos], np.uint64)
    part = np.array([parts[photo.path] for photo in photos])
    cluster = clusters(hashes.tolist())
    crowded = np.flatnonzero(np.bincount(cluster, minlength=len(photos))[cluster] > 1)
    ordered = crowded[np.argsort(cluster[crowded], kind="stable")]
    clustered = np.split(ordered, np.flatnonzero(np.diff(cluster[ordered])) + 1)
    found = []
    for one, other in _PAIRS:
        rows = []
        for members in clustered:
            rows += _nearest(hashes, members[part[members] == one], members[part[members] == other])
        found += [
            Duplicate(
                path=photos[row].path,
                part=one,
                other_path=photos[nearest].path,
                other_part=other,
                distance=distance,
                same_group=groups[photos[row].path] == groups[photos[nearest].path],
            )
            for row, nearest, distance in sorted(rows)
        ]
    return found


def _nearest(
    hashes: NDArray[np.uint64], ones: NDArray[np.int64], others: NDArray[np.int64]
) -> list[tuple[int, int, int]]:
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
