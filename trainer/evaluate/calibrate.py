"""Scores that mean what they say: a temperature, how far off the scores are, and the score to ask for in each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from .intervals import wilson_interval

#: Images below which an expected calibration error is not given: by chance alone it would be several points.
LEAST_IMAGES = 200
#: Validation images called a class below which no threshold is chosen for it.
LEAST_CALLED = 10
_BINS = 10
_DRAWS = 1000
_COLDEST, _HOTTEST = 0.05, 20.0
# Of the temperature's logarithm. With 20, 60 and 120 validation photos of three real sets and heads of three strengths
# 0.3 gave the least loss on other photos, before 0.1, 0.2, 0.5, 1, no prior, and Platt's targets.
_PRIOR_DEVIATION = 0.3


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """What logits are divided by before softmax, and what that does to the images that it was fitted on.

    Attributes:
        temperature: Above 1 where the network was too sure of itself.
        loss_before: Mean cross-entropy of those images, in nats, without it.
        loss_after: The same with it; never more.
    """

    temperature: float
    loss_before: float
    loss_after: float

    @property
    def facts(self) -> dict[str, Any]:
        """The JSON values of `metrics.json`."""
        if round(self.loss_before, 3) == round(self.loss_after, 3):
            sentence = (
                f"the scores were good as they were: dividing logits by {self.temperature:.2f} changes the loss "
                f"on validation of {self.loss_before:.3f} by less than 0.001"
            )
        else:
            how = "too sure" if self.temperature > 1 else "not sure enough"
            sentence = (
                f"the network was {how} of itself: its logits are divided by {self.temperature:.2f}, which took the "
                f"validation loss from {self.loss_before:.3f} to {self.loss_after:.3f}"
            )
        return {
            "temperature": self.temperature,
            "validation_loss_before": self.loss_before,
            "validation_loss_after": self.loss_after,
            "sentence": sentence,
        }


def fit_temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> Temperature:
    """The temperature with the least cross-entropy (Guo et al. 2017), 1 where none lessens it.

    Its logarithm has a normal prior around 0: a few dozen images say little, and those that are all right would make
    the network certain of everything. Many overrule it.

    Args:
        logits: Float32 [images, labels], or log-probabilities.
        targets: True class of each, int64 [images].
    """
    values = logits.astype(np.float64)
    count = len(values)

    def loss(temperature: float) -> float:
        return float(-_log_softmax(values / temperature)[np.arange(count), targets].mean())

    def penalised(exponent: float) -> float:
        return loss(float(np.exp(exponent))) + exponent**2 / (2 * _PRIOR_DEVIATION**2 * count)

    bounds = (np.log(_COLDEST), np.log(_HOTTEST))
    found = float(np.exp(minimize_scalar(penalised, bounds=bounds, method="bounded").x))
    before, after = loss(1.0), loss(found)
    if not after < before:
        found, after = 1.0, before
    return Temperature(temperature=found, loss_before=before, loss_after=after)


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Softmax probabilities, float32 [images, labels], of logits (or log-probabilities) divided by the temperature."""
    return np.exp(_log_softmax(logits.astype(np.float64) / temperature)).astype(np.float32)


