import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest
from google.rpc import status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.errors import TrainerError, UsageError
from trainer.jobs import tables
from trainer.jobs.changes import Changes
from trainer.jobs.job import ENDED, Event, message
from trainer.jobs.metrics import TrainMetrics
from trainer.jobs.store import Store
from trapline.train_errors import TrainCapacity, TrainJobExists, TrainJobNotFound, TrainJobWrongState
from trapline.v1 import train_pb2
from trapline.v1.metadata_pb2 import Evaluation

State = train_pb2.TrainJob
FLOWERS = train_pb2.TrainConfig(dataset="flowers", epochs=2)


@asynccontextmanager
async def opened(folder):
    store = Store(folder / "jobs.sqlite", Changes())
    try:
        yield store
    finally:
        await store.close()


def sentence(words):
    return Event(event_time={"seconds": 5}, sentence=words)


def progress(phase, done):
    return Event(event_time={"seconds": 5}, progress={"phase": phase, "done": done, "total": 100})


async def succeed(store, job_id):
    await store.started(job_id, "cpu 1 of 1")
    return await store.succeeded(job_id, "it is done")


async def test_a_job_lives_from_pending_to_done(tmp_path):
    """Each change is in the job, and in an event that shows the job as it then was, the same after opening again."""
    async with opened(tmp_path) as store:
        job = await store.create("a", FLOWERS, {"epochs": 2})
        assert (job.state, job.options, job.last_sequence) == (State.STATE_PENDING, {"epochs": 2}, 0)
        job = await store.started("a", "gpu 0")
        assert (job.state, job.attempt_count, job.device) == (State.STATE_RUNNING, 1, "gpu 0")
        await store.append("a", [sentence("12 photos"), progress("scan", 12)], 70)
        figures = Evaluation(accuracy=0.5, image_count=4)
        published = train_pb2.Publication(model_id="deer", version="3")
        done = await store.succeeded("a", "it is done", figures, published)
    async with opened(tmp_path) as store:
        assert await store.get("a") == done
        events = await store.events("a", 0, 10)
        assert [event.sequence for event in events] == [1, 2, 3, 4]
        assert [event.WhichOneof("event") for event in events] == ["train_job", "sentence", "progress", "train_job"]
        assert events[3].train_job == message(done)
        assert await store.events("a", 1, 2) == events[1:3]
    assert (done.evaluation, done.publication, done.progress.done, done.offset) == (figures, published, 12, 70)
    shown = message(done)
    assert (shown.name, shown.state, shown.last_sequence, shown.result) == ("trainJobs/a", 3, 4, "it is done")
    assert shown.start_time.ToMicroseconds() <= shown.end_time.ToMicroseconds()
    assert not shown.HasField("cancel_time")


async def test_a_request_makes_one_job(tmp_path):
    """A retry gets the first one's job, whatever id it asks for; another config, or another's id, is refused."""
    async with opened(tmp_path) as store:
        assert await store.made_by("r", FLOWERS) is None
        first = await store.create("a", FLOWERS, {}, "r")
        assert await store.create("b", FLOWERS, {}, "r") == first
        assert await store.made_by("r", FLOWERS) == first
        other = train_pb2.TrainConfig(dataset="flowers", epochs=0)
        for refused in (store.create("c", other, {}, "r"), store.made_by("r", other)):
            with pytest.raises(TrainJobExists, match="same request_id has made trainJobs/a"):
                await refused
        with pytest.raises(TrainJobExists, match="trainJobs/a is there already"):
            await store.create("a", FLOWERS, {})
        created = await asyncio.gather(*(store.create(f"d{number}", FLOWERS, {}, "s") for number in range(8)))
        assert len({job.id for job in created}) == 1
        assert [job.id for job in await store.page([], None, 10)] == [created[0].id, "a"]


async def test_pending_jobs_are_in_line(tmp_path):
    """The queue is the order of creation; what left it is not counted."""
    async with opened(tmp_path) as store:
        for job_id in "abcd":
            await store.create(job_id, FLOWERS, {})
        await store.cancel_asked("b")
        await store.started("a", "cpu")
        assert await store.pending_count() == 2
        assert (await store.next_pending()).id == "c"
        assert [(await store.get(job_id)).queue_position for job_id in "abcd"] == [0, 0, 0, 1]
        assert [job.id for job in store.running()] == ["a"]
        await store.cancel_asked("c")
        await store.cancel_asked("d")
        assert await store.next_pending() is None


