"""`--fit auto`: how photos are made square, chosen by cross-validation on features of the training part.

The centre crop throws away what stands at the frame's edge, so it is taken only where it is ahead of the others by more
than one standard error; between stretching and letterboxing the lower loss wins.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: What is compared, the safest first.
FITS = ("stretch", "letterbox", "center_crop")


@dataclass(frozen=True, kw_only=True)
class FitScore:
    """What cross-validation said of one fit.

    Attributes:
        loss: Mean cross-entropy of training photos that the head had not seen.
        accuracy: Share of them whose best class is right.
        standard_error: Of the mean difference of losses to the best of the other fits, over groups.
    """

    loss: float
    accuracy: float
    standard_error: float


def choose_fit(seen: Mapping[str, NDArray[np.float64]], groups: NDArray[np.int64]) -> tuple[str, dict[str, FitScore]]:
    """The fit to use, and each one's score.

    Args:
        seen: For each of `FITS`, [images, 2]: cross-validated loss and 1 where the best class is right; NaN where
            cross-validation did not ask.
        groups: Group of each image: images of one group err together.
    """
    asked = ~np.isnan(next(iter(seen.values()))[:, 0])
    if not asked.any():
        return FITS[0], {}
    losses = {fit: rows[asked, 0] for fit, rows in seen.items()}
    scores = {}
    for fit, rows in seen.items():
        other = min((name for name in losses if name != fit), key=lambda name: losses[name].mean())
        scores[fit] = FitScore(
            loss=float(losses[fit].mean()),
            accuracy=float(rows[asked, 1].mean()),
            standard_error=_standard_error(losses[fit] - losses[other], groups[asked]),
        )
    whole = min(FITS[:2], key=lambda fit: scores[fit].loss)
    crop = FITS[2]
    ahead = scores[whole].loss - scores[crop].loss
    return crop if ahead > scores[crop].standard_error else whole, scores


def table(chosen: str, scores: Mapping[str, FitScore]) -> str:
    """The comparison as lines for a person."""
    if not scores:
        return "--fit auto: the groups of a class cannot be divided among folds to compare; photos are stretched"
    lines = ["--fit auto, by cross-validation on the training part:"]
    for fit, score in scores.items():
        mark = "  <- taken" if fit == chosen else ""
        lines.append(f"  {fit:<12} loss {score.loss:.3f}  accuracy {score.accuracy:.1%}{mark}")
    return "\n".join(lines)


def _standard_error(differences: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """Of the mean of `differences`, whose sums over groups are independent of each other."""
    centred = differences - differences.mean()
    sums = np.bincount(groups, weights=centred)
    return float(np.sqrt((sums**2).sum()) / len(differences))