def _log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = values - values.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def calibration_figures(
    probabilities: NDArray[np.float32], targets: NDArray[np.int64], groups: NDArray[np.int64] | None = None
) -> dict[str, Any]:
    """How far the best class's score is from the share that is right, as JSON values.

    Args:
        probabilities: Softmax probabilities, float32 [images, labels].
        targets: True class of each image, int64 [images].
        groups: Group of each, int64 [images], drawn whole for the interval; None for images on their own.

    Returns:
        `reliability` (bins of equal count: `count`, `confidence`, `accuracy`, its Wilson interval `low`, `high`), `ece`
        (expected calibration error over them), `ece_interval` (95 %, by drawing groups again), `ece_by_chance` (what a
        perfectly calibrated network would have on average) and `ece_sentence`; below `LEAST_IMAGES` the figures are
        None.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == targets
    facts: dict[str, Any] = {"ece": None, "ece_interval": None, "ece_by_chance": None}
    facts["reliability"] = [_bin(confidence[rows], right[rows]) for rows in _bins(confidence) if len(rows)]
    if len(targets) < LEAST_IMAGES:
        facts["ece_sentence"] = (
            f"too few: {len(targets)} images, it takes {LEAST_IMAGES} to tell calibration from chance"
        )
        return facts
    random = np.random.default_rng(0)
    units = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = np.split(np.argsort(units, kind="stable"), np.cumsum(np.bincount(units))[:-1])
    drawn = []
    for _ in range(_DRAWS):
        rows = np.concatenate([members[unit] for unit in random.integers(len(members), size=len(members))])
        drawn.append(expected_calibration_error(confidence[rows], right[rows]))
    by_chance = [
        expected_calibration_error(confidence, random.random(len(confidence)) < confidence) for _ in range(_DRAWS // 5)
    ]
    facts["ece"] = expected_calibration_error(confidence, right)
    facts["ece_interval"] = [float(value) for value in np.percentile(drawn, [2.5, 97.5])]
    facts["ece_by_chance"] = float(np.mean(by_chance))
    low, high = facts["ece_interval"]
    facts["ece_sentence"] = (
        f"a score is off by {facts['ece']:.1%} on average (95 % interval {low:.1%} to {high:.1%}); perfect scores "
        f"would seem off by {facts['ece_by_chance']:.1%} on {len(targets)} images"
    )
    return facts


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean over images of how far their bin's mean score is from its share right; bins of equal count.

    Source: Nixon et al. (2019), "Measuring Calibration in Deep Learning", for the bins.
    """
    gaps = [abs(float(confidence[rows].sum() - right[rows].sum())) for rows in _bins(confidence)]
    return sum(gaps) / len(confidence)


def _bins(confidence: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    return np.array_split(np.argsort(confidence, kind="stable"), _BINS)


def _bin(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> dict[str, float]:
    low, high = wilson_interval(int(right.sum()), len(right))
    return {
        "count": len(right),
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
    }


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
        A score each; None where none is enough, or less than `LEAST_CALLED` images were called the class.
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
        found.append(float(score[rows[enough[-1]]]) if len(enough) and len(rows) >= LEAST_CALLED else None)
    return found


def threshold_figures(
    thresholds: Sequence[float | None],
    validation: tuple[NDArray[np.float32], NDArray[np.int64]],
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
    labels: Sequence[str],
    *,
    target_precision: float,
) -> dict[str, Any]:
    """What the thresholds do, as JSON values.

    Args:
        thresholds: Of each class, by `choose_thresholds`.
        validation: Probabilities and true classes of the images that they were chosen on.
        test: The same of the untouched ones.
        labels: The classes' ids.
        target_precision: The share that was asked for.
    """
    kept = {name: _kept(thresholds, *part) for name, part in (("validation", validation), ("test", test))}
    classes = {}
    for index, label in enumerate(labels):
        row: dict[str, Any] = {"threshold": thresholds[index]}
        for name, (predicted, right, sure) in kept.items():
            called = sure & (predicted == index)
            count, good = int(called.sum()), int((called & right).sum())
            row[f"{name}_count"] = count
            row[f"{name}_precision"] = good / count if count else None
            row[f"{name}_precision_interval"] = wilson_interval(good, count) if count else None
        classes[label] = row
    _, right, sure = kept["test"]
    left = float(1 - sure.mean())
    reached = f"{(right & sure).sum() / sure.sum():.1%} of the others are right" if sure.any() else "no other is left"
    none = [label for label, threshold in zip(labels, thresholds, strict=True) if threshold is None]
    missing = f"; no score was enough for {', '.join(none)}: those go to a person" if none else ""
    return {
        "target_precision": target_precision,
        "classes": classes,
        "left_to_person_share": left,
        "kept_accuracy": float((right & sure).sum() / sure.sum()) if sure.any() else None,
        "sentence": f"with the scores asked for, {left:.1%} of the test images are left to a person, and {reached} "
        f"(asked for: {target_precision:.0%} in each class, on validation){missing}",
    }


def _kept(
    thresholds: Sequence[float | None], probabilities: NDArray[np.float32], targets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Best class of each image, whether it is right, and whether its score is enough."""
    least = np.array([np.inf if threshold is None else threshold for threshold in thresholds])
    predicted = probabilities.argmax(axis=1)
    # As float32, like a server compares them.
    return predicted, predicted == targets, probabilities.max(axis=1) >= least.astype(np.float32)[predicted]