async def test_asking_to_stop_again_changes_nothing(tmp_path):
    """A pending job is cancelled at once, a running one is asked; one that ended in another way refuses."""
    async with opened(tmp_path) as store:
        await store.create("a", FLOWERS, {})
        first = await store.cancel_asked("a")
        assert (first.state, first.last_sequence) == (State.STATE_CANCELLED, 1)
        assert first.end_time == first.cancel_time
        assert await store.cancel_asked("a") == first
        await store.create("b", FLOWERS, {})
        await store.started("b", "cpu")
        asked = await store.cancel_asked("b")
        assert (asked.state, asked.end_time) == (State.STATE_RUNNING, None)
        assert await store.cancel_asked("b") == asked
        assert (await store.cancelled("b")).last_sequence == 3
        await store.create("c", FLOWERS, {})
        await succeed(store, "c")
        with pytest.raises(TrainJobWrongState, match="trainJobs/c is succeeded") as refused:
            await store.cancel_asked("c")
        assert refused.value.metadata["state"] == "succeeded"


async def test_attempts_are_in_vain_until_one_comes_further(tmp_path):
    """Only progress beyond what any process reached counts; what the service ended itself was not in vain."""
    async with opened(tmp_path) as store:
        await store.create("a", FLOWERS, {})
        assert (await store.started("a", "cpu")).attempts_in_vain == 1
        assert (await store.append("a", [progress("scan", 5), progress("scan", 7)], 10)).attempts_in_vain == 0
        assert (await store.attempt("a", "cpu", "again")).attempts_in_vain == 1
        assert (await store.append("a", [progress("scan", 3), progress("scan", 7)], 20)).attempts_in_vain == 1
        assert (await store.attempt("a", "cpu", "again")).attempts_in_vain == 2
        assert (await store.released("a")).attempts_in_vain == 1
        assert (await store.append("a", [progress("head", 0)], 30)).attempts_in_vain == 0
        assert (await store.get("a")).attempt_count == 3


async def test_a_restart_is_counted_where_a_process_died(tmp_path):
    """And not where the service had ended it, or had never come to start it."""
    metrics = TrainMetrics()
    store = Store(tmp_path / "jobs.sqlite", Changes(), metrics.count)
    try:
        await store.create("a", FLOWERS, {})
        await store.started("a", "cpu")
        for died in (True, False, True, True):
            before = metrics.registry.get_sample_value("trapline_train_restarts_total")
            if not died:
                assert (await store.released("a")).device == ""
            assert (await store.attempt("a", "cpu", "again")).device == "cpu"
            assert metrics.registry.get_sample_value("trapline_train_restarts_total") == before + died
    finally:
        await store.close()


async def test_an_ended_job_is_deleted_with_its_events(tmp_path):
    """Its request id may be used again; a job that has not ended stays, and what is gone is not found."""
    async with opened(tmp_path) as store:
        await store.create("a", FLOWERS, {}, "r")
        with pytest.raises(TrainJobWrongState):
            await store.delete("a")
        await succeed(store, "a")
        await store.delete("a")
        for missing in (store.get("a"), store.events("a", 0, 1), store.delete("a"), store.started("a", "cpu")):
            with pytest.raises(TrainJobNotFound):
                await missing
        again = await store.create("a", FLOWERS, {}, "r")
        assert again.key == 2
        assert await store.events("a", 0, 10) == []


async def test_ended_jobs_are_found_by_age_and_count(tmp_path):
    """Those that ended first, and those beyond a count; jobs that have not ended are neither."""
    async with opened(tmp_path) as store:
        for job_id in "abc":
            await store.create(job_id, FLOWERS, {})
        for job_id in "ba":
            await succeed(store, job_id)
        assert await store.ended_before(time.time() + 1) == ["b", "a"]
        assert await store.ended_before((await store.get("b")).end_time) == []
        assert await store.ended_beyond(1) == ["b"]
        assert await store.ended_beyond(2) == []


