"""Scores that mean what they say: a temperature, and how far off the scores are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from .error_interval import error_interval
from .intervals import LEAST_GROUPS, NO_INTERVAL, share_interval
from .paired import UNKNOWN_GROUPS

#: Images below which an expected calibration error is not given: by chance alone it would be several points.
LEAST_IMAGES = 200
_BINS = 10
_CHANCE_DRAWS = 400
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
        groups: Group of each, int64 [images]; None where nothing is known of them.

    Returns:
        `reliability` (bins of equal count: `count`, `confidence`, `accuracy`, its interval `low`, `high`, None where
        none is honest), `reliability_sentence` (why not, or that nothing is known of groups; None where each has an
        honest one), `ece` (expected calibration error over them), `ece_interval` (95 %, of the true error; None below
        `LEAST_GROUPS` groups, unless images are on their own), `ece_by_chance` (what a perfectly calibrated network
        would have on average, where images of a group are right or wrong together), `ece_by_chance_high` (what it would
        have less than in 95 of 100 such sets) and `ece_sentence`; below `LEAST_IMAGES` the figures are None.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == targets
    facts: dict[str, Any] = dict.fromkeys(("ece", "ece_interval", "ece_by_chance", "ece_by_chance_high"))
    units = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    bins = [_bin(confidence[rows], right[rows], units[rows]) for rows in _bins(confidence)]
    facts |= {"reliability": bins, "reliability_sentence": _bins_sentence(bins, known=groups is not None)}
    if len(targets) < LEAST_IMAGES:
        facts["ece_sentence"] = (
            f"too few: {len(targets)} images, it takes {LEAST_IMAGES} to tell calibration from chance"
        )
        return facts
    random = np.random.default_rng(0)
    facts["ece"] = expected_calibration_error(confidence, right)
    facts["ece_interval"] = error_interval(facts["ece"], confidence - right, _bins(confidence), units, random)
    by_chance = _by_chance(confidence, units, random)
    facts["ece_by_chance"] = float(by_chance.mean())
    facts["ece_by_chance_high"] = float(np.percentile(by_chance, 95))
    group_count = None if groups is None else int(units.max()) + 1
    return facts | {"ece_sentence": _error_sentence(facts, len(targets), group_count=group_count)}


def _by_chance(
    confidence: NDArray[np.float64], units: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.float64]:
    """The errors that perfect scores seem to have, float64 [draws]; what is left to chance is drawn once a group."""
    bins, unit_count = _bins(confidence), int(units.max()) + 1
    draws = (random.random(unit_count)[units] < confidence for _ in range(_CHANCE_DRAWS))
    return np.array([_mean_gap(confidence, right, bins) for right in draws])


def _bins_sentence(bins: Sequence[Mapping[str, float | None]], *, known: bool) -> str | None:
    if not known:
        return f"each interval is Wilson's, {UNKNOWN_GROUPS}"
    return None if all(row["low"] is not None for row in bins) else f"where a bin has none: {NO_INTERVAL}"


def _error_sentence(facts: Mapping[str, Any], count: int, *, group_count: int | None) -> str:
    bounds = f"no honest interval: {group_count} groups, and it takes {LEAST_GROUPS}"
    if facts["ece_interval"] is not None:
        low, high = facts["ece_interval"]
        bounds = f"95 % interval {low:.1%} to {high:.1%}"
        if group_count is None:
            bounds += f", {UNKNOWN_GROUPS}"
    return (
        f"a score is off by {facts['ece']:.1%} on average ({bounds}); perfect scores would seem off by "
        f"{facts['ece_by_chance']:.1%} on {count} images, and by up to {facts['ece_by_chance_high']:.1%} in 95 of 100 "
        "such sets"
    )


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean over images of how far their bin's mean score is from its share right; bins of equal count.

    Source: Nixon et al. (2019), "Measuring Calibration in Deep Learning", for the bins.
    """
    return _mean_gap(confidence, right, _bins(confidence))


def _mean_gap(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: Sequence[NDArray[np.int64]]) -> float:
    return sum(abs(float(confidence[rows].sum() - right[rows].sum())) for rows in bins) / len(confidence)


def _bins(confidence: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Rows of each bin, by rising score: of equal count, but that images of one score are never torn apart."""
    order = np.argsort(confidence, kind="stable")
    count = len(order)
    sizes = np.full(_BINS, count // _BINS) + (np.arange(_BINS) < count % _BINS)
    changes = np.concatenate([[0], np.flatnonzero(np.diff(confidence[order])) + 1, [count]])
    edges = np.cumsum(sizes)[:-1]
    after = np.searchsorted(changes, edges)
    above, below = changes[after], changes[np.maximum(after - 1, 0)]
    edges = np.unique(np.where(above - edges <= edges - below, above, below))
    return [rows for rows in np.split(order, edges) if len(rows)]


def _bin(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], units: NDArray[np.int64]
) -> dict[str, float | None]:
    low, high = share_interval(right, units) or (None, None)
    return {
        "count": len(right),
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
    }
