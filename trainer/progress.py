"""What a run says while it works: one event type, drawn as a bar on a terminal and as plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

_PLAIN_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a phase is.

    Attributes:
        phase: What is done, e.g. `scan`.
        done: Units done.
        total: Units in all.
        figures: Latest figures in words, e.g. `loss 0.41`; may be empty.
    """

    phase: str
    done: int
    total: int
    figures: str = ""


class Report(Protocol):
    """Where a run's progress and sentences go."""

    def say(self, sentence: str) -> None:
        """Tells one finished fact."""

    def progress(self, event: Progress) -> None:
        """Tells how far the current phase is."""


class PlainReport:
    """Lines on standard error, for logs and pipes: the end of each phase, and a line every ten seconds within."""

    def __init__(self) -> None:
        self._phase = ""
        self._begin = self._told = 0.0

    def say(self, sentence: str) -> None:
        """Prints the sentence."""
        print(sentence, file=sys.stderr, flush=True)

    def progress(self, event: Progress) -> None:
        """Prints a line when the phase ends or ten seconds have passed."""
        now = time.monotonic()
        if event.phase != self._phase:
            self._phase, self._begin, self._told = event.phase, now, now
        ended = event.done >= event.total
        if not ended and now - self._told < _PLAIN_SECONDS:
            return
        self._told = now
        seconds = now - self._begin
        left = (
            "" if ended or not event.done else f", about {seconds / event.done * (event.total - event.done):.0f} s left"
        )
        figures = f" {event.figures}" if event.figures else ""
        self.say(f"{event.phase} {event.done}/{event.total} {seconds:.1f} s{left}{figures}")


class _BarReport:
    """A bar with the time left for each phase, and sentences above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.bars = Bars(
            TextColumn("{task.description:<16}"),
            *columns,
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, int] = {}

    def say(self, sentence: str) -> None:
        self.bars.console.print(sentence, markup=False, highlight=False)

    def progress(self, event: Progress) -> None:
        if event.phase not in self._tasks:
            self._tasks[event.phase] = self.bars.add_task(event.phase, total=event.total, figures="")
        task = self._tasks[event.phase]
        self.bars.update(task, completed=event.done, total=event.total, figures=event.figures)  # type: ignore[arg-type]


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
