"""Paired differences of right answers with bootstrap intervals, in points."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DRAWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to one test photo of one run each: 1 is right."""

    name: str
    path: str
    ours: int
    theirs: int


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two tools on the same photos.

    Attributes:
        answers: Test answers compared; a photo tested by several seeds counts each time.
        ours_percent: Right answers of the first.
        theirs_percent: Of the second.
        points: Their difference, in percentage points.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    answers: int
    ours_percent: float
    theirs_percent: float
    points: float
    low: float
    high: float

    def cell(self) -> str:
        """The difference and its interval, as a table's cell."""
        return f"{self.points:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def paired(pairs: Iterable[Pair]) -> Paired:
    """Accuracies and their paired difference; the bootstrap draws photos within each set, with all their answers."""
    pairs = list(pairs)
    differences: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        differences[pair.name][pair.path].append(pair.ours - pair.theirs)
    chance = np.random.default_rng(0)
    totals, counts = np.zeros(_DRAWS), np.zeros(_DRAWS)
    for photos in differences.values():
        drawn_sums, drawn_counts = _drawn(list(photos.values()), chance)
        totals += drawn_sums
        counts += drawn_counts
    low, high = np.quantile(totals / counts, [0.025, 0.975]) * 100
    ours, theirs = (100 * float(np.mean([getattr(pair, name) for pair in pairs])) for name in ("ours", "theirs"))
    return Paired(
        answers=len(pairs),
        ours_percent=ours,
        theirs_percent=theirs,
        points=ours - theirs,
        low=float(low),
        high=float(high),
    )


def _drawn(photos: list[list[int]], chance: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum and count of the differences of as many photos, drawn with replacement: one pair a draw."""
    sums = np.array([sum(values) for values in photos])
    counts = np.array([len(values) for values in photos])
    chosen = chance.integers(0, len(photos), (_DRAWS, len(photos)))
    return sums[chosen].sum(axis=1), counts[chosen].sum(axis=1)
