"""The frozen stage of a run: features of its photos, the head fitted on them, and the fit that suits them best."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .backbone import Backbone
from .data import Data
from .errors import TrainerError
from .fit_choice import FITS, choose_fit, table
from .recipe import augment, probe
from .run_folder import read_tensors, write_tensors
from .setting import Setting
from .world import World


def with_chosen_fit(
    setting: Setting, fits: Callable[[str], Data], plan: dict[str, Any]
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The plan with the fit that cross-validation prefers, and that fit's training features."""
    features, seen = {}, {}
    for fit in FITS:
        data = fits(fit)
        positions = data.positions("train")
        features[fit] = training_features(setting, data, plan, phase=f"features {fit}")
        seen[fit] = probe.choose_strength(
            features[fit],
            data.targets(positions),
            data.groups(positions),
            balance=plan["balance"],
            seed=setting.config.seed,
            report=setting.progress(f"head {fit}", unit="fits"),
        ).seen
    chosen, scores = setting.world.told(choose_fit(seen, data.groups(positions)))
    setting.report.say(table(chosen, scores))
    compared = {fit: asdict(score) for fit, score in scores.items()}
    return plan | {"fit": chosen, "fits_compared": compared}, features[chosen]


def training_features(
    setting: Setting, data: Data, plan: dict[str, Any], *, phase: str = "features"
) -> NDArray[np.float32]:
    """Features of the training photos: float32 [views, photos, features].

    Raises:
        TrainerError: The network's answers are no numbers.
    """
    positions = data.positions("train")
    found = features_of(
        setting.backbone,
        data,
        positions,
        plan=plan,
        device=setting.device,
        world=setting.world,
        report=setting.progress(phase),
    )
    # A sum is finite only where all of it is, and takes no room.
    with np.errstate(over="ignore", invalid="ignore"):
        broken = np.flatnonzero(~np.isfinite(found.sum(axis=(0, 2))))
    if len(broken):
        names = ", ".join(data.scan.photos[positions[number]].path for number in broken[:4])
        more = f" and {len(broken) - 4} more" if len(broken) > 4 else ""
        raise TrainerError(
            f"the network's features are no numbers before anything was trained, of {names}{more}; give other --weights"
        )
    return found


def features_of(
    backbone: Backbone,
    data: Data,
    positions: list[int],
    *,
    plan: dict[str, Any],
    device: torch.device,
    world: World,
    report: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """Features of some photos, in the views that the plan asks for: float32 [views, photos, features]."""
    strengths = augment.strengths(plan["augment"], plan["rotation_degrees"])
    views: list[probe.View] = [None, augment.MIRROR, *[strengths] * plan["views"]]
    return probe.features(
        backbone,
        lambda batch: data.pixels([positions[index] for index in batch]),
        len(positions),
        batch_size=plan["batch_size"],
        device=device,
        views=views[: plan["views"]],
        bfloat16=plan["features_in_bfloat16"],
        world=world,
        report=report,
    )


def frozen_head(
    setting: Setting, data: Data, plan: dict[str, Any], features: NDArray[np.float32] | None
) -> probe.Head | None:
    """Fits the head on features of the frozen backbone and puts it in place; None with `--weights none`."""
    backbone, world = setting.backbone, setting.world
    if not backbone.pretrained:
        return None
    path = setting.checkpoint / "head.safetensors"
    head = world.told(_read_head(path) if world.first and path.is_file() else None)
    if head is None:
        positions = data.positions("train")
        if features is None:
            features = training_features(setting, data, plan)
        if world.first:
            head = probe.fit_head(
                features,
                data.targets(positions),
                data.groups(positions),
                balance=plan["balance"],
                seed=setting.config.seed,
                report=setting.progress("head", unit="fits"),
            )
            _write_head(path, head)
        head = world.told(head)
    assert head is not None
    put_head(backbone, head)
    return head


def put_head(backbone: Backbone, head: probe.Head) -> None:
    """Makes a fitted head the network's."""
    with torch.no_grad():
        backbone.head.weight.copy_(torch.from_numpy(head.weight))
        backbone.head.bias.copy_(torch.from_numpy(head.bias))


def _write_head(path: Path, head: probe.Head) -> None:
    facts = {"strength": head.strength, "losses": {str(key): value for key, value in head.losses.items()}}
    tensors = {"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)}
    if head.held_out is not None:
        tensors["held_out"] = torch.from_numpy(head.held_out)
    write_tensors(path, tensors, facts)


def _read_head(path: Path) -> probe.Head:
    tensors, facts = read_tensors(path)
    return probe.Head(
        weight=tensors["weight"].numpy(),
        bias=tensors["bias"].numpy(),
        strength=facts["strength"],
        losses={float(key): value for key, value in facts["losses"].items()},
        held_out=tensors["held_out"].numpy() if "held_out" in tensors else None,
    )
