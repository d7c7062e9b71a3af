"""`trainer run` in several processes, as `torchrun` starts them: one run, one writer, the result of one process."""

import csv
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

# Three imports of torch a launch.
pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

PROGRAMS = Path(sys.executable).parent


def launch(*arguments, nodes=("--standalone", "--nproc-per-node", "2"), **environment):
    """A torchrun in the background, in a session of its own."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"} | environment
    return subprocess.Popen(
        [PROGRAMS / "torchrun", *nodes, "--no-python", PROGRAMS / "trainer", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def ended(process, code=0, *, timeout_seconds=400):
    """What a torchrun said, when it ends; no process that it started is left."""
    workers = children(process.pid)
    stdout, stderr = process.communicate(timeout=timeout_seconds)
    assert process.returncode == code, stderr
    # A traceback of torchrun's own is no fault of ours.
    assert "trainer/cli.py" not in stderr, stderr
    # Whoever was killed may take a moment to be gone; the test's own time limit ends a vain wait.
    for worker in workers:
        with suppress(ProcessLookupError):
            ending = os.pidfd_open(worker)
            select.select([ending], [], [])
            os.close(ending)
    return stdout, stderr


def status(process):
    """State of a process (Z: dead, and nobody has asked yet) and the id of its parent; empty where there is none."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return "", ""
    return fields[0], fields[1]


def children(process):
    """Ids of the processes that `process` started, in order."""
    everyone = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return sorted(other for other in everyone if status(other)[1] == str(process))


def wait_for(path, process):
    """Returns when `path` is there, or was written anew."""
    before = path.stat().st_mtime_ns if path.exists() else None
    while not path.exists() or path.stat().st_mtime_ns == before:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def together(command, tmp_path_factory):
    """A finished run of two processes: its folder and what it said."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "scratch").mkdir()
    said = ended(launch(*command(folder / "run"), TMPDIR=str(folder / "scratch")))
    return folder / "run", *said


def test_two_processes_do_what_one_does(command, together, call, tmp_path):
    """Figures, probabilities and history are one process's; every sentence is said once; nothing else is written."""
    out, stdout, stderr = together
    alone = call("trainer", *command(tmp_path / "run"), timeout_seconds=400)
    one, two = (json.loads((run / "metrics.json").read_text()) for run in (tmp_path / "run", out))
    for key in ("labels", "split", "stage", "epoch", "data_digest"):
        assert one[key] == two[key]
    assert one["stage"] == "finetune"
    assert one["test"]["accuracy"] == two["test"]["accuracy"]
    assert one["head"]["strength"] == two["head"]["strength"]
    assert len(one["history"]) == len(two["history"]) == 5
    for own, other in zip(one["history"], two["history"], strict=True):
        for key in ("validation_loss", "train_loss", "standard_error"):
            assert other[key] == pytest.approx(own[key], abs=1e-3)
    np.testing.assert_allclose(probabilities(out), probabilities(tmp_path / "run"), rtol=0, atol=1e-3)
    assert json.loads((out / "plan.json").read_text())["processes"] == 2
    assert stdout.replace(str(out), "RUN").splitlines()[0] == alone.stdout.splitlines()[0]
    assert stdout.count("test accuracy") == 1
    # But for the figures in them, and the part of the images that the first process has: the same lines, once.
    phases, same = ([line.split(" ")[0] for line in text.splitlines()] for text in (alone.stderr, stderr))
    assert [word for word in same if word in set(phases)] == phases
    files = [
        {path.relative_to(run).parts[0] for path in run.rglob("*") if path.is_file()} for run in (tmp_path / "run", out)
    ]
    assert files[0] == files[1]
    assert not list((out.parent / "scratch").glob("tmp*"))


def probabilities(out):
    """Those of predictions.csv, in its order."""
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[name]) for name in row if name.startswith("probability_")] for row in rows])


def test_a_finished_run_answers_every_process(home, command, together):
    """The same command prints the result and changes nothing, also when only the times of the photos have changed."""
    out, stdout, _ = together
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "state.json"}
    assert ended(launch(*command(out)))[0] == stdout
    (home / "photos" / "red" / "000.png").touch()
    again, said = ended(launch(*command(out)))
    assert again == stdout
    assert "fine-tune" not in said
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--backbone", "resnet81"), "did you mean resnet18"),
        (("--epochs", "-1"), "--epochs: must be greater than or equal to 0"),
        (("--batch-size", "3"), "steps of 3 images are too small for 2 processes; give at least 4"),
    ],
)
def test_a_usage_error_is_said_once(command, tmp_path, more, sentence):
    """What is wrong for both processes is one sentence, and the launch fails."""
    _, said = ended(launch(*command(tmp_path / "run", *more)), code=1)
    assert said.count(sentence) == 1, said


def test_killed_processes_go_on_with_equal_bytes(command, together, tmp_path):
    """Killed by -9, first one of the two, which ends the other, then all: the same command ends with the same bytes."""
    out = tmp_path / "run"
    process = launch(*command(out))
    wait_for(out / "checkpoint" / "progress.safetensors", process)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    _, said = ended(process, code=1, timeout_seconds=90)
    state = json.loads((out / "state.json").read_text())
    assert state["state"] in {"failed", "interrupted"}, said
    if state["state"] == "failed":
        assert "another process of this run has ended or cannot be reached" in said
    process = launch(*command(out))
    wait_for(out / "checkpoint" / "progress.safetensors", process)
    for victim in (process.pid, *children(process.pid)):
        os.kill(victim, signal.SIGKILL)
    ended(process, code=-signal.SIGKILL)
    ended(launch(*command(out)))
    for name in ("weights.safetensors", "predictions.csv"):
        assert (out / name).read_bytes() == (together[0] / name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_recorded_and_leaves_no_process(command, tmp_path, number):
    """Ctrl-C or SIGTERM for torchrun stops all: the state is `interrupted`, the folder is free again."""
    out = tmp_path / "run"
    process = launch(*command(out))
    wait_for(out / "checkpoint" / "progress.safetensors", process)
    process.send_signal(number)
    _, said = ended(process, code=1, timeout_seconds=90)
    assert json.loads((out / "state.json").read_text())["state"] == "interrupted", said
    assert not list(out.glob(".*.tmp"))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_machines_with_other_photos_are_refused(home, command, tmp_path, draw_jpegs):
    """Two machines (here: two launches of one process each) with different photos train nothing, and are told."""
    draw_jpegs(tmp_path / "photos" / "bright", (180, 170, 150), count=12, seed=1)
    draw_jpegs(tmp_path / "photos" / "dark", (20, 30, 25), count=12, seed=2)
    nodes = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    processes = [
        launch(*command(tmp_path / str(rank) / "run", photos=photos), nodes=(*nodes, "--node-rank", str(rank)))
        for rank, photos in enumerate((home / "photos", tmp_path / "photos"))
    ]
    said = [ended(process, code=1)[1] for process in processes]
    assert said[0].count("process 1 of this run finds other photos in") == 1
    assert said[0].count("give every machine the same folder") == 1
    assert not (tmp_path / "1" / "run").exists()
