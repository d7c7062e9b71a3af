"""What the points of a study say together: figures a size with intervals, the weakest class, whether more photos help.

Every interval is by `evaluate.paired.estimate`: it knows other test photos, in whole groups, and other training photos,
by the repeats.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import Data
from ..evaluate.paired import Estimate, estimate, with_made_up_groups
from .points import Point, in_order, weakest_class

# The last doublings of the photos: what came long before them says little of what comes next.
_LAST_FACTOR = 4.0
_LEAST_FACTOR = 1.5
# An interval that reaches further, in shares, can't rule out a gain worth having.
_WIDE = 0.02
_MEANS = ("accuracy", "balanced_accuracy", "macro_f1", "loss")


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The test part, in the order of paths.

    Attributes:
        labels: The classes.
        targets: Class of each photo, int64 [photos].
        groups: Group of each photo, int64 [photos].
        groups_known: False where no rule grouped them: each is a group then, but bursts may be among them.
    """

    labels: tuple[str, ...]
    targets: NDArray[np.int64]
    groups: NDArray[np.int64]
    groups_known: bool

    @classmethod
    def of(cls, data: Data) -> "HeldOut":
        """The test part of `data`."""
        positions = data.positions("test")
        return cls(
            labels=data.scan.labels,
            targets=data.targets(positions),
            groups=data.groups(positions),
            groups_known=data.known_groups(positions) is not None,
        )


def summarised(points: Sequence[Point], tested: HeldOut) -> dict[str, Any]:
    """What `study.json` says of all points, as JSON values."""
    by_size: dict[str, list[Point]] = defaultdict(list)
    for point in in_order(points):
        by_size[point.size].append(point)
    rows = [_row(size, some, tested) for size, some in by_size.items()]
    right = [np.stack([point.right_photos for point in some]).astype(np.float64) for some in by_size.values()]
    more = more_images(rows, right, tested.groups)
    return {
        "labels": list(tested.labels),
        "test": {
            "image_count": len(tested.targets),
            "group_count": len(np.unique(tested.groups)) if tested.groups_known else None,
        },
        "sizes": rows,
        "more_images": more,
        "sentences": [more["sentence"], *_weakest_sentences(rows)],
    }


def accuracy_of(points: Sequence[Point], tested: HeldOut) -> Estimate:
    """The mean accuracy of points of one size."""
    return estimate(np.stack([point.right_photos for point in points]).astype(np.float64), tested.groups)


def _row(size: str, points: Sequence[Point], tested: HeldOut) -> dict[str, Any]:
    """The figures of one size; the confusion matrix counts every test photo once a repeat."""
    confusion = np.sum([point.figures["confusion"] for point in points], axis=0)
    support = confusion.sum(axis=1)
    recalls = {
        label: float(confusion[index, index] / support[index]) if support[index] else None
        for index, label in enumerate(tested.labels)
    }
    weakest = weakest_class(recalls)
    return {
        "size": size,
        "photos_a_class": points[0].train_image_count / len(tested.labels),
        "repeats": len(points),
        "train_image_count": points[0].train_image_count,
        "train_group_count": float(np.mean([point.train_group_count for point in points])),
        "cut_group_count": float(np.mean([point.cut_group_count for point in points])),
        **{name: float(np.mean([point.figures[name] for point in points])) for name in _MEANS},
        "accuracy_interval": _listed(accuracy_of(points, tested).share_interval),
        "accuracies": [point.figures["accuracy"] for point in points],
        "weakest_class": None if weakest is None else weakest[0],
        "weakest_recall": None if weakest is None else weakest[1],
        "recalls": recalls,
        "confusion": confusion.tolist(),
        "seconds": round(sum(point.seconds for point in points), 1),
    }


