"""What a run says while it works: one event type, drawn as a bar on a terminal, as plain lines elsewhere, and sent."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from trapline.command_line import tell
from trapline.v1 import metadata_pb2, train_pb2

_PLAIN_SECONDS = 10.0
# What counts as recent, what is too short to tell a rate from, and how many moments of the recent are kept.
_RECENT_SECONDS = 30.0
_SHORTEST_SECONDS = 1.0
_MOMENTS = 64


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Figures on the validation images after an epoch.

    Attributes:
        epoch: The unfrozen epoch, from 1.
        loss: Mean cross-entropy; with `balance` classes count alike.
        accuracy: Share of images whose best class is right.
        balanced_accuracy: Mean of that share over classes.
        image_count: Images.
    """

    epoch: int
    loss: float
    accuracy: float
    balanced_accuracy: float
    image_count: int


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a phase is.

    Attributes:
        phase: What is done, e.g. `scan`.
        done: Units done.
        total: Units in all.
        unit: What is counted, in the plural.
        figures: Latest figures in words, e.g. `loss 0.41`; may be empty.
        epoch: The unfrozen epoch under way, from 1; 0 outside of fine-tuning.
        epoch_count: Unfrozen epochs in all; 0 outside of fine-tuning.
        train_loss: Mean training loss of the last steps; None outside of fine-tuning.
        validation: Figures after the last epoch that this process finished; None before.
    """

    phase: str
    done: int
    total: int
    unit: str = "images"
    figures: str = ""
    epoch: int = 0
    epoch_count: int = 0
    train_loss: float | None = None
    validation: Validation | None = None


class Report(Protocol):
    """Where a run's progress and sentences go."""

    def say(self, sentence: str) -> None:
        """Tells one finished fact."""

    def progress(self, event: Progress) -> None:
        """Tells how far the current phase is."""


class Rate:
    """How fast the phase under way goes now, from its events: over its last half minute, or its last epoch if longer.

    An epoch ends with a pass over validation, so that less than a whole one would tell too fast or too slow a rate.
    """

    def __init__(self) -> None:
        self._phase = ""
        self._moments: deque[tuple[float, int]] = deque()

    def observe(self, event: Progress, now: float) -> tuple[float | None, float | None]:
        """Takes an event; gives units a second, and seconds left of its phase. Each is None until it can be told.

        Args:
            event: The newest one.
            now: When it came, in seconds of a clock that never goes back.
        """
        moments, ended = self._moments, event.done >= event.total
        if event.phase != self._phase or (moments and event.done < moments[-1][1]):
            moments.clear()
            self._phase = event.phase
        recent_units = event.total / event.epoch_count if event.epoch_count else 0.0
        while (
            len(moments) > 1 and now - moments[1][0] >= _RECENT_SECONDS and event.done - moments[1][1] >= recent_units
        ):
            moments.popleft()
        seconds = now - moments[0][0] if moments else 0.0
        units = event.done - moments[0][1] if moments else 0
        if not moments or now - moments[-1][0] >= seconds / _MOMENTS:
            moments.append((now, event.done))
        if seconds < _SHORTEST_SECONDS or not units:
            return None, 0.0 if ended else None
        return units / seconds, 0.0 if ended else (event.total - event.done) * seconds / units


def progress_message(event: Progress, per_second: float | None, seconds_left: float | None) -> train_pb2.TrainProgress:
    """The event as it is sent, with what `Rate.observe` gave for it."""
    message = train_pb2.TrainProgress(
        phase=event.phase,
        done=event.done,
        total=event.total,
        per_second=per_second or 0.0,
        figures=event.figures,
        epoch=event.epoch,
        epoch_count=event.epoch_count,
        train_loss=event.train_loss,
    )
    if seconds_left is not None:
        message.remaining.FromMilliseconds(round(seconds_left * 1000))
    if event.validation is not None:
        message.validation.CopyFrom(
            metadata_pb2.Evaluation(
                epoch=event.validation.epoch,
                loss=event.validation.loss,
                accuracy=event.validation.accuracy,
                balanced_accuracy=event.validation.balanced_accuracy,
                image_count=event.validation.image_count,
            )
        )
    return message


def _pace(event: Progress, per_second: float | None, seconds_left: float | None) -> str:
    """Rate and time left in words, as far as they can be told; empty else."""
    told = []
    if per_second is not None:
        told.append(f"{per_second:.3g} {event.unit}/s" if per_second < 100 else f"{per_second:.0f} {event.unit}/s")
    if seconds_left:
        told.append(f"about {_duration(seconds_left)} left")
    return ", ".join(told)


def _duration(seconds: float) -> str:
    """As one says it: `40 s`, `3 min`, `2 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class PlainReport:
    """Lines on standard error, for logs and pipes: the end of each phase, and a line every ten seconds within."""

    def __init__(self) -> None:
        self._phase = ""
        self._begin = self._told = 0.0
        self._rate = Rate()

    def say(self, sentence: str) -> None:
        """Prints the sentence."""
        tell(sentence)

    def progress(self, event: Progress) -> None:
        """Prints a line when the phase ends or ten seconds have passed."""
        now = time.monotonic()
        pace = _pace(event, *self._rate.observe(event, now))
        if event.phase != self._phase:
            self._phase, self._begin, self._told = event.phase, now, now
        if event.done < event.total and now - self._told < _PLAIN_SECONDS:
            return
        self._told = now
        rest = "".join(f", {words}" for words in (pace, event.figures) if words)
        self.say(f"{event.phase} {event.done}/{event.total} {now - self._begin:.1f} s{rest}")


class _BarReport:
    """A bar with the rate and the time left for each phase, and sentences above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self.bars = Bars(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, int] = {}
        self._rate = Rate()

    def say(self, sentence: str) -> None:
        self.bars.console.print(sentence, markup=False, highlight=False)

    def progress(self, event: Progress) -> None:
        if event.phase not in self._tasks:
            self._tasks[event.phase] = self.bars.add_task(event.phase, total=event.total, figures="", pace="")
        pace = _pace(event, *self._rate.observe(event, time.monotonic()))
        fields = {"completed": event.done, "total": event.total, "figures": event.figures, "pace": pace}
        self.bars.update(self._tasks[event.phase], **fields)  # type: ignore[arg-type]


@contextmanager
def console_report() -> Iterator[Report]:
    """Bars where standard error is a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield PlainReport()
        return
    report = _BarReport()
    with report.bars:
        yield report


class _NoReport:
    """Nothing is told: another process tells it."""

    def say(self, sentence: str) -> None:
        pass

    def progress(self, event: Progress) -> None:
        pass


@contextmanager
def silent_report() -> Iterator[Report]:
    """Nothing: for the processes beside the first one."""
    yield _NoReport()
