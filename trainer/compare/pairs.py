"""Two runs on the same test photos: how many more one has right, how sure that is, and where they differ."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dataset.layout import shown
from ..evaluate.paired import difference, estimate, holm, joined, mcnemar, warning
from .answers import Answers

_SURE = 0.05
_CLASSES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One run on the photos that all share.

    Attributes:
        run: Its folder.
        right_count: Photos that it has right.
        image_count: Photos.
        accuracy: Share right.
        accuracy_interval: 95 %, by groups of photos; None where there is one group.
        balanced_accuracy: Mean recall of the classes that occur.
        left_out_count: Further test photos of it that another run did not test.
    """

    run: str
    right_count: int
    image_count: int
    accuracy: float
    accuracy_interval: tuple[float, float] | None
    balanced_accuracy: float
    left_out_count: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs; `difference` and its 95 % interval are of shares right, the second's less the first's.

    Attributes:
        first: Folder of the first run.
        second: Folder of the second run.
        difference: Share that the second has right less that of the first.
        interval: 95 %, by groups of photos (`paired.difference`); None where there is one group.
        only_first_right: Photos that the first alone has right.
        only_second_right: Likewise.
        p: Of McNemar's test.
        p_corrected: The same by Holm, for all pairs of runs.
        test: `exact` or `chi_square`.
        better: The folder of the better run; None where there is no evidence.
        classes: Of each class `label`, `image_count`, `first_right`, `second_right`; those that differ most first.
        sentence: All of it in words.
    """

    first: str
    second: str
    difference: float
    interval: tuple[float, float] | None
    only_first_right: int
    only_second_right: int
    p: float
    p_corrected: float
    test: str
    better: str | None
    classes: list[dict[str, Any]]
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several runs on the test photos that they share.

    Attributes:
        image_count: Photos compared.
        group_count: Groups that they are of; None where no rule grouped them in any run.
        runs: Each run's figures, in the order named.
        pairs: Each two of them.
    """

    image_count: int
    group_count: int | None
    runs: list[Standing]
    pairs: list[Pair]

    @property
    def facts(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def compared(runs: Sequence[Answers], photos: Sequence[str]) -> Comparison:
    """The comparison of at least two runs on `photos`, SHA-256 of test photos that all of them have."""
    labels = np.array([runs[0].test[photo].label for photo in photos], dtype=object)
    groups = joined([np.unique([run.test[photo].group for photo in photos], return_inverse=True)[1] for run in runs])
    right = [np.array([run.test[photo].predicted == run.test[photo].label for photo in photos]) for run in runs]
    numbers = [(first, second) for first in range(len(runs)) for second in range(first + 1, len(runs))]
    tests = [mcnemar(*_only(right[first], right[second])) for first, second in numbers]
    corrected = holm([p for p, _ in tests])
    group_count = int(groups.max()) + 1 if any(run.groups_known for run in runs) else None
    pairs = []
    for (first, second), (p, test), p_corrected in zip(numbers, tests, corrected, strict=True):
        pairs.append(
            _pair(
                (str(runs[first].run), str(runs[second].run)),
                (right[first], right[second]),
                labels=labels,
                groups=groups,
                test=test,
                values=(p, p_corrected),
                doubt=warning(group_count),
            )
        )
    return Comparison(
        image_count=len(photos),
        group_count=group_count,
        runs=[_standing(run, rows, labels, groups) for run, rows in zip(runs, right, strict=True)],
        pairs=pairs,
    )


def table(comparison: Comparison) -> str:
    """The runs' figures and what they say of each other, as lines for a person."""
    width = max(len(row.run) for row in comparison.runs)
    lines = [f"{'run':<{width}}  right  accuracy  95 % interval    balanced"]
    lines += [
        f"{row.run:<{width}}  {row.right_count:>5}  {row.accuracy:>8.1%}  {_interval(row.accuracy_interval):<15}  "
        f"{row.balanced_accuracy:>8.1%}"
        for row in comparison.runs
    ]
    in_groups = "" if comparison.group_count is None else f" in {comparison.group_count} groups"
    lines.append(
        f"on {comparison.image_count} test photos{in_groups} that all runs share{warning(comparison.group_count)}"
    )
    lines += [
        f"{row.left_out_count} further test photos of {row.run} are not among them"
        for row in comparison.runs
        if row.left_out_count
    ]
    if len(comparison.pairs) > 1:
        lines.append(f"p is corrected for {len(comparison.pairs)} pairs (Holm)")
    for pair in comparison.pairs:
        lines.append(pair.sentence)
        lines += [
            f"  {shown(row['label'])}: {row['first_right']} of {row['image_count']} right by {pair.first}, "
            f"{row['second_right']} by {pair.second}"
            for row in pair.classes[:_CLASSES_SHOWN]
            if row["first_right"] != row["second_right"]
        ]
    return "\n".join(lines)


def _standing(
    run: Answers, right: NDArray[np.bool_], labels: NDArray[np.object_], groups: NDArray[np.int64]
) -> Standing:
    recalls = [right[labels == label].mean() for label in set(labels.tolist())]
    return Standing(
        run=str(run.run),
        right_count=int(right.sum()),
        image_count=len(right),
        accuracy=float(right.mean()),
        accuracy_interval=estimate(right[None].astype(np.float64), groups).share_interval,
        balanced_accuracy=float(np.mean(recalls)),
        left_out_count=len(run.test) - len(right),
    )


def _pair(
    names: tuple[str, str],
    right: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    *,
    labels: NDArray[np.object_],
    groups: NDArray[np.int64],
    test: str,
    values: tuple[float, float],
    doubt: str,
) -> Pair:
    only_first, only_second = _only(*right)
    gain = (only_second - only_first) / len(labels)
    interval = difference(*right, groups).interval
    sure = values[1] < _SURE and interval is not None and (interval[0] > 0 or interval[1] < 0)
    better = (names[1] if gain > 0 else names[0]) if sure else None
    return Pair(
        first=names[0],
        second=names[1],
        difference=gain,
        interval=interval,
        only_first_right=only_first,
        only_second_right=only_second,
        p=values[0],
        p_corrected=values[1],
        test=test,
        better=better,
        classes=_classes(right, labels),
        sentence=_sentence(names, right, gain=gain, interval=interval, p=values[1], better=better, doubt=doubt),
    )


def _sentence(
    names: tuple[str, str],
    right: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    *,
    gain: float,
    interval: tuple[float, float] | None,
    p: float,
    better: str | None,
    doubt: str,
) -> str:
    """What the pair's figures say; the better run first, else as named."""
    order = (1, 0) if better == names[1] else (0, 1)
    said = f"no evidence of a difference between {names[0]} and {names[1]}"
    if better is not None:
        said = f"{names[order[0]]} is better than {names[order[1]]}"
    if better != names[1]:
        # The difference as the sentence has it: of the first run named, less the other.
        gain, interval = 0.0 - gain, None if interval is None else (-interval[1], -interval[0])
    bounds = "no interval: the photos are one group"
    if interval is not None:
        bounds = f"95 % interval {100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"
    return (
        f"{said}: {right[order[0]].mean():.1%} right against {right[order[1]].mean():.1%} on the same "
        f"{len(right[0])} photos, {100 * gain:+.1f} points ({bounds}; McNemar's p {p:.2g}{doubt})"
    )


def _only(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[int, int]:
    """Photos that the first alone has right, and the second alone."""
    return int((first & ~second).sum()), int((second & ~first).sum())


def _classes(right: tuple[NDArray[np.bool_], NDArray[np.bool_]], labels: NDArray[np.object_]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for label in sorted(set(labels.tolist())):
        here = labels == label
        counts = [int(seen[here].sum()) for seen in right]
        rows.append(
            {"label": label, "image_count": int(here.sum()), "first_right": counts[0], "second_right": counts[1]}
        )
    return sorted(rows, key=lambda row: -abs(row["first_right"] - row["second_right"]) / row["image_count"])


def _interval(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"
