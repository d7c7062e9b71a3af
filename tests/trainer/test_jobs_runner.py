import asyncio
import errno
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer.jobs import process
from trainer.jobs.changes import Changes
from trainer.jobs.devices import Device, devices
from trainer.jobs.folders import STORE, locked_root
from trainer.jobs.store import Store
from trapline.errors import UsageError, from_status
from trapline.train_errors import TrainCapacity, TrainJobNotFound, TrainJobWrongState, TrainRunFailed
from trapline.v1 import train_pb2

#: `tests` has no packages to import from.
kit = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("jobs_at_work.py"))))
root, service, processes_below, steps, undoubled = kit.root, kit.service, kit.processes_below, kit.steps, kit.undoubled
FAKE, DEADLINE_SECONDS = kit.FAKE, kit.DEADLINE_SECONDS
State = train_pb2.TrainJob
HERE = Path(__file__).parent
SEED = 4711


async def test_jobs_run_one_after_another(root):
    """In the order of their creation; each is told from its start to its end, and leaves no process."""
    async with service(root) as running:
        for job_id in "abc":
            await running.create(job_id)
        done = [await running.ended(job_id) for job_id in "abc"]
        assert [job.state for job in done] == [State.STATE_SUCCEEDED] * 3
        assert [job.result for job in done] == ["3 steps"] * 3
        assert done[0].end_time <= done[1].start_time <= done[1].end_time <= done[2].start_time
        assert await running.sentences("b") == steps(3)
        events = await running.store.events("b", 0, 100)
        assert [event.train_job.state for event in events if event.HasField("train_job")] == [2, 3]
        assert done[1].progress.done == 3
        assert done[1].attempt_count == 1


async def test_a_failure_is_the_childs_own_sentence(root):
    """FAILED, with TRAIN_RUN_FAILED in its error."""
    async with service(root) as running:
        await running.create("a", plan=["fail:1"])
        job = await running.ended("a")
        error = from_status(job.error)
        assert (job.state, type(error), error.message) == (State.STATE_FAILED, TrainRunFailed, "the photos are bad")
        assert error.metadata == {"trainJob": "trainJobs/a"}
        assert await running.sentences("a") == steps(1)


@pytest.mark.parametrize("what", ["die", "torn", "exit"])
async def test_a_child_that_dies_is_started_again(root, what):
    """From where it was; watchers are told how it ended, and no event is lost or there twice."""
    async with service(root) as running:
        await running.create("a", plan=[f"{what}:1", f"{what}:2"])
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 3)
        how = "exit code 3" if what == "exit" else "killed by signal 9"
        again = f"the process of this job ended ({how}) and is started again, from its last checkpoint"
        assert await running.sentences("a") == ["step 0", again, "step 1", again, "step 2"]


async def test_a_child_that_never_comes_further_fails_its_job(root):
    """After five attempts in vain, and not before; an attempt that came further begins the count anew."""
    async with service(root) as running:
        await running.create("a", plan=["die:0"] * 9)
        await running.create("b", plan=["die:0"] * 4 + ["die:1"] * 5 + ["finish:0"])
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_FAILED, 5)
        assert "ended 5 times in a row without coming further, the last time killed by signal 9" in job.error.message
        job = await running.ended("b")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 10)


async def test_what_a_dead_child_left_is_ended(root):
    """Its own processes die with it, before it is started again: also one that ignores SIGTERM, in another session."""
    async with service(root) as running:
        await running.create("a", plan=["orphan:1"])
        assert (await running.ended("a")).state == State.STATE_SUCCEEDED
        assert processes_below(root) == []


@pytest.mark.parametrize("what", ["hang", "deaf"])
async def test_a_running_job_is_cancelled(root, what):
    """It stops by SIGTERM, or by SIGKILL after the grace; its place is free for the next."""
    async with service(root, grace_seconds=0.2) as running:
        await running.create("a", plan=[f"{what}:1"])
        await running.create("b")
        await running.said("a", what)
        asked = await running.runner.cancel("a")
        assert asked.cancel_time is not None
        job = await running.ended("a")
        assert (job.state, job.cancel_time) == (State.STATE_CANCELLED, asked.cancel_time)
        assert await running.runner.cancel("a") == job
        assert (await running.ended("b")).state == State.STATE_SUCCEEDED
        assert running.attempts("a")[0][0] not in map(str, processes_below(root))


