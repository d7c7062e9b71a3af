"""The learning-rate range test (Smith 2017): the rate grows from step to step until the training loss breaks down.

Fine-tuning starts from a fitted head (LP-FT): the loss lies flat, falls a little or not at all, and then leaps. Without
weights it falls first. A rule that looks for the steepest fall finds noise in the first case; the rate from which the
loss rises for good shows in both, so a tenth of it is the suggestion, as in Smith's "an order of magnitude lower".
"""

import gc
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..backbone import Backbone
from ..errors import TrainerError
from ..world import World
from .part import Part
from .plan import Plan
from .steps import NotFinite, Steps

_LOWEST_RATE, _HIGHEST_RATE = 1e-6, 1.0
#: Between these the suggestion lies, whatever the curve.
BOUNDS = (1e-6, 1e-1)
_FEWEST_STEPS, _MOST_STEPS = 40, 100
# Standard deviation of the smoothing kernel, in powers of ten of the rate.
_SMOOTHING = 0.2
_BREAKDOWN = 3.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a range test found.

    Attributes:
        rates: The last layers' rate of each step that was taken, growing.
        losses: Mean training loss of each step's batch, before the step.
        smoothed: The same, smoothed over neighbouring rates.
        rises_from: The rate from which the smoothed loss rises for good; None where it never does.
        suggestion: The peak rate to train with, of two digits, within `BOUNDS`.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    rises_from: float | None
    suggestion: float

    @property
    def sentence(self) -> str:
        """The suggestion and where it comes from."""
        if self.rises_from is None:
            why = f"the training loss did not rise at any rate up to {self.rates[-1]:.1e}"
        else:
            why = f"a tenth of {self.rises_from:.1e}, from which the training loss rises for good"
        return f"learning rate {self.suggestion:.1e} by the range test: {why}"

    def csv(self) -> str:
        """The curve as CSV, one line a step."""
        text = io.StringIO()
        text.write("learning_rate,loss,smoothed_loss\n")
        for row in zip(self.rates, self.losses, self.smoothed, strict=True):
            text.write(",".join(f"{value:.6g}" for value in row) + "\n")
        return text.getvalue()


def find(
    backbone: Backbone,
    train: Part,
    *,
    plan: Plan,
    device: torch.device,
    world: World,
    report: Callable[[int, int], None],
) -> Found:
    """The curve of a range test and the rate that it suggests; `backbone` keeps the tensors that it came with.

    Args:
        backbone: The network as fine-tuning will find it, on `device`.
        train: Training images.
        plan: What the unfrozen stage is told; all but the rates and the averaging is done as there.
        device: Where the network is.
        world: The processes that train together; each gets the same answer.
        report: Told steps done and in all; the test may end before the last one.

    Raises:
        TrainerError: The loss is no number at any rate, or there is not enough memory for a batch.
    """
    network, was_training = backbone.network, backbone.network.training
    before = {name: value.clone() for name, value in network.state_dict().items()}
    steps = Steps(backbone, train, plan=replace(plan, ema_decay=0.0), device=device, world=world)
    rates = np.geomspace(_LOWEST_RATE, _HIGHEST_RATE, step_count(steps.count))
    chance = math.log(backbone.head.out_features)
    try:
        losses = _losses(steps, rates, chance=chance, report=report)
    except NotFinite as error:
        names = ", ".join(train.names[position] for position in error.positions[:4])
        raise TrainerError(
            f"the training loss is no number even at a learning rate of {rates[0]:g}, in the batch of {names}"
        ) from error
    finally:
        network.load_state_dict(before)
        for parameter in network.parameters():
            parameter.grad = None
        network.train(was_training)
        # A distributed wrapper of the parameters must be gone before the next one takes them.
        del steps
        gc.collect()
    # The last digit of a logarithm may differ between machines.
    return world.told(read(rates[: len(losses)].tolist(), losses, chance=chance))


def step_count(steps_in_epoch: int) -> int:
    """Steps of a range test, if it does not end early: as many as two epochs have, within limits.

    Fewer blur the curve; more cost minutes and say nothing new.
    """
    return min(_MOST_STEPS, max(_FEWEST_STEPS, 2 * steps_in_epoch))


def _losses(
    steps: Steps, rates: NDArray[np.float64], *, chance: float, report: Callable[[int, int], None]
) -> list[float]:
    """Losses of the steps at growing rates, until they break down.

    Raises:
        NotFinite: Already the first is no number.
    """
    losses: list[float] = []
    order: list[int] = []
    steps.train_mode()
    for number, rate in enumerate(rates.tolist()):
        epoch, step = divmod(number, steps.count)
        if step == 0:
            order = steps.order(epoch + 1)
        try:
            losses.append(steps.take(order, epoch=epoch + 1, step=step, rate=rate))
        except NotFinite:
            if not losses:
                raise
            break
        report(number + 1, len(rates))
        smoothed = _smoothed(rates[: len(losses)], np.array(losses))
        if smoothed[-1] > _ceiling(smoothed, chance):
            break
    report(len(losses), len(losses))
    return losses


def read(rates: Sequence[float], losses: Sequence[float], *, chance: float) -> Found:
    """What a curve says.

    Args:
        rates: Rate of each step, growing.
        losses: Loss of each step, finite numbers.
        chance: The loss of knowing nothing: the logarithm of the number of classes.
    """
    values = np.asarray(losses)
    # Cut, so that one loss of a thousand does not weigh on rates that were still good.
    top = _ceiling(_smoothed(rates, values), chance)
    smoothed = _smoothed(rates, np.minimum(values, top))
    lowest = int(smoothed.argmin())
    noise = float(np.std(values[: lowest + 1] - smoothed[: lowest + 1]))
    above = smoothed > smoothed[lowest] + max(noise, 0.1 * chance)
    below = np.flatnonzero(~above)
    rises_from = None if below[-1] + 1 == len(rates) else float(rates[below[-1] + 1])
    suggestion = (rates[-1] if rises_from is None else rises_from) / 10
    low, high = BOUNDS
    return Found(
        rates=list(rates),
        losses=list(losses),
        smoothed=smoothed.tolist(),
        rises_from=rises_from,
        suggestion=float(f"{min(high, max(low, suggestion)):.1e}"),
    )


def _ceiling(smoothed: NDArray[np.float64], chance: float) -> float:
    """The loss beyond which nothing is to be learned: far above the best, and above that of knowing nothing."""
    return float(max(_BREAKDOWN * smoothed.min(), 2 * chance))


def _smoothed(rates: Sequence[float] | NDArray[np.float64], losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over the neighbours in the rate's logarithm, by a Gaussian: unlike a running mean, not late."""
    places = np.log10(np.asarray(rates))
    weights = np.exp(-((places[:, None] - places[None, :]) ** 2) / (2 * _SMOOTHING**2))
    smoothed: NDArray[np.float64] = (weights * losses).sum(axis=1) / weights.sum(axis=1)
    return smoothed
