"""What the layers of a network see: where the evidence of a class lies, maps at several depths, a table of layers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backbone import Backbone
from ..errors import TrainerError
from .maps import Place, as_map, depth_places, grid, heat_place, outputs, watched

_AT_ONCE = 16
_CHANNELS = 16
_ZERO = 1e-6


@dataclass(frozen=True, kw_only=True)
class Depth:
    """The activations at one depth of a network.

    Attributes:
        name: The module that gives them.
        channel_count: Channels.
        side: Places along one side of the map.
        maps: Of the photos to show, the 16 channels (all where there are fewer) that differ most over the photo,
            in their order in the network: float32 [shown, channels, side, side].
        share: Share of activations further than 1e-6 from zero, over all photos.
    """

    name: str
    channel_count: int
    side: int
    maps: NDArray[np.float32]
    share: float


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One module of a network that has parameters of its own, or no parts.

    Attributes:
        path: Its name in the network; empty for the network itself.
        kind: Its class.
        output_shape: Of one picture, without the batch; None where the module is not called, or gives no tensor.
        parameters: Its own, without its parts'.
        trainable: How many of them the run trained.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int
    trainable: int


def grad_cam(backbone: Backbone, images: NDArray[np.uint8], classes: NDArray[np.int64]) -> NDArray[np.float32]:
    """How much each place of a photo speaks for a class: float32 [N, H, W] in [0, 1], 1 at the strongest place.

    By Grad-CAM (Selvaraju et al. 2017) at the last map; all zeros where nothing speaks for the class.

    Args:
        backbone: The network, on whatever device.
        images: Uint8 [N, H, W, 3].
        classes: The class to look for in each photo, int64 [N].

    Raises:
        TrainerError: The network has no map at this size.
    """
    found = outputs(backbone.network, image_px=images.shape[1])
    place = heat_place(backbone.network, found)
    if place is None:
        raise TrainerError(
            f"no Grad-CAM: {backbone.name} sees pictures of {images.shape[1]} px in no layer as more than one place; "
            "train with a larger --image-px to have it"
        )
    batches = [slice(begin, begin + _AT_ONCE) for begin in range(0, len(images), _AT_ONCE)]
    rows = [_heat(backbone, place, images[batch], classes[batch]) for batch in batches]
    first, step = grid(found, place, image_px=images.shape[1])
    heats = [_over_picture(heat, first=first, step=step, image_px=images.shape[1]) for heat in rows]
    return np.concatenate([np.empty((0, *images.shape[1:3]), np.float32), *heats])


def feature_maps(backbone: Backbone, images: NDArray[np.uint8], *, depths: int = 5, shown: int = 1) -> list[Depth]:
    """Activations at up to `depths` depths, the first map first; empty where the network has none.

    Measured behind the activation function, or behind the block where that is no module of its own.

    Args:
        backbone: The network, on whatever device.
        images: Uint8 [N, H, W, 3].
        depths: How many.
        shown: How many of the photos, from the first, maps are kept of.
    """
    places = depth_places(outputs(backbone.network, image_px=images.shape[1]), depths=depths)
    tallies = [_Tally(shown) for _ in places]
    for begin in range(0, len(images), _AT_ONCE):
        with torch.inference_mode(), ExitStack() as hooks:
            for place, tally in zip(places, tallies, strict=True):
                hooks.enter_context(watched(backbone.network, place, partial(tally.add, place)))
            backbone.network(_input(backbone, images[begin : begin + _AT_ONCE]))
    return [tally.depth(place.path) for place, tally in zip(places, tallies, strict=True)]


def model_summary(backbone: Backbone, *, image_px: int, head_only: bool = False) -> list[LayerRow]:
    """A row for each layer, in the order in which they are declared; every parameter is in exactly one row.

    Args:
        backbone: The network.
        image_px: Side of the pictures that the shapes are for.
        head_only: Whether the run trained the head alone.
    """
    shapes = {output.path: output.shape[1:] for output in outputs(backbone.network, image_px=image_px)}
    rows = []
    for path, module in backbone.network.named_modules():
        count = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if count or not any(True for _ in module.children()):
            rows.append(
                LayerRow(
                    path=path,
                    kind=type(module).__name__,
                    output_shape=shapes.get(path),
                    parameters=count,
                    trainable=0 if head_only and path != backbone.head_path else count,
                )
            )
    return rows


class _Tally:
    """Counts one depth's activations batch by batch, and keeps some maps."""

    def __init__(self, shown: int) -> None:
        self._wanted = shown
        self._non_zero = self._count = 0
        self._maps: list[NDArray[np.float32]] = []
        self._shape = (0, 0)

    def add(self, place: Place, tensor: Tensor) -> None:
        values = as_map(tensor, place.layout)
        self._shape = (values.shape[1], values.shape[2])
        # A vision transformer's class token has no place in the picture and is not counted.
        self._non_zero += int(torch.count_nonzero(values.abs() > _ZERO))
        self._count += values.numel()
        if self._wanted:
            picked = values[: self._wanted].float()
            self._wanted -= len(picked)
            self._maps.append(_liveliest(picked).cpu().numpy())

    def depth(self, name: str) -> Depth:
        channels, side = self._shape
        none = np.empty((0, min(_CHANNELS, channels), side, side), np.float32)
        return Depth(
            name=name,
            channel_count=channels,
            side=side,
            maps=np.concatenate([none, *self._maps]),
            share=self._non_zero / max(1, self._count),
        )


