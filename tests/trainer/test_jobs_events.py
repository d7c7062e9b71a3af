import json
import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.jobs import events as events_module
from trainer.jobs.child import hiding
from trainer.jobs.events import EventFile, Outcome, read
from trainer.progress import Progress, Validation
from trapline.v1 import train_pb2
from trapline.v1.metadata_pb2 import Evaluation


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def test_what_is_told_is_read(path):
    """Sentences, progress with all its figures, and the outcome with its own, which the offset stays before."""
    file = EventFile(path)
    file.say("12 photos\nof 3 classes")
    validation = Validation(epoch=1, loss=0.5, accuracy=0.75, balanced_accuracy=0.7, image_count=8)
    figures = {"epoch": 2, "epoch_count": 3, "train_loss": 0.41, "validation": validation}
    file.progress(Progress(phase="fine-tune", done=4, total=9, figures="loss 0.41", **figures))
    outcome = Outcome(
        result="it is done",
        evaluation=Evaluation(accuracy=0.5, image_count=4),
        publication=train_pb2.Publication(model_id="deer", version="3", reason="better"),
    )
    file.succeeded(outcome)
    told = read(path, 0)
    sentence, progress = told.events
    assert sentence.sentence == "12 photos\nof 3 classes"
    assert progress.event_time.seconds > 1e9
    assert (progress.progress.epoch, progress.progress.train_loss) == (2, 0.41)
    assert progress.progress.validation.balanced_accuracy == 0.7
    assert told.outcome == outcome
    assert read(path, told.offset) == events_module.Told(events=(), offset=told.offset, outcome=outcome)


def test_a_failure_is_read(path):
    """Its sentence."""
    EventFile(path).failed("the disk is full")
    assert read(path, 0).outcome == Outcome(failure="the disk is full")


def test_no_file_yet_tells_nothing(path):
    """A child that has not begun."""
    assert read(path, 0) == events_module.Told(events=(), offset=0, outcome=None)


def test_progress_is_told_once_a_second_and_at_each_end(path):
    """Of a hundred steps in ten seconds about ten are told, and the last; a rate is told as soon as it is known."""
    seconds = iter(number / 10 for number in range(1, 200))
    file = EventFile(path, clock=lambda: next(seconds))
    for step in range(1, 101):
        file.progress(Progress(phase="scan", done=step, total=100))
    file.progress(Progress(phase="head", done=1, total=1))
    told = [event.progress for event in read(path, 0).events]
    assert 10 <= len(told) <= 13
    assert (told[-2].phase, told[-2].done, told[-2].remaining.ToNanoseconds()) == ("scan", 100, 0)
    assert (told[-1].phase, told[-1].done) == ("head", 1)
    assert told[5].per_second == pytest.approx(10)
    assert told[5].remaining.ToMilliseconds() == pytest.approx(100 * (100 - told[5].done), abs=1)


def test_names_that_are_no_text_are_told(path):
    """A file's name in another encoding, and a sentence without end, are told as far as they can be."""
    file = EventFile(path)
    file.say("left out: " + os.fsdecode(b"caf\xe9.jpg"))
    file.say("x" * 50_000)
    first, second = read(path, 0).events
    assert first.sentence == r"left out: caf\udce9.jpg"
    assert 10_000 <= len(second.sentence) < 10_010


def test_lines_that_are_none_are_skipped(path):
    """Torn ones, those of a newer Trapline, and bytes that nobody told; what is around them is read."""
    told = b'{"time": 5, "sentence": "%d"}\n'
    strange = [b"{\n", b"\n", b"\xff\xfe\n", b"[]\n", b"7\n", b'{"time": 5, "dance": 1}\n', b'{"sentence": "x"}\n']
    strange += [b'{"time": "x", "sentence": "x"}\n', b'{"time": 5, "sentence": 5}\n', b'{"time": 5, "progress": 5}\n']
    strange += [b'{"succeeded": 5}\n', b'{"succeeded": {"result": "", "evaluation": {"loss": "x"}}}\n']
    newer = b'{"time": 5, "progress": {"phase": "scan", "joy": 7}}\n'
    path.write_bytes(b"".join(told % number + line for number, line in enumerate(strange)) + newer)
    read_all = read(path, 0)
    assert [event.sentence for event in read_all.events[:-1]] == [str(number) for number in range(len(strange))]
    assert read_all.events[-1].progress.phase == "scan"
    assert read_all.offset == path.stat().st_size
    assert read_all.outcome is None


