"""Photos whose label is doubted, because a head that never saw them is confident of another class.

The list is ordered by how many times as probable the other class is; `benchmarks/suspects.py` compares this with other
rankings on planted wrong labels. How many are confident follows confident learning (Northcutt et al. 2021): how sure
the model must be of a class follows from how sure it is of photos that have that label.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trapline.csv_rows import CsvRows

#: Photos of one group with the same two labels that keep their place; a burst in one wrong folder would hide others.
MOST_OF_A_GROUP = 3


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A photo whose label is doubted.

    Attributes:
        row: Its row in the arrays.
        label: The label it has.
        suggested: The label that the probabilities are for.
        score: Probability of `suggested`.
        label_score: Probability of `label`.
        rank_score: What the list is ordered by, the most doubted first: `doubt`.
        confident: Whether `score` is at least that of the average photo which has that label.
    """

    row: int
    label: str
    suggested: str
    score: float
    label_score: float
    rank_score: float
    confident: bool


def suspects(
    probabilities: NDArray[np.float32],
    given: NDArray[np.int64],
    *,
    labels: Sequence[str],
    groups: Sequence[str] | None = None,
) -> list[Suspect]:
    """The photos whose best class is not their label, most doubted first.

    Args:
        probabilities: Of photos that the model was not trained on, float32 [photos, labels]; rows of NaN are left out.
        given: The label that each photo has, int64 [photos].
        labels: The classes' ids, in output order.
        groups: Group of each photo: of one group and the same two labels `MOST_OF_A_GROUP` keep their place, the others
            follow at the end.
    """
    rows = np.flatnonzero(~np.isnan(probabilities).any(axis=1) & (probabilities.argmax(axis=1) != given))
    sure = self_confidence(probabilities, given)
    doubts = doubt(probabilities, given)
    found = []
    for row in rows[np.argsort(-doubts[rows], kind="stable")].tolist():
        best = int(probabilities[row].argmax())
        found.append(
            Suspect(
                row=row,
                label=labels[given[row]],
                suggested=labels[best],
                score=float(probabilities[row, best]),
                label_score=float(probabilities[row, given[row]]),
                rank_score=float(doubts[row]),
                confident=bool(probabilities[row, best] >= sure[best]),
            )
        )
    return found if groups is None else _spread(found, groups)


def self_confidence(probabilities: NDArray[np.floating], given: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean probability of each class over the photos that have its label, float64 [labels]; 1 where none has it."""
    asked = ~np.isnan(probabilities).any(axis=1)
    own = probabilities[np.arange(len(given)), given].astype(np.float64)[asked]
    counts = np.bincount(given[asked], minlength=probabilities.shape[1])
    sums = np.bincount(given[asked], weights=own, minlength=probabilities.shape[1])
    means: NDArray[np.float64] = np.where(counts > 0, sums / np.maximum(1, counts), 1.0)
    return means


def doubt(probabilities: NDArray[np.float32], given: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much each photo's label is doubted, float64 [photos] in [0, 1]: the share of the best other class in the two.

    0.5 is a tie, 0.9 says that the other class is nine times as probable as the label.
    """
    rows, others = np.arange(len(given)), probabilities.astype(np.float64)
    own = others[rows, given]
    others[rows, given] = 0
    best = others.max(axis=1)
    result: NDArray[np.float64] = best / np.maximum(best + own, 1e-12)
    return result


def suspects_csv(found: Sequence[Suspect], *, paths: Sequence[str], parts: Sequence[str], groups: Sequence[str]) -> str:
    """The list as CSV; `paths`, `parts` and `groups` are by row."""
    buffer = io.StringIO()
    writer = CsvRows(buffer)
    writer.writerow(("path", "part", "label", "suggested", "score", "label_score", "rank_score", "group"))
    for one in found:
        scores = (f"{value:.6f}" for value in (one.score, one.label_score, one.rank_score))
        writer.writerow((paths[one.row], parts[one.row], one.label, one.suggested, *scores, groups[one.row]))
    return buffer.getvalue()


def _spread(found: Sequence[Suspect], groups: Sequence[str]) -> list[Suspect]:
    """The same photos, those that a group has too many of behind all others."""
    counts: Counter[tuple[str, str, str]] = Counter()
    kept: list[Suspect] = []
    behind: list[Suspect] = []
    for one in found:
        key = (groups[one.row], one.label, one.suggested)
        counts[key] += 1
        (kept if counts[key] <= MOST_OF_A_GROUP else behind).append(one)
    return kept + behind
