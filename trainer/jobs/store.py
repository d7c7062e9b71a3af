"""Jobs and their events in one SQLite file. Every change of a job is one transaction with the event that tells it."""

import math
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from google.rpc import status_pb2

from trapline.v1 import train_pb2
from trapline.v1.metadata_pb2 import Evaluation

from .changes import Changes
from .changing import COUNT, append, created, find_job, in_state, not_found, same, tell, took, update
from .database import Database
from .job import ENDED, Event, Job, State, timestamp
from .tables import SELECT_JOB, job_of, migrate

Value = TypeVar("Value")
#: Takes a job before and after a change; None where there was none, or is none any more.
Counted = Callable[[Job | None, Job | None], object]

_PENDING, _RUNNING = State.STATE_PENDING, State.STATE_RUNNING
_ENDED = f"state IN ({', '.join(str(int(state)) for state in sorted(ENDED))})"


class Store:
    """The jobs. Reads answer at once; who awaits a change has it on the disk, and its watchers are woken."""

    def __init__(self, path: Path, changes: Changes, counted: Counted = lambda _before, _after: None) -> None:
        """Opens the file, which is made where it is missing.

        Args:
            path: The file.
            changes: Wakes who waits for a job to change.
            counted: Called on the event loop with a job before and after each change that is kept.

        Raises:
            UsageError: It is of a newer version.
            TrainerError: It cannot be read or written.
        """
        self._database = Database(path, migrate)
        self._changes, self._counted = changes, counted

    async def close(self) -> None:
        """Closes the file after the changes that were asked for."""
        await self._database.close()

    async def create(
        self,
        job_id: str,
        config: train_pb2.TrainConfig,
        options: dict[str, Any],
        request_id: str = "",
        max_pending: float = math.inf,
    ) -> Job:
        """A new pending job, or the one that the same request made before.

        Raises:
            TrainJobExists: Another job has the id, or the request id was used with another config.
            TrainCapacity: So many wait already as `max_pending` says.
        """
        return await self._write(
            job_id,
            lambda connection: created(
                connection, job_id, config, options, request_id=request_id, max_pending=max_pending
            ),
        )

    async def get(self, job_id: str, key: int | None = None) -> Job:
        """The job; with a key only that one, and no other that has the id since.

        Raises:
            TrainJobNotFound: There is none of that id, or it is another.
        """
        rows = self._database.read(f"{SELECT_JOB} WHERE id = ?", job_id)
        if not rows or key not in (None, rows[0]["key"]):
            raise not_found(job_id)
        return job_of(rows[0])

    async def made_by(self, request_id: str, config: train_pb2.TrainConfig) -> Job | None:
        """The job that a request made; None where it made none.

        Raises:
            TrainJobExists: It made one of another config.
        """
        rows = self._database.read(f"{SELECT_JOB} WHERE request_id = ?", request_id)
        return same(rows[0], config) if rows else None

    async def page(self, states: Collection[int], before: int | None, size: int) -> list[Job]:
        """At most `size` jobs in one of `states` (all where empty), newest first, of keys lower than `before`."""
        condition, values = "1", []
        if states:
            condition += f" AND state IN ({', '.join('?' * len(states))})"
            values += [int(state) for state in states]
        if before is not None:
            condition += " AND key < ?"
            values += [before]
        rows = self._database.read(f"{SELECT_JOB} WHERE {condition} ORDER BY key DESC LIMIT ?", *values, size)
        return [job_of(row) for row in rows]

    def counts(self) -> dict[int, int]:
        """How many jobs there are in each state that has any."""
        return dict(map(tuple, self._database.read("SELECT state, count(*) FROM jobs GROUP BY state")))

    async def pending_count(self) -> int:
        """How many jobs wait for their turn."""
        return int(self._database.read(COUNT, int(_PENDING))[0][0])

    async def next_pending(self) -> Job | None:
        """The job whose turn it is."""
        rows = self._database.read(f"{SELECT_JOB} WHERE state = ? ORDER BY key LIMIT 1", int(_PENDING))
        return job_of(rows[0]) if rows else None

    def running(self) -> list[Job]:
        """The jobs that run, oldest first."""
        rows = self._database.read(f"{SELECT_JOB} WHERE state = ? ORDER BY key", int(_RUNNING))
        return [job_of(row) for row in rows]

    async def events(self, job_id: str, after_sequence: int, limit: int, key: int | None = None) -> list[Event]:
        """At most `limit` events after one, oldest first; of the job that `get` gives.

        Raises:
            TrainJobNotFound: There is no such job.
        """
        key = (await self.get(job_id, key)).key
        rows = self._database.read(
            "SELECT message FROM events WHERE job = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            *(key, after_sequence, limit),
        )
        return [Event.FromString(row["message"]) for row in rows]

    async def ended_before(self, seconds: float) -> list[str]:
        """Ids of the jobs that ended before a time, oldest first."""
        rows = self._database.read(f"SELECT id FROM jobs WHERE {_ENDED} AND end_time < ? ORDER BY end_time", seconds)  # noqa: S608  # constants
        return [row["id"] for row in rows]

    async def ended_beyond(self, count: int) -> list[str]:
        """Ids of the jobs that ended, but for the `count` that ended last."""
        rows = self._database.read(
            f"SELECT id FROM jobs WHERE {_ENDED} ORDER BY end_time DESC, key DESC LIMIT -1 OFFSET ?",  # noqa: S608  # constants
            count,
        )
        return [row["id"] for row in rows]

    async def started(self, job_id: str, device: str) -> Job:
        """The pending job runs, as its first attempt, on a device.

        Raises:
            TrainJobWrongState: It is not pending.
        """
        now = time.time()
        return await self._changed(
            job_id,
            {_PENDING},
            {"state": _RUNNING, "start_time": now, "attempt_count": 1, "attempts_in_vain": 1, "counted_time": now}
            | {"device": device},
        )

    async def attempt(self, job_id: str, device: str, sentence: str) -> Job:
        """The running job's process is started once more; the sentence, an event, says why."""

        def work(connection: sqlite3.Connection) -> Job:
            job = in_state(connection, job_id, {_RUNNING})
            append(connection, job, [Event(event_time=timestamp(time.time()), sentence=sentence)])
            return update(
                connection,
                job_id,
                attempt_count=job.attempt_count + 1,
                attempts_in_vain=job.attempts_in_vain + 1,
                counted_time=time.time(),
                device=device,
            )

        return await self._write(job_id, work)

    async def released(self, job_id: str) -> Job:
        """The service ended the running job's process, to go on later: not started in vain, and without a device."""

        def work(connection: sqlite3.Connection) -> Job:
            job = in_state(connection, job_id, {_RUNNING})
            return update(connection, job_id, attempts_in_vain=max(0, job.attempts_in_vain - 1), device="")

        return await self._write(job_id, work)

    async def still_to_start(self, job_id: str) -> Job:
        """The running job's process is about to start, for which it had to wait: that was no time at work."""

        def work(connection: sqlite3.Connection) -> Job:
            in_state(connection, job_id, {_RUNNING})
            return update(connection, job_id, counted_time=time.time())

        return await self._write(job_id, work)

    async def append(self, job_id: str, events: Sequence[Event], offset: int, seconds: float | None = None) -> Job:
        """Adds events of the running job's child; gives them their sequence.

        Args:
            job_id: The job.
            events: The events.
            offset: Where they end in the child's file.
            seconds: How long the child was at work since that was last counted; where absent, up to the last event.

        Raises:
            TrainJobWrongState: The job does not run.
        """
        return await self._write(job_id, lambda connection: took(connection, job_id, events, offset, seconds))

    async def succeeded(
        self,
        job_id: str,
        result: str,
        evaluation: Evaluation | None = None,
        publication: train_pb2.Publication | None = None,
    ) -> Job:
        """The running job is done."""
        return await self._end(
            job_id,
            {_RUNNING},
            {
                "state": State.STATE_SUCCEEDED,
                "result": result,
                "evaluation": evaluation and evaluation.SerializeToString(),
                "publication": publication and publication.SerializeToString(),
            },
        )

    async def failed(self, job_id: str, error: status_pb2.Status) -> Job:
        """The pending or running job ended by an error."""
        return await self._end(
            job_id, {_PENDING, _RUNNING}, {"state": State.STATE_FAILED, "error": error.SerializeToString()}
        )

    async def cancelled(self, job_id: str) -> Job:
        """The running job, which was asked to stop, has."""
        return await self._end(job_id, {_RUNNING}, {"state": State.STATE_CANCELLED})

    async def cancel_asked(self, job_id: str) -> Job:
        """Asks the job to stop: a pending one has at once. Where it was asked before, nothing changes.

        Raises:
            TrainJobWrongState: It has ended in another way.
        """

        def work(connection: sqlite3.Connection) -> Job:
            job = in_state(connection, job_id, {_PENDING, _RUNNING, State.STATE_CANCELLED})
            if job.cancel_time is not None:
                return job
            now = time.time()
            ended = {"state": State.STATE_CANCELLED, "end_time": now} if job.state == _PENDING else {}
            return tell(connection, job_id, cancel_time=now, **ended)

        return await self._write(job_id, work)

    async def delete(self, job_id: str) -> None:
        """Forgets a job and its events.

        Raises:
            TrainJobWrongState: It has not ended.
        """

        def work(connection: sqlite3.Connection) -> None:
            job = in_state(connection, job_id, ENDED)
            connection.execute("DELETE FROM jobs WHERE key = ?", (job.key,))

        await self._write(job_id, work)

    async def _end(self, job_id: str, allowed: Collection[int], changed: dict[str, Any]) -> Job:
        return await self._changed(job_id, allowed, {"end_time": time.time(), **changed})

    async def _changed(self, job_id: str, allowed: Collection[int], changed: dict[str, Any]) -> Job:
        def work(connection: sqlite3.Connection) -> Job:
            in_state(connection, job_id, allowed)
            return tell(connection, job_id, **changed)

        return await self._write(job_id, work)

    async def _write(self, job_id: str, work: Callable[[sqlite3.Connection], Value]) -> Value:
        def whole(connection: sqlite3.Connection) -> tuple[Job | None, Job | None, Value]:
            before = find_job(connection, job_id)
            value = work(connection)
            return before, find_job(connection, job_id), value

        def then(change: tuple[Job | None, Job | None, Value]) -> None:
            self._changes.tell(job_id)
            self._counted(*change[:2])

        return (await self._database.write(whole, then))[2]
