"""What each epoch of the unfrozen stage gave, and which one is kept."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One row of the history.

    Attributes:
        epoch: From 1; 0 is the state before the first unfrozen epoch.
        train_loss: Mean cross-entropy of the (changed) training images; None for epoch 0.
        validation_loss: Mean cross-entropy on validation.
        validation_accuracy: Share of validation images whose best class is right.
        learning_rate: Rate of the last layers at the epoch's end.
        standard_error: Of the mean difference of the validation images' losses to epoch 0's, paired by image.
    """

    epoch: int
    train_loss: float | None
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    standard_error: float


def beats(row: Epoch, other: Epoch) -> bool:
    """Whether `row` is the better one on validation: a lower loss and no lower accuracy.

    Epoch 0, the head that cross-validation chose, gives way only to a loss lower by more than one standard error: on a
    few dozen validation images a smaller gain is chance, and changing all layers for it loses as often as it wins.
    """
    margin = row.standard_error if other.epoch == 0 else 0.0
    lower = row.validation_loss + margin < other.validation_loss
    return lower and row.validation_accuracy >= other.validation_accuracy


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The row whose weights are kept: the last that beat all kept before it."""
    best = history[0]
    for row in history[1:]:
        if beats(row, best):
            best = row
    return best
