import numpy as np
import pytest

from trainer.evaluate.intervals import LEAST_GROUPS, intervals, wilson_interval


def answers(random, *, groups, size, right_share, spread):
    """Answers of groups of photos that are right or wrong together: the share right differs from group to group."""
    alpha = right_share / spread, (1 - right_share) / spread
    shares = random.beta(*alpha, groups)
    counts = random.integers(1, 2 * size, groups)
    units = np.repeat(np.arange(groups), counts)
    right = random.random(len(units)) < shares[units]
    targets = random.integers(0, 2, len(units))
    return targets, np.where(right, targets, 1 - targets), units


@pytest.mark.parametrize(
    ("right", "count", "low", "high"), [(95, 100, 0.8882, 0.9785), (10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775)]
)
def test_wilson_interval_is_the_published_one(right, count, low, high):
    """Known values of the Wilson score interval."""
    assert wilson_interval(right, count) == pytest.approx([low, high], abs=5e-4)


def test_wilson_intervals_hold_the_truth_as_often_as_they_say():
    """Averaged over shares of 0.7 to 0.99 and 50 to 500 images, 93 to 97 % of the intervals hold the true share."""
    random = np.random.default_rng(0)
    known: dict[tuple[int, int], list[float]] = {}
    held = []
    for _ in range(4000):
        share, count = random.uniform(0.7, 0.99), int(random.integers(50, 501))
        right = int(random.binomial(count, share))
        low, high = known.setdefault((right, count), wilson_interval(right, count))
        held.append(low <= share <= high)
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("groups", [30, 60])
def test_group_intervals_hold_the_truth_as_often_as_they_say(groups):
    """With 30 groups and more that are right or wrong together, 91 to 98 % of the intervals hold the true share."""
    random = np.random.default_rng(groups)
    held, wilson_held = [], []
    for _ in range(400):
        targets, predicted, units = answers(random, groups=groups, size=8, right_share=0.85, spread=1.0)
        found = intervals(targets, predicted, units, label_count=2)
        assert found.method == "group_jackknife"
        low, high = found.accuracy
        held.append(low <= 0.85 <= high)
        low, high = wilson_interval(int((targets == predicted).sum()), len(targets))
        wilson_held.append(low <= 0.85 <= high)
    assert 0.91 <= np.mean(held) <= 0.98
    # What the groups are for: single images' interval holds the truth far more seldom.
    assert np.mean(wilson_held) < 0.85


def test_few_groups_have_no_interval_and_the_reason_is_told():
    """Photos in less than 30 groups get none; single photos get Wilson's, however few."""
    random = np.random.default_rng(1)
    targets, predicted, units = answers(random, groups=LEAST_GROUPS - 1, size=8, right_share=0.8, spread=0.5)
    few = intervals(targets, predicted, units, label_count=2)
    assert (few.method, few.accuracy, few.balanced_accuracy, few.macro_f1) == (None, None, None, None)
    assert "29 groups" in few.sentence
    single = intervals(targets[:20], predicted[:20], np.arange(20), label_count=2)
    assert single.method == "wilson"
    assert single.accuracy == wilson_interval(int((targets == predicted)[:20].sum()), 20)
    assert single.macro_f1 is None


def test_a_class_whose_photos_are_single_has_its_interval_in_grouped_sets():
    """Bursts of one class do not take the interval from a class without any."""
    targets = np.array([0] * 40 + [1] * 10)
    predicted = np.array([0] * 35 + [1] * 5 + [1] * 9 + [0])
    units = np.array([index // 4 for index in range(40)] + [10 + index for index in range(10)])
    found = intervals(targets, predicted, units, label_count=3)
    assert found.method is None
    assert found.recall == [None, wilson_interval(9, 10), None]
    assert found.precision[2] is None


def test_groups_widen_the_interval():
    """The same answers in groups of photos that are right together have a wider interval than single ones."""
    targets = np.zeros(400, np.int64)
    predicted = np.repeat(np.random.default_rng(3).random(40) < 0.2, 10).astype(np.int64)
    grouped = intervals(targets, predicted, np.repeat(np.arange(40), 10), label_count=2)
    single = intervals(targets, predicted, np.arange(400), label_count=2)
    widths = [found.accuracy[1] - found.accuracy[0] for found in (grouped, single)]
    assert widths[0] > 2 * widths[1]
    assert intervals(targets, predicted, np.repeat(np.arange(40), 10), label_count=2) == grouped


def test_a_perfect_score_has_a_width_and_a_class_in_one_group_is_no_crash():
    """All right in 40 groups: a group counts as one photo; each group half right: no less than single photos' width."""
    targets, units = np.repeat([0, 1], 200), np.repeat(np.arange(40), 10)
    perfect = intervals(targets, targets, units, label_count=2)
    assert perfect.accuracy == perfect.balanced_accuracy == perfect.macro_f1 == wilson_interval(40, 40)
    nothing = intervals(targets, 1 - targets, units, label_count=2)
    assert nothing.accuracy == wilson_interval(0, 40)
    alike = intervals(targets, np.resize([0, 1], 400), units, label_count=2)
    assert alike.accuracy == pytest.approx(wilson_interval(200, 400), abs=0.005)
    rare = np.where(units == 39, 2, targets)
    found = intervals(rare, np.where(units == 39, 0, targets), units, label_count=3)
    for figure, interval in ((0.975, found.accuracy), (2 / 3, found.balanced_accuracy)):
        assert interval[0] < figure < interval[1]
    assert found.recall[2] is None


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98, 0.998])
def test_an_interval_holds_its_own_figure_and_stays_within_0_and_1(share):
    """Whatever the answers: low <= figure <= high, and the ends are shares."""
    random = np.random.default_rng(11)
    for _ in range(20):
        targets, predicted, units = answers(random, groups=40, size=8, right_share=share, spread=1.0)
        found = intervals(targets, predicted, units, label_count=2)
        low, high = found.accuracy
        assert 0 <= low <= np.mean(targets == predicted) <= high <= 1
        assert high - low > 0
        for low, high in (found.balanced_accuracy, found.macro_f1):
            assert 0 <= low < high <= 1


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("groups", [30, 60])
def test_intervals_over_classes_hold_the_truth_as_often_as_they_say(groups):
    """Three classes, a group is of one of them: 91 to 98 % of the intervals of balanced accuracy hold the truth."""
    random, shares = np.random.default_rng(100 + groups), np.array([0.9, 0.8, 0.7])
    held = []
    for _ in range(400):
        label, sizes = random.integers(0, 3, groups), random.integers(1, 16, groups)
        share = random.beta(4 * shares[label], 4 * (1 - shares[label]))
        units = np.repeat(np.arange(groups), sizes)
        right = random.random(len(units)) < share[units]
        targets = label[units]
        predicted = np.where(right, targets, (targets + random.integers(1, 3, len(units))) % 3)
        low, high = intervals(targets, predicted, units, label_count=3).balanced_accuracy
        held.append(low <= 0.8 <= high)
    assert 0.91 <= np.mean(held) <= 0.98
