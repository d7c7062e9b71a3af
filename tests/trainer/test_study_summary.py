"""What a study says of its points: figures a size, whether more photos would help, and pictures."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from trainer.study.plots import confusion_matrices, epoch_curves, learning_curve
from trainer.study.points import Point
from trainer.study.summary import HeldOut, more_images, summarised
from trainer.study.tables import result, write_csv, write_epochs

LABELS = ("deer", "fox")
PHOTOS = 200


def held_out(group_count=PHOTOS, *, known=True):
    groups = np.arange(PHOTOS) % group_count
    return HeldOut(labels=LABELS, targets=np.arange(PHOTOS) % 2, groups=groups, groups_known=known)


def point(size, repeat, right, *, count=None, history=()):
    targets = np.arange(PHOTOS) % 2
    predicted = np.where(right, targets, 1 - targets)
    confusion = np.zeros((2, 2), int)
    np.add.at(confusion, (targets, predicted), 1)
    recalls = confusion.diagonal() / confusion.sum(axis=1)
    return Point(
        size=size,
        repeat=repeat,
        train_image_count=count or 2 * int(size),
        train_group_count=5,
        cut_group_count=1,
        figures={
            "accuracy": float(np.mean(right)),
            "balanced_accuracy": float(recalls.mean()),
            "macro_f1": 0.5,
            "loss": 0.3,
            "classes": {label: {"recall": float(recall)} for label, recall in zip(LABELS, recalls, strict=True)},
            "confusion": confusion.tolist(),
        },
        right="".join("1" if one else "0" for one in right),
        stage="head",
        epoch=0,
        history=list(history),
        seconds=1.5,
    )


def points_of(accuracies, *, seed=0, counts=None):
    """Points of three repeats whose test photos are right by chance, so often for each size."""
    chance = np.random.default_rng(seed)
    return [
        point(size, repeat, chance.random(PHOTOS) < share, count=(counts or {}).get(size))
        for repeat in (1, 2, 3)
        for size, share in accuracies.items()
    ]


def test_figures_of_a_size_are_those_of_its_points():
    """Accuracy is the mean, the matrix the sum, the weakest class the one that is found least in all repeats."""
    right = np.ones(PHOTOS, bool)
    right[1::4] = False  # half of the foxes
    points = [point("10", repeat, right) for repeat in (1, 2, 3)]
    (row,) = summarised(points, held_out())["sizes"]
    assert row["accuracy"] == pytest.approx(0.75)
    assert row["confusion"] == [[300, 0], [150, 150]]
    assert (row["weakest_class"], row["weakest_recall"]) == ("fox", 0.5)
    assert row["accuracy_interval"][0] < 0.75 < row["accuracy_interval"][1]
    assert row["photos_a_class"] == 10


def test_sizes_stand_in_order_whatever_order_points_came_in():
    """10 stands before 100 before all."""
    points = points_of({"all": 0.9, "100": 0.8, "10": 0.6}, counts={"all": 240})
    rows = summarised(points, held_out())["sizes"]
    assert [row["size"] for row in rows] == ["10", "100", "all"]
    assert rows[-1]["photos_a_class"] == 120


def test_a_curve_that_rises_says_that_more_would_help():
    """70, 80, 88 % over two doublings: likely, by about as much as the slope and the power law say."""
    more = summarised(points_of({"30": 0.7, "60": 0.8, "120": 0.88}), held_out())["more_images"]
    assert more["verdict"] == "likely"
    assert (more["from"], more["to"]) == ("30", "120")
    assert more["gain_by_doubling"] == pytest.approx(0.09, abs=0.03)
    assert more["interval"][0] > 0
    assert more["sentence"].startswith(
        "more images would likely help: from 30 to 120 photos a class accuracy changed by +"
    )
    assert "240 a class would bring about +" in more["sentence"]


def test_a_curve_that_has_flattened_says_no_evidence():
    """It rose steeply long before and lies flat over the last doublings: what came before does not count."""
    more = summarised(points_of({"2": 0.5, "5": 0.7, "50": 0.9, "100": 0.9, "200": 0.9}), held_out())["more_images"]
    assert more["from"] == "50"
    assert more["verdict"] == "no_evidence"
    assert "no evidence that more images would help" in more["sentence"]


def test_a_power_law_is_found_again():
    """Errors of exactly 0.4, 0.2, 0.1 with each doubling: exponent 1, and half of the last error for twice as many."""
    rows = [{"size": str(count), "photos_a_class": float(count)} for count in (25, 50, 100)]
    right = [
        np.repeat([[0.0, 1.0]], [int(1000 * share), 1000 - int(1000 * share)], axis=1) for share in (0.4, 0.2, 0.1)
    ]
    more = more_images(rows, right, np.arange(1000))
    assert more["power_law"]["exponent"] == pytest.approx(1, abs=0.01)
    assert more["power_law"]["accuracy"] == pytest.approx(0.95, abs=0.001)
    assert more["power_law"]["gain"] == pytest.approx(0.05, abs=0.001)
    assert more["gain_by_doubling"] == pytest.approx(0.15, abs=1e-9)


def test_luck_of_the_draw_is_no_evidence():
    """Repeats that differ more among each other than sizes do: the mean rose, and nothing is sure."""
    chance = np.random.default_rng(1)
    shares = {"50": (0.70, 0.85, 0.78), "100": (0.86, 0.72, 0.84)}
    points = [
        point(size, repeat + 1, chance.random(PHOTOS) < share)
        for size, row in shares.items()
        for repeat, share in enumerate(row)
    ]
    assert summarised(points, held_out())["more_images"]["verdict"] == "no_evidence"


def test_of_curves_that_are_flat_few_are_said_to_rise():
    """Of 200 simulated flat curves at most 10 are told to rise; a 95 % interval promises 5."""
    told = [
        summarised(points_of({"30": 0.85, "60": 0.85, "120": 0.85}, seed=seed), held_out())["more_images"]["verdict"]
        for seed in range(200)
    ]
    assert told.count("likely") <= 10
    assert set(told) <= {"likely", "no_evidence", "worse"}


def test_a_gain_between_sizes_far_apart_is_told_with_care():
    """Where no size lies within two doublings of the largest, the sentence asks for sizes between."""
    more = summarised(points_of({"5": 0.5, "100": 0.9}), held_out())["more_images"]
    assert more["verdict"] == "likely"
    assert "more between them would tell it better" in more["sentence"]


@pytest.mark.parametrize("accuracies", [{"30": 0.8}, {"100": 0.8, "110": 0.9}])
def test_sizes_that_tell_nothing_say_so(accuracies):
    """One size, or two that are nearly the same, are no curve."""
    more = summarised(points_of(accuracies), held_out())["more_images"]
    assert more["verdict"] == "unknown"
    assert "can't be told" in more["sentence"]


def test_test_photos_of_one_group_give_no_interval_and_no_verdict():
    """Null in the file, a sentence with the reason, and never NaN."""
    summary = summarised(points_of({"30": 0.6, "60": 0.9}), held_out(1))
    assert summary["sizes"][0]["accuracy_interval"] is None
    assert summary["more_images"]["verdict"] == "unknown"
    assert "one group alone" in summary["more_images"]["sentence"]
    json.dumps(summary, allow_nan=False)


def test_all_right_everywhere_is_no_trouble():
    """No error at all has no logarithm: still figures, a sentence, and valid JSON."""
    points = [point(size, repeat, np.ones(PHOTOS, bool)) for size in ("20", "40", "80") for repeat in (1, 2, 3)]
    summary = summarised(points, held_out())
    assert summary["more_images"]["verdict"] == "no_evidence"
    assert summary["sizes"][0]["weakest_class"] is None
    assert summary["sizes"][0]["accuracy_interval"][0] < 1
    assert "20 photos a class: every test photo right" in summary["sentences"]
    json.dumps(summary, allow_nan=False)


def test_tables_have_a_row_a_point_and_a_row_an_epoch(tmp_path):
    """study.csv has every point with its interval and weakest class, epochs.csv every epoch of each."""
    history = [
        {"epoch": 0, "train_loss": None, "validation_loss": 0.9, "validation_accuracy": 0.5, "learning_rate": 0.0},
        {"epoch": 1, "train_loss": 0.7, "validation_loss": 0.6, "validation_accuracy": 0.8, "learning_rate": 1e-3},
    ]
    right = np.arange(PHOTOS) % 4 != 1
    points = [point(size, repeat, right, history=history) for size in ("20", "10") for repeat in (2, 1)]
    write_csv(points, held_out(), tmp_path / "study.csv")
    write_epochs(points, tmp_path / "epochs.csv")
    with (tmp_path / "study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["size"], row["repeat"]) for row in rows] == [("10", "1"), ("10", "2"), ("20", "1"), ("20", "2")]
    assert all(
        float(row["accuracy_low"]) < float(row["accuracy"]) == 0.75 < float(row["accuracy_high"]) for row in rows
    )
    assert {row["weakest_class"] for row in rows} == {"fox"}
    with (tmp_path / "epochs.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    assert len(epochs) == 8
    assert (epochs[0]["train_loss"], epochs[1]["train_loss"]) == ("", "0.7")
    write_epochs([point("10", 1, right)], tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


def test_pictures_and_lines_are_made_of_every_size(tmp_path):
    """One curve, one matrix a size, the epochs' panels, and a line a size for the person at the terminal."""
    history = [
        {"epoch": epoch, "train_loss": 0.5, "validation_loss": 0.6, "validation_accuracy": 0.8, "learning_rate": 1e-3}
        for epoch in (1, 2)
    ]
    points = [
        point(size, repeat, np.arange(PHOTOS) % 5 != 1, count=count, history=history)
        for size, count in (("10", 20), ("40", 80), ("all", 130))
        for repeat in (1, 2, 3)
    ]
    summary = summarised(points, held_out())
    learning_curve(summary, points, tmp_path / "study.png")
    confusion_matrices(summary, tmp_path / "plots")
    epoch_curves(points, tmp_path / "plots" / "epochs.png")
    made = ["study.png", "plots/epochs.png", *(f"plots/confusion_matrix_{size}.png" for size in ("10", "40", "all"))]
    for name in made:
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 250
            assert len(image.convert("RGB").getcolors(2**24)) > 20
    lines = result(summary, tmp_path).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["10", "40", "all"]
    assert summary["more_images"]["sentence"] in lines


