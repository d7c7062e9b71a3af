"""Any torchvision classification builder by name: its weights, a new head, its own normalisation.

The head is one linear layer on the network's features, for every builder, so that a head fitted on cached features
is exactly the head of the whole network.
"""

import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from .errors import UsageError, WeightsError

_IMAGENET_CLASS_COUNT = 1000
# Two builders have auxiliary classifiers; they are not built, and their tensors in a weights file are left alone.
_AUXILIARY = ("googlenet", "inception_v3")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network and what it needs around it.

    Attributes:
        name: The torchvision builder.
        network: The network with the new head: float32 [N, 3, H, W] normalised -> logits float32 [N, labels].
        head_path: The head's module name inside `network`.
        mean: Per-channel mean that its weights were trained with, of pixels in [0, 1].
        std: Per-channel standard deviation, likewise.
        pretrained: Whether anything but chance is in its weights.
    """

    name: str
    network: nn.Module
    head_path: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pretrained: bool

    @property
    def head(self) -> nn.Linear:
        """The linear layer from features to logits."""
        head = self.network.get_submodule(self.head_path)
        assert isinstance(head, nn.Linear)
        return head

    def normalised(self, images: Tensor) -> Tensor:
        """Uint8 [N, H, W, 3] pixels as the network's input: float32 [N, 3, H, W], in channels_last memory."""
        mean = torch.tensor(self.mean, device=images.device) * 255
        std = torch.tensor(self.std, device=images.device) * 255
        return ((images.float() - mean) / std).permute(0, 3, 1, 2)

    def features(self, images: Tensor) -> Tensor:
        """What the head sees of uint8 [N, H, W, 3] pixels: float32 [N, head.in_features]."""
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            self.network(self.normalised(images))
        finally:
            handle.remove()
        return seen[0].float()

    def depths(self) -> dict[str, float]:
        """How deep each parameter lies, by name: 0 in the first layer, 1 in the head.

        By the order in which torchvision declares the layers, which is the order they run in.
        """
        layers: dict[str, int] = {}
        names = [name for name, _ in self.network.named_parameters()]
        for name in names:
            layers.setdefault(name.rpartition(".")[0], len(layers))
        last = max(1, len(layers) - 1)
        return {name: layers[name.rpartition(".")[0]] / last for name in names}


def build(name: str, *, label_count: int, image_px: int, weights: str) -> Backbone:
    """The builder `name` with a new head for `label_count` classes.

    Args:
        name: A name of `trainer.builders.BUILDERS`.
        label_count: Number of classes.
        image_px: Side of the square input, in pixels; builders with a fixed input are built for it.
        weights: `auto` (torchvision's default weights, from torch's cache or downloaded), `none`, or a file's path.

    Raises:
        WeightsError: The weights cannot be had, hold other tensors than the builder's, or values that are no numbers.
        UsageError: The builder cannot take images of that size.
    """
    network = _construct(name, image_px, pretrained=weights != "none")
    head_path = _find_head(network, name)
    if weights != "none":
        state = _download(name) if weights == "auto" else _read(Path(weights))
        source = "torchvision's weights" if weights == "auto" else weights
        _load(network, state, name=name, head_path=head_path, source=source)
    backbone = _with_new_head(network, name, head_path, label_count=label_count, pretrained=weights != "none")
    _check_size(backbone, image_px)
    return backbone


def restored(name: str, state: Mapping[str, Tensor], *, label_count: int, image_px: int, pretrained: bool) -> Backbone:
    """The network of a run again.

    Args:
        name: The builder.
        state: Every tensor of the network, the head's too.
        label_count: Number of classes.
        image_px: Side of the square input, in pixels.
        pretrained: Whether the run began with weights.

    Raises:
        WeightsError: The tensors are another network's.
    """
    network = _construct(name, image_px, pretrained=pretrained)
    head_path = _find_head(network, name)
    backbone = _with_new_head(network, name, head_path, label_count=label_count, pretrained=pretrained)
    try:
        backbone.network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"the weights of the run are not those of {name} for {label_count} classes") from error
    return backbone


def _with_new_head(network: nn.Module, name: str, head_path: str, *, label_count: int, pretrained: bool) -> Backbone:
    head_path = _replace_head(network, head_path, label_count)
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return Backbone(
        name=name,
        network=network.to(memory_format=torch.channels_last),
        head_path=head_path,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        pretrained=pretrained,
    )


