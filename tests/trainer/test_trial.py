"""What an image costs, measured without a trace."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer import backbone
from trainer.recipe import trial
from trainer.recipe.part import Part
from trainer.recipe.plan import Plan
from trainer.recipe.trial import images_at_once, measure

PLAN = Plan(epochs=3, batch_size=8, learning_rate=1e-3, patience=5, seed=4, augment="camera_trap", ema_decay=0.9)


def part(count, side_px):
    pixels = np.random.default_rng(0).integers(0, 255, (count, side_px, side_px, 3), dtype=np.uint8)
    targets = (np.arange(count) % 2).astype(np.int64)
    return Part(pixels=lambda positions: pixels[list(positions)], targets=targets, names=[str(n) for n in range(count)])


def build(side_px=32, name="mobilenet_v3_small"):
    torch.manual_seed(0)
    return backbone.build(name, label_count=2, image_px=side_px, weights="none")


def tried(network, *, side_px=32, steps=True, bfloat16=False, plan=PLAN):
    return measure(network, part(24, side_px), plan=plan, device=torch.device("cpu"), bfloat16=bfloat16, steps=steps)


@pytest.mark.parametrize("pretrained", [False, True])
def test_nothing_is_changed_by_it(pretrained):
    """Weights, BatchNorm statistics, gradients, modes and both states of chance are the same after it."""
    network = replace(build(), pretrained=pretrained)
    modules = list(network.network.modules())

    def state():
        tensors = {name: value.numpy().tobytes() for name, value in network.network.state_dict().items()}
        chance = torch.get_rng_state().numpy().tobytes(), str(np.random.get_state())  # the global one
        return tensors, chance, [module.training for module in modules], [p.grad for p in network.network.parameters()]

    before = state()
    tried(network, bfloat16=True)
    assert state() == before
    assert not any(module._forward_hooks for module in modules)


def test_what_is_kept_for_the_way_back_grows_with_the_pixels():
    """Twice the side are four times the bytes of an image, within a third, whatever the batch."""
    small, large = (tried(build(side_px), side_px=side_px) for side_px in (64, 128))
    assert small.step_bytes * 3 < large.step_bytes < small.step_bytes * 5
    assert large.forward_bytes == 4 * small.forward_bytes
    assert tried(build(64), side_px=64, plan=replace(PLAN, batch_size=4)).step_bytes == pytest.approx(
        small.step_bytes, rel=0.1
    )


def test_bytes_are_those_that_torch_keeps():
    """Of one linear layer on the pixels, what is kept for the way back is its input: four bytes a value."""
    network = build()
    layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    seen = tried(replace(network, network=layer, head_path="1"))
    assert 4 * 3 * 32 * 32 <= seen.step_bytes < 4 * 3 * 32 * 32 * 1.1


def test_without_training_no_step_is_taken():
    """With the head only, steps cost nothing and are not tried."""
    seen = tried(build(), steps=False)
    assert seen.step_seconds == seen.step_bytes == seen.fixed_step_bytes == 0
    assert seen.forward_seconds > 0


def test_a_step_is_tried_with_as_many_images_as_it_will_have(monkeypatch):
    """Of 24 images a batch of 13 makes one step of all of them: for that many its seconds are told."""
    asked = []
    real = trial._seconds

    def seconds(work, batch_size, most, device):
        asked.append((batch_size, most))
        return real(work, batch_size, most, device)

    monkeypatch.setattr(trial, "_seconds", seconds)
    tried(build(), plan=replace(PLAN, batch_size=13))
    assert asked == [(13, 13), (24, 24)]


def test_images_at_once_are_those_of_the_largest_part():
    """Where a batch goes through in parts, memory is that of one part."""
    assert images_at_once(35, whole=True) == 35
    assert images_at_once(35, whole=False) < 20
    assert images_at_once(2, whole=False) == 2
