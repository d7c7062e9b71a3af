"""Whether a cheaper file answers as the checked one does: agreement, its interval, and what became of right answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from ..evaluate.intervals import wilson_interval

#: Least share of photos that must get the same best class, and least lower end of its 95 % Wilson interval.
LEAST_AGREEMENT, LEAST_LOWER_END = 0.99, 0.98
#: A loss of right answers that chance makes in fewer than so many of such comparisons is none of chance.
SIGNIFICANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A photo that gets another best class.

    Attributes:
        path: The photo.
        label: Its true class.
        before: The best class by the fp32 file, and its probability.
        after: The same by the cheaper file.
    """

    path: str
    label: str
    before: tuple[str, float]
    after: tuple[str, float]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a comparison of the two files found.

    Attributes:
        image_count: Photos compared; none of them was used to make the cheaper file.
        agreement: Share of them with the same best class.
        interval: Its 95 % Wilson interval, [low, high].
        accuracy_before: Share that the fp32 file gets right.
        accuracy_after: The same of the cheaper file.
        lost: Photos that only the fp32 file gets right.
        won: Photos that only the cheaper file gets right.
        p_value: Of McNemar's exact test, one-sided: how often chance alone would lose as many of the changed answers.
        flips: The photos with another best class.
        broken: Photos whose answers by the cheaper file are no numbers; the server refuses those.
    """

    image_count: int
    agreement: float
    interval: tuple[float, float]
    accuracy_before: float
    accuracy_after: float
    lost: int
    won: int
    p_value: float
    flips: tuple[Flip, ...]
    broken: int = 0

    @property
    def problems(self) -> list[str]:
        """Why the cheaper file is refused, as clauses; empty where it passes."""
        found = []
        if self.broken:
            found.append(f"{self.broken} photos get answers that are no numbers")
        if self.agreement < LEAST_AGREEMENT:
            found.append(
                f"{self.agreement:.2%} of the photos get the same class, and at least {LEAST_AGREEMENT:.0%} must"
            )
        elif self.interval[0] < LEAST_LOWER_END:
            needed = photos_needed(len(self.flips), self.image_count)
            found.append(
                f"{self.image_count} photos say only that at least {self.interval[0]:.2%} get the same class, and "
                f"{LEAST_LOWER_END:.0%} are asked for: with such answers {needed} photos would be needed"
            )
        if self.p_value < SIGNIFICANCE:
            found.append(
                f"{self.lost} right answers are lost and {self.won} won, which is no chance (p = {self.p_value:.2g})"
            )
        return found

    @property
    def passed(self) -> bool:
        """Whether the cheaper file may take the fp32 file's place."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The values for a record, the flips left out: they are rows of their own."""
        values = asdict(self) | {"flips": len(self.flips), "passed": self.passed, "problems": self.problems}
        return values | {"least_agreement": LEAST_AGREEMENT, "least_lower_end": LEAST_LOWER_END}

    def sentence(self) -> str:
        """What was compared and found, for a person."""
        low, high = self.interval
        return (
            f"{self.image_count - len(self.flips)} of {self.image_count} photos get the same class "
            f"({self.agreement:.2%}, 95 % interval {low:.2%} to {high:.2%}); {self.accuracy_before:.2%} right before, "
            f"{self.accuracy_after:.2%} after, {self.lost} lost, {self.won} won"
        )

    def flipped_classes(self) -> str:
        """How many photos of which class changed to which, the most first."""
        counts = Counter((flip.before[0], flip.after[0]) for flip in self.flips)
        return ", ".join(f"{before} to {after} {count}" for (before, after), count in counts.most_common())


def judge(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    *,
    targets: NDArray[np.int64],
    labels: Sequence[str],
    paths: Sequence[str],
) -> Gate:
    """What the cheaper file's answers are worth.

    Args:
        before: Probabilities by the fp32 file, float32 [photos, labels].
        after: The same by the cheaper file.
        targets: True class of each photo, int64 [photos].
        labels: The classes' ids, in output order.
        paths: The photos' names.
    """
    first, second = before.argmax(axis=1), after.argmax(axis=1)
    flips = [int(index) for index in np.flatnonzero(first != second)]
    count = len(targets)
    lost = int(((first == targets) & (second != targets)).sum())
    won = int(((first != targets) & (second == targets)).sum())
    low, high = wilson_interval(count - len(flips), count)
    return Gate(
        broken=int((~np.isfinite(after).all(axis=1)).sum()),
        image_count=count,
        agreement=1 - len(flips) / count,
        interval=(low, high),
        accuracy_before=float((first == targets).mean()),
        accuracy_after=float((second == targets).mean()),
        lost=lost,
        won=won,
        p_value=float(binomtest(lost, lost + won, alternative="greater").pvalue) if lost + won else 1.0,
        flips=tuple(
            Flip(
                path=paths[index],
                label=labels[targets[index]],
                before=(labels[first[index]], float(before[index, first[index]])),
                after=(labels[second[index]], float(after[index, second[index]])),
            )
            for index in flips
        ),
    )


def most_flips(image_count: int) -> int:
    """The largest number of flips among so many photos that passes; -1 where even none does not."""
    flips = -1
    while flips < image_count and _agree(image_count, flips + 1):
        flips += 1
    return flips


def photos_needed(flips: int, image_count: int) -> int:
    """How many photos must be compared for a pass where this share of them flips, which is at most 1 %."""
    count = 1
    while not _agree(count, -(-flips * count // image_count)):
        count += 1
    return count


def _agree(count: int, flips: int) -> bool:
    return (
        flips <= count
        and 1 - flips / count >= LEAST_AGREEMENT
        and (wilson_interval(count - flips, count)[0] >= LEAST_LOWER_END)
    )
