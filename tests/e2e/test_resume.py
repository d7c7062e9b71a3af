"""Runs that are killed, starved of disk or of memory: what is said, and that the same command ends with equal bytes."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import onnx
import pytest

from trapline import model_file

# Runs that train and export: seconds on a quiet machine, minutes on a busy one.
pytestmark = pytest.mark.timeout(500)

SEED = 2211


@pytest.fixture(scope="module")
def unbroken(command, forked, tmp_path_factory):
    """A run that was never stopped, and its events: the phases that it went through, in order."""
    return finished(command, forked, tmp_path_factory.mktemp("unbroken") / "run")


def finished(command, forked, out, *more):
    events = out.with_suffix(".events")
    code, said = forked(*command(out, *more), events=str(events))
    assert code == 0, said
    # What fine-tuning gave is what is exported: of a run that kept its head the bytes would say little.
    assert json.loads((out / "metrics.json").read_text())["stage"] == "finetune"
    return out, events.read_text(encoding="utf-8").splitlines()


def assert_equal(out, reference):
    """Weights and predictions are the same bytes, the model too but for its export's time; nothing else is left."""
    for name in ("weights.safetensors", "predictions.csv", "split.csv"):
        assert (out / name).read_bytes() == (reference / name).read_bytes(), name
    assert timeless(out / "model.onnx") == timeless(reference / "model.onnx")
    assert json.loads((out / "metrics.json").read_text()) == json.loads((reference / "metrics.json").read_text())
    assert {path.relative_to(out) for path in out.rglob("*")} - events_of(out) == {
        path.relative_to(reference) for path in reference.rglob("*")
    } - events_of(reference)


def events_of(out):
    """TensorBoard files, one for each process that trained."""
    return {path.relative_to(out) for path in (out / "events").glob("*")}


def timeless(path):
    """The bytes of an exported model without the time of its export."""
    model = onnx.load(path)
    properties = {prop.key: prop.value for prop in model.metadata_props}
    metadata = model_file.from_properties(properties)
    assert metadata.HasField("export_time")
    metadata.ClearField("export_time")
    del model.metadata_props[:]
    return model.SerializeToString(deterministic=True) + metadata.SerializeToString(deterministic=True)


def of_phase(events, *phases):
    """The events of some phases."""
    return [event for event in events if event.rsplit(" ", 1)[0] in phases]


@pytest.mark.full
def test_killed_at_random_ends_with_equal_bytes(command, forked, unbroken, tmp_path):
    """Killed by -9 before fine-tuning and at a step of it: the same command again ends with an unbroken run's bytes."""
    reference, events = unbroken
    chance, out = random.Random(SEED), tmp_path / "run"
    moments = [chance.choice(of_phase(events, "features", "head")), chance.choice(of_phase(events, "fine-tune")[:-1])]
    for moment in moments:
        assert forked(*command(out), die_at=moment)[0] == -signal.SIGKILL, moment
        assert not (out / "model.onnx").exists()
    code, said = forked(*command(out))
    assert code == 0, said
    assert_equal(out, reference)


@pytest.mark.full
@pytest.mark.timeout(2000)
def test_killed_at_ten_random_steps_ends_with_equal_bytes(command, forked, unbroken, tmp_path):
    """Ten runs, each killed once: six at a step of fine-tuning, four around it, to the last check of the file."""
    reference, events = unbroken
    chance = random.Random(SEED)
    ends = [event for event in events if event.startswith(("say exporting", "parity"))]
    around = [of_phase(events, "features"), of_phase(events, "head"), of_phase(events, "validate", "test"), ends]
    steps = sorted(set(of_phase(events, "fine-tune")))
    moments = [chance.choice(some) for some in around] + chance.sample(steps, 6)
    for number, moment in enumerate(moments):
        out = tmp_path / str(number)
        assert forked(*command(out), die_at=moment)[0] == -signal.SIGKILL, moment
        code, said = forked(*command(out))
        assert code == 0, (moment, said)
        assert_equal(out, reference)


