"""Jobs as they train, on standard error: a live bar for each on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from trapline.command_line import tell
from trapline.v1.train_pb2 import TrainJob, TrainProgress, WatchTrainJobResponse

from .train_names import state_of
from .train_words import progress_in_words, rate, state_in_words, time_left

_PLAIN_SECONDS = 10.0

#: Takes a job's id and what happened to it: an event, or a sentence.
Show = Callable[[str, WatchTrainJobResponse | str], None]


@contextlib.contextmanager
def shown(job_ids: Sequence[str]) -> Iterator[Show]:
    """What to call with each event of these jobs."""
    if not sys.stderr.isatty():
        yield partial(_show, _Lines(job_ids))
        return
    bars = _Bars(job_ids)
    with bars.bars:
        yield partial(_show, bars)


def _show(view: "_Lines | _Bars", job_id: str, event: WatchTrainJobResponse | str) -> None:
    if isinstance(event, str):
        view.say(job_id, event)
    elif event.WhichOneof("event") == "train_job":
        view.state(job_id, event.train_job)
    elif event.WhichOneof("event") == "progress":
        view.progress(job_id, event.progress)
    else:
        view.say(job_id, event.sentence)


class _Lines:
    """Plain lines: sentences, states that changed, the end of each phase, and one every ten seconds within."""

    def __init__(self, job_ids: Sequence[str]) -> None:
        self._several = len(job_ids) > 1
        self._states: dict[str, str] = {}
        self._phases: dict[str, tuple[str, float]] = {}  # of each job, and when a line of it is due

    def state(self, job_id: str, job: TrainJob) -> None:
        """Prints the state, where that is another one."""
        state = state_in_words(job)
        if self._states.get(job_id) != state:
            self._states[job_id] = state
            tell(f"{job_id}: {state}")

    def progress(self, job_id: str, progress: TrainProgress) -> None:
        """Prints how far the phase is, where it is at its end or was not told for a while."""
        now = time.monotonic()
        phase, due = self._phases.get(job_id, ("", 0.0))
        if phase != progress.phase:
            due = now + _PLAIN_SECONDS
        if progress.done >= progress.total or now >= due:
            due = now + _PLAIN_SECONDS
            self.say(job_id, progress_in_words(progress))
        self._phases[job_id] = progress.phase, due

    def say(self, job_id: str, line: str) -> None:
        """Prints a line, with the job where there are several."""
        tell(f"{job_id}: {line}" if self._several else line)


class _Bars:
    """One bar for each job: its phase, the time left, rate and figures; sentences above them."""

    def __init__(self, job_ids: Sequence[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        texts = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("phase", "left", "rate", "figures")]
        # Standard output is left alone: it may be a pipe that the result goes into.
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            texts[0],
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            *texts[1:],
            console=Console(stderr=True),
            redirect_stdout=False,
        )
        self._several = len(job_ids) > 1
        self._tasks = {
            job_id: self.bars.add_task(job_id, total=None, phase="", left="", rate="", figures="") for job_id in job_ids
        }

    def state(self, job_id: str, job: TrainJob) -> None:
        """Moves the bar to where the job stands; prints why it failed."""
        if job.HasField("progress"):
            self.progress(job_id, job.progress)
        words = state_in_words(job)
        if job.state == TrainJob.STATE_FAILED:
            self.say(job_id, words)  # of any length, which a bar's line is not
            words = state_of(job)
        if not (job.state == TrainJob.STATE_RUNNING and job.HasField("progress")):
            self.bars.update(self._tasks[job_id], phase=words, left="", rate="")

    def progress(self, job_id: str, progress: TrainProgress) -> None:
        """Moves the bar."""
        self.bars.update(
            self._tasks[job_id],
            completed=progress.done,
            total=progress.total,
            phase=progress.phase,
            left=time_left(progress),
            rate=rate(progress),
            figures=progress.figures,
        )

    def say(self, job_id: str, line: str) -> None:
        """Prints a line above the bars, with the job where there are several."""
        said = f"{job_id}: {line}" if self._several else line
        self.bars.console.print(said, markup=False, highlight=False, soft_wrap=True)
