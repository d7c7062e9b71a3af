import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trainer.jobs.prune import prune
from trapline.errors import UsageError, from_rpc_error, reason_name
from trapline.v1 import train_pb2
from trapline.v1.train_pb2 import TrainJob

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def health(channel, name):
    request = health_pb2.HealthCheckRequest(service=name)
    return (await health_pb2_grpc.HealthStub(channel).Check(request)).status


async def names(one):
    return {job.name for job in (await one.stub.ListTrainJobs(train_pb2.ListTrainJobsRequest())).train_jobs}


async def test_health_tells_readiness_and_liveness(service):
    """All three names are known and well once the jobs are loaded."""
    async with service() as one:
        for name in ("", "trapline.v1.TrainService", "liveness"):
            assert await health(one.channel, name) == SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await health(one.channel, "other")


async def test_a_drain_tells_watchers_and_jobs_go_on_later(service):
    """Watchers get SHUTTING_DOWN, the process ends, the job stays RUNNING; the next service takes it to its end."""
    async with service(drain_seconds=2) as one:
        one.hold()
        name = (await one.create(job_id="mine")).name
        await one.until_state(name, TrainJob.STATE_RUNNING)
        watcher = asyncio.create_task(one.watched(name))
        while not one.server.metrics.registry.get_sample_value("trapline_train_watchers"):  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.005)
        assert await one.server.drain() == 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watcher
        refusal = from_rpc_error(caught.value)
        assert (refusal.code, reason_name(refusal)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    one.release()
    async with service() as again:
        events = await again.watched(name)
        job = events[-1].train_job
        assert (job.state, job.attempt_count) == (TrainJob.STATE_SUCCEEDED, 2)
        assert [event.sequence for event in events[1:]] == list(range(1, job.last_sequence + 1))


async def test_ended_jobs_are_kept_over_a_restart(service):
    """State, events and artifacts are those of before."""
    async with service() as one:
        name = (await one.create()).name
        before = await one.watched(name)
    async with service() as again:
        assert (await again.watched(name))[1:] == before[1:]
        assert await again.get(name) == before[-1].train_job


async def test_a_second_service_on_the_same_runs_is_refused(service):
    """And the first goes on."""
    async with service() as one:
        with pytest.raises(UsageError, match="another service"):
            await service().__aenter__()
        assert (await one.create()).name


async def test_a_missing_data_root_is_refused(service, tmp_path):
    """By the option's name, and nothing is made."""
    (tmp_path / "data").rename(tmp_path / "gone")
    with pytest.raises(UsageError, match="--data-root"):
        await service().__aenter__()
    assert not (tmp_path / "runs").exists()


async def test_a_port_in_use_leaves_nothing_behind(service):
    """The runs root is free again for the next one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="in use"):
            await service(listen=f"127.0.0.1:{taken.getsockname()[1]}").__aenter__()
    async with service() as one:
        assert (await one.create()).name


async def test_pruning_by_count_and_age(service):
    """The oldest ended jobs go, with their folders; pending and running ones never."""
    async with service() as one:
        ended = [(await one.create(job_id=f"job{number}")).name for number in range(4)]
        await one.watched(ended[-1])
        one.hold()
        at_work, pending = (await one.create(job_id="at-work")).name, (await one.create(job_id="pending")).name
        await one.until_state(at_work, TrainJob.STATE_RUNNING)
        parts = (one.server.store, one.server.runner)
        assert await prune(one.config, *parts) == 0
        assert await prune(one.config.model_copy(update={"keep_runs": 2}), *parts) == 2
        assert await names(one) == {*ended[2:], at_work, pending}
        assert not (one.runs / "job0").exists()
        assert (one.runs / "job3" / "run").exists()
        assert await prune(one.config.model_copy(update={"keep_days": 1}), *parts) == 0
        assert await prune(one.config.model_copy(update={"keep_days": 1e-9}), *parts) == 2
        assert await names(one) == {at_work, pending}


async def test_metrics_count_jobs(service):
    """By state, by outcome, by time; what the page shows is what is declared."""
    async with service(metrics="127.0.0.1:0") as one:
        one.hold()
        at_work, pending = await one.create(), await one.create()
        await one.until_state(at_work.name, TrainJob.STATE_RUNNING)
        value = one.server.metrics.registry.get_sample_value
        assert value("trapline_train_jobs", {"state": "running"}) == 1
        assert value("trapline_train_jobs", {"state": "pending"}) == 1
        # However often it is asked for, also at the same time, it is one end.
        asked = train_pb2.CancelTrainJobRequest(name=pending.name)
        await asyncio.gather(*[one.stub.CancelTrainJob(asked) for _ in range(8)])
        one.release()
        await one.watched(at_work.name)
        await one.watched((await one.create(seed=13)).name)
        for outcome in ("succeeded", "failed", "cancelled"):
            assert value("trapline_train_ended_jobs_total", {"outcome": outcome}) == 1
            assert value("trapline_train_jobs", {"state": outcome}) == 1
        assert value("trapline_train_job_seconds_count", {"state": "running"}) == 2
        assert value("trapline_train_job_seconds_count", {"state": "pending"}) == 3
        assert value("trapline_calls_total", {"method": "CreateTrainJob", "code": "OK"}) == 3
        url = f"http://{one.server.metrics_listen}/metrics"
        page = (await asyncio.to_thread(urllib.request.urlopen, url)).read().decode()
        for declared in one.server.metrics.declared:
            assert f"# TYPE {declared.name.removesuffix('_total')}" in page


async def test_metrics_tell_of_silence_and_room(service):
    """How long the quietest running job has told nothing, also after a restart; what the disk has and must have."""
    async with service(min_free_gib=0.5) as one:
        value = one.server.metrics.registry.get_sample_value
        assert (value("trapline_ready"), value("trapline_train_silent_seconds")) == (1, 0)
        assert value("trapline_train_required_free_bytes") == 2**29
        assert value("trapline_train_free_bytes") == pytest.approx(shutil.disk_usage(one.runs).free, rel=0.1)
        assert value("trapline_train_ended_jobs_total", {"outcome": "failed"}) == 0
        one.hold()
        name = (await one.create()).name
        await one.until_state(name, TrainJob.STATE_RUNNING)
        while value("trapline_train_silent_seconds") < 0.5:  # noqa: ASYNC110  # what is waited for is time
            await asyncio.sleep(0.05)
        events = one.runs / name.removeprefix("trainJobs/") / "events.jsonl"
        with events.open("a") as file:
            file.write('{"time": 1, "sentence": "still here"}\n')
        while value("trapline_train_silent_seconds") > 0.5:  # noqa: ASYNC110  # the follower's next look has no event
            await asyncio.sleep(0.01)
    one.release()
    async with service() as again:
        await again.watched(name)
        assert again.server.metrics.registry.get_sample_value("trapline_train_silent_seconds") == 0
        await again.server.drain()
        assert again.server.metrics.registry.get_sample_value("trapline_ready") == 0


async def test_a_calls_line_names_its_job(service, caplog):
    """Who looks for a job in the log finds the calls about it."""
    caplog.set_level("INFO")
    async with service() as one:
        name = (await one.create(job_id="mine")).name
        await one.get(name)
    assert "method=GetTrainJob code=OK" in caplog.text
    assert caplog.text.count("job=mine") >= 2


class Process:
    """`trainer serve` as its users start it."""

    def __init__(self, folder, *options):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRAINER_")}
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("trainer")), "serve", "--data-root", str(folder / "data")]
            + ["--runs-root", str(folder / "runs"), "--listen", "127.0.0.1:0", "--metrics", "", "--gpus", "none"]
            + list(options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def line(self):
        """The next line that it prints."""
        return self.process.stdout.readline().strip()

    def end(self, *signals):
        """Sends signals; gives the exit code and what it wrote to standard error."""
        for number in signals:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


@pytest.fixture
def started(tmp_path):
    """The function that starts `trainer serve` on a data root; all are ended afterwards."""
    (tmp_path / "data").mkdir()
    processes = []

    def start(*options):
        processes.append(Process(tmp_path, *options))
        return processes[-1]

    yield start
    for each in processes:
        with suppress(ProcessLookupError):
            each.process.kill()
        each.process.communicate()


def test_the_process_tells_when_it_listens_and_is_ready(started):
    """Within seconds, without torch; SIGTERM ends it with 0."""
    began = time.monotonic()
    process = started("--drain-seconds", "0.5")
    listening, ready = process.line(), process.line()
    seconds = time.monotonic() - began
    address = listening.removeprefix("trainer listening listen=")
    assert ready == f"trainer ready listen={address} metrics=off jobs=0"
    with Path(f"/proc/{process.process.pid}/maps").open() as maps:
        assert not [line for line in maps if "torch" in line or "onnxruntime" in line]
    print(f"ready after {seconds:.2f} s")
    code, errors = process.end(signal.SIGTERM)
    assert (code, "event=drain_ended" in errors) == (0, True)


def test_ctrl_c_ends_it_with_130(started):
    """As every program of ours."""
    process = started("--drain-seconds", "0.5")
    process.line(), process.line()
    assert process.end(signal.SIGINT)[0] == 130


def test_a_second_process_is_refused_in_a_sentence(started):
    """Exit code 2, and the first one goes on."""
    first = started("--drain-seconds", "0.5")
    first.line(), first.line()
    code, errors = started().end()
    assert (code, "--runs-root: another service" in errors) == (2, True)
    assert first.end(signal.SIGTERM)[0] == 0


async def test_folders_may_be_relative(service, tmp_path, monkeypatch):
    """A service whose folders are named from where it was started runs jobs, whose processes work elsewhere."""
    monkeypatch.chdir(tmp_path)
    async with service.func(Path(), models=Path("models")) as one:
        assert not one.config.runs_root.is_absolute()
        events = await one.watched((await one.create()).name)
    assert events[-1].train_job.state == TrainJob.STATE_SUCCEEDED
