"""Whole runs by the console script, on photos that a few steps learn."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from google.protobuf import json_format
from PIL import Image

from trapline import model_file
from trapline.v1 import train_pb2

# A run imports torch and exports: half a minute on a quiet machine, several on a busy one.
pytestmark = pytest.mark.timeout(500)

TRAINER = Path(sys.executable).parent / "trainer"
FAST = ("--backbone", "mobilenet_v3_small", "--weights", "none", "--image-px", "32", "--batch-size", "8")


def trainer(*arguments, code=0, **options):
    done = subprocess.run(
        [TRAINER, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=400, **options
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def command(photos, out, *more):
    return ("run", photos, "--out", out, *FAST, "--epochs", "2", "--cache-dir", out.parent / "cache", *more)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, draw):
    """One finished run, published; tests look at it and copy it."""
    home = tmp_path_factory.mktemp("whole")
    photos = draw(home / "photos")
    (photos / "red" / "broken.jpg").write_bytes(b"no image")
    (photos / "red" / "notes.txt").write_text("hello")
    shutil.copy(photos / "red" / "000.png", photos / "red" / "copy.png")
    done = trainer(*command(photos, home / "run", "--publish", home / "models", "--model-id", "colours"))
    return home, done


def test_a_run_leaves_what_it_promises(whole):
    """Every file of the run folder is there, says what it should, and the file explains itself."""
    home, done = whole
    run = home / "run"
    files = "model.onnx weights.safetensors metrics.json predictions.csv scan.csv split.csv plan.json state.json "
    files += "suspects.csv duplicates.csv report.html thumbnails.zip"
    assert set(files.split()) <= {path.name for path in run.iterdir()}
    for name in ("confusion_matrix", "confusion_matrix_shares", "curves", "sample", "predictions", "feature_maps"):
        assert (run / "plots" / f"{name}.png").stat().st_size > 5000
    told = json.loads((run / "pictures.json").read_text())
    assert all((run / picture["file"]).stat().st_size > 5000 for picture in told["pictures"])
    assert [picture["label"] for picture in told["pictures"] if picture["kind"] == "worst"] == ["blue", "green", "red"]
    assert told["non_zero_shares"]
    metrics = json.loads((run / "metrics.json").read_text())
    low, high = metrics["test"]["accuracy_interval"]
    assert low <= metrics["test"]["accuracy"] <= high
    assert set(metrics["classes"]) == {"red", "green", "blue"}
    assert np.array(metrics["confusion"]).sum() == metrics["test"]["image_count"]
    assert metrics["split"]["rule"] in {"near_duplicate", "none"}
    assert metrics["out_of_fold"] is None
    assert "no frozen stage" in metrics["suspects"]["sentence"]
    assert {row["severity"] for row in metrics["judgement"]} <= {"serious", "advice", "fine"}
    assert "small_test_part" in {row["code"] for row in metrics["judgement"]}
    metadata = model_file.from_properties(
        {prop.key: prop.value for prop in onnx.load(run / "model.onnx").metadata_props}
    )
    assert [label.id for label in metadata.labels] == ["blue", "green", "red"]
    assert metadata.preprocessing.height_px == 32
    assert metadata.model_id == "colours"
    assert metadata.evaluation.accuracy == metrics["test"]["accuracy"]
    assert metadata.temperature == metrics["calibration"]["temperature"]
    assert metadata.target_precision == metrics["thresholds"]["target_precision"]
    assert metadata.unknowns.method == metrics["unknowns"]["method"]
    thresholds = {label.id: label.threshold for label in metadata.labels if label.HasField("threshold")}
    chosen = {label: row["threshold"] for label, row in metrics["thresholds"]["classes"].items()}
    assert thresholds == pytest.approx({label: value for label, value in chosen.items() if value is not None})
    assert 0 <= metrics["thresholds"]["left_to_person_share"] <= 1
    assert metrics["calibration"]["validation_loss_after"] <= metrics["calibration"]["validation_loss_before"]
    assert metrics["parity"]["largest_unknown_difference"] < 1e-3
    assert json.loads((run / "state.json").read_text())["state"] == "done"
    assert f"{metrics['test']['accuracy']:.1%}" in done.stdout
    assert f"report: {run / 'report.html'}\n" in done.stdout
    first = {"model_id": "colours", "version": "1", "reason": "it is the first version of colours", "comparison": None}
    assert metrics["publication"] == first
    assert "Published as colours version 1: it is the first version" in (run / "report.html").read_text()
    assert f"{metrics['test']['accuracy']:.1%}" in (run / "report.html").read_text(encoding="utf-8")


def test_bad_files_are_listed_with_reasons(whole):
    """A broken file, a text and an exact copy are left out, each with its reason in scan.csv."""
    home, _ = whole
    with (home / "run" / "scan.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert rows["red/broken.jpg"]["status"] == "unreadable"
    assert rows["red/notes.txt"]["status"] == "skipped"
    assert rows["red/copy.png"]["status"] == "duplicate"
    assert "red/000.png" in rows["red/copy.png"]["reason"]
    assert rows["red/000.png"]["status"] == "ok"


def test_the_split_holds_every_photo_once(whole):
    """split.csv and predictions.csv agree: val and test are predicted, train is not."""
    home, _ = whole
    with (home / "run" / "split.csv").open(newline="") as file:
        parts = {row["path"]: row["part"] for row in csv.DictReader(file)}
    with (home / "run" / "predictions.csv").open(newline="") as file:
        predicted = {row["path"]: row["part"] for row in csv.DictReader(file)}
    assert predicted == {path: part for path, part in parts.items() if part != "train"}


def test_a_finished_run_answers_at_once_and_changes_nothing(whole):
    """The same command again prints the result, trains and publishes nothing, imports no torch."""
    home, done = whole
    before = bytes_of(home / "run")
    again = trainer(*command(home / "photos", home / "run", "--publish", home / "models", "--model-id", "colours"))
    assert again.stdout == done.stdout
    assert again.stderr == ""
    assert bytes_of(home / "run") == before
    assert [entry.name for entry in (home / "models" / "colours").iterdir()] == ["1"]


def test_a_moved_folder_is_the_same_data(whole, tmp_path):
    """Copied elsewhere, with new times, the photos are the run's own: the result comes without training."""
    home, done = whole
    shutil.copytree(home / "photos", tmp_path / "moved", copy_function=shutil.copyfile)
    shutil.copytree(home / "run", tmp_path / "run")
    more = ("--publish", home / "models", "--model-id", "colours")
    again = trainer(*command(tmp_path / "moved", tmp_path / "run", *more))
    assert again.stdout == done.stdout
    assert "fine-tune" not in again.stderr


