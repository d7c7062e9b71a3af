import copy
import json

import pytest

from trainer.dataset.straddling import Duplicate
from trainer.evaluate.judge import judge
from trainer.evaluate.suspects import Suspect

LABELS = ["deer", "fox", "hog"]


def class_row(recall, support, **more):
    return {"recall": recall, "recall_interval": None, "support": support} | more


def metrics(**changes):
    """A run with nothing to complain about, each class of 1,000 test photos all right; `test` and others replaced."""
    whole = {
        "labels": LABELS,
        "test": {
            "image_count": 3000,
            "accuracy": 1.0,
            "accuracy_interval": [0.998, 1.0],
            "classes": {label: class_row(1.0, 1000) for label in LABELS},
            "confusion": [[1000, 0, 0], [0, 1000, 0], [0, 0, 1000]],
            "ece": 0.02,
            "ece_interval": [0.01, 0.03],
            "ece_by_chance": 0.015,
            "ece_by_chance_high": 0.025,
        },
        "split": {
            "image_counts": {"train": 9000, "val": 3000, "test": 3000},
            "class_counts": {"train": dict.fromkeys(LABELS, 3000), "test": dict.fromkeys(LABELS, 1000)},
            "largest_test_group": {"group": "site1/", "image_count": 30},
        },
        "suspects": {"asked_image_count": 1000},
        "unknowns": {"method": "nearest_class_mean", "auroc": {"nearest_class_mean": 0.95, "max_softmax": 0.9}},
        "balance": "none",
        "history": [],
        "epoch": 0,
        "head": {"strength": 0.1},
    }
    for name, value in changes.items():
        whole[name] = {**whole[name], **value} if isinstance(value, dict) else value
    return whole


def found(figures, *, duplicates=(), suspects=()):
    """Severity by code; everything that is said holds numbers and can be written as JSON."""
    findings = judge(figures, duplicates=duplicates, suspects=suspects)
    for finding in findings:
        json.dumps(finding.facts, allow_nan=False)
        assert "nan" not in finding.sentence.lower().split()
        assert any(letter.isdigit() for letter in finding.sentence) or finding.code == "untested_class"
    order = [("serious", "advice", "fine").index(finding.severity) for finding in findings]
    assert order == sorted(order)
    return {finding.code: finding.severity for finding in findings}


def sentence(figures, code, **more):
    (text,) = (
        one.sentence
        for one in judge(figures, duplicates=more.get("duplicates", ()), suspects=more.get("suspects", ()))
        if one.code == code
    )
    return text


def test_nothing_wrong_is_fine():
    """A good run has one finding, which says how good."""
    assert found(metrics()) == {"fine": "fine"}
    assert "100.0% of 3,000 test photos right (95 % interval 99.8% to 100.0%)" in sentence(metrics(), "fine")


def fox(recall, count, **more):
    """Figures where fox is found that often, else taken for hog."""
    right = round(recall * count)
    figures = metrics()
    figures["test"]["classes"]["fox"] = class_row(recall, count, **more)
    figures["test"]["confusion"][1] = [0, right, count - right]
    return figures


@pytest.mark.parametrize(
    ("recall", "count", "severity"),
    [
        (0.49, 100, "serious"),
        (0.5, 100, "advice"),
        (4 / 9, 9, "advice"),
        (0.89, 1000, "advice"),
        (0.9, 1000, "fine"),
        (0.999, 1000, "fine"),
    ],
)
def test_the_weakest_class(recall, count, severity):
    """Below half in ten photos is serious, below nine tenths advice, else only told; what it is taken for is named."""
    assert found(fox(recall, count))["weakest_class"] == severity


def test_the_weakest_class_is_told_with_its_interval():
    """The given interval is used; where none is honest none is told, and the reason is."""
    assert "fox: 80% of its 100 test photos are found (95 % interval 60% to 90%)" in sentence(
        fox(0.8, 100, recall_interval=[0.6, 0.9]), "weakest_class"
    )
    text = sentence(fox(0.8, 100), "weakest_class")
    assert "(no honest interval: fewer than 30 groups, and photos of a group are right or wrong together), and " in text
    assert "it is most often taken for hog (20 times)" in text


def with_history(last_rise, error, *, head=True, epoch=2):
    rows = [(0, None, 0.6), (1, 0.5, 0.5), (2, 0.3, 0.4), (3, 0.1, 0.4 + last_rise)]
    history = [
        {
            "epoch": number,
            "train_loss": train,
            "validation_loss": loss,
            "validation_accuracy": 0.8,
            "learning_rate": 1e-3,
            "standard_error": 0.05,
            "rise": 0.0 if number < 3 else last_rise,
            "rise_error": 0.0 if number < 3 else error,
        }
        for number, train, loss in rows
    ]
    return metrics(history=history, epoch=epoch) | {"head": {"strength": 0.1} if head else None}


