import csv
import io

import numpy as np
import pytest

from trainer.evaluate.suspects import MOST_OF_A_GROUP, doubt, self_confidence, suspects, suspects_csv

LABELS = ("deer", "fox", "hog")


def answers(true, *, seed=0, sure=8.0):
    """Probabilities that mostly lie on the true class."""
    chance = np.random.default_rng(seed)
    shape = np.ones((len(true), 3))
    shape[np.arange(len(true)), true] = sure
    return np.stack([chance.dirichlet(row) for row in shape]).astype(np.float32)


def test_flipped_labels_are_on_top():
    """Of 300 photos 15 get a wrong label: at least 12 of them are among the first 15 of the list."""
    true = np.arange(300) % 3
    given = true.copy()
    flipped = np.random.default_rng(1).choice(300, 15, replace=False)
    given[flipped] = (given[flipped] + 1) % 3
    found = suspects(answers(true), given, labels=LABELS)
    assert len({one.row for one in found[:15]} & set(flipped.tolist())) >= 12
    first = found[0]
    assert (first.label, first.suggested) == (LABELS[given[first.row]], LABELS[true[first.row]])
    assert all(one.score > one.label_score for one in found)
    ranks = [one.rank_score for one in found]
    assert ranks == sorted(ranks, reverse=True)


def test_a_photo_taken_for_its_label_is_no_suspect():
    """However unsure the model is, who agrees with the label is not listed."""
    rows = np.array([[0.4, 0.3, 0.3], [0.35, 0.33, 0.32], [0.3, 0.4, 0.3]], np.float32)
    assert [one.row for one in suspects(rows, np.array([0, 0, 0]), labels=LABELS)] == [2]


def test_doubt_is_the_other_class_s_share_of_the_two():
    """A tie of label and another class is 0.5; an improbable label is doubted more than a probable one."""
    rows = np.array([[0.4, 0.4, 0.2], [0.08, 0.72, 0.2], [0.9, 0.1, 0.0], [0.0, 1.0, 0.0]], np.float32)
    assert doubt(rows, np.zeros(4, np.int64)) == pytest.approx([0.5, 0.9, 0.1, 1.0], abs=1e-6)


def test_confident_is_as_sure_as_of_photos_that_have_the_label():
    """In a class that is always hard less is needed than in one that is usually told well."""
    rows = np.array(
        [[0.9, 0.05, 0.05]] * 8 + [[0.1, 0.5, 0.4]] * 6 + [[0.1, 0.35, 0.55], [0.6, 0.3, 0.1]] + [[0.2, 0.5, 0.3]],
        np.float32,
    )
    given = np.array([0] * 8 + [1] * 8 + [0])
    by_row = {one.row: one.confident for one in suspects(rows, given, labels=LABELS)}
    assert by_row == {14: False, 15: False, 16: True}


def test_photos_without_answers_are_left_out():
    """Rows of NaN are never listed, and change nothing for the others."""
    true = np.arange(60) % 3
    given = true.copy()
    given[::7] = (given[::7] + 1) % 3
    rows = answers(true)
    some = np.concatenate([np.full((5, 3), np.nan, np.float32), rows])
    expected = [(one.row + 5, one.rank_score) for one in suspects(rows, given, labels=LABELS)]
    found = suspects(some, np.concatenate([np.zeros(5, np.int64), given]), labels=LABELS)
    assert [(one.row, one.rank_score) for one in found] == expected
    assert expected


def test_a_burst_in_the_wrong_folder_does_not_hide_others():
    """Of one group and the same two labels three keep their place; the others are listed behind all single photos."""
    rows = np.array([[0.01, 0.98, 0.01]] * 10 + [[0.3, 0.5, 0.2]] * 4 + [[0.9, 0.05, 0.05]] * 6, np.float32)
    groups = ["burst"] * 10 + [f"single{number}" for number in range(10)]
    found = suspects(rows, np.zeros(20, np.int64), labels=LABELS, groups=groups)
    assert [one.row < 10 for one in found] == [True] * MOST_OF_A_GROUP + [False] * 4 + [True] * (10 - MOST_OF_A_GROUP)
    assert len(found) == 14


def test_a_class_that_no_photo_has_is_no_threshold():
    """A class without photos has self-confidence 1, so nobody is confidently of it, and nothing is NaN."""
    rows = np.array([[0.2, 0.1, 0.7], [0.9, 0.05, 0.05]], np.float32)
    assert self_confidence(rows, np.array([0, 0])).tolist() == pytest.approx([0.55, 1, 1])
    assert np.isfinite(doubt(rows, np.array([0, 0]))).all()
    (found,) = suspects(rows, np.array([0, 0]), labels=LABELS)
    assert not found.confident


def test_the_list_as_csv_names_each_photo():
    """One row a suspect with path, part, both labels, the three scores and its group; odd names survive."""
    rows = np.array([[0.2, 0.7, 0.1], [0.9, 0.05, 0.05]], np.float32)
    found = suspects(rows, np.array([0, 0]), labels=LABELS)
    text = suspects_csv(found, paths=['deer/a, "b".jpg', "deer/c.jpg"], parts=["train", "val"], groups=["g,1", "g2"])
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["path"], row["part"], row["group"]) == ('deer/a, "b".jpg', "train", "g,1")
    assert (row["label"], row["suggested"]) == ("deer", "fox")
    assert (float(row["score"]), float(row["label_score"])) == pytest.approx((0.7, 0.2))
    assert 0.5 < float(row["rank_score"]) <= 1
