"""What `trainer serve` counts beside what every service does."""

import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from trapline.service.metrics import ServiceMetrics
from trapline.v1 import train_pb2

from .job import ENDED, Job, State

_STATES = tuple(state for state in State.State.values() if state != State.STATE_UNSPECIFIED)
_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600)


class TrainMetrics(ServiceMetrics):
    """One train service's metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs = self.gauge("trapline_train_jobs", "state", "Jobs by their state; deleted ones are not among them.")
        self.ended = self.counter("trapline_train_ended_jobs", "outcome", "Jobs ended, by the state they ended in.")
        self.seconds = self.histogram(
            "trapline_train_job_seconds",
            "state",
            "Time that a job was `pending` or `running`, observed when it left that state.",
            _SECONDS,
        )
        self.restarts = self.counter("trapline_train_restarts", "", "Processes of jobs started again after they died.")
        self.watchers = self.gauge("trapline_train_watchers", "", "Calls of WatchTrainJob under way.")
        self.silent = self.gauge(
            "trapline_train_silent_seconds",
            "",
            "Time that the running job which is silent for longest has told nothing.",
        )
        self.free = self.gauge("trapline_train_free_bytes", "", "Room on the disk of `--runs-root`.")
        self.required_free = self.gauge(
            "trapline_train_required_free_bytes", "", "`--min-free-gib`: with less room no job is taken or started."
        )
        # When each running job told something last; read by the thread of the metrics' page, too.
        self._told: dict[str, float] = {}
        self.silent.set_function(self._silent_seconds)
        for state in ENDED:
            # There from the start: of a count that begins with its first job Prometheus sees no increase.
            self.ended.labels(word(state))

    def take_over(self, counts: Mapping[int, int], running: Iterable[Job]) -> None:
        """Takes over how many jobs an earlier service left in each state, and those that run."""
        for state in _STATES:
            self.jobs.labels(word(state)).set(counts.get(state, 0))
        self._told = {job.id: job.counted_time for job in running}

    def show_room(self, runs_root: Path, required_bytes: int) -> None:
        """Shows how much room there is on the disk of the runs, whenever it is asked for, and how much is needed."""

        def free_bytes() -> float:
            try:
                return float(shutil.disk_usage(runs_root).free)
            except OSError:
                return 0.0  # a disk that is away has no room, and the page goes on

        self.free.set_function(free_bytes)
        self.required_free.set(required_bytes)

    def count(self, before: Job | None, after: Job | None) -> None:
        """Counts a change of a job, which was not there before, or is not any more, where that is None."""
        for job, step in ((before, -1), (after, 1)):
            if job is not None:
                self.jobs.labels(word(job.state)).inc(step)
        if before is None or after is None:
            return
        if after.ended and not before.ended:
            self._count_end(after)
        elif after.attempt_count > before.attempt_count or after.offset > before.offset:
            self._told[after.id] = time.time()
        # One without a device was ended by the service itself.
        if 0 < before.attempt_count < after.attempt_count and before.device:
            self.restarts.inc()
        if before.start_time is None and after.start_time is not None:
            self.seconds.labels("pending").observe(max(0.0, after.start_time - after.create_time))

    def _count_end(self, job: Job) -> None:
        self._told.pop(job.id, None)
        self.ended.labels(word(job.state)).inc()
        begin = job.create_time if job.start_time is None else job.start_time
        state = "pending" if job.start_time is None else "running"
        self.seconds.labels(state).observe(max(0.0, (job.end_time or begin) - begin))

    def _silent_seconds(self) -> float:
        return max((time.time() - told for told in list(self._told.values())), default=0.0)


def word(state: int) -> str:
    """A state as a label has it, e.g. `succeeded`."""
    return State.State.Name(train_pb2.TrainJob.State.ValueType(state)).removeprefix("STATE_").lower()