@pytest.mark.full
@pytest.mark.timeout(2000)
def test_killed_at_ten_random_times_ends_with_equal_bytes(command, forked, unbroken, tmp_path):
    """Killed by -9 from outside at any time, amid writing too: ten runs, some killed three times, the same bytes."""
    reference, _ = unbroken
    chance, killed = random.Random(SEED), 0
    began = time.monotonic()
    assert forked(*command(tmp_path / "timed"))[0] == 0
    seconds = time.monotonic() - began
    for number in range(10):
        out, code = tmp_path / str(number), -signal.SIGKILL
        for _ in range(1 + number % 3):
            code, said = forked(*command(out), kill_after=chance.uniform(0, seconds))
            assert code in (0, -signal.SIGKILL), (SEED, said)
            killed += code != 0
        code, said = forked(*command(out))
        assert code == 0, (SEED, number, said)
        assert_equal(out, reference)
    assert killed >= 8


@pytest.mark.full
@pytest.mark.timeout(2000)
def test_choices_made_before_training_are_made_once(command, forked, tmp_path):
    """With the fit and the rate chosen by the run, killed in each phase in turn, the bytes are an unbroken run's."""
    more = ("--fit", "auto", "--learning-rate", "auto", "--earliest-rate", "0.1")
    reference, events = finished(command, forked, tmp_path / "unbroken", *more)
    # A cache of its own: what the first run cached would not be scanned photo by photo.
    more, chance, out = (*more, "--cache-dir", tmp_path / "other"), random.Random(SEED), tmp_path / "run"
    phases = list(dict.fromkeys(event.rsplit(" ", 1)[0] for event in events if not event.startswith("say")))
    assert {"features stretch", "head letterbox", "features center_crop", "fine-tune"} <= set(phases)
    for phase in phases:
        moment = chance.choice(of_phase(events, phase))
        assert forked(*command(out, *more), die_at=moment)[0] == -signal.SIGKILL, moment
    code, said = forked(*command(out, *more))
    assert code == 0, said
    assert_equal(out, reference)


@pytest.mark.full
def test_another_class_list_is_refused_by_name(home, command, forked, unbroken, tmp_path):
    """A killed run is never gone on with by photos of other classes: exit 2, the first changed photos named."""
    _, events = unbroken
    out = tmp_path / "run"
    shutil.copytree(home / "photos", tmp_path / "photos")
    assert forked(*command(out, photos=tmp_path / "photos"), die_at=of_phase(events, "head")[0])[0] == -9
    assert (out / "plan.json").exists()
    (tmp_path / "photos" / "blue").rename(tmp_path / "photos" / "violet")
    code, said = forked(*command(out, photos=tmp_path / "photos"))
    assert code == 2
    sentence = said.splitlines()[-1]
    assert "holds a run of other photos" in sentence
    assert "blue/000.png" in sentence
    assert "name a new folder" in sentence


@pytest.mark.parametrize(
    ("more", "starved"),
    [
        (("--epochs", "0"), (("scan 0", 300), "8")),
        # Not sooner: what the estimate takes before it depends on the machine. There 100 to 500 MiB gave the same.
        (("--weights", "none"), (("say photos of each class", 300), "16")),
    ],
    ids=["features", "training"],
)
def test_too_little_memory_names_a_batch_size_to_try(command, forked, tmp_path, more, starved):
    """Where a batch does not fit, exit 1: half of a step's images, or of those that pass at once, is what to try."""
    (starve_at, smaller), out = starved, tmp_path / "run"
    more = (*more, "--image-px", "224", "--batch-size", "32")
    code, said = forked(*command(out, *more), starve_at=starve_at)
    assert code == 1, said
    sentence, steps = said.splitlines()[-1], r"(, whose steps have up to \d+ images)?"
    assert re.search(rf"there is not enough memory on cpu for --batch-size 32{steps}; try {smaller}$", sentence), said
    state = json.loads((out / "state.json").read_text())
    assert state["state"] == "failed"
    assert state["error"] in sentence


