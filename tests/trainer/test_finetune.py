import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer import backbone
from trainer.errors import TrainerError
from trainer.recipe import finetune, schedule
from trainer.recipe.augment import augment
from trainer.recipe.history import Epoch, best_epoch
from trainer.recipe.part import Part, cross_entropy, predict

PLAN = finetune.Plan(
    epochs=3,
    batch_size=8,
    learning_rate=1e-3,
    patience=5,
    seed=4,
    weighted_loss=False,
    weighted_sampling=False,
)
CPU = torch.device("cpu")


def part(count, seed):
    chance = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    pixels = np.clip(chance.integers(0, 120, (count, 32, 32, 3)) + 100 * targets[:, None, None, None], 0, 255)
    pixels = pixels.astype(np.uint8)
    return Part(pixels=lambda positions: pixels[list(positions)], targets=targets.astype(np.int64))


def build():
    torch.manual_seed(0)
    return backbone.build("mobilenet_v3_small", label_count=2, image_px=32, weights="none")


def train(folder, plan=PLAN, report=lambda _done, _total, _figures: None):
    network = build()
    history = finetune.finetune(
        network, part(19, 0), part(10, 1), plan=plan, device=CPU, checkpoint=folder, report=report
    )
    return network, history


def tensors(network):
    return {name: value.numpy().tobytes() for name, value in network.network.state_dict().items()}


class Stopped(Exception):
    pass


def test_a_stopped_run_ends_with_the_same_bytes(tmp_path):
    """Stopped in the middle of the third epoch and gone on, weights and history equal an unbroken run's."""
    whole, history = train(tmp_path / "whole")

    def stop(done, _total, _figures):
        if done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path / "broken", report=stop)
    again, resumed = train(tmp_path / "broken")
    assert tensors(again) == tensors(whole)
    assert resumed == history


def test_the_best_epoch_is_kept(tmp_path):
    """The weights given back answer as the best row of the history says."""
    network, history = train(tmp_path)
    best = best_epoch(history)
    probabilities = predict(network, part(10, 1), batch_size=4, device=CPU)
    assert cross_entropy(probabilities, part(10, 1).targets) == pytest.approx(best.validation_loss, abs=1e-6)
    assert [row.epoch for row in history] == list(range(len(history)))


def test_patience_ends_training_early(tmp_path):
    """On a validation part whose labels are swapped nothing gets better: `patience` epochs, then the end."""
    swapped = replace(part(10, 1), targets=1 - part(10, 1).targets)
    plan = replace(PLAN, epochs=50, patience=2)
    network = build()
    history = finetune.finetune(
        network, part(64, 0), swapped, plan=plan, device=CPU, checkpoint=tmp_path, report=lambda *_event: None
    )
    after_peak = math.ceil(50 * schedule.WARM_UP_SHARE)
    assert history[-1].epoch - max(after_peak, best_epoch(history).epoch) == 2
    assert len(history) < 51


def row(epoch, loss, accuracy, *, standard_error=0.02):
    return Epoch(
        epoch=epoch,
        train_loss=0.1,
        validation_loss=loss,
        validation_accuracy=accuracy,
        learning_rate=0.1,
        standard_error=standard_error,
    )


def test_an_epoch_must_be_better_in_loss_and_not_worse_in_accuracy():
    """What fine-tuning gives replaces the head only where validation says so on both counts."""
    head = row(0, 0.5, 0.8)
    assert best_epoch([head, row(1, 0.4, 0.79), row(2, 0.6, 0.9)]) == head
    assert best_epoch([head, row(1, 0.4, 0.8), row(2, 0.45, 0.9)]).epoch == 1
    assert best_epoch([head, row(1, 0.4, 0.8), row(2, 0.39, 0.8)]).epoch == 2


def test_the_head_gives_way_only_to_more_than_one_standard_error():
    """A gain that chance explains does not replace the head; the next epochs are compared as they are."""
    head = row(0, 0.5, 0.8)
    assert best_epoch([head, row(1, 0.45, 0.8, standard_error=0.06)]) == head
    assert best_epoch([head, row(1, 0.43, 0.8, standard_error=0.06)]).epoch == 1


def test_a_loss_that_is_no_number_is_a_sentence(tmp_path):
    """A rate far too high ends with the option's name, not with NaN weights."""
    with pytest.raises(
        TrainerError, match=r"stopped being a number in epoch \d+, step \d+; try a lower --learning-rate"
    ):
        train(tmp_path, replace(PLAN, learning_rate=1e30, epochs=5))


def test_statistics_of_a_pretrained_network_stay():
    """BatchNorm's running means are the pretrained ones after training on small batches."""
    network = replace(build(), pretrained=True)
    before = {name: value.clone() for name, value in network.network.state_dict().items() if "running" in name}
    optimizer = torch.optim.AdamW(finetune._groups(network, 1e-3))
    finetune._one_epoch(
        network,
        optimizer,
        part(16, 0),
        plan=PLAN,
        epoch=1,
        steps=2,
        device=CPU,
        weights=None,
        report=lambda _done, _total, _figures: None,
    )
    after = network.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_weighted_sampling_draws_classes_alike():
    """Drawn by the inverse of its count, a class of one in ten makes about half of the images."""
    targets = np.array([0] * 90 + [1] * 10, dtype=np.int64)
    order = finetune._order(targets, torch.Generator().manual_seed(0), weighted=True)
    assert 30 <= int((targets[order] == 1).sum()) <= 70


def test_one_cycle_rises_and_falls():
    """The rate starts at a tenth, peaks at one after a quarter, and ends near nothing."""
    rates = [schedule.one_cycle(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 25
    assert rates[-1] == pytest.approx(0.001)


def test_augmenting_keeps_shape_and_repeats_from_a_seed():
    """Same generator state, same changes; uint8 in, uint8 out, and something does change."""
    images = torch.from_numpy(part(6, 0).pixels(range(6)))
    one, two = (augment(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.dtype == torch.uint8
    assert one.shape == images.shape
    assert torch.equal(one, two)
    assert not torch.equal(one, images)
