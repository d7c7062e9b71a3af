"""What a run says about its own photos and figures: doubted labels, near duplicates across parts, and sentences."""

import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trapline.csv_rows import CsvRows

from .config import RunConfig
from .data import Data
from .dataset.straddling import Duplicate, straddling
from .evaluate.judge import judge
from .evaluate.suspects import Suspect, suspects, suspects_csv
from .out_of_fold import OutOfFold, out_of_fold
from .progress import Report
from .recipe.part import cross_entropy
from .report.suspect_sheet import draw_suspects
from .run_folder import write_text
from .training import Trained

SUSPECTS_FILE, DUPLICATES_FILE = "suspects.csv", "duplicates.csv"


def judged(
    config: RunConfig,
    trained: Trained,
    probabilities: Mapping[str, NDArray[np.float32]],
    metrics: Mapping[str, Any],
    folder: Path,
    *,
    report: Report,
) -> dict[str, Any]:
    """Writes `suspects.csv` and `duplicates.csv`; gives what `metrics.json` holds of all this.

    Args:
        config: What was asked for.
        trained: What training gave, before a refit.
        probabilities: The network's answers for `val` and `test`, float32 [photos, labels], not calibrated.
        metrics: The figures so far.
        folder: The run folder.
        report: Where progress goes.

    Returns:
        `out_of_fold`, `suspects` and `judgement`.
    """
    data = trained.data
    answers = out_of_fold(config, trained, probabilities, report=report)
    found = _write_suspects(data, answers, folder)
    if config.images:
        draw_suspects(data, folder)
    pairs = straddling(data.scan.photos, data.split.parts, data.split.groups, pixels=data.pixels)
    write_text(folder / DUPLICATES_FILE, _duplicates_csv(pairs))
    figures = {
        "out_of_fold": _figures(data, answers),
        "suspects": {
            "image_count": len(found),
            "confident_image_count": sum(one.confident for one in found),
            "asked_image_count": len(answers.positions),
            "sentence": answers.sentence,
        },
    }
    findings = judge({**metrics, **figures}, duplicates=pairs, suspects=found)
    return {**figures, "judgement": [asdict(finding) for finding in findings]}


def split_facts(data: Data) -> dict[str, Any]:
    """What the judge must know of the split: photos of each class in each part, and the test part's largest group."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    groups: Counter[str] = Counter()
    for photo in data.scan.photos:
        part = data.split.parts[photo.path]
        counts[part][photo.label] += 1
        if part == "test":
            groups[data.split.groups[photo.path]] += 1
    name, count = max(groups.items(), key=lambda item: (item[1], item[0]))
    return {
        "class_counts": {
            part: {label: counts[part][label] for label in data.scan.labels} for part in ("train", "val", "test")
        },
        "largest_test_group": {"group": name, "image_count": count},
    }


def serious(metrics: Mapping[str, Any]) -> list[str]:
    """The sentences that a person must not miss."""
    return [f"serious: {row['sentence']}" for row in metrics["judgement"] if row["severity"] == "serious"]


def _write_suspects(data: Data, answers: OutOfFold, folder: Path) -> list[Suspect]:
    photos = [data.scan.photos[position] for position in answers.positions]
    groups = [data.split.groups[photo.path] for photo in photos]
    found = suspects(
        answers.probabilities, data.targets(answers.positions.tolist()), labels=data.scan.labels, groups=groups
    )
    text = suspects_csv(
        found,
        paths=[photo.path for photo in photos],
        parts=[data.split.parts[photo.path] for photo in photos],
        groups=groups,
    )
    write_text(folder / SUSPECTS_FILE, text)
    return found


def _duplicates_csv(pairs: Sequence[Duplicate]) -> str:
    buffer = io.StringIO()
    writer = CsvRows(buffer)
    writer.writerow(field.name for field in fields(Duplicate))
    writer.writerows(astuple(pair) for pair in pairs)
    return buffer.getvalue()


def _figures(data: Data, answers: OutOfFold) -> dict[str, Any] | None:
    """How good the out-of-fold answers of the training photos are; None without a frozen stage."""
    if not answers.whole:
        return None
    trained_on = np.isin(answers.positions, data.positions("train"))
    targets, probabilities = data.targets(answers.positions[trained_on].tolist()), answers.probabilities[trained_on]
    return {
        "image_count": len(targets),
        "accuracy": float((probabilities.argmax(axis=1) == targets).mean()),
        "loss": cross_entropy(probabilities, targets),
    }
