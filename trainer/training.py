"""The two stages of a run on its data: a head on the frozen backbone, then all layers; the better one is kept."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .backbone import Backbone, build
from .config import RunConfig
from .data import Data
from .errors import UsageError
from .fit_choice import FITS, choose_fit, table
from .planning import earlier_plan, new_plan, spoken
from .progress import Progress, Report
from .recipe import augment, finetune, probe
from .recipe.history import Epoch, best_epoch, kept
from .recipe.lr_finder import Found, find
from .recipe.plan import Plan
from .recipe.schedule import steps_in_epoch
from .report.events import EventFile
from .run_folder import PLAN_FILE, read_tensors, write_json, write_tensors, write_text
from .world import World


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training gave.

    Attributes:
        backbone: The network with the weights that are exported.
        device: Where it is.
        data: The photos, their parts, and their pixels in the fit that was used.
        stage: `head` (frozen backbone) or `finetune`, whichever is kept.
        head: The fitted head; None without a frozen stage.
        history: Rows of the unfrozen stage, epoch 0 (the state before it) first; empty with `--epochs 0`.
        plan: Every choice that was made, as `plan.json` has it.
    """

    backbone: Backbone
    device: torch.device
    data: Data
    stage: str
    head: probe.Head | None
    history: list[Epoch]
    plan: dict[str, Any]

    @property
    def epoch(self) -> int:
        """The unfrozen epoch whose weights are kept; 0 for the head."""
        return best_epoch(self.history).epoch if self.history else 0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every part of training needs.

    Attributes:
        config: What to do.
        folder: The run folder.
        backbone: The network, on `device`.
        device: Where it is.
        world: The processes that train together.
        report: Where progress goes.
    """

    config: RunConfig
    folder: Path
    backbone: Backbone
    device: torch.device
    world: World
    report: Report

    @property
    def checkpoint(self) -> Path:
        """The folder of what resuming needs."""
        return self.folder / "checkpoint"

    def progress(self, phase: str) -> Callable[[int, int], None]:
        """Tells how far a phase is."""
        return lambda done, total: self.report.progress(Progress(phase=phase, done=done, total=total))


def train(
    config: RunConfig,
    fits: Callable[[str], Data],
    folder: Path,
    *,
    choices: dict[str, Any],
    threads: int,
    world: World,
    report: Report,
) -> Trained:
    """Trains both stages, or goes on from where `folder/checkpoint` says that an earlier process stopped.

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
        UsageError: The initial weights are not those that the run began with.
        TrainerError: The loss is not finite any more, or there is not enough memory.
    """
    setting, choices = _begun(config, fits, folder, choices=choices, threads=threads, world=world, report=report)
    backbone, device = setting.backbone, setting.device
    plan, features = _planned(setting, fits, choices)
    torch.set_num_threads(plan["threads"])
    data = fits(plan["fit"])
    head = _frozen(setting, data, plan, features)
    history = _unfrozen(setting, data, plan)
    epoch = best_epoch(history).epoch if history else 0
    if history:
        report.say(kept(history, head=head is not None))
    stage = "head" if epoch == 0 and head is not None else "finetune"
    plan = plan | {"stage": stage, "epoch": epoch, "head_strength": head.strength if head else None}
    if world.first:
        write_json(folder / PLAN_FILE, plan)
    return Trained(backbone=backbone, device=device, data=data, stage=stage, head=head, history=history, plan=plan)


def found_rate(
    config: RunConfig,
    fits: Callable[[str], Data],
    folder: Path,
    *,
    choices: dict[str, Any],
    threads: int,
    world: World,
    report: Report,
) -> Found:
    """What a range test finds for a run of these options, of which nothing else is done; arguments as in `train`."""
    setting, choices = _begun(config, fits, folder, choices=choices, threads=threads, world=world, report=report)
    plan, features = _new_plan(setting, fits, choices)
    return _found(setting, fits(plan["fit"]), plan, features)


def _begun(
    config: RunConfig,
    fits: Callable[[str], Data],
    folder: Path,
    *,
    choices: dict[str, Any],
    threads: int,
    world: World,
    report: Report,
) -> tuple[Setting, dict[str, Any]]:
    """The network with its initial weights, and the choices that follow from it and the machine."""
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


def _check_shares(plan: dict[str, Any], data: Data, world: World) -> None:
    """Refuses, in every process alike, steps of so few images that a process would have none, or one, to learn from."""
    image_count = min(plan["batch_size"], len(data.positions("train")))
    if world.size > 1 and image_count < 2 * world.size:
        raise UsageError(
            f"--batch-size: steps of {image_count} images are too small for {world.size} processes; give at least "
            f"{2 * world.size} and as many photos to train on, or start fewer processes"
        )


def _planned(
    setting: Setting, fits: Callable[[str], Data], choices: dict[str, Any]
) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """The plan, and the training features where choosing needed them; an earlier process's plan where there is one."""
    config, world, path = setting.config, setting.world, setting.folder / PLAN_FILE
    plan = world.told(earlier_plan(path, config, choices=choices, report=setting.report) if world.first else None)
    if plan is not None:
        _check_shares(plan, fits(plan["fit"]), world)
        return plan, None
    for stale in setting.checkpoint.glob("*") if world.first else ():
        # Of a run that ended before it had a plan; this one may be of other photos.
        stale.unlink()
    plan, features = _new_plan(setting, fits, choices)
    if config.learning_rate == "auto":
        plan = _with_found_rate(setting, fits(plan["fit"]), plan, features)
    if world.first:
        write_json(path, plan)
        for sentence in spoken(plan, config):
            setting.report.say(sentence)
    return plan, features