def test_a_long_file_is_read_in_pieces(path, monkeypatch):
    """Piece after piece every event comes once; a line longer than any of ours is passed over."""
    monkeypatch.setattr(events_module, "_CHUNK_BYTES", 200)
    file = EventFile(path)
    for number in range(50):
        file.say(str(number))
    os.write(os.open(path, os.O_WRONLY | os.O_APPEND), b"x" * 1000 + b"\n")
    file.say("last")
    offset, sentences = 0, []
    while (told := read(path, offset)).offset > offset:
        assert told.offset - offset <= 200
        offset = told.offset
        sentences += [event.sentence for event in told.events]
    assert sentences == [*map(str, range(50)), "last"]


def test_a_full_disk_stops_no_training(tmp_path):
    """What cannot be written is left out, and a half line is ended by the next; an outcome that is not is an error."""
    path, child = tmp_path / "events.jsonl", os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        file = EventFile(path)
        file.say("before")
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
        file.say("torn")
        file.progress(Progress(phase="scan", done=1, total=1))
        try:
            file.failed("lost")
        except OSError:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            file.say("after")
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert [event.sentence for event in read(path, 0).events] == ["before", "after"]
    assert b'"torn' not in path.read_bytes()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_torn_anywhere_and_gone_on(tmp_path_factory, data):
    """Processes are killed at any byte of a line and go on; a service reads at any time, and is killed before it keeps.

    Every whole line is kept once, in order, whatever is torn; the offset only ever lies between lines.
    """
    path = tmp_path_factory.mktemp("torn") / "events.jsonl"
    kept, offset, whole = [], 0, []

    def look():
        nonlocal kept, offset
        told = read(path, offset)
        assert told.offset == 0 or path.read_bytes()[told.offset - 1 : told.offset] == b"\n"
        if data.draw(st.booleans(), label="kept"):
            kept, offset = kept + [event.sentence for event in told.events], told.offset

    for process in range(data.draw(st.integers(1, 4), label="processes")):
        file = EventFile(path)
        for number in range(data.draw(st.integers(0, 3), label="lines")):
            file.say(f"{process} {number}")
            whole.append(f"{process} {number}")
            look()
        line = json.dumps({"time": 5, "sentence": f"{process} torn"}).encode() + b"\n"
        cut = data.draw(st.integers(0, len(line) - 1), label="cut")
        os.write(file._descriptor, (b"\n" if file._torn else b"") + line[:cut])
        if cut == len(line) - 1:
            whole.append(f"{process} torn")
        os.close(file._descriptor)
        look()
    file = EventFile(path)
    file.say("end")
    told = read(path, offset)
    assert kept + [event.sentence for event in told.events] == [*whole, "end"]


def test_paths_of_the_machine_are_not_told():
    """Files below a hidden folder are told by their path below it, the folder itself by its name; others stay."""
    shown = hiding([Path("/srv/runs/a/run"), Path("/srv/runs"), Path("/srv/data")])
    assert shown("report: /srv/runs/a/run/report.html") == "report: report.html"
    assert shown("the disk of /srv/runs/a/run is full") == "the disk of run is full"
    assert shown("look at /srv/data/flowers/red/1.jpg, /srv/data/ and /srv/database") == (
        "look at flowers/red/1.jpg, data and /srv/database"
    )
    assert shown("/srv/runs/b: no") == "b: no"