def test_photos_that_no_rule_grouped_are_not_called_groups(tmp_path):
    """Nothing is said of their number, and the intervals' worth is told."""
    summary = summarised(points_of({"10": 0.6, "40": 0.8}), held_out(known=False))
    assert summary["test"]["group_count"] is None
    said = result(summary, tmp_path)
    assert "200 photos; as if each image were independent; bursts make it too narrow\n" in said


def test_few_groups_are_told_in_the_result(tmp_path):
    """Beside intervals over 29 groups it says that they are few, over 30 nothing."""
    for count, few in ((29, True), (30, False)):
        said = result(summarised(points_of({"10": 0.6, "40": 0.8}), held_out(count)), tmp_path)
        assert (f"in {count} groups; 29 groups of photos are few for an interval\n" in said) == few


ROWS = [{"size": "30", "photos_a_class": 30.0}, {"size": "60", "photos_a_class": 60.0}]


def test_two_groups_that_gain_alike_prove_nothing():
    """One photo more in each of two groups, in every repeat: nothing is seen to vary, and that is no certainty."""
    small, large = np.ones((3, 10)), np.ones((3, 10))
    small[:, [0, 5]] = 0
    more = more_images(ROWS, [small, large], np.repeat([0, 1], 5))
    assert more["verdict"] == "no_evidence"
    assert more["interval"][0] < 0 < more["interval"][1]


def test_ten_photos_rule_no_gain_out():
    """All right at both sizes: so few photos could not have shown a gain, and the sentence says so."""
    more = more_images(ROWS, [np.ones((3, 10))] * 2, np.arange(10))
    assert more["verdict"] == "no_evidence"
    assert "takes more test photos than 10" in more["sentence"]