def test_other_photos_are_refused_by_name(whole, tmp_path):
    """A run folder never silently becomes another data set's: the first changed files are named."""
    home, _ = whole
    shutil.copytree(home / "photos", tmp_path / "photos")
    shutil.copytree(home / "run", tmp_path / "run")
    (tmp_path / "photos" / "blue" / "001.png").unlink()
    more = ("--publish", home / "models", "--model-id", "colours")
    done = trainer(*command(tmp_path / "photos", tmp_path / "run", *more), code=2)
    assert "blue/001.png" in done.stderr
    assert json.loads((tmp_path / "run" / "state.json").read_text())["state"] == "done"


@pytest.mark.full
def test_an_equal_run_is_not_promoted(whole, tmp_path):
    """The same photos and options in another folder: the published file is asked, answers alike, and stays."""
    home, _ = whole
    models = shutil.copytree(home / "models", tmp_path / "models")
    more = ("--publish", models, "--model-id", "colours")
    done = trainer(*command(home / "photos", tmp_path / "run", *more))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    accuracy, count = metrics["test"]["accuracy"], metrics["test"]["image_count"]
    assert metrics["publication"]["version"] is None
    assert metrics["publication"]["comparison"] == {
        "version": "1",
        "image_count": count,
        "accuracy": pytest.approx(accuracy),
        "other_accuracy": pytest.approx(accuracy),
        "only_new_right_count": 0,
        "only_other_right_count": 0,
        "p_value": 1.0,
        "same_split": True,
    }
    assert f"not published: not better: right on {round(accuracy * count)} of {count} test photos" in done.stdout
    assert [entry.name for entry in (models / "colours").iterdir()] == ["1"]
    message = json_format.ParseDict(metrics["publication"], train_pb2.Publication())
    assert (message.version, message.comparison.image_count) == ("", count)


