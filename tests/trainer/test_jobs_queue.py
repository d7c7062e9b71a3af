"""The queue where its reads fail, and where earlier jobs live on other places than it has now."""

import asyncio
import json
import os
import runpy
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer.errors import TrainerError
from trainer.jobs.devices import devices
from trapline.v1 import train_pb2

#: `tests` has no packages to import from.
kit = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("jobs_at_work.py"))))
root, service = kit.root, kit.service
State = train_pb2.TrainJob


def failing_once(monkeypatch, store, name, error):
    """Makes the store's next such call fail; gives what is empty once it has."""
    original, errors = getattr(store, name), [error]

    async def call(*arguments):
        if errors:
            raise errors.pop()
        return await original(*arguments)

    monkeypatch.setattr(store, name, call)
    return errors


@pytest.mark.parametrize("error", [TrainerError("cannot be read"), RuntimeError("a fault")], ids=["expected", "fault"])
@pytest.mark.parametrize("name", ["next_pending", "started", "get"])
async def test_a_call_that_fails_loses_no_pending_job(root, monkeypatch, name, error):
    """Whichever call it is of those that start a job: the queue goes on, and so does the job."""
    monkeypatch.setattr("trainer.jobs.runner._TICK_SECONDS", 0.05)
    async with service(root) as running:
        errors = failing_once(monkeypatch, running.store, name, error)
        await running.create("a")
        async with asyncio.timeout(20):
            while errors:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.01)
        assert (await running.ended("a")).state == State.STATE_SUCCEEDED


async def test_a_read_that_fails_loses_no_job_without_process(root, monkeypatch):
    """A job that ran, and whose turn it is to be started again, is tried again."""
    monkeypatch.setattr("trainer.jobs.runner._TICK_SECONDS", 0.05)
    async with service(root, killed=True) as running:
        await running.create("a", plan=["hang:1"])
        await running.said("a", "hang")
        os.kill(int(running.attempts("a")[0][0]), signal.SIGKILL)
    async with service(root, min_free_bytes=2**62) as running:
        errors = failing_once(monkeypatch, running.store, "get", TrainerError("cannot be read"))
        monkeypatch.setattr(type(running.runner._setting), "short_of_disk", lambda _setting: False)
        running.runner.wake()
        async with asyncio.timeout(20):
            while errors:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.01)
        assert (await running.ended("a")).state == State.STATE_SUCCEEDED


async def test_adopted_jobs_count_as_those_at_work(root):
    """After a restart with fewer places no job begins before there are fewer at work than places."""
    async with service(root, places=devices(2, (), range(2)), killed=True) as running:
        for job_id in "ab":
            await running.create(job_id, plan=["hang:1"])
            await running.said(job_id, "hang")
        await running.create("c", plan=["hang:1"])
    async with service(root, places=devices(1, ())) as running:
        await running.runner._fill()
        assert (await running.store.get("c")).state == State.STATE_PENDING
        await running.runner.cancel("a")
        await running.ended("a")
        await running.runner._fill()
        assert (await running.store.get("c")).state == State.STATE_PENDING
        await running.runner.cancel("b")
        await running.ended("b")
        await running.said("c", "hang")
        await running.runner.cancel("c")
        await running.ended("c")


@pytest.mark.parametrize("state", [State.STATE_SUCCEEDED, State.STATE_CANCELLED])
async def test_a_job_at_its_end_needs_no_place(root, state):
    """Its process ended while no service was there: the next one says so, though it has no room to start anything."""
    async with service(root, killed=True) as running:
        await running.create("a", plan=["hang:1"])
        await running.said("a", "hang")
        if state == State.STATE_CANCELLED:
            await running.store.cancel_asked("a")
        os.kill(int(running.attempts("a")[0][0]), signal.SIGKILL)
    if state == State.STATE_SUCCEEDED:
        with (root / "a" / "events.jsonl").open("a") as file:
            file.write('{"time": 1, "succeeded": {"result": "it is done"}}\n')
    async with service(root, min_free_bytes=2**62) as running:
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (state, 1)


async def test_a_night_without_power_is_not_run_time(root):
    """What was told before it is counted up to when it was told; the night is not, so the job does not fail by it."""
    async with service(root, killed=True) as running:
        await running.create("a", plan=["hang:1"])
        await running.said("a", "hang")
        os.kill(int(running.attempts("a")[0][0]), signal.SIGKILL)
        job = await running.store.get("a")
        evening = job.start_time - 10 * 3600
        with (root / "a" / "events.jsonl").open("a") as file:
            file.write(json.dumps({"time": evening + 60, "sentence": "the last before the cut"}) + "\n")
        running.store._database._writing.execute("UPDATE jobs SET counted_time = ?", (evening,))
    async with service(root, max_seconds=3600) as running:
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 2)
        assert 60 <= job.run_seconds < 120


async def test_a_sleep_of_the_machine_is_no_run_time(root, monkeypatch):
    """Nor is a step of its clock: where the child is watched neither is counted, and the job does not fail by it."""
    now = time.time
    async with service(root, max_seconds=3600) as running:
        await running.create("a", plan=["hang:1"])
        await running.said("a", "hang")
        monkeypatch.setattr(time, "time", lambda: now() + 10 * 3600)
        with (root / "a" / "events.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.time(), "sentence": "awake"}) + "\n")
        await running.said("a", "awake")
        os.kill(int(running.attempts("a")[0][0]), signal.SIGKILL)
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 2)
        assert 0 < job.run_seconds < 120


async def test_a_living_child_is_counted_while_no_service_was_there(root):
    """From what was counted last to when it is found, though it tells nothing."""
    async with service(root, killed=True) as running:
        await running.create("a", plan=["hang:1"])
        await running.said("a", "hang")
        running.store._database._writing.execute("UPDATE jobs SET counted_time = counted_time - 7200")
    async with service(root, max_seconds=3600) as running:
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_FAILED, 1)
