from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision

from trainer.backbone import build
from trainer.head_stage import put_head
from trainer.out_of_fold import out_of_fold
from trainer.recipe.part import Part, predict
from trainer.recipe.probe import Head

NAME, SIDE_PX = "mobilenet_v3_small", 32
PARTS = {"train": [0, 3, 4, 6], "val": [1, 5], "test": [2, 7]}
SILENT = SimpleNamespace(progress=lambda _event: None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A state dict of the right shape."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), path)
    return path


def part(name):
    pixels = np.random.default_rng(0).integers(0, 256, (8, SIDE_PX, SIDE_PX, 3)).astype(np.uint8)
    rows = PARTS[name]
    return Part(
        pixels=lambda batch: pixels[[rows[number] for number in batch]],
        targets=np.zeros(len(rows), np.int64),
        names=[str(row) for row in rows],
    )


def trained(weights, *, stage, head):
    backbone = build(NAME, label_count=2, image_px=SIDE_PX, weights=str(weights))
    data = SimpleNamespace(positions=PARTS.__getitem__, part=part, scan=SimpleNamespace(labels=("a", "b")))
    return SimpleNamespace(
        backbone=backbone,
        device=torch.device("cpu"),
        data=data,
        stage=stage,
        head=head,
        plan={"image_px": SIDE_PX, "batch_size": 4},
    )


def a_head(backbone, held_out):
    chance = np.random.default_rng(1)
    shape = (2, backbone.head.in_features)
    return Head(
        weight=chance.normal(0, 1, shape).astype(np.float32),
        bias=np.zeros(2, np.float32),
        strength=0.1,
        losses={},
        held_out=held_out,
    )


HELD_OUT = np.array([[0.9, 0.1], [np.nan, np.nan], [0.3, 0.7], [0.2, 0.8]], np.float32)
OWN = {"val": np.array([[0.6, 0.4], [0.5, 0.5]], np.float32), "test": np.array([[1, 0], [0, 1]], np.float32)}


def asked(weights, **options):
    what = trained(weights, **options)
    return out_of_fold(SimpleNamespace(backbone=NAME, weights=str(weights)), what, OWN, report=SILENT), what


def test_every_photo_is_answered_once_by_a_head_that_had_not_seen_it(weights):
    """Where the head is exported: training photos by folds, the others by the network, in order, without NaN."""
    head = a_head(build(NAME, label_count=2, image_px=SIDE_PX, weights="none"), HELD_OUT)
    answers, _ = asked(weights, stage="head", head=head)
    assert answers.positions.tolist() == [0, 1, 2, 4, 5, 6, 7]
    expected = [HELD_OUT[0], OWN["val"][0], OWN["test"][0], HELD_OUT[2], OWN["val"][1], HELD_OUT[3], OWN["test"][1]]
    assert np.array_equal(answers.probabilities, np.stack(expected))
    assert answers.whole


def test_after_fine_tuning_the_frozen_head_answers(weights):
    """Where fine-tuned layers are exported, the initial weights and the head answer validation and test photos."""
    head = a_head(build(NAME, label_count=2, image_px=SIDE_PX, weights="none"), HELD_OUT)
    answers, what = asked(weights, stage="finetune", head=head)
    frozen = build(NAME, label_count=2, image_px=SIDE_PX, weights=str(weights))
    put_head(frozen, head)
    for name in ("val", "test"):
        rows = answers.probabilities[np.isin(answers.positions, PARTS[name])]
        np.testing.assert_allclose(rows, predict(frozen, part(name), batch_size=4, device=what.device), atol=1e-6)
        assert not np.allclose(rows, OWN[name])


@pytest.mark.parametrize("folds", [True, False], ids=["no frozen stage", "no folds"])
def test_without_folds_only_photos_held_out_are_answered(weights, folds):
    """Without a frozen stage, or where no folds could be made, training photos are left out, and it is said why."""
    head = None if folds else a_head(build(NAME, label_count=2, image_px=SIDE_PX, weights="none"), None)
    answers, _ = asked(weights, stage="finetune", head=head)
    assert answers.positions.tolist() == [1, 2, 5, 7]
    assert not answers.whole
    assert ("no frozen stage" if folds else "cannot be divided among folds") in answers.sentence
