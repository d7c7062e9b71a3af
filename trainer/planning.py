"""Every choice of a run, made once: `plan.json`. A resumed run uses what is written there.

What changes numbers follows from the options, the versions and what the machine can do, never from a measurement of
its speed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .config import RunConfig
from .data import Data
from .errors import UsageError
from .progress import Report
from .recipe.plan import Plan
from .recipe.schedule import steps_in_epoch
from .run_folder import read_json

_UNEQUAL = 3.0
_PATIENCE = 3
#: Of the averaged weights, by the number of steps: the average reaches over the second half of them.
_AVERAGED_SHARE = 0.5
_LONGEST_AVERAGE = 0.9998


def earlier_plan(path: Path, config: RunConfig, *, choices: dict[str, Any], report: Report) -> dict[str, Any] | None:
    """The plan that the run began with; None for a new run.

    Raises:
        UsageError: The initial weights are not those that the run began with.
    """
    if not path.is_file():
        return None
    plan = read_json(path)
    if plan["weights_digest"] != choices["weights_digest"]:
        # Only a file that the run was given can be brought back.
        named = {"auto": "auto: torchvision has", "none": "none: by other versions perhaps, chance gives"}
        back = "" if config.weights in named else "bring the old file back or "
        raise UsageError(
            f"--weights {named.get(config.weights, f'{config.weights}: it holds')} other weights than when this run "
            f"began; {back}name a new --out folder"
        )
    changed = [name for name in ("versions", "device", "processes") if plan.get(name) != choices[name]]
    if changed:
        report.say(f"resuming with another {' and '.join(changed)}: the last digits of the result may differ")
    return plan


def new_plan(config: RunConfig, data: Data, *, choices: dict[str, Any]) -> dict[str, Any]:
    """The plan of a new run, from its options and `choices` made before."""
    targets = data.targets(data.positions("train"))
    counts = np.bincount(targets)
    unequal = float(counts.max() / counts.min())
    balance = config.balance
    if balance == "auto":
        balance = "loss" if unequal > _UNEQUAL else "none"
    pretrained, of_device = choices["pretrained"], by_device(config, choices["device"])
    # A study has made these for all of its runs.
    of_device |= {name: choices[name] for name in of_device if name in choices}
    batch_size = of_device["batch_size"]
    steps = steps_in_epoch(len(targets), batch_size) * max(1, config.epochs)
    rate = config.learning_rate if isinstance(config.learning_rate, float) else None
    return (
        choices
        | of_device
        | {
            "learning_rate": rate or (1e-4 if pretrained else 1e-3),
            "patience": config.patience or max(_PATIENCE, config.epochs // 2),
            "balance": balance,
            "largest_class_over_smallest": unequal,
            "optimizer": config.optimizer,
            "schedule": config.schedule,
            "weight_decay": config.weight_decay,
            "earliest_rate": config.earliest_rate,
            "label_smoothing": config.label_smoothing,
            "ema_decay": min(_LONGEST_AVERAGE, max(0.0, 1 - 1 / (_AVERAGED_SHARE * steps))) if config.ema else 0.0,
            "augment": config.augment,
            "rotation_degrees": config.rotation_degrees,
            "mixup": config.mixup,
            "cutmix": config.cutmix,
            "views": config.views if config.augment != "none" else 1,
        }
    )


def by_device(config: RunConfig, device: str) -> dict[str, Any]:
    """What is chosen by the device: `batch_size` where no option gives it, and `features_in_bfloat16`."""
    return {
        "batch_size": config.batch_size or (64 if device != "cpu" else 32),
        "features_in_bfloat16": fast_bfloat16(torch.device(device)),
    }


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


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # The flags of the kernel's own list; elsewhere than on Linux for x86 it stays off.
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def spoken(plan: dict[str, Any], config: RunConfig) -> list[str]:
    """What was decided that the options left open, as sentences."""
    said = []
    if config.balance == "auto":
        what = {"none": "classes count as they are", "loss": "rare classes weigh more in the loss"}
        said.append(
            f"--balance auto: the largest class has {plan['largest_class_over_smallest']:.1f} times the photos of the "
            f"smallest; {what.get(plan['balance'], plan['balance'])}"
        )
    return said
