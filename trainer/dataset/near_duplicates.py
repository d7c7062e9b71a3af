"""Clusters of photos that look nearly the same, by their difference hashes, in near-linear time.

Two hashes at most five bits apart agree wholly on at least one of six bands of bits (pigeonhole), so only hashes that
share a band are compared: about 20 million pairs, not 5 billion, for 100,000 photos.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Most bits in which near duplicates differ.
MAX_BITS = 5

# (lowest bit, count of bits): MAX_BITS + 1 bands that cover the 64 bits.
_BANDS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))


def clusters(hashes: Sequence[int]) -> NDArray[np.int64]:
    """For each hash the index of the first hash of its cluster.

    Hashes at most `MAX_BITS` apart are in one cluster, and so are chains of them. A hash of 0 (see
    `difference_hash`) is like no other, not even like another 0.
    """
    values = np.array(hashes, np.uint64)
    unique, inverse = np.unique(values, return_inverse=True)
    root = np.arange(len(unique))
    comparable = np.flatnonzero(unique)
    for low, count in _BANDS:
        band = unique[comparable] >> np.uint64(low) & np.uint64((1 << count) - 1)
        order = comparable[np.argsort(band, kind="stable")]
        _join_neighbours(unique[order], np.sort(band), order, root)
    # Back from unique hashes to photos: a cluster is named by its first photo.
    cluster = root[inverse]
    first = np.full(len(unique), len(values))
    np.minimum.at(first, cluster, np.arange(len(values)))
    return np.where(values == 0, np.arange(len(values)), first[cluster])


def _join_neighbours(
    values: NDArray[np.uint64], band: NDArray[np.uint64], place: NDArray[np.int64], root: NDArray[np.int64]
) -> None:
    """Joins near values within each run of equal `band`: each is compared with the next, then the one after it, ..."""
    run_end = np.searchsorted(band, band, side="right")
    left = np.arange(len(values))
    shift = 0
    while left.size:
        shift += 1
        left = left[left + shift < run_end[left]]
        near = left[np.bitwise_count(values[left] ^ values[left + shift]) <= MAX_BITS]
        first, second = place[near], place[near + shift]
        apart = root[first] != root[second]
        if apart.any():
            for one, other in zip(first[apart].tolist(), second[apart].tolist(), strict=True):
                _join(root, one, other)
            _flatten(root)


def _join(root: NDArray[np.int64], one: int, other: int) -> None:
    while root[one] != one:
        one = int(root[one])
    while root[other] != other:
        other = int(root[other])
    root[max(one, other)] = min(one, other)


def _flatten(root: NDArray[np.int64]) -> None:
    """Lets every member point straight at its cluster's root."""
    while True:
        above = root[root]
        if np.array_equal(above, root):
            return
        root[:] = above
