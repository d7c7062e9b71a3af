"""An exported file on labelled folders: the figures that anyone can have from the file alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset.layout import find_files
from ..errors import DatasetError
from ..progress import Progress, Report
from .calibrate import calibration_figures
from .metrics import figures
from .model import classify_files, load


def evaluate(model_path: Path, data: Path, *, threads: int, report: Report) -> dict[str, Any]:
    """The figures of `trainer.evaluate.metrics.figures`, and what was left out.

    Args:
        model_path: The exported file.
        data: One folder a class, named by label id; or train/, val/, test/ of such folders, all of which count.
        threads: Decoding and inference threads.
        report: Where progress goes.

    Returns:
        The figures, those of `calibration_figures`, `unknown_class_image_count` (images of classes that the model does
        not know: excluded),
        `unreadable_image_count` and `unreadable` (path -> reason).

    Raises:
        UsageError: The file is no exported model, or `data` is missing.
        DatasetError: No image of a class that the model knows can be read.
    """
    model = load(model_path, threads=threads)
    position = {label: index for index, label in enumerate(model.labels)}
    files = find_files(data, least_classes=1).files
    known = [file for file in files if file.label in position]
    rows, targets, unreadable = [], [], {}
    tell = _teller(report, len(known))
    answers = classify_files(model, (data / file.path for file in known), threads=threads, report=tell)
    for file, (_, row) in zip(known, answers, strict=True):
        if isinstance(row, str):
            unreadable[file.path] = row
        else:
            rows.append(row[: len(model.labels)])
            targets.append(position[file.label])
    if not rows:
        raise DatasetError(
            f"{data} has no readable image of a class that the model knows ({', '.join(model.labels)}); "
            "name each folder after one of them"
        )
    probabilities, true = np.stack(rows), np.array(targets, dtype=np.int64)
    result = figures(probabilities, true, model.labels) | calibration_figures(probabilities, true)
    return result | {
        "unknown_class_image_count": len(files) - len(known),
        "unreadable_image_count": len(unreadable),
        "unreadable": unreadable,
    }


def _teller(report: Report, total: int) -> Callable[[int], None]:
    return lambda done: report.progress(Progress(phase="evaluate", done=done, total=total))
