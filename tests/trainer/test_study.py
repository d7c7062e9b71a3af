"""Studies by the function and by the console script: one test part, points that are kept, the same answer as a run."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.config import StudyConfig
from trainer.errors import UsageError
from trainer.run_folder import open_run
from trainer.study.work import check_folder, finished_study, study

# The first to import torch waits for it, on a busy machine for minutes.
pytestmark = pytest.mark.timeout(500)

TRAINER = Path(sys.executable).parent / "trainer"
NETWORK = ("--backbone", "squeezenet1_1", "--image-px", "32", "--batch-size", "8")


class Told:
    """A report that keeps what it is told, and interrupts where a phase is so far."""

    def __init__(self, stop_at=None):
        self.said, self.phases, self._stop_at = [], [], stop_at

    def say(self, sentence):
        """Keeps a sentence."""
        self.said.append(sentence)

    def progress(self, event):
        """Keeps a phase's name and count."""
        self.phases.append((event.phase, event.done))
        if self.phases[-1] == self._stop_at:
            raise KeyboardInterrupt


@pytest.fixture(name="home", scope="module")
def _home(tmp_path_factory, draw):
    """A folder with photos of three colours and random weights."""
    import torch

    from trainer import backbone

    home = tmp_path_factory.mktemp("study")
    draw(home / "photos", count=24)
    torch.manual_seed(0)
    built = backbone.build("squeezenet1_1", label_count=1000, image_px=32, weights="none")
    torch.save(built.network.state_dict(), home / "weights.pth")
    return home


def config_of(home, out, *more):
    words = [home / "photos", "--out", out, "--cache-dir", home / "cache", "--weights", home / "weights.pth", *NETWORK]
    return StudyConfig(_cli_parse_args=[str(word) for word in (*words, *more)])


