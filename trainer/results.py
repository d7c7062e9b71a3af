"""What a trained network leaves behind: the checked ONNX file, figures, predictions, pictures, weights."""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trapline import model_file
from trapline.v1.metadata_pb2 import Evaluation, Label, ModelMetadata, Preprocessing

from . import first_epochs
from .config import RunConfig
from .data import Data
from .evaluate.metrics import figures
from .export import Parity, check_parity, to_onnx
from .progress import Progress, Report
from .recipe.part import predict
from .recipe.schedule import steps_in_epoch
from .report import plots
from .report.events import EventFile
from .run_folder import write_json, write_tensors, write_text
from .training import Trained, refitted

MODEL_FILE = model_file.file_name()


def write_results(
    config: RunConfig, trained: Trained, folder: Path, *, rules: Preprocessing, report: Report
) -> dict[str, Any]:
    """Evaluates on the untouched test part, exports, checks, and writes every file; gives what `metrics.json` holds.

    Args:
        config: What was asked for.
        trained: The network, and the photos and their parts.
        folder: The run folder.
        rules: The preprocessing that made the pixels.
        report: Where progress goes.

    Raises:
        ParityError: The exported file and the network disagree on a test photo.
    """
    threads, data = trained.plan["threads"], trained.data
    probabilities = {part: _predicted(data, trained, part, report=report) for part in ("val", "test")}
    _write_predictions(data, probabilities, folder / "predictions.csv")
    measured = {
        part: figures(rows, data.targets(data.positions(part)), data.scan.labels)
        for part, rows in probabilities.items()
    }
    model_path = folder / MODEL_FILE
    expected, refit = probabilities["test"], ""
    if config.refit == "all":
        again = refitted(trained, report)
        if again is None:
            report.say("--refit all: the layers were fine-tuned with their head; nothing is fitted again")
        else:
            trained, expected, refit = again, _predicted(data, again, "test", report=report), "all"
    report.say("exporting to ONNX")
    metadata = _metadata(config, data, trained, rules=rules, test=measured["test"], refit=refit)
    to_onnx(trained.backbone, metadata, model_path)
    photos = [data.scan.root / data.scan.photos[position].path for position in data.positions("test")]
    parity = check_parity(model_path, photos, expected, threads=threads, report=report)
    facts = {"backbone": trained.backbone.name, "labels": list(data.scan.labels)}
    state = {name: value.detach().cpu().contiguous() for name, value in trained.backbone.network.state_dict().items()}
    write_tensors(folder / "weights.safetensors", state, facts)
    metrics = _metrics(data, trained, measured, parity) | {"refit": refit or "none"}
    metrics |= {"first_epochs": first_epochs.drawn(folder, metrics)}
    _draw(config, trained, metrics, folder / "plots")
    write_json(folder / "metrics.json", metrics)
    _tell_test(trained, measured["test"], folder, report)
    return metrics


def sentences(metrics: Mapping[str, Any], folder: Path) -> str:
    """The result for a person."""
    test, parity, split = metrics["test"], metrics["parity"], metrics["split"]
    low, high = test["accuracy_interval"]
    stage = "the head on a frozen backbone" if metrics["stage"] == "head" else f"fine-tuned, epoch {metrics['epoch']}"
    weakest = min(
        ((row["recall"], label) for label, row in test["classes"].items() if row["recall"] is not None), default=None
    )
    lines = [
        f"test accuracy {test['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}), balanced "
        f"{test['balanced_accuracy']:.1%}, on {test['image_count']} photos that neither training nor any choice saw",
        f"split by {split['rule']}: {split['sentence']}",
        f"exported {stage}: {folder / MODEL_FILE}",
        f"parity: {parity['image_count']} test photos through the exported file, {parity['top1_agreement']:.1%} of the "
        f"same class as by the checkpoint, largest difference of a probability {parity['largest_difference']:.1g}",
    ]
    if metrics["refit"] == "all":
        lines[2] += "; its head was fitted again on every photo after the figures above were measured"
    if weakest is not None and weakest[0] < 1:
        lines.insert(1, f"weakest class: {weakest[1]}, {weakest[0]:.1%} of it found")
    return "\n".join(lines)