@pytest.mark.parametrize(
    ("figures", "held"),
    [
        (with_history(0.2, 0.05), "the export holds epoch 2"),
        (with_history(0.2, 0.05, epoch=0), "the export holds the head alone"),
        (with_history(0.2, 0.05, epoch=0, head=False), "the export holds what training began with"),
    ],
)
def test_over_training_names_the_turn_and_what_is_exported(figures, held):
    """Advice, for the export holds the best; with the rise, its error and the epochs that would do."""
    assert found(figures) == {"over_training": "advice"}
    text = sentence(figures, "over_training")
    assert "lowest at epoch 2 (0.400) and rose by 0.200 (standard error 0.050, paired by photo)" in text
    assert held in text.replace("The export", "the export")
    assert "--epochs 2" in text


@pytest.mark.parametrize(("rise", "error"), [(0.2, 0.5), (0.019, 0.001), (0.0, 0.0)])
def test_a_rise_that_is_chance_or_a_trifle_is_none(rise, error):
    """Within its error, or below a twentieth of the loss, nothing is said of over-training."""
    assert found(with_history(rise, error)) == {"fine": "fine"}


@pytest.mark.parametrize(
    ("interval", "severity"),
    [([0.75, 0.95], None), ([0.74, 0.95], "advice"), ([0.4, 0.9], "advice"), ([0.39, 0.9], "serious")],
)
def test_too_few_images(interval, severity):
    """An interval wider than 20 points is advice, wider than 50 serious; it says how many photos would halve it."""
    figures = fox(0.95, 100, recall_interval=interval)
    assert found(figures).get("too_few_images") == severity
    if severity:
        text = sentence(figures, "too_few_images")
        assert "100 test photos" in text
        assert "(400 test photos, about 16,000 photos of it in all at this split)" in text


@pytest.mark.parametrize(("count", "severity"), [(1000, None), (20, "advice"), (4, "serious")])
def test_too_few_images_where_no_interval_is_honest(count, severity):
    """Photos of few groups tell less than single ones, so Wilson's width is the least; it is not called theirs."""
    figures = fox(0.75, count)
    assert found(figures).get("too_few_images") == severity
    if severity:
        (finding,) = (one for one in judge(figures, duplicates=(), suspects=()) if one.code == "too_few_images")
        assert finding.facts["recall_interval"] is None
        assert "of single photos would have this interval, so it is at least so wide; no honest" in finding.sentence
        assert "Four times as many of other sites or visits (" in finding.sentence


@pytest.mark.parametrize(("count", "said"), [(29, "advice"), (30, None)])
def test_a_test_part_with_fewer_than_thirty_of_a_class(count, said):
    """At 30 nothing is said; below, the classes are named with their counts."""
    figures = fox(1.0, count)
    assert found(figures).get("small_test_part") == said
    if said:
        assert "1 of 3 classes (fox 29)" in sentence(figures, "small_test_part")


def test_a_class_without_test_photos_is_serious():
    """It is named, and no other rule stumbles over it."""
    figures = metrics()
    figures["test"]["classes"]["fox"] = class_row(None, 0)
    figures["test"]["confusion"][1] = [0, 0, 0]
    assert found(figures) == {"untested_class": "serious"}
    assert "no photo of fox" in sentence(figures, "untested_class")


@pytest.mark.parametrize(
    ("smallest", "balance", "severity"),
    [
        (1000, "none", None),
        (999, "none", "advice"),
        (300, "none", "advice"),
        (299, "none", "serious"),
        (299, "loss", "fine"),
    ],
)
def test_imbalance(smallest, balance, severity):
    """Above 1:3 advice, above 1:10 serious, only told where it was balanced; nothing up to 1:3."""
    figures = metrics(balance=balance)
    figures["split"]["class_counts"]["train"]["hog"] = smallest
    assert found(figures).get("imbalance") == severity


@pytest.mark.parametrize(
    ("error", "high", "severity"),
    [
        (0.08, 0.06, None),
        (0.081, 0.06, "advice"),
        (0.081, 0.082, None),
        (0.19, 0.06, "advice"),
        (0.191, 0.06, "serious"),
        (0.191, None, None),
    ],
)
def test_calibration_is_blamed_only_beyond_chance(error, high, severity):
    """What perfect scores would seem off by is taken off, and what they may have by chance is no blame."""
    test = {"ece": error, "ece_by_chance": 0.04, "ece_by_chance_high": high}
    assert found(metrics(test=test)).get("calibration") == severity


