"""Clusters of photos that look nearly the same, by their difference hashes, in near-linear time.

Two hashes at most five bits apart agree wholly on at least one of six bands of bits (pigeonhole), so only hashes that
share a band are compared: about 20 million pairs, not 5 billion, for 100,000 photos. Where thousands share one (skies
and dark corners look alike in all photos), the same is done again with the bits outside that band.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Most bits in which near duplicates differ.
MAX_BITS = 5

_ALL_BITS = (1 << 64) - 1
_MANY = 1_000
_SHIFTS_BETWEEN = 64


def clusters(hashes: Sequence[int]) -> NDArray[np.int64]:
    """For each hash the index of the first hash of its cluster.

    Hashes at most `MAX_BITS` apart are in one cluster, and so are chains of them. A hash of 0 (see
    `difference_hash`) is like no other, not even like another 0.
    """
    values = np.array(hashes, np.uint64)
    unique, inverse = np.unique(values, return_inverse=True)
    root = np.arange(len(unique))
    _join_near(unique, np.flatnonzero(unique), _ALL_BITS, root)
    # Back from unique hashes to photos: a cluster is named by its first photo.
    cluster = root[inverse]
    first = np.full(len(unique), len(values))
    np.minimum.at(first, cluster, np.arange(len(values)))
    return np.where(values == 0, np.arange(len(values)), first[cluster])


def _join_near(values: NDArray[np.uint64], members: NDArray[np.int64], bits: int, root: NDArray[np.int64]) -> None:
    """Joins the near ones of `members`, which agree on all but `bits`: those that share a band are compared."""
    for band in _bands(bits):
        order, ends = _sorted_runs(values, members, band)
        begins = np.concatenate([[0], ends[:-1]])
        is_long = ends - begins > _MANY
        run_end = np.repeat(np.where(is_long, begins, ends), ends - begins)
        _join_neighbours(values[order], run_end, order, root)
        for begin, end in zip(begins[is_long].tolist(), ends[is_long].tolist(), strict=True):
            run, rest = order[begin:end], bits & ~band
            if _pair_count(values, run, rest) * 2 < len(run) ** 2 // 2:
                _join_near(values, run, rest, root)
            else:
                _join_crowd(values[run], run, root)


def _bands(bits: int) -> list[int]:
    """MAX_BITS + 1 masks of about the same size that together are `bits`."""
    positions = [position for position in range(64) if bits >> position & 1]
    parts = np.array_split(np.array(positions), MAX_BITS + 1)
    return [sum(1 << position for position in part.tolist()) for part in parts]


def _sorted_runs(
    values: NDArray[np.uint64], members: NDArray[np.int64], band: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The members, those with the same bits in `band` beside each other, and where each such run ends."""
    keys = values[members] & np.uint64(band)
    order = np.argsort(keys, kind="stable")
    changes = np.flatnonzero(np.diff(keys[order])) + 1
    return members[order], np.append(changes, len(members))


def _pair_count(values: NDArray[np.uint64], members: NDArray[np.int64], bits: int) -> int:
    """How many pairs share a band of `bits`."""
    runs = (np.diff(_sorted_runs(values, members, band)[1], prepend=0) for band in _bands(bits))
    return sum(int((lengths**2).sum() // 2) for lengths in runs)


def _join_neighbours(
    values: NDArray[np.uint64], run_end: NDArray[np.int64], place: NDArray[np.int64], root: NDArray[np.int64]
) -> None:
    """Joins near values within runs: each is compared with the next, then the one after it, ..."""
    left = np.arange(len(values))
    shift = 0
    while left.size:
        shift += 1
        left = left[left + shift < run_end[left]]
        near = left[np.bitwise_count(values[left] ^ values[left + shift]) <= MAX_BITS]
        _join_pairs(root, place[near], place[near + shift])


def _join_crowd(values: NDArray[np.uint64], place: NDArray[np.int64], root: NDArray[np.int64]) -> None:
    """Joins near values of many that are much alike: once most are one cluster, only the others are compared on."""
    for shift in range(1, len(values)):
        near = np.flatnonzero(np.bitwise_count(values[:-shift] ^ values[shift:]) <= MAX_BITS)
        _join_pairs(root, place[near], place[near + shift])
        if shift % _SHIFTS_BETWEEN == 0:
            names, counts = np.unique(root[place], return_counts=True)
            others = np.flatnonzero(root[place] != names[np.argmax(counts)])
            if 2 * len(others) < len(values) - shift:
                break
    else:
        return
    for other in others.tolist():
        near = np.flatnonzero(np.bitwise_count(values ^ values[other]) <= MAX_BITS)
        _join_pairs(root, place[near], np.broadcast_to(place[other], near.shape))


def _join_pairs(root: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
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
