"""Errors of means, paired differences and McNemar's test, against scipy, hand-worked cases and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from trainer.evaluate.paired import difference, estimate, exact_mcnemar, holm, joined, mcnemar


def singles(count):
    return np.arange(count)


@pytest.mark.parametrize(("right", "count"), [(0, 12), (1, 30), (45, 50), (50, 50), (181, 240)])
def test_of_single_photos_the_interval_is_wilsons(right, count):
    """One repeat of photos that are each a group of their own: scipy's Wilson interval, to 1e-9."""
    values = np.array([1.0] * right + [0.0] * (count - right))[None]
    got = estimate(values, singles(count)).share_interval
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert got == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_standard_error_by_hand():
    """Four photos in two groups, two repeats: worked by hand from the sums over groups and the repeats' means."""
    values = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    got = estimate(values, np.array([7, 7, 9, 9]))
    # Photo means 1, 0.5, 0, 0, mean 0.375: sums over groups 0.75 and -0.75; repeats' means 0.5 and 0.25.
    by_photo = (0.75**2 + 0.75**2) * 2 / 1 / 16
    by_repeat = (0.125**2 + 0.125**2) / 1 / 2
    # What is left sums to 0.25 and -0.25 in the groups of the first repeat, and to the opposite in the second.
    left = 4 * 0.25**2 / 1 * 2 / 1 / 16 / 2
    variance = by_photo + by_repeat - left
    assert got.value == pytest.approx(0.375)
    assert got.standard_error == pytest.approx(math.sqrt(variance))
    assert got.degrees == pytest.approx(variance**2 / (by_photo**2 + by_repeat**2 + left**2))


def test_photos_of_one_burst_count_as_few():
    """Ten bursts of ten photos that are right or wrong together give the interval of ten photos, not of a hundred."""
    groups = np.repeat(np.arange(10), 10)
    values = np.repeat([1.0] * 7 + [0.0] * 3, 10)[None]
    low, high = estimate(values, groups).share_interval
    ten = stats.binomtest(7, 10).proportion_ci(method="wilson")
    assert high - low >= 0.95 * (ten.high - ten.low)
    assert estimate(np.ones((3, 100)), groups).share_interval[0] == pytest.approx(
        stats.binomtest(10, 10).proportion_ci(method="wilson").low
    )


def test_one_group_alone_has_no_interval():
    """Nothing can be said of other groups from one: None, and no number that is none."""
    got = estimate(np.array([[1.0, 0.0, 1.0]]), np.zeros(3, int))
    assert got.interval is None
    assert got.share_interval is None
    assert got.worth == 1


