"""Many images over streams that may break: each image is answered once, whatever happens to the streams.

How deadlines and long jobs go together. A stream has a gRPC deadline, so it serves for five minutes; then it is
half-closed, its last answers are awaited, and a new one (with several servers, at the next) takes over. An image has
`timeout_seconds` from when gRPC takes it to be sent, so a slow line does not count. If they pass, the stream is
replaced and all that is unanswered is sent again, perhaps to another server; if they pass a second time, that image is
refused with DEADLINE_EXCEEDED.

A broken stream costs nothing but time: what is unanswered is sent again once GetModel has shown that the server is
back. An image that was under way when a stream broke twice is suspected of breaking it: suspects go alone, one at a
time, so that after four breaks only the culprit is refused. A server that ends a stream because it stops breaks
nothing, however often that happens. A server out of reach, or about to stop, for `timeout_seconds` ends the job: every
image left is refused with the same sentence.
"""

import math
import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator

from trapline.errors import DeadlineExceeded, InternalError, Refusal
from trapline.v1 import classify_pb2
from trapline.v1.error_reason_pb2 import ErrorReason

from .answers import Answer, Result, Source, outcome_of
from .connection import Connection, backoff_seconds, is_worth_retrying
from .images import read_image
from .outstanding import GUILTY_BREAKS, Image, Outstanding
from .stream import Ended, Event, Sent, Stream

#: How long a stream takes new images, in seconds.
STREAM_SECONDS = 300.0
#: Most bytes of images under way, whatever the window; one image always goes.
WINDOW_BYTES = 128 * 2**20
#: How far the newest image sent may be ahead of the oldest without a result, in images: bounds what waits for its turn.
MOST_AHEAD = 4096


