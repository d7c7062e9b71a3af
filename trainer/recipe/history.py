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


def kept(history: Sequence[Epoch], *, head: bool) -> str:
    """Which epoch is kept, and where validation turned, in words."""
    best, first, last = best_epoch(history), history[0], history[-1]
    figures = f"validation loss {best.validation_loss:.3f}, accuracy {best.validation_accuracy:.1%}"
    if best.epoch == 0:
        what = "the head alone is what is exported" if head else "nothing was learned: try more --epochs"
        sentence = (
            f"fine-tuning for {last.epoch} epochs did not beat what it began with on validation ({figures}) "
            f"by more than one standard error; {what}"
        )
    else:
        since = "the head alone" if head else "before training"
        sentence = (
            f"kept epoch {best.epoch} of {last.epoch}: {figures} "
            f"({since}: {first.validation_loss:.3f}, {first.validation_accuracy:.1%})"
        )
    turned = turning_point(history)
    if turned is None:
        return sentence
    return (
        f"{sentence}\nover-training: validation loss was lowest at epoch {turned.epoch} ({turned.validation_loss:.3f}) "
        f"and rose to {last.validation_loss:.3f} by epoch {last.epoch}, while training loss fell to "
        f"{last.train_loss:.3f}"
    )


def turning_point(history: Sequence[Epoch]) -> Epoch | None:
    """The epoch with the lowest validation loss, where validation rose after it while training loss went on falling.

    None where the last epoch is the lowest, or lower training loss never came with higher validation loss.
    """
    lowest = min(history, key=lambda row: row.validation_loss)
    later = [row for row in history if row.epoch > lowest.epoch]
    if not later or lowest.train_loss is None or later[-1].train_loss is None:
        return None
    return lowest if later[-1].train_loss < lowest.train_loss else None
