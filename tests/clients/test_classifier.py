import contextlib
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.classifier import Classifier
from clients.connection import ServerUnreachable
from trapline.errors import (
    ImageTooLarge,
    ImageUnreadable,
    ModelInvalid,
    ModelNotFound,
    QueueFull,
    Refusal,
    RequestInvalid,
    ShuttingDown,
)


def labels_of(results):
    return [result.answer.predictions[0].label_id.encode() for result in results]


def images(count):
    return [b"animal %d" % number for number in range(count)]


def test_one_image_from_bytes_and_from_a_path(running, tmp_path):
    """`classify` takes bytes or a path and gives typed predictions, best first, with the version that answered."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"badger")
    with Classifier(running.address, model="fox") as classifier:
        answer = classifier.classify(path, top_k=1)
        assert classifier.classify(b"badger", top_k=1) == answer
    assert [(item.label_id, item.score) for item in answer.predictions] == [("badger", 0.75)]
    assert (answer.model, answer.model_version) == ("models/fox", "3")


def test_busy_and_starting_servers_are_asked_again(running):
    """UNAVAILABLE and a full queue are tried again; the caller sees only the answer."""
    running.script.call_refusals = [
        ShuttingDown("bye"),
        QueueFull("full", retry_seconds=0.01),
        ShuttingDown("bye"),
    ]
    with Classifier(running.address, model="fox") as classifier:
        assert classifier.classify(b"fox").predictions[0].label_id == "fox"


def test_a_full_queue_is_a_queue_full_when_time_is_over(running):
    """RetryInfo beyond the timeout ends the wait at once, with the server's own refusal."""
    with Classifier(running.address, model="fox", timeout_seconds=5) as classifier:
        classifier.model()
        running.script.call_refusals = [QueueFull("the queue is full", retry_seconds=60)]
        with pytest.raises(QueueFull, match="the queue is full"):
            classifier.classify(b"fox")


def test_a_loading_model_is_waited_for(running):
    """A model that is still being loaded is waited for."""
    running.script.loading_count = 2
    with Classifier(running.address, model="fox") as classifier:
        assert classifier.model().version == "3"


def test_a_broken_model_is_told_in_the_servers_words(running):
    """A model that cannot be served is a ModelInvalid with the server's own sentence, once."""
    with Classifier(running.address, model="hen") as classifier, pytest.raises(ModelInvalid) as failed:
        classifier.classify_many([b"fox"])
    assert failed.value.message == "model.onnx is no ONNX file"


def test_what_is_wrong_with_the_call_is_said_at_once(running, nobody):
    """An unknown model, a bad argument and a server that is not there raise where they are asked for."""
    with Classifier(running.address, model="owl") as classifier:
        with pytest.raises(ModelNotFound, match="models/owl is not served"):
            classifier.classify_many([b"fox"])
        with pytest.raises(RequestInvalid, match="window"):
            classifier.classify_many([b"fox"], window=0)
        with pytest.raises(RequestInvalid, match="top_k"):
            classifier.classify_many([b"fox"], top_k=0)
        with pytest.raises(RequestInvalid, match="min_score"):
            classifier.classify_many([b"fox"], min_score=2)
        with pytest.raises(RequestInvalid, match="give one"):
            classifier.classify_many([b"fox"], min_score=0.5, model_thresholds=True)
    with pytest.raises(RequestInvalid, match="timeout_seconds"):
        Classifier(running.address, model="fox", timeout_seconds=0)
    with (
        Classifier(nobody, model="fox", timeout_seconds=0.3) as classifier,
        pytest.raises(ServerUnreachable, match=f"cannot reach the server at {nobody} .*; start one with `server run`"),
    ):
        classifier.classify(b"fox")


def test_thresholds_are_asked_for_and_unknown_scores_told(running):
    """By single calls and by streams; a model without an unknown score gives None."""
    with Classifier(running.address, model="fox") as classifier:
        odd, plain = classifier.classify(b"odd", model_thresholds=True), classifier.classify(b"fox")
        assert (len(odd.predictions), odd.unknown_score) == (1, 1.5)
        assert (len(plain.predictions), plain.unknown_score) == (2, None)
        many = [result.answer for result in classifier.classify_many([b"odd", b"fox"], model_thresholds=True)]
        assert [(len(answer.predictions), answer.unknown_score) for answer in many] == [(1, 1.5), (1, None)]