def _liveliest(values: Tensor) -> Tensor:
    """Of each photo the channels that differ most over it: [N, at most 16, H, W]."""
    spread = values.flatten(2).std(dim=2)
    best = spread.argsort(dim=1, descending=True, stable=True)[:, :_CHANNELS].sort(dim=1).values
    return torch.stack([row[channels] for row, channels in zip(values, best, strict=True)])


def _heat(backbone: Backbone, place: Place, images: NDArray[np.uint8], classes: NDArray[np.int64]) -> Tensor:
    """The weighted sum of the map's channels, where positive: [N, side, side]."""
    seen: list[Tensor] = []

    def cut(tensor: Tensor) -> Tensor:
        seen.append(tensor.detach().requires_grad_())
        # A copy goes on: layers that change their input in place may not change this one.
        return seen[0].clone()

    with _frozen(backbone.network), torch.enable_grad(), watched(backbone.network, place, cut):
        scores = backbone.network(_input(backbone, images))
        wanted = torch.from_numpy(classes).to(scores.device)
        (slopes,) = torch.autograd.grad(scores.gather(1, wanted[:, None]).sum(), seen)
    values, slopes = as_map(seen[0].detach(), place.layout), as_map(slopes, place.layout)
    return (slopes.mean(dim=(2, 3), keepdim=True) * values).sum(dim=1).relu().float()


def _over_picture(heat: Tensor, *, first: float, step: float, image_px: int) -> NDArray[np.float32]:
    """Each pixel between the places that look at its neighbourhood; from 0 to 1 in each picture."""
    where = ((torch.arange(image_px, device=heat.device) - first) / step).clamp(0, heat.shape[1] - 1)
    low = where.floor().long()
    high, share = (low + 1).clamp(max=heat.shape[1] - 1), where - low
    tall = heat[:, low] * (1 - share)[:, None] + heat[:, high] * share[:, None]
    large = tall[:, :, low] * (1 - share) + tall[:, :, high] * share
    peak = large.amax(dim=(1, 2), keepdim=True)
    shares: NDArray[np.float32] = torch.where(peak > 0, large / peak, 0.0).cpu().numpy()
    return shares


def _input(backbone: Backbone, images: NDArray[np.uint8]) -> Tensor:
    return backbone.normalised(torch.from_numpy(images).to(backbone.head.weight.device))


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No parameter needs a gradient inside: the graph then begins at the map, and what lies before costs no memory."""
    wanting = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval()
    try:
        for parameter in wanting:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad = True
