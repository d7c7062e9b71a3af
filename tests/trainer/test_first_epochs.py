"""What validation was taken for in the first epochs: told by fine-tuning, kept on disk, drawn beside the export's."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from trainer import backbone, first_epochs
from trainer.errors import TrainerError
from trainer.recipe import finetune
from trainer.recipe.part import Part, predict
from trainer.recipe.plan import Plan
from trainer.world import World

LABELS = ["cheap $5 deer", "dear $9 deer", "fox"]


def setting(folder, *, first=True):
    return SimpleNamespace(folder=folder, world=SimpleNamespace(first=first))


def data(targets):
    return SimpleNamespace(
        scan=SimpleNamespace(labels=tuple(LABELS)),
        positions=lambda part: list(range(len(targets))) if part == "val" else [],
        targets=lambda positions: np.array(targets)[positions],
    )


def metrics(*, epoch=2, history=({"epoch": 0}, {"epoch": 1}, {"epoch": 2})):
    confusion = [[2, 0, 0], [0, 1, 0], [0, 0, 1]]
    return {"history": list(history), "epoch": epoch, "labels": LABELS, "validation": {"confusion": confusion}}


def test_the_first_two_epochs_are_kept_and_drawn(tmp_path):
    """Epochs 0 and 1 have their counts, later ones leave nothing, and the picture is there, dollar signs and all."""
    photos = data([0, 0, 1, 2])
    for epoch, predicted in enumerate(([2, 2, 2, 2], [0, 2, 1, 2], [0, 0, 1, 2])):
        first_epochs.keep(setting(tmp_path), photos, epoch, np.array(predicted))
    rows = first_epochs.drawn(tmp_path, metrics())
    assert rows == [
        {"epoch": 0, "confusion": [[0, 0, 2], [0, 0, 1], [0, 0, 1]]},
        {"epoch": 1, "confusion": [[1, 0, 1], [0, 1, 0], [0, 0, 1]]},
    ]
    with Image.open(tmp_path / "plots" / "confusion_first_epochs.png") as image:
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(2**24)) > 20


def test_a_run_begun_again_forgets_what_an_earlier_one_kept(tmp_path):
    """Epoch 0 begins the file anew."""
    photos = data([0, 1, 2])
    for epoch in (0, 1, 0):
        first_epochs.keep(setting(tmp_path), photos, epoch, np.array([0, 1, 2]))
    assert [row["epoch"] for row in first_epochs.drawn(tmp_path, metrics())] == [0]


def test_nothing_is_kept_beside_the_first_process_or_without_epochs(tmp_path, monkeypatch):
    """Other processes write nothing, a run of the head alone draws nothing, a full disk does not end training."""
    photos = data([0, 1, 2])
    first_epochs.keep(setting(tmp_path, first=False), photos, 0, np.array([0, 1, 2]))
    assert not list(tmp_path.iterdir())
    assert first_epochs.drawn(tmp_path, metrics(epoch=0, history=())) == []
    assert first_epochs.drawn(tmp_path, metrics()) == []

    def full(*_arguments):
        raise TrainerError("the disk is full")

    monkeypatch.setattr(first_epochs, "write_json", full)
    first_epochs.keep(setting(tmp_path), photos, 0, np.array([0, 1, 2]))


@pytest.mark.timeout(300)
def test_fine_tuning_tells_what_validation_was_taken_for(tmp_path):
    """Each epoch once, the state before training first; what is told is what the history's accuracy counts."""
    chance = np.random.default_rng(0)
    targets = np.arange(12) % 2
    pixels = np.clip(chance.integers(0, 120, (12, 32, 32, 3)) + 100 * targets[:, None, None, None], 0, 255)
    pixels = pixels.astype(np.uint8)
    part = Part(
        pixels=lambda positions: pixels[list(positions)],
        targets=targets.astype(np.int64),
        names=[str(number) for number in range(12)],
    )
    torch.manual_seed(0)
    network = backbone.build("squeezenet1_1", label_count=2, image_px=32, weights="none")
    device = torch.device("cpu")
    before = predict(network, part, batch_size=8, device=device).argmax(axis=1).tolist()
    told, rows = [], []
    history = finetune.finetune(
        network,
        part,
        part,
        plan=Plan(epochs=2, batch_size=8, learning_rate=1e-4, patience=5, seed=4),
        device=device,
        world=World(),
        checkpoint=tmp_path,
        say=lambda _sentence: None,
        report=lambda _event: None,
        each=rows.append,
        answered=lambda epoch, predicted: told.append((epoch, predicted.tolist())),
    )
    assert [epoch for epoch, _ in told] == [row.epoch for row in rows] == [row.epoch for row in history] == [0, 1, 2]
    assert told[0][1] == before
    for row, (_, predicted) in zip(rows, told, strict=True):
        assert row.validation_accuracy == pytest.approx(np.mean(np.array(predicted) == targets))
    assert json.dumps(told)
