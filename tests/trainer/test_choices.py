"""Whole runs whose choices are their own: `--fit auto`, `--refit all`, `--balance auto`, from weights in a file."""

import json

import numpy as np
import onnx
import pytest
import torch
import torchvision
from PIL import Image

from trapline import model_file

pytestmark = pytest.mark.timeout(500)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A state dict of the right shape; features of chance tell colours apart well enough."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Wide photos whose class is a colour in their middle, on noise: a centre crop sees more of it; one rare class."""
    folder, chance = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, colour, count in (("red", 0, 30), ("green", 1, 30), ("blue", 2, 8)):
        (folder / label).mkdir()
        for number in range(count):
            pixels = chance.integers(0, 256, (48, 96, 3))
            pixels[8:40, 36:60] = 30
            pixels[8:40, 36:60, colour] = 220
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}.png")
    return folder


def run(forked, photos, weights, out, *options):
    command = ["run", photos, "--out", out, "--backbone", "mobilenet_v3_small", "--weights", weights]
    command += ["--image-px", "32", "--epochs", "0", "--cache-dir", out.parent / "cache", *options]
    code, said = forked(*command)
    assert code == 0, said
    metadata = model_file.from_properties(
        {prop.key: prop.value for prop in onnx.load(out / "model.onnx").metadata_props}
    )
    return said, json.loads((out / "plan.json").read_text()), json.loads((out / "metrics.json").read_text()), metadata


def test_fit_and_balance_are_chosen_told_and_kept(forked, photos, weights, tmp_path):
    """The table names the three fits, the winner is in plan and model file, and rare classes are told."""
    said, plan, _, metadata = run(forked, photos, weights, tmp_path / "run", "--fit", "auto", "--balance", "auto")
    assert set(plan["fits_compared"]) == {"stretch", "letterbox", "center_crop"}
    losses = {fit: row["loss"] for fit, row in plan["fits_compared"].items()}
    whole = min(("stretch", "letterbox"), key=losses.__getitem__)
    ahead = losses[whole] - losses["center_crop"] > plan["fits_compared"]["center_crop"]["standard_error"]
    assert plan["fit"] == ("center_crop" if ahead else whole)
    assert metadata.preprocessing.fit == model_file.Preprocessing.Fit.Value(f"FIT_{plan['fit'].upper()}")
    assert f"{plan['fit']:<12} loss {losses[plan['fit']]:.3f}" in said
    assert "<- taken" in said
    assert plan["balance"] == "loss"
    assert "--balance auto: the largest class has 3." in said


@pytest.mark.full
def test_refit_keeps_the_figures_and_says_so(forked, photos, weights, tmp_path):
    """The head changes, the test figures are those from before, and the model file tells."""
    _, _, plain, one = run(forked, photos, weights, tmp_path / "plain")
    said, _, again, two = run(forked, photos, weights, tmp_path / "again", "--refit", "all")
    assert again["test"] == plain["test"]
    assert (plain["refit"], again["refit"]) == ("none", "all")
    assert (one.refit, two.refit) == ("", "all")
    assert (tmp_path / "plain" / "predictions.csv").read_bytes() == (
        tmp_path / "again" / "predictions.csv"
    ).read_bytes()
    weights_of = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("plain", "again")]
    assert weights_of[0] != weights_of[1]
    assert "fitted again on every photo after the figures above were measured" in said
