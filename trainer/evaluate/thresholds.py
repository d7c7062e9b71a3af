"""The score to ask for in each class, and what asking for it does."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .finding import listed
from .intervals import NO_INTERVAL, share_interval
from .paired import UNKNOWN_GROUPS

#: Validation images that a class's threshold must rest on: called the class, with its score or above.
LEAST_CALLED = 10


def choose_thresholds(
    probabilities: NDArray[np.float32], targets: NDArray[np.int64], *, label_count: int, target_precision: float
) -> list[float | None]:
    """The lowest score of each class at and above which what is called that class is right often enough.

    Args:
        probabilities: Softmax probabilities of validation images, float32 [images, labels].
        targets: True class of each, int64 [images].
        label_count: Number of classes.
        target_precision: The share asked for.

    Returns:
        A score each; None where none is enough that at least `LEAST_CALLED` images called the class reach.
    """
    predicted, score = probabilities.argmax(axis=1), probabilities.max(axis=1)
    found: list[float | None] = []
    for label in range(label_count):
        rows = (predicted == label).nonzero()[0]
        rows = rows[np.argsort(-score[rows], kind="stable")]
        precision = (targets[rows] == label).cumsum() / np.arange(1, len(rows) + 1)
        # Images of one score are called together or not at all.
        ends = np.append(np.diff(score[rows]) != 0, True) if len(rows) else np.empty(0, bool)
        enough = (ends & (precision >= target_precision)).nonzero()[0]
        found.append(float(score[rows[enough[-1]]]) if len(enough) and enough[-1] + 1 >= LEAST_CALLED else None)
    return found


def threshold_figures(
    thresholds: Sequence[float | None],
    validation: tuple[NDArray[np.float32], NDArray[np.int64]],
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
    labels: Sequence[str],
    *,
    target_precision: float,
    test_groups: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """What the thresholds do, as JSON values.

    Args:
        thresholds: Of each class, by `choose_thresholds`.
        validation: Probabilities and true classes of the images that they were chosen on.
        test: The same of the untouched ones.
        labels: The classes' ids.
        target_precision: The share that was asked for.
        test_groups: Group of each test image, int64 [images]; None where nothing is known of them.
    """
    units = np.arange(len(test[1])) if test_groups is None else test_groups
    kept = {name: _kept(thresholds, *part) for name, part in (("validation", validation), ("test", test))}
    classes = {}
    for index, label in enumerate(labels):
        row: dict[str, Any] = {"threshold": thresholds[index]}
        for name, (predicted, right, sure) in kept.items():
            called = sure & (predicted == index)
            row[f"{name}_count"] = int(called.sum())
            row[f"{name}_precision"] = float(right[called].mean()) if called.any() else None
            if name == "test":
                row["test_precision_interval"] = share_interval(right[called], units[called])
        classes[label] = row
    _, right, sure = kept["test"]
    honest = all(row["test_precision_interval"] for row in classes.values() if row["test_count"])
    without = None if honest else f"where a class has none: {NO_INTERVAL}"
    left = float(1 - sure.mean())
    reached = f"{(right & sure).sum() / sure.sum():.1%} of the others are right" if sure.any() else "no other is left"
    missing = _missing(thresholds, validation[0], labels, target_precision=target_precision)
    return {
        "target_precision": target_precision,
        "classes": classes,
        "interval_sentence": f"each interval is Wilson's, {UNKNOWN_GROUPS}" if test_groups is None else without,
        "left_to_person_share": left,
        "kept_accuracy": float((right & sure).sum() / sure.sum()) if sure.any() else None,
        "sentence": f"with the scores asked for, {left:.1%} of the test images are left to a person, and {reached} "
        f"(asked for: {target_precision:.0%} in each class, on validation){missing}",
    }


def _missing(
    thresholds: Sequence[float | None],
    validation: NDArray[np.float32],
    labels: Sequence[str],
    *,
    target_precision: float,
) -> str:
    """Which classes have no threshold, and why, as the end of a sentence."""
    called = np.bincount(validation.argmax(axis=1), minlength=len(labels))
    none = [index for index, threshold in enumerate(thresholds) if threshold is None]
    # What the shares of so few photos can be, 1 / (1 - 0.9) being a little above 10.
    faultless = math.ceil(1 / (1 - target_precision) - 1e-6)
    few = f" (of fewer than {faultless:,} photos only a faultless row shows {100 * target_precision:g} %)"
    reasons = {
        f"no score that {LEAST_CALLED} validation photos reach was enough for": [
            labels[index] for index in none if called[index] >= LEAST_CALLED
        ],
        f"fewer than {LEAST_CALLED} validation photos were called": [
            labels[index] for index in none if called[index] < LEAST_CALLED
        ],
    }
    said = [f"{reason} {listed(names)}" for reason, names in reasons.items() if names]
    if said and faultless > LEAST_CALLED and any(called[index] >= LEAST_CALLED for index in none):
        said[0] += few
    return f"; {', and '.join(said)}: those go to a person" if said else ""


def _kept(
    thresholds: Sequence[float | None], probabilities: NDArray[np.float32], targets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Best class of each image, whether it is right, and whether its score is enough."""
    least = np.array([np.inf if threshold is None else threshold for threshold in thresholds])
    predicted = probabilities.argmax(axis=1)
    # As float32, like a server compares them.
    return predicted, predicted == targets, probabilities.max(axis=1) >= least.astype(np.float32)[predicted]
