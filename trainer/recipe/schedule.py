"""The learning rate of each step, as a pure function of the step, so that a resumed run needs no scheduler state."""

import math
from typing import Literal

#: Share of the steps in which the rate of the one-cycle schedule rises.
WARM_UP_SHARE = 0.25
_START_DIVISOR = 10.0
_END_DIVISOR = 1000.0


def steps_in_epoch(image_count: int, batch_size: int) -> int:
    """Steps of one pass over the training images; what is left of the last batch is spread over the others."""
    return max(1, image_count // batch_size)


def largest_step(image_count: int, batch_size: int) -> int:
    """Images of the largest step: from `batch_size` to nearly twice as many, or all there are where they are fewer."""
    return -(-image_count // steps_in_epoch(image_count, batch_size))


def multiple(schedule: Literal["one_cycle", "constant"], step: int, step_count: int) -> float:
    """The multiple of the peak rate at `step` (from 0) of `step_count`."""
    return one_cycle(step, step_count) if schedule == "one_cycle" else 1.0


def one_cycle(step: int, step_count: int) -> float:
    """The multiple of the peak rate at `step` (from 0) of `step_count`: up by a cosine, then down by one.

    Source: Smith and Topin, "Super-Convergence" (2018), with the cosine form that fastai uses.
    """
    warm_up = max(1.0, step_count * WARM_UP_SHARE)
    if step < warm_up:
        return _cosine(1 / _START_DIVISOR, 1.0, step / warm_up)
    return _cosine(1.0, 1 / _END_DIVISOR, (step - warm_up) / max(1.0, step_count - warm_up))


def _cosine(begin: float, end: float, share: float) -> float:
    return begin + (end - begin) * (1 - math.cos(math.pi * min(1.0, share))) / 2
