import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest

from trainer.config import RunConfig
from trainer.jobs.events import read

# A child whose run does what its first argument says, in place of training.
CHILD = """
import errno, json, os, signal, sys
import trainer.run
from trainer.dataset.fingerprint import fingerprint
from trainer.errors import TrainerError

what = sys.argv.pop(1)

def run(config, folder, report, world):
    report.say(f"{what} on {len(os.sched_getaffinity(0))}")
    if what == "fails":
        raise TrainerError(f"the disk of {config.out} is full; look at {config.data}/red")
    if what == "finds no room":
        raise TrainerError(f"the disk of {config.out} is full") from OSError(errno.ENOSPC, "No space left on device")
    if what == "is over its quota":
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    if what == "breaks":
        raise ZeroDivisionError("secret")
    if what == "waits":
        folder.set_state("running")
        print("waits", flush=True)
        signal.pause()
    if what == "publishes":
        folder.set_state("running", publishing="digest")
        os.kill(os.getpid(), signal.SIGTERM)
    if what == "is asked to stop":
        os.kill(os.getpid(), signal.SIGTERM)
    test = {"loss": 0.5, "accuracy": 0.75, "balanced_accuracy": 0.7, "image_count": 8}
    reason = f"it is better than {config.publish}/deer/2"
    publication = {"model_id": "deer", "version": "3", "reason": reason, "comparison": None}
    metrics = {"test": test, "epoch": 2, "publication": publication}
    (folder.path / "plan.json").write_text("{}")
    (folder.path / "metrics.json").write_text(json.dumps(metrics))
    result = f"report: {config.out}/report.html"
    folder.set_state("done", fingerprint=fingerprint(config.data), result=result)
    return result

trainer.run.run = run
from trainer.jobs.child import program
program()
"""


@pytest.fixture
def child(tmp_path):
    """Starts a child that does one thing, on a folder with its order; gives the process."""
    folder, processes = tmp_path / "runs" / "job", []
    for label in ("red", "blue"):
        (tmp_path / "data" / "photos" / label).mkdir(parents=True)
        (tmp_path / "data" / "photos" / label / "1.png").write_bytes(b"a photo, to its name")
    folder.mkdir(parents=True)
    config = RunConfig(
        data=tmp_path / "data" / "photos", out=folder / "run", publish=tmp_path / "models", model_id="deer", epochs=2
    )
    options = config.model_dump(mode="json")

    def start(what, *, last_attempt=False, **changed):
        order = {"options": {**options, **changed}, "hidden": [str(tmp_path / "data")], "processors": None}
        order["last_attempt"] = last_attempt
        if what == "counts":
            order["processors"] = sorted(os.sched_getaffinity(0))[:1]
        (folder / "order.json").write_text(json.dumps(order))
        line = [sys.executable, "-c", CHILD, what, folder]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(line, text=True, env={**os.environ, "TRAINER_EPOCHS": "7"}, **pipes))
        return processes[-1]

    start.folder = folder
    yield start
    for process in processes:
        process.kill()
        process.communicate()


def told_by(child, what, **changed):
    """What a child told until its end, and its exit code."""
    process = child(what, **changed)
    errors = process.communicate()[1]
    return read(child.folder / "events.jsonl", 0), process.returncode, errors


def test_a_run_that_is_done_tells_its_figures(child):
    """Result, test figures and publication, without a path of the machine."""
    told, code, _ = told_by(child, "done")
    assert code == 0
    outcome = told.outcome
    assert (outcome.failure, outcome.result) == (None, "report: report.html")
    assert (outcome.evaluation.epoch, outcome.evaluation.accuracy, outcome.evaluation.image_count) == (2, 0.75, 8)
    published = outcome.publication
    assert (published.version, published.reason) == ("3", "it is better than deer/2")
    assert not published.HasField("comparison")


def test_a_run_that_is_done_already_tells_it_again(child):
    """Killed between its end and telling it, the next process does not run again."""
    told, _, _ = told_by(child, "done")
    (child.folder / "events.jsonl").unlink()
    again, code, _ = told_by(child, "fails")
    assert (again.outcome, again.events, code) == (told.outcome, (), 0)


def test_a_run_that_fails_tells_its_sentence(child):
    """With names below the roots in place of paths."""
    told, code, _ = told_by(child, "fails")
    assert told.outcome.failure == "the disk of run is full; look at photos/red"
    assert code == 1


def test_a_fault_is_told_without_its_inside(child):
    """What it was is in the child's log alone; and options that are none are such a fault, too."""
    told, code, errors = told_by(child, "breaks")
    assert (
        told.outcome.failure == "the run ended by a fault of the trainer; the operator finds it in the job's child.log"
    )
    assert "ZeroDivisionError: secret" in errors
    assert code == 1
    (child.folder / "events.jsonl").unlink()
    told, _, errors = told_by(child, "done", epochs=-1)
    assert told.outcome.failure.startswith("the run ended by a fault")
    assert "greater than or equal to 0" in errors


@pytest.mark.parametrize(
    ("what", "sentence", "failure"),
    [
        ("finds no room", "the disk of run is full", "the disk of run is full"),
        ("is over its quota", "a disk is full", "the run ended by a fault"),
    ],
)
def test_a_full_disk_is_no_end(child, what, sentence, failure):
    """It is said and no outcome told, so that the service starts it again; the last attempt fails by it."""
    told, code, _ = told_by(child, what)
    assert ([event.sentence for event in told.events[1:]], told.outcome, code) == ([sentence], None, 1)
    told, _, _ = told_by(child, what, last_attempt=True)
    assert told.outcome.failure.startswith(failure)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_child_that_is_stopped_tells_no_end(child, number):
    """Its run is interrupted, to go on later."""
    process = child("waits")
    assert process.stdout.readline() == "waits\n"
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert read(child.folder / "events.jsonl", 0).outcome is None


def test_a_run_that_publishes_is_not_stopped(child):
    """From then on it ends as done: a cancelled job never has published."""
    told, code, _ = told_by(child, "publishes")
    assert (told.outcome.failure, code) == (None, 0)


@pytest.mark.parametrize("there", [True, False])
def test_a_run_that_has_published_is_not_stopped(child, tmp_path, there):
    """Killed between publishing and saying so, its next process does what is left, whoever asks it to stop."""
    process = child("waits")
    assert process.stdout.readline() == "waits\n"
    process.kill()
    process.wait()
    state_file = child.folder / "run" / "state.json"
    published = hashlib.sha256(b"a model").hexdigest()
    state_file.write_text(json.dumps({**json.loads(state_file.read_text()), "publishing": published}))
    (child.folder / "run" / "plan.json").write_text("{}")
    version = tmp_path / "models" / "deer" / "3"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"a model" if there else b"another one")
    told, code, _ = told_by(child, "is asked to stop")
    assert (told.outcome is not None, code) == ((True, 0) if there else (False, 128 + signal.SIGTERM))


def test_its_processors_are_those_of_the_order(child):
    """And its options too, whatever the environment says."""
    told, _, _ = told_by(child, "counts")
    assert told.events[0].sentence == "counts on 1"
    assert json.loads((child.folder / "run" / "state.json").read_text())["config"]["epochs"] == 2
