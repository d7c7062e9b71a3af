"""How far a job is, on standard error: a bar with the time left on a terminal, plain lines now and then elsewhere."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator

import grpc

from trapline.command_line import tell
from trapline.errors import Refusal

from .answers import Result
from .connection import ServerUnreachable

#: Failed images that are told one by one; the rows have them all.
MOST_TOLD = 20


class Tally:
    """Counts results, and says why the first ones failed.

    Args:
        total: How many results will come.
        say: Shows a line.
    """

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self.total = total
        self.done_count = 0
        self.failures: Counter[str] = Counter()
        self._say = say
        self._start = time.monotonic()
        self._lost_server = False

    def add(self, result: Result) -> None:
        """Takes one result."""
        self.done_count += 1
        if result.refusal is None:
            return
        self.failures[result.refusal.code.name] += 1
        if isinstance(result.refusal, ServerUnreachable):
            if not self._lost_server:
                self._say(f"error: {result.refusal.message}")
            self._lost_server = True
        elif self.failures.total() <= MOST_TOLD:
            name = "image" if isinstance(result.source, bytes) else os.fsdecode(result.source)
            self._say(f"{name}: {_told(result.refusal)}")
        elif self.failures.total() == MOST_TOLD + 1:
            self._say("more images failed; their rows say why")

    def sentence(self) -> str:
        """How far the job is, in one line."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        images_per_second = self.done_count / seconds
        parts = [f"{self.done_count:,} of {self.total:,} images"]
        parts += [f"{count:,} {name}" for name, count in sorted(self.failures.items())]
        parts.append(f"{images_per_second:.1f} images/s")
        if 0 < self.done_count < self.total:
            parts.append(f"about {(self.total - self.done_count) / images_per_second:.0f} s left")
        return ", ".join(parts)


def _told(refusal: Refusal) -> str:
    """The refusal's sentence; for a fault of the server's with the id that its log tells the call by."""
    fault = refusal.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    return f"{refusal.message} (call {refusal.request_id})" if fault and refusal.request_id else refusal.message


@contextlib.contextmanager
def shown(total: int, *, bar: bool, every_seconds: float = 10.0) -> Iterator[tuple[Tally, Callable[[Result], None]]]:
    """A tally, and what to call with each result.

    Args:
        total: How many results will come.
        bar: Draw a bar; only for a terminal.
        every_seconds: Without a bar, the time between two lines.
    """
    if bar:
        with _drawn(total) as both:
            yield both
        return
    tally = Tally(total, tell)
    next_time = time.monotonic() + every_seconds

    def take(result: Result) -> None:
        nonlocal next_time
        tally.add(result)
        if tally.done_count < total and time.monotonic() >= next_time:
            next_time = time.monotonic() + every_seconds
            tell(tally.sentence())

    yield tally, take


@contextlib.contextmanager
def _drawn(total: int) -> Iterator[tuple[Tally, Callable[[Result], None]]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"), TimeRemainingColumn())
    # Standard output is left alone: it may be a pipe that CSV goes into.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, transient=True) as progress:
        task = progress.add_task("", total=total, failed="")

        def say(line: str) -> None:
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

        tally = Tally(total, say)

        def take(result: Result) -> None:
            tally.add(result)
            failed = tally.failures.total()
            progress.update(task, advance=1, failed=f"{failed:,} failed" if failed else "")

        yield tally, take