class ResendingStream:
    """Classifies images over one stream at a time, opening the next where one ends or breaks.

    Args:
        connection: Where to.
        model: The model, as `models/{model}`.
        request: Makes the request of an image's bytes.
        window: Most images under way at a time.
        timeout_seconds: For one image's answer, and for a server that is out of reach.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        model: str,
        request: Callable[[bytes], classify_pb2.ClassifyRequest],
        window: int,
        timeout_seconds: float,
    ) -> None:
        self._connection = connection
        self._model = model
        self._request = request
        self._window = window
        self._timeout_seconds = timeout_seconds
        self._sources: Iterator[tuple[int, Source]] = iter(())
        self._next_index = 0
        self._exhausted = False
        self._outstanding = Outstanding()
        self._done: deque[Result] = deque()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stream: Stream | None = None
        self._retired = False
        self._renew_time = 0.0
        self._limit_bytes = 0
        # Since the last result: streams that ended, the last one's reason, and when servers began to turn us away.
        self._vain_count = 0
        self._last_end: Refusal | None = None
        self._turned_away_time = math.inf

    def results(self, sources: Iterable[Source]) -> Generator[Result, None, None]:
        """One result for each of `sources`, as they come; to be called once.

        An image is read when it is sent, and again if it is sent again; never more than the window is in memory.
        """
        self._sources = enumerate(sources)
        try:
            while True:
                while self._done:
                    yield self._done.popleft()
                if self._exhausted and not self._outstanding:
                    return
                if self._stream is None:
                    refusal = self._open()
                    if refusal is not None:
                        yield from self._give_up(refusal)
                        return
                self._advance()
        finally:
            if self._stream is not None:
                (self._stream.cancel if self._outstanding.under_way else self._stream.finish)()

    def _open(self) -> Refusal | None:
        """Opens a stream once the server shows that it serves the model; else gives the reason to stop trying."""
        if self._last_end is not None:
            if time.monotonic() >= self._turned_away_time + self._timeout_seconds:
                return self._last_end
            time.sleep(backoff_seconds(self._vain_count - 1, self._last_end))
        try:
            model = self._connection.serving_model(
                self._model, timeout_seconds=self._timeout_seconds, unreachable_seconds=self._timeout_seconds
            )
        except Refusal as refusal:
            return refusal
        self._limit_bytes = model.max_image_bytes
        # Retired after STREAM_SECONDS, an image may still be under way for its own time: the call outlives both.
        deadline_seconds = STREAM_SECONDS + 2 * self._timeout_seconds
        self._stream = Stream(self._connection.classify_stub, self._events, timeout_seconds=deadline_seconds)
        self._retired = False
        self._renew_time = time.monotonic() + STREAM_SECONDS
        return None

    def _give_up(self, refusal: Refusal) -> Iterator[Result]:
        for image in self._outstanding.in_order():
            yield Result(index=image.index, source=image.source, refusal=refusal)
        for index, source in self._sources:
            yield Result(index=index, source=source, refusal=refusal)

    def _advance(self) -> None:
        """Sends one image if one may go, takes in what came (waiting for it if none may), looks at the clocks."""
        image = self._next_to_send()
        if image is not None:
            self._send(image)
        busy = image is not None or (self._exhausted and not self._outstanding)
        wait_seconds = 0.0 if busy else self._seconds_to_next_duty()
        try:
            self._take(self._events.get(timeout=wait_seconds))
            while True:
                self._take(self._events.get_nowait())
        except queue.Empty:
            self._look_at_clocks()

    def _has_room(self) -> bool:
        outstanding = self._outstanding
        room = 1 if outstanding.has_suspects() else self._window
        return not self._retired and len(outstanding.under_way) < room and outstanding.bytes_under_way() < WINDOW_BYTES

    def _next_to_send(self) -> Image | None:
        outstanding = self._outstanding
        if not self._has_room():
            return None
        image = outstanding.take_due(time.monotonic())
        if image is not None:
            return image
        far_ahead = self._next_index - outstanding.oldest_index(self._next_index) >= MOST_AHEAD
        if far_ahead or len(outstanding) >= self._window or outstanding.has_suspects():
            return None
        index, source = next(self._sources, (-1, ""))
        if index < 0:
            self._exhausted = True
            return None
        self._next_index = index + 1
        return Image(index, source)

    def _send(self, image: Image) -> None:
        assert self._stream is not None
        try:
            content = read_image(image.source, self._limit_bytes)
        except Refusal as refusal:
            self._finish(image, refusal)
            return
        image.size_bytes = len(content)
        image.overdue_time = math.inf
        self._outstanding.under_way[image.index] = image
        request = self._request(content)
        self._stream.send(classify_pb2.StreamClassifyRequest(request_id=str(image.index), request=request))

    def _take(self, event: Event) -> None:
        if event.stream is not self._stream:
            return  # a stream that was given up: what it left unanswered is being sent again
        if isinstance(event.content, Ended):
            self._ended(event.content.refusal)
            return
        request_id = event.content.request_id
        image = self._outstanding.under_way.get(int(request_id)) if request_id.isdecimal() else None
        if image is None:
            return  # answered already, or refused as overdue
        if isinstance(event.content, Sent):
            image.overdue_time = time.monotonic() + self._timeout_seconds
            return
        del self._outstanding.under_way[image.index]
        self._vain_count, self._last_end, self._turned_away_time = 0, None, math.inf
        outcome = outcome_of(event.content.result)
        if isinstance(outcome, Answer) or not self._may_try_again(image, outcome):
            self._finish(image, outcome)
            return
        # A server that is shutting down says so: the next stream goes elsewhere, or waits for the next server.
        self._retire(outcome.reason == ErrorReason.ERROR_REASON_SHUTTING_DOWN)
        image.due_time = time.monotonic() + backoff_seconds(image.refusal_count - 1, outcome)
        self._outstanding.again[image.index] = image

    def _may_try_again(self, image: Image, refusal: Refusal) -> bool:
        now = time.monotonic()
        image.refusal_count += 1
        if image.first_refusal_time is None:
            image.first_refusal_time = now
        return is_worth_retrying(refusal) and now < image.first_refusal_time + self._timeout_seconds

    def _finish(self, image: Image, outcome: Answer | Refusal) -> None:
        if isinstance(outcome, Answer):
            self._done.append(Result(index=image.index, source=image.source, answer=outcome))
        else:
            refusal = outcome.with_traceback(None)  # a traceback would hold the file's bytes
            self._done.append(Result(index=image.index, source=image.source, refusal=refusal))

    def _ended(self, refusal: Refusal | None) -> None:
        self._stream = None
        refusal = refusal or InternalError("the server ended the stream before it had answered")
        self._vain_count, self._last_end = self._vain_count + 1, refusal
        if refusal.reason == ErrorReason.ERROR_REASON_SHUTTING_DOWN:
            self._turned_away_time = min(self._turned_away_time, time.monotonic())
        else:
            self._suspect_all_under_way(refusal)
        self._outstanding.send_all_again()

    def _suspect_all_under_way(self, refusal: Refusal) -> None:
        for image in list(self._outstanding.under_way.values()):
            image.break_count += 1
            if image.break_count >= GUILTY_BREAKS:
                why = f"{GUILTY_BREAKS} streams broke with this image under way, the last with {refusal.code.name}"
                guilty = Refusal(f"{why} ({refusal.message})")
                guilty.code, guilty.reason = refusal.code, refusal.reason
                self._finish(self._outstanding.under_way.pop(image.index), guilty)
                self._vain_count = 1

    def _retire(self, wanted: bool) -> None:
        if wanted and not self._retired and self._stream is not None:
            self._retired = True
            self._stream.half_close()

    def _look_at_clocks(self) -> None:
        now = time.monotonic()
        overdue = [image for image in self._outstanding.under_way.values() if now >= image.overdue_time]
        for image in overdue:
            image.overdue_count += 1
            if image.overdue_count > 1:
                sentence = f"no answer within {self._timeout_seconds:g} s, twice; allow more time, or a smaller window"
                self._finish(self._outstanding.under_way.pop(image.index), DeadlineExceeded(sentence))
        if any(image.overdue_count == 1 for image in overdue) and self._stream is not None:
            self._stream.cancel()
            self._stream = None
            self._outstanding.send_all_again()
        self._retire(now >= self._renew_time)
        if self._retired and not self._outstanding.under_way and self._stream is not None:
            self._stream.finish()
            self._stream = None

    def _seconds_to_next_duty(self) -> float:
        times = [] if self._retired else [self._renew_time]
        times += [image.overdue_time for image in self._outstanding.under_way.values()]
        times += [image.due_time for image in self._outstanding.again.values()] if self._has_room() else []
        # While none is taken to be sent, all are overdue at infinity: the call's own deadline ends such a stream.
        return min(max(min(times, default=0.0) - time.monotonic(), 0.0), STREAM_SECONDS)
