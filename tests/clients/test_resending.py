"""Every image has one result, whatever servers do: a fleet without a network plays what Hypothesis draws."""

import queue
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import connection, lane, resending
from clients.resending import ResendingStream
from clients.scout import Away, Ready
from clients.stream import Ended, Event, Sent
from trapline.errors import ImageUnreadable, ModelNotFound, QueueFull, Refusal, ShuttingDown, to_status
from trapline.v1 import classify_pb2, model_pb2

ACTS = ("answer", "answer", "twice", "late", "silent", "refuse", "reject", "stop", "break", "away", "gone")


class Server:
    """One server: what it does with each image that it gets is drawn before; then it answers everything."""

    def __init__(self, acts: list[str]) -> None:
        self.acts, self.gone = iter(acts), False
        self.tell: Callable[[Ready | Away], None]
        self.held: list[tuple[Stream, str]] = []

    def news(self) -> Ready | Away:
        """How it is."""
        return Away(ModelNotFound("it is gone")) if self.gone else Ready(model_pb2.Model(name="models/m"))

    def take(self, stream: "Stream", request_id: str) -> None:
        """Does with an image what was drawn."""
        act = next(self.acts, "answer")
        stream.put(Sent(request_id))
        if act == "late":
            self.held.append((stream, request_id))
            return
        for held, held_id in [*self.held, (stream, request_id)] if act != "silent" else []:
            result = self._result(act if held_id == request_id else "answer")
            if result is not None:
                held.put(classify_pb2.StreamClassifyResponse(request_id=held_id, result=result))
                if act == "twice":
                    held.put(classify_pb2.StreamClassifyResponse(request_id=held_id, result=result))
        self.held = [] if act != "silent" else self.held
        if act == "break":
            stream.put(Ended(Refusal("the line broke")))
        if act in ("away", "gone"):
            self.gone = act == "gone"
            self.tell(self.news() if self.gone else Away(ShuttingDown("back in a moment")))

    def _result(self, act: str) -> classify_pb2.ClassifyResult | None:
        errors = {"refuse": QueueFull("full"), "reject": ImageUnreadable("broken"), "stop": ShuttingDown("stops")}
        if act == "break":
            return None
        if act in errors:
            return classify_pb2.ClassifyResult(error=to_status(errors[act]))
        return classify_pb2.ClassifyResult(response=classify_pb2.ClassifyResponse(model="models/m"))


class Stream:
    """Stands for a stream: what is sent on it is answered at once, on the caller's thread."""

    def __init__(self, server: Server, events: "queue.SimpleQueue[Event]", *, timeout_seconds: float) -> None:
        assert timeout_seconds > 0
        self._server, self._events = server, events
        self.request_id, self.image_count = "stream", 0

    def put(self, content: Any) -> None:
        """Tells of something that came."""
        self._events.put(Event(self, content))

    def send(self, request: classify_pb2.StreamClassifyRequest) -> None:
        """Hands an image to the server."""
        self._server.take(self, request.request_id)

    def half_close(self) -> None:
        """The fake's streams end when they are given up."""

    finish = cancel = half_close


class Scout:
    """Stands for what looks after a server: asked to look again, it says how that is."""

    def __init__(self, connection: Any, *, model: str, tell: Callable[[Ready | Away], None]) -> None:
        assert model == "models/m"
        self._server = connection.classify_stub
        self._server.tell = tell
        self.look_again()

    def look_again(self) -> None:
        """Says how its server is."""
        self._server.tell(self._server.news())

    def close(self) -> None:
        """There is no thread to end."""


@pytest.fixture(autouse=True, scope="module")
def _fleet():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane, "Stream", Stream)
        patch.setattr(lane, "Scout", Scout)
        patch.setattr(resending, "_TICK_SECONDS", 0.001)
        patch.setattr(connection, "_FIRST_BACKOFF_SECONDS", 0.001)
        yield


def results_of(*servers: Server, images: int, window: int = 4) -> list[tuple[int, bool]]:
    """Each result's index and whether it is an answer, as they came."""
    stream = ResendingStream(
        [SimpleNamespace(classify_stub=server) for server in servers],
        model="models/m",
        request=lambda content: classify_pb2.ClassifyRequest(model="models/m", image=content),
        window=window,
        timeout_seconds=0.03,
    )
    found = []
    for result in stream.results(b"%d" % number for number in range(images)):
        assert result.source == b"%d" % result.index
        assert (result.answer is None) != (result.refusal is None)
        found.append((result.index, result.answer is not None))
    return found


def test_what_was_answered_before_the_job_is_given_up_is_handed_over():
    """The answer and the end of the only server come together: the answer is not thrown away."""
    found = results_of(Server(["answer", "gone"]), images=4, window=1)
    assert found == [(0, True), (1, True), (2, False), (3, False)]


class Restarts(Server):
    """Answers two images and stops in order, once; it is back at once."""

    def __init__(self) -> None:
        super().__init__([])
        self.count = 0

    def take(self, stream: Stream, request_id: str) -> None:
        """Answers; after the second image it ends the stream."""
        super().take(stream, request_id)
        self.count += 1
        if self.count == 2:
            stream.put(Ended(ShuttingDown("stops")))


def test_a_slow_consumer_does_not_take_a_restart_for_the_end():
    """Who takes longer over a result than the job's patience finds the server back, and goes on."""
    stream = ResendingStream(
        [SimpleNamespace(classify_stub=Restarts())],
        model="models/m",
        request=lambda content: classify_pb2.ClassifyRequest(model="models/m", image=content),
        window=1,
        timeout_seconds=0.03,
    )
    found = []
    for result in stream.results(b"%d" % number for number in range(4)):
        found.append(result.answer is not None)
        time.sleep(0.06)
    assert found == [True] * 4


def test_each_stream_is_told_that_nothing_more_comes(monkeypatch):
    """Also one that its server ended: a thread of gRPC waits for more requests as long as nobody says so."""
    opened, closed = [], []

    class Watched(Stream):
        """Notes what was opened and closed."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(self)

        def half_close(self) -> None:
            """Notes it."""
            closed.append(self)

        finish = cancel = half_close

    monkeypatch.setattr(lane, "Stream", Watched)
    results_of(Server(["answer", "break", "break"]), images=4, window=1)
    assert len(opened) >= 3
    assert set(map(id, opened)) == set(map(id, closed))


def test_a_server_that_does_not_answer_gets_no_stream_at_once(monkeypatch):
    """What it has not answered would go back to it: its new stream has the fewest images under way."""
    monkeypatch.setattr(connection, "_FIRST_BACKOFF_SECONDS", 60.0)
    server = Server([])
    one = lane.Lane(
        SimpleNamespace(classify_stub=server), model="models/m", events=queue.SimpleQueue(), timeout_seconds=1
    )
    one.take(server.news())
    one.open_if_due(time.monotonic())
    assert one.stream is not None
    one.cancel()
    one.take(server.news())
    one.open_if_due(time.monotonic())
    assert one.stream is None


@settings(max_examples=150, deadline=None)
@given(
    fleet=st.lists(st.lists(st.sampled_from(ACTS), max_size=12), min_size=1, max_size=3),
    images=st.integers(0, 20),
    window=st.integers(1, 8),
)
def test_every_image_has_one_result(fleet, images, window):
    """Answers that come late, twice or never, refusals, breaks, servers that stop or go for good, one or several."""
    found = results_of(*map(Server, fleet), images=images, window=window)
    assert sorted(index for index, _ in found) == list(range(images))
