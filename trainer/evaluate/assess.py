"""All that is measured of a trained network: temperature, figures, thresholds, unknowns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..data import Data
from ..progress import Progress, Report
from ..recipe.part import Part, Seen, see
from .calibrate import Temperature, calibration_figures, fit_temperature, softmax
from .metrics import figures
from .thresholds import choose_thresholds, threshold_figures
from .unknowns import MOST_OF_A_CLASS, Unknowns, find_unknowns

if TYPE_CHECKING:
    from ..training import Trained

_PARTS = {"val": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What a network is worth, measured on photos that it was not trained on.

    Attributes:
        temperature: What its logits are divided by.
        thresholds: The score to ask for in each class; None where none is enough.
        unknowns: How images of no class are told.
        plain: Probabilities of `val` and `test` as they come, float32 [images, labels].
        probabilities: The same after temperature.
        unknown_scores: Of `val` and `test`, float32 [images].
        metrics: `test`, `validation`, `calibration`, `thresholds`, `unknowns` of `metrics.json`.
    """

    temperature: Temperature
    thresholds: list[float | None]
    unknowns: Unknowns
    plain: Mapping[str, NDArray[np.float32]]
    probabilities: Mapping[str, NDArray[np.float32]]
    unknown_scores: Mapping[str, NDArray[np.float32]]
    metrics: dict[str, Any]


def assess(trained: "Trained", *, target_precision: float, report: Report) -> Assessment:
    """Measures a trained network; what is chosen is chosen on validation, and the test part only looked at.

    Args:
        trained: The network, and the photos and their parts.
        target_precision: The share right that each class's threshold is chosen for.
        report: Where progress goes.
    """
    data, labels = trained.data, trained.data.scan.labels
    seen = {part: seen_by(trained, data.part(part), part, report=report) for part in _PARTS}
    # Means of many photos: what bfloat16 rounds off each of them does not show.
    rounded = bool(trained.plan["features_in_bfloat16"])
    training = seen_by(trained, _some_of_each_class(data), "class means", bfloat16=rounded, report=report)
    temperature = fit_temperature(seen["val"].logits, seen["val"].targets)
    probabilities = {part: softmax(rows.logits, temperature.temperature) for part, rows in seen.items()}
    thresholds = choose_thresholds(
        probabilities["val"], seen["val"].targets, label_count=len(labels), target_precision=target_precision
    )
    unknowns = find_unknowns(
        training,
        seen["val"],
        seen["test"],
        probabilities["val"],
        label_count=len(labels),
        progress=lambda done, total: report.progress(
            Progress(phase="unknowns", done=done, total=total, unit="classes left out")
        ),
    )
    unknown_scores = {part: unknowns.scores(probabilities[part], rows.features) for part, rows in seen.items()}
    measured: dict[str, Any] = {}
    for part, name in _PARTS.items():
        rows, targets, groups = probabilities[part], seen[part].targets, data.known_groups(data.positions(part))
        measured[name] = figures(rows, targets, labels, groups=groups) | calibration_figures(rows, targets, groups)
    measured["calibration"] = temperature.facts
    measured["thresholds"] = threshold_figures(
        thresholds,
        (probabilities["val"], seen["val"].targets),
        (probabilities["test"], seen["test"].targets),
        labels,
        target_precision=target_precision,
        test_groups=data.known_groups(data.positions("test")),
    )
    measured["unknowns"] = unknowns.facts(labels, fine_tuned=trained.stage != "head")
    return Assessment(
        temperature=temperature,
        thresholds=thresholds,
        unknowns=unknowns,
        plain={part: softmax(rows.logits) for part, rows in seen.items()},
        probabilities=probabilities,
        unknown_scores=unknown_scores,
        metrics=measured,
    )


def seen_by(trained: "Trained", part: Part, phase: str, *, bfloat16: bool = False, report: Report) -> Seen:
    """What the trained network makes of some photos; arguments as in `see`."""
    shown = {"val": "validate"}.get(phase, phase)
    return see(
        trained.backbone,
        part,
        batch_size=trained.plan["batch_size"],
        device=trained.device,
        bfloat16=bfloat16,
        report=lambda done, total: report.progress(Progress(phase=shown, done=done, total=total)),
    )


def _some_of_each_class(data: Data) -> Part:
    """At most `MOST_OF_A_CLASS` training photos of each class, spread evenly over those in order of their paths."""
    positions = data.positions("train")
    targets = data.targets(positions)
    chosen: list[int] = []
    for label in range(len(data.scan.labels)):
        rows = np.array(positions)[targets == label]
        picked = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_OF_A_CLASS)).round().astype(int))
        chosen += rows[picked].tolist()
    return Part(
        pixels=lambda batch: data.pixels([chosen[index] for index in batch]),
        targets=data.targets(chosen),
        names=[data.scan.photos[position].path for position in chosen],
    )
