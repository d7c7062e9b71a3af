"""What a trained network leaves behind: the checked ONNX file, figures, predictions, pictures, weights."""

import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

from trapline import model_file
from trapline.csv_rows import CsvRows
from trapline.v1.metadata_pb2 import Evaluation, Label, ModelMetadata, Preprocessing
from trapline.v1.metadata_pb2 import Unknowns as UnknownsMessage

from . import first_epochs
from .config import RunConfig
from .data import Data
from .evaluate.assess import Assessment, assess, seen_by
from .evaluate.calibrate import softmax
from .evaluate.unknowns import KEPT_SHARE
from .export import Parity, check_parity, to_onnx
from .judgement import judged, serious, split_facts
from .progress import Report
from .recipe.schedule import steps_in_epoch
from .report.events import EventFile
from .report.figures import draw
from .report.html import REPORT_FILE, write_report
from .report.pictures import write_pictures
from .report.thumbnails import THUMBNAILS_FILE, shown_positions, write_thumbnails
from .run_folder import write_json, write_tensors, write_text
from .training import Trained, refitted

MODEL_FILE = model_file.file_name()
METRICS_FILE = "metrics.json"


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
    assessed = assess(trained, target_precision=config.target_precision, report=report)
    _write_predictions(data, assessed, folder / "predictions.csv")
    measured = assessed.metrics
    model_path = folder / MODEL_FILE
    expected, unknown_scores = assessed.probabilities["test"], assessed.unknown_scores["test"]
    refit, before = "", trained
    if config.refit == "all":
        again = refitted(trained, report)
        if again is None:
            report.say("--refit all: the layers were fine-tuned with their head; nothing is fitted again")
        else:
            trained, refit = again, "all"
            seen = seen_by(trained, data.part("test"), "test", report=report)
            expected = softmax(seen.logits, assessed.temperature.temperature)
            unknown_scores = assessed.unknowns.scores(expected, seen.features)
    report.say("exporting to ONNX")
    metadata = _metadata(config, data, trained, rules=rules, assessed=assessed, refit=refit)
    to_onnx(
        trained.backbone,
        metadata,
        model_path,
        temperature=assessed.temperature.temperature,
        unknowns=assessed.unknowns,
    )
    photos = [data.scan.root / data.scan.photos[position].path for position in data.positions("test")]
    parity = check_parity(model_path, photos, expected, unknown_scores=unknown_scores, threads=threads, report=report)
    facts = {"backbone": trained.backbone.name, "labels": list(data.scan.labels)}
    state = {name: value.detach().cpu().contiguous() for name, value in trained.backbone.network.state_dict().items()}
    write_tensors(folder / "weights.safetensors", state, facts)
    metrics = _metrics(data, trained, measured, parity) | {"refit": refit or "none"}
    metrics |= judged(config, before, assessed.plain, metrics, folder, report=report)
    metrics |= {"first_epochs": first_epochs.drawn(folder, metrics)}
    write_json(folder / METRICS_FILE, metrics)
    draw(metrics, trained.plan, folder / "plots", epochs=config.epochs)
    write_pictures(
        trained.backbone,
        data,
        assessed.probabilities,
        folder,
        device=trained.device,
        report=report,
        head_only=trained.stage == "head",
        images=config.images,
        seed=config.seed,
    )
    _tell_test(trained, measured["test"], folder, report)
    _write_page(config, data, folder)
    return metrics


def sentences(metrics: Mapping[str, Any], folder: Path) -> str:
    """The result for a person."""
    test, parity, split = metrics["test"], metrics["parity"], metrics["split"]
    stage = "the head on a frozen backbone" if metrics["stage"] == "head" else f"fine-tuned, epoch {metrics['epoch']}"
    weakest = min(
        ((row["recall"], label) for label, row in test["classes"].items() if row["recall"] is not None), default=None
    )
    lines = [
        f"test accuracy {test['accuracy']:.1%} ({_interval(test)}), balanced "
        f"{test['balanced_accuracy']:.1%}, on {test['image_count']} photos that neither training nor any choice saw",
        f"split by {split['rule']}: {split['sentence']}",
        f"calibration: {metrics['calibration']['sentence']}; {test['ece_sentence']}",
        metrics["thresholds"]["sentence"],
        metrics["unknowns"]["sentence"],
        f"exported {stage}: {folder / MODEL_FILE}",
        f"parity: {parity['image_count']} test photos through the exported file, {parity['top1_agreement']:.1%} of the "
        f"same class as by the checkpoint, largest difference of a probability {parity['largest_difference']:.1g}",
    ]
    if metrics["refit"] == "all":
        lines[5] += "; its head was fitted again on every photo after the figures above were measured"
    lines.append(f"report: {folder / REPORT_FILE}")
    if weakest is not None and weakest[0] < 1:
        lines.insert(1, f"weakest class: {weakest[1]}, {weakest[0]:.1%} of it found")
    return "\n".join([*lines, *serious(metrics)])