def test_a_proxy_in_the_environment_is_not_asked(running, monkeypatch):
    """The institute's web proxy does not hide a server."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Classifier(running.address, model="fox") as classifier:
        assert classifier.model().version == "3"


def test_a_slow_line_connects(running):
    """Also one over which the server's first word takes longer than a second."""
    with socket.create_server(("127.0.0.1", 0)) as line:
        threading.Thread(target=carry, args=(line, running.address), daemon=True).start()
        with Classifier(f"127.0.0.1:{line.getsockname()[1]}", model="fox") as classifier:
            assert classifier.classify(b"fox").predictions[0].label_id == "fox"


def carry(line, address):
    """Carries one connection, and after it any other; what comes back waits at first."""
    while True:
        try:
            near, far = line.accept()[0], socket.create_connection(address.split(":"))
        except OSError:
            return  # the line is closed
        threading.Thread(target=pump, args=(near, far, 0.0), daemon=True).start()
        threading.Thread(target=pump, args=(far, near, 1.5), daemon=True).start()


def pump(source, sink, wait_seconds):
    time.sleep(wait_seconds)
    with source, contextlib.suppress(OSError):
        while content := source.recv(65536):
            sink.sendall(content)
        sink.shutdown(socket.SHUT_RDWR)


def test_results_come_in_the_order_asked_for_whatever_order_the_answers_have(running):
    """Answers out of order and answers given twice are one result each, in the order of the images."""
    running.script.hold = 4
    running.script.twice = True
    with Classifier(running.address, model="fox") as classifier:
        results = list(classifier.classify_many(images(11), window=4))
    assert labels_of(results) == images(11)
    assert [result.index for result in results] == list(range(11))


def test_no_more_than_the_window_is_under_way(running):
    """A server that answers nothing before it has a window's images never sees one more; it does see all of those."""
    running.script.hold = 3
    with Classifier(running.address, model="fox") as classifier:
        assert len(list(classifier.classify_many(images(10), window=3))) == 10
    assert running.script.most_waiting == 3


def test_images_are_taken_only_as_the_window_has_room(running):
    """What is to be classified may be endless: it is asked for one image at a time, a window ahead at most."""
    taken = []

    def endless():
        while True:
            taken.append(b"animal %d" % len(taken))
            yield taken[-1]

    with Classifier(running.address, model="fox") as classifier:
        results = classifier.classify_many(endless(), window=5)
        assert labels_of(next(results) for _ in range(20)) == taken[:20]
        results.close()
    assert len(taken) <= 20 + 2 * 5


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(breaks=st.lists(st.integers(0, 12), max_size=3), window=st.integers(1, 9), hold=st.integers(1, 2))
def test_broken_streams_cost_no_image_and_double_none(running, breaks, window, hold):
    """Wherever up to three streams break, every image has exactly one result, its own answer, in order."""
    script = running.script
    script.breaks_after, script.hold = list(breaks), min(hold, window)
    with Classifier(running.address, model="fox") as classifier:
        assert labels_of(classifier.classify_many(images(15), window=window)) == images(15)


def test_only_what_is_unanswered_is_sent_again(running):
    """After a break the answered images are not sent a second time."""
    running.script.breaks_after = [5]
    with Classifier(running.address, model="fox") as classifier:
        assert labels_of(classifier.classify_many(images(12), window=2)) == images(12)
    assert running.script.stream_count == 2
    assert all(running.script.seen.count(image) == 1 for image in images(5))


def test_an_image_that_breaks_every_stream_fails_alone(running):
    """A poisonous image is found by sending suspects one at a time; its neighbours are answered."""
    running.script.poison = {b"animal 0"}
    with Classifier(running.address, model="fox") as classifier:
        results = list(classifier.classify_many(images(8), window=4))
    failed = [result for result in results if result.refusal]
    assert [result.source for result in failed] == [b"animal 0"]
    assert failed[0].refusal.code.name == "UNAVAILABLE"
    assert "4 streams broke" in failed[0].refusal.message


