"""Every plot that a run's figures alone are enough for, from what `metrics.json` and `plan.json` hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluate.epochs import epochs as read_epochs
from . import plots


def draw(metrics: Mapping[str, Any], plan: Mapping[str, Any], folder: Path, *, epochs: int) -> None:
    """Writes the plots; those whose figures are absent are left out.

    Args:
        metrics: As in `metrics.json`.
        plan: As in `plan.json`.
        folder: Where the PNGs go.
        epochs: Epochs that were planned.
    """
    test, labels = metrics["test"], metrics["labels"]
    title = f"{test['image_count']} test photos, {test['accuracy']:.1%} right"
    plots.confusion_matrix(test["confusion"], labels, folder / "confusion_matrix.png", title=title)
    shares_title = f"{title}: % of each true class"
    plots.confusion_matrix(
        test["confusion"], labels, folder / "confusion_matrix_shares.png", title=shares_title, shares=True
    )
    if test.get("reliability"):
        plots.reliability(
            test["reliability"],
            folder / "reliability.png",
            title=f"{test['image_count']} test photos",
            sentences=_calibration(test),
        )
    head = metrics["head"] or {"cross_validated_loss": {}, "strength": None}
    validation = metrics["validation"]
    # Where classes count alike the accuracy is no share of the photos; of groups each epoch's answers are not kept.
    alone = validation.get("interval_method") == "wilson" and validation.get("group_count") is not None
    plots.curves(
        read_epochs(metrics["history"]),
        folder / "curves.png",
        chosen=metrics["epoch"],
        epochs=epochs,
        peak_rate=plan["learning_rate"],
        # JSON has no numbers as keys.
        strengths={float(strength): loss for strength, loss in head["cross_validated_loss"].items()},
        strength=head["strength"],
        schedule=plan["schedule"],
        validation_count=validation["image_count"] if alone and plan["balance"] == "none" else None,
    )


def _calibration(test: Mapping[str, Any]) -> list[str]:
    """What the reliability diagram says: the error or why there is none, and why no bin has an interval."""
    said = [f"calibration: {test.get('ece_sentence') or 'the run says nothing of its error'}"]
    why = test.get("reliability_sentence")
    if why and all(row["low"] is None for row in test["reliability"]):
        said.append(why.removeprefix("where a bin has none: "))
    return said
