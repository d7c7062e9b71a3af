"""What changes of jobs are made of: steps inside one transaction."""

import json
import sqlite3
import time
from collections.abc import Collection, Sequence
from typing import Any

from trapline.train_errors import TrainCapacity, TrainJobExists, TrainJobNotFound, TrainJobWrongState
from trapline.v1 import train_pb2

from .job import Event, Job, State, message, name, timestamp
from .tables import SELECT_JOB, job_of

#: How long who was refused for want of room should wait, in seconds.
RETRY_SECONDS = 60.0
#: Counts the jobs in a state.
COUNT = "SELECT count(*) FROM jobs WHERE state = ?"


def not_found(job_id: str) -> TrainJobNotFound:
    """The refusal for a job that is not there."""
    return TrainJobNotFound(f"there is no {name(job_id)}; ListTrainJobs lists those there are", trainJob=name(job_id))


def exists(job_id: str) -> TrainJobExists:
    """The refusal of an id that a job has."""
    return TrainJobExists(
        f"{name(job_id)} is there already; choose another id, or leave it out to be given one", trainJob=name(job_id)
    )


def queue_full(max_pending: int) -> TrainCapacity:
    """The refusal of a job where as many wait as may."""
    return TrainCapacity(
        f"{max_pending} jobs wait already, the most that this service takes; come back later",
        retry_seconds=RETRY_SECONDS,
        limit="max_pending",
    )


def find_job(connection: sqlite3.Connection, job_id: str) -> Job | None:
    """The job, as the transaction sees it; None where there is none."""
    row = connection.execute(f"{SELECT_JOB} WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else job_of(row)


def read_job(connection: sqlite3.Connection, job_id: str) -> Job:
    """The job, as the transaction sees it."""
    job = find_job(connection, job_id)
    if job is None:
        raise not_found(job_id)
    return job


def in_state(connection: sqlite3.Connection, job_id: str, allowed: Collection[int]) -> Job:
    """The job, where it is in one of the states that are allowed."""
    job = read_job(connection, job_id)
    if job.state not in allowed:
        state = State.State.Name(job.state).removeprefix("STATE_").lower()
        raise TrainJobWrongState(
            f"{name(job_id)} is {state}, and this needs another state", trainJob=name(job_id), state=state
        )
    return job


def update(connection: sqlite3.Connection, job_id: str, **columns: object) -> Job:
    """Sets columns; gives the job as it then is."""
    assignments = ", ".join(f"{column} = ?" for column in columns)
    connection.execute(f"UPDATE jobs SET {assignments} WHERE id = ?", (*columns.values(), job_id))  # noqa: S608  # names of columns
    return read_job(connection, job_id)


def created(
    connection: sqlite3.Connection,
    job_id: str,
    config: train_pb2.TrainConfig,
    options: dict[str, Any],
    *,
    request_id: str,
    max_pending: float,
) -> Job:
    """A new pending job, or the one that the same request made before."""
    earlier = connection.execute(f"{SELECT_JOB} WHERE request_id = ?", (request_id or None,)).fetchone()
    if earlier is not None:
        return same(earlier, config)
    if connection.execute(COUNT, (int(State.STATE_PENDING),)).fetchone()[0] >= max_pending:
        raise queue_full(int(max_pending))
    written = config.SerializeToString(), json.dumps(options)
    try:
        connection.execute(
            "INSERT INTO jobs (state, create_time, id, request_id, config, options) VALUES (?, ?, ?, ?, ?, ?)",
            (int(State.STATE_PENDING), time.time(), job_id, request_id or None, *written),
        )
    except sqlite3.IntegrityError as error:
        raise exists(job_id) from error
    return read_job(connection, job_id)


def append(connection: sqlite3.Connection, job: Job, events: Sequence[Event]) -> None:
    """Adds events with the next sequences."""
    _insert(connection, job.key, job.last_sequence, events)
    update(connection, job.id, last_sequence=job.last_sequence + len(events))


def tell(connection: sqlite3.Connection, job_id: str, **columns: object) -> Job:
    """Changes columns, and adds the event that shows the whole job as it then is."""
    before = read_job(connection, job_id)
    job = update(connection, job_id, last_sequence=before.last_sequence + 1, **columns)
    event = Event(event_time=timestamp(time.time()), train_job=message(job))
    _insert(connection, job.key, before.last_sequence, [event])
    return job


def _insert(connection: sqlite3.Connection, key: int, last_sequence: int, events: Sequence[Event]) -> None:
    rows = []
    for sequence, event in enumerate(events, start=last_sequence + 1):
        event.sequence = sequence
        rows.append((key, sequence, event.SerializeToString()))
    connection.executemany("INSERT INTO events (job, sequence, message) VALUES (?, ?, ?)", rows)


def took(
    connection: sqlite3.Connection, job_id: str, events: Sequence[Event], offset: int, seconds: float | None
) -> Job:
    """Adds what the running job's child told up to `offset` of its file, and counts what that says of the job."""
    job = in_state(connection, job_id, {State.STATE_RUNNING})
    append(connection, job, events)
    counted_time = time.time()
    if seconds is None:
        # Not up to now: where a service was away, the child may have ended long ago.
        told_time = events[-1].event_time.ToMicroseconds() / 1e6 if events else 0.0
        counted_time = max(job.counted_time, min(told_time, counted_time))
        seconds = counted_time - job.counted_time
    run_seconds = job.run_seconds + seconds
    changed: dict[str, Any] = {"offset": offset, "run_seconds": run_seconds, "counted_time": counted_time}
    told = [event.progress for event in events if event.HasField("progress")]
    if told:
        (reached,) = connection.execute("SELECT reached FROM jobs WHERE id = ?", (job_id,)).fetchone()
        furthest: dict[str, int] = json.loads(reached)
        further = dict(furthest)
        for progress in told:
            further[progress.phase] = max(progress.done, further.get(progress.phase, -1))
        if further != furthest:
            changed |= {"reached": json.dumps(further), "attempts_in_vain": 0}
        changed |= {"progress": told[-1].SerializeToString()}
    return update(connection, job_id, **changed)


def same(row: sqlite3.Row, config: train_pb2.TrainConfig) -> Job:
    """The job that a request made before, where it asked for the same."""
    job = job_of(row)
    if job.config != config:
        raise TrainJobExists(
            f"the same request_id has made {name(job.id)}, of another config; choose a new one", trainJob=name(job.id)
        )
    return job
