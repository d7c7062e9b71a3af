"""The tables of a study: a row a point, a row an epoch, and the lines that a person reads at the end."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trapline.csv_rows import CsvRows

from ..dataset.layout import shown
from ..evaluate.paired import warning
from ..run_folder import write_text
from .points import Point, in_order
from .summary import HeldOut, accuracy_of

_COLUMNS = (
    "size",
    "repeat",
    "train_image_count",
    "train_group_count",
    "cut_group_count",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "balanced_accuracy",
    "macro_f1",
    "loss",
    "weakest_class",
    "weakest_recall",
    "stage",
    "epoch",
    "seconds",
)
_EPOCH_COLUMNS = ("epoch", "train_loss", "validation_loss", "validation_accuracy", "learning_rate")


def write_csv(points: Sequence[Point], tested: HeldOut, path: Path) -> None:
    """Writes a row a point; what cannot be had is empty."""
    rows = []
    for point in in_order(points):
        low, high = accuracy_of([point], tested).share_interval or ("", "")
        weakest, recall = point.weakest or ("", "")
        facts = {
            **{name: getattr(point, name) for name in ("size", "repeat", "stage", "epoch", "seconds")},
            **{name: getattr(point, name) for name in ("train_image_count", "train_group_count", "cut_group_count")},
            **{name: point.figures[name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "loss")},
            "accuracy_low": low,
            "accuracy_high": high,
            "weakest_class": weakest,
            "weakest_recall": recall,
        }
        rows.append([facts[name] for name in _COLUMNS])
    _write(path, _COLUMNS, rows)


def write_epochs(points: Sequence[Point], path: Path) -> None:
    """Writes a row an epoch of each point, epoch 0 before the first; nothing where no layers were trained."""
    rows = [
        [point.size, point.repeat, *("" if row[name] is None else row[name] for name in _EPOCH_COLUMNS)]
        for point in in_order(points)
        for row in point.history
    ]
    if rows:
        _write(path, ("size", "repeat", *_EPOCH_COLUMNS), rows)


def result(summary: Mapping[str, Any], folder: Path) -> str:
    """The result for a person: a line a size, and what they say together."""
    lines = ["size   photos  groups  accuracy  95 % interval    balanced  macro F1  loss"]
    for row in summary["sizes"]:
        interval = row["accuracy_interval"]
        bounds = "–" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"
        lines.append(
            f"{row['size']:<5}  {row['train_image_count']:>6}  {row['train_group_count']:>6.0f}  "
            f"{row['accuracy']:>8.1%}  {bounds:<15}  {row['balanced_accuracy']:>8.1%}  "
            f"{row['macro_f1']:>8.3f}  {row['loss']:.3f}"
        )
    test, repeats = summary["test"], summary["sizes"][0]["repeats"]
    in_groups = "" if test["group_count"] is None else f" in {test['group_count']} groups"
    lines.append(
        f"means of {repeats} repeats with other training photos, all tested on the same {test['image_count']} photos"
        f"{in_groups}{warning(test['group_count'])}"
    )
    lines += [shown(sentence) for sentence in summary["sentences"]]
    lines.append(f"figures: {folder / 'study.csv'}, {folder / 'study.json'}; the curve: {folder / 'study.png'}")
    return "\n".join(lines)


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    buffer = io.StringIO()
    writer = CsvRows(buffer)
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
