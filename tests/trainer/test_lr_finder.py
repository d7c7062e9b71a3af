"""The range test on a small network, its rule on drawn curves, and the verb by the console script."""

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import backbone
from trainer.errors import TrainerError
from trainer.recipe import finetune
from trainer.recipe.lr_finder import BOUNDS, find, read
from trainer.recipe.part import Part
from trainer.recipe.plan import Plan
from trainer.recipe.steps import Steps
from trainer.world import World

BIN = Path(sys.executable).parent
CPU = torch.device("cpu")
PLAN = Plan(epochs=3, batch_size=8, learning_rate=1e-3, patience=5, seed=4)
RATES = np.geomspace(1e-6, 1, 60)


def part(count, seed=0):
    chance = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    pixels = np.clip(chance.integers(0, 120, (count, 32, 32, 3)) + 100 * targets[:, None, None, None], 0, 255)
    pixels = pixels.astype(np.uint8)
    names = [f"{number}.png" for number in range(count)]
    return Part(pixels=lambda positions: pixels[list(positions)], targets=targets.astype(np.int64), names=names)


def build():
    torch.manual_seed(0)
    return backbone.build("mobilenet_v3_small", label_count=2, image_px=32, weights="none")


def found(network, *, plan=PLAN, told=None):
    return find(
        network,
        part(24),
        plan=plan,
        device=CPU,
        world=World(),
        report=lambda *event: told.append(event) if told is not None else None,
    )


def trained(network, folder, *, plan=PLAN):
    return finetune.finetune(
        network,
        part(24),
        part(10, seed=1),
        plan=plan,
        device=CPU,
        world=World(),
        checkpoint=folder,
        say=lambda _sentence: None,
        report=lambda _event: None,
    )


def tensors(network):
    return {name: value.numpy().tobytes() for name, value in network.network.state_dict().items()}


@pytest.mark.full
def test_the_network_is_as_it_was():
    """Weights, BatchNorm statistics, gradients and mode are the same after the range test as before it."""
    network = build()
    before, modes = tensors(network), [module.training for module in network.network.modules()]
    found(network)
    assert tensors(network) == before
    assert [module.training for module in network.network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.network.parameters())


@pytest.mark.full
def test_training_after_it_is_training_without_it(tmp_path):
    """Nothing of the range test leaks into the run: the same bytes come out with it and without it."""
    one, two = build(), build()
    found(one)
    histories = trained(one, tmp_path / "one"), trained(two, tmp_path / "two")
    assert histories[0] == histories[1]
    assert tensors(one) == tensors(two)


@pytest.fixture(name="untrained", scope="module")
def _untrained():
    """What is found for the network without weights, in a process that has done other things before."""
    torch.manual_seed(99)
    return found(build())


@pytest.mark.full
def test_the_same_seed_gives_the_same_curve(untrained):
    """Twice the same, step by step, whatever was drawn before; with another seed other batches."""
    assert found(build()) == untrained
    assert found(build(), plan=replace(PLAN, seed=5)).losses != untrained.losses


@pytest.mark.full
def test_a_network_that_is_fitted_breaks_down_early():
    """From a fitted network the loss lies flat and leaps: the test ends there, and tells its progress to the end."""
    network, told = build(), []
    steps = Steps(network, part(24), plan=PLAN, device=CPU, world=World())
    steps.train_mode()
    for epoch in range(1, 7):
        for step in range(steps.count):
            steps.take(steps.order(epoch), epoch=epoch, step=step, rate=1e-3)
    seen = found(network, told=told)
    assert max(seen.losses[:5]) < 0.3 < seen.losses[-1]
    assert seen.rises_from is not None
    assert len(seen.losses) < told[0][1]
    assert told[-1] == (len(seen.losses), len(seen.losses))


@pytest.mark.full
def test_the_suggestion_trains_and_a_hundred_times_it_does_not(untrained, tmp_path):
    """Without weights the training loss falls at the suggested rate, and stays far above at a hundred times it."""
    losses = {}
    for factor in (1, 100):
        rate = min(1.0, factor * untrained.suggestion)
        plan = replace(PLAN, epochs=5, learning_rate=rate)
        losses[factor] = [row.train_loss for row in trained(build(), tmp_path / str(factor), plan=plan)[1:]]
    assert losses[1][-1] < losses[1][0]
    assert losses[100][-1] > 2 * losses[1][-1]


def test_a_loss_that_is_no_number_from_the_start_is_a_sentence():
    """A network of NaN gives no rate: the sentence names the rate and images, and nothing is suggested."""
    network = build()
    with torch.no_grad():
        network.head.bias.fill_(math.nan)
    with pytest.raises(TrainerError, match=r"no number even at a learning rate of 1e-06, in the batch of \d+\.png"):
        found(network)


def noisy(curve, *, noise, seed=0):
    return (curve + np.random.default_rng(seed).normal(0, noise, len(curve))).clip(0).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_flat_curve_gives_a_tenth_of_where_it_rises(seed):
    """From a fitted head: noise before 3e-4 is no fall; the suggestion is a tenth of that, within a factor of two."""
    curve = 0.1 + 3 * np.clip(np.log10(RATES / 3e-4), 0, None)
    seen = read(RATES, noisy(curve, noise=0.04, seed=seed), chance=math.log(3))
    assert 1.5e-5 <= seen.suggestion <= 6e-5


