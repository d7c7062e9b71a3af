"""Runs compared by their files: what is said, the numbers behind it, and what is refused."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from trainer.compare.answers import read_answers, shared_photos
from trainer.compare.pairs import compared, table
from trainer.errors import UsageError

TRAINER = Path(sys.executable).parent / "trainer"
LABELS = ("deer", "fox")


def write_csv(path, columns, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def write_run(
    folder, right, *, labels=LABELS, state="done", parts=None, groups=None, relabelled=(), first_photo=0, rule="folder"
):
    """A run folder as `trainer run` leaves it, of as many test photos as `right` has; every other one is a deer."""
    folder.mkdir(parents=True)
    names = [f"{labels[number % 2]}/{first_photo + number:03}.jpg" for number in range(len(right))]
    truth = {name: name.split("/")[0] for name in names}
    truth |= {names[number]: labels[1 - number % 2] for number in relabelled}
    parts = dict.fromkeys(names, "test") | {"deer/train.jpg": "train"} | (parts or {})
    truth["deer/train.jpg"] = "deer"
    (folder / "state.json").write_text(json.dumps({"state": state}))
    (folder / "metrics.json").write_text(json.dumps({"labels": list(labels), "split": {"rule": rule}}))
    scanned = [(name, truth.get(name, "deer"), "", "ok", "", f"sha of {name}") for name in parts]
    scanned.append(("deer/broken.jpg", "deer", "", "unreadable", "broken", ""))
    write_csv(folder / "scan.csv", ("path", "label", "part", "status", "reason", "sha256"), scanned)
    grouped = {name: (groups[number] if groups else name) for number, name in enumerate(names)}
    split = [(name, truth.get(name, "deer"), part, grouped.get(name, name)) for name, part in parts.items()]
    write_csv(folder / "split.csv", ("path", "label", "part", "group"), split)
    predicted = []
    for name, good in zip(names, right, strict=True):
        if parts[name] == "test":
            other = labels[1 - labels.index(truth[name])]
            predicted.append((name, "test", truth[name], truth[name] if good else other, "0.9"))
    predicted.append(("deer/val.jpg", "val", "deer", "fox", "0.9"))
    write_csv(folder / "predictions.csv", ("path", "part", "label", "predicted", "score"), predicted)
    return folder


def comparison_of(*folders):
    runs = [read_answers(folder) for folder in folders]
    return compared(runs, shared_photos(runs))


def answers(both, only_first, only_second, neither):
    """Whether each photo is right by the first run and by the second."""
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


def test_a_better_run_is_named_with_its_numbers(tmp_path):
    """60 photos right by both, 2 by the first alone, 14 by the second: the exact p, the interval, the sentence."""
    first, second = answers(60, 2, 14, 4)
    got = comparison_of(write_run(tmp_path / "a", first), write_run(tmp_path / "b", second))
    (pair,) = got.pairs
    assert (pair.only_first_right, pair.only_second_right) == (2, 14)
    assert pair.difference == pytest.approx(12 / 80)
    assert pair.p == pair.p_corrected == pytest.approx(stats.binomtest(2, 16).pvalue)
    assert pair.test == "exact"
    assert pair.interval[0] > 0
    assert pair.better == str(tmp_path / "b")
    assert pair.sentence.startswith(f"{tmp_path / 'b'} is better than {tmp_path / 'a'}: 92.5% right against 77.5% on")
    assert "80 photos, +15.0 points (95 % interval +" in pair.sentence
    assert [row.right_count for row in got.runs] == [62, 74]
    wilson = stats.binomtest(62, 80).proportion_ci(method="wilson")
    assert got.runs[0].accuracy_interval == pytest.approx((wilson.low, wilson.high), abs=1e-9)


def test_the_order_of_runs_changes_the_sign_and_nothing_else(tmp_path):
    """Named the other way round the same run is better, by as much."""
    first, second = answers(60, 2, 14, 4)
    a, b = write_run(tmp_path / "a", first), write_run(tmp_path / "b", second)
    one, other = comparison_of(a, b).pairs[0], comparison_of(b, a).pairs[0]
    assert one.sentence == other.sentence
    assert one.difference == -other.difference
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))


def test_a_difference_that_chance_explains_is_no_evidence(tmp_path):
    """Five photos against none are not enough (exact p 0.0625): nobody is called better."""
    first, second = answers(50, 0, 5, 5)
    (pair,) = comparison_of(write_run(tmp_path / "a", first), write_run(tmp_path / "b", second)).pairs
    assert pair.p == pytest.approx(0.0625)
    assert pair.better is None
    assert pair.sentence.startswith("no evidence of a difference between ")
    assert "-8.3 points (95 % interval -" in pair.sentence


def test_photos_of_one_burst_count_once(tmp_path):
    """The same twelve photos in two bursts: McNemar's p is small, the interval over groups has 0 in it."""
    first, second = answers(60, 0, 12, 8)
    groups = [f"single {number}" for number in range(60)] + ["burst"] * 12 + [f"more {number}" for number in range(8)]
    runs = [write_run(tmp_path / name, right, groups=groups) for name, right in (("a", first), ("b", second))]
    (pair,) = comparison_of(*runs).pairs
    assert pair.p < 0.001
    assert pair.interval[0] < 0 < pair.interval[1]
    assert pair.better is None


