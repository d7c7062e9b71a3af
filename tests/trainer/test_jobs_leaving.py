"""Callers that leave amid a change of a job, and folders that are another job's: each change is done as a whole."""

import asyncio
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from trapline.train_errors import TrainCapacity, TrainJobNotFound
from trapline.v1 import train_pb2

#: `tests` has no packages to import from.
kit = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("jobs_at_work.py"))))
root, service = kit.root, kit.service
State = train_pb2.TrainJob


def paused_after(monkeypatch, store, name):
    """Makes a change of the store wait, once it is kept; gives the flags that it waits, and that it goes on."""
    original, reached, goes_on = getattr(store, name), asyncio.Event(), asyncio.Event()

    async def change(*arguments):
        value = await original(*arguments)
        reached.set()
        await goes_on.wait()
        return value

    monkeypatch.setattr(store, name, change)
    return reached, goes_on


async def left(call, reached, goes_on):
    """Asks for a change and leaves it when it is kept, before it is done."""
    asking = asyncio.create_task(call)
    await asyncio.wait_for(reached.wait(), 10)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    goes_on.set()


async def test_a_delete_whose_caller_leaves_is_done(root, monkeypatch):
    """The folder goes with the row, so that the next job of that id is not taken for the one before."""
    async with service(root) as running:
        await running.create("a")
        await running.ended("a")
        await left(running.runner.delete("a"), *paused_after(monkeypatch, running.store, "delete"))
        assert not (root / "a").exists()
        async with asyncio.timeout(20):
            while [path for path in root.iterdir() if path.is_dir()]:  # noqa: ASYNC110  # the thread that removes has no event
                await asyncio.sleep(0.01)
        await running.create("a", steps=5)
        assert (await running.ended("a")).result == "5 steps"


async def test_a_cancel_whose_caller_leaves_is_done(root, monkeypatch):
    """What is kept as cancelled is ended."""
    async with service(root) as running:
        await running.create("a", plan=["hang:1"])
        await running.said("a", "hang")
        await left(running.runner.cancel("a"), *paused_after(monkeypatch, running.store, "cancel_asked"))
        assert (await running.ended("a")).state == State.STATE_CANCELLED


async def test_a_stop_waits_for_what_was_begun(root, monkeypatch):
    """The store is not closed amid a delete whose caller has left."""
    async with service(root) as running:
        await running.create("a")
        await running.ended("a")
        reached, goes_on = paused_after(monkeypatch, running.store, "delete")
        await left(running.runner.delete("a"), reached, asyncio.Event())
        stopping = asyncio.create_task(running.runner.stop(0))
        _, waiting = await asyncio.wait({stopping}, timeout=0.2)
        assert waiting == {stopping}
        goes_on.set()
        await asyncio.wait_for(stopping, 10)


async def test_a_delete_leaves_other_deletes_folders(root, monkeypatch):
    """One that is refused is put back whole, though another one has cleared up meanwhile."""
    async with service(root) as running:
        for job_id in "ab":
            await running.create(job_id)
            await running.ended(job_id)
        original, goes_on = running.store.delete, asyncio.Event()

        async def delete(job_id):
            if job_id == "a":
                await goes_on.wait()
                raise TrainCapacity("the disk is full", limit="disk")
            await original(job_id)

        monkeypatch.setattr(running.store, "delete", delete)
        refused, done = (asyncio.create_task(running.runner.delete(job_id)) for job_id in "ab")
        await asyncio.wait({done}, timeout=0.5)
        goes_on.set()
        with pytest.raises(TrainCapacity):
            await refused
        await done
        assert (root / "a" / "events.jsonl").exists()
        assert [path.name for path in root.iterdir() if "deleted" in path.name] == []


async def test_two_deletes_of_one_job_agree(root):
    """One is done and the other finds nothing; no folder is left."""
    async with service(root) as running:
        await running.create("a")
        await running.ended("a")
        answers = await asyncio.gather(*(running.runner.delete("a") for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers if answer is not None] == [TrainJobNotFound] * 2
        assert [path.name for path in root.iterdir() if path.is_dir()] == []


async def test_a_pending_jobs_id_may_have_a_folder(root):
    """As in a backup, whose folders are copied after the file: the run in it is not this job's."""
    (root / "a").mkdir()
    (root / "a" / "events.jsonl").write_text('{"time": 1, "succeeded": {"result": "of another job"}}\n')
    (root / "a" / "step").write_text("3")
    async with service(root) as running:
        await running.create("a")
        assert (await running.ended("a")).result == "3 steps"
        assert await running.sentences("a") == kit.steps(3)
        assert [path.name for path in root.iterdir() if "deleted" in path.name] == []
