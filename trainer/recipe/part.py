"""The images of one split, and what a network answers for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class Part:
    """The images of one split.

    Attributes:
        pixels: Gives uint8 [n, H, W, 3] for a sequence of positions within the part.
        targets: Class of each image, int64 [images].
    """

    pixels: Callable[[Sequence[int]], NDArray[np.uint8]]
    targets: NDArray[np.int64]


def predict(
    backbone: Backbone,
    part: Part,
    *,
    batch_size: int,
    device: torch.device,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> NDArray[np.float32]:
    """Softmax probabilities of the part's images: float32 [images, labels]."""
    backbone.network.eval()
    count = len(part.targets)
    rows = []
    with torch.inference_mode():
        for begin in range(0, count, batch_size):
            images = torch.from_numpy(part.pixels(range(begin, min(begin + batch_size, count)))).to(device)
            rows.append(backbone.network(backbone.normalised(images)).softmax(dim=1).cpu().numpy())
            report(min(begin + batch_size, count), count)
    return np.concatenate(rows)


def losses(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy of each image, in nats, float64 [images], from softmax probabilities [images, labels]."""
    picked = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return -np.log(np.clip(picked, 1e-12, None))


def cross_entropy(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Mean cross-entropy of softmax probabilities [images, labels], in nats."""
    return float(losses(probabilities, targets).mean())