def test_a_refused_image_is_one_result(running, unreadable):
    """A bad image is a refusal of its class; the others are answered."""
    running.script.refusals[b"animal 2"] = [unreadable]
    with Classifier(running.address, model="fox") as classifier:
        results = list(classifier.classify_many(images(5)))
    assert [type(result.refusal) for result in results] == [type(None)] * 2 + [ImageUnreadable] + [type(None)] * 2


def test_a_full_queue_and_a_draining_server_are_tried_again_within_a_stream(running):
    """QUEUE_FULL and SHUTTING_DOWN for one image of a stream are followed by its answer; draining moves the stream."""
    running.script.refusals[b"animal 1"] = [QueueFull("full", retry_seconds=0.01)] * 2
    running.script.refusals[b"animal 2"] = [ShuttingDown("bye")]
    with Classifier(running.address, model="fox") as classifier:
        assert labels_of(classifier.classify_many(images(6), window=2)) == images(6)
    assert running.script.stream_count == 2


def test_a_server_that_stops_is_no_images_fault(running):
    """A server that goes on ending streams while it drains costs no image, and is not stormed with new ones."""
    running.script.stream_ends = [ShuttingDown("bye")] * 5
    with Classifier(running.address, model="fox") as classifier:
        began = time.monotonic()
        assert labels_of(classifier.classify_many(images(6), window=2)) == images(6)
    assert running.script.stream_count == 6
    assert time.monotonic() - began > 0.05 + 0.1 + 0.2 + 0.4 + 0.8  # the least of each doubled pause


def test_a_server_that_never_finishes_stopping_ends_the_job(running):
    """Turned away for `timeout_seconds`, every image left has the server's own refusal."""
    running.script.stream_ends = [ShuttingDown("bye")] * 99
    with Classifier(running.address, model="fox", timeout_seconds=0.3) as classifier:
        results = list(classifier.classify_many(images(4), window=2))
    assert [type(result.refusal) for result in results] == [ShuttingDown] * 4


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"])
def test_a_refused_stream_ends_the_job_at_once(running, code):
    """Where health and GetModel work and streams do not, behind a proxy say, no image is suspected of it."""
    refusal = Refusal("not through here")
    refusal.code = grpc.StatusCode[code]
    running.script.stream_ends = [refusal] * 99
    with Classifier(running.address, model="fox") as classifier:
        results = list(classifier.classify_many(images(9), window=3))
    assert [result.index for result in results] == list(range(9))
    assert {result.refusal.code for result in results} == {refusal.code}
    assert len({result.refusal.message for result in results}) == 1
    assert f"the server at {running.address}" in results[0].refusal.message
    assert running.script.stream_count == 1


def test_a_queue_that_stays_full_refuses_its_image(running):
    """An image refused for `timeout_seconds` is a refusal in the end; the job goes on."""
    running.script.refusals[b"animal 1"] = [QueueFull("full", retry_seconds=0.01)] * 1000
    with Classifier(running.address, model="fox", timeout_seconds=0.3) as classifier:
        results = list(classifier.classify_many(images(4)))
    assert [type(result.refusal) for result in results] == [type(None), QueueFull, type(None), type(None)]


def test_an_answer_that_does_not_come_is_asked_for_once_more(running):
    """After `timeout_seconds` without an answer the image goes over a new stream, and is answered."""
    running.script.silent[b"animal 1"] = 1
    with Classifier(running.address, model="fox", timeout_seconds=0.3) as classifier:
        assert labels_of(classifier.classify_many(images(4))) == images(4)
    assert running.script.stream_count == 2


def test_an_answer_that_never_comes_is_a_refusal(running):
    """After twice `timeout_seconds` the image is refused with DEADLINE_EXCEEDED, and the others are answered."""
    running.script.silent[b"animal 1"] = 99
    with Classifier(running.address, model="fox", timeout_seconds=0.3) as classifier:
        results = list(classifier.classify_many(images(4), window=2))
    assert [result.refusal.code.name if result.refusal else "ok" for result in results] == [
        "ok",
        "DEADLINE_EXCEEDED",
        "ok",
        "ok",
    ]


