"""Prometheus itself reads real programs whose faults are made, with the shipped rules 30 times as fast."""

import contextlib
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import grpc
import pytest
from modules import module_at

from trapline.v1 import model_pb2, train_pb2

TOP = Path(__file__).parents[2]
pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
#: Not tried live, and why. promtool tries all of them.
NOT_LIVE = {
    "TraplineJobsWait": "six hours are still twelve minutes",
    "TraplineMemoryGrows": "26 hours of one process, which must leak",
    "TraplineLabelDrift": "days of answers are still hours",
    "TraplineUnknownDrift": "days of answers are still hours",
}


STAGE = module_at(Path(__file__).with_name("scene.py"))
PROMETHEUS, FAULTS, phase = STAGE.PROMETHEUS, STAGE.FAULTS, STAGE.phase
KIT, Program, classify = FAULTS.KIT, FAULTS.Program, FAULTS.classify
ALERTS = PROMETHEUS.alerts(PROMETHEUS.shipped())


@pytest.fixture(scope="module", name="scene")
def _scene(tmp_path_factory):
    try:
        PROMETHEUS.install()
    except PROMETHEUS.Unavailable as reason:
        pytest.skip(str(reason))
    with contextlib.ExitStack() as stack:
        scene = STAGE.Scene(tmp_path_factory.mktemp("live"), stack)
        scene.prometheus.until_up()
        with contextlib.ExitStack() as phase:
            scene._stack = phase
            healthy, _ = scene.server(KIT.model_bytes())
            trainer, _ = scene.trainer()
            scene.read("trapline-server", healthy)
            scene.read("trapline-trainer", trainer)
            scene.healthy, scene.trainer_at_first = healthy, trainer
            yield scene


def test_nothing_fires_in_health(scene):
    """With calls, a reload and a job that succeeds, for as long as most alerts would need."""
    scene.sees("sum(up) == 2")
    with phase(scene):
        scene.callers(scene.healthy.address, classify(), count=2, pause_seconds=0.05)
        with grpc.insecure_channel(scene.trainer_at_first.address) as channel:
            _create(FAULTS.Stubs(channel), "good")
        scene.quiet(15)
        with grpc.insecure_channel(scene.healthy.address) as channel:
            FAULTS.Stubs(channel).models.ReloadModel(model_pb2.ReloadModelRequest(name="models/colours"))
        scene.quiet(30)
        assert len(scene.prometheus.ask("trapline_ready == 1")) == 2
        assert scene.prometheus.ask("sum(rate(trapline_images_total[10s])) > 1")


def _create(stubs, dataset, **config):
    job = train_pb2.TrainJob(config=train_pb2.TrainConfig(dataset=dataset, backbone="squeezenet1_1", **config))
    job.config.weights, job.config.image_px = "none", 32
    return stubs.train.CreateTrainJob(train_pb2.CreateTrainJobRequest(train_job=job), timeout=30).name


def test_faults_of_models_and_files(scene):
    """A broken version, several versions, no model at all, tokens that cannot be read, failing batches."""
    with phase(scene):
        token = scene.folder() / "tokens"
        token.write_text("camera:token-0123456789abcdef\n")
        token.chmod(0o600)
        guarded, _ = scene.server(KIT.model_bytes(), "--token-file", token)
        empty, _ = scene.server(None, "--allow-empty")
        broken, broken_folder = scene.server(KIT.model_bytes(), "--watch", model="hills")
        older, older_folder = scene.server(KIT.model_bytes(), model="coast")
        KIT.publish(older_folder / "models", "coast", 2, KIT.model_bytes())
        newer = scene._started(
            Program(
                older_folder,
                ("server", "run"),
                "--models",
                older_folder / "models",
                "--device",
                "cpu",
                "--threads",
                "1",
            )
        )
        brittle, _ = scene.server(FAULTS.brittle(), model="brittle")
        scene.read("trapline-server", scene.healthy, guarded, empty, broken, older, newer, brittle)
        KIT.publish(broken_folder / "models", "hills", 2, b"junk")
        stranger = classify(metadata=[("authorization", "Bearer wrong-token-0123456789")])
        scene.callers(guarded.address, stranger, count=2, pause_seconds=0.02)
        scene.callers(brittle.address, classify(FAULTS.WHITE, "brittle"), pause_seconds=0.2)
        token.with_suffix(".new").write_text("")
        token.with_suffix(".new").rename(token)
        scene.fires(
            *("TraplineModelNotServable", "TraplineNotReady", "TraplineCredentialsKept", "TraplineBatchFailures"),
            *("TraplineInternalErrors", "TraplineTokensRefused", "TraplineVersionsDiffer"),
        )
        labels = {name: alert["labels"] for name, alert in scene.seen.items()}
        assert labels["TraplineModelNotServable"]["model"] == "hills"
        assert labels["TraplineVersionsDiffer"]["model"] == "coast"
        assert labels["TraplineNotReady"]["instance"] in (empty.metrics, brittle.metrics)
        assert labels["TraplineCredentialsKept"]["file"] == "caller_tokens"
        assert labels["TraplineBatchFailures"]["model"] == "brittle"
        scene.read("trapline-server", scene.healthy)


