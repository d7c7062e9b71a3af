"""Event files as TensorBoard's own format has them, read back record by record with their checksums."""

import resource
import struct
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from trainer import backbone
from trainer.recipe import finetune
from trainer.recipe.history import Epoch
from trainer.recipe.part import Part
from trainer.recipe.plan import Plan
from trainer.recipe.schedule import steps_in_epoch
from trainer.report.events import EventFile
from trainer.world import World


def events(folder):
    """Every event of the folder, in the order that TensorBoard reads them; each byte of each file must be right."""
    found = []
    for path in sorted(folder.iterdir()):
        assert "tfevents" in path.name
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            record, rest = data[12 : 12 + length], data[12 + length :]
            assert struct.unpack("<I", data[8:12]) == (masked_crc32c(data[:8]),)
            assert struct.unpack("<I", rest[:4]) == (masked_crc32c(record),)
            found.append(Event.FromString(record))
            data = rest[4:]
    return found


def curve(folder, tag):
    """Step and value of each point of one curve."""
    values = ((event.step, value) for event in events(folder) for value in event.summary.value)
    return [(step, value.simple_value) for step, value in values if value.tag == tag]


def steps(folder, tag="train/loss"):
    return [step for step, _ in curve(folder, tag)]


def row(epoch, train_loss=0.25):
    return Epoch(
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=0.5,
        validation_accuracy=0.75,
        learning_rate=0.1,
        standard_error=0.0,
    )


def silent(sentence):
    raise AssertionError(sentence)


