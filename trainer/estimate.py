"""What a run will take, said before it trains: memory, disk, time. What cannot work is refused then."""

import math
import shutil
from functools import partial
from typing import Any

import torch

from .capacity import available_memory_bytes, used_memory_bytes
from .data import Data
from .errors import TrainerError
from .export import is_traced
from .needs import Work, disk_bytes, memory_bytes, network_bytes, seconds
from .recipe import out_of_memory
from .recipe.lr_finder import step_count
from .recipe.plan import Plan
from .recipe.schedule import largest_step, steps_in_epoch
from .recipe.steps import NotFinite
from .recipe.trial import Trial, measure
from .run_folder import PLAN_FILE, read_facts
from .setting import Setting

_MIB, _GIB = 1 << 20, 1 << 30
_FREE_RESERVE = 16 * _MIB
_FAR_OFF = 2.0


def tell_needs(setting: Setting, data: Data, plan: dict[str, Any], training: Plan, *, fitted: bool) -> None:
    """Says what the run will take, and refuses what cannot work, in every process alike.

    Args:
        setting: The run.
        data: Its photos.
        plan: Its choices.
        training: What the unfrozen stage is told.
        fitted: Whether the features for the head are there already.

    Raises:
        TrainerError: The disk has no room for the run folder, or memory is far too small.
    """
    problem = None
    if setting.world.first:
        work = _work(setting, data, training, views=plan["views"], has_features=fitted)
        problem = _too_little_disk(setting, work)
        if problem is None:
            available, now = available_memory_bytes(), used_memory_bytes()
            trial = _tried(setting, data, plan, training, steps=work.trains or work.rate_steps > 0)
            if trial is not None:
                setting.report.say(_sentence(setting, work, trial, now))
                problem = _too_little_memory(setting, work, trial, available)
    problem = setting.world.told(problem)
    if problem is not None:
        raise TrainerError(problem)


def _tried(setting: Setting, data: Data, plan: dict[str, Any], training: Plan, *, steps: bool) -> Trial | None:
    """What an image costs; None where already trying it fails, for want of memory say: the work itself will tell."""
    try:
        with out_of_memory.told(training.batch_size, setting.device):
            return measure(
                setting.backbone,
                data.part("train"),
                plan=training,
                device=setting.device,
                bfloat16=plan["features_in_bfloat16"],
                steps=steps,
            )
    except (TrainerError, NotFinite):
        return None


def _work(setting: Setting, data: Data, training: Plan, *, views: int, has_features: bool) -> Work:
    network, epochs, folder = setting.backbone.network, float(training.epochs), setting.checkpoint
    photos = {part: len(data.positions(part)) for part in ("train", "val", "test")}
    steps = steps_in_epoch(photos["train"], training.batch_size)
    if (folder / "progress.safetensors").is_file():
        facts = read_facts(folder / "progress.safetensors")
        epochs = max(0.0, epochs - (facts["epoch"] - 1) - facts["step"] / steps)
    has_head = not setting.backbone.pretrained or (folder / "head.safetensors").is_file()
    asked_for_rate = setting.config.learning_rate == "auto" and training.epochs > 0
    looks_for_rate = asked_for_rate and not (setting.folder / PLAN_FILE).is_file()
    return Work(
        photos=photos,
        label_count=len(data.scan.labels),
        views=0 if has_head else views,
        has_features=has_features,
        feature_count=setting.backbone.head.in_features,
        weight_bytes=sum(value.nbytes for value in network.state_dict().values()),
        layer_count=sum(1 for _ in network.modules()),
        traced=is_traced(setting.backbone.name),
        device=setting.device,
        batch_size=_at_a_time(
            training.batch_size,
            train_count=photos["train"],
            processes=setting.world.size,
            learns=training.epochs > 0 or looks_for_rate,
        ),
        whole_batches=not setting.backbone.pretrained or setting.device.type == "cuda",
        epochs=epochs,
        trains=training.epochs > 0,
        rate_steps=step_count(steps) if looks_for_rate else 0,
        processes=setting.world.size,
    )


def _at_a_time(batch_size: int, *, train_count: int, processes: int, learns: bool) -> int:
    """Images that one process has at a time at most, with a `--batch-size`: a step takes what is left over, too."""
    return math.ceil((largest_step(train_count, batch_size) if learns else batch_size) / processes)


def _too_little_disk(setting: Setting, work: Work) -> str | None:
    there = sum(path.stat().st_size for path in setting.folder.rglob("*") if path.is_file())
    needed, free = max(0, disk_bytes(work) - there), shutil.disk_usage(setting.folder).free
    if free >= needed + _FREE_RESERVE:
        return None
    return (
        f"--out: the disk of {setting.folder} has {_size(free)} free, and the run folder needs up to {_size(needed)}; "
        "make room there, or name a folder on another disk"
    )


def _sentence(setting: Setting, work: Work, trial: Trial, now: int) -> str:
    """What the run takes, for a person."""
    stages = seconds(work, trial)
    listed = ", ".join(f"{name} {_duration(value)}" for name, value in stages.items())
    on_gpu = setting.device.type == "cuda"
    memory = memory_bytes(work, trial, batch_size=0 if on_gpu else work.batch_size)
    gpu = f", {_size(network_bytes(work, trial, batch_size=work.batch_size))} on the GPU" if on_gpu else ""
    return (
        f"this run takes about {_size(now + memory)} of memory{gpu}, {_size(disk_bytes(work))} on the disk for its "
        f"folder, and {_duration(sum(stages.values()))} on this machine as busy as it is now: {listed}"
    )


def _too_little_memory(setting: Setting, work: Work, trial: Trial, available: int | None) -> str | None:
    """A warning said, or a refusal given, where memory does not suffice."""
    on_gpu = setting.device.type == "cuda"
    if on_gpu:
        kept = torch.cuda.memory_reserved(setting.device) - torch.cuda.memory_allocated(setting.device)
        available = torch.cuda.mem_get_info(setting.device)[0] + kept
    # Where several processes share a machine, each has its part of what is available.
    room = None if available is None else available if on_gpu else available // setting.world.local_size
    bytes_of = network_bytes if on_gpu else memory_bytes
    needed = bytes_of(work, trial, batch_size=work.batch_size)
    if room is None or needed <= room:
        return None
    learns = work.trains or work.rate_steps > 0
    at_a_time = partial(_at_a_time, train_count=work.photos["train"], processes=work.processes, learns=learns)
    smaller = [work.processes << power for power in range((work.batch_size - 1).bit_length() - 1, 0, -1)]
    fits = next((size for size in smaller if bytes_of(work, trial, batch_size=at_a_time(size)) <= room), None)
    hint = "a smaller --backbone or --image-px may fit"
    if fits is not None:
        hint = f"--batch-size {fits} would fit"
    where = f"on {setting.device}" if on_gpu else "in memory"
    sentence = f"this run takes about {_size(needed)} more {where}, and {_size(room)} can be had there; {hint}"
    if needed > _FAR_OFF * room:
        return sentence
    setting.report.say(f"{sentence}. It is tried all the same")
    return None


def _size(count: float) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= 10 * _GIB else f"{math.ceil(count / _MIB):,} MiB"


def _duration(value: float) -> str:
    return (
        f"{math.ceil(value)} s" if value < 100 else f"{value / 60:.0f} min" if value < 6000 else f"{value / 3600:.1f} h"
    )
