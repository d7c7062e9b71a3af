"""A cheaper file of a real backbone, from drawn photos to what the server loads. `make test-full` runs it."""

import csv
import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.full, pytest.mark.timeout(3000)]


def test_int8_of_resnet18_is_exported_published_and_served(tmp_path, call, serving):
    """The gate passes on drawn photos, and the server loads both files, serves one, and says which."""
    sample = tmp_path / "sample"
    call("trainer", "sample", sample, timeout_seconds=900)
    call(
        *("trainer", "run", sample / "photos", "--out", tmp_path / "run", "--backbone", "resnet18"),
        *("--weights", "none", "--image-px", "64", "--epochs", "20", "--cache-dir", tmp_path / "cache"),
        *("--publish", tmp_path / "models", "--model-id", "demo"),
        timeout_seconds=1800,
    )
    done = call(
        *("trainer", "export", tmp_path / "run", "--precision", "int8", "--publish", tmp_path / "models"),
        *("--model-id", "demo"),
        timeout_seconds=900,
    )
    record = json.loads((tmp_path / "run" / "precision_int8.json").read_text())
    assert record["passed"]
    assert record["image_count"] == 380 - record["calibration_image_count"]
    assert "published with demo version 1" in done.stdout
    said = call("server", "check", "--models", tmp_path / "models", "--device", "cpu", "--precision", "int8").stdout
    assert said.startswith("demo version 1: ok precision=int8 ")
    options = ("--device", "cpu", "--precision", "int8")
    with serving(tmp_path / "models", *options) as address:
        (model,) = json.loads(call("trapline", "models", "--server", address, "--json").stdout)
        assert (model["precision"], model["version"]) == ("int8", "1")
        answers = tmp_path / "answers.csv"
        call("trapline", "classify", sample / "unseen", "--server", address, "--model", "demo", "--out", answers)
    with (sample / "unseen.csv").open(newline="") as file:
        truth = {(sample / row["path"]).resolve(): row["label"] for row in csv.DictReader(file)}
    with answers.open(newline="") as file:
        right = [truth[Path(row["path"]).resolve()] == row["label_1"] for row in csv.DictReader(file)]
    assert len(right) == 24
    assert sum(right) >= 18
