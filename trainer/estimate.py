"""What a run will take, said before it trains: memory, disk, time. What cannot work is refused then.

Seconds and bytes of an image are measured (`recipe.trial`). What cannot be tried in a second, fitting the head and the
export, is counted from sizes; its constants were measured on two cores.
"""

import math
import shutil
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .capacity import available_memory_bytes, used_memory_bytes
from .data import Data
from .errors import TrainerError
from .evaluate.unknowns import MOST_OF_A_CLASS
from .export import is_traced
from .recipe import out_of_memory
from .recipe.lr_finder import step_count
from .recipe.part import at_once
from .recipe.plan import Plan
from .recipe.schedule import largest_step, steps_in_epoch
from .recipe.steps import NotFinite
from .recipe.trial import Trial, images_at_once, measure
from .report.thumbnails import page_bytes
from .run_folder import PLAN_FILE, read_facts
from .setting import Setting

_MIB, _GIB = 1 << 20, 1 << 30
# Beside what a step keeps for the way back: gradients on their way, and gaps in the heap.
_STEP_OVERHEAD = 1.3
# Layers' outputs that are there at the same time where nothing is kept.
_OUTPUTS_AT_ONCE = 3
# Times the weights: gradients, two averages of the optimiser, averaged and best weights; all on their way to the disk.
_COPIES_IN_TRAINING, _COPIES_IN_CHECKPOINT = 5, 9
# Times the features: standardised, joined, and a fold of them.
_COPIES_IN_HEAD = 6
# The exporter's and ONNX Runtime's libraries; times the weights: graph, file and session.
_EXPORT_BYTES, _COPIES_IN_EXPORT = 350 * _MIB, 4
# The fixed part, and for each layer.
_EXPORT_SECONDS, _EXPORT_SECONDS_NOT_TRACED, _DECODE_SECONDS = (1.0, 0.003), (12.0, 0.018), 0.02
# Predictions, top losses, Grad-CAM and feature maps; 200 x 200 pixels as PNG.
_DRAWN_OF_ALL_CLASSES, _DRAWN_BYTES, _DRAWN_SECONDS = 130, 90_000, 0.01
# Photos that pictures of layers are made of, and passes for Grad-CAM.
_LOOKED_INTO, _HEATED = 200, 30
_FREE_RESERVE = 16 * _MIB
_FAR_OFF = 2.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done, in numbers.

    Attributes:
        photos: Number of photos in `train`, `val` and `test`.
        label_count: Classes.
        views: Views of each photo that the head is fitted on; 0 where no head is to be fitted any more.
        has_features: Whether their features are there already.
        feature_count: Inputs of the head.
        weight_bytes: Size of the network's tensors.
        layer_count: Its modules.
        traced: Whether it is exported by tracing.
        device: Where the network is.
        batch_size: Images that one process has at a time at most: of the largest step where it trains.
        whole_batches: Whether all of them go through the network at once.
        epochs: Unfrozen epochs that are left, in parts too.
        trains: Whether there is an unfrozen stage, ended or not.
        rate_steps: Steps of the range test; 0 without one.
        processes: Processes that share the work.
    """

    photos: dict[str, int]
    label_count: int
    views: int
    has_features: bool
    feature_count: int
    weight_bytes: int
    layer_count: int
    traced: bool
    device: torch.device
    batch_size: int
    whole_batches: bool
    epochs: float
    trains: bool
    rate_steps: int
    processes: int


def network_bytes(work: Work, trial: Trial, *, batch_size: int) -> int:
    """What the network takes at most, where it is, for so many images at a time, beside its own tensors."""
    forward = _OUTPUTS_AT_ONCE * at_once(batch_size, work.device) * trial.forward_bytes
    if not work.trains and not work.rate_steps:
        return forward
    in_a_step = images_at_once(batch_size, whole=work.whole_batches)
    step = _STEP_OVERHEAD * (in_a_step * trial.step_bytes + trial.fixed_step_bytes)
    return max(forward, int(step) + _COPIES_IN_TRAINING * work.weight_bytes)


def memory_bytes(work: Work, trial: Trial, *, batch_size: int) -> int:
    """What the process takes at its peak beyond what it has now, for so many images at a time."""
    features = 4 * work.views * work.photos["train"] * work.feature_count
    network = network_bytes(work, trial, batch_size=batch_size)
    checkpoint = _COPIES_IN_CHECKPOINT * work.weight_bytes if work.trains else 0
    # Freed memory stays with the process, so the largest stage is there when the libraries of the export come.
    largest = max(network + features, _COPIES_IN_HEAD * features, checkpoint)
    return largest + _EXPORT_BYTES + _COPIES_IN_EXPORT * work.weight_bytes


def disk_bytes(work: Work) -> int:
    """What the run folder takes at most, with what is there only while one file takes another one's place."""
    lists = sum(work.photos.values()) * (400 + 16 * work.label_count)
    head = 4 * work.feature_count * work.label_count
    weights = work.weight_bytes * (_COPIES_IN_CHECKPOINT if work.trains else 3)
    page = page_bytes(work.photos["val"] + work.photos["test"])
    # The pictures are files, and smaller ones on the page.
    drawn = _drawn_photos(work) * _DRAWN_BYTES * 5 // 4
    return lists + head + weights + page + drawn + 2 * _MIB


def seconds(work: Work, trial: Trial) -> dict[str, float]:
    """How long each stage takes, by its name, in their order; stages that there are not are left out."""
    train, validation, test = (work.photos[part] for part in ("train", "val", "test"))
    step, forward = trial.step_seconds / work.processes, trial.forward_seconds
    # Once before the first epoch, too.
    validations = math.ceil(work.epochs) + 1 if work.epochs else 0
    fixed, a_layer = _EXPORT_SECONDS if work.traced else _EXPORT_SECONDS_NOT_TRACED
    export = fixed + a_layer * work.layer_count
    means = min(train, MOST_OF_A_CLASS * work.label_count)
    stages = {
        "features": 0.0 if work.has_features else work.views * train * trial.feature_seconds / work.processes,
        "head": _head_seconds(work),
        "range test": work.rate_steps * work.batch_size * work.processes * step,
        "fine-tuning": work.epochs * train * step + validations * validation * forward / work.processes,
        # The file's check runs each test photo once more, and decodes it.
        "test and export": export + (validation + 2 * test + means) * forward + test * _DECODE_SECONDS,
        "pictures": (min(test, _LOOKED_INTO) + _HEATED) * forward + _drawn_photos(work) * _DRAWN_SECONDS,
    }
    return {name: value for name, value in stages.items() if value}


def _drawn_photos(work: Work) -> int:
    """Photos on the sheets: of each class best, worst and a sample, and those that are drawn of all classes."""
    of_classes = min(20 * work.label_count, 2 * work.photos["test"]) + min(5 * work.label_count, work.photos["train"])
    return of_classes + _DRAWN_OF_ALL_CLASSES


def _head_seconds(work: Work) -> float:
    """Eight strengths on five folds: a decomposition a fold where images are few, then passes over the features."""
    if not work.views:
        return 0.0
    rows = work.views * work.photos["train"]
    decomposition = 3e-9 * rows**2 * work.feature_count if rows < 1.25 * work.feature_count else 0.0
    return 1.0 + decomposition + 7e-8 * rows * min(rows, work.feature_count) * work.label_count


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
    looks_for_rate = setting.config.learning_rate == "auto" and not (setting.folder / PLAN_FILE).is_file()
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
