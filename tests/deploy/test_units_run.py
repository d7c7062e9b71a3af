"""What the units start is started, under the system calls that they leave it."""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

NAMES = ("server", "trainer")
PROGRAMS = Path(sys.executable).parent

#: `tests` has no packages to import from.
kit = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("units.py"))))
unit, environment, confinement = kit.unit, kit.environment, kit.confinement


@pytest.mark.parametrize(
    ("name", "works"),
    [
        ("os.getcwd()", NAMES),
        ("os.sched_setaffinity(0, os.sched_getaffinity(0))", NAMES),
        ("os.chown('x', 0, 0)", ()),
        ("socket.socket(socket.AF_PACKET)", ()),
        ("mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)", ("trainer",)),
    ],
)
def test_the_filter_holds(name, works):
    """Under a unit's filter ordinary calls work and others do not; the trainer alone may make code."""
    script = f"import mmap, os, socket\ntry: {name}\nexcept OSError: print('refused')"
    for unit_name in NAMES:
        command = [*confinement(unit_name), sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert (done.stdout == "") == (unit_name in works), unit_name


@pytest.fixture(name="local")
def _local(tmp_path, image_program, image_ports):
    """Starts what a unit starts under its filter, its folders below one folder and its ports free ones."""
    ports = dict(zip((50051, 50052, 50053, 50055, 9100, 9101), image_ports(6), strict=True))

    def start(name, **options):
        given = {}
        for key, value in environment(name).items():
            host, _, port = value.rpartition(":")
            given[key] = (
                f"{host}:{ports[int(port)]}" if host else value.replace("/", f"{tmp_path}/", value.startswith("/"))
            )
        for folder in (
            "srv/trapline/photos",
            "srv/trapline/jobs",
            "srv/trapline/models",
            "var/cache/trapline/tmp",
            "tmp",
        ):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (line,) = unit(name)["ExecStart"]
        program, *words = line.split()
        assert Path(program).parent == Path("/opt/trapline/bin")
        folder = tmp_path / unit(name)["WorkingDirectory"][0].lstrip("/")
        health = given[f"{name.upper()}_HEALTH"]
        command = [PROGRAMS / Path(program).name, *words]
        return image_program([*confinement(name), *command], given, health=health, cwd=folder, **options)

    return start


def test_the_server_runs_as_its_unit_says(local, image_kit, tmp_path):
    """Its command, variables and filter let it try out a version and serve it, and SIGTERM ends it with 0."""
    image_kit.publish(tmp_path / "srv" / "trapline" / "models", "colours", 1, image_kit.model_bytes())
    server = local("server")
    server.says("SERVING")
    code, seconds = server.end(signal.SIGTERM)
    assert code == 0
    assert seconds < int(unit("server")["TimeoutStopSec"][0])


def test_the_trainer_runs_as_its_unit_says(local):
    """Its command and variables start it until it is ready; SIGTERM ends it with 0."""
    trainer = local("trainer")
    trainer.says("SERVING")
    assert trainer.end(signal.SIGTERM)[0] == 0


@pytest.fixture(name="jobs")
def _jobs(tmp_path):
    """Gives the processes of jobs; ends them afterwards."""

    def processes():
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                if "trainer.jobs.child" in line and f"{tmp_path}/" in line:
                    found.append(int(entry.name))
        return found

    yield processes
    for process in processes():
        os.kill(process, signal.SIGKILL)


def until(condition, *, seconds=600):
    """Waits for `condition`; what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(1)
    return found


@pytest.mark.full
@pytest.mark.timeout(900)
def test_jobs_outlive_a_crash_and_are_ended_by_a_stop(local, jobs, tmp_path):
    """Under the unit's filter a crashed service's job is the next one's, and a stop leaves no process.

    `KillMode=process`: systemd's part is a signal to the service's process alone, and that is sent here.
    """
    assert unit("trainer")["KillMode"] == ["process"]
    service = local("trainer")
    service.says("SERVING")
    (address,) = [
        line.split("listen=")[1].split()[0] for line in service.said() if line.startswith("trainer listening")
    ]

    def call(program, *words):
        command = [PROGRAMS / program, *words]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    def shown(job):
        return json.loads(call("trapline", "train", "show", job, "--json", "--server", address))

    data = tmp_path / "srv" / "trapline" / "photos"
    call("trainer", "sample", data)
    options = ("--weights", "none", "--backbone", "squeezenet1_1", "--image-px", "32", "--epochs", "3")
    naming = ("--model-id", "animals", "--promote", "always")
    job = call("trapline", "train", "submit", "photos", *options, *naming, "--server", address).split()[0].rstrip(":")
    (child,) = until(jobs)
    until(lambda: "progress" in shown(job))

    assert service.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert jobs() == [child]
    service = local("trainer")
    service.says("SERVING")
    assert jobs() == [child]
    assert shown(job)["attemptCount"] == 1

    code, seconds = service.end(signal.SIGTERM)
    assert code == 0
    assert seconds < int(unit("trainer")["TimeoutStopSec"][0])
    assert jobs() == []
    service = local("trainer")
    service.says("SERVING")
    ended = until(lambda: (found := shown(job))["state"] in ("STATE_SUCCEEDED", "STATE_FAILED") and found)
    assert ended["state"] == "STATE_SUCCEEDED", ended
    assert (tmp_path / "srv" / "trapline" / "models" / "animals" / "1" / "model.onnx").exists()
    assert service.end(signal.SIGTERM)[0] == 0