@pytest.mark.parametrize("seed", range(5))
def test_a_curve_that_falls_first_gives_a_rate_on_its_fall(seed):
    """Without weights: down from 1e-4, up from 1e-2; the suggestion lies where it falls, a tenth of the rise."""
    fall, rise = np.clip(np.log10(RATES / 1e-4), 0, 2), np.clip(np.log10(RATES / 1e-2), 0, None)
    seen = read(RATES, noisy(1.1 - 0.3 * fall + 2 * rise, noise=0.05, seed=seed), chance=math.log(3))
    assert 5e-4 <= seen.suggestion <= 2e-3


def test_a_bump_before_the_rise_is_passed_over():
    """A loss that rises and comes back has not risen for good."""
    curve = 0.5 + np.exp(-((np.log10(RATES) + 4) ** 2) / 0.05) + 3 * np.clip(np.log10(RATES / 1e-2), 0, None)
    assert 5e-4 <= read(RATES, curve.tolist(), chance=math.log(3)).suggestion <= 2e-3


def test_a_loss_that_never_rises_gives_the_upper_bound():
    """Where even the highest rate does no harm, the bound is the answer, and the sentence says why."""
    seen = read(RATES, np.linspace(1, 0.2, len(RATES)).tolist(), chance=math.log(3))
    assert seen.rises_from is None
    assert seen.suggestion == BOUNDS[1]
    assert "did not rise at any rate up to 1.0e+00" in seen.sentence


@given(losses=st.lists(st.floats(0, 1e30), min_size=1, max_size=60), label_count=st.integers(2, 1000))
@settings(max_examples=200, deadline=None)
def test_any_curve_gives_a_rate_within_bounds(losses, label_count):
    """Whatever finite losses come, the suggestion is a number within the bounds, and the curve as long as they."""
    seen = read(RATES[: len(losses)], losses, chance=math.log(label_count))
    assert BOUNDS[0] <= seen.suggestion <= BOUNDS[1]
    assert len(seen.csv().splitlines()) == len(losses) + 1


def command(*words):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=400)
    assert "Traceback" not in done.stderr
    return done


SMALL = ("--backbone", "mobilenet_v3_small", "--weights", "none", "--image-px", "32", "--batch-size", "8")


@pytest.fixture(name="verb", scope="module")
def _verb(tmp_path_factory, draw):
    """What `trainer lr-find` left, and what it printed."""
    home = tmp_path_factory.mktemp("verb")
    draw(home / "photos")
    options = (*SMALL, "--cache-dir", home / "cache")
    done = command(BIN / "trainer", "lr-find", home / "photos", "--out", home / "found", *options)
    assert done.returncode == 0, done.stderr
    return home, options, done


@pytest.mark.timeout(500)
def test_the_verb_writes_the_curve_and_says_the_rate(verb):
    """PNG, CSV and JSON are there and agree with the sentence; the folder is no run's."""
    home, _, done = verb
    facts = json.loads((home / "found" / "lr_find.json").read_text())
    assert done.stdout.splitlines()[0] == facts["sentence"]
    assert f"learning rate {facts['suggestion']:.1e} by the range test" in facts["sentence"]
    with (home / "found" / "lr_find.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["learning_rate"] for row in rows] == sorted(row["learning_rate"] for row in rows)
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["smoothed_loss"]) for row in rows)
    assert (home / "found" / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (home / "found").iterdir()} == {
        "lr_find.png",
        "lr_find.csv",
        "lr_find.json",
        "scan.csv",
        "split.csv",
    }


@pytest.mark.full
@pytest.mark.timeout(500)
def test_a_run_with_the_rate_auto_takes_the_verbs_rate(verb):
    """`--learning-rate auto` finds the very curve and rate of the verb, keeps both, and leaves events of each step."""
    home, options, _ = verb
    auto = ("--learning-rate", "auto", "--epochs", "1", *options)
    done = command(BIN / "trainer", "run", home / "photos", "--out", home / "run", *auto)
    assert done.returncode == 0, done.stderr
    facts = json.loads((home / "found" / "lr_find.json").read_text())
    assert json.loads((home / "run" / "plan.json").read_text())["learning_rate"] == facts["suggestion"]
    assert (home / "run" / "lr_find.csv").read_bytes() == (home / "found" / "lr_find.csv").read_bytes()
    assert (home / "run" / "plots" / "lr_find.png").is_file()
    assert facts["sentence"] in done.stderr
    events = b"".join(path.read_bytes() for path in sorted((home / "run" / "events").iterdir()))
    for tag in (b"train/loss", b"train/learning_rate", b"validation/accuracy", b"test/accuracy"):
        assert tag in events


@pytest.mark.timeout(500)
def test_other_peoples_files_are_left_alone(verb):
    """--out with other files in it is refused before any work, and nothing is written there."""
    home, options, _ = verb
    (home / "mine").mkdir()
    (home / "mine" / "thesis.txt").write_text("x")
    done = command(BIN / "trainer", "lr-find", home / "photos", "--out", home / "mine", *options)
    assert done.returncode == 2
    assert "has other files (thesis.txt)" in done.stderr
    assert [path.name for path in (home / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.full
@pytest.mark.timeout(500)
def test_two_processes_find_what_one_finds(verb):
    """Started by torchrun, both processes end, one of them speaks, and the rate is that of one process."""
    home, options, _ = verb
    words = ("--nproc-per-node", "2", "--no-python", BIN / "trainer", "lr-find", home / "photos")
    done = command(BIN / "torchrun", *words, "--out", home / "together", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("learning rate") == 1
    seen = [json.loads((home / name / "lr_find.json").read_text())["suggestion"] for name in ("found", "together")]
    # BatchNorm sees half of each batch in each process, so the curve is not the same to the digit.
    assert seen[0] / 3 < seen[1] < seen[0] * 3
