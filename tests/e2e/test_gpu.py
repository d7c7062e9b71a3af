"""The pair on a CUDA device: trained on it, served from it, and what happens when it is lost."""

import contextlib
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clients.train_jobs import TrainJobs
from trapline.v1 import classify_pb2, classify_pb2_grpc
from trapline.v1.train_pb2 import TrainJob

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="no NVIDIA device: nothing to run on"),
]

#: What a run is told, but for where.
SMALL = ("--backbone", "resnet18", "--weights", "none", "--image-px", "64", "--batch-size", "8", "--group-by", "none")
# On SIGUSR1 the device is lost.
LOSING = """
import signal, sys
signal.signal(signal.SIGUSR1, lose_device)
from server.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, draw_jpegs, call):
    """A run on the GPU, published."""
    home = tmp_path_factory.mktemp("gpu")
    draw_jpegs(home / "data" / "photos" / "bright", (180, 170, 150), count=100, seed=1)
    draw_jpegs(home / "data" / "photos" / "dark", (20, 30, 25), count=100, seed=2)
    out = ("--out", home / "run", "--cache-dir", home / "cache", "--publish", home / "models", "--model-id", "pair")
    call("trainer", "run", home / "data" / "photos", *out, *SMALL, "--epochs", "2", timeout_seconds=200)
    return home


def test_a_run_trains_on_the_gpu(trained):
    """The plan names the device, and the file agrees with the checkpoint on every photo it was compared on."""
    assert json.loads((trained / "run" / "plan.json").read_text())["device"].startswith("cuda")
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    assert metrics["stage"] == "finetune"
    assert metrics["parity"]["top1_agreement"] == 1.0


def test_served_answers_equal_the_checkpoints(trained, call, serving, answers_match):
    """Trained on CUDA, served on CUDA: each test photo gets the checkpoint's class and its probabilities to 1e-4."""
    answers = trained / "answers.csv"
    with serving(trained / "models", "--device", "cuda", "--no-tf32") as address:
        options = ("--server", address, "--model", "pair", "--top-k", "2", "--out", answers)
        call("trapline", "classify", trained / "data" / "photos", *options)
    assert answers_match(trained / "run", answers, trained / "data" / "photos") >= 4


def test_half_precision_passes_its_gate_and_may_be_served(trained, call, serving):
    """`trainer export --precision fp16` makes a file that the GPU runs, and the photos get the same classes."""
    export = ("--precision", "fp16", "--publish", trained / "models", "--model-id", "pair")
    call("trainer", "export", trained / "run", *export, timeout_seconds=100)
    found = {}
    for precision in ("fp32", "fp16"):
        out = trained / f"{precision}.csv"
        with serving(trained / "models", "--device", "cuda", "--precision", precision) as address:
            call(
                "trapline",
                "classify",
                trained / "data" / "photos",
                "--server",
                address,
                "--model",
                "pair",
                "--out",
                out,
            )
        with out.open(newline="", encoding="utf-8") as file:
            found[precision] = {row["path"]: row["label_1"] for row in csv.DictReader(file)}
    assert len(found["fp32"]) == 200
    assert found["fp16"] == found["fp32"]


def test_a_job_gets_the_gpu(trained):
    """`trainer serve` finds the GPU, gives it to a job, and the job trains on it."""
    command = [sys.executable, "-c", "from trainer.cli import program; program()", "serve"]
    command += [
        "--data-root",
        trained / "data",
        "--runs-root",
        trained / "jobs",
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        "",
    ]
    command += ["--cache-dir", trained / "cache", "--min-free-gib", "0"]
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True) as service:
        try:
            address = service.stdout.readline().strip().rpartition("=")[2]
            with TrainJobs(address) as jobs:
                options = {"backbone": "resnet18", "weights": "none", "image_px": 64, "group_by": "none", "epochs": 1}
                job = jobs.create(dataset="photos", **options)
                ended = jobs.wait(job.name)
            assert ended.state == TrainJob.STATE_SUCCEEDED, ended
            (plan,) = (trained / "jobs").rglob("plan.json")
            assert json.loads(plan.read_text())["device"].startswith("cuda")
        finally:
            service.send_signal(signal.SIGTERM)
            assert service.wait(60) == 0


def test_a_lost_device_ends_the_server(trained, lose_device):
    """Readiness goes first, calls fail with a status, and the process ends with 1 for another to take its place."""
    command = [
        sys.executable,
        "-c",
        lose_device + LOSING,
        "run",
        "--models",
        str(trained / "models"),
        "--device",
        "cuda",
    ]
    command += ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    photo = next((trained / "data" / "photos" / "dark").iterdir()).read_bytes()
    asked = classify_pb2.ClassifyRequest(model="models/pair", image=photo)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().strip().rpartition("=")[2]
        assert " ready " in server.stdout.readline()
        with grpc.insecure_channel(address) as channel:
            classify = classify_pb2_grpc.ClassifyServiceStub(channel)
            assert classify.Classify(asked, timeout=20).predictions
            server.send_signal(signal.SIGUSR1)
            codes, ready = [], []
            end = time.monotonic() + 60
            while server.poll() is None and time.monotonic() < end:
                try:
                    classify.Classify(asked, timeout=10)
                except grpc.RpcError as error:
                    codes.append(error.code())
                with contextlib.suppress(grpc.RpcError):
                    asked_health = health_pb2.HealthCheckRequest()
                    ready.append(health_pb2_grpc.HealthStub(channel).Check(asked_health, timeout=5).status)
        assert server.wait(60) == 1
        said = server.stderr.read()
    assert "the GPU answers no more" in said
    assert codes
    assert health_pb2.HealthCheckResponse.NOT_SERVING in ready or grpc.StatusCode.UNAVAILABLE in codes
