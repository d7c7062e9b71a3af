"""Following a job: its events out of the store, from wherever a watcher is."""

import asyncio
from collections.abc import AsyncGenerator

from trapline.service.gate import Gate, shutting_down
from trapline.v1 import train_pb2

from .changes import Changes
from .job import message
from .requests import invalid
from .store import Store

#: Events that a watcher has in memory at most.
PAGE = 64


async def watch(
    job_id: str, after_sequence: int, *, store: Store, changes: Changes, gate: Gate
) -> AsyncGenerator[train_pb2.WatchTrainJobResponse, None]:
    """The job as it stands, then its events after one, up to the one that tells its end.

    Between two answers nothing is kept but a number, so it does not matter how slowly they are taken.

    Raises:
        TrainJobNotFound: There is no such job, or no more, also where another has its id by now.
        RequestInvalid: The job has no event of that sequence.
        ShuttingDown: The service drains; the same call to the next one goes on.
    """
    with changes.watching(job_id) as woken:
        job = await store.get(job_id)
        if not 0 <= after_sequence <= job.last_sequence:
            invalid("after_sequence", f"must be 0 to {job.last_sequence}, the job's last one, not {after_sequence}")
        yield train_pb2.WatchTrainJobResponse(sequence=after_sequence, train_job=message(job))
        while True:
            woken.clear()
            events = await store.events(job_id, after_sequence, PAGE, job.key)
            for event in events:
                if gate.winding_down.is_set():
                    raise shutting_down()
                yield event
                after_sequence = event.sequence
            if events:
                continue
            job = await store.get(job_id, job.key)
            if job.ended and after_sequence == job.last_sequence:
                return
            await _either(woken, gate.winding_down)
            if gate.winding_down.is_set():
                raise shutting_down()


async def _either(*events: asyncio.Event) -> None:
    """Waits until one of `events` is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