def test_a_server_lost_half_way_refuses_the_rest_with_one_sentence(running):
    """What was answered stays; each image left has a result that says the server is not reached."""
    running.script.down_after = 4
    with Classifier(running.address, model="fox", timeout_seconds=0.4) as classifier:
        results = list(classifier.classify_many(images(9), window=1))
    assert labels_of(results[:4]) == images(4)
    assert len(results) == 9
    assert {type(result.refusal) for result in results[4:]} == {ServerUnreachable}


def test_a_renewed_stream_loses_nothing(running, monkeypatch):
    """A stream that has served its time is half-closed, answers what is under way, and the next goes on."""
    monkeypatch.setattr("clients.lane.STREAM_SECONDS", 0.02)
    running.script.hold = 2
    with Classifier(running.address, model="fox") as classifier:
        assert labels_of(classifier.classify_many(images(12), window=2)) == images(12)
    assert running.script.stream_count > 1
    assert all(running.script.seen.count(image) == 1 for image in images(12))


def test_every_call_has_a_deadline(running):
    """No call, stream or unary, may wait for ever."""
    with Classifier(running.address, model="fox", timeout_seconds=7) as classifier:
        classifier.classify(b"fox")
        list(classifier.classify_many(images(3)))
    assert len(running.script.seconds_left) >= 4
    assert all(0 < seconds < 330 for seconds in running.script.seconds_left)


def test_what_cannot_be_sent_is_refused_here(running, tmp_path):
    """A big file, a missing one, a folder and a link to itself are results with a reason; nothing of them is sent."""
    (tmp_path / "big.jpg").write_bytes(b"x" * 1001)
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    names = ["big.jpg", "missing.jpg", ".", "loop.jpg", "with\0null.jpg"]
    with Classifier(running.address, model="fox") as classifier:
        results = list(classifier.classify_many([tmp_path / name for name in names] + [b"x" * 1001, b"fox"]))
        with pytest.raises(ImageTooLarge, match="1,001 bytes, the server takes 1,000"):
            classifier.classify(tmp_path / "big.jpg")
    expected = [ImageTooLarge, ImageUnreadable, ImageUnreadable, ImageUnreadable, ImageUnreadable, ImageTooLarge]
    assert [type(result.refusal) for result in results[:-1]] == expected
    assert running.script.seen == [b"fox"]


def test_a_pipe_is_not_waited_for(running, tmp_path):
    """A file that is no regular one is refused: opening a pipe would hang the job."""
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    with Classifier(running.address, model="fox") as classifier:
        (result,) = classifier.classify_many([tmp_path / "pipe.jpg"])
    assert isinstance(result.refusal, ImageUnreadable)


def test_no_images_are_no_results(running):
    """Nothing in, nothing out, at once."""
    with Classifier(running.address, model="fox") as classifier:
        assert list(classifier.classify_many([])) == []


def test_the_clients_need_no_pixels():
    """Every module of the clients imports without Pillow, NumPy, ONNX Runtime or torch."""
    code = (
        "import pkgutil, importlib, sys, clients\n"
        "for module in pkgutil.iter_modules(clients.__path__): importlib.import_module('clients.' + module.name)\n"
        "print({'PIL', 'numpy', 'onnxruntime', 'onnx', 'torch'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_an_abandoned_job_does_not_hold_up_the_interpreters_end(running):
    """A script that dies in the middle of a job ends, though a thread of gRPC's stood still with the stream's lock."""
    program = """
import gc, sys, threading
from clients.classifier import Classifier
from clients.stream import Stream

streams, begin = [], Stream.__init__
def noted(self, *arguments, **options):
    begin(self, *arguments, **options)
    streams.append(self)
Stream.__init__ = noted

def hold(taken):
    with streams[0]._call._state.condition:
        taken.set()
        threading.Event().wait()

def begun():
    results = Classifier(sys.argv[1], model="fox").classify_many(b"%d" % number for number in range(100_000))
    kept = [results]
    kept.append(kept)  # left to the collector, as by the traceback of an error
    next(results)

gc.disable()
begun()
taken = threading.Event()
threading.Thread(target=hold, args=(taken,), daemon=True).start()
taken.wait()
raise SystemExit(7)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, running.address], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (7, "")
