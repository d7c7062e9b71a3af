"""Where a network's maps of the picture are: found by watching one black picture go through it.

A map is what a layer sees at each place of a grid laid over the picture. Convolutional networks have [N, C, H, W];
Swin's blocks give [N, H, W, C]; a vision transformer's a class token and then one token a patch, [N, 1 + H x W, C].
"""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock
from torchvision.models.efficientnet import FusedMBConv, MBConv
from torchvision.models.googlenet import BasicConv2d, Inception
from torchvision.models.inception import BasicConv2d as BasicConv2dOfV3
from torchvision.models.inception import InceptionA, InceptionB, InceptionC, InceptionD, InceptionE
from torchvision.models.maxvit import MaxVitLayer
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

Layout = Literal["channels_first", "channels_last", "tokens"]

_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
#: What looks at windows of its input, at regular distances.
_SLIDING = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
#: What sets activations to exactly zero.
_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Hardswish)
#: Blocks of the networks that rectify in a plain function, or with what is never exactly zero (GELU, SiLU).
_BLOCKS: dict[type[nn.Module], Layout] = {
    **dict.fromkeys((CNBlock, FusedMBConv, MBConv, MaxVitLayer), "channels_first"),
    **dict.fromkeys((BasicConv2d, Inception, BasicConv2dOfV3), "channels_first"),
    **dict.fromkeys((InceptionA, InceptionB, InceptionC, InceptionD, InceptionE), "channels_first"),
    SwinTransformerBlock: "channels_last",
    EncoderBlock: "tokens",
}


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one call of one module gives.

    Attributes:
        path: The module's name in the network; empty for the network itself.
        call: Which call of the module in one pass, from 0.
        module: The module.
        input_shape: Of what it was given; empty where that was no tensor.
        shape: Of the tensor, with a batch of one.
        tensor: A number for the tensor. Where two modules give the same one, the second changed the first one's result
            in place, or only handed it on.
    """

    path: str
    call: int
    module: nn.Module
    input_shape: tuple[int, ...]
    shape: tuple[int, ...]
    tensor: int


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a map comes out of a network: `path`, `call` as in `Output`, and how its tensor lies."""

    path: str
    call: int
    layout: Layout


def outputs(network: nn.Module, *, image_px: int) -> list[Output]:
    """Every tensor that a module gives for one square picture, in the order in which the modules end."""
    found: list[Output] = []
    calls: Counter[str] = Counter()
    # Weakly, so that each layer's output is let go of as always.
    seen: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def number_of(tensor: Tensor) -> int:
        known, number = seen.get(id(tensor), (None, 0))
        if known is None or known() is not tensor:
            number = len(found)
            seen[id(tensor)] = weakref.ref(tensor), number
        return number

    def recorder(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401  # whatever modules give
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, Tensor):
                found.append(
                    Output(
                        path=path,
                        call=calls[path],
                        module=module,
                        input_shape=tuple(inputs[0].shape) if inputs and isinstance(inputs[0], Tensor) else (),
                        shape=tuple(tensor.shape),
                        tensor=number_of(tensor),
                    )
                )
            calls[path] += 1

        return record

    network.eval()
    device = next(network.parameters()).device
    handles = [module.register_forward_hook(recorder(path)) for path, module in network.named_modules()]
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, image_px, image_px, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def heat_place(network: nn.Module, found: Sequence[Output]) -> Place | None:
    """The last map that the scores are made of; None where no layer has one of more than one place."""
    if isinstance(network, VisionTransformer):
        # Behind the last attention the class token alone counts: what patches hold enters it here.
        last = [output for output in found if output.path.endswith(".ln_1") and side(output.shape, "tokens")]
        return _place(last[-1], "tokens") if last else None
    pooled = {output.tensor for output in found if isinstance(output.module, _POOLING)}
    maps = [output for output in found if side(output.shape, "channels_first") and output.tensor not in pooled]
    return _place(maps[-1], "channels_first") if maps else None