async def test_a_pending_job_is_cancelled_at_once(root):
    """It never has a process, nor a folder."""
    async with service(root) as running:
        await running.create("a", plan=["hang:1"])
        await running.create("b")
        assert (await running.runner.cancel("b")).state == State.STATE_CANCELLED
        assert not (root / "b").exists()
        await running.runner.cancel("a")
        await running.ended("a")


async def test_a_cancel_that_comes_too_late_changes_nothing(root):
    """A job that has told its success has succeeded; one that has ended refuses."""
    async with service(root, grace_seconds=30) as running:
        await running.create("a", plan=["linger:9"])
        await running.until("a", lambda job: job.progress is not None and job.progress.done == 3)
        await running.runner.cancel("a")
        os.kill(int(running.attempts("a")[0][0]), signal.SIGKILL)
        assert (await running.ended("a")).state == State.STATE_SUCCEEDED
        with pytest.raises(TrainJobWrongState):
            await running.runner.cancel("a")


async def test_a_child_that_does_not_end_after_its_success_is_ended(root):
    """After the grace; the job has succeeded."""
    async with service(root, grace_seconds=0.1) as running:
        await running.create("a", plan=["linger:9"])
        assert (await running.ended("a")).state == State.STATE_SUCCEEDED
        assert processes_below(root) == []


async def test_jobs_cancelled_at_any_moment_end_cancelled_or_done(root):
    """Asked at random moments from creation on, each ends, and none leaves a process."""
    chance = random.Random(SEED)
    async with service(root, places=devices(2, (), range(2)), grace_seconds=5) as running:
        names = [f"job-{number}" for number in range(12)]
        for job_id in names:
            await running.create(job_id, pace=0.02)

        async def cancel(job_id):
            reached = chance.choice([0, 1, 1, 2, 3])
            await running.until(job_id, lambda job: job.last_sequence >= reached or job.ended)
            with suppress(TrainJobWrongState):
                await running.runner.cancel(job_id)
            return (await running.ended(job_id)).state

        states = await asyncio.gather(*map(cancel, names))
        assert set(states) <= {State.STATE_CANCELLED, State.STATE_SUCCEEDED}
        assert State.STATE_CANCELLED in states


@pytest.mark.parametrize(
    "places", [devices(2, (), range(2)), devices(2, ("GPU-a", "GPU-b", "GPU-c"))], ids=["processors", "gpus"]
)
async def test_as_many_at_a_time_as_there_are_places(root, places):
    """Two places: never a third job, and no two on one device, also while children die and are started again.

    A child that finds another on its device fails.
    """
    async with service(root, places=places) as running:
        names = [f"job-{number}" for number in range(8)]
        for number, job_id in enumerate(names):
            await running.create(job_id, pace=0.02, plan=["die:1", "exit:2"][: number % 3])
        jobs = [await running.ended(job_id) for job_id in names]
        assert [job.state for job in jobs] == [State.STATE_SUCCEEDED] * 8
        moments = sorted([(job.start_time, 1) for job in jobs] + [(job.end_time, -1) for job in jobs])
        at_once = [sum(change for _, change in moments[: count + 1]) for count in range(len(moments))]
        assert max(at_once) == 2
        assert {job.device for job in jobs} == {place.name for place in places}
        gpus = {attempt[1] for job_id in names for attempt in running.attempts(job_id)}
        assert gpus == {place.environment["CUDA_VISIBLE_DEVICES"] for place in places}


async def test_a_restarted_job_has_as_many_processors(root):
    """Its share is fixed, so that the network it makes is."""
    async with service(root, places=devices(2, (), range(2))) as running:
        for job_id in "ab":
            await running.create(job_id, plan=["die:1", "die:2"])
        for job_id in "ab":
            await running.ended(job_id)
            assert len(running.attempts(job_id)) == 3
            assert len({len(json.loads(processors)) for _, _, processors in running.attempts(job_id)}) == 1


async def test_a_job_that_takes_too_long_fails(root):
    """Beyond the most time it is ended, and says so; time is counted over its processes."""
    async with service(root, max_seconds=0.3, grace_seconds=5) as running:
        await running.create("a", steps=500, pace=0.01)
        job = await running.ended("a")
        assert job.state == State.STATE_FAILED
        assert "hours, the most that this service gives a job" in job.error.message


