"""What each epoch of the unfrozen stage gave, and which one is kept."""

from collections.abc import Sequence
from dataclasses import dataclass

# When validation has turned: its rise in standard errors of it, and as a share of the lowest loss. As for the head, one
# standard error decides; benchmarks/overtraining.py tests the rule.
_CERTAIN_ERRORS = 1.0
_LEAST_SHARE = 0.05
# Where classes weigh alike, equal accuracies differ by the rounding of their sums.
_ROUNDING = 1e-9


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
        rise: How far validation loss is above that of the lowest epoch so far, epoch 0 not counted; 0 for that epoch.
        rise_error: Standard error of `rise`, paired by image.
    """

    epoch: int
    train_loss: float | None
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    standard_error: float
    rise: float = 0.0
    rise_error: float = 0.0


def beats(row: Epoch, other: Epoch) -> bool:
    """Whether `row` is the better one on validation: a lower loss and no lower accuracy.

    Epoch 0, the head that cross-validation chose, gives way only to a loss lower by more than one standard error: on a
    few dozen validation images a smaller gain is chance, and changing all layers for it loses as often as it wins.
    """
    return _has_lower_loss(row, other) and row.validation_accuracy >= other.validation_accuracy - _ROUNDING


def _has_lower_loss(row: Epoch, other: Epoch) -> bool:
    margin = row.standard_error if other.epoch == 0 else 0.0
    return row.validation_loss + margin < other.validation_loss


def best_epoch(history: Sequence[Epoch], *, pretrained: bool) -> Epoch:
    """The row whose weights are kept: the last that beat all kept before it.

    Where nothing was `pretrained`, epoch 0 is chance, which may be ahead of a first epoch on validation: it does not
    compete.
    """
    rows = history if pretrained or len(history) == 1 else history[1:]
    best = rows[0]
    for row in rows[1:]:
        if beats(row, best):
            best = row
    return best


def kept(history: Sequence[Epoch], *, head: bool) -> str:
    """Which epoch is kept, and where validation turned, in words; `head` tells whether it began with a fitted one."""
    best, first, last = best_epoch(history, pretrained=head), history[0], history[-1]
    figures = f"validation loss {best.validation_loss:.3f}, accuracy {best.validation_accuracy:.1%}"
    if best.epoch == 0:
        why = "no epoch's loss was lower by more than one standard error"
        if any(_has_lower_loss(row, first) for row in history[1:]):
            why = "where the loss was lower by more than one standard error, accuracy was lower, too"
        sentence = (
            f"fine-tuning for {last.epoch} epochs did not beat what it began with on validation ({figures}): {why}; "
            "the head alone is what is exported"
        )
    else:
        since = "the head alone" if head else "before training"
        sentence = (
            f"kept epoch {best.epoch} of {last.epoch}: {figures} "
            f"({since}: {first.validation_loss:.3f}, {first.validation_accuracy:.1%})"
        )
        if best.validation_loss >= first.validation_loss:
            sentence += "; next to nothing was learned: try more --epochs"
    turned = turning_point(history)
    return sentence if turned is None else f"{sentence}\nover-training: {rise(turned, last)}"


def rise(turned: Epoch, last: Epoch) -> str:
    """How validation loss rose from the epoch where it turned to the last one, in words."""
    return (
        f"validation loss was lowest at epoch {turned.epoch} ({turned.validation_loss:.3f}) and rose by "
        f"{last.rise:.3f} (standard error {last.rise_error:.3f}, paired by photo) to {last.validation_loss:.3f} by "
        f"epoch {last.epoch}, while training loss fell from {turned.train_loss:.3f} to {last.train_loss:.3f}"
    )


def turning_point(history: Sequence[Epoch]) -> Epoch | None:
    """The epoch with the lowest validation loss, where training went on too long after it.

    That is so where the last epoch's validation loss is above the lowest by more than chance explains and by more than
    a trifle, while training loss fell on. Epoch 0, the state before, is not compared: fine-tuning may cost something
    at once and then gain it back.
    """
    trained = [row for row in history if row.epoch > 0]
    if not trained:
        return None
    lowest, last = min(trained, key=lambda row: row.validation_loss), trained[-1]
    if lowest.train_loss is None or last.train_loss is None or last.train_loss >= lowest.train_loss:
        return None
    certain = last.rise > _CERTAIN_ERRORS * last.rise_error
    return lowest if certain and last.rise > _LEAST_SHARE * lowest.validation_loss else None
