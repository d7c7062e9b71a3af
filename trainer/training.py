"""The two stages of a run on its data: a head on the frozen backbone, then all layers; the better one is kept."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import first_epochs
from .backbone import Backbone
from .beginning import check_shares
from .data import Data
from .estimate import tell_needs
from .fit_choice import FITS
from .head_stage import features_of, frozen_head, put_head, with_chosen_fit
from .planning import earlier_plan, new_plan, spoken, training_plan
from .progress import Progress, Report
from .range_test import range_test, write_found
from .recipe import finetune, probe
from .recipe.history import Epoch, best_epoch, kept
from .recipe.lr_finder import Found
from .recipe.schedule import steps_in_epoch
from .report.events import EventFile
from .run_folder import PLAN_FILE, write_json
from .setting import Setting
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
        return _epoch(self.history, self.backbone)


def train(setting: Setting, fits: Callable[[str], Data], choices: dict[str, Any]) -> Trained:
    """Trains both stages, or goes on from where `checkpoint/` of the run folder says that an earlier process stopped.

    Args:
        setting: What every part needs; with `choices` from `beginning.begun`.
        fits: Gives the photos and their parts with their pixels in one fit.
        choices: What was decided already, for `plan.json`.

    Raises:
        UsageError: The initial weights are not those that the run began with.
        TrainerError: The loss is not finite any more, or there is not enough memory.
    """
    plan, features = _planned(setting, fits, choices)
    torch.set_num_threads(plan["threads"])
    data = fits(plan["fit"])
    _show_sample(setting, data)
    head = frozen_head(setting, data, plan, features)
    history = _unfrozen(setting, data, plan)
    epoch = _epoch(history, setting.backbone)
    # One row alone: the first epoch broke down, which was said.
    if len(history) > 1:
        setting.report.say(kept(history, head=head is not None))
    stage = "head" if epoch == 0 and head is not None else "finetune"
    plan = plan | {"stage": stage, "epoch": epoch, "head_strength": head.strength if head else None}
    if setting.world.first:
        write_json(setting.folder / PLAN_FILE, plan)
    return Trained(
        backbone=setting.backbone,
        device=setting.device,
        data=data,
        stage=stage,
        head=head,
        history=history,
        plan=plan,
    )


def _epoch(history: list[Epoch], backbone: Backbone) -> int:
    return best_epoch(history, pretrained=backbone.pretrained).epoch if history else 0


def found_rate(setting: Setting, fits: Callable[[str], Data], choices: dict[str, Any]) -> Found:
    """What a range test finds for such a run, of which nothing else is done; arguments as in `train`."""
    plan, features = _new_plan(setting, fits, choices)
    return range_test(setting, fits(plan["fit"]), plan, features)


def _show_sample(setting: Setting, data: Data) -> None:
    """Draws some of the photos before anything is learned from them: what lies in a wrong folder is seen in time."""
    if setting.world.first and getattr(setting.config, "images", True):
        from .report.photo_sheets import sample_sheet

        picture = sample_sheet(data, setting.folder, seed=setting.config.seed)
        setting.report.say(f"photos of each class: {setting.folder / picture['file']}")


def _planned(
    setting: Setting, fits: Callable[[str], Data], choices: dict[str, Any]
) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """The plan, and the training features where choosing needed them; an earlier process's plan where there is one."""
    config, world, path = setting.config, setting.world, setting.folder / PLAN_FILE
    plan = world.told(earlier_plan(path, config, choices=choices, report=setting.report) if world.first else None)
    if plan is not None:
        check_shares(plan, fits(plan["fit"]), world)
        tell_needs(setting, fits(plan["fit"]), plan, training_plan(config, plan), fitted=False)
        return plan, None
    for stale in setting.checkpoint.glob("*") if world.first else ():
        # Of a run that ended before it had a plan; this one may be of other photos.
        stale.unlink()
    plan, features = _new_plan(setting, fits, choices)
    tell_needs(setting, fits(plan["fit"]), plan, training_plan(config, plan), fitted=features is not None)
    if config.learning_rate == "auto" and config.epochs:
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
    check_shares(plan, fits(fit), setting.world)
    return with_chosen_fit(setting, fits, plan) if config.fit == "auto" else (plan, None)


def _with_found_rate(
    setting: Setting, data: Data, plan: dict[str, Any], features: NDArray[np.float32] | None
) -> dict[str, Any]:
    """The plan with the learning rate that a range test from the fitted head suggests; its curve goes to the folder."""
    found = range_test(setting, data, plan, features)
    if setting.world.first:
        write_found(found, setting.folder / "lr_find.csv", setting.folder / "plots" / "lr_find.png")
    setting.report.say(found.sentence)
    return plan | {"learning_rate": found.suggestion}


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
            report=setting.report.progress,
            each=lambda row: events.epoch(row, step=row.epoch * steps),
            taken=lambda step, loss, rate: events.step(step, loss=loss, rate=rate),
            answered=lambda epoch, predicted: first_epochs.keep(setting, data, epoch, predicted),
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
        features_of(
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