def _predicted(data: Data, trained: Trained, part: str, *, report: Report) -> NDArray[np.float32]:
    phase = "validate" if part == "val" else "test"
    return predict(
        trained.backbone,
        data.part(part),
        batch_size=trained.plan["batch_size"],
        device=trained.device,
        report=lambda done, total: report.progress(Progress(phase=phase, done=done, total=total)),
    )


def _metadata(
    config: RunConfig, data: Data, trained: Trained, *, rules: Preprocessing, test: Mapping[str, Any], refit: str
) -> ModelMetadata:
    metadata = ModelMetadata(
        model_id=config.model_id or _slug(config.data),
        labels=[Label(id=label, display_name=label) for label in data.scan.labels],
        preprocessing=rules,
        backbone=config.backbone,
        evaluation=Evaluation(
            epoch=trained.epoch,
            loss=test["loss"],
            accuracy=test["accuracy"],
            balanced_accuracy=test["balanced_accuracy"],
            image_count=test["image_count"],
        ),
        trainer_version=distributions.version("trapline"),
        data_digest=data.scan.data_digest,
        split_digest=data.split.split_digest,
        split_rule=data.split.rule,
        stage=trained.stage,
        refit=refit,
    )
    metadata.export_time.GetCurrentTime()
    metadata.export_time.nanos = 0
    return metadata


def _slug(data: Path) -> str:
    """An id from the data folder's name."""
    name = re.sub(r"[^a-z0-9_-]+", "-", data.resolve().name.lower()).strip("-_")
    return name[:63] or "model"


def _metrics(data: Data, trained: Trained, measured: Mapping[str, Any], parity: Parity) -> dict[str, Any]:
    counts = Counter(data.split.parts.values())
    group_count = len(set(data.split.groups.values()))
    test = measured["test"]
    shown = ("balanced_accuracy", "macro_f1", "classes", "confusion")
    head = None
    if trained.head is not None:
        head = {"strength": trained.head.strength, "cross_validated_loss": trained.head.losses}
    return {
        "labels": list(data.scan.labels),
        "test": test,
        "validation": measured["val"],
        **{key: test[key] for key in shown},
        "split": {
            "rule": data.split.rule,
            "sentence": f"{group_count} groups of {len(data.scan.photos)} photos, none of them in two parts",
            "notes": list(data.split.notes),
            "group_count": group_count,
            "image_counts": {part: counts[part] for part in ("train", "val", "test")},
            "digest": data.split.split_digest,
        },
        "stage": trained.stage,
        "epoch": trained.epoch,
        "head": head,
        "history": [asdict(row) for row in trained.history],
        "parity": asdict(parity),
        "data_digest": data.scan.data_digest,
    }


def _write_predictions(data: Data, probabilities: Mapping[str, NDArray[np.float32]], path: Path) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    labels = data.scan.labels
    writer.writerow(["path", "part", "label", "predicted", "score", *(f"probability_{label}" for label in labels)])
    for part, rows in probabilities.items():
        for position, row in zip(data.positions(part), rows, strict=True):
            photo = data.scan.photos[position]
            best = int(row.argmax())
            values = [f"{value:.6f}" for value in row]
            writer.writerow([photo.path, part, photo.label, labels[best], f"{row[best]:.6f}", *values])
    write_text(path, buffer.getvalue())


def _tell_test(trained: Trained, test: Mapping[str, Any], folder: Path, report: Report) -> None:
    """The final figures for TensorBoard, at the last step."""
    steps = steps_in_epoch(len(trained.data.positions("train")), trained.plan["batch_size"])
    shown = {name: test[name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "loss")}
    with EventFile(folder / "events", say=report.say) as events:
        events.test(
            {name: value for name, value in shown.items() if value is not None},
            step=steps * trained.history[-1].epoch if trained.history else 0,
        )


def _draw(config: RunConfig, trained: Trained, metrics: Mapping[str, Any], folder: Path) -> None:
    test = metrics["test"]
    title = f"{test['image_count']} test photos, {test['accuracy']:.1%} right"
    plots.confusion_matrix(test["confusion"], metrics["labels"], folder / "confusion_matrix.png", title=title)
    plots.curves(
        trained.history,
        folder / "curves.png",
        chosen=trained.epoch,
        epochs=config.epochs,
        peak_rate=trained.plan["learning_rate"],
        strengths=trained.head.losses if trained.head else {},
        strength=trained.head.strength if trained.head else None,
    )
