"""Random changes of training images that leave the animal what it is; whole batches of uint8 at once, on the device.

Chance is drawn for a batch before its images are touched, so that several processes, each with its share of the batch,
make the very changes that one process would have made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

#: What `--augment` takes.
Preset = Literal["none", "flip", "mild", "camera_trap"]

_BLUR_PX = 5
_IDENTITY = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """How strongly a preset changes images; shares are of images, in [0, 1].

    Attributes:
        mirrored: Share that is mirrored left to right.
        smallest_scale: Smallest part of a side that a zoom keeps; 1 never zooms.
        rotation_degrees: Largest turn to either side.
        brightness: Largest factor away from 1.
        contrast: Largest factor away from 1, about the image's mean.
        grey: Share made grey, as infra-red frames are.
        low_light: Share darkened to a third or less, with sensor noise.
        blurred: Share blurred, as by a moving animal or a wet lens.
        strip: Share whose info strip (a band at the top or bottom edge) is covered.
        erased: Share that loses a rectangle, as behind a branch.
    """

    mirrored: float = 0.0
    smallest_scale: float = 1.0
    rotation_degrees: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    grey: float = 0.0
    low_light: float = 0.0
    blurred: float = 0.0
    strip: float = 0.0
    erased: float = 0.0


PRESETS: dict[Preset, Strengths] = {
    "none": Strengths(),
    "flip": Strengths(mirrored=0.5),
    "mild": Strengths(mirrored=0.5, smallest_scale=0.75, brightness=0.25, grey=0.1),
    "camera_trap": Strengths(
        mirrored=0.5,
        smallest_scale=0.8,
        brightness=0.25,
        contrast=0.2,
        grey=0.2,
        low_light=0.1,
        blurred=0.1,
        strip=0.3,
        erased=0.2,
    ),
}


#: Every image mirrored; `apply` is not needed for it.
MIRROR = Strengths(mirrored=1.0)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What will happen to each image of a batch; tensors of N rows, on the CPU.

    Attributes:
        affine: Float32 [N, 2, 3]: from places in the result to places in the image, both in [-1, 1].
        brightness: Float32 [N], factors.
        contrast: Float32 [N], factors.
        grey: Bool [N].
        noise: Float32 [N], standard deviation of the noise, in levels of 255.
        noise_seed: Int64 [N], where an image's noise comes from.
        blur_px: Float32 [N], standard deviation of the blur in pixels of 224; 0 for none.
        strip: Float32 [N, 2]: height of a covered band as a share of the image, at the top and at the bottom.
        erased: Float32 [N, 4]: left, top, right, bottom of a covered rectangle, in [0, 1].
    """

    affine: Tensor
    brightness: Tensor
    contrast: Tensor
    grey: Tensor
    noise: Tensor
    noise_seed: Tensor
    blur_px: Tensor
    strip: Tensor
    erased: Tensor

    def of(self, chosen: Tensor) -> "Changes":
        """The changes of some of the images, by their numbers: int64 [n]."""
        return Changes(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def joined(rows: Sequence[Changes]) -> Changes:
    """The changes of several batches as those of one."""
    return Changes(**{field.name: torch.cat([getattr(row, field.name) for row in rows]) for field in fields(Changes)})


def strengths(preset: Preset, rotation_degrees: float) -> Strengths:
    """Those of a preset, with turns of at least `rotation_degrees`."""
    of_preset = PRESETS[preset]
    return replace(of_preset, rotation_degrees=max(of_preset.rotation_degrees, rotation_degrees))


def draw(count: int, strengths: Strengths, chance: torch.Generator) -> Changes:
    """Chance for `count` images, from a generator on the CPU."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high, generator=chance)

    def happens(share: float) -> Tensor:
        return uniform(0, 1) < share

    scale_x, scale_y = uniform(strengths.smallest_scale, 1.0), uniform(strengths.smallest_scale, 1.0)
    shift_x, shift_y = uniform(-1, 1) * (1 - scale_x), uniform(-1, 1) * (1 - scale_y)
    flip = torch.where(happens(strengths.mirrored), -1.0, 1.0)
    angle = uniform(-1, 1) * math.radians(strengths.rotation_degrees)
    cosine, sine = angle.cos(), angle.sin()
    first = torch.stack([flip * scale_x * cosine, -flip * scale_x * sine, shift_x], 1)
    second = torch.stack([scale_y * sine, scale_y * cosine, shift_y], 1)
    dark = happens(strengths.low_light)
    light = uniform(1 - strengths.brightness, 1 + strengths.brightness)
    at_top = happens(0.3)
    band = torch.where(happens(strengths.strip), uniform(0.04, 0.1), 0.0)
    side = uniform(0.1, 0.3, 2)
    corner = uniform(0, 1, 2) * (1 - side)
    erased = torch.cat([corner, corner + side], 1) * happens(strengths.erased)[:, None]
    return Changes(
        affine=torch.stack([first, second], 1),
        brightness=torch.where(dark, uniform(0.15, 0.35), light),
        contrast=uniform(1 - strengths.contrast, 1 + strengths.contrast),
        grey=happens(strengths.grey),
        noise=torch.where(dark, uniform(2, 6), 0.0),
        noise_seed=torch.randint(2**31, (count,), generator=chance),
        blur_px=torch.where(happens(strengths.blurred), uniform(0.5, 1.5), 0.0),
        strip=torch.stack([torch.where(at_top, band, 0.0), torch.where(at_top, 0.0, band)], 1),
        erased=erased,
    )


def apply(images: Tensor, changes: Changes) -> Tensor:
    """The changed images: uint8 [N, H, W, 3] in, the same out, on the device of `images`."""
    values = images.permute(0, 3, 1, 2).float()
    unmirrored = changes.affine.clone()
    unmirrored[:, 0, 0].abs_()
    if torch.equal(unmirrored, _IDENTITY.expand_as(unmirrored)):
        mirrored = changes.affine[:, 0, 0].to(images.device) < 0
        values = torch.where(mirrored[:, None, None, None], values.flip(3), values)
    else:
        grid = functional.affine_grid(changes.affine.to(images.device), list(values.shape), align_corners=False)
        values = functional.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
    for index in torch.nonzero(changes.blur_px).flatten().tolist():
        blur_px = float(changes.blur_px[index]) * values.shape[-1] / 224
        values[index] = _blurred(values[index : index + 1], blur_px)[0]
    values = _lit(values, changes)
    for index in torch.nonzero(changes.noise).flatten().tolist():
        chance = torch.Generator().manual_seed(int(changes.noise_seed[index]))
        noise = torch.randn(values.shape[1:], generator=chance) * changes.noise[index]
        values[index] += noise.to(values.device)
    _cover(values, changes)
    return values.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _lit(values: Tensor, changes: Changes) -> Tensor:
    def column(factors: Tensor) -> Tensor:
        return factors.to(values.device)[:, None, None, None]

    if changes.grey.any():
        values = torch.where(column(changes.grey), values.mean(dim=1, keepdim=True), values)
    if not torch.equal(changes.contrast, torch.ones_like(changes.contrast)):
        mean = values.mean(dim=(1, 2, 3), keepdim=True)
        values = mean + (values - mean) * column(changes.contrast)
    return values * column(changes.brightness)


def _blurred(image: Tensor, deviation_px: float) -> Tensor:
    """One image [1, 3, H, W] under a Gaussian of that standard deviation, in pixels."""
    places = torch.arange(_BLUR_PX, device=image.device) - _BLUR_PX // 2
    kernel = torch.exp(-(places**2) / (2 * deviation_px**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, _BLUR_PX)
    padded = functional.pad(image, (_BLUR_PX // 2,) * 4, mode="replicate")
    across = functional.conv2d(padded, kernel[:, :, None, :], groups=3)
    return functional.conv2d(across, kernel[:, :, :, None], groups=3)


def _cover(values: Tensor, changes: Changes) -> None:
    """Covers bands and rectangles with the image's mean colour, in place."""
    height, width = values.shape[-2:]
    for index in torch.nonzero(changes.strip.sum(dim=1) + changes.erased.sum(dim=1)).flatten().tolist():
        mean = values[index].mean(dim=(1, 2), keepdim=True)
        top, bottom = (round(float(share) * height) for share in changes.strip[index])
        left, upper, right, lower = (float(edge) for edge in changes.erased[index])
        values[index, :, :top] = mean
        values[index, :, height - bottom :] = mean
        values[index, :, round(upper * height) : round(lower * height), round(left * width) : round(right * width)] = (
            mean
        )
