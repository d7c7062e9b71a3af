"""The unfrozen stage: all layers, from the head that the frozen stage fitted (LP-FT, Kumar et al. 2022).

One-cycle or constant rates, lower for earlier layers, BatchNorm statistics kept where the network was pretrained,
weights averaged over steps. After each epoch validation decides whether its weights are the ones to keep.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..backbone import Backbone
from ..errors import TrainerError
from ..progress import Progress, Validation
from ..world import World
from . import checkpoint as saved
from .history import Epoch, best_epoch
from .part import Part
from .plan import Plan
from .schedule import WARM_UP_SHARE
from .steps import NotFinite, Steps
from .validating import Seen, Validating, history_row

# Steps whose mean loss is told: one batch's alone leaps.
_TOLD_STEPS = 20

#: Told an epoch's number and the best class of each validation image, int64 [images].
Answered = Callable[[int, NDArray[np.int64]], None]
#: Told each step's number (from 1, over all epochs), its mean loss, its rate of the last layers.
Taken = Callable[[int, float, float], None]


def finetune(
    backbone: Backbone,
    train: Part,
    validation: Part,
    *,
    plan: Plan,
    device: torch.device,
    world: World,
    checkpoint: Path,
    say: Callable[[str], None],
    report: Callable[[Progress], None],
    each: Callable[[Epoch], None] = lambda _row: None,
    taken: Taken = lambda _step, _loss, _rate: None,
    answered: Answered = lambda _epoch, _predicted: None,
) -> list[Epoch]:
    """Trains all layers; leaves the best epoch's weights in `backbone`, those it came with where no epoch beat them.

    What a network came with that was not pretrained is beaten by any epoch.

    Args:
        backbone: The network with its fitted head, on `device`.
        train: Training images.
        validation: Images that choose the epoch.
        plan: What to do.
        device: Where the network is.
        world: The processes that train together.
        checkpoint: Folder for the state; a state found there is gone on from.
        say: Told what a person should know.
        report: Told each step, and each epoch's end with its figures.
        each: Told each new row of the history, epoch 0 too, while the network has that epoch's weights and before a
            checkpoint has the row.
        taken: Told each step, likewise.
        answered: Told what validation images were taken for in each epoch, just before `each`.

    Returns:
        The history, epoch 0 first. The best row is that of `best_epoch`.

    Raises:
        TrainerError: There is not enough memory for a batch, or the loss is not finite before anything was learned.
    """
    loop = _Loop(backbone, train, validation, plan=plan, device=device, world=world, checkpoint=checkpoint, say=say)

    def told(row: Epoch) -> None:
        answered(row.epoch, loop.validating.predicted)
        each(row)

    if loop.position.epoch == 1 and loop.position.step == 0:
        told(loop.position.history[0])
    for epoch in range(loop.position.epoch, plan.epochs + 1):
        if loop.patience_lost(epoch):
            break
        try:
            loop.epoch(epoch, report=report, each=told, taken=taken)
        except NotFinite as error:
            loop.give_up(epoch, error)
            break
        report(loop.progress(epoch, epoch * loop.steps.count))
    backbone.network.load_state_dict(loop.best)
    return loop.position.history


class _Loop:
    """What the epochs share: the steps, the position in them, the best weights so far."""

    def __init__(
        self,
        backbone: Backbone,
        train: Part,
        validation: Part,
        *,
        plan: Plan,
        device: torch.device,
        world: World,
        checkpoint: Path,
        say: Callable[[str], None],
    ) -> None:
        self._backbone, self._train, self._plan = backbone, train, plan
        self._world, self._checkpoint, self._say = world, checkpoint, say
        self.validating = Validating(backbone, validation, plan=plan, device=device, world=world)
        self._full_disk_told = False
        self._validation_figures: Validation | None = None
        self._last_losses: deque[float] = deque(maxlen=_TOLD_STEPS)
        #: What the next position on the disk relies on and is not there yet.
        self._owed: dict[str, Callable[[], None]] = {}
        self.steps = Steps(backbone, train, plan=plan, device=device, world=world)
        position = saved.restore(checkpoint, backbone, self.steps, world)
        if position is None:
            seen = self._asked_before()
            row = history_row(seen, seen, seen["losses"], epoch=0, train_loss=None, rate=0.0)
            position = saved.Position(epoch=1, step=0, loss_sum=0.0, history=[row])
            self.best, start = saved.state(backbone), {key: torch.from_numpy(value) for key, value in seen.items()}
            self._owed = {"start": lambda: saved.save_start(checkpoint, start)}
            self._write_best()
        else:
            start = world.told(saved.read_start(checkpoint) if world.first else {})
            self.best = world.told(saved.read_best(checkpoint) if world.first else {})
        self._start = {name: value.numpy() for name, value in start.items()}
        self.position = position

    def patience_lost(self, epoch: int) -> bool:
        """Whether too many epochs before this one brought nothing.

        Near the peak of the rate validation is often worse than before and after it: nobody loses patience there.
        """
        plan = self._plan
        peak = math.ceil(plan.epochs * WARM_UP_SHARE) if plan.schedule == "one_cycle" else 0
        return epoch - 1 - max(self._best_row().epoch, peak) >= plan.patience

    def epoch(
        self,
        epoch: int,
        *,
        report: Callable[[Progress], None],
        each: Callable[[Epoch], None],
        taken: Taken,
    ) -> None:
        """One pass over the training images and one over validation; adds a row to the history."""
        plan, steps, position = self._plan, self.steps, self.position
        order, history, loss_sum = steps.order(epoch), position.history, position.loss_sum
        steps.train_mode()
        written = time.monotonic()
        for step in range(position.step, steps.count):
            value = steps.take(order, epoch=epoch, step=step)
            begin, end = (len(order) * (step + bound) // steps.count for bound in (0, 1))
            loss_sum += value * (end - begin)
            taken((epoch - 1) * steps.count + step + 1, value, steps.rate(epoch, step))
            self._last_losses.append(value)
            report(self.progress(epoch, (epoch - 1) * steps.count + step + 1))
            # Whoever goes on after the last one would tell the epoch's row, which cuts what was told of that step.
            inside = step + 1 < steps.count
            if inside and self._world.first and time.monotonic() - written >= plan.checkpoint_seconds:
                here = replace(position, epoch=epoch, step=step + 1, loss_sum=loss_sum)
                self._write(here)
                written = time.monotonic()
        rate = steps.rate(epoch, steps.count - 1)
        with steps.averaged_weights():
            # What the epoch's last step broke shows here alone.
            seen, lowest = self.validating.ask(), position.lowest
            self._validation_figures = self.validating.figures(epoch, seen)
            if lowest is None or seen["losses"].mean() < lowest.mean():
                lowest = seen["losses"]
            row = history_row(seen, self._start, lowest, epoch=epoch, train_loss=loss_sum / len(order), rate=rate)
            if best_epoch([*history, row], pretrained=self._backbone.pretrained) is row:
                # The best weights first: stopped in between, the epoch is done again and writes the same bytes.
                self.best = saved.state(self._backbone)
                self._write_best()
            each(row)
        self.position = saved.Position(epoch=epoch + 1, step=0, loss_sum=0.0, history=[*history, row], lowest=lowest)
        self._write(self.position)

    def progress(self, epoch: int, done: int) -> Progress:
        """How far training is after `done` steps of all, in `epoch`."""
        # Where an earlier version wrote a checkpoint after an epoch's last step, this process has taken none yet.
        loss = float(np.mean(self._last_losses)) if self._last_losses else self.position.history[-1].train_loss
        validation, figures = self._validation_figures, f"epoch {epoch} of {self._plan.epochs}"
        if loss is not None:
            figures += f", loss {loss:.3f}"
        if validation is not None:
            figures += f", validation {validation.accuracy:.1%} loss {validation.loss:.3f}"
        return Progress(
            phase="fine-tune",
            done=done,
            total=self._plan.epochs * self.steps.count,
            unit="steps",
            figures=figures,
            epoch=epoch,
            epoch_count=self._plan.epochs,
            train_loss=loss,
            validation=validation,
        )

    def _best_row(self) -> Epoch:
        return best_epoch(self.position.history, pretrained=self._backbone.pretrained)

    def _asked_before(self) -> Seen:
        """What validation says of the network as it came."""
        try:
            return self.validating.ask()
        except NotFinite as error:
            raise TrainerError(
                f"the validation loss is no number before anything was trained, of {self._named(error)}; give other "
                "--weights"
            ) from error

    def _named(self, error: NotFinite) -> str:
        part = self.validating.part if error.in_validation else self._train
        more = f" and {len(error.positions) - 4} more" if len(error.positions) > 4 else ""
        return ", ".join(part.names[position] for position in error.positions[:4]) + more

    def give_up(self, epoch: int, error: NotFinite) -> None:
        """Ends the stage with the best weights so far, where anything had been learned."""
        what, where = (
            ("validation", "after the last step, of") if error.in_validation else ("training", "in the batch of")
        )
        sentence = (
            f"the {what} loss stopped being a number in epoch {epoch}, {where} {self._named(error)}; "
            f"try a lower --learning-rate than {self._plan.learning_rate:g}"
        )
        kept = self._best_row().epoch
        if kept == 0 and not self._backbone.pretrained:
            raise TrainerError(sentence)
        self._say(f"{sentence}. What was best before is kept: {'the head' if kept == 0 else f'epoch {kept}'}")

    def _write_best(self) -> None:
        self._owed["best"] = lambda: saved.save_best(self._checkpoint, self.best)
        self._write(None)

    def _write(self, position: saved.Position | None) -> None:
        """Writes in the first process what is owed, then the position; a full disk is told once and costs only these.

        In this order, whatever fails: a position on the disk is never newer than the weights that it calls the best.
        """
        if not self._world.first:
            return
        try:
            for name, write in list(self._owed.items()):
                write()
                del self._owed[name]
            if position is not None:
                saved.save(self._checkpoint, self._backbone, self.steps, position)
        except TrainerError as error:
            if not self._full_disk_told:
                self._full_disk_told = True
                self._say(
                    f"no checkpoint was written: {error}. Training goes on; stopped now, it would lose what it did"
                )
