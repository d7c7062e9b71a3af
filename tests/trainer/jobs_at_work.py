"""A runner at work in the test's own process, for the tests of jobs; its root is left without any process."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from trainer.jobs import process
from trainer.jobs.changes import Changes
from trainer.jobs.devices import devices
from trainer.jobs.folders import STORE, locked_root
from trainer.jobs.runner import Runner
from trainer.jobs.setting import Setting
from trainer.jobs.store import Store
from trapline.v1 import train_pb2

HERE = Path(__file__).parent
FAKE = (sys.executable, str(HERE / "fake_child.py"))
DEADLINE_SECONDS = 40


def processes_below(root):
    """Living processes that were started on a folder of a root."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{root}/".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A runs root on which no process is left, whatever the test did."""
    folder, started, start = tmp_path / "runs", [], process.start
    folder.mkdir()

    def kept(*arguments):
        """The children of a service that is gone, as if killed, are still this process's own, to be reaped."""
        started.append(start(*arguments))
        return started[-1]

    monkeypatch.setattr(process, "start", kept)
    yield folder
    left = processes_below(folder)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    for child in started:
        child.wait(DEADLINE_SECONDS)
    assert not left


class Service:
    """A runner at work, and its store."""

    def __init__(self, root, store, changes, runner):
        self.root, self.store, self.changes, self.runner = root, store, changes, runner

    async def create(self, job_id, **options):
        """Queues a job whose child does as `options` say."""
        job = await self.store.create(job_id, train_pb2.TrainConfig(dataset="x"), options)
        self.runner.wake()
        return job

    async def until(self, job_id, reached):
        """The job, once `reached` is true of it."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            with self.changes.watching(job_id) as woken:
                while True:
                    woken.clear()
                    job = await self.store.get(job_id)
                    if reached(job):
                        return job
                    await woken.wait()

    async def ended(self, job_id):
        """The job, once it has ended."""
        return await self.until(job_id, lambda job: job.ended)

    async def said(self, job_id, sentence):
        """Waits until the job's child has said a sentence."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            with self.changes.watching(job_id) as woken:
                while True:
                    woken.clear()
                    if sentence in await self.sentences(job_id):
                        return
                    await woken.wait()

    async def sentences(self, job_id):
        """What the job was told in words; its events have no gap."""
        events = await self.store.events(job_id, 0, 10_000)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        return [event.sentence for event in events if event.HasField("sentence")]

    def attempts(self, job_id):
        """Process, GPU and processors of each attempt."""
        lines = (self.root / job_id / "attempts").read_text().splitlines()
        return [line.split(" ", 2) for line in lines]


@asynccontextmanager
async def service(root, *, places=None, killed=False, **setting):
    """A runner in this process. `killed`: it ends as by kill -9, without a word to its children."""
    setting = {"program": FAKE, "poll_seconds": 0.02, "restart_seconds": 0.0, **setting}
    with locked_root(root):
        changes = Changes()
        store = Store(root / STORE, changes)
        runner = Runner(store, devices=places or devices(1, ()), setting=Setting(runs_root=root, **setting))
        await runner.start()
        yield Service(root, store, changes, runner)
        if killed:
            for task in [runner._filling, *runner._tasks]:
                task.cancel()
            await asyncio.gather(runner._filling, *runner._tasks, return_exceptions=True)
        else:
            await runner.stop(10)
        await store.close()


def steps(count):
    return [f"step {number}" for number in range(count)]


def undoubled(sentences):
    """The steps that were told; a step that was told and not kept is done again, and nothing else is told twice."""
    return list(dict.fromkeys(sentence for sentence in sentences if sentence.startswith("step")))