async def test_nothing_starts_on_a_full_disk(root):
    """A job waits, and can be cancelled."""
    async with service(root, min_free_bytes=2**62) as running:
        await running.create("a")
        running.runner.wake()
        assert running.runner._setting.short_of_disk()
        assert (await running.store.get("a")).state == State.STATE_PENDING
        assert (await running.runner.cancel("a")).state == State.STATE_CANCELLED


def refused_at_first(monkeypatch, store, name, *, count):
    """Makes a change of the store fail so many times; gives what grows with each."""
    original, refusals = getattr(store, name), []

    async def change(*arguments):
        if len(refusals) == count:
            return await original(*arguments)
        refusals.append(None)
        raise TrainCapacity("the disk is full", limit="disk")

    monkeypatch.setattr(store, name, change)
    return refusals


async def test_a_store_that_is_full_for_a_while_loses_nothing(root, monkeypatch):
    """What cannot be kept is taken again when there is room, and the end of the job too."""
    async with service(root) as running:
        monkeypatch.setattr("trainer.jobs.follower._RETRY_SECONDS", 0.01)
        refusals = [refused_at_first(monkeypatch, running.store, name, count=3) for name in ("append", "succeeded")]
        await running.create("a", pace=0.05)
        assert (await running.ended("a")).state == State.STATE_SUCCEEDED
        assert await running.sentences("a") == steps(3)
        assert refusals == [[None] * 3] * 2


async def test_a_program_that_cannot_be_started_fails_the_job(root):
    """As one that dies: the service goes on."""
    async with service(root, program=("/nowhere/python",)) as running:
        await running.create("a")
        assert "it could not be started" in (await running.ended("a")).error.message


async def test_a_child_that_cannot_be_followed_does_not_live(root, monkeypatch):
    """Where the service has no descriptor left, what it started is ended, and started again without being counted."""
    original, refusals = os.pidfd_open, iter([OSError(24, "Too many open files")])

    def pidfd_open(pid):
        for refusal in refusals:
            raise refusal
        return original(pid)

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    monkeypatch.setattr("trainer.jobs.follower._ROOM_SECONDS", 0.01)
    async with service(root) as running:
        await running.create("a", pace=0.02)
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 1)
        assert len(running.attempts("a")) <= 2


async def test_a_childs_log_is_kept_and_bounded(root, monkeypatch):
    """What it prints is in child.log, which is emptied where it has grown too large."""
    monkeypatch.setattr(process, "_LOG_BYTES", 20)
    async with service(root) as running:
        await running.create("a", plan=["exit:1", "exit:2", "hang:2"])
        await running.said("a", "hang")
        await running.runner.cancel("a")
        await running.ended("a")
        assert (root / "a" / "child.log").stat().st_size <= 20


async def test_deleting_takes_the_folder(root):
    """With the job; one that has not ended stays whole; what a killed service left of it goes at the next start."""
    async with service(root) as running:
        await running.create("a", plan=["hang:1"])
        await running.said("a", "hang")
        with pytest.raises(TrainJobWrongState):
            await running.runner.delete("a")
        assert (root / "a" / "events.jsonl").exists()
        await running.runner.cancel("a")
        await running.ended("a")
        await running.runner.delete("a")
        assert not (root / "a").exists()
        with pytest.raises(TrainJobNotFound):
            await running.runner.delete("a")
        # The same id again is another job.
        await running.create("a")
        assert (await running.ended("a")).result == "3 steps"
        assert len(running.attempts("a")) == 1
    (root / "a").rename(root / ".deleted-a")
    async with service(root) as running:
        assert not (root / ".deleted-a").exists()
        await running.runner.delete("a")


async def test_a_folder_is_put_back_where_its_job_could_not_be_deleted(root, monkeypatch):
    """A full disk deletes nothing."""
    async with service(root) as running:
        await running.create("a")
        await running.ended("a")

        async def refuse(_job_id):
            raise TrainCapacity("the disk is full", limit="disk")

        monkeypatch.setattr(running.store, "delete", refuse)
        with pytest.raises(TrainCapacity):
            await running.runner.delete("a")
        assert (root / "a" / "events.jsonl").exists()