def test_faults_of_load(scene):
    """Calls beyond what a server gives, a stream that fills its queue, deadlines that are too short, no descriptors."""
    with phase(scene):
        slow, _ = scene.server(KIT.model_bytes(work=10), "--max-queue-ms", "50", "--max-batch", "4", model="slow")
        short, _ = scene.server(KIT.model_bytes())
        open_count = len(list(Path(f"/proc/{short.process.pid}/fd").iterdir()))
        resource.prlimit(short.process.pid, resource.RLIMIT_NOFILE, (open_count + 40, open_count + 40))
        for _ in range(int((open_count + 40) * 0.9) - open_count):
            # Real ones: who only connects is let go of before the alert fires.
            channel = grpc.insecure_channel(short.address, options=[("grpc.use_local_subchannel_pool", 1)])
            grpc.channel_ready_future(channel).result(timeout=20)
            scene._stack.enter_context(channel)
        late, _ = scene.server(KIT.model_bytes(work=10), "--max-queue-ms", "10000", model="late")
        scene.read("trapline-server", scene.healthy, slow, late, short)
        scene.callers(slow.address, FAULTS.stream("slow", 400))
        scene.callers(slow.address, classify(model="slow"), count=12, pause_seconds=0.05)
        scene.callers(late.address, classify(model="late", timeout=0.01), count=2, pause_seconds=0.2)
        scene.fires("TraplineRefusals", "TraplineQueueSlow", "TraplineCallersGiveUp", "TraplineDescriptorsShort")
        for name, model in (
            ("TraplineRefusals", "slow"),
            ("TraplineQueueSlow", "slow"),
            ("TraplineCallersGiveUp", "late"),
        ):
            assert scene.seen[name]["labels"]["model"] == model
        assert scene.seen["TraplineDescriptorsShort"]["labels"]["instance"] == short.metrics
        scene.read("trapline-server", scene.healthy)


def test_faults_of_processes(scene):
    """A batch that never comes back, a server that starts again and again, one that is killed, and none at all."""
    with phase(scene):
        stuck, _ = scene.server(FAULTS.endless(), model="endless")
        restarted, _ = scene.server(KIT.model_bytes())
        killed, _ = scene.server(KIT.model_bytes())
        scene.read("trapline-server", scene.healthy, stuck, restarted, killed)
        time.sleep(4)
        killed.end(signal.SIGKILL)
        began = time.monotonic()
        while "TraplineRestarting" not in scene.prometheus.firing():
            assert time.monotonic() < began + 240, scene.prometheus.ask("process_start_time_seconds")
            restarted.end(signal.SIGKILL)
            restarted.start()
            time.sleep(2)
        scene.fires("TraplineRestarting", "TraplineServerDown")
        scene.callers(stuck.address, classify(FAULTS.WHITE, "endless", timeout=60))
        scene.fires("TraplineServerStuck")
        assert scene.seen["TraplineServerStuck"]["labels"]["model"] == "endless"
        assert scene.seen["TraplineRestarting"]["labels"]["instance"] == restarted.metrics
        down = scene.prometheus.firing()["TraplineServerDown"]
        assert killed.metrics in {alert["labels"]["instance"] for alert in down}
        stuck.end(signal.SIGKILL)
    scene.read("trapline-server")
    scene.fires("TraplineServerAbsent")
    scene.read("trapline-server", scene.healthy)


