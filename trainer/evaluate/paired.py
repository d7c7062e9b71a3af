"""How sure a mean, or a difference on the same photos, is: by photos in groups, and by repeats of the training.

By scipy.special alone: scipy.stats takes a second to import, and `trainer compare` answers in one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, chdtrc, stdtrit

# McNemar's test is exact below this number of photos that one of the two alone has right, else by chi-square.
_EXACT_BELOW = 25
#: Groups below which an interval is told with a warning: of simulated ones over twelve groups 91 in 100 held the truth.
FEW_GROUPS = 30
#: What an interval is worth where nothing is known of groups.
UNKNOWN_GROUPS = "as if each image were independent; bursts make it too narrow"
_TAIL = 0.975
_NORMAL = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over photos and repeats, and how far it may be off.

    Attributes:
        value: The mean.
        standard_error: Of the mean, over other photos (whole groups of them) and other repeats.
        degrees: Of freedom, by Satterthwaite (1946); 0 where one group alone says nothing of others.
        worth: Of a share: the number of independent photos, asked once, that would tell it as well.
    """

    value: float
    standard_error: float
    degrees: float
    worth: float

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval, by Student's t."""
        return float(stdtrit(self.degrees, _TAIL)) * self.standard_error

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of a difference of shares; None where there is one group."""
        if not self.degrees:
            return None
        return max(-1.0, self.value - self.half_width), min(1.0, self.value + self.half_width)

    @property
    def share_interval(self) -> tuple[float, float] | None:
        """95 % interval of a share, Wilson's (1927) of as many photos as it is worth; None where there is one group."""
        if not self.degrees:
            return None
        square = _NORMAL**2 / self.worth
        middle = (self.value + square / 2) / (1 + square)
        half = math.sqrt(square * (self.value * (1 - self.value) + square / 4)) / (1 + square)
        return max(0.0, middle - half), min(1.0, middle + half)


def estimate(values: NDArray[np.float64], groups: NDArray[np.int64]) -> Estimate:
    """The mean of `values`, float64 [repeats, photos], whose photos are of `groups`, int64 [photos].

    Photos vary by groups (the sums over groups are independent), repeats among each other, and what is left to chance
    in a group of a repeat is in both and counts once: the mean squares of a crossed design (Searle et al. 1992).
    """
    repeat_count, photo_count = values.shape
    value = float(values.mean())
    units = np.unique(groups, return_inverse=True)[1]
    group_count = int(units.max()) + 1
    if group_count == 1:
        return Estimate(value=value, standard_error=0.0, degrees=0.0, worth=1.0)
    by_photo, by_repeat = values.mean(axis=0) - value, values.mean(axis=1) - value
    rest = values - value - by_photo - by_repeat[:, None]
    unbiased = group_count / (group_count - 1) / photo_count**2
    squares = [float((np.bincount(units, weights=by_photo) ** 2).sum()) * unbiased, 0.0, 0.0]
    if repeat_count > 1:
        squares[1] = float((by_repeat**2).sum()) / (repeat_count - 1) / repeat_count
        left = sum(float((np.bincount(units, weights=row) ** 2).sum()) for row in rest)
        squares[2] = left / (repeat_count - 1) * unbiased / repeat_count
    variance = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
    freedom = (group_count - 1, max(1, repeat_count - 1), (group_count - 1) * max(1, repeat_count - 1))
    degrees = float(group_count - 1)
    if variance:
        degrees = variance**2 / sum(square**2 / free for square, free in zip(squares, freedom, strict=True))
    error, worth = math.sqrt(variance), float(group_count)
    if repeat_count == 1 and group_count == photo_count:
        worth = photo_count
    elif error and 0 < value < 1:
        # Where all are right nothing is seen to vary: then a group counts as one photo, as it is set above.
        far = float(stdtrit(degrees, _TAIL)) * error / _NORMAL
        worth = min(photo_count * repeat_count, value * (1 - value) / far**2)
    return Estimate(value=value, standard_error=error, degrees=degrees, worth=worth)


def difference(first: NDArray[np.bool_], second: NDArray[np.bool_], groups: NDArray[np.int64]) -> Estimate:
    """How many more of the same photos `second` has right than `first`, as a share.

    Two made-up groups, one that each alone has right, keep the interval honest where few differ. Source: Bonett and
    Price (2012), here with groups in the place of photos.
    """
    return with_made_up_groups((second.astype(np.float64) - first)[None], groups, most=1.0)


def with_made_up_groups(values: NDArray[np.float64], groups: NDArray[np.int64], *, most: float) -> Estimate:
    """The mean of `values`, as `estimate` has it, with two made-up groups more: all of one is `most`, of one `-most`.

    Each has as many photos as groups have on average. They say nothing of other groups, so the degrees of freedom are
    those of the real ones at most.
    """
    units = np.unique(groups, return_inverse=True)[1]
    group_count = int(units.max()) + 1
    size = max(1, round(len(units) / group_count))
    made_up = np.tile(np.repeat([most, -most], size), (len(values), 1))
    found = estimate(np.hstack([values, made_up]), np.append(units, group_count + np.repeat([0, 1], size)))
    return replace(found, degrees=min(found.degrees, float(group_count - 1)))


def joined(groupings: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Groups that hold for all groupings of the same photos, int64 [photos]: what any of them joins is together.

    Two photos are in one group where a chain of photos, each two of one group in some grouping, leads from one to the
    other.
    """
    labels = np.arange(len(groupings[0]))
    while True:
        before = labels
        for grouping in groupings:
            least = np.full(int(grouping.max()) + 1, len(labels))
            np.minimum.at(least, grouping, labels)
            labels = least[grouping]
        if np.array_equal(before, labels):
            return np.unique(labels, return_inverse=True)[1]


def warning(group_count: int | None) -> str:
    """The end of a sentence with an interval over so many groups, where they are few; None: no rule made any."""
    if group_count is None:
        return f"; {UNKNOWN_GROUPS}"
    return f"; {group_count} groups of photos are few for an interval" if 1 < group_count < FEW_GROUPS else ""


def mcnemar(only_first: int, only_second: int) -> tuple[float, str]:
    """McNemar's (1947) p that both are right equally often, and `exact` or `chi_square`.

    Args:
        only_first: Photos that the first alone has right.
        only_second: Likewise.
    """
    count = only_first + only_second
    if count >= _EXACT_BELOW:
        return float(chdtrc(1, max(0, abs(only_first - only_second) - 1) ** 2 / count)), "chi_square"
    return exact_mcnemar(only_first, only_second), "exact"


def exact_mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided binomial p of the same, for any counts; arguments as in `mcnemar`."""
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def holm(values: Sequence[float]) -> list[float]:
    """The p-values of tests made together, corrected by Holm (1979), in the order given."""
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = highest
    return corrected
