"""The classification builders of torchvision, and what their default weights' own record says of pixels.

Kept as text because the names are needed before torch is: importing torchvision takes more than ten seconds, a usage
error less than one, and the scan decodes at the right size while torch is still being imported. A test compares this
file with the installed torchvision.
"""

import difflib
from dataclasses import dataclass

from .errors import UsageError

_PLAIN = """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169
    densenet201 googlenet mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large
    mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf
    regnet_x_8gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf
    regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d resnext101_64x4d
    resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0
    squeezenet1_1 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_l_16
    vit_l_32 wide_resnet101_2 wide_resnet50_2
"""
# (side of the input in pixels, filter is bicubic); every builder of `_PLAIN` has (224, False).
_OTHER = {
    "efficientnet_b0": (224, True),
    "efficientnet_b1": (240, False),
    "efficientnet_b2": (288, True),
    "efficientnet_b3": (300, True),
    "efficientnet_b4": (380, True),
    "efficientnet_b5": (456, True),
    "efficientnet_b6": (528, True),
    "efficientnet_b7": (600, True),
    "efficientnet_v2_l": (480, True),
    "efficientnet_v2_m": (480, False),
    "efficientnet_v2_s": (384, False),
    "inception_v3": (299, False),
    "maxvit_t": (224, True),
    "regnet_y_128gf": (384, True),
    "swin_b": (224, True),
    "swin_s": (224, True),
    "swin_t": (224, True),
    "swin_v2_b": (256, True),
    "swin_v2_s": (256, True),
    "swin_v2_t": (256, True),
    "vit_h_14": (518, True),
}


@dataclass(frozen=True, kw_only=True)
class BuilderRecord:
    """How a builder's default weights want their pixels.

    Attributes:
        image_px: Side of the square input, in pixels.
        bicubic: Whether images are resized with the bicubic filter instead of the bilinear one.
    """

    image_px: int
    bicubic: bool


BUILDERS: dict[str, BuilderRecord] = {
    name: BuilderRecord(image_px=side_px, bicubic=bicubic)
    for name, (side_px, bicubic) in sorted((dict.fromkeys(_PLAIN.split(), (224, False)) | _OTHER).items())
}


def builder_record(name: str) -> BuilderRecord:
    """The record of the builder `name`.

    Raises:
        UsageError: torchvision has no classification builder of that name; the sentence has the nearest ones.
    """
    record = BUILDERS.get(name)
    if record is None:
        near = difflib.get_close_matches(name.lower(), BUILDERS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(BUILDERS)}"
        raise UsageError(f"--backbone: torchvision has no classification builder {name!r}; {hint}")
    return record


def check_image_px(name: str, image_px: int) -> None:
    """Refuses a size that the builder `name` says by its name that it cannot take.

    Raises:
        UsageError: Unknown builder, or a vision transformer whose patches do not divide the side.
    """
    builder_record(name)
    if name.startswith("vit_"):
        patch_px = int(name.rsplit("_", 1)[1])
        if image_px % patch_px:
            near = max(patch_px, round(image_px / patch_px) * patch_px)
            raise UsageError(f"--image-px: {name} needs a multiple of {patch_px}, not {image_px}; try {near}")
