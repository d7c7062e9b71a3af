"""How a point is trained: a head on features that were computed once for all points, or a run of its own."""

import csv
import io
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trapline.csv_rows import CsvRows

from ..beginning import begun
from ..config import RunConfig
from ..data import Data
from ..dataset.cache.folder import user_cache_folder
from ..dataset.scan import write_scan_csv
from ..dataset.split import write_split_csv
from ..evaluate.calibrate import fit_temperature, softmax
from ..evaluate.metrics import figures
from ..head_stage import training_features
from ..planning import new_plan
from ..progress import Progress, Report
from ..recipe import probe
from ..results import sentences, write_results
from ..run import recorded, rules_of
from ..run_folder import RunFolder, open_run, read_json, read_tensors, write_atomically, write_tensors, write_text
from ..setting import Setting
from ..training import train
from ..world import World
from .points import Point, Task, restricted

_SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "loss", "classes", "confusion")


def point_trainer(setting: Setting, data: Data, choices: dict[str, Any]) -> Callable[[Task], Point]:
    """What trains a point of a study.

    Args:
        setting: Of the study as a whole, with its network as it begins.
        data: All photos.
        choices: From `beginning.begun`, and the fit.
    """
    if setting.config.epochs:
        return lambda task: run_point(setting.config, data, choices, task, _OfPoint(setting.report, task))
    features = computed_features(setting, data, choices)
    return lambda task: head_point(setting, data, choices, features, task)


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the heads of all points are fitted on and tested with.

    Attributes:
        train: Of the training part, float32 [views, photos, features].
        validation: Of the validation part as it is, float32 [photos, features].
        test: Of the test part, likewise.
    """

    train: NDArray[np.float32]
    validation: NDArray[np.float32]
    test: NDArray[np.float32]


def computed_features(setting: Setting, data: Data, choices: dict[str, Any]) -> Features:
    """The features of all parts; those of an earlier process where it had them all."""
    path = setting.checkpoint / "features.safetensors"
    if path.is_file():
        tensors, _ = read_tensors(path)
        return Features(**{name: value.numpy() for name, value in tensors.items()})
    plan = new_plan(setting.config, data, choices=choices)
    found = {"train": training_features(setting, data, plan)}
    for name, part in (("validation", "val"), ("test", "test")):
        seen = data.part(part)
        found[name] = probe.features(
            setting.backbone,
            seen.pixels,
            len(seen.targets),
            batch_size=plan["batch_size"],
            device=setting.device,
            report=setting.progress(f"{name} features"),
        )[0]
    write_tensors(path, {name: torch.from_numpy(rows) for name, rows in found.items()}, {})
    return Features(**found)


def head_point(setting: Setting, data: Data, choices: dict[str, Any], features: Features, task: Task) -> Point:
    """A point of `--epochs 0`: the head of its photos, in seconds."""
    began = time.monotonic()
    photos = data.scan.photos
    everything = data.positions("train")
    rows = [row for row, position in enumerate(everything) if photos[position].path in task.subset.paths]
    positions = [everything[row] for row in rows]
    plan = new_plan(setting.config, restricted(data, task), choices=choices)
    head = probe.fit_head(
        np.ascontiguousarray(features.train[:, rows]),
        data.targets(positions),
        data.groups(positions),
        balance=plan["balance"],
        seed=_seed(setting.config, task),
        report=lambda _done, _total: None,
    )
    logits = {name: getattr(features, name) @ head.weight.T + head.bias for name in ("validation", "test")}
    found = fit_temperature(logits["validation"], data.targets(data.positions("val")))
    probabilities = softmax(logits["test"], found.temperature)
    targets = data.targets(data.positions("test"))
    _write_predictions(data, probabilities, task.folder / "predictions.csv")
    seen = figures(probabilities, targets, data.scan.labels)
    return Point(
        **_subset_facts(task),
        figures={name: seen[name] for name in _SHOWN},
        right=_marks(probabilities.argmax(axis=1) == targets),
        stage="head",
        epoch=0,
        history=[],
        seconds=round(time.monotonic() - began, 1),
    )


def run_point(config: RunConfig, data: Data, choices: dict[str, Any], task: Task, report: Report) -> Point:
    """A point with unfrozen epochs: a run of its own, which goes on where an earlier process was stopped."""
    point_config = config.model_copy(update={"seed": _seed(config, task), "out": task.folder})
    identity = point_config.identity() | {"study_size": task.size, "study_repeat": task.repeat}
    with open_run(task.folder, identity) as folder:
        if not folder.done:
            _run(point_config, restricted(data, task), choices, folder, report)
        seconds = folder.state["seconds"]
    # Several times the network's size, and needed by nobody once the run is done.
    shutil.rmtree(task.folder / "checkpoint", ignore_errors=True)
    metrics = read_json(task.folder / "metrics.json")
    with (task.folder / "predictions.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        right = [row["label"] == row["predicted"] for row in csv.DictReader(file) if row["part"] == "test"]
    return Point(
        **_subset_facts(task),
        figures={name: metrics["test"][name] for name in _SHOWN},
        right=_marks(right),
        stage=metrics["stage"],
        epoch=metrics["epoch"],
        history=metrics["history"],
        seconds=seconds,
    )


def _run(config: RunConfig, data: Data, choices: dict[str, Any], folder: RunFolder, report: Report) -> None:
    """What `trainer run` does with photos that were scanned and split."""
    began = time.monotonic()
    with recorded(folder, World()):
        write_atomically(folder.path / "scan.csv", lambda path: write_scan_csv(data.scan, path))
        write_atomically(folder.path / "split.csv", lambda path: write_split_csv(data.scan, data.split, path))
        places = {"data": config.data.resolve(), "cache_dir": user_cache_folder(config.cache_dir).resolve()}
        folder.set_state(
            "running",
            data_digest=data.scan.data_digest,
            places={name: str(place) for name, place in places.items()},
        )
        setting, choices = begun(
            config,
            lambda _fit: data,
            folder.path,
            choices=choices,
            threads=choices["threads"],
            world=World(),
            report=report,
        )
        trained = train(setting, lambda _fit: data, choices)
        metrics = write_results(config, trained, folder.path, rules=rules_of(config, config.fit), report=report)
        folder.set_state("done", result=sentences(metrics, folder.path), seconds=round(time.monotonic() - began, 1))


def _seed(config: RunConfig, task: Task) -> int:
    """Of everything but the split: the study's own in the first repeat, so that it is what `trainer run` gives."""
    return config.seed + task.repeat - 1


