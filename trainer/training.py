"""The two stages of a run on its data: a head on the frozen backbone, then all layers; the better one is kept."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .backbone import Backbone, build
from .config import RunConfig
from .data import Data
from .errors import UsageError
from .progress import Progress, Report
from .recipe import finetune, probe
from .recipe.history import Epoch, best_epoch
from .run_folder import PLAN_FILE, read_json, read_tensors, write_json, write_tensors

_UNEQUAL = 3.0
_PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training gave.

    Attributes:
        backbone: The network with the weights that are exported.
        device: Where it is.
        stage: `head` (frozen backbone) or `finetune`, whichever is kept.
        head: The fitted head; None without a frozen stage.
        history: Rows of the unfrozen stage, epoch 0 (the state before it) first; empty with `--epochs 0`.
        plan: Every choice that was made, as `plan.json` has it.
    """

    backbone: Backbone
    device: torch.device
    stage: str
    head: probe.Head | None
    history: list[Epoch]
    plan: dict[str, Any]

    @property
    def epoch(self) -> int:
        """The unfrozen epoch whose weights are kept; 0 for the head."""
        return best_epoch(self.history).epoch if self.history else 0


def train(
    config: RunConfig, data: Data, folder: Path, *, choices: dict[str, Any], threads: int, report: Report
) -> Trained:
    """Trains both stages, or goes on from where `folder/checkpoint` says that an earlier process stopped.

    Args:
        config: What to do.
        data: The photos and their parts.
        folder: The run folder.
        choices: What was decided already, for `plan.json`.
        threads: Threads of torch.
        report: Where progress goes.

    Raises:
        WeightsError: The initial weights cannot be had or do not fit.
        UsageError: The initial weights are not those that the run began with.
        TrainerError: The loss is not finite any more.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # The exported file is checked against this network to 1e-4, which TF32's ten bits do not reach.
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(config.seed)
    backbone = build(
        config.backbone, label_count=len(data.scan.labels), image_px=choices["image_px"], weights=config.weights
    )
    backbone.network.to(device)
    choices = choices | {
        "device": str(device),
        "threads": threads,
        "pretrained": backbone.pretrained,
        "weights_digest": _digest(backbone),
    }
    plan = _planned(config, data, folder / PLAN_FILE, choices=choices, report=report)
    torch.set_num_threads(plan["threads"])
    checkpoint = folder / "checkpoint"
    head = _frozen(config, data, backbone, device=device, plan=plan, checkpoint=checkpoint, report=report)
    history = _unfrozen(config, data, backbone, device=device, plan=plan, checkpoint=checkpoint, report=report)
    epoch = best_epoch(history).epoch if history else 0
    if history:
        report.say(_kept(history, head=head is not None))
    stage = "head" if epoch == 0 and head is not None else "finetune"
    plan = plan | {"stage": stage, "epoch": epoch, "head_strength": head.strength if head else None}
    write_json(folder / PLAN_FILE, plan)
    return Trained(backbone=backbone, device=device, stage=stage, head=head, history=history, plan=plan)


def _planned(
    config: RunConfig,
    data: Data,
    path: Path,
    *,
    choices: dict[str, Any],
    report: Report,
) -> dict[str, Any]:
    """The plan of the run: that of the earlier process where there is one, else a new one, written down."""
    if path.is_file():
        plan = read_json(path)
        if plan["weights_digest"] != choices["weights_digest"]:
            raise UsageError(
                f"--weights: {config.weights} holds other weights than when this run began; "
                "bring the old file back or name a new --out folder"
            )
        changed = [name for name in ("versions", "device") if plan[name] != choices[name]]
        if changed:
            report.say(f"resuming with another {' and '.join(changed)}: the last digits of the result may differ")
        return plan
    counts = np.bincount(data.targets(data.positions("train")))
    unequal = float(counts.max() / counts.min())
    balance = config.balance
    if balance == "auto":
        balance = "sampler" if unequal > _UNEQUAL else "none"
    on_gpu = choices["device"] != "cpu"
    plan = choices | {
        "batch_size": config.batch_size or (64 if on_gpu else 32),
        "learning_rate": config.learning_rate or (5e-5 if choices["pretrained"] else 1e-3),
        "patience": max(_PATIENCE, config.epochs // 2),
        "balance": balance,
        "largest_class_over_smallest": unequal,
    }
    write_json(path, plan)
    return plan


def _frozen(
    config: RunConfig,
    data: Data,
    backbone: Backbone,
    *,
    device: torch.device,
    plan: dict[str, Any],
    checkpoint: Path,
    report: Report,
) -> probe.Head | None:
    """Fits the head on features of the frozen backbone and puts it in place; None with `--weights none`."""
    if not backbone.pretrained:
        return None
    path = checkpoint / "head.safetensors"
    if path.is_file():
        tensors, facts = read_tensors(path)
        losses = {float(key): value for key, value in facts["losses"].items()}
        head = probe.Head(
            weight=tensors["weight"].numpy(), bias=tensors["bias"].numpy(), strength=facts["strength"], losses=losses
        )
    else:
        positions = data.positions("train")
        inputs = probe.features(
            backbone,
            lambda batch: data.pixels([positions[index] for index in batch]),
            len(positions),
            batch_size=plan["batch_size"],
            device=device,
            report=lambda done, total: report.progress(Progress(phase="features", done=done, total=total)),
        )
        head = probe.fit_head(
            inputs,
            data.targets(positions),
            data.groups(positions),
            label_count=len(data.scan.labels),
            balanced=plan["balance"] != "none",
            seed=config.seed,
            report=lambda done, total: report.progress(Progress(phase="head", done=done, total=total)),
        )
        facts = {"strength": head.strength, "losses": {str(key): value for key, value in head.losses.items()}}
        write_tensors(path, {"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)}, facts)
    with torch.no_grad():
        backbone.head.weight.copy_(torch.from_numpy(head.weight))
        backbone.head.bias.copy_(torch.from_numpy(head.bias))
    return head


def _unfrozen(
    config: RunConfig,
    data: Data,
    backbone: Backbone,
    *,
    device: torch.device,
    plan: dict[str, Any],
    checkpoint: Path,
    report: Report,
) -> list[Epoch]:
    """Trains all layers; empty history with `--epochs 0`."""
    if not config.epochs:
        return []
    return finetune.finetune(
        backbone,
        data.part("train"),
        data.part("val"),
        plan=finetune.Plan(
            epochs=config.epochs,
            batch_size=plan["batch_size"],
            learning_rate=plan["learning_rate"],
            patience=plan["patience"],
            seed=config.seed,
            weighted_loss=plan["balance"] == "loss",
            weighted_sampling=plan["balance"] == "sampler",
        ),
        device=device,
        checkpoint=checkpoint,
        report=lambda done, total, figures: report.progress(
            Progress(phase="fine-tune", done=done, total=total, figures=figures)
        ),
    )


def _kept(history: Sequence[Epoch], *, head: bool) -> str:
    best, first, last = best_epoch(history), history[0], history[-1]
    figures = f"validation loss {best.validation_loss:.3f}, accuracy {best.validation_accuracy:.1%}"
    if best.epoch == 0:
        what = "the head alone is what is exported" if head else "nothing was learned: try more --epochs"
        return (
            f"fine-tuning for {last.epoch} epochs did not beat what it began with on validation ({figures}) "
            f"by more than one standard error; {what}"
        )
    since = "the head alone" if head else "before training"
    return (
        f"kept epoch {best.epoch} of {last.epoch}: {figures} "
        f"({since}: {first.validation_loss:.3f}, {first.validation_accuracy:.1%})"
    )


def _digest(backbone: Backbone) -> str:
    """SHA-256, in hex, of every tensor but the head's."""
    digest = hashlib.sha256()
    for name, value in backbone.network.state_dict().items():
        if not name.startswith(f"{backbone.head_path}."):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