def run_study(config, told=None):
    """What `trainer study` does, told to a report; gives its result."""
    check_folder(config.out)
    with open_run(config.out, config.identity()) as folder:
        return finished_study(config, folder) or study(config, folder, told or Told())


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def timeless(path):
    """The rows of a study's table without the time each took."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows_of(path)]


@pytest.fixture(name="whole", scope="module")
def _whole(home):
    """A finished study of three sizes, its result and what it told."""
    told = Told()
    return home, home / "whole", run_study(config_of(home, home / "whole", "--sizes", "2,all,6"), told), told


def test_a_study_leaves_what_it_promises(whole):
    """Every size and repeat has a row, tested on the same photos; figures, curve and a matrix a size are there."""
    _, out, result, _ = whole
    rows = rows_of(out / "study.csv")
    assert [(row["size"], row["repeat"]) for row in rows] == [
        (size, str(n)) for size in ("2", "6", "all") for n in (1, 2, 3)
    ]
    assert [row["train_image_count"] for row in rows] == ["6"] * 3 + ["18"] * 3 + [rows[-1]["train_image_count"]] * 3
    summary = json.loads((out / "study.json").read_text())
    test = [row["path"] for row in rows_of(out / "split.csv") if row["part"] == "test"]
    assert summary["test"]["image_count"] == len(test) >= 9
    tested = {
        name.name: [row["path"] for row in rows_of(name / "predictions.csv")] for name in (out / "points").iterdir()
    }
    assert len(tested) == 9
    assert all(paths == test for paths in tested.values())
    for row in rows:
        point = json.loads((out / "points" / f"{row['size']}-{row['repeat']}" / "point.json").read_text())
        assert point["right"].count("1") / len(test) == pytest.approx(float(row["accuracy"]))
    for name in ("study.png", *(f"plots/confusion_matrix_{size}.png" for size in ("2", "6", "all"))):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert not (out / "epochs.csv").exists()
    assert summary["more_images"]["sentence"] in result
    assert json.loads((out / "state.json").read_text())["state"] == "done"


def test_a_photo_touched_during_the_scan_is_looked_at_again(whole):
    """What happens to a photo while the study looks at them is not taken as seen."""
    home, out, result, _ = whole
    config, photo = config_of(home, out, "--sizes", "2,all,6"), home / "photos" / "red" / "000.png"

    class Touching(Told):
        """A report that touches a photo as the scan begins."""

        def progress(self, event):
            """Touches it, the first time."""
            if event.phase == "scan" and not self.phases:
                os.utime(photo, (10**9, 10**9))
            super().progress(event)

    os.utime(photo, (10**9 + 1, 10**9 + 1))
    assert run_study(config, Touching()) == result
    with open_run(out, config.identity()) as folder:
        assert finished_study(config, folder) is None
    told = Told()
    assert run_study(config, told) == result
    assert "scan" in dict(told.phases)
    with open_run(out, config.identity()) as folder:
        assert finished_study(config, folder) == result


def test_features_are_computed_once_for_all_points(whole):
    """Nine heads, and the training and the test part went through the backbone once."""
    _, _, _, told = whole
    last = dict(told.phases)
    counts = {part: sum(phase == part for phase, _ in told.phases) for part in ("features", "test features")}
    assert last["study"] == 9
    assert len({done for phase, done in told.phases if phase == "features"}) == counts["features"]
    assert len({done for phase, done in told.phases if phase == "test features"}) == counts["test features"]


@pytest.mark.full
def test_the_point_of_all_photos_is_what_a_run_gives(whole, tmp_path):
    """The first repeat of `all` has the answers of `trainer run --epochs 0` on the same test photos, to 1e-4."""
    home, out, _, _ = whole
    words = [home / "photos", "--out", tmp_path / "run", "--cache-dir", home / "cache", "--epochs", "0"]
    command = [str(word) for word in (TRAINER, "run", *words, "--weights", home / "weights.pth", *NETWORK)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = {row["path"]: row for row in rows_of(tmp_path / "run" / "predictions.csv") if row["part"] == "test"}
    got = {row["path"]: row for row in rows_of(out / "points" / "all-1" / "predictions.csv")}
    assert got.keys() == expected.keys()
    for path, row in got.items():
        for name in ("probability_red", "probability_green", "probability_blue"):
            assert float(row[name]) == pytest.approx(float(expected[path][name]), abs=1e-4)


def test_the_same_command_prints_the_result_and_does_nothing(whole):
    """A finished study answers at once; nothing is written and nothing computed."""
    home, out, result, _ = whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    told = Told()
    assert run_study(config_of(home, out, "--sizes", "2,6,all"), told) == result
    assert told.phases == told.said == []
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.full
def test_stopped_and_asked_again_it_goes_on(whole):
    """Ctrl-C keeps the points that are done; the same command trains the others and ends with the unbroken figures."""
    home, unbroken, _, _ = whole
    config = config_of(home, home / "stopped", "--sizes", "2,6,all")
    with pytest.raises(KeyboardInterrupt):
        run_study(config, Told(stop_at=("study", 4)))
    assert json.loads((config.out / "state.json").read_text())["state"] == "interrupted"
    kept = {path: path.read_bytes() for path in (config.out / "points").rglob("*.json")}
    assert len(kept) == len(rows_of(config.out / "study.csv")) == 4
    told = Told()
    run_study(config, told)
    assert "9 points, each tested on" in " ".join(told.said)
    assert "4 are there already" in " ".join(told.said)
    assert not [phase for phase, _ in told.phases if "features" in phase]
    assert {path: path.read_bytes() for path in kept} == kept
    assert timeless(config.out / "study.csv") == timeless(unbroken / "study.csv")


@pytest.mark.full
def test_more_sizes_may_be_asked_for_later(whole):
    """Points of earlier sizes are kept, and those of other sizes do not change them."""
    home, unbroken, _, _ = whole
    out = home / "grown"
    run_study(config_of(home, out, "--sizes", "2,all"))
    told = Told()
    run_study(config_of(home, out, "--sizes", "2,6,all"), told)
    assert "6 are there already" in " ".join(told.said)
    assert timeless(out / "study.csv") == timeless(unbroken / "study.csv")


def test_another_study_or_a_run_is_refused(whole, tmp_path):
    """Other options, other photos and the folder of a run are usage errors, and nothing there changes."""
    home, out, _, _ = whole
    with pytest.raises(UsageError, match=r"--seed was 0, now 1"):
        run_study(config_of(home, out, "--sizes", "2,6,all", "--seed", "1"))
    with open_run(tmp_path / "run", {"epochs": 0}) as folder:
        folder.set_state("running")
    with pytest.raises(UsageError, match="holds a run and no study"):
        run_study(config_of(home, tmp_path / "run", "--sizes", "2"))


def test_a_size_that_only_the_split_forbids_names_the_class(home, tmp_path):
    """20 of 24 photos are there, but not to train on: the class and what is left of it, before any training."""
    told = Told()
    config = config_of(home, tmp_path / "study", "--sizes", "2,20")
    with pytest.raises(UsageError, match=r"--sizes: 20 photos of \w+ cannot be had: there are 1[67] to train on"):
        run_study(config, told)
    assert {phase for phase, _ in told.phases} <= {"scan"}
    assert not (config.out / "points").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--sizes", "2,25"), "25 photos of blue cannot be had: there are 24 files"),
        (("--sizes", "2,some"), "--sizes: each size is a number of photos a class, or all"),
        (("--sizes", "0,all"), "--sizes: each size is a number"),
        ((), "--sizes is required"),
        (("--sizes", "2", "--repeats", "2"), "--repeats: must be greater than or equal to 3"),
        (("--sizes", "2", "--fit", "auto"), "--fit auto would choose by photos that small sizes lack"),
        (("--sizes", "2", "--weights", "none"), "trains nothing"),
    ],
)
def test_wrong_options_are_a_sentence_at_once(home, tmp_path, options, sentence):
    """Exit 2, a sentence, no traceback, no folder."""
    words = [TRAINER, "study", home / "photos", "--out", tmp_path / "study", *options]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "study").exists()


def test_torchrun_is_refused(home, tmp_path):
    """A study trains in one process, and says so."""
    words = [TRAINER, "study", home / "photos", "--out", tmp_path / "study", "--sizes", "2"]
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
    )
    assert done.returncode == 2
    assert "start it without torchrun" in done.stderr


@pytest.mark.full
@pytest.mark.timeout(900)
def test_with_epochs_each_point_is_a_run(home, tmp_path):
    """Every point has a run's folder that `compare` and `evaluate` take; epochs of each size are listed and drawn."""
    words = [home / "photos", "--out", tmp_path / "study", "--cache-dir", home / "cache", "--sizes", "4,all"]
    options = ("--weights", "none", "--epochs", "2", "--learning-rate", "0.003", *NETWORK[2:])
    command = [str(word) for word in (TRAINER, "study", *words, "--backbone", "mobilenet_v3_small", *options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "study"
    epochs = rows_of(out / "epochs.csv")
    assert {(row["size"], row["repeat"]) for row in epochs} == {(size, n) for size in ("4", "all") for n in "123"}
    assert max(int(row["epoch"]) for row in epochs) >= 1
    assert (out / "plots" / "epochs.png").read_bytes().startswith(b"\x89PNG")
    for name in ("4-1", "all-3"):
        run = out / "points" / name
        assert json.loads((run / "state.json").read_text())["state"] == "done"
        assert (run / "model.onnx").is_file()
        assert (run / "plots" / "curves.png").is_file()
        assert not (run / "checkpoint").exists()
        metrics = json.loads((run / "metrics.json").read_text())
        assert np.array(metrics["confusion"]).sum() == metrics["test"]["image_count"]
    compared = subprocess.run(
        [TRAINER, "compare", out / "points" / "4-1", out / "points" / "all-1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compared.returncode == 0, compared.stderr
    # The same command does nothing more.
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.stdout == done.stdout
    assert again.stderr == ""


def test_points_of_another_device_are_trained_alike(whole):
    """A study that goes on where there is no GPU keeps the batch size that its first points had."""
    home, out, _, _ = whole
    plan = json.loads((out / "plan.json").read_text())
    assert plan["batch_size"] == 8
    try:
        (out / "plan.json").write_text(json.dumps(plan | {"batch_size": 64, "features_in_bfloat16": False}))
        run_study(config_of(home, out, "--sizes", "2,4,all,6"))
        again = json.loads((out / "plan.json").read_text())
        assert (again["batch_size"], again["features_in_bfloat16"]) == (64, False)
    finally:
        (out / "plan.json").write_text(json.dumps(plan))
