"""The images of one split, and what a network answers for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..backbone import Backbone
from ..world import World
from . import out_of_memory

_AT_ONCE_ON_CPU = 16


@dataclass(frozen=True, kw_only=True)
class Part:
    """The images of one split.

    Attributes:
        pixels: Gives uint8 [n, H, W, 3] for a sequence of positions within the part.
        targets: Class of each image, int64 [images].
        names: Path of each image, for sentences.
    """

    pixels: Callable[[Sequence[int]], NDArray[np.uint8]]
    targets: NDArray[np.int64]
    names: Sequence[str]


def at_once(batch_size: int, device: torch.device) -> int:
    """Images that go through the network at once where nothing is learned: more only take memory on a CPU."""
    return min(batch_size, _AT_ONCE_ON_CPU) if device.type == "cpu" else batch_size


def predict(
    backbone: Backbone,
    part: Part,
    *,
    batch_size: int,
    device: torch.device,
    world: World | None = None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> NDArray[np.float32]:
    """Softmax probabilities of the part's images: float32 [images, labels].

    The processes of `world`, alone where absent, share the images; each gets every row.

    Raises:
        TrainerError: There is not enough memory for a batch.
    """
    world = world or World()
    backbone.network.eval()
    share, most = world.share(len(part.targets)), at_once(batch_size, device)
    rows = [np.empty((0, backbone.head.out_features), np.float32)]
    with torch.inference_mode():
        for begin in range(0, len(share), most):
            positions = share[begin : begin + most]
            with out_of_memory.told(batch_size, device, at_once=most):
                images = torch.from_numpy(part.pixels(positions)).to(device)
                rows.append(backbone.network(backbone.normalised(images)).softmax(dim=1).cpu().numpy())
            report(begin + len(positions), len(share))
    return world.gathered(np.concatenate(rows))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a network makes of some images.

    Attributes:
        features: What the head sees, float32 [images, features].
        logits: What the head says, float32 [images, labels].
        targets: Class of each image, int64 [images].
    """

    features: NDArray[np.float32]
    logits: NDArray[np.float32]
    targets: NDArray[np.int64]


def see(
    backbone: Backbone,
    part: Part,
    *,
    batch_size: int,
    device: torch.device,
    bfloat16: bool = False,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> Seen:
    """Features and logits of the part's images, in one pass; in bfloat16 where that will do and is faster.

    Raises:
        TrainerError: There is not enough memory for a batch.
    """
    backbone.network.eval()
    count, most = len(part.targets), at_once(batch_size, device)
    features = np.empty((count, backbone.head.in_features), np.float32)
    logits = np.empty((count, backbone.head.out_features), np.float32)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        for begin in range(0, count, most):
            positions = range(begin, min(count, begin + most))
            with out_of_memory.told(batch_size, device, at_once=most):
                seen = backbone.features(torch.from_numpy(part.pixels(positions)).to(device))
                features[begin : begin + most] = seen.cpu().numpy()
                logits[begin : begin + most] = backbone.head(seen).float().cpu().numpy()
            report(positions.stop, count)
    return Seen(features=features, logits=logits, targets=part.targets)


def losses(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy of each image, in nats, float64 [images], from softmax probabilities [images, labels]."""
    picked = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return -np.log(np.clip(picked, 1e-12, None))


def cross_entropy(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Mean cross-entropy of softmax probabilities [images, labels], in nats."""
    return float(losses(probabilities, targets).mean())