async def test_a_drained_service_leaves_its_jobs_to_the_next(root):
    """Its children end, also a deaf one; their jobs go on, and that attempt was not in vain."""
    async with service(root, places=devices(2, (), range(2))) as running:
        await running.create("a", plan=["hang:1"])
        await running.create("b", plan=["deaf:1"])
        await running.create("c")
        await running.said("a", "hang")
        await running.said("b", "deaf")
        await running.runner.stop(0.2)
        assert processes_below(root) == []
        states = [(await running.store.get(job_id)).state for job_id in "abc"]
        assert states == [State.STATE_RUNNING, State.STATE_RUNNING, State.STATE_PENDING]
        assert (await running.store.get("a")).attempts_in_vain == 0
    async with service(root) as running:
        for job_id, attempts in (("a", 2), ("b", 2), ("c", 1)):
            job = await running.ended(job_id)
            assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, attempts)
            said = await running.sentences(job_id)
            assert undoubled(said) == steps(3)
            assert sum("this job goes on" in sentence for sentence in said) == attempts - 1
            assert not [sentence for sentence in said if "is started again" in sentence]


async def test_a_living_child_is_adopted(root):
    """A service that is gone without a word costs its children nothing; the next one takes all that they told."""
    async with service(root, killed=True) as running:
        await running.create("a", plan=["hang:1"])
        await running.said("a", "hang")
        before = await running.store.get("a")
    assert len(processes_below(root)) == 1
    async with service(root) as running:
        job = await running.store.get("a")
        assert (job.attempt_count, job.last_sequence) == (before.attempt_count, before.last_sequence)
        os.kill(int(running.attempts("a")[0][0]), signal.SIGKILL)
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 2)
        assert undoubled(await running.sentences("a")) == steps(3)


async def test_an_adopted_child_is_cancelled(root):
    """Also where the request came just before the service was gone; and a deaf one."""
    async with service(root, killed=True) as running:
        await running.create("a", plan=["deaf:1"])
        await running.said("a", "deaf")
        await running.store.cancel_asked("a")
    async with service(root, grace_seconds=0.1) as running:
        assert (await running.ended("a")).state == State.STATE_CANCELLED
        assert processes_below(root) == []


async def test_a_child_that_ended_while_no_service_was_there_is_done(root):
    """What it told last is its end, and it is not started again."""
    async with service(root, killed=True) as running:
        await running.create("a", plan=["linger:9"])
        await running.until("a", lambda job: job.progress is not None and job.progress.done == 3)
        os.kill(int(running.attempts("a")[0][0]), signal.SIGKILL)
    async with service(root) as running:
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 1)


@pytest.mark.parametrize("kept", [None, 0, 10])
async def test_events_behind_a_power_cut_are_read(root, kept):
    """The store is on the disk and the end of the child's file is not, or all of it: what comes then is told whole."""
    async with service(root, killed=True) as running:
        await running.create("a", plan=["hang:2"])
        await running.said("a", "hang")
        os.kill(int(running.attempts("a")[0][0]), signal.SIGKILL)
    file = root / "a" / "events.jsonl"
    file.unlink() if kept is None else os.truncate(file, kept)
    async with service(root) as running:
        job = await running.ended("a")
        assert (job.state, job.attempt_count) == (State.STATE_SUCCEEDED, 2)
        assert undoubled(await running.sentences("a")) == steps(3)


async def test_an_adopted_child_keeps_a_device_that_is_none_any_more(root):
    """The service was started anew with other devices: it is left to end, and goes on on one of those where it dies."""
    old, new, other = (
        Device(name=f"gpu {name}", environment={"CUDA_VISIBLE_DEVICES": name}) for name in ("old", "new", "other")
    )
    async with service(root, places=[old], killed=True) as running:
        await running.create("a", plan=["hang:1"])
        await running.create("b")
        await running.said("a", "hang")
    async with service(root, places=[new, other]) as running:
        assert (await running.ended("b")).state == State.STATE_SUCCEEDED
        os.kill(int(running.attempts("a")[0][0]), signal.SIGKILL)
        assert (await running.ended("a")).state == State.STATE_SUCCEEDED
        assert [attempt[1] for attempt in running.attempts("a")] == ["old", "new"]
        assert (await running.store.get("a")).device == "gpu new"


