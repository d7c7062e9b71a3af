"""What one process, or several that torchrun started, compute of the same images; the first one writes it to a file.

`torchrun ... together.py FILE` trains a random ResNet-18; TOGETHER_WEIGHTS names a MobileNetV2 state dict to train
instead. `answers(World())` gives what one process computes.
"""

import hashlib
import os
import sys
from dataclasses import replace

import numpy as np
import torch

from trainer import backbone
from trainer.recipe import augment, probe
from trainer.recipe.part import Part, predict
from trainer.recipe.plan import Plan
from trainer.recipe.steps import Steps
from trainer.world import joined_world

CPU = torch.device("cpu")
LABEL_COUNT = 3
#: Steps of 7 and of 8 of the 23 images: two processes never have the same number for long.
PLAIN = Plan(
    epochs=7, batch_size=7, learning_rate=1e-4, patience=9, seed=4, earliest_rate=0.01, ema_decay=0.9, augment="flip"
)
EVERYTHING = replace(
    PLAIN,
    balance="loss",
    label_smoothing=0.1,
    augment="camera_trap",
    rotation_degrees=10,
    mixup=0.4,
    cutmix=1.0,
)
SAMPLED = replace(PLAIN, balance="sampler", optimizer="adam", schedule="constant", learning_rate=1e-5)
#: More images than a processor takes at once.
LARGE = replace(PLAIN, batch_size=41)
#: Each plan, how many images there are, and how many steps are taken.
PLANS = {
    "plain": (PLAIN, 23, 20),
    "everything": (EVERYTHING, 23, 20),
    "sampled": (SAMPLED, 23, 1),
    "large": (LARGE, 41, 1),
}
COUNTS = (1, 2, 5, 23)


def part(count, image_px):
    """Noisy images of classes that differ in brightness, the first class twice as frequent."""
    chance = np.random.default_rng(0)
    targets = np.arange(count) % (LABEL_COUNT + 1) % LABEL_COUNT
    pixels = chance.integers(0, 100, (count, image_px, image_px, 3)) + 50 * targets[:, None, None, None]
    pixels = pixels.astype(np.uint8)
    return Part(
        pixels=lambda positions: pixels[list(positions)],
        targets=targets.astype(np.int64),
        names=[f"{number}.jpg" for number in range(count)],
    )


def network(*, pretrained=True):
    """A network and the side of its input; by default one whose BatchNorm statistics stay, as pretrained ones do."""
    torch.manual_seed(0)
    if weights := os.environ.get("TOGETHER_WEIGHTS"):
        return backbone.build("mobilenet_v2", label_count=LABEL_COUNT, image_px=96, weights=weights), 96
    built = backbone.build("resnet18", label_count=LABEL_COUNT, image_px=32, weights="none")
    return replace(built, pretrained=pretrained), 32


def trained(world, plan, image_count, step_count, *, pretrained=True):
    """The network after so many steps, the gradients of the first one by parameter, and every step's loss."""
    net, image_px = network(pretrained=pretrained)
    steps = Steps(net, part(image_count, image_px), plan=plan, device=CPU, world=world)
    steps.train_mode()
    gradients, losses = {}, []
    for number in range(step_count):
        epoch, step = number // steps.count + 1, number % steps.count
        losses.append(steps.take(steps.order(epoch), epoch=epoch, step=step))
        if number == 0:
            gradients = {name: value.grad.numpy().copy() for name, value in net.network.named_parameters()}
    return net, gradients, np.array(losses)


def digest(net):
    """SHA-256 of all tensors, as one row."""
    total = hashlib.sha256()
    for value in net.network.state_dict().values():
        total.update(value.numpy().tobytes())
    return np.array([total.hexdigest()])


def answers(world):
    """Everything that is compared, by name."""
    found = {}
    for name, (plan, image_count, step_count) in PLANS.items():
        net, gradients, found[f"losses/{name}"] = trained(world, plan, image_count, step_count)
        found[f"digests/{name}"] = world.gathered(digest(net))
        found |= {f"gradients/{name}/{key}": value for key, value in gradients.items()}
    net, _, _ = trained(world, PLAIN, 23, 3, pretrained=False)
    found["digests/from nothing"] = world.gathered(digest(net))
    net, image_px = network()
    views = [None, augment.MIRROR, augment.strengths("camera_trap", 10)]
    for count in COUNTS:
        images = part(count, image_px)
        options = {"batch_size": 4, "device": CPU, "world": world}
        found[f"probabilities/{count}"] = predict(net, images, **options)
        found[f"features/{count}"] = probe.features(
            net, images.pixels, count, views=views, report=lambda *_event: None, **options
        )
    found["told"] = np.array([world.told(f"by {world.rank}")])
    found["unlike"] = np.array([world.unlike_first("same") is None, world.unlike_first(str(world.rank)) == 1])
    return found


if __name__ == "__main__":
    with joined_world() as joined:
        rows = answers(joined)
        if joined.first:
            np.savez(sys.argv[1], **rows)
