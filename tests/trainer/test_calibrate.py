import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluate.calibrate import (
    calibration_figures,
    expected_calibration_error,
    fit_temperature,
    softmax,
)
from trainer.evaluate.judge import judge


def drawn(seed, *, count, temperature, label_count=4):
    """Logits whose softmax at `temperature` is the truth that targets are drawn from."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (count, label_count)).astype(np.float32)
    chances = softmax(logits, temperature).astype(np.float64).cumsum(axis=1)
    targets = (random.random((count, 1)) * chances[:, -1:] > chances).sum(axis=1)
    return logits, targets


@pytest.mark.parametrize("temperature", [0.5, 1.7, 4.0])
def test_the_temperature_is_found(temperature):
    """From targets drawn at a temperature, that temperature is fitted, and the error of scores falls to chance."""
    logits, targets = drawn(0, count=4000, temperature=temperature)
    found = fit_temperature(logits, targets)
    assert found.temperature == pytest.approx(temperature, rel=0.06)
    before = calibration_figures(softmax(logits), targets)
    after = calibration_figures(softmax(logits, found.temperature), targets)
    assert after["ece"] < before["ece"] / 3
    assert after["ece"] < 2 * after["ece_by_chance"]
    assert "off by" in after["ece_sentence"]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), scale=st.floats(0.01, 100))
def test_validation_is_never_worse_after_temperature(seed, count, scale):
    """Whatever the logits, the loss after is at most the loss before, and both are what they say."""
    logits, targets = drawn(seed, count=count, temperature=1.0)
    logits = (logits * scale).astype(np.float32)
    found = fit_temperature(logits, targets)
    assert found.loss_after <= found.loss_before
    if scale < 10:  # further out float32 probabilities are 0
        rows = softmax(logits, found.temperature)[np.arange(count), targets].astype(np.float64)
        assert -np.log(np.maximum(rows, 1e-300)).mean() == pytest.approx(found.loss_after, rel=1e-3, abs=1e-4)


def test_a_few_images_that_are_all_right_make_nothing_certain():
    """Twenty right answers leave scores that still allow for a mistake in about as many."""
    logits = np.tile(np.array([[2.0, 0.0, 0.0]], np.float32), (20, 1))
    found = fit_temperature(logits, np.zeros(20, np.int64))
    assert 0.9 < softmax(logits, found.temperature)[0, 0] < 0.97


def test_the_error_of_scores_is_worked_by_hand():
    """Ten bins of two: five are off by 0.2, five by 0."""
    confidence = np.repeat(np.linspace(0.5, 0.95, 10), 2)
    confidence[:10] = np.repeat(np.array([0.3, 0.31, 0.32, 0.33, 0.34]), 2)
    right = np.zeros(20, bool)
    expected = np.mean([abs(confidence[index : index + 2].mean() - 0) for index in range(0, 20, 2)])
    assert expected_calibration_error(confidence, right) == pytest.approx(expected)
    assert expected_calibration_error(np.ones(20), np.ones(20, bool)) == 0


def test_too_few_images_have_no_error_but_their_diagram():
    """Below 200 images the figure is left out with the reason; the bins have their counts and intervals."""
    logits, targets = drawn(2, count=199, temperature=1.0)
    facts = calibration_figures(softmax(logits), targets)
    assert (facts["ece"], facts["ece_interval"]) == (None, None)
    assert facts["ece_sentence"].startswith("too few")
    assert sum(row["count"] for row in facts["reliability"]) == 199
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in facts["reliability"])
    json.dumps(facts, allow_nan=False)


def outcomes(*, groups, burst, off, random):
    """Scores, whether they are right, groups, and the true error; photos of a group are right together nine in ten."""
    units = np.repeat(np.arange(groups), burst)
    confidence = np.clip(random.beta(6, 1.5, groups)[units] + random.normal(0, 0.03, len(units)), 0.52, 0.99)
    confidence += random.uniform(0, 1e-3, len(units))  # no ties: the bins are those of the ranks
    chance = np.clip(confidence - off, 0, 1)
    together = random.random(len(units)) < (0.9 if burst > 1 else 0)
    right = np.where(together, random.random(groups)[units], random.random(len(units))) < chance
    bins = np.array_split(np.argsort(confidence), 10)
    true = sum(abs(float((confidence - chance)[rows].sum())) for rows in bins) / len(units)
    return np.stack([confidence, 1 - confidence], axis=1).astype(np.float32), np.where(right, 0, 1), units, true


@pytest.mark.parametrize(("groups", "burst"), [(200, 1), (40, 10)])
@pytest.mark.parametrize("off", [0.0, 0.03, 0.1])
def test_the_interval_holds_the_true_error(groups, burst, off):
    """In 100 sets, of photos by themselves and of bursts, and the error that is told is always in it."""
    random, held = np.random.default_rng(6), 0
    for _ in range(100):
        rows, targets, units, true = outcomes(groups=groups, burst=burst, off=off, random=random)
        facts = calibration_figures(rows, targets, units if burst > 1 else None)
        low, high = facts["ece_interval"]
        assert 0 <= low <= facts["ece"] <= high <= 1
        held += low <= true <= high
    # Of 100 sets with a chance of 0.95, 88 or fewer come in 1 of 200 tries.
    assert held >= 89


def test_groups_widen_the_interval_of_the_error():
    """Photos that are right together say less, and more photos say more."""
    random, widths = np.random.default_rng(4), {}
    for groups, burst in ((400, 1), (40, 10), (4000, 1)):
        rows, targets, units, _ = outcomes(groups=groups, burst=burst, off=0.1, random=random)
        low, high = calibration_figures(rows, targets, units)["ece_interval"]
        widths[groups] = high - low
    assert widths[40] > 1.5 * widths[400] > 3 * widths[4000]


def test_images_of_one_score_are_in_one_bin():
    """Where scores tie, the error is the same whichever way the rows are ordered."""
    confidence = np.repeat([0.6, 0.7, 0.9], [17, 9, 14])
    right = np.arange(40) % 3 > 0
    orders = [np.random.default_rng(seed).permutation(40) for seed in range(20)]
    errors = [expected_calibration_error(confidence[rows], right[rows]) for rows in orders]
    whole = [confidence == score for score in (0.6, 0.7, 0.9)]
    expected = sum(abs(confidence[rows].sum() - right[rows].sum()) for rows in whole) / 40
    assert errors == pytest.approx([expected] * 20)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 300))
def test_without_ties_bins_have_equal_counts(seed, count):
    """The error is that of ten bins of equal count by rising score."""
    random = np.random.default_rng(seed)
    confidence, right = random.random(count), random.random(count) < 0.7
    bins = np.array_split(np.argsort(confidence), 10)
    expected = sum(abs(confidence[rows].sum() - right[rows].sum()) for rows in bins) / count
    assert expected_calibration_error(confidence, right) == pytest.approx(expected)


def test_few_groups_have_no_interval_of_the_error():
    """29 groups of several images: the error and what chance makes of it, no interval, and the reason."""
    logits, targets = drawn(3, count=29 * 10, temperature=1.0)
    facts = calibration_figures(softmax(logits), targets, np.repeat(np.arange(29), 10))
    assert facts["ece"] > 0
    assert facts["ece_interval"] is None
    assert "no honest interval: 29 groups" in facts["ece_sentence"]
    assert calibration_figures(softmax(logits), targets, np.arange(290))["ece_interval"] is not None


def test_bins_of_few_groups_have_no_interval():
    """Photos in bursts: no bin has an interval, and the reason is told; single ones have Wilson's."""
    logits, targets = drawn(3, count=300, temperature=1.0)
    single = calibration_figures(softmax(logits), targets, np.arange(300))
    assert single["reliability_sentence"] is None
    grouped = calibration_figures(softmax(logits), targets, np.arange(300) % 20)
    assert {(row["low"], row["high"]) for row in grouped["reliability"]} == {(None, None)}
    assert "no honest interval: fewer than 30 groups" in grouped["reliability_sentence"]


