"""Images are built from the shipped Dockerfiles on a base of this machine, and run shut in as the manifests say."""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

TOP = Path(__file__).parents[2]
#: Its layer, in the builder, in the image, and what pip unpacks meanwhile.
TRAINER_GIB = 40
BASE = "localhost/trapline-base:test"
#: This machine may not raise its limits, which podman's defaults would, and gives containers no network of their own.
HERE = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "none")


def shown(image):
    """The options that deploy/README.md runs an image with, but for volumes and ports, which are the test's own."""
    page = (TOP / "deploy" / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    words = re.search(rf"^\$ docker run (.*) {image}:local$", page, re.MULTILINE)[1]
    return re.sub(r"--(volume|publish) \S+", "", words).split()


@pytest.fixture(name="base", scope="module")
def _base(image_engine):
    try:
        image_engine.make_base(BASE)
    except image_engine.unavailable as reason:
        pytest.skip(str(reason))
    return BASE


class Container:
    """A container that runs, and what is asked inside of it."""

    def __init__(self, engine, name):
        self.engine, self.name = engine, name

    def tell(self, *words):
        """What a command says inside."""
        return self.engine.podman("exec", self.name, *words)

    def fails(self, *words):
        """What a command that must fail says inside."""
        with pytest.raises(self.engine.failed) as failed:
            self.tell(*words)
        return str(failed.value)

    def healthy(self, *words, seconds=120):
        """Waits until the image's own prober says SERVING."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                assert self.tell("trapline-health", *words).strip() == "SERVING"
            except self.engine.failed:
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.5)
            else:
                return

    def log(self):
        """What it has said."""
        return self.engine.podman("logs", self.name)

    def stop(self):
        """Stops it as an engine does; gives its exit code and the seconds that it took."""
        began = time.monotonic()
        self.engine.podman("stop", "--time", "45", self.name)
        took = time.monotonic() - began
        return int(self.engine.podman("inspect", "--format", "{{.State.ExitCode}}", self.name)), took


@pytest.fixture(name="run")
def _run(image_engine):
    """Runs an image shut in."""
    started = []

    def run(image, *options, words=()):
        name = f"trapline-test-{len(started)}"
        started.append(name)
        image_engine.podman(
            "run", "--detach", "--name", name, *HERE, *shown("trapline-server"), *options, image, *words
        )
        return Container(image_engine, name)

    yield run
    for name in started:
        image_engine.podman("rm", "--force", "--time", "0", name)


@pytest.fixture(name="folders")
def _folders(tmp_path, image_kit):
    """A folder of models and one of photos, as a volume that is mounted read only."""
    image_kit.publish(tmp_path / "models", "colours", 1, image_kit.model_bytes())
    (tmp_path / "photos").mkdir()
    for label, colour in {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}.items():
        (tmp_path / "photos" / f"{label}.png").write_bytes(image_kit.picture(colour))
    return tmp_path


def shut_in(container):
    """Asserts that it is nobody, has nothing and can write nowhere but to /tmp."""
    assert container.tell("id", "-u").strip() == "10001"
    status = dict(re.findall(r"^(\w+):\s+(\w+)", container.tell("cat", "/proc/1/status"), re.MULTILINE))
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for path in ("/x", "/opt/trapline/x", "/etc/x"):
        assert "Read-only file system" in container.fails("touch", path)
    container.tell("touch", "/tmp/x")
    assert "No module named" in container.fails("python", "-c", "import pip")
    # The builder was shown it.
    assert "No such file" in container.fails("cat", "/etc/pip.conf")


def test_the_servers_image_classifies_shut_in(base, image_engine, run, folders):
    """Read-only root, no capability, bounded memory: ready, every label right, no torch, and 0 when it is stopped."""
    image_engine.build("trapline-server:test", "deploy/server.Dockerfile", BASE_IMAGE=base)
    mounts = ("--volume", f"{folders}/models:/models:ro", "--volume", f"{folders}/photos:/photos:ro")
    server = run("trapline-server:test", *mounts)
    server.healthy("127.0.0.1:50053")
    server.tell("trapline", "classify", "/photos", "--model", "colours", "--out", "/tmp/answers.csv")
    rows = list(csv.DictReader(server.tell("cat", "/tmp/answers.csv").splitlines()))
    assert {row["path"]: row["label_1"] for row in rows} == {f"/photos/{x}.png": x for x in ("red", "green", "blue")}
    shut_in(server)
    assert "Read-only file system" in server.fails("touch", "/models/x")
    for module in ("torch", "torchvision", "onnx"):
        assert f"No module named '{module}'" in server.fails("python", "-c", f"import {module}")
    assert int(image_engine.podman("inspect", "--format", "{{.HostConfig.Memory}}", server.name)) == 4 * 2**30
    code, seconds = server.stop()
    assert code == 0, server.log()
    assert seconds < 40


@pytest.fixture(name="photos", scope="module")
def _photos(tmp_path_factory):
    """Drawn photos, as a volume that is mounted read only."""
    folder = tmp_path_factory.mktemp("drawn")
    subprocess.run([Path(sys.executable).with_name("trainer"), "sample", folder], check=True, capture_output=True)
    folder.chmod(0o755)
    return folder


def test_the_trainers_image_trains_shut_in(base, image_engine, run, photos, tmp_path):
    """With torch, as user 10001 on a read-only root: a job is trained and published, and the service ends with 0."""
    free_gib = shutil.disk_usage(image_engine.folder).free / 2**30
    if free_gib < TRAINER_GIB:
        pytest.skip(f"the trainer's image takes {TRAINER_GIB} GiB while it is built, and {free_gib:.0f} are free")
    image_engine.build("trapline-trainer:test", "deploy/trainer.Dockerfile", BASE_IMAGE=base)
    mounts = ["--volume", f"{photos}:/photos:ro"]
    for name in ("models", "jobs", "cache"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, 10001, 10001)
        mounts += ["--volume", f"{tmp_path}/{name}:/{name}"]
    trainer = run("trapline-trainer:test", *mounts)
    trainer.healthy("127.0.0.1:50055")
    options = ("--weights", "none", "--image-px", "32", "--epochs", "1", "--backbone", "squeezenet1_1")
    job = ("train", "submit", "photos", *options, "--model-id", "animals", "--promote", "always", "--watch")
    # It fails where the job does.
    trainer.tell("trapline", *job)
    assert (tmp_path / "models" / "animals" / "1" / "model.onnx").stat().st_uid == 10001
    shut_in(trainer)
    code, seconds = trainer.stop()
    assert code == 0, trainer.log()
    assert seconds < 40