@pytest.mark.parametrize(("count", "severity"), [(1000, None), (1001, "advice"), (1500, "advice"), (1501, "serious")])
def test_one_group_in_the_test_part(count, severity):
    """More than a third of the test photos is advice, more than half serious."""
    split = {"largest_test_group": {"group": "site1/", "image_count": count}}
    assert found(metrics(split=split)).get("single_group") == severity


@pytest.mark.parametrize(("value", "severity"), [(0.8, None), (0.79, "advice"), (0.6, "advice"), (0.59, "serious")])
def test_unknowns_that_are_not_noticed(value, severity):
    """The shipped method's AUROC below 0.8 is advice, below 0.6 serious."""
    unknowns = {"auroc": {"nearest_class_mean": value, "max_softmax": 0.99}}
    assert found(metrics(unknowns=unknowns)).get("unknowns") == severity
    if severity is not None:
        assert "photos of unknown classes are told poorly" in sentence(metrics(unknowns=unknowns), "unknowns")


@pytest.mark.parametrize(("share", "severity"), [(0.5, None), (0.51, "advice"), (1.0, "advice")])
def test_much_is_left_to_a_person(share, severity):
    """More than half of the test photos below their class's threshold is advice; the classes without one are named."""
    classes = {label: {"threshold": None if label == "fox" else 0.9} for label in LABELS}
    figures = metrics() | {"thresholds": {"left_to_person_share": share, "target_precision": 0.95, "classes": classes}}
    assert found(figures).get("left_to_person") == severity
    if severity is not None:
        assert "3,000 test photos to a person: 1 of 3 classes have none (fox)" in sentence(figures, "left_to_person")


def duplicate(number, part="test", *, same_group=True, between_given=False):
    return Duplicate(
        path=f"{part}/deer/{number}.jpg",
        part=part,
        other_path=f"train/deer/{number}.jpg",
        other_part="train",
        distance=1,
        same_group=same_group,
        given=between_given,
    )


@pytest.mark.parametrize(("count", "severity"), [(1, "advice"), (30, "advice"), (31, "serious")])
def test_duplicates_across_parts(count, severity):
    """Any is advice, more than a hundredth of a part serious; the pairs are named."""
    pairs = [duplicate(number) for number in range(count)]
    assert found(metrics(), duplicates=pairs) == {"duplicates": severity}
    (finding,) = judge(metrics(), duplicates=pairs, suspects=())
    assert finding.facts["pairs"][0]["other_path"] == "train/deer/0.jpg"
    assert f"{count} of 3,000 test photos nearly repeat" in finding.sentence


@pytest.mark.parametrize(
    ("rule", "between_given", "expected"),
    [
        ("exif", False, {"similar_views": "advice"}),
        ("exif", True, {"duplicates": "serious"}),
        ("none", False, {"duplicates": "serious"}),
    ],
)
def test_views_that_were_grouped_apart_are_no_leak(rule, between_given, expected):
    """A fixed camera's other visits are advice, however many; across given parts, and without groups, a repeat."""
    pairs = [duplicate(number, same_group=False, between_given=between_given) for number in range(400)]
    assert found(metrics(split={"rule": rule}), duplicates=pairs) == expected


def suspect(row, *, confident=True):
    return Suspect(
        row=row, label="deer", suggested="fox", score=0.9, label_score=0.1, rank_score=0.9, confident=confident
    )


@pytest.mark.parametrize(("count", "severity"), [(30, None), (31, "advice"), (100, "advice"), (101, "serious")])
def test_many_suspects(count, severity):
    """Of 1,000 photos more than 30 is advice, more than 100 serious; unsure ones do not count."""
    listed = [suspect(row) for row in range(count)] + [suspect(row, confident=False) for row in range(500)]
    assert found(metrics(), suspects=listed).get("suspects") == severity


def test_figures_that_are_missing_are_passed_over():
    """A run without calibration, unknowns, history or counts is judged by what it has."""
    figures = metrics()
    for name in ("unknowns", "suspects", "history", "balance"):
        del figures[name]
    for name in ("ece", "ece_interval", "ece_by_chance", "ece_by_chance_high"):
        del figures["test"][name]
    for name in ("class_counts", "largest_test_group"):
        del figures["split"][name]
    for row in figures["test"]["classes"].values():
        del row["recall_interval"]
    assert found(figures, suspects=[suspect(row) for row in range(900)]) == {"fine": "fine"}


def test_the_gravest_comes_first_and_nothing_is_changed():
    """Serious before advice before fine; the figures given are left as they were."""
    figures = fox(0.3, 20)
    before = copy.deepcopy(figures)
    severities = [finding.severity for finding in judge(figures, duplicates=[duplicate(0)], suspects=())]
    assert severities[0] == "serious"
    assert "advice" in severities
    assert figures == before
