"""Pairs of training images in one: mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019).

As for the other changes, chance is drawn for the whole batch first (`draw_pairs`), then applied to a share of it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """How the images of one batch are mixed.

    Attributes:
        partner: Int64 [N]: the image of the same batch that each one is mixed with.
        own: Weight of the image's own class in the loss, in [0, 1].
        box: Left, top, right, bottom of what the partner covers, in [0, 1], for cutmix; None blends whole images.
    """

    partner: Tensor
    own: float
    box: tuple[float, float, float, float] | None


def draw_pairs(count: int, *, mixup: float, cutmix: float, chance: torch.Generator) -> Pairs | None:
    """Chance for a batch; None where neither is asked for.

    Args:
        count: Images in the batch.
        mixup: Alpha of mixup's Beta distribution; 0 never blends.
        cutmix: Alpha of cutmix's Beta distribution; 0 never cuts.
        chance: A generator on the CPU. Where both are asked for, each batch gets one of them.
    """
    if not mixup and not cutmix:
        return None
    # NumPy has the Beta distribution, torch's own cannot be given a generator.
    seed = int(torch.randint(2**31, (1,), generator=chance))
    numbers = np.random.default_rng(seed)
    cut = bool(cutmix) and (not mixup or numbers.random() < 0.5)
    alpha = cutmix if cut else mixup
    own = float(numbers.beta(alpha, alpha))
    partner = torch.randperm(count, generator=chance)
    if not cut:
        return Pairs(partner=partner, own=own, box=None)
    side = float(np.sqrt(1 - own))
    left, top = numbers.uniform(-side / 2, 1 - side / 2, 2)
    box = (max(0.0, left), max(0.0, top), min(1.0, left + side), min(1.0, top + side))
    return Pairs(partner=partner, own=1 - (box[2] - box[0]) * (box[3] - box[1]), box=box)


def mixed(values: Tensor, partners: Tensor, pairs: Pairs) -> Tensor:
    """Images and their partners as one batch: float32 [N, 3, H, W] each."""
    if pairs.box is None:
        return values * pairs.own + partners * (1 - pairs.own)
    height, width = values.shape[-2:]
    left, top, right, bottom = pairs.box
    across, down = slice(round(left * width), round(right * width)), slice(round(top * height), round(bottom * height))
    out = values.clone()
    out[:, :, down, across] = partners[:, :, down, across]
    return out