def test_faults_of_jobs(scene):
    """Photos that cannot be read, a process that is killed over and over or hangs, a full disk, a service gone."""
    with phase(scene):
        service, folder = scene.trainer()
        full, _ = scene.trainer("--min-free-gib", "0")
        gone, _ = scene.trainer()
        scene.read("trapline-trainer", service, full, gone)
        with grpc.insecure_channel(full.address) as channel:
            stubs = FAULTS.Stubs(channel)
            first, _ = _create(stubs, "good", epochs=500), _create(stubs, "good")
        full.end()
        # More than any disk has: that the disk is full is what the service now finds.
        needed = shutil.disk_usage(folder).free / 2**30 + 1000
        full.start("--min-free-gib", str(needed))
        with grpc.insecure_channel(full.address) as channel:
            FAULTS.Stubs(channel).train.CancelTrainJob(train_pb2.CancelTrainJobRequest(name=first), timeout=10)
        gone.end(signal.SIGKILL)
        with grpc.insecure_channel(service.address) as channel:
            stubs = FAULTS.Stubs(channel)
            bad, dying = _create(stubs, "bad"), _create(stubs, "good", epochs=500)
            killed = set()
            end = time.monotonic() + 120
            while len(killed) < 3:
                assert time.monotonic() < end, killed
                for child in _children(folder / "runs" / dying.removeprefix("trainJobs/") / "process.lock"):
                    os.kill(child, signal.SIGKILL)
                    killed.add(child)
                time.sleep(0.2)
            stopped = set()
            while not stopped:
                assert time.monotonic() < end
                stopped = {*_children(folder / "runs" / dying.removeprefix("trainJobs/") / "process.lock")} - killed
            for child in stopped:
                os.kill(child, signal.SIGSTOP)
            scene.fires("TraplineJobFailed", "TraplineJobsRestarting", "TraplineJobsNotStarted", "TraplineDiskShort")
            scene.fires("TraplineTrainerDown", "TraplineJobSilent")
            for child in stopped:
                os.kill(child, signal.SIGCONT)
            failed = stubs.train.GetTrainJob(train_pb2.GetTrainJobRequest(name=bad), timeout=10)
            assert failed.state == train_pb2.TrainJob.STATE_FAILED
        for name, program in (
            *(("TraplineJobFailed", service), ("TraplineJobsRestarting", service), ("TraplineTrainerDown", gone)),
            *(("TraplineJobsNotStarted", full), ("TraplineDiskShort", full), ("TraplineJobSilent", service)),
        ):
            assert scene.seen[name]["labels"]["instance"] == program.metrics, name
        service.end()
    scene.read("trapline-trainer")
    scene.fires("TraplineTrainerAbsent")
    scene.read("trapline-trainer", scene.trainer_at_first)


def _children(lock):
    from trainer.jobs.process import holders

    return holders(lock) if lock.exists() else []


def test_every_alert_was_made_to_fire_or_is_named(scene):
    """With its texts filled in: no label that is missing, no error of a template."""
    assert set(scene.seen) == set(ALERTS) - set(NOT_LIVE)
    for name, alert in scene.seen.items():
        assert alert["labels"]["severity"] == ALERTS[name]["labels"]["severity"]
        assert alert["annotations"]["runbook"] == ALERTS[name]["annotations"]["runbook"]
        for text in (alert["annotations"]["summary"], alert["annotations"]["description"]):
            assert text
            assert not any(bad in text for bad in ("<no value>", "<error", "{{", "  ")), (name, text)
    print(*(f"{name}: {alert['annotations']['summary']}" for name, alert in sorted(scene.seen.items())), sep="\n")


def test_all_is_quiet_again(scene):
    """Once the faults are over; what counts events of an hour has two minutes here to forget them."""
    end = time.monotonic() + 200
    while firing := scene.prometheus.firing():
        assert time.monotonic() < end, list(firing)
        time.sleep(1)
