import json
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from kube.kubelet import Pod, pod_address
from kube.model import publish
from kube.workloads import config_maps, workloads
from PIL import Image

from trapline.v1 import model_pb2, model_pb2_grpc

# Each container starts for real; a Job's imports torch.
pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

PROGRAMS = Path(sys.executable).parent
#: What operators set for photos as few as these: `trainer run` on them takes seconds.
SMALL = {"TRAINER_EPOCHS": "1", "TRAINER_IMAGE_PX": "32", "TRAINER_BATCH_SIZE": "8"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The claim of photos: the data set `hills`, and random weights where the manifests look for torchvision's."""
    import torch

    from trainer import backbone

    folder, chance = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, colour in {"deer": (160, 80, 80), "fox": (80, 160, 80)}.items():
        (folder / "hills" / label).mkdir(parents=True)
        for number in range(16):
            pixels = np.array(colour) + chance.integers(-60, 60, 3) + chance.integers(-60, 60, (40, 40, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(folder / "hills" / label / f"{number:02}.png")
    (folder / "weights").mkdir()
    built = backbone.build("mobilenet_v2", label_count=1000, image_px=32, weights="none")
    torch.save(built.network.state_dict(), folder / "weights" / "mobilenet_v2.pth")
    return folder


@pytest.fixture
def cluster(tmp_path, photos, certificates, rendered):
    """Gives a context of one Pod of a workload in a combination; claims keep what is in them over the test."""
    claims = {f"trapline-{name}": tmp_path / "claims" / name for name in ("models", "runs")}
    claims |= {"trapline-photos": photos, "jobs": tmp_path / "claims" / "jobs"}
    # As on a disk of its own: what a file system makes there by itself.
    (claims["jobs"] / "lost+found").mkdir(parents=True)
    for program in ("server", "trainer"):
        for kind in ("tls", "tokens"):
            claims[f"trapline-{program}-{kind}"] = tmp_path / "secrets" / program / kind
            claims[f"trapline-{program}-{kind}"].mkdir(parents=True)
        shutil.copy(certificates.server.cert, claims[f"trapline-{program}-tls"] / "tls.crt")
        shutil.copy(certificates.server.key, claims[f"trapline-{program}-tls"] / "tls.key")
        (claims[f"trapline-{program}-tokens"] / "tokens").write_text("camera:" + "c" * 64)
        (claims[f"trapline-{program}-tokens"] / "admins").write_text("admin:" + "a" * 64)
    started = []

    @contextmanager
    def pod(combination, kind, name, **options):
        documents = rendered(combination)
        (found,) = (each for each in workloads(documents) if (each.kind, each.name) == (kind, name))
        log = tmp_path / f"pod-{len(started)}"
        log.mkdir()
        made = Pod(found, config_maps(documents), address=pod_address(len(started)), volumes=claims, log=log, **options)
        started.append(made)
        try:
            yield made
        finally:
            made.kill()

    pod.claims = claims
    return pod


def trapline(*words, code=0):
    """What the client says."""
    done = subprocess.run([PROGRAMS / "trapline", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def page(pod, port):
    """The metrics of a Pod."""
    with urllib.request.urlopen(f"http://{pod.address}:{port}/metrics", timeout=5) as answer:
        return answer.read().decode()


def test_the_server_of_cpu(cluster, photos):
    """It becomes ready by its probes, answers a photo, shows its metrics, tells no caller to reload, drains with 0."""
    publish(cluster.claims["trapline-models"])
    with cluster("cpu", "Deployment", "trapline-server") as pod:
        pod.become_ready()
        assert pod.probe("livenessProbe")
        address = f"{pod.address}:50051"
        photo = next((photos / "hills" / "deer").iterdir())
        assert "red" in trapline("classify", photo, "--server", address, "--model", "colours")
        assert "trapline_queue_seconds_bucket" in page(pod, 9100)
        trapline("reload", "colours", "--server", address, code=1)
        trapline("reload", "colours", "--server", f"{pod.address}:50054")
        assert pod.stop() == 0


def test_the_server_of_gpu_never_falls_back(cluster):
    """On a machine without a GPU it says so and ends; it does not serve from processors."""
    import onnxruntime

    if Path("/dev/nvidiactl").exists() and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has a GPU: what is promised here is what happens without one")
    publish(cluster.claims["trapline-models"])
    with cluster("gpu", "Deployment", "trapline-server") as pod:
        pod.start()
        assert pod.process.wait(timeout=60) == 1
        assert "cuda" in pod.said.read_text().lower()


def test_the_server_with_tls(cluster, photos, certificates):
    """Probes need no certificate; callers need the CA's and a token."""
    publish(cluster.claims["trapline-models"])
    photo = next((photos / "hills" / "deer").iterdir())
    with cluster("cpu-tls", "Deployment", "trapline-server") as pod:
        pod.become_ready()
        # The certificate is of `localhost`, as for a port that is forwarded: gRPC is told so.
        address = f"{pod.address}:50051"
        ask = ("classify", photo, "--model", "colours", "--server", address)
        assert "it may speak TLS" in trapline(*ask, "--timeout-seconds", "3", code=1)
        answer = asked_by_name(address, certificates.ca, "c" * 64)
        assert answer.models
        with pytest.raises(grpc.RpcError) as refused:
            asked_by_name(address, certificates.ca, "wrong" * 10)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert pod.stop() == 0


def asked_by_name(address, authority, token):
    """The models that a server lists to whoever has this token."""
    credentials = grpc.ssl_channel_credentials(authority.read_bytes())
    options = [("grpc.ssl_target_name_override", "localhost")]
    with grpc.secure_channel(address, credentials, options) as channel:
        stub, metadata = model_pb2_grpc.ModelServiceStub(channel), [("authorization", f"Bearer {token}")]
        return stub.ListModels(model_pb2.ListModelsRequest(), timeout=10, metadata=metadata)


@pytest.mark.parametrize("combination", ["cpu", "gpu", "cpu-tls"])
def test_the_train_service(cluster, combination):
    """It becomes ready on its own volumes, shows its metrics, and drains with 0."""
    with cluster(combination, "StatefulSet", "trapline-trainer") as pod:
        pod.become_ready()
        assert pod.probe("livenessProbe")
        assert "trapline_train_jobs" in page(pod, 9101)
        assert pod.stop() == 0


def test_dev_goes_from_nothing_to_answers(cluster):
    """The server waits without a model, the trainer draws its sample and trains on it, the server then serves that."""
    with (
        cluster("dev", "Deployment", "trapline-server") as server,
        cluster("dev", "StatefulSet", "trapline-trainer") as trainer,
    ):
        server.start()
        server.wait_for("startupProbe")
        assert not server.probe("readinessProbe")
        trainer.become_ready()
        small = ("--weights", "none", "--image-px", "32", "--epochs", "1")
        words = ("train", "submit", "sample/photos", "--model-id", "animals", *small, "--watch")
        trapline(*words, "--server", f"{trainer.address}:50052")
        server.wait_for("readinessProbe", tries=60)
        assert "animals" in trapline("models", "--server", f"{server.address}:50051")
        assert trainer.stop() == 0
        assert server.stop() == 0


def test_a_run_every_night(cluster):
    """It trains, publishes and ends with 0."""
    with cluster("cpu-all", "CronJob", "trapline-train", more=SMALL) as pod:
        pod.start()
        assert pod.process.wait(timeout=400) == 0, pod.said.read_text()
    assert (cluster.claims["trapline-models"] / "hills" / "1" / "model.onnx").is_file()


def test_a_run_once_resumes_and_is_done_once(cluster):
    """The Pod after a killed one goes on from the checkpoint; the one after that prints the result alone."""
    run = cluster.claims["trapline-runs"] / "trapline-train-once"
    progress = run / "checkpoint" / "progress.safetensors"
    # A checkpoint at each of many steps.
    more = SMALL | {"TRAINER_CHECKPOINT_MINUTES": "0.00001", "TRAINER_EPOCHS": "3"}
    with cluster("cpu-all", "Job", "trapline-train-once", more=more) as pod:
        pod.start()
        while not progress.exists():
            assert pod.process.poll() is None, pod.said.read_text()
    said = [pod.said.read_text()]
    for _ in range(2):
        with cluster("cpu-all", "Job", "trapline-train-once", more=more) as pod:
            pod.start()
            assert pod.process.wait(timeout=400) == 0, pod.said.read_text()
            said.append(pod.said.read_text())
    # The head was fitted once, by the Pod that was killed; the network was trained by the next, and by no other.
    assert ["features 24/24" in text for text in said] == [True, False, False]
    assert ["fine-tune" in text for text in said[1:]] == [True, False]
    assert json.loads((run / "state.json").read_text())["state"] == "done"
    assert "test accuracy" in said[2]
    assert [each.name for each in (cluster.claims["trapline-models"] / "hills").iterdir()] == ["1"]


@pytest.mark.parametrize(("kind", "name"), [("Job", "trapline-train-nodes"), ("TrainJob", "trapline-train")])
def test_a_run_on_two_nodes(cluster, kind, name):
    """Two Pods' torchruns meet, train one run as two processes, publish it and end with 0."""
    # Names of Pods lead to their addresses in a cluster; here all are on one machine.
    more = SMALL | {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "29517", "GLOO_SOCKET_IFNAME": "lo"}
    by_kubeflow = kind == "TrainJob"
    if by_kubeflow:
        # What Kubeflow's runtime sets on each node.
        more |= {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1"}
    pods = [
        cluster("cpu-all", kind, name, index=rank, more=more | ({"PET_NODE_RANK": str(rank)} if by_kubeflow else {}))
        for rank in range(2)
    ]
    with pods[0] as first, pods[1] as second:
        first.start()
        second.start()
        for pod in (first, second):
            assert pod.process.wait(timeout=400) == 0, pod.said.read_text()
    run = cluster.claims["trapline-runs"] / ("trapline-train-kubeflow" if by_kubeflow else name)
    assert json.loads((run / "plan.json").read_text())["processes"] == 2
    assert (cluster.claims["trapline-models"] / "hills" / "1" / "model.onnx").is_file()