def _new_plan(
    setting: Setting, fits: Callable[[str], Data], choices: dict[str, Any]
) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """The plan but for a rate that must be found, and the training features where choosing needed them."""
    config = setting.config
    fit = FITS[0] if config.fit == "auto" else config.fit
    # The first process decides: another machine may have another device, or other last digits.
    plan = setting.world.told(new_plan(config, fits(fit), choices=choices | {"fit": fit}))
    _check_shares(plan, fits(fit), setting.world)
    return _fitted(setting, fits, plan) if config.fit == "auto" else (plan, None)


def _fitted(
    setting: Setting, fits: Callable[[str], Data], plan: dict[str, Any]
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The plan with the fit that cross-validation prefers, and that fit's training features."""
    features, seen = {}, {}
    for fit in FITS:
        data = fits(fit)
        positions = data.positions("train")
        features[fit] = _features(setting, data, plan, phase=f"features {fit}")
        _, _, seen[fit] = probe.choose_strength(
            features[fit],
            data.targets(positions),
            data.groups(positions),
            balance=plan["balance"],
            seed=setting.config.seed,
            report=setting.progress(f"head {fit}"),
        )
    chosen, scores = setting.world.told(choose_fit(seen, data.groups(positions)))
    setting.report.say(table(chosen, scores))
    compared = {fit: asdict(score) for fit, score in scores.items()}
    return plan | {"fit": chosen, "fits_compared": compared}, features[chosen]


def _with_found_rate(
    setting: Setting, data: Data, plan: dict[str, Any], features: NDArray[np.float32] | None
) -> dict[str, Any]:
    """The plan with the learning rate that a range test from the fitted head suggests; its curve goes to the folder."""
    found = _found(setting, data, plan, features)
    if setting.world.first:
        write_found(found, setting.folder / "lr_find.csv", setting.folder / "plots" / "lr_find.png")
    setting.report.say(found.sentence)
    return plan | {"learning_rate": found.suggestion}


def write_found(found: Found, curve: Path, picture: Path) -> None:
    """Writes a range test's curve as CSV and as PNG."""
    from .report import plots

    write_text(curve, found.csv())
    plots.range_test(
        found.rates, found.losses, found.smoothed, picture, suggestion=found.suggestion, rises_from=found.rises_from
    )


def _found(setting: Setting, data: Data, plan: dict[str, Any], features: NDArray[np.float32] | None) -> Found:
    """The range test, from the fitted head where there is one."""
    _frozen(setting, data, plan, features)
    return find(
        setting.backbone,
        data.part("train"),
        plan=training_plan(setting.config, plan),
        device=setting.device,
        world=setting.world,
        report=setting.progress("range test"),
    )


def _features(setting: Setting, data: Data, plan: dict[str, Any], *, phase: str = "features") -> NDArray[np.float32]:
    """Features of the training photos: float32 [views, photos, features]."""
    return _features_of(
        setting.backbone,
        data,
        data.positions("train"),
        plan=plan,
        device=setting.device,
        world=setting.world,
        report=setting.progress(phase),
    )


def _features_of(
    backbone: Backbone,
    data: Data,
    positions: list[int],
    *,
    plan: dict[str, Any],
    device: torch.device,
    world: World,
    report: Callable[[int, int], None],
) -> NDArray[np.float32]:
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


def _frozen(
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
            features = _features(setting, data, plan)
        if world.first:
            head = probe.fit_head(
                features,
                data.targets(positions),
                data.groups(positions),
                balance=plan["balance"],
                seed=setting.config.seed,
                report=setting.progress("head"),
            )
            facts = {"strength": head.strength, "losses": {str(key): value for key, value in head.losses.items()}}
            write_tensors(path, {"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)}, facts)
        head = world.told(head)
    assert head is not None
    put_head(backbone, head)
    return head


def put_head(backbone: Backbone, head: probe.Head) -> None:
    """Makes a fitted head the network's."""
    with torch.no_grad():
        backbone.head.weight.copy_(torch.from_numpy(head.weight))
        backbone.head.bias.copy_(torch.from_numpy(head.bias))


def _read_head(path: Path) -> probe.Head:
    tensors, facts = read_tensors(path)
    return probe.Head(
        weight=tensors["weight"].numpy(),
        bias=tensors["bias"].numpy(),
        strength=facts["strength"],
        losses={float(key): value for key, value in facts["losses"].items()},
    )


def training_plan(config: RunConfig, plan: dict[str, Any]) -> Plan:
    """What the unfrozen stage is told, from the run's plan."""
    same = (
        "batch_size learning_rate patience optimizer schedule weight_decay earliest_rate label_smoothing ema_decay "
        "augment rotation_degrees mixup cutmix"
    )
    return Plan(
        epochs=config.epochs,
        seed=config.seed,
        balance=plan["balance"],
        checkpoint_seconds=config.checkpoint_minutes * 60,
        **{name: plan[name] for name in same.split()},
    )


def _unfrozen(setting: Setting, data: Data, plan: dict[str, Any]) -> list[Epoch]:
    """Trains all layers; empty history with `--epochs 0`."""
    if not setting.config.epochs:
        return []
    train = data.part("train")
    steps = steps_in_epoch(len(train.targets), plan["batch_size"])
    with EventFile(setting.folder / "events", say=setting.report.say) as events:
        return finetune.finetune(
            setting.backbone,
            train,
            data.part("val"),
            plan=training_plan(setting.config, plan),
            device=setting.device,
            world=setting.world,
            checkpoint=setting.checkpoint,
            say=setting.report.say,
            report=lambda done, total, figures: setting.report.progress(
                Progress(phase="fine-tune", done=done, total=total, figures=figures)
            ),
            each=lambda row: events.epoch(row, step=row.epoch * steps),
            taken=lambda step, loss, rate: events.step(step, loss=loss, rate=rate),
        )


def refitted(trained: Trained, report: Report) -> Trained | None:
    """The same network with its head fitted again on every photo of all parts; None where layers were fine-tuned.

    Layers that were trained with their head have none that could be fitted alone.
    """
    head, data, plan = trained.head, trained.data, trained.plan
    if trained.stage != "head" or head is None:
        return None
    everywhere = list(range(len(data.scan.photos)))
    again = probe.fitted(
        _features_of(
            trained.backbone,
            data,
            everywhere,
            plan=plan,
            device=trained.device,
            world=World(),
            report=lambda done, total: report.progress(Progress(phase="refit", done=done, total=total)),
        ),
        data.targets(everywhere),
        balance=plan["balance"],
        strength=head.strength,
        losses=head.losses,
    )
    put_head(trained.backbone, again)
    return replace(trained, head=again)


def _digest(backbone: Backbone) -> str:
    """SHA-256, in hex, of every tensor but the head's."""
    digest = hashlib.sha256()
    for name, value in backbone.network.state_dict().items():
        if not name.startswith(f"{backbone.head_path}."):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