def more_images(
    rows: Sequence[Mapping[str, Any]], right: Sequence[NDArray[np.float64]], groups: NDArray[np.int64]
) -> dict[str, Any]:
    """Whether more photos would help, by how accuracy grew over the last doublings on the same test photos.

    Args:
        rows: `size`, `photos_a_class` and `accuracy` of each size, ascending.
        right: 1 or 0 of each size, float64 [repeats, photos].
        groups: Group of each test photo.

    Returns:
        `verdict`: `likely`, `no_evidence`, `worse`, or `unknown` where sizes are too few or too near each other, or the
        test photos are one group. `from` and `to`: the sizes it is by. `gain_by_doubling`: of the accuracy, the slope
        over the logarithm of the size, with its `interval`. `power_law`: the error's `exponent`, and the `accuracy` and
        `gain` for twice the photos, `photos_a_class`; after Cortes et al. (1993) without their floor, which so few
        sizes can't tell. `sentence`: the same in words.
    """
    counts = np.array([row["photos_a_class"] for row in rows])
    chosen = _last_doublings(counts)
    if counts[chosen].max() < _LEAST_FACTOR * counts[chosen].min():
        sentence = (
            "whether more images would help can't be told from one size; give sizes of which one is twice another"
        )
        return {"verdict": "unknown", "sentence": sentence}
    doublings = np.log2(counts[chosen])
    centred = doublings - doublings.mean()
    weights = centred / (centred**2).sum()
    values = np.sum([weight * right[index] for weight, index in zip(weights, chosen, strict=True)], axis=0)
    slope = estimate(values, groups)
    # The steepest slope that one photo can have.
    steepest = float(np.abs(weights).sum() / 2)
    interval = with_made_up_groups(values, groups, most=steepest).interval
    power = _power_law(counts[chosen], [right[index] for index in chosen])
    verdict = "unknown"
    if interval is not None:
        verdict = "likely" if interval[0] > 0 else "worse" if interval[1] < 0 else "no_evidence"
    facts = {
        "verdict": verdict,
        "from": rows[chosen[0]]["size"],
        "to": rows[chosen[-1]]["size"],
        "gain_by_doubling": slope.value,
        "interval": _listed(interval),
        "power_law": power,
    }
    return facts | {"sentence": _more_sentence(facts, counts[chosen], photo_count=len(groups))}


def _last_doublings(counts: NDArray[np.float64]) -> list[int]:
    """The sizes to judge by: those within two doublings of the largest, and the next below where they are too near."""
    last = [index for index, count in enumerate(counts) if count * _LAST_FACTOR >= counts[-1]]
    while last[0] > 0 and counts[last[0]] * _LEAST_FACTOR > counts[-1]:
        last.insert(0, last[0] - 1)
    return last


def _power_law(counts: NDArray[np.float64], right: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    """The error as a power of the photos, by least squares on logarithms, and what it gives for twice as many."""
    # Half a photo more is wrong: the logarithm of no error is not to be had.
    errors = [((1 - rows).sum() + 0.5) / (rows.size + 1) for rows in right]
    slope, start = np.polyfit(np.log(counts), np.log(errors), 1)
    now, then = (min(1.0, math.exp(start + slope * math.log(factor * counts[-1]))) for factor in (1, 2))
    return {
        "exponent": float(-slope),
        "photos_a_class": float(2 * counts[-1]),
        "accuracy": 1 - then,
        "gain": now - then,
    }


def _more_sentence(facts: Mapping[str, Any], counts: NDArray[np.float64], *, photo_count: int) -> str:
    power, gain = facts["power_law"], 100 * facts["gain_by_doubling"]
    span = f"from {counts[0]:.0f} to {counts[-1]:.0f} photos a class accuracy changed by {gain:+.1f} points a doubling"
    if facts["interval"] is None:
        return f"whether more images would help can't be told: {span}, on test photos of one group alone"
    low, high = (100 * bound for bound in facts["interval"])
    span += f" (95 % interval {low:+.1f} to {high:+.1f})"
    if facts["verdict"] == "likely":
        apart = counts[-1] > _LAST_FACTOR * counts[0]
        between = "; these sizes lie far apart, and more between them would tell it better" if apart else ""
        return (
            f"more images would likely help: {span}; if the error goes on falling as a power of the photos, "
            f"{power['photos_a_class']:.0f} a class would bring about {100 * power['gain']:+.1f} points, to "
            f"{power['accuracy']:.1%}{between}"
        )
    if facts["verdict"] == "worse":
        return f"more images did not help: {span}"
    wide = ""
    if high > 100 * _WIDE:
        wide = f"; so wide an interval rules out no gain, it takes more test photos than {photo_count}, or more repeats"
    return f"no evidence that more images would help: {span}{wide}"


def _weakest_sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    for row in rows:
        what = "every test photo right"
        if row["weakest_class"] is not None:
            what = f"weakest class {row['weakest_class']}, {row['weakest_recall']:.1%} of it found"
        size = "all photos" if row["size"] == "all" else f"{row['size']} photos a class"
        said.append(f"{size}: {what}")
    return said


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