def test_photos_that_no_rule_grouped_are_not_called_independent(tmp_path):
    """Intervals of runs without groups say what they are worth; where one run knows groups, those are taken."""
    rows = [
        write_run(tmp_path / name, [True] * 40, rule=rule, groups=groups)
        for name, rule, groups in (("a", "none", None), ("b", "none", None), ("c", "folder", ["x", "y"] * 20))
    ]
    alone, known = comparison_of(*rows[:2]), comparison_of(*rows[1:])
    doubt = "as if each image were independent; bursts make it too narrow"
    assert (alone.group_count, known.group_count) == (None, 2)
    assert f"\non 40 test photos that all runs share; {doubt}\n" in table(alone)
    assert alone.pairs[0].sentence.endswith(f"; {doubt})")
    assert "\non 40 test photos in 2 groups that all runs share; 2 groups" in table(known)
    assert doubt not in table(known)


def test_photos_of_one_site_name_no_winner(tmp_path):
    """Right on all 100 photos of one site against 50: no interval, nobody is better, and the reason is told."""
    runs = [
        write_run(tmp_path / name, [True] * count + [False] * (100 - count), groups=["site"] * 100)
        for name, count in (("a", 50), ("b", 100))
    ]
    got = comparison_of(*runs)
    assert (got.group_count, got.pairs[0].interval, got.pairs[0].better) == (1, None, None)
    assert got.pairs[0].p < 0.001
    assert "-50.0 points (no interval: the photos are one group; " in got.pairs[0].sentence


def test_groups_that_are_not_nested_are_joined(tmp_path):
    """One run groups by pairs, the other by pairs shifted by one from photo 4 on: what either joins is joined."""
    pairs = [f"pair {number // 2}" for number in range(10)]
    shifted = [f"one {number}" for number in range(4)] + [f"shifted {(number + 1) // 2}" for number in range(4, 10)]
    runs = [write_run(tmp_path / name, [True] * 10, groups=groups) for name, groups in (("a", pairs), ("b", shifted))]
    got = comparison_of(*runs)
    # Of 0 1 | 2 3 | 4 5 | 6 7 | 8 9 and 4 | 5 6 | 7 8 | 9 the last six hang together.
    assert got.group_count == 3


def test_few_groups_are_told_in_the_table(tmp_path):
    """29 groups of photos are called few beside the runs' intervals, 30 are not."""
    for count, few in ((29, True), (30, False)):
        groups = [str(number % count) for number in range(60)]
        runs = [write_run(tmp_path / f"{name}{count}", [True] * 60, groups=groups) for name in "ab"]
        (line,) = [line for line in table(comparison_of(*runs)).splitlines() if "test photos in" in line]
        assert line.endswith(
            f"{count} groups that all runs share" + "; 29 groups of photos are few for an interval" * few
        )


