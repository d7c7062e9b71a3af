"""What takes minutes: real photos, real backbones, five seeds. `make test-full` runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.full, pytest.mark.timeout(3000)]
TOP = Path(__file__).parents[2]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "efficientnet_v2_s", "convnext_tiny", "vit_b_16"])
def test_one_epoch_without_weights(backbone, tmp_path, call, draw_jpegs):
    """Each kind of backbone trains, exports and agrees with its exported file, at 64 px from random weights."""
    draw_jpegs(tmp_path / "photos" / "bright", (180, 170, 150), count=24, seed=1)
    draw_jpegs(tmp_path / "photos" / "dark", (20, 30, 25), count=24, seed=2)
    call(
        *(
            "trainer",
            "run",
            tmp_path / "photos",
            "--out",
            tmp_path / "run",
            "--backbone",
            backbone,
            "--weights",
            "none",
        ),
        *("--image-px", "64", "--epochs", "1", "--batch-size", "8", "--cache-dir", tmp_path / "cache"),
        timeout_seconds=600,
    )
    parity = json.loads((tmp_path / "run" / "metrics.json").read_text())["parity"]
    assert parity["top1_agreement"] == 1
    assert parity["largest_difference"] <= 1e-4


def test_no_skew_on_trail_camera_photos(shared, tmp_path, call, serving, answers_match):
    """On trailcam, fine-tuned, every test photo's served answer is the checkpoint's, probabilities to 1e-4."""
    data = shared / "data" / "trailcam"
    call(
        *("trainer", "run", data, "--out", tmp_path / "run", "--backbone", "mobilenet_v2"),
        *("--weights", shared / "weights" / "mobilenet_v2.pth", "--epochs", "1", "--cache-dir", tmp_path / "cache"),
        *("--publish", tmp_path / "models", "--model-id", "trailcam"),
        timeout_seconds=900,
    )
    answers = tmp_path / "answers.csv"
    with serving(tmp_path / "models") as address:
        call(
            *("trapline", "classify", data, "--server", address, "--model", "trailcam"),
            "--top-k",
            "5",
            "--out",
            answers,
        )
    assert answers_match(tmp_path / "run", answers, data) >= 50


def test_the_head_beats_a_plain_linear_probe(shared, tmp_path):
    """Five real sets, each photo tested once by grouped folds: a point better pooled, and no set clearly behind."""
    assert shared
    path = tmp_path / "accuracy.json"
    command = [sys.executable, TOP / "benchmarks" / "accuracy.py", "--epochs", "0", "--json", path]
    subprocess.run(command, check=True, cwd=TOP)
    summary = json.loads(path.read_text())["summary"]
    assert summary["pooled"]["probe"]["points"] >= 1, summary["pooled"]
    assert all(row["probe"]["high"] >= 0 for row in summary.values()), summary