def test_every_figure_is_read_back(tmp_path):
    """Steps, epochs and the test come back by the names and at the steps that they were told with."""
    with EventFile(tmp_path / "events", say=silent) as file:
        file.epoch(row(0, None), step=0)
        file.step(1, loss=2.0, rate=0.125)
        file.step(2, loss=1.0, rate=0.25)
        file.epoch(row(1), step=2)
    with EventFile(tmp_path / "events", say=silent) as file:
        file.test({"accuracy": 0.875}, step=2)
    folder = tmp_path / "events"
    assert curve(folder, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert curve(folder, "train/learning_rate") == [(1, 0.125), (2, 0.25)]
    assert curve(folder, "train/epoch_loss") == [(2, 0.25)]
    assert curve(folder, "validation/loss") == [(0, 0.5), (2, 0.5)]
    assert curve(folder, "validation/accuracy") == [(0, 0.75), (2, 0.75)]
    assert curve(folder, "test/accuracy") == [(2, 0.875)]
    assert events(folder)[0].file_version == "brain.Event:2"


def test_what_is_told_is_in_the_file_at_once(tmp_path):
    """A killed process loses nothing that it told: the file is whole after every call, without being closed."""
    file = EventFile(tmp_path, say=silent)
    for step in (1, 2, 3):
        file.step(step, loss=1.0, rate=0.1)
        assert steps(tmp_path)[-1] == step


def test_nothing_told_leaves_no_folder(tmp_path):
    """A run that trains nothing has no empty folder of events."""
    with EventFile(tmp_path / "events", say=silent):
        pass
    assert not (tmp_path / "events").exists()


def test_steps_taken_again_are_there_once(tmp_path):
    """Killed at step 7 and gone on from step 4, each step is there once, in order, with the value of the later try."""
    for first, last, loss in ((1, 7, 1.0), (5, 9, 2.0)):
        file = EventFile(tmp_path, say=silent)
        for step in range(first, last + 1):
            file.step(step, loss=loss, rate=0.1)
    assert curve(tmp_path, "train/loss") == [(step, 1.0 if step < 5 else 2.0) for step in range(1, 10)]
    (start,) = [
        event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START and event.step > 1
    ]
    assert start == 5


def test_a_record_that_was_cut_in_the_middle_is_dropped(tmp_path):
    """What a crash left of the last record does not hide the records that come after it."""
    file = EventFile(tmp_path, say=silent)
    for step in (1, 2, 3):
        file.step(step, loss=1.0, rate=0.1)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    EventFile(tmp_path, say=silent).step(3, loss=2.0, rate=0.1)
    assert curve(tmp_path, "train/loss") == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_test_figures_told_again_replace_the_old_ones(tmp_path):
    """A run killed after its test and finished by the next process has one test figure, and all its steps."""
    EventFile(tmp_path, say=silent).step(1, loss=1.0, rate=0.1)
    for accuracy in (0.5, 0.75):
        EventFile(tmp_path, say=silent).test({"accuracy": accuracy}, step=1)
    assert curve(tmp_path, "test/accuracy") == [(1, 0.75)]
    assert steps(tmp_path) == [1]


@contextmanager
def room(limit_bytes):
    """Inside, no file of this process can grow beyond the limit, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_nothing_but_time(tmp_path):
    """It is told once, stops nothing, and once there is room every step is there, none twice and none broken."""
    said = []
    with EventFile(tmp_path, say=said.append) as file:
        file.step(1, loss=1.0, rate=0.1)
        # In the middle of a record.
        with room(sum(path.stat().st_size for path in tmp_path.iterdir()) + 20):
            for step in (2, 3, 4):
                file.step(step, loss=1.0, rate=0.1)
        file.step(5, loss=1.0, rate=0.1)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    assert len(said) == 1
    assert str(tmp_path) in said[0]


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path):
    """Where a file stands in the folder's place, it is told once; gone, everything follows."""
    said = []
    (tmp_path / "events").write_text("in the way")
    with EventFile(tmp_path / "events", say=said.append) as file:
        file.step(1, loss=1.0, rate=0.1)
        file.step(2, loss=1.0, rate=0.1)
        assert len(said) == 1
        (tmp_path / "events").unlink()
        file.step(3, loss=1.0, rate=0.1)
    assert steps(tmp_path / "events") == [1, 2, 3]


class Stopped(Exception):
    pass


def part(count, seed):
    chance = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    pixels = np.clip(chance.integers(0, 120, (count, 32, 32, 3)) + 100 * targets[:, None, None, None], 0, 255)
    pixels = pixels.astype(np.uint8)
    names = [f"{number}.png" for number in range(count)]
    return Part(pixels=lambda positions: pixels[list(positions)], targets=targets.astype(np.int64), names=names)


PLAN = Plan(epochs=3, batch_size=8, learning_rate=1e-3, patience=5, seed=4, checkpoint_seconds=0.0)


def train(folder, *, stop_after=None, plan=PLAN):
    """Trains with one process's event file; stops after that many steps, as a kill would."""

    def report(event):
        if event.done == stop_after:
            raise Stopped

    torch.manual_seed(0)
    network = backbone.build("mobilenet_v3_small", label_count=2, image_px=32, weights="none")
    count = steps_in_epoch(19, plan.batch_size)
    file = EventFile(folder / "events", say=silent)
    return finetune.finetune(
        network,
        part(19, 0),
        part(10, 1),
        plan=plan,
        device=torch.device("cpu"),
        world=World(),
        checkpoint=folder / "checkpoint",
        say=silent,
        report=report,
        each=lambda row: file.epoch(row, step=row.epoch * count),
        taken=lambda step, loss, rate: file.step(step, loss=loss, rate=rate),
    )


TAGS = ("train/loss", "train/learning_rate", "train/epoch_loss", "validation/loss", "validation/accuracy")


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1000.0], ids=["inside epochs", "after epochs only"])
def test_a_run_stopped_twice_shows_the_curves_of_an_unbroken_one(tmp_path, checkpoint_seconds):
    """Wherever a run stops and from whichever checkpoint it goes on, no point is missing, doubled or different."""
    plan = replace(PLAN, checkpoint_seconds=checkpoint_seconds)
    history = train(tmp_path / "whole", plan=plan)
    for stop_after in (1, 5):
        with pytest.raises(Stopped):
            train(tmp_path / "broken", stop_after=stop_after, plan=plan)
    train(tmp_path / "broken", plan=plan)
    shown = {tag: curve(tmp_path / "broken" / "events", tag) for tag in TAGS}
    assert shown == {tag: curve(tmp_path / "whole" / "events", tag) for tag in TAGS}
    assert [step for step, _ in shown["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert shown["validation/loss"] == [(2 * row.epoch, pytest.approx(row.validation_loss)) for row in history]
