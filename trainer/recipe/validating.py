"""What the unfrozen stage asks of its validation images after each epoch, and the history's row that comes of it."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ..backbone import Backbone
from ..progress import Validation
from ..world import World
from .history import Epoch
from .part import Part, losses, predict
from .plan import Plan
from .solver import class_weights
from .steps import NotFinite

#: Of each validation image, float64 [images]: `losses`, its cross-entropy in nats, and `right`, 1 where its best class
#: is right. With `balance` both are weighted so that classes count alike.
Seen = dict[str, NDArray[np.float64]]


class Validating:
    """Asks the network, with the weights it has at the moment, about the validation images."""

    def __init__(self, backbone: Backbone, part: Part, *, plan: Plan, device: torch.device, world: World) -> None:
        self.part = part
        self._backbone, self._plan, self._device, self._world = backbone, plan, device, world
        #: Best class of each image as it was last asked, int64 [images].
        self.predicted = np.empty(0, np.int64)

    def ask(self) -> Seen:
        """Loss of each image, and whether it was told right.

        Raises:
            NotFinite: With the images whose loss is no number.
        """
        part = self.part
        rows = predict(self._backbone, part, batch_size=self._plan.batch_size, device=self._device, world=self._world)
        self.predicted = rows.argmax(axis=1)
        right = (self.predicted == part.targets).astype(np.float64)
        weights = np.ones(len(part.targets)) if self._plan.balance == "none" else class_weights(part.targets)
        seen = {"losses": losses(rows, part.targets) * weights, "right": right * weights}
        broken = np.flatnonzero(~np.isfinite(seen["losses"]))
        if len(broken):
            raise NotFinite(broken.tolist(), in_validation=True)
        return seen

    def figures(self, epoch: int, seen: Seen) -> Validation:
        """What is told of the images as they were last asked; `balance` weighs in the loss alone."""
        targets = self.part.targets
        right, counts = self.predicted == targets, np.bincount(targets)
        shares = np.bincount(targets, weights=right)[counts > 0] / counts[counts > 0]
        return Validation(
            epoch=epoch,
            loss=float(seen["losses"].mean()),
            accuracy=float(right.mean()),
            balanced_accuracy=float(shares.mean()),
            image_count=len(targets),
        )


def history_row(
    seen: Seen,
    start: Seen,
    lowest: NDArray[np.float64],
    *,
    epoch: int,
    train_loss: float | None,
    rate: float,
) -> Epoch:
    """The epoch's figures, paired by image with those of the `start` and of the epoch with the lowest losses."""
    return Epoch(
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=float(seen["losses"].mean()),
        validation_accuracy=float(seen["right"].mean()),
        learning_rate=rate,
        standard_error=_standard_error(seen["losses"] - start["losses"]),
        rise=float((seen["losses"] - lowest).mean()),
        rise_error=_standard_error(seen["losses"] - lowest),
    )


def _standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of independent values; 0 where there is only one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