def test_evaluate_by_the_file_alone_equals_the_run(whole, tmp_path):
    """`trainer evaluate` on the test photos gives the accuracy that the run reported; unknown classes are counted."""
    home, _ = whole
    with (home / "run" / "split.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["part"] == "test":
                (tmp_path / "test" / row["label"]).mkdir(parents=True, exist_ok=True)
                shutil.copy(home / "photos" / row["path"], tmp_path / "test" / row["label"])
    (tmp_path / "test" / "purple").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "test" / "purple" / "a.png")
    trainer("evaluate", home / "run", tmp_path / "test", "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    metrics = json.loads((home / "run" / "metrics.json").read_text())
    assert figures["accuracy"] == metrics["test"]["accuracy"]
    assert figures["image_count"] == metrics["test"]["image_count"]
    assert figures["unknown_class_image_count"] == 1


def test_pictures_are_made_again(whole, tmp_path):
    """Plots and pictures come back from the folder and its photos; where these are gone, what is there stays."""
    from trainer.report.rebuild import rebuild

    home, _ = whole
    run = shutil.copytree(home / "run", tmp_path / "run")
    told = json.loads((run / "pictures.json").read_text())
    before = bytes_of(run / "plots")
    shutil.rmtree(run / "plots")
    (run / "pictures.json").unlink()
    said = []
    report = SimpleNamespace(say=said.append, progress=lambda _event: None)
    places = SimpleNamespace(data=None, cache_dir=None, cache_gib=20.0, images=True)
    assert rebuild(run, places, report)
    after = bytes_of(run / "plots")
    assert after.keys() == before.keys()
    for name in ("confusion_matrix.png", "curves.png", "sample.png", "model_summary.txt"):
        assert after[name] == before[name]
    again = json.loads((run / "pictures.json").read_text())
    shares = [[row["share"] for row in of["non_zero_shares"]] for of in (again, told)]
    assert shares[0] == pytest.approx(shares[1])
    shown = [[[photo["path"] for photo in picture["photos"]] for picture in of["pictures"]] for of in (again, told)]
    assert shown[0] == shown[1]
    (run / "plots" / "curves.png").unlink()
    places.data = tmp_path / "gone"
    assert said == []
    assert not rebuild(run, places, report)
    assert "the pictures of photos stay as they are: --data: there is no folder" in said[0]
    assert bytes_of(run / "plots") == after
    places.images = False
    assert not rebuild(run, places, report)
    left = {"confusion_matrix.png", "confusion_matrix_shares.png", "curves.png", "model_summary.txt"}
    assert bytes_of(run / "plots").keys() >= left
    assert not bytes_of(run / "plots").keys() & {Path(picture["file"]).name for picture in told["pictures"]}
    assert json.loads((run / "pictures.json").read_text())["pictures"] == []


def test_publish_copies_the_file_as_the_next_version(whole, tmp_path):
    """`trainer publish` takes a run, defaults to the id in the file, and copies its bytes."""
    home, _ = whole
    done = trainer("publish", home / "run", tmp_path / "models")
    assert "published colours version 1" in done.stdout
    published = tmp_path / "models" / "colours" / "1" / "model.onnx"
    assert published.read_bytes() == (home / "run" / "model.onnx").read_bytes()


def test_interrupted_and_resumed_equals_unbroken(whole, tmp_path):
    """Ctrl-C while it trains: exit 130, state `interrupted`; the same command again ends with the same weights."""
    home, _ = whole
    photos = home / "photos"
    arguments = command(photos, tmp_path / "run", "--publish", tmp_path / "models", "--model-id", "colours")
    process = subprocess.Popen(
        [TRAINER, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("split by"):
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=200)[1]
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert json.loads((tmp_path / "run" / "state.json").read_text())["state"] == "interrupted"
    trainer(*arguments)
    for name in ("weights.safetensors", "predictions.csv", "split.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (home / "run" / name).read_bytes()
