import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.dataset.near_duplicates import MAX_BITS, clusters


def by_comparing_all(hashes):
    first = list(range(len(hashes)))
    for right, one in enumerate(hashes):
        for left, other in enumerate(hashes[:right]):
            if one and other and (one ^ other).bit_count() <= MAX_BITS:
                low, high = sorted((first[left], first[right]))
                first = [low if name == high else name for name in first]
    return first


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(0, 12))
def test_bands_miss_nothing(seed, count, flips):
    """Clusters are those of comparing every pair, chains and equal hashes included."""
    generator = np.random.default_rng(seed)
    hashes = [int(value) for value in generator.integers(0, 2**64, 4, np.uint64)] + [0, 0]
    while len(hashes) < count:
        value = hashes[generator.integers(len(hashes))]
        for bit in generator.integers(0, 64, flips).tolist():
            value ^= 1 << bit
        hashes.append(value)
    assert clusters(hashes).tolist() == by_comparing_all(hashes)


def test_flat_photos_are_alone():
    """Hashes of 0 join nobody, not even one another or a hash of one bit."""
    assert clusters([0, 1, 0, 3]).tolist() == [0, 1, 2, 1]


def test_no_photos_no_clusters():
    """An empty list is fine."""
    assert clusters([]).tolist() == []


def test_planted_clusters_are_found_among_many():
    """Among 20,000 random hashes exactly the planted bursts are joined."""
    generator = np.random.default_rng(1)
    hashes = generator.integers(1, 2**64, 20_000, np.uint64)
    expected = np.arange(20_000)
    for start in range(0, 5_000, 5):
        for member in range(start + 1, start + 5):
            flipped = sum(1 << int(bit) for bit in generator.choice(64, 2, replace=False))
            hashes[member] = hashes[start] ^ np.uint64(flipped)
        expected[start : start + 5] = start
    assert np.array_equal(clusters(hashes.tolist()), expected)


@pytest.mark.parametrize("alike_bits", [12, 24, 36])
def test_crowds_that_look_alike_are_clustered_the_same(alike_bits):
    """Thousands of hashes that share most bits, with chains and loners among them: as when every pair is compared."""
    generator = np.random.default_rng(alike_bits)
    free = np.uint64((1 << (64 - alike_bits)) - 1)
    hashes = (generator.integers(1, 2**64, 2400, np.uint64) & free) | np.uint64(5 << 40)
    for start in range(0, 1200, 3):
        hashes[start + 1] = hashes[start] ^ np.uint64(0b10011)
        hashes[start + 2] = hashes[start + 1] ^ np.uint64(0b1110001100)
    expected = first_by_matrix(hashes)
    assert np.array_equal(clusters(hashes.tolist()), expected)
    assert 1 < len(set(expected.tolist())) < 2400


def first_by_matrix(hashes):
    """The first member of each one's cluster, by all pairs."""
    near = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= MAX_BITS
    first = np.arange(len(hashes))
    while True:
        lowest = np.where(near, first[None, :], len(hashes)).min(axis=1)
        if np.array_equal(lowest, first):
            return first
        first = lowest


def test_skies_that_all_look_alike_cost_no_more_than_a_moment():
    """Of 100,000 hashes half share 16 bits: not every pair of these is compared."""
    generator = np.random.default_rng(0)
    hashes = generator.integers(1, 2**64, 100_000, np.uint64)
    hashes[::2] &= np.uint64(2**48 - 1)
    began = time.process_time()
    assert len(set(clusters(hashes.tolist()).tolist())) > 99_000
    assert time.process_time() - began < 5