async def test_a_job_without_process_or_device_is_cancelled(root):
    """Of two that an earlier service had at work, one waits for the only place of this one."""
    async with service(root, places=devices(2, (), range(2)), killed=True) as running:
        for job_id in "ab":
            await running.create(job_id, plan=["hang:1", "hang:1"])
            await running.said(job_id, "hang")
        for job_id in "ab":
            os.kill(int(running.attempts(job_id)[0][0]), signal.SIGKILL)
    async with service(root) as running:
        await running.until("a", lambda job: job.attempt_count == 2)
        assert (await running.runner.cancel("b")).state == State.STATE_RUNNING
        assert (await running.ended("b")).state == State.STATE_CANCELLED
        await running.runner.cancel("a")
        assert (await running.ended("a")).state == State.STATE_CANCELLED
        assert len(running.attempts("b")) == 1


def test_a_second_service_is_refused(root):
    """Exit 2 and a sentence; the first goes on."""
    with locked_root(root):
        done = subprocess.run(
            [sys.executable, HERE / "jobs_service.py", root, "{}"], capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert f"another service runs the jobs in {root}; stop it, or name another folder" in done.stdout
    with locked_root(root), pytest.raises(UsageError, match="another service"), locked_root(root):
        pass


def test_a_root_that_cannot_be_made_is_named(tmp_path):
    """A file is in its place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--runs-root: cannot write .*file/runs"), locked_root(tmp_path / "file/runs"):
        pass


def test_a_root_that_cannot_be_locked_is_no_other_services(tmp_path, monkeypatch):
    """As on a network's disk without locks: the sentence says so, and not that another service is to be stopped."""

    def refuse(*_arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(UsageError, match=r"--runs-root: .* cannot be locked \(No locks available\)"),
        locked_root(tmp_path),
    ):
        pass


@asynccontextmanager
async def killed_services(root, options):
    """Starts a service in a process of its own each time it is called; what is given kills the last one."""
    running = []

    def start():
        line = [sys.executable, HERE / "jobs_service.py", root, json.dumps(options)]
        service = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        assert service.stdout.readline() == "ready\n"
        running.append(service)
        return service

    try:
        yield start
    finally:
        for service in running:
            end(service)


def end(service):
    service.kill()
    service.wait()
    service.stdout.close()


@pytest.mark.parametrize("moments", [8])
async def test_services_and_children_killed_at_random(root, moments):
    """Kill -9 of either at random moments: every job is done, no step is missing or told twice, nothing is left."""
    chance = random.Random(SEED)
    options = {"program": FAKE, "poll_seconds": 0.02, "restart_seconds": 0, "attempts": 100, "parallel": 2}
    store = Store(root / STORE, Changes())
    names = [f"job-{number}" for number in range(4)]
    for job_id in names:
        await store.create(job_id, train_pb2.TrainConfig(dataset="x"), {"steps": 40, "pace": 0.02})
    async with killed_services(root, options) as start:
        service, deadline = start(), time.monotonic() + DEADLINE_SECONDS
        for _ in range(moments):
            await asyncio.sleep(chance.uniform(0, 0.5))  # a moment that nothing tells
            children = processes_below(root)
            if chance.random() < 0.5 and children:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(children), signal.SIGKILL)
            else:
                end(service)
                service = start()
        # Another process changes the store, so that nothing wakes this one.
        while [job for job in await store.page([], None, 10) if not job.ended]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=20) == 0
    for job_id in names:
        job = await store.get(job_id)
        assert job.state == State.STATE_SUCCEEDED
        events = await store.events(job_id, 0, 10_000)
        assert [event.sequence for event in events] == list(range(1, job.last_sequence + 1))
        told = [event.sentence for event in events if event.sentence.startswith("step")]
        lines = [json.loads(line) for line in whole_lines(root / job_id / "events.jsonl")]
        # What the child's file holds is in the store, line for line.
        assert told == [line["sentence"] for line in lines if "sentence" in line]
        assert undoubled(told) == steps(40)
    assert processes_below(root) == []
    await store.close()


def whole_lines(path):
    """The lines of an events' file that are JSON."""
    for line in path.read_bytes().splitlines():
        with suppress(ValueError):
            json.loads(line)
            yield line


def test_the_service_needs_no_torch():
    """Nothing that it imports is slow: neither torch nor what decodes photos."""
    code = "import sys; import trainer.jobs.runner; print([n for n in ('torch', 'PIL', 'numpy') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