def _construct(name: str, image_px: int, *, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {"weights": None}
    if name.startswith("vit_"):
        options["image_size"] = image_px
    elif name == "maxvit_t":
        options["input_size"] = (image_px, image_px)
    elif name in _AUXILIARY:
        # torchvision turns `transform_input` on with weights: they were trained with another normalisation.
        options |= {"aux_logits": False, "init_weights": True, "transform_input": pretrained}
    try:
        network: nn.Module = torchvision.models.get_model(name, **options)
    except ValueError as error:
        raise UsageError(f"--image-px: {name} cannot be built for {image_px} px ({error})") from error
    return network


def _find_head(network: nn.Module, name: str) -> str:
    """The module name of the layer that gives ImageNet's 1000 scores: the last such one."""
    found: list[str] = [
        path
        for path, module in network.named_modules()
        if getattr(module, "out_features", getattr(module, "out_channels", 0)) == _IMAGENET_CLASS_COUNT
    ]
    if not found:
        raise UsageError(f"--backbone: {name} has no classification layer that Trapline knows how to replace")
    return found[-1]


def _replace_head(network: nn.Module, head_path: str, label_count: int) -> str:
    old = network.get_submodule(head_path)
    if isinstance(old, nn.Linear):
        network.set_submodule(head_path, nn.Linear(old.in_features, label_count))
        return head_path
    # SqueezeNet scores with a convolution before pooling; pooled first, the same scores are a linear layer's.
    assert isinstance(old, nn.Conv2d)
    parent = str(head_path.rsplit(".", 1)[0])
    head = nn.Linear(old.in_channels, label_count)
    network.set_submodule(parent, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Dropout(0.5), head))
    return f"{parent}.3"


def _download(name: str) -> Mapping[str, Tensor]:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    file_name = weights.url.rsplit("/", 1)[1]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, OSError) as error:
        raise WeightsError(
            f"--weights auto: {file_name} is not in {folder} and cannot be downloaded from here ({error}). "
            f"Copy it into that folder, or give a file with --weights FILE, or train from nothing with --weights none"
        ) from error
    except RuntimeError as error:
        raise WeightsError(f"--weights auto: {folder / file_name} is damaged; delete it and run again") from error
    return state


def _read(path: Path) -> Mapping[str, Tensor]:
    """A state dict from a safetensors or a torch file, which is read as data and never run as code."""
    if not path.is_file():
        raise WeightsError(f"--weights: there is no file {path}; give a state dict (.pth or .safetensors)")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen unrelated classes for a file of another kind
        raise WeightsError(
            f"--weights: {path} is no file of tensors that can be read safely; give a state dict (.pth or .safetensors)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            f"--weights: {path} holds no state dict; save one with torch.save(network.state_dict(), ...)"
        )
    return {key.removeprefix("module."): value for key, value in content.items()}


def _load(network: nn.Module, state: Mapping[str, Tensor], *, name: str, head_path: str, source: str) -> None:
    """Loads everything but the head, of which alone tensors may be missing or of another shape."""
    head_names = (f"{head_path}.", *(("classifier.3.",) if name.startswith("squeezenet") else ()))
    expected = network.state_dict()
    wanted = {
        key: value
        for key, value in state.items()
        if not key.startswith(head_names) and not (name in _AUXILIARY and key.lower().startswith("aux"))
    }
    if isinstance(network, VisionTransformer) and "encoder.pos_embedding" in wanted:
        wanted = dict(interpolate_embeddings(network.image_size, network.patch_size, dict(wanted)))
    missing = [key for key in expected if key not in wanted and not key.startswith(head_names)]
    unknown = [key for key in wanted if key not in expected]
    shaped = [key for key in wanted if key in expected and wanted[key].shape != expected[key].shape]
    for what, keys in (("lacks", missing), ("has the unknown", unknown), ("has another shape of", shaped)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise WeightsError(f"--weights: {source} does not fit {name}: it {what} {', '.join(keys[:3])}{more}")
    for key, value in wanted.items():
        # As the network will have them: float64 may hold what float32 cannot.
        if expected[key].is_floating_point() and not value.to(expected[key].dtype).isfinite().all():
            raise WeightsError(
                f"--weights: {source} has values in {key} that are no finite numbers; give a state dict without such"
            )
    network.load_state_dict(wanted, strict=False)


def _check_size(backbone: Backbone, image_px: int) -> None:
    """One forward pass: some builders say only then that an input is too small for them."""
    backbone.network.eval()
    try:
        with torch.inference_mode():
            backbone.features(torch.zeros(1, image_px, image_px, 3, dtype=torch.uint8))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"--image-px: {backbone.name} cannot take images of {image_px} px; use larger ones") from error
