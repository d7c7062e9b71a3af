"""The pair as people use it: photos in, a served classifier out, by the console scripts."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

# A run imports torch and exports: a minute on a quiet machine, several on a busy one.
pytestmark = pytest.mark.timeout(500)

UNREADABLE = {
    "african_elephants_truncated_file.jpg",
    "broken.png",
    "broken_data_stream.png",
    "empty.jpg",
    "text_named.jpg",
    "truncated_image.png",
    "truncated_jpeg.jpg",
    "zero_width.gif",
}
TOO_LARGE = {"decompression_bomb.gif"}


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, draw_jpegs, call):
    """A published run on turned JPEGs and, where the shared folder is there, every awkward file as a third class."""
    home = tmp_path_factory.mktemp("pair")
    photos = home / "photos"
    draw_jpegs(photos / "bright", (180, 170, 150), count=20, seed=1)
    draw_jpegs(photos / "dark", (20, 30, 25), count=20, seed=2)
    if shared := os.environ.get("TRAPLINE_SHARED"):
        shutil.copytree(Path(shared) / "data" / "awkward", photos / "odd")
    call(
        *("trainer", "run", photos, "--out", home / "run", "--backbone", "resnet18", "--weights", "none"),
        *("--image-px", "64", "--epochs", "2", "--batch-size", "8", "--cache-dir", home / "cache"),
        *("--publish", home / "models", "--model-id", "pair", "--group-by", "none"),
        timeout_seconds=400,
    )
    return home


def test_served_answers_equal_the_checkpoints(trained, call, serving, answers_match):
    """No skew: over gRPC each test photo gets the checkpoint's best class and its probabilities to 1e-4."""
    answers = trained / "answers.csv"
    with serving(trained / "models") as address:
        options = ("--server", address, "--model", "pair", "--top-k", "3", "--out", answers)
        has_odd = (trained / "photos" / "odd").exists()
        done = call("trapline", "classify", trained / "photos", *options, code=1 if has_odd else 0)
        assert "pair" in call("trapline", "models", "--server", address).stdout
    assert answers_match(trained / "run", answers, trained / "photos") >= 6
    assert "images" in done.stderr


def test_awkward_files_get_what_they_deserve(trained, shared):
    """Of the awkward files a run lists the broken ones with a reason, trains on the rest, and finishes."""
    assert shared
    rows = {Path(row["path"]).name: row for row in rows_of(trained / "run" / "scan.csv") if row["label"] == "odd"}
    assert {name for name, row in rows.items() if row["status"] == "unreadable"} == UNREADABLE
    assert {name for name, row in rows.items() if row["status"] == "too_large"} == TOO_LARGE
    assert rows["README.md"]["status"] == "skipped"
    assert all(row["reason"] for row in rows.values() if row["status"] != "ok")
    # Two names, the same bytes: one of the two is trained on.
    assert {name for name, row in rows.items() if row["status"] == "duplicate"} == {"wrong_extension_is_png.jpg"}
    assert sum(row["status"] == "ok" for row in rows.values()) == len(rows) - 11


def test_awkward_files_are_rows_of_a_served_folder(trained, shared, call, serving):
    """The same files through the server: the broken ones are INVALID_ARGUMENT rows, the rest are answered."""
    assert shared
    answers = trained / "odd.csv"
    with serving(trained / "models") as address:
        options = ("--server", address, "--model", "pair", "--out", answers)
        call("trapline", "classify", trained / "photos" / "odd", *options, code=1)
        call("trapline", "classify", trained / "photos" / "bright", "--server", address, "--model", "pair")
    rows = {Path(row["path"]).name: row for row in rows_of(answers)}
    assert {name for name, row in rows.items() if row["status"] == "ok"} == set(rows) - UNREADABLE - TOO_LARGE
    for name in UNREADABLE | TOO_LARGE:
        reason = "IMAGE_TOO_LARGE" if name in TOO_LARGE else "IMAGE_UNREADABLE"
        assert (rows[name]["status"], rows[name]["reason"]) == ("INVALID_ARGUMENT", reason)


def test_a_broken_version_beside_a_good_one(trained, tmp_path, call, serving):
    """A broken file published as a newer version: reload fails with a sentence, the good one serves on, told why."""
    models = tmp_path / "models"
    shutil.copytree(trained / "models", models)
    with serving(models) as address:
        (models / "pair" / "2").mkdir()
        (models / "pair" / "2" / "model.onnx").write_bytes(b"not a model")
        done = call("trapline", "reload", "pair", "--server", address, code=1)
        assert "pair" in done.stderr
        listed = json.loads(call("trapline", "models", "--server", address, "--json").stdout)
        assert listed[0]["version"] == "1"
        assert listed[0]["lastError"]["message"]
        call("trapline", "classify", trained / "photos" / "dark", "--server", address, "--model", "pair")
