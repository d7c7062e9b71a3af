import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluate.interpret import best_and_worst, sample_over_classes, top_losses


def answers(seed, *, count=60, labels=4):
    chance = np.random.default_rng(seed)
    # Few distinct rows, so that ties are common.
    rows = chance.dirichlet(np.ones(labels), 7).astype(np.float32)
    return rows[chance.integers(0, len(rows), count)], chance.integers(0, labels, count)


@pytest.mark.parametrize("seed", range(20))
def test_top_losses_are_the_largest_and_ties_keep_their_order(seed):
    """Rows come by loss, largest first, equal ones by row; the same as sorting all of them by hand."""
    probabilities, targets = answers(seed)
    losses = [-np.log(np.float64(probabilities[row, label])) for row, label in enumerate(targets)]
    by_hand = sorted(range(len(targets)), key=lambda row: (-losses[row], row))
    assert top_losses(probabilities, targets, count=15) == by_hand[:15]
    assert top_losses(probabilities, targets, count=1000) == by_hand


def test_a_probability_of_zero_is_the_largest_loss():
    """What the network called impossible comes first, and nothing is divided by zero."""
    probabilities = np.array([[0.5, 0.5], [0.0, 1.0], [0.9, 0.1]], dtype=np.float32)
    assert top_losses(probabilities, np.array([0, 0, 0]), count=2) == [1, 0]


@pytest.mark.parametrize("seed", range(20))
def test_best_are_right_and_surest_worst_are_the_least_likely(seed):
    """Of each class: the best are right, by falling probability; the worst are of the class, by rising probability."""
    probabilities, targets = answers(seed)
    for label in range(4):
        best, worst = best_and_worst(probabilities, targets, label=label, count=10)
        members = [row for row in range(len(targets)) if targets[row] == label]
        right = [row for row in members if probabilities[row].argmax() == label]
        score = probabilities[:, label].astype(np.float64)
        assert best == sorted(right, key=lambda row: (-score[row], row))[:10]
        assert worst == sorted(members, key=lambda row: (score[row], row))[:10]


def test_a_class_without_photos_or_without_right_ones_has_none():
    """Nothing is made up: no photo, no row; none right, no best one."""
    probabilities = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]], dtype=np.float32)
    targets = np.array([1, 1])
    assert best_and_worst(probabilities, targets, label=2, count=10) == ([], [])
    assert best_and_worst(probabilities, targets, label=1, count=10) == ([], [0, 1])


@settings(deadline=None)
@given(
    targets=st.lists(st.integers(0, 5), min_size=1, max_size=80).map(np.array),
    count=st.integers(0, 40),
    seed=st.integers(0, 100),
)
def test_a_sample_takes_from_every_class_in_turn(targets, count, seed):
    """As many rows as asked for, none twice, sorted by class; no class has two more than another that had some left."""
    rows = sample_over_classes(targets, count=count, seed=seed)
    assert len(rows) == len(set(rows)) == min(count, len(targets))
    labels = targets[rows].tolist()
    assert labels == sorted(labels)
    taken = {label: labels.count(label) for label in set(targets.tolist())}
    for label, number in taken.items():
        if number < (targets == label).sum():
            assert all(other <= number + 1 for other in taken.values())


def test_a_sample_is_random_but_always_the_same():
    """One seed, one sample; another seed, another one; and not simply the first rows."""
    targets = np.arange(200) % 4
    samples = [sample_over_classes(targets, count=20, seed=seed) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert set(samples[0]) != set(range(20))
