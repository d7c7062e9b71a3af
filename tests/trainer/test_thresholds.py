import json

import numpy as np
import pytest

from trainer.evaluate.thresholds import LEAST_CALLED, choose_thresholds, threshold_figures


def scored(scores, right):
    """Two classes: images called class 0 with these scores, some of them wrongly."""
    rows = np.array([[score, 1 - score] for score in scores], np.float32)
    return rows, np.where(right, 0, 1)


def test_a_threshold_is_the_lowest_score_that_is_right_often_enough():
    """Of twenty by falling score 17 are right, then wrong, right, wrong: 17/18 misses 0.946, 18/19 does not."""
    scores = [0.99 - 0.02 * place for place in range(20)]
    rows, targets = scored(scores, [True] * 17 + [False, True, False])
    found = choose_thresholds(rows, targets, label_count=2, target_precision=0.946)
    assert found == [pytest.approx(scores[18]), None]
    assert choose_thresholds(rows, targets, label_count=2, target_precision=0.95)[0] == pytest.approx(scores[16])


def test_a_threshold_rests_on_ten_photos():
    """Ten that reach the score are enough, nine are not, however many others were called the class."""
    scores = [0.99 - 0.005 * place for place in range(40)]
    ten, nine = [True] * 10 + [False] * 30, [True] * 9 + [False] * 31
    assert LEAST_CALLED == 10
    assert choose_thresholds(*scored(scores, ten), label_count=2, target_precision=0.95)[0] == pytest.approx(scores[9])
    assert choose_thresholds(*scored(scores, nine), label_count=2, target_precision=0.95) == [None, None]


@pytest.mark.parametrize(
    ("called", "reason"),
    [
        (10, "no score that 10 validation photos reach was enough for fox, and fewer than 10 validation photos were "),
        (9, "; fewer than 10 validation photos were called fox, deer: those go to a person"),
    ],
)
def test_why_there_is_no_threshold(called, reason):
    """Few photos called the class, and scores that were not enough, are told apart."""
    part = scored([0.9] * called, [False] * called)
    thresholds = choose_thresholds(*part, label_count=2, target_precision=0.9)
    assert thresholds == [None, None]
    assert reason in threshold_figures(thresholds, part, part, ["fox", "deer"], target_precision=0.9)["sentence"]


def test_images_of_one_score_are_called_together():
    """A tie is kept or left out as a whole: here it holds two wrong ones."""
    rows, targets = scored([0.9] * 10 + [0.8] * 4, [True] * 10 + [True, True, False, False])
    assert choose_thresholds(rows, targets, label_count=2, target_precision=0.87)[0] == pytest.approx(0.9)
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


@pytest.mark.parametrize(("group_count", "honest"), [(29, False), (30, True), (120, True)])
def test_the_interval_of_a_precision_knows_groups(group_count, honest):
    """Photos of fewer than 30 groups have none, and the reason is told; single ones have Wilson's."""
    part = scored([0.9] * 120, [True] * 108 + [False] * 12)
    groups = np.arange(120) % group_count
    facts = threshold_figures([0.5, None], part, part, ["fox", "deer"], target_precision=0.9, test_groups=groups)
    fox = facts["classes"]["fox"]
    assert (fox["test_precision_interval"] is not None) == honest
    assert (facts["interval_sentence"] is None) == honest
    assert "validation_precision_interval" not in fox
    if group_count == 120:
        assert fox["test_precision_interval"] == pytest.approx([0.833, 0.942], abs=2e-3)