def _interval(test: Mapping[str, Any]) -> str:
    """The accuracy's interval in words, or why there is none."""
    if test["accuracy_interval"] is None:
        sentence: str = test["interval_sentence"]
        return sentence
    low, high = test["accuracy_interval"]
    how = " over groups" if test["interval_method"] == "group_jackknife" else ""
    if test["group_count"] is None:
        how = " of ungrouped photos, too narrow where there are bursts:"
    return f"95 % interval{how} {low:.1%} to {high:.1%}"


def _metadata(
    config: RunConfig, data: Data, trained: Trained, *, rules: Preprocessing, assessed: Assessment, refit: str
) -> ModelMetadata:
    test = assessed.metrics["test"]
    metadata = ModelMetadata(
        model_id=config.model_id or _slug(config.data),
        labels=[
            Label(id=label, display_name=label, threshold=threshold)
            for label, threshold in zip(data.scan.labels, assessed.thresholds, strict=True)
        ],
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
        temperature=assessed.temperature.temperature,
        target_precision=config.target_precision,
        unknowns=UnknownsMessage(
            method=assessed.unknowns.method,
            kept_share=KEPT_SHARE,
            auroc=assessed.metrics["unknowns"]["auroc"][assessed.unknowns.method],
        ),
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
    reach: dict[str, set[str]] = defaultdict(set)
    for path, group in data.split.groups.items():
        reach[group].add(data.split.parts[path])
    group_count, torn = len(reach), sum(len(parts) > 1 for parts in reach.values())
    test = measured["test"]
    shown = ("balanced_accuracy", "macro_f1", "classes", "confusion")
    head = None
    if trained.head is not None:
        head = {"strength": trained.head.strength, "cross_validated_loss": trained.head.losses}
    return {
        "labels": list(data.scan.labels),
        **measured,
        **{key: test[key] for key in shown},
        "split": {
            "rule": data.split.rule,
            "sentence": f"{group_count} groups of {sum(counts.values())} photos, {torn or 'none'} of them in two parts",
            "notes": list(data.split.notes),
            "group_count": group_count,
            "image_counts": {part: counts[part] for part in ("train", "val", "test")},
            "digest": data.split.split_digest,
            **split_facts(data),
        },
        "stage": trained.stage,
        "epoch": trained.epoch,
        "head": head,
        "balance": trained.plan["balance"],
        "history": [asdict(row) for row in trained.history],
        "parity": asdict(parity),
        "data_digest": data.scan.data_digest,
    }


def _write_predictions(data: Data, assessed: Assessment, path: Path) -> None:
    buffer = io.StringIO()
    writer = CsvRows(buffer)
    labels = data.scan.labels
    shown = [f"probability_{label}" for label in labels]
    writer.writerow(["path", "part", "label", "predicted", "score", "unknown_score", *shown])
    for part, rows in assessed.probabilities.items():
        for position, row, unknown in zip(data.positions(part), rows, assessed.unknown_scores[part], strict=True):
            photo = data.scan.photos[position]
            best = int(row.argmax())
            values = [f"{value:.6f}" for value in (row[best], unknown, *row)]
            writer.writerow([photo.path, part, photo.label, labels[best], *values])
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


def _write_page(config: RunConfig, data: Data, folder: Path) -> None:
    """The report, of the files that are there by now, with the small photos that it shows."""
    thumbnails = folder / THUMBNAILS_FILE
    if config.images:
        write_thumbnails(data, shown_positions(data, folder), thumbnails)
    else:
        # An earlier process of this run may have been told otherwise.
        thumbnails.unlink(missing_ok=True)
    write_report(folder, images=config.images)
