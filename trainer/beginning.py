"""How a run begins: its network with the initial weights, and what every process must have alike."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .backbone import Backbone, build
from .config import RunConfig
from .data import Data
from .errors import UsageError
from .fit_choice import FITS
from .progress import Report
from .setting import Setting
from .world import World


def begun(
    config: RunConfig,
    fits: Callable[[str], Data],
    folder: Path,
    *,
    choices: dict[str, Any],
    threads: int,
    world: World,
    report: Report,
) -> tuple[Setting, dict[str, Any]]:
    """The network with its initial weights, and the choices that follow from it and the machine.

    Args:
        config: What to do.
        fits: Gives the photos and their parts with their pixels in one fit.
        folder: The run folder.
        choices: What was decided already, for `plan.json`.
        threads: Threads of torch.
        world: The processes that train together.
        report: Where progress goes.

    Raises:
        WeightsError: The initial weights cannot be had or do not fit.
        UsageError: The processes have different initial weights.
    """
    device = torch.device("cuda", world.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    # The exported file is checked against this network to 1e-4, which TF32's ten bits do not reach.
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(config.seed)
    label_count = len(fits(FITS[0] if config.fit == "auto" else config.fit).scan.labels)
    backbone = build(config.backbone, label_count=label_count, image_px=choices["image_px"], weights=config.weights)
    backbone.network.to(device)
    setting = Setting(config=config, folder=folder, backbone=backbone, device=device, world=world, report=report)
    choices = choices | {
        "device": device.type,
        "threads": threads,
        "processes": world.size,
        "pretrained": backbone.pretrained,
        "weights_digest": _digest(backbone),
    }
    _check_same_weights(setting, choices["weights_digest"])
    torch.set_num_threads(threads)
    return setting, choices


def _check_same_weights(setting: Setting, digest: str) -> None:
    """Refuses, in every process alike, to train together from different weights."""
    other = setting.world.unlike_first(digest)
    if other is not None:
        raise UsageError(
            f"--weights: process {other} of this run has other weights of {setting.backbone.name} than process 0; give "
            "every machine the same file"
        )


def check_shares(plan: dict[str, Any], data: Data, world: World) -> None:
    """Refuses, in every process alike, steps of so few images that a process would have none, or one, to learn from."""
    image_count = min(plan["batch_size"], len(data.positions("train")))
    if world.size > 1 and image_count < 2 * world.size:
        raise UsageError(
            f"--batch-size: steps of {image_count} images are too small for {world.size} processes; give at least "
            f"{2 * world.size} and as many photos to train on, or start fewer processes"
        )


def _digest(backbone: Backbone) -> str:
    """SHA-256, in hex, of every tensor but the head's."""
    digest = hashlib.sha256()
    for name, value in backbone.network.state_dict().items():
        if not name.startswith(f"{backbone.head_path}."):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
