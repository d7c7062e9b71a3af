"""Which photos to look at: the largest losses, the best and the worst of a class, a sample over classes.

Pure selections of rows; equal photos come in the order of their rows, so that the same answers always give the same
pictures.
"""

import numpy as np
from numpy.typing import NDArray


def top_losses(probabilities: NDArray[np.float32], targets: NDArray[np.int64], *, count: int) -> list[int]:
    """Rows of the photos with the largest losses, largest first; right ones too where too few are wrong.

    Args:
        probabilities: Softmax probabilities, float32 [photos, labels].
        targets: True class of each photo, int64 [photos].
        count: Most rows.
    """
    return _by(_of_true_class(probabilities, targets))[:count]


def best_and_worst(
    probabilities: NDArray[np.float32], targets: NDArray[np.int64], *, label: int, count: int
) -> tuple[list[int], list[int]]:
    """Rows of a class's best photos (right, surest first) and of its worst (least probability of the class first).

    Args:
        probabilities: Softmax probabilities, float32 [photos, labels].
        targets: True class of each photo, int64 [photos].
        label: The class, a column of `probabilities`.
        count: Most rows of either; a class of fewer than twice as many photos may have some in both.
    """
    rows = np.flatnonzero(targets == label)
    scores = probabilities[rows, label].astype(np.float64)
    right = probabilities[rows].argmax(axis=1) == label
    best = rows[right][_by(-scores[right])]
    worst = rows[_by(scores)]
    return best[:count].tolist(), worst[:count].tolist()


def sample_over_classes(targets: NDArray[np.int64], *, count: int, seed: int) -> list[int]:
    """Rows of a random sample that takes from each class in turn, so that rare ones are in it; sorted by class.

    Args:
        targets: True class of each photo, int64 [photos].
        count: Most rows.
        seed: The same one always gives the same sample.
    """
    chance = np.random.default_rng(seed)
    shuffled = chance.permutation(len(targets))
    turn = np.empty(len(targets), dtype=np.int64)
    for label in np.unique(targets):
        members = shuffled[targets[shuffled] == label]
        turn[members] = np.arange(len(members))
    # By turn; within a turn in the shuffled order, so that which classes lose the last turn is chance too.
    picked = shuffled[np.argsort(turn[shuffled], kind="stable")][:count]
    rows: list[int] = picked[np.lexsort((turn[picked], targets[picked]))].tolist()
    return rows


def _of_true_class(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    return probabilities[np.arange(len(targets)), targets].astype(np.float64)


def _by(values: NDArray[np.float64]) -> list[int]:
    """Positions by value, smallest first; equal ones in order."""
    order: list[int] = np.argsort(values, kind="stable").tolist()
    return order
