"""What `trainer serve` counts beside what every service does, and the store that counts it."""

import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from google.rpc import status_pb2

from trapline.service.metrics import ServiceMetrics
from trapline.v1 import train_pb2
from trapline.v1.metadata_pb2 import Evaluation

from .changes import Changes
from .job import ENDED, Event, Job, State
from .store import Store

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
        for state in ENDED:
            # There from the start: of a count that begins with its first job Prometheus sees no increase.
            self.ended.labels(word(state))

    def count_states(self, counts: Collection[tuple[int, int]]) -> None:
        """Takes over how many jobs there are in each state."""
        known = dict(counts)
        for state in _STATES:
            self.jobs.labels(word(state)).set(known.get(state, 0))

    def show_room(self, runs_root: Path, required_bytes: int) -> None:
        """Shows how much room there is on the disk of the runs, whenever it is asked for, and how much is needed."""

        def free_bytes() -> float:
            try:
                return float(shutil.disk_usage(runs_root).free)
            except OSError:
                return 0.0  # a disk that is away has no room, and the page goes on

        self.free.set_function(free_bytes)
        self.required_free.set(required_bytes)

    def count_end(self, job: Job) -> None:
        """Counts a job that has just ended."""
        self.ended.labels(word(job.state)).inc()
        begin = job.create_time if job.start_time is None else job.start_time
        state = "pending" if job.start_time is None else "running"
        self.seconds.labels(state).observe(max(0.0, (job.end_time or begin) - begin))


class CountedStore(Store):
    """The store, which counts what changes."""

    def __init__(self, path: Path, changes: Changes, metrics: TrainMetrics) -> None:
        super().__init__(path, changes)
        self._metrics = metrics
        rows = self._database.read("SELECT id, counted_time FROM jobs WHERE state = ?", int(State.STATE_RUNNING))
        # When each running job told something last; read by the thread of the metrics' page, too.
        self._told: dict[str, float] = {row["id"]: row["counted_time"] for row in rows}
        metrics.silent.set_function(self._silent_seconds)
        self.count_states()

    def count_states(self) -> int:
        """Counts the jobs by state; gives how many have not ended."""
        rows = self._database.read("SELECT state, count(*) AS jobs FROM jobs GROUP BY state")
        counts = [(int(row["state"]), int(row["jobs"])) for row in rows]
        self._metrics.count_states(counts)
        return sum(count for state, count in counts if state not in ENDED)

    async def create(
        self, job_id: str, config: train_pb2.TrainConfig, options: dict[str, Any], request_id: str = ""
    ) -> Job:
        """As the store's."""
        job = await super().create(job_id, config, options, request_id)
        self.count_states()
        return job

    async def started(self, job_id: str, device: str) -> Job:
        """As the store's."""
        job = await super().started(job_id, device)
        self._told[job_id] = time.time()
        self.count_states()
        self._metrics.seconds.labels("pending").observe(max(0.0, (job.start_time or 0.0) - job.create_time))
        return job

    async def attempt(self, job_id: str, device: str, sentence: str) -> Job:
        """As the store's."""
        job = await super().attempt(job_id, device, sentence)
        self._told[job_id] = time.time()
        self._metrics.restarts.inc()
        return job

    async def append(self, job_id: str, events: Sequence[Event], offset: int) -> Job:
        """As the store's."""
        job = await super().append(job_id, events, offset)
        self._told[job_id] = time.time()
        return job

    async def succeeded(
        self,
        job_id: str,
        result: str,
        evaluation: Evaluation | None = None,
        publication: train_pb2.Publication | None = None,
    ) -> Job:
        """As the store's."""
        return self._ended(await super().succeeded(job_id, result, evaluation, publication))

    async def failed(self, job_id: str, error: status_pb2.Status) -> Job:
        """As the store's."""
        return self._ended(await super().failed(job_id, error))

    async def cancelled(self, job_id: str) -> Job:
        """As the store's."""
        return self._ended(await super().cancelled(job_id))

    async def cancel_asked(self, job_id: str) -> Job:
        """As the store's; a pending job has then ended."""
        before = await self.get(job_id)
        job = await super().cancel_asked(job_id)
        return self._ended(job) if job.ended and not before.ended else job

    async def delete(self, job_id: str) -> None:
        """As the store's."""
        await super().delete(job_id)
        self.count_states()

    def _silent_seconds(self) -> float:
        return max((time.time() - told for told in list(self._told.values())), default=0.0)

    def _ended(self, job: Job) -> Job:
        self._told.pop(job.id, None)
        self.count_states()
        self._metrics.count_end(job)
        return job


def word(state: int) -> str:
    """A state as a label has it, e.g. `succeeded`."""
    return State.State.Name(train_pb2.TrainJob.State.ValueType(state)).removeprefix("STATE_").lower()