def test_more_than_two_runs_are_corrected_for(tmp_path):
    """Three runs make three pairs, and each p is Holm's of the three."""
    chance = np.random.default_rng(0)
    folders = [
        write_run(tmp_path / name, (chance.random(200) < share).tolist())
        for name, share in (("a", 0.7), ("b", 0.8), ("c", 0.95))
    ]
    got = comparison_of(*folders)
    assert [(pair.first[-1], pair.second[-1]) for pair in got.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    ordered = sorted(got.pairs, key=lambda pair: pair.p)
    assert ordered[0].p_corrected == pytest.approx(3 * ordered[0].p)
    assert all(pair.p_corrected >= pair.p for pair in got.pairs)
    assert "corrected for 3 pairs (Holm)" in table(got)


def test_classes_that_differ_most_come_first(tmp_path):
    """The fox is found in ten more photos, the deer in one: the fox is named first, with its counts."""
    first, second = [False] * 40, [(number % 2 == 1 and number < 20) or number == 0 for number in range(40)]
    got = comparison_of(write_run(tmp_path / "a", first), write_run(tmp_path / "b", second))
    rows = [{"label": "fox", "image_count": 20, "first_right": 0, "second_right": 10}]
    rows += [{"label": "deer", "image_count": 20, "first_right": 0, "second_right": 1}]
    assert got.pairs[0].classes == rows
    assert f"  fox: 0 of 20 right by {tmp_path / 'a'}, 10 by {tmp_path / 'b'}" in table(got)
    assert got.runs[1].balanced_accuracy == pytest.approx((10 / 20 + 1 / 20) / 2)


def test_only_photos_that_all_tested_are_compared(tmp_path):
    """A run with eight more test photos is compared on the shared ones, and the eight are counted."""
    a = write_run(tmp_path / "a", [True] * 30)
    b = write_run(tmp_path / "b", [True] * 38)
    got = comparison_of(a, b)
    assert got.image_count == 30
    assert [row.left_out_count for row in got.runs] == [0, 8]
    assert f"8 further test photos of {b} are not among them" in table(got)


def test_photos_are_known_by_their_contents(tmp_path):
    """The same photos under other names are the same photos."""
    a, b = write_run(tmp_path / "a", [True] * 10), write_run(tmp_path / "b", [True] * 10)
    for name in ("scan.csv", "split.csv", "predictions.csv"):
        text = (b / name).read_text()
        (b / name).write_text(text.replace("deer/0", "deer/moved-0").replace("sha of deer/moved-0", "sha of deer/0"))
    assert comparison_of(a, b).image_count == 10


def test_what_cannot_be_compared_is_refused(tmp_path):
    """Other classes, photos known by heart, changed labels, unfinished runs, studies, nothing shared: sentences."""
    a = write_run(tmp_path / "a", [True] * 6)
    cases = {
        "other classes apart": write_run(tmp_path / "classes", [True] * 6, labels=("deer", "hog")),
        "3 of the 6 test photos of .*a were trained on in .*seen, e.g. deer/000.jpg": write_run(
            tmp_path / "seen",
            [True] * 6,
            parts={f"{LABELS[number % 2]}/{number:03}.jpg": "train" for number in range(3)},
        ),
        "1 test photos have another class in .*changed": write_run(tmp_path / "changed", [True] * 6, relabelled=(2,)),
        "is interrupted, not done": write_run(tmp_path / "stopped", [True] * 6, state="interrupted"),
        "no test photo in common": write_run(tmp_path / "others", [True] * 6, first_photo=500),
        "there is no folder .*nowhere": tmp_path / "nowhere",
        "state.json cannot be read": tmp_path,
    }
    study = write_run(tmp_path / "study", [True] * 6)
    (study / "study.json").write_text("{}")
    cases["is a study; its points are no runs"] = study
    with_runs = write_run(tmp_path / "unfrozen", [True] * 6)
    (with_runs / "study.json").write_text("{}")
    write_run(with_runs / "points" / "10-1", [True] * 6)
    cases["is a study; name runs, such as those under .*points"] = with_runs
    for sentence, other in cases.items():
        with pytest.raises(UsageError, match=sentence):
            comparison_of(a, other)


def test_the_verb_prints_and_writes_without_torch(tmp_path):
    """`trainer compare` prints the table, writes the JSON, exits 0; one run, or the same twice, is a usage error."""
    first, second = answers(60, 2, 14, 4)
    a, b = write_run(tmp_path / "a", first), write_run(tmp_path / "b", second)
    code = (
        "import sys; from trainer.cli import main; code = main(); "
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules; sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "compare", a, b, "--json", tmp_path / "out" / "compared.json"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out" / "compared.json").read_text())
    assert facts["pairs"][0]["sentence"] in done.stdout
    assert facts["image_count"] == 80
    for runs in ((a,), (a, a), (a, b, tmp_path / "out" / ".." / "a")):
        done = subprocess.run([TRAINER, "compare", *map(str, runs)], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "name two or more different run folders" in done.stderr