def blamed_share(*, count, burst, off, monkeypatch):
    """How often calibration is blamed, of 60 sets three in four of which are right; outcomes follow logits / off."""
    monkeypatch.setattr("trainer.evaluate.error_interval._DRAWS", 2)  # the rule needs no interval
    random, blamed = np.random.default_rng(11), 0
    groups = np.repeat(np.arange(count // burst), burst)
    for _ in range(60):
        logits = random.normal(0, 2.5, (count // burst, 4))[groups] + random.normal(0, 0.5, (count, 4))
        chances = softmax(logits / off).astype(np.float64)
        right = random.random(count // burst)[groups] < chances.max(axis=1)
        best = logits.argmax(axis=1)
        facts = calibration_figures(softmax(logits), np.where(right, best, (best + 1) % 4), groups)
        test = facts | {"image_count": count, "accuracy": right.mean(), "accuracy_interval": None, "classes": {}}
        found = judge({"labels": [], "test": test, "split": {}}, duplicates=(), suspects=())
        blamed += "calibration" in {finding.code for finding in found}
    return blamed / 60


SETS = [(200, 1), (500, 1), (300, 5), (500, 10)]


@pytest.mark.parametrize(("count", "burst"), SETS)
def test_perfect_scores_are_not_blamed(count, burst, monkeypatch):
    """Outcomes drawn from the scores themselves, of photos or of bursts: blamed in a tenth of the sets at most."""
    assert blamed_share(count=count, burst=burst, off=1.0, monkeypatch=monkeypatch) <= 0.1


@pytest.mark.parametrize("off", [0.5, 2.0])
@pytest.mark.parametrize(("count", "burst"), SETS)
def test_a_temperature_that_is_off_by_two_is_blamed(count, burst, off, monkeypatch):
    """Found in three quarters of the sets of single photos, and in most of those in bursts."""
    least = 0.75 if burst == 1 else 0.55
    assert blamed_share(count=count, burst=burst, off=off, monkeypatch=monkeypatch) >= least
