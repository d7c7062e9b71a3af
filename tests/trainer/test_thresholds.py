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
    sentence = threshold_figures(thresholds, part, part, ["fox", "deer"], target_precision=0.9)["sentence"]
    assert reason in sentence
    assert "faultless" not in sentence  # 9 of 10 are enough


@pytest.mark.parametrize(
    ("target", "count", "said"),
    [
        (0.95, 12, "reach was enough for fox (of fewer than 20 photos only a faultless row shows 95 %), and fewer"),
        (0.995, 12, "reach was enough for fox (of fewer than 200 photos only a faultless row shows 99.5 %), and fewer"),
        (0.95, 9, None),
    ],
)
def test_a_mistake_is_too_many_of_few_photos(target, count, said):
    """The first of twelve is wrong: the reason says from how many photos on one mistake is allowed."""
    part = scored([0.9] * count, [False] + [True] * (count - 1))
    thresholds = choose_thresholds(*part, label_count=2, target_precision=target)
    sentence = threshold_figures(thresholds, part, part, ["fox", "deer"], target_precision=target)["sentence"]
    assert said in sentence if said else "faultless" not in sentence


def test_one_mistake_is_allowed_from_where_the_reason_says():
    """Whatever is asked for: that many photos with a mistake are enough, and one fewer are not."""
    for target in (0.91, 0.95, 0.96, 0.98, 0.99, 0.995):
        least = round(1 / (1 - target) + 0.4999)
        found = []
        for count in (least - 1, least):
            part = scored([0.9] * count, [False] + [True] * (count - 1))
            found.append(choose_thresholds(*part, label_count=2, target_precision=target)[0])
            if found[-1] is None:
                figures = threshold_figures([None, None], part, part, ["fox", "deer"], target_precision=target)
                assert f"of fewer than {least} photos" in figures["sentence"], target
        assert found == [None, pytest.approx(0.9)], target


def test_many_classes_without_a_threshold_are_not_all_named():
    """Five of 300 are, and how many more there are."""
    rows = np.full((300, 300), 0.001, np.float32)
    np.fill_diagonal(rows, 0.7)
    labels, part = [f"kind{number}" for number in range(300)], (rows, np.arange(300))
    sentence = threshold_figures([None] * 300, part, part, labels, target_precision=0.95)["sentence"]
    assert "called kind0, kind1, kind2, kind3, kind4 and 295 more: those go to a person" in sentence


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