def depth_places(found: Sequence[Output], *, depths: int) -> list[Place]:
    """Activations from the first to the last map: of each size the last, or spread evenly where sizes are fewer.

    Gives fewer than `depths` where the network has fewer maps.
    """
    activations = [(output, layout) for output in found if (layout := _block_layout(output.module)) is not None]
    if not activations:
        activations = [(output, "channels_first") for output in found if isinstance(output.module, _RECTIFIERS)]
    # The outermost of several modules that give the same tensor ends last, and has the name that says most.
    outermost = {output.tensor: output for output in found}
    layouts = {output.tensor: layout for output, layout in activations if side(output.shape, layout)}
    by_size = {side(outermost[tensor].shape, layout): tensor for tensor, layout in layouts.items()}
    # Of branches side by side the one that makes the map smaller may come first.
    stages = [by_size[size] for size in sorted(by_size, reverse=True)]
    tensors = stages if len(stages) >= depths else list(layouts)
    return [_place(outermost[tensor], layouts[tensor]) for tensor in _spread(tensors, depths)]


def grid(found: Sequence[Output], place: Place, *, image_px: int) -> tuple[float, float]:
    """Where a map's places lie in the picture: the pixel that the first one looks at, and pixels from one to the next.

    A convolution of 3 with stride 2 and padding 1 looks at every other pixel from the very first: five of them shift
    the map by half a place against a grid that is laid over the picture evenly. Layers that make a map smaller in
    another way are taken to merge neighbours, and look between them.
    """
    end = next(index for index, output in enumerate(found) if (output.path, output.call) == (place.path, place.call))
    first, step, current = 0.0, 1.0, image_px
    for output in found[: end + 1]:
        before, after = side(output.input_shape, "channels_first"), side(output.shape, "channels_first")
        if isinstance(output.module, _SLIDING) and before == current and 0 < after < before:
            first += step * _reach(output.module)
            step *= _single(output.module.stride)
            current = after
    merged = current / side(found[end].shape, place.layout)
    return first + step * (merged - 1) / 2, step * merged


@contextmanager
def watched(network: nn.Module, place: Place, see: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """For one pass inside: `see` is given the map's tensor; what it gives, if anything, takes the tensor's place."""
    calls = count()

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:  # noqa: ANN401  # whatever modules give
        return see(output) if next(calls) == place.call else None

    handle = network.get_submodule(place.path).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def side(shape: Sequence[int], layout: Layout) -> int:
    """Places along one side of a map; 0 where a tensor of that shape is no square map of more than one place."""
    if layout == "tokens":
        places = math.isqrt(max(0, shape[1] - 1)) if len(shape) == 3 else 0
        return places if places > 1 and places**2 == shape[1] - 1 else 0
    if len(shape) != 4:
        return 0
    height, width = shape[2:] if layout == "channels_first" else shape[1:3]
    return height if height == width and height > 1 else 0


def as_map(tensor: Tensor, layout: Layout) -> Tensor:
    """The map as [N, C, H, W]."""
    if layout == "channels_last":
        return tensor.permute(0, 3, 1, 2)
    if layout == "tokens":
        places = side(tensor.shape, layout)
        return tensor[:, 1:].transpose(1, 2).reshape(len(tensor), -1, places, places)
    return tensor


def _reach(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> float:
    """How far the middle of the first window lies from the first input."""
    dilation = _single(getattr(module, "dilation", 1))
    return dilation * (_single(module.kernel_size) - 1) / 2 - _single(module.padding)


def _single(value: Any) -> int:  # noqa: ANN401  # an int, or one for each direction, which are alike here
    return int(value[0] if isinstance(value, tuple) else value)


def _block_layout(module: nn.Module) -> Layout | None:
    return next((layout for kind, layout in _BLOCKS.items() if isinstance(module, kind)), None)


def _place(output: Output, layout: Layout) -> Place:
    return Place(path=output.path, call=output.call, layout=layout)


def _spread(tensors: Sequence[int], most: int) -> list[int]:
    """At most `most` of them, from the first to the last."""
    if len(tensors) <= most:
        return list(tensors)
    step = (len(tensors) - 1) / max(1, most - 1)
    return [tensors[math.floor(number * step + 0.5)] for number in range(most)]