async def test_watchers_are_woken_by_each_change(tmp_path):
    """Also where the one who asked for the change was cancelled; others' watchers sleep on, and none is left behind."""
    changes = Changes()
    store = Store(tmp_path / "jobs.sqlite", changes)
    await store.create("a", FLOWERS, {})
    with changes.watching("a") as woken, changes.watching("a") as second, changes.watching("b") as other:
        asking = asyncio.create_task(store.started("a", "cpu"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait_for(woken.wait(), 10)
        await asyncio.wait_for(second.wait(), 10)
        assert not other.is_set()
        assert (await store.get("a")).state == State.STATE_RUNNING
        woken.clear()
        await store.failed("a", status_pb2.Status(code=13, message="no"))
        assert woken.is_set()
        woken.clear()
        await store.delete("a")
        assert woken.is_set()
    assert changes._watchers == {}
    await store.close()


async def test_each_change_is_counted_once(tmp_path):
    """With the job before and after it, and not where nothing was kept; what counting raises undoes nothing."""
    seen = []

    def counted(before, after):
        seen.append((before and before.state, after and after.state))
        raise RuntimeError("the counter is broken")

    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    store = Store(tmp_path / "jobs.sqlite", Changes(), counted)
    await store.create("a", FLOWERS, {}, "r")
    await store.create("b", FLOWERS, {}, "r")
    await store.started("a", "cpu")
    with pytest.raises(TrainJobWrongState):
        await store.started("a", "cpu")
    await store.append("a", [progress("scan", 5)], 10)
    assert (await store.succeeded("a", "done")).state == State.STATE_SUCCEEDED
    await store.delete("a")
    await store.close()
    pending, running, succeeded = State.STATE_PENDING, State.STATE_RUNNING, State.STATE_SUCCEEDED
    changes = [(None, pending), (pending, running), (running, running), (running, succeeded), (succeeded, None)]
    assert seen == [changes[0], (None, None), *changes[1:]]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "started", "append", "attempt", "cancel_asked", "cancelled", "succeeded", "failed"]),
        st.integers(0, 3),
    ),
    max_size=40,
)
ALLOWED = {
    "started": {State.STATE_PENDING},
    "append": {State.STATE_RUNNING},
    "attempt": {State.STATE_RUNNING},
    "cancelled": {State.STATE_RUNNING},
    "succeeded": {State.STATE_RUNNING},
    "failed": {State.STATE_PENDING, State.STATE_RUNNING},
    "cancel_asked": {State.STATE_PENDING, State.STATE_RUNNING, State.STATE_CANCELLED},
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_random_changes_keep_the_rules(tmp_path_factory, steps):
    """What a state does not allow is refused and changes nothing; sequences have no gap; an end is an end."""

    async def story():
        async with opened(tmp_path_factory.mktemp("story")) as store:
            made = set()
            for step, number in steps:
                job_id = f"job-{number}"
                arguments = {
                    "create": (FLOWERS, {}),
                    "started": ("cpu",),
                    "append": ([sentence("x")] * number + [progress("scan", number)], 5),
                    "attempt": ("cpu", "again"),
                    "succeeded": ("done",),
                    "failed": (status_pb2.Status(code=13, message="no"),),
                }
                before = await store.get(job_id) if job_id in made else None
                if before is None and step != "create":
                    with pytest.raises(TrainJobNotFound):
                        await getattr(store, step)(job_id, *arguments.get(step, ()))
                elif before is not None and before.state not in ALLOWED.get(step, ()):
                    with pytest.raises((TrainJobExists, TrainJobWrongState)):
                        await getattr(store, step)(job_id, *arguments.get(step, ()))
                    assert await store.get(job_id) == before
                else:
                    await getattr(store, step)(job_id, *arguments.get(step, ()))
                    made.add(job_id)
            for job in await store.page([], None, 10):
                events = await store.events(job.id, 0, 1000)
                assert [event.sequence for event in events] == list(range(1, job.last_sequence + 1))
                assert (job.end_time is not None) == (job.state in ENDED)
                assert (job.error is not None) == (job.state == State.STATE_FAILED)
                shown = [event.train_job for event in events if event.HasField("train_job")]
                assert (shown[-1].state if shown else State.STATE_PENDING) == job.state

    asyncio.run(story())


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 5), counts=st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_pages_show_each_job_once(tmp_path_factory, size, counts):
    """While jobs are created between pages, those that were there at the first are each shown once, newest first."""

    async def story():
        async with opened(tmp_path_factory.mktemp("pages")) as store:
            made = 0

            async def create(count):
                nonlocal made
                for _ in range(count):
                    await store.create(f"job-{made}", FLOWERS, {})
                    made += 1

            await create(7)
            await store.cancel_asked("job-3")
            there, shown, before, later = made, [], None, iter(counts)
            while page := await store.page([State.STATE_PENDING], before, size):
                assert len(page) <= size
                shown += [job.id for job in page]
                before = page[-1].key
                await create(next(later, 0))
            assert shown == [f"job-{number}" for number in reversed(range(there)) if number != 3]

    asyncio.run(story())


