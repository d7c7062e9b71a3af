"""Random changes of training images that leave the animal what it is; whole batches at once, on the device."""

import torch
from torch import Tensor
from torch.nn import functional

_SMALLEST_SCALE = 0.75
_BRIGHTNESS = 0.25
_GREY_SHARE = 0.1


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flipped, mildly zoomed and shifted, brightened or dimmed, some made grey as infra-red frames are.

    Args:
        images: Uint8 [N, H, W, 3].
        generator: Where chance comes from; on the CPU, so that every device sees the same changes.

    Returns:
        Uint8 [N, H, W, 3].
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator).to(images.device)

    scale_x, scale_y = uniform(_SMALLEST_SCALE, 1.0), uniform(_SMALLEST_SCALE, 1.0)
    shift_x, shift_y = uniform(-1, 1) * (1 - scale_x), uniform(-1, 1) * (1 - scale_y)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(flip)
    affine = torch.stack([torch.stack([flip * scale_x, zero, shift_x], 1), torch.stack([zero, scale_y, shift_y], 1)], 1)
    values = images.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(affine, list(values.shape), align_corners=False)
    values = functional.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
    grey = values.mean(dim=1, keepdim=True).expand_as(values)
    values = torch.where((uniform(0, 1) < _GREY_SHARE)[:, None, None, None], grey, values)
    values = values * uniform(1 - _BRIGHTNESS, 1 + _BRIGHTNESS)[:, None, None, None]
    return values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
