"""What changes of jobs are made of: steps inside one transaction."""

import json
import sqlite3
import time
from collections.abc import Collection, Sequence
from typing import Any

from trapline.train_errors import TrainJobNotFound, TrainJobWrongState

from .job import Event, Job, State, message, name, timestamp
from .tables import SELECT_JOB, job_of


def not_found(job_id: str) -> TrainJobNotFound:
    """The refusal for a job that is not there."""
    return TrainJobNotFound(f"there is no {name(job_id)}; ListTrainJobs lists those there are", trainJob=name(job_id))


def read_job(connection: sqlite3.Connection, job_id: str) -> Job:
    """The job, as the transaction sees it."""
    row = connection.execute(f"{SELECT_JOB} WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise not_found(job_id)
    return job_of(row)


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


def append(connection: sqlite3.Connection, job: Job, events: Sequence[Event]) -> None:
    """Adds events with the next sequences."""
    rows = []
    for sequence, event in enumerate(events, start=job.last_sequence + 1):
        event.sequence = sequence
        rows.append((job.key, sequence, event.SerializeToString()))
    connection.executemany("INSERT INTO events (job, sequence, message) VALUES (?, ?, ?)", rows)
    update(connection, job.id, last_sequence=job.last_sequence + len(rows))


def tell(connection: sqlite3.Connection, job_id: str, **columns: object) -> Job:
    """Changes columns, and adds the event that shows the whole job as it then is."""
    before = read_job(connection, job_id)
    job = update(connection, job_id, last_sequence=before.last_sequence + 1, **columns)
    event = Event(sequence=job.last_sequence, event_time=timestamp(time.time()), train_job=message(job))
    connection.execute(
        "INSERT INTO events (job, sequence, message) VALUES (?, ?, ?)",
        (job.key, job.last_sequence, event.SerializeToString()),
    )
    return job


def took(connection: sqlite3.Connection, job_id: str, events: Sequence[Event], offset: int) -> Job:
    """Adds what the running job's child told up to `offset` of its file, and counts what that says of the job."""
    job = in_state(connection, job_id, {State.STATE_RUNNING})
    append(connection, job, events)
    now = time.time()
    run_seconds = job.run_seconds + max(0.0, now - job.counted_time)
    changed: dict[str, Any] = {"offset": offset, "run_seconds": run_seconds, "counted_time": now}
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