def test_a_newer_file_is_refused(tmp_path):
    """With what to do; and the file is as it was."""
    path = tmp_path / "jobs.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UsageError, match=r"has tables of version 99, and this Trapline knows them up to \d+: start"):
        Store(path, Changes())
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


async def test_an_older_file_is_brought_up_to_date(tmp_path, monkeypatch):
    """Each script is run once, in order; one that fails leaves the version before it."""
    async with opened(tmp_path) as store:
        await store.create("a", FLOWERS, {})
    released = tables.MIGRATIONS
    later = (*released, "CREATE TABLE more (value INTEGER)", "INSERT INTO more VALUES (7)")
    monkeypatch.setattr(tables, "MIGRATIONS", (*later, "CREATE TABLE half (value); INSERT INTO missing VALUES (1)"))
    with pytest.raises(TrainerError, match="missing"):
        Store(tmp_path / "jobs.sqlite", Changes())
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(later),)
        assert connection.execute("SELECT value FROM more").fetchall() == [(7,)]
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
    monkeypatch.setattr(tables, "MIGRATIONS", later)
    async with opened(tmp_path) as store:
        assert (await store.get("a")).config == FLOWERS


async def test_a_full_disk_is_a_refusal_and_changes_nothing(tmp_path):
    """Where SQLite has no room it is the service's capacity; with room again it goes on."""
    async with opened(tmp_path) as store:
        await store.create("a", FLOWERS, {})
        connection = store._database._writing
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        await store.started("a", "cpu")
        with pytest.raises(TrainCapacity, match="disk of the service's jobs is full") as refused:
            await store.append("a", [sentence("x" * 9000), sentence("y" * 9000)], 10)
        assert refused.value.metadata == {"limit": "disk"}
        assert refused.value.retry_seconds > 0
        assert (await store.get("a")).last_sequence == 1
        assert len(await store.events("a", 0, 10)) == 1
        connection.execute("PRAGMA max_page_count = 1000000")
        assert (await store.append("a", [sentence("x" * 9000)], 10)).last_sequence == 2


async def test_a_file_that_is_no_database_is_a_sentence(tmp_path):
    """It is named."""
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(TrainerError, match=r"jobs\.sqlite, cannot be used"):
        Store(tmp_path / "jobs.sqlite", Changes())


async def test_reads_do_not_wait_for_a_write(tmp_path):
    """While another process holds the file for writing, what was committed is read at once."""
    async with opened(tmp_path) as store:
        await store.create("a", FLOWERS, {})
        blocker = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(store.started("a", "cpu"))
        await asyncio.sleep(0)
        assert (await store.get("a")).state == State.STATE_PENDING
        assert not writing.done()
        blocker.execute("ROLLBACK")
        blocker.close()
        assert (await writing).state == State.STATE_RUNNING


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from trainer.jobs.changes import Changes
from trainer.jobs.job import Event
from trainer.jobs.store import Store
from trapline.v1 import train_pb2

async def main():
    store = Store(Path(sys.argv[1]), Changes())
    await store.create("a", train_pb2.TrainConfig(dataset="x"), {})
    await store.started("a", "cpu")
    offset = 0
    while True:
        offset += 10
        await store.append("a", [Event(sentence=str(offset)), Event(sentence="b")], offset)
        print(offset, flush=True)

asyncio.run(main())
"""


def killed_after(path, answers):
    """Starts one that appends, and kills it after so many answers; gives the offset of the last."""
    process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True)
    offsets = [int(process.stdout.readline()) for _ in range(answers)]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return offsets[-1]


@pytest.mark.parametrize("answers", [1, 7, 30])
async def test_killed_while_it_writes(tmp_path, answers):
    """Kill -9 amid transactions: what was answered for is there, and events and offset never disagree."""
    path = tmp_path / "jobs.sqlite"
    answered = killed_after(path, answers)
    async with opened(tmp_path) as store:
        job = await store.get("a")
        events = await store.events("a", 0, 10_000)
        assert job.offset >= answered
        assert job.last_sequence == len(events) == 1 + 2 * job.offset // 10
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