@pytest.mark.parametrize(
    ("group_size", "spread", "alike"), [(1, 0.0, 4), (1, 0.0, 0.5), (1, 0.03, 0.5), (5, 0.03, 4), (5, 0.0, 0.5)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(group_size, spread, alike):
    """Of 600 simulated studies, with bursts and repeats that differ, 92 to 99 of 100 intervals hold the truth."""
    chance = np.random.default_rng(5)
    repeats, photos, mean, inside = 3, 120, 0.85, 0
    groups = np.repeat(np.arange(photos // group_size), group_size)
    for _ in range(600):
        # How easy each group of photos is (the less `alike`, the surer right or wrong), how good each repeat is.
        ease = chance.beta(mean * alike, (1 - mean) * alike, groups.max() + 1)[groups]
        skill = chance.normal(0, spread, (repeats, 1))
        values = (chance.random((repeats, photos)) < np.clip(ease + skill, 0, 1)).astype(float)
        low, high = estimate(values, groups).share_interval
        inside += low <= mean <= high
    assert 0.92 <= inside / 600 <= 0.99


def test_a_difference_is_bonett_and_prices():
    """Of single photos it is theirs, with Student's t of the real ones: worked by hand for 5 against 1 of 60."""
    first, second = np.zeros(60, bool), np.zeros(60, bool)
    first[:1], second[1:6] = True, True
    first[10:40] = second[10:40] = True
    share = (6 - 2) / 62
    error = math.sqrt((6 + 2) / 62 - share**2) / math.sqrt(61)
    got = difference(first, second, singles(60))
    half = stats.t.ppf(0.975, 59) * error
    assert got.value == pytest.approx(share)
    assert got.interval == pytest.approx((share - half, share + half), abs=1e-9)


def test_groups_that_all_agree_leave_as_much_open_as_they_can():
    """Thirty bursts of ten without a difference leave room for bursts that have one: as thirty photos would."""
    same = np.zeros(300, bool)
    got = difference(same, same, np.repeat(singles(30), 10))
    assert got.value == 0
    assert got.interval == pytest.approx(difference(same[:30], same[:30], singles(30)).interval, abs=0.002)


@pytest.mark.parametrize("share", [0.01, 0.03, 0.1, 0.3])
@pytest.mark.parametrize(("group_count", "group_size"), [(30, 5), (100, 4), (60, 1)])
def test_intervals_of_differences_hold_the_truth(group_count, group_size, share):
    """Where few bursts or many differ, all photos of one alike, at least 92 of 100 intervals hold the truth."""
    chance = np.random.default_rng(11)
    groups, inside = np.repeat(singles(group_count), group_size), 0
    for _ in range(1000):
        kind = chance.choice(3, group_count, p=[1 - share, 0.75 * share, 0.25 * share])[groups]
        low, high = difference(kind == 2, kind == 1, groups).interval
        inside += low <= 0.5 * share <= high
    assert inside / 1000 >= 0.92


def test_made_up_photos_are_no_groups_of_their_own():
    """One site alone says nothing of others, and two sites leave one degree of freedom."""
    first, second = np.zeros(100, bool), np.ones(100, bool)
    first[:50] = True
    assert difference(first, second, np.zeros(100, int)).interval is None
    assert difference(first, second, np.repeat([3, 5], 50)).degrees == 1


@pytest.mark.parametrize(("first", "second"), [(0, 5), (3, 9), (12, 12), (0, 0), (7, 17), (24, 0)])
def test_few_discordant_photos_are_tested_exactly(first, second):
    """Below 25 photos that one alone has right, McNemar's p is the two-sided binomial test's."""
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    p, test = mcnemar(first, second)
    assert test == "exact"
    assert p == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("first", "second"), [(5, 20), (30, 30), (121, 59)])
def test_many_discordant_photos_are_tested_by_chi_square(first, second):
    """From 25 on it is the chi-square with a continuity correction; 121 against 59 is McNemar's textbook case."""
    p, test = mcnemar(first, second)
    assert test == "chi_square"
    square = max(0, abs(first - second) - 1) ** 2 / (first + second)
    assert p == pytest.approx(stats.chi2.sf(square, 1), abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 1), (5, 20), (30, 30), (121, 59), (2000, 1900)])
def test_the_exact_test_takes_any_counts(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert exact_mcnemar(first, second) == pytest.approx(expected, rel=1e-6)


def test_holm_by_hand():
    """Of 0.01, 0.04, 0.03, 0.005 the corrected values are those of Holm's steps, never falling, never above 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]


@pytest.mark.parametrize(
    ("groupings", "expected"),
    [
        ([[0, 0, 1, 2], [0, 1, 1, 2]], [0, 0, 0, 1]),
        ([[0, 1, 2, 3], [0, 0, 1, 1]], [0, 0, 1, 1]),
        ([[1, 0, 1, 0]], [0, 1, 0, 1]),
        ([[0, 1, 1, 2, 2, 3], [0, 0, 1, 1, 2, 2]], [0] * 6),
    ],
    ids=["crossed", "nested", "alone", "chain"],
)
def test_groups_of_several_groupings_are_joined(groupings, expected):
    """What any of them puts together is together, and nothing else is."""
    assert joined([np.array(grouping) for grouping in groupings]).tolist() == expected
