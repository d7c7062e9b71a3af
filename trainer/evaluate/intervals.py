"""95 % intervals of the figures, by what may be believed of the photos: single ones, groups of them, or neither.

Photos of one burst or one camera are right or wrong together, so an interval that takes them for independent is too
narrow. Where each photo is a group of its own, shares have Wilson's interval. Else whole groups are drawn again (the
cluster bootstrap, Davison and Hinkley 1997, 3.8), with the expanded percentiles of Hesterberg (2015) for few groups.
With less than `LEAST_GROUPS` of them neither is honest, and there is no interval.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, t

#: Groups below which drawing them again says too little.
LEAST_GROUPS = 30
_DRAWS = 1000

Interval = list[float] | None


def wilson_interval(right: int, count: int) -> list[float]:
    """The 95 % Wilson score interval of a share, [low, high].

    Holds for images that are independent of each other; photos of one burst are not, so it is then too narrow.
    Source: Wilson (1927), by scipy.stats.
    """
    interval = binomtest(right, count).proportion_ci(confidence_level=0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """The intervals of a set of images, as JSON values; None where there is no honest one.

    Attributes:
        method: `wilson`, `group_bootstrap` or None: how the accuracy's was made.
        sentence: The same in words, with the reason.
        accuracy: [low, high].
        balanced_accuracy: Likewise, as the two below always by drawing photos or groups again.
        macro_f1: Likewise.
        recall: Of each class.
        precision: Of each class.
    """

    method: Literal["wilson", "group_bootstrap"] | None
    sentence: str
    accuracy: Interval = None
    balanced_accuracy: Interval = None
    macro_f1: Interval = None
    recall: list[Interval] = field(default_factory=list)
    precision: list[Interval] = field(default_factory=list)


def intervals(
    targets: NDArray[np.int64], predicted: NDArray[np.int64], groups: NDArray[np.int64] | None, *, label_count: int
) -> Intervals:
    """The intervals of a set's figures.

    Args:
        targets: True class of each image, int64 [images], at least one.
        predicted: Best class of each, int64 [images].
        groups: Group of each, int64 [images]; None where nothing is known of them.
        label_count: Number of classes.
    """
    count = len(targets)
    units = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    unit_count = int(units.max()) + 1
    single = unit_count == count
    drawn = _drawn(targets, predicted, units, label_count) if unit_count >= LEAST_GROUPS else None
    right = predicted == targets
    shares = [
        [
            _share(right[rows], units[rows], None if drawn is None else drawn[:, offset + label])
            for label, rows in enumerate((values == label).nonzero()[0] for label in range(label_count))
        ]
        for offset, values in ((3, targets), (3 + label_count, predicted))
    ]
    return Intervals(
        method="wilson" if single else "group_bootstrap" if drawn is not None else None,
        sentence=_sentence(count, unit_count, known=groups is not None),
        accuracy=_share(right, units, None if drawn is None else drawn[:, 0]),
        balanced_accuracy=None if drawn is None else _percentiles(drawn[:, 1], unit_count),
        macro_f1=None if drawn is None else _percentiles(drawn[:, 2], unit_count),
        recall=shares[0],
        precision=shares[1],
    )


def _sentence(count: int, unit_count: int, *, known: bool) -> str:
    if not known:
        return f"Wilson's, as if each of the {count} images were independent; bursts make it too narrow"
    if unit_count == count:
        return f"Wilson's, of {count} images that are each a group of their own"
    if unit_count >= LEAST_GROUPS:
        return f"by drawing the {unit_count} groups of {count} images again {_DRAWS:,} times"
    return (
        f"no honest interval: {count} images in {unit_count} groups, and photos of a group are right or wrong "
        f"together; it takes {LEAST_GROUPS} groups"
    )


def _share(right: NDArray[np.bool_], units: NDArray[np.int64], drawn: NDArray[np.float64] | None) -> Interval:
    """The interval of the share of some images that are right, by how they are grouped."""
    if not len(right):
        return None
    unit_count = len(np.unique(units))
    if unit_count == len(right):
        return wilson_interval(int(right.sum()), len(right))
    return _percentiles(drawn, unit_count) if drawn is not None and unit_count >= LEAST_GROUPS else None


def _drawn(
    targets: NDArray[np.int64], predicted: NDArray[np.int64], units: NDArray[np.int64], label_count: int
) -> NDArray[np.float64]:
    """Accuracy, balanced accuracy, macro F1, recalls and precisions of sets of as many units, drawn with replacement.

    Returns:
        Float64 [draws, 3 + 2 * label_count]; NaN where a draw has no image that a figure needs.
    """
    random = np.random.default_rng(0)
    unit_count = int(units.max()) + 1
    cells = targets * label_count + predicted
    rows = []
    for _ in range(_DRAWS):
        weights = np.bincount(random.integers(unit_count, size=unit_count), minlength=unit_count)
        weight = weights[units].astype(np.float64)
        confusion = np.bincount(cells, weights=weight, minlength=label_count**2).astype(np.float64)
        rows.append(_figures(confusion.reshape(label_count, label_count)))
    return np.stack(rows)


def _figures(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    right, true, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = right / true, right / predicted
        f1 = 2 * right / (true + predicted)
    there = true > 0
    heads = [right.sum() / true.sum(), recall[there].mean(), f1[there].mean()]
    return np.concatenate([heads, recall, precision])


def _percentiles(values: NDArray[np.float64], unit_count: int) -> Interval:
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    wider = np.sqrt(unit_count / (unit_count - 1)) * t.ppf(0.025, unit_count - 1)
    tail = 100 * float(norm.cdf(wider))
    low, high = np.percentile(values, [tail, 100 - tail])
    return [float(low), float(high)]
