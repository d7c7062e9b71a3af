import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluate.calibrate import (
    LEAST_CALLED,
    calibration_figures,
    choose_thresholds,
    expected_calibration_error,
    fit_temperature,
    softmax,
    threshold_figures,
)


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


def test_groups_widen_the_interval_of_the_error():
    """Photos that are right together are drawn together."""
    random = np.random.default_rng(4)
    confidence = np.repeat(random.uniform(0.6, 0.99, 40), 10)
    right = np.repeat(random.random(40) < 0.8, 10)
    rows = np.stack([confidence, 1 - confidence], axis=1).astype(np.float32)
    targets = np.where(right, 0, 1)
    grouped = calibration_figures(rows, targets, np.repeat(np.arange(40), 10))["ece_interval"]
    single = calibration_figures(rows, targets)["ece_interval"]
    assert grouped[1] - grouped[0] > 1.5 * (single[1] - single[0])


def scored(scores, right):
    """Two classes: images called class 0 with these scores, some of them wrongly."""
    rows = np.array([[score, 1 - score] for score in scores], np.float32)
    return rows, np.where(right, 0, 1)


def test_a_threshold_is_the_lowest_score_that_is_right_often_enough():
    """Of ten by falling score seven are right, then wrong, right, wrong: 7/8 misses 0.88, 8/9 does not."""
    scores = [0.99, 0.97, 0.95, 0.93, 0.91, 0.89, 0.87, 0.85, 0.83, 0.81]
    rows, targets = scored(scores, [True] * 7 + [False, True, False])
    found = choose_thresholds(rows, targets, label_count=2, target_precision=0.88)
    assert found == [pytest.approx(0.83), None]
    assert choose_thresholds(rows, targets, label_count=2, target_precision=0.9)[0] == pytest.approx(0.87)
    assert len(scores) == LEAST_CALLED
    assert choose_thresholds(rows[:9], targets[:9], label_count=2, target_precision=0.88) == [None, None]


def test_images_of_one_score_are_called_together():
    """A tie is kept or left out as a whole: here it holds two wrong ones."""
    rows, targets = scored([0.9] * 8 + [0.8] * 4, [True] * 8 + [True, True, False, False])
    assert choose_thresholds(rows, targets, label_count=2, target_precision=0.85)[0] == pytest.approx(0.9)
    assert choose_thresholds(rows, targets, label_count=2, target_precision=0.8)[0] == pytest.approx(0.8)


def test_what_thresholds_leave_to_a_person_is_counted():
    """Kept and left images of the test part, by class and in all; a class without threshold leaves all of its own."""
    validation = scored([0.9] * 12, [True] * 12)
    test = scored([0.95, 0.9, 0.89, 0.2, 0.1], [True, False, True, False, False])
    thresholds = choose_thresholds(*validation, label_count=2, target_precision=0.9)
    facts = threshold_figures(thresholds, validation, test, ["fox", "deer"], target_precision=0.9)
    fox, deer = facts["classes"]["fox"], facts["classes"]["deer"]
    assert (fox["test_count"], fox["test_precision"], fox["validation_count"]) == (2, 0.5, 12)
    assert (deer["threshold"], deer["test_count"], deer["test_precision"]) == (None, 0, None)
    assert facts["left_to_person_share"] == pytest.approx(3 / 5)
    assert "deer" in facts["sentence"]
    json.dumps(facts, allow_nan=False)
