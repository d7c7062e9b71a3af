"""How far the expected calibration error may be from the true one."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from .intervals import LEAST_GROUPS

_DRAWS = 1000


def error_interval(
    error: float,
    off: NDArray[np.float64],
    bins: Sequence[NDArray[np.int64]],
    units: NDArray[np.int64],
    random: np.random.Generator,
) -> list[float] | None:
    """The 95 % interval of the true error of the bins, from 0 to 1; None where groups are too few.

    Chance only adds to an error, a mean of absolute values, so percentiles of sets drawn again lie above the truth.
    This is a test turned round (Neyman 1937): those true errors under which the error seen is none of the 2.5 % lowest
    or highest. How far chance lifts it depends on the bins: least where all are off alike, most where one has all of
    it. The ends are those of these extremes. Noise is normal, with the covariance of the groups' sums.

    Args:
        error: The error seen: the mean over images of how far their bin's mean of `off` is from 0.
        off: Each image's score less 1 where it is right, else less 0; float64 [images].
        bins: Rows of each bin.
        units: Group of each image, from 0 on, int64 [images].
        random: What noise is drawn from.
    """
    unit_count = int(units.max()) + 1
    if unit_count < min(LEAST_GROUPS, len(units)):
        return None
    covariance = _covariance(off, bins, units)
    noise = random.multivariate_normal(np.zeros(len(bins)), covariance, _DRAWS)
    weights = np.array([len(rows) for rows in bins]) / len(off)
    alike, one = np.ones(len(bins)), np.zeros(len(bins))
    surest = int(np.argmin(np.diag(covariance) * weights**2))
    one[surest] = 1 / weights[surest]

    def seen(true: float, shape: NDArray[np.float64], percent: float) -> float:
        return float(np.percentile(np.abs(true * shape + noise) @ weights, percent))

    low = _crossing(lambda true: seen(true, one, 97.5) - error)
    high = _crossing(lambda true: seen(true, alike, 2.5) - error)
    # The error seen is told beside it, and always one of those that it holds.
    return [min(low, error), max(high, error)]


def _covariance(
    off: NDArray[np.float64], bins: Sequence[NDArray[np.int64]], units: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of the bins' means, by the sums of whole groups; float64 [bins, bins]."""
    sums, least, few = np.zeros((int(units.max()) + 1, len(bins))), np.zeros(len(bins)), np.zeros(len(bins))
    for number, rows in enumerate(bins):
        np.add.at(sums[:, number], units[rows], (off[rows] - off[rows].mean()) / len(rows))
        # Agresti and Coull's share: a bin where all are right is not certain.
        share = (np.count_nonzero(off[rows] <= 0) + 2) / (len(rows) + 4)
        least[number] = share * (1 - share) / (len(rows) + 4)
        # Few groups vary less around their own mean than around the true one. So many there are, if they were equal.
        groups = len(rows) ** 2 / float((np.bincount(units[rows]) ** 2).sum())
        few[number] = np.sqrt(groups / max(groups - 1, 0.5))
    result: NDArray[np.float64] = sums.T @ sums * np.outer(few, few)
    result += np.diag(np.maximum(least - np.diag(result), 0))
    return result


def _crossing(rising: Callable[[float], float]) -> float:
    """Where in [0, 1] a rising function becomes positive, or the nearer end."""
    if rising(0.0) >= 0:
        return 0.0
    return float(brentq(rising, 0.0, 1.0, xtol=1e-4)) if rising(1.0) > 0 else 1.0
