"""95 % intervals of the figures, by what may be believed of the photos: single ones, groups of them, or neither.

Photos of one burst or one camera are right or wrong together, so an interval that takes them for independent is too
narrow. Where each photo is a group of its own, shares have Wilson's interval. Else each group is left out in turn (the
delete-one jackknife; MacKinnon, Nielsen and Webb 2023, "Cluster-robust inference", for groups of unequal size), and the
interval is Student's t with one degree of freedom less than there are groups, on the logit scale (Korn and Graubard
1998; Dean and Pagano 2015). Groups drawn again held the truth far too seldom near 1 (docs/design/0019). With less than
`LEAST_GROUPS` of them neither is honest, and there is no interval.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binomtest, t

from .paired import UNKNOWN_GROUPS

#: Groups below which what differs between them says too little.
LEAST_GROUPS = 30

#: Why there is none.
NO_INTERVAL = f"no honest interval: fewer than {LEAST_GROUPS} groups, and photos of a group are right or wrong together"

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
        method: `wilson`, `group_jackknife` or None: how the accuracy's was made.
        sentence: The same in words, with the reason.
        accuracy: [low, high].
        balanced_accuracy: Likewise; this and the next always by leaving out photos or groups.
        macro_f1: Likewise.
        recall: Of each class.
        precision: Of each class.
    """

    method: Literal["wilson", "group_jackknife"] | None
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
    right = predicted == targets
    balanced_accuracy, macro_f1 = _over_classes(targets, predicted, units, label_count)
    return Intervals(
        method="wilson" if unit_count == count else "group_jackknife" if unit_count >= LEAST_GROUPS else None,
        sentence=_sentence(count, unit_count, known=groups is not None),
        accuracy=share_interval(right, units),
        balanced_accuracy=balanced_accuracy,
        macro_f1=macro_f1,
        recall=[share_interval(right[targets == label], units[targets == label]) for label in range(label_count)],
        precision=[
            share_interval(right[predicted == label], units[predicted == label]) for label in range(label_count)
        ],
    )


def _sentence(count: int, unit_count: int, *, known: bool) -> str:
    if not known:
        return f"Wilson's of {count} images, {UNKNOWN_GROUPS}"
    if unit_count == count:
        return f"Wilson's, of {count} images that are each a group of their own"
    if unit_count >= LEAST_GROUPS:
        return f"by leaving out each of the {unit_count} groups of {count} images in turn"
    return (
        f"no honest interval: {count} images in {unit_count} groups, and photos of a group are right or wrong "
        f"together; it takes {LEAST_GROUPS} groups"
    )


def share_interval(right: NDArray[np.bool_], units: NDArray[np.int64]) -> Interval:
    """The interval of the share of some images that are right, by how they are grouped; None where none is honest.

    Args:
        right: Bool [images].
        units: Group of each, int64 [images].
    """
    if not len(right):
        return None
    group = np.unique(units, return_inverse=True)[1]
    counts, rights = np.bincount(group), np.bincount(group, weights=right)
    if len(counts) == len(right):
        return wilson_interval(int(right.sum()), len(right))
    if len(counts) < LEAST_GROUPS:
        return None
    without = (rights.sum() - rights) / (len(right) - counts)
    return _jackknifed(float(right.mean()), without, image_count=len(right))


def _over_classes(
    targets: NDArray[np.int64], predicted: NDArray[np.int64], units: NDArray[np.int64], label_count: int
) -> tuple[Interval, Interval]:
    """The intervals of balanced accuracy and macro F1."""
    unit_count = int(units.max()) + 1
    if unit_count < LEAST_GROUPS:
        return None, None
    members = np.split(np.argsort(units, kind="stable"), np.cumsum(np.bincount(units))[:-1])
    kinds = (targets[targets == predicted], targets, predicted)
    sums = np.stack([np.bincount(labels, minlength=label_count) for labels in kinds])
    values = _balanced_accuracy_and_macro_f1(*sums)
    without = np.empty((unit_count, 2))
    for unit, rows in enumerate(members):
        true, called = targets[rows], predicted[rows]
        own = [np.bincount(labels, minlength=label_count) for labels in (true[true == called], true, called)]
        without[unit] = _balanced_accuracy_and_macro_f1(*(sums - own))
    first, second = (_jackknifed(float(values[at]), without[:, at], image_count=len(targets)) for at in (0, 1))
    return first, second


def _balanced_accuracy_and_macro_f1(
    right: NDArray[np.int64], true: NDArray[np.int64], predicted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Means over the classes that are there, from the counts of each class."""
    there = true > 0
    right, true, predicted = right[there], true[there], predicted[there]
    return np.array([(right / true).mean(), (2 * right / (true + predicted)).mean()])


def _jackknifed(value: float, without: NDArray[np.float64], *, image_count: int) -> list[float]:
    """The interval of a figure between 0 and 1.

    Its variance is at least that of as many independent photos. At 0 and 1 nothing is seen to vary: each group counts
    as one photo then, in Wilson's interval (all of 30 groups right: from 0.886).

    Args:
        value: The figure of all images.
        without: The figure without each of the groups.
        image_count: Number of images.
    """
    group_count = len(without)
    if not 0 < value < 1:
        return wilson_interval(round(value) * group_count, group_count)
    seen = (group_count - 1) / group_count * float(((without - value) ** 2).sum())
    error = np.sqrt(max(seen, value * (1 - value) / image_count)) / (value * (1 - value))
    reach = t.ppf(0.975, group_count - 1) * error
    low, high = expit(logit(value) + np.array([-reach, reach]))
    return [float(low), float(high)]
