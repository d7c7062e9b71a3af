"""Memory, disk and time that a run needs, from what an image was measured to cost (`recipe.trial`).

What cannot be tried in a second, fitting the head and the export, is counted from sizes; its constants were measured on
two cores.
"""

import math
from dataclasses import dataclass

import torch

from .evaluate.unknowns import MOST_OF_A_CLASS
from .recipe.part import at_once
from .recipe.trial import Trial, images_at_once
from .report.thumbnails import page_bytes

_MIB = 1 << 20
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
