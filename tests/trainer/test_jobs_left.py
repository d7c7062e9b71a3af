"""Processes that cannot be found, or not be ended: their own job waits for them, and nothing else does."""

import asyncio
import errno
import fcntl
import json
import os
import runpy
import select
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer.jobs import process
from trainer.jobs.devices import devices
from trainer.jobs.folders import ORDER
from trainer.jobs.setting import Setting
from trapline.v1 import train_pb2

#: `tests` has no packages to import from.
kit = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("jobs_at_work.py"))))
root, service, processes_below = kit.root, kit.service, kit.processes_below
State = train_pb2.TrainJob
TWO = devices(2, (), range(2))


async def test_a_child_that_cannot_be_found_holds_up_neither_start_nor_stop(root, monkeypatch):
    """As where its service was in another user namespace: others' jobs run, and its own goes on when it has ended."""
    async with service(root, places=TWO, killed=True) as running:
        await running.create("a", plan=["hang:1"])
        await running.said("a", "hang")
    (child,) = processes_below(root)
    monkeypatch.setattr(process, "holders", lambda _lock: [])
    monkeypatch.setattr("trainer.jobs.follower._LEAVING_SECONDS", 0.1)
    async with asyncio.timeout(20), service(root, places=TWO) as running:
        await running.create("b")
        assert (await running.ended("b")).state == State.STATE_SUCCEEDED
        job = await running.store.get("a")
        assert (job.state, job.attempt_count) == (State.STATE_RUNNING, 1)
        await running.runner.stop(0.1)
    assert processes_below(root) == [child]
    async with service(root, places=TWO) as running:
        os.kill(child, signal.SIGKILL)
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 2)


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_child_that_cannot_be_ended_does_not_hold_up_a_stop(root, monkeypatch, adopted):
    """Whether this service has started it or found it; it is left to the next one."""
    monkeypatch.setattr("trainer.jobs.follower._LEAVING_SECONDS", 0.1)

    async def stopped(running):
        monkeypatch.setattr(process.Child, "kill", lambda _child: None)
        monkeypatch.setattr(process, "holders", lambda _lock: [])
        async with asyncio.timeout(20):
            await running.runner.stop(0.1)

    async with service(root, killed=adopted) as running:
        await running.create("a", plan=["deaf:1"])
        await running.said("a", "deaf")
        if not adopted:
            await stopped(running)
    if adopted:
        async with service(root) as running:
            await stopped(running)
    (child,) = processes_below(root)
    ended = os.pidfd_open(child)
    os.kill(child, signal.SIGKILL)
    assert select.select([ended], [], [], 20)[0]
    os.close(ended)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC])
async def test_a_start_that_finds_no_room_is_no_attempt(root, monkeypatch, number):
    """However often the machine has too few descriptors, processes or bytes left: the job waits, as for a full disk."""
    start, refusals = process.start, [OSError(number, os.strerror(number))] * 7

    def refused(*arguments):
        if refusals:
            raise refusals.pop()
        return start(*arguments)

    monkeypatch.setattr(process, "start", refused)
    monkeypatch.setattr("trainer.jobs.follower._ROOM_SECONDS", 0.01)
    async with service(root) as running:
        await running.create("a", plan=["die:1"])
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 2)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.EDQUOT])
async def test_an_order_that_finds_no_room_is_no_attempt(root, monkeypatch, number):
    """What the child is told is a file; where it cannot be written for want of room, the job waits as well."""
    write, refusals = Path.write_text, [OSError(number, os.strerror(number))] * 7

    def refused(path, *arguments, **options):
        if path.name.startswith(f".{ORDER}") and refusals:
            raise refusals.pop()
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", refused)
    monkeypatch.setattr("trainer.jobs.follower._ROOM_SECONDS", 0.01)
    async with service(root) as running:
        await running.create("a", plan=["die:1"])
        job = await running.ended("a")
        assert (job.state, job.attempt_count, refusals) == (State.STATE_SUCCEEDED, 2, [])


async def test_a_process_that_ended_waits_for_the_disk(root, monkeypatch):
    """Below the least room it is not started again; the last of its attempts is told that it is."""
    asked = []

    def short_of_disk(_setting):
        asked.extend([None] * (root / "a" / "step").exists())  # step 0 is done: the process has ended
        return 0 < len(asked) < 5

    monkeypatch.setattr(Setting, "short_of_disk", short_of_disk)
    monkeypatch.setattr("trainer.jobs.follower._ROOM_SECONDS", 0.01)
    async with service(root, attempts=2) as running:
        await running.create("a", plan=["exit:1", "hang:1"])
        await running.said("a", "hang")
        assert len(asked) == 5
        assert not json.loads((root / "a" / ORDER).read_text())["last_attempt"]
        os.kill(int(running.attempts("a")[1][0]), signal.SIGKILL)
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 3)
        assert json.loads((root / "a" / ORDER).read_text())["last_attempt"]


async def test_a_wait_for_room_is_no_time_at_work(root, monkeypatch):
    """The most that a job may be at work for counts from when its process starts."""
    start, until = process.start, time.monotonic() + 5

    def refused(*arguments):
        if time.monotonic() < until:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return start(*arguments)

    monkeypatch.setattr(process, "start", refused)
    monkeypatch.setattr("trainer.jobs.follower._ROOM_SECONDS", 0.01)
    async with service(root, max_seconds=4.0) as running:
        await running.create("a")
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 1)
        assert job.run_seconds < 4


def test_a_lock_is_tried_as_nfs_wants_it(tmp_path, monkeypatch):
    """There an exclusive lock needs a descriptor that is open for writing."""
    flock = fcntl.flock

    def of_nfs(file, operation):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    lock = tmp_path / "process.lock"
    lock.touch()
    assert not process.held(lock)
    with lock.open("a") as other:
        of_nfs(other, fcntl.LOCK_EX)
        assert process.held(lock)


async def test_a_stop_takes_back_no_start_but_its_own(root):
    """Where the service stops between two starts, the first one was in vain as before."""
    async with service(root, restart_seconds=600.0) as running:
        await running.create("a", plan=["die:0"])
        await running.until("a", lambda job: job.attempt_count == 1)
        async with asyncio.timeout(20):
            while not any(follower._how for follower in running.runner._followers.values()):  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.01)
        await running.runner.stop(1)
        assert (await running.store.get("a")).attempts_in_vain == 1


async def test_a_stop_takes_back_a_start_that_found_no_room(root, monkeypatch):
    """It never came about."""

    def refused(*_arguments):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(process, "start", refused)
    async with service(root) as running:
        await running.create("a")
        await running.until("a", lambda job: job.attempts_in_vain == 1)
        await running.runner.stop(1)
        assert (await running.store.get("a")).attempts_in_vain == 0