@contextmanager
def disk(folder, kib):
    """A disk of so many KiB at `folder`; gives the function that makes it one of so many MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield lambda mib: subprocess.run(["mount", "-o", f"remount,size={mib}m", folder], check=True)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.full
def test_a_full_disk_costs_checkpoints_and_not_the_run(command, forked, unbroken, tmp_path):
    """Where training leaves room for the results and none for a checkpoint, it says so once; the bytes are the same."""
    with disk(tmp_path / "disk", 200 * 1024):
        full = ("say this run takes", str(tmp_path / "disk" / "filler"), 12 * 2**20)
        out = tmp_path / "disk" / "run"
        code, said = forked(*command(out, "--cache-dir", tmp_path / "cache"), fill_at=full)
        assert code == 0, said
        assert said.count("no checkpoint was written: the disk of") == 1
        assert "Training goes on" in said
        for name in ("weights.safetensors", "predictions.csv"):
            assert (out / name).read_bytes() == (unbroken[0] / name).read_bytes()


@pytest.mark.full
@pytest.mark.parametrize("moment", ["features", "fine-tune", "test"])
def test_a_run_that_ended_by_a_full_disk_goes_on_when_there_is_room(command, forked, unbroken, tmp_path, moment):
    """Full while it runs: one sentence with the folder and what to do, exit 1, then the same command ends well."""
    with disk(tmp_path / "disk", 200 * 1024):
        out, cache, filler = (
            tmp_path / "disk" / "run",
            ("--cache-dir", tmp_path / "cache"),
            tmp_path / "disk" / "filler",
        )
        code, said = forked(*command(out, *cache), fill_at=(moment, str(filler), 0))
        assert code == 1, said
        sentence = said.splitlines()[-1]
        assert "disk" in sentence
        assert "is full" in sentence
        assert str(out) in sentence
        filler.unlink()
        code, said = forked(*command(out, *cache))
        assert code == 0, said
        assert_equal(out, unbroken[0])


@pytest.mark.full
def test_a_disk_that_is_too_small_is_told_before_the_run(command, forked, unbroken, tmp_path):
    """With less room than the run folder needs: exit 1 before training, with both figures; then it goes on."""
    with disk(tmp_path / "disk", 2 * 1024) as enlarge:
        out, cache = tmp_path / "disk" / "run", ("--cache-dir", tmp_path / "cache")
        code, said = forked(*command(out, *cache))
        assert code == 1, said
        assert re.search(rf"the disk of {out} has \d+ MiB free, and the run folder needs up to \d+ MiB", said), said
        enlarge(200)
        code, said = forked(*command(out, *cache))
        assert code == 0, said
        assert_equal(out, unbroken[0])


@pytest.mark.full
def test_a_disk_that_is_almost_full_when_a_run_goes_on(command, forked, unbroken, tmp_path):
    """With no room for the next checkpoint, and killed again: it goes on from the last whole one, to equal bytes."""
    with disk(tmp_path / "disk", 200 * 1024):
        out, cache, filler = (
            tmp_path / "disk" / "run",
            ("--cache-dir", tmp_path / "cache"),
            tmp_path / "disk" / "filler",
        )
        assert forked(*command(out, *cache), die_at="fine-tune 6")[0] == -signal.SIGKILL
        before = (out / "checkpoint" / "progress.safetensors").read_bytes()
        full = ("say this run takes", str(filler), 6 * 2**20)
        assert forked(*command(out, *cache), fill_at=full, die_at="fine-tune 18")[0] == -signal.SIGKILL
        assert (out / "checkpoint" / "progress.safetensors").read_bytes() == before
        filler.unlink()
        code, said = forked(*command(out, *cache))
        assert code == 0, said
        assert_equal(out, unbroken[0])