def _subset_facts(task: Task) -> dict[str, Any]:
    return {
        "size": task.size,
        "repeat": task.repeat,
        "train_image_count": len(task.subset.paths),
        "train_group_count": task.subset.group_count,
        "cut_group_count": task.subset.cut_group_count,
    }


def _marks(right: Sequence[bool] | NDArray[np.bool_]) -> str:
    return "".join("1" if one else "0" for one in right)


def _write_predictions(data: Data, probabilities: NDArray[np.float32], path: Path) -> None:
    """The test photos as in a run's `predictions.csv`."""
    buffer, labels = io.StringIO(), data.scan.labels
    writer = CsvRows(buffer)
    writer.writerow(["path", "part", "label", "predicted", "score", *(f"probability_{label}" for label in labels)])
    for position, row in zip(data.positions("test"), probabilities, strict=True):
        photo, best = data.scan.photos[position], int(row.argmax())
        values = [f"{value:.6f}" for value in row]
        writer.writerow([photo.path, "test", photo.label, labels[best], values[best], *values])
    write_text(path, buffer.getvalue())


class _OfPoint:
    """A report that tells of which point a sentence is."""

    def __init__(self, report: Report, task: Task) -> None:
        self._report, self._name = report, f"{task.size}-{task.repeat}"

    def say(self, sentence: str) -> None:
        self._report.say(f"{self._name}: {sentence}")

    def progress(self, event: Progress) -> None:
        self._report.progress(event)
