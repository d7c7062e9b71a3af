"""What a run folder holds, read for its report: all of it, or what there is, whichever way the run ended."""

import csv
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..run_folder import PLAN_FILE, STATE_FILE, read_facts, read_json

_TOP = 3
_PROBABILITY = "probability_"
# Six decimals are written: a smaller probability reads as none.
_LEAST = 1e-6
_ENDINGS = {
    "interrupted": "was interrupted",
    "failed": "failed",
    "running": "had not ended when this page was made, or was killed",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the network says of one validation or test photo.

    Attributes:
        path: Of the photo, as in `split.csv`.
        part: `val` or `test`.
        label: Its class.
        predicted: The class with the highest probability.
        score: That probability.
        loss: Cross-entropy in nats; at most 13.8, since probabilities are written with six decimals.
        unknown_score: How little it looks like a known class; None where the run has no such figure.
        best: The three best classes and their probabilities, best first.
    """

    path: str
    part: str
    label: str
    predicted: str
    score: float
    loss: float
    unknown_score: float | None
    best: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a run folder holds; what it does not hold is empty.

    Attributes:
        run: The folder.
        state: Of `state.json`.
        plan: Of `plan.json`.
        metrics: Of `metrics.json`.
        pictures: Of `pictures.json`.
        history: A row an epoch, as `trainer.recipe.history.Epoch` has it, epoch 0 first.
        labels: The classes.
        parts: Photos by class and part.
        lines: Line of each photo in `split.csv`; the header is line 1.
        groups: First line of each group there.
        left_out: Files that could not be used, by status.
        predictions: Of validation and test photos, in the order of `predictions.csv`.
        suspects: Rows of `suspects.csv`.
        duplicates: Rows of `duplicates.csv`.
    """

    run: Path
    state: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    parts: dict[str, Counter[str]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    predictions: list[Prediction] = field(default_factory=list)
    suspects: list[dict[str, str]] = field(default_factory=list)
    duplicates: list[dict[str, str]] = field(default_factory=list)

    @property
    def measured(self) -> bool:
        """Whether the run got as far as its figures."""
        return bool(self.metrics)

    @property
    def stopped(self) -> bool:
        """Whether the run ended before it was done. One that runs writes its own page: that tells nothing."""
        return self.state.get("state") in ("interrupted", "failed")

    @property
    def ending(self) -> str:
        """How the run stands, as the end of a sentence that begins with `this run`."""
        return _ENDINGS.get(str(self.state.get("state")), "is done")

    def missing(self, what: str) -> str:
        """Why there is no `what`, in a sentence."""
        if self.measured and self.state.get("state") not in _ENDINGS:
            return (
                f"There is no {what}: this run was made by a version of Trapline that did not write it, or the file is "
                "gone. A new run has it."
            )
        return f"There is no {what} yet: this run {self.ending}. The same trainer run command goes on with it."


def read_evidence(run: Path) -> Evidence:
    """Reads the run folder `run`, without torch and without the photos.

    Raises:
        UsageError: It is no run folder, or a file in it is not what a run writes.
    """
    if not (run / STATE_FILE).is_file():
        raise UsageError(f"{run} is no run folder (it has no {STATE_FILE}); name the folder that trainer run wrote")
    # File names of any length and labels of any kind are in these files.
    csv.field_size_limit(sys.maxsize)
    try:
        return _read(run)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(
            f"{run}: a file in it is not what trainer run writes ({type(error).__name__}: {error}); take the folder as "
            "the run left it"
        ) from error


def _read(run: Path) -> Evidence:
    metrics = _json(run / "metrics.json")
    division = _rows(run / "split.csv", "path", "label", "part")
    parts: dict[str, Counter[str]] = {}
    for row in division:
        parts.setdefault(row["label"], Counter())[row["part"]] += 1
    return Evidence(
        run=run,
        state=read_json(run / STATE_FILE),
        plan=_json(run / PLAN_FILE),
        metrics=metrics,
        pictures=_json(run / "pictures.json"),
        history=metrics.get("history") or _history(run / "checkpoint" / "progress.safetensors"),
        labels=tuple(metrics.get("labels") or sorted(parts)),
        parts=parts,
        lines={row["path"]: line for line, row in enumerate(division, start=2)},
        groups={row["group"]: line for line, row in reversed([*enumerate(division, start=2)]) if row.get("group")},
        left_out=Counter(row["status"] for row in _rows(run / "scan.csv", "status") if row["status"] != "ok"),
        predictions=read_predictions(run),
        suspects=_rows(run / "suspects.csv", "path", "label", "suggested"),
        duplicates=_rows(run / "duplicates.csv", "path", "other_path"),
    )


def read_predictions(run: Path) -> list[Prediction]:
    """The rows of `predictions.csv` in the run folder `run`, none where there is no such file."""
    return [_prediction(row) for row in _rows(run / "predictions.csv", "path", "part", "label", "predicted")]


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV file, none where there is no file; it must have the columns."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        lacking = set(columns) - set(reader.fieldnames or ())
        if lacking:
            raise ValueError(f"{path.name} lacks the columns {', '.join(sorted(lacking))}")
        return list(reader)


def _history(path: Path) -> list[dict[str, Any]]:
    """The epochs that a run which has not ended had behind it."""
    from safetensors import SafetensorError

    try:
        return list(read_facts(path)["history"]) if path.is_file() else []
    except SafetensorError as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def _prediction(row: dict[str, str]) -> Prediction:
    probabilities = {
        name.removeprefix(_PROBABILITY): float(value) for name, value in row.items() if name.startswith(_PROBABILITY)
    }
    unknown = row.get("unknown_score")
    return Prediction(
        path=row["path"],
        part=row["part"],
        label=row["label"],
        predicted=row["predicted"],
        score=float(row["score"]),
        loss=-math.log(max(_LEAST, probabilities[row["label"]])),
        unknown_score=float(unknown) if unknown else None,
        best=_best(probabilities),
    )


def _best(probabilities: dict[str, float]) -> tuple[tuple[str, float], ...]:
    ranked: Sequence[tuple[str, float]] = sorted(probabilities.items(), key=lambda item: -item[1])
    return tuple(ranked[:_TOP])
