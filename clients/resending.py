"""Many images over streams that may break: each image is answered once, whatever happens to the streams.

Each server that is well has one stream, and each image goes to the one with the fewest images under way. How deadlines
and long jobs go together: a stream has a gRPC deadline, so it serves for five minutes; then it is half-closed, its last
answers are awaited, and a new one takes over. An image has `timeout_seconds` from when gRPC takes it to be sent, so a
slow line does not count. If they pass, the stream is replaced and what it left unanswered is sent again, perhaps to
another server; if they pass a second time, that image is refused with DEADLINE_EXCEEDED.

A broken stream costs nothing but time: what is unanswered goes to the other servers, or to the same one once its health
and GetModel have shown that it is back. An image that was under way when a stream broke twice is suspected of breaking
it: suspects go alone, one at a time, so that after four breaks only the culprit is refused. A server that ends a stream
because it stops breaks nothing, however often that happens; nor does one that refuses streams, for the token say: it is
left alone. Where no server is well for `timeout_seconds`, all are about to stop for as long, or all refuse, the job
ends: every image left is refused with the same sentence.
"""

import math
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import grpc

from trapline.errors import DeadlineExceeded, InternalError, Refusal
from trapline.v1 import classify_pb2
from trapline.v1.error_reason_pb2 import ErrorReason

from .answers import Answer, Result, Source, outcome_of
from .connection import Connection, backoff_seconds, is_worth_retrying
from .images import read_image
from .lane import Lane
from .outstanding import GUILTY_BREAKS, Image, Outstanding
from .scout import Away, Ready
from .stream import Ended, Event, Sent, Stream

#: Most bytes of images under way, whatever the window; one image always goes.
WINDOW_BYTES = 128 * 2**20
#: How far the newest image sent may be ahead of the oldest without a result, in images: bounds what waits for its turn.
MOST_AHEAD = 4096
# Codes of a stream that is refused whatever goes on it, by the server or by a proxy before it.
_REFUSED_CODES = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
# How often the clocks are looked at, in seconds: not for each image, which would cost more than sending it.
_TICK_SECONDS = 0.02


class ResendingStream:
    """Classifies images over one stream to each server that is well, opening the next where one ends or breaks.

    Args:
        connections: The servers.
        model: The model, as `models/{model}`.
        request: Makes the request of an image's bytes.
        window: Most images under way at a time, on all streams together.
        timeout_seconds: For one image's answer, and for servers that are out of reach.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        *,
        model: str,
        request: Callable[[bytes], classify_pb2.ClassifyRequest],
        window: int,
        timeout_seconds: float,
    ) -> None:
        self._connections, self._model = connections, model
        self._request = request
        self._window = window
        self._timeout_seconds = timeout_seconds
        self._lanes: list[Lane] = []
        self._sources: Iterator[tuple[int, Source]] = iter(())
        self._next_index, self._most_ahead = 0, MOST_AHEAD
        self._exhausted = False
        self._outstanding = Outstanding()
        self._done: deque[Result] = deque()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._tick_time = 0.0
        # Since when there is no stream and none can be opened; since when servers have turned us away, and the last.
        self._lost_time = math.inf
        self._turned_away_time = math.inf
        self._turned_away: Refusal | None = None

    def results(self, sources: Iterable[Source]) -> Generator[Result, None, None]:
        """One result for each of `sources`, as they come; to be called once.

        An image is read when it is sent, and again if it is sent again; never more than the window is in memory.
        """
        self._sources = enumerate(sources)
        self._lanes = [
            Lane(connection, model=self._model, events=self._events, timeout_seconds=self._timeout_seconds)
            for connection in self._connections
        ]
        try:
            while True:
                while self._done:
                    yield self._done.popleft()
                if self._exhausted and not self._outstanding:
                    return
                refusal = self._advance()
                if refusal is not None:
                    yield from self._give_up(refusal)
                    return
        finally:
            # While the interpreter ends gRPC's threads stand still, and one may hold the lock that this takes.
            if not sys.is_finalizing():
                for lane in self._lanes:
                    lane.close()

    def _give_up(self, refusal: Refusal) -> Iterator[Result]:
        yield from self._done  # came in the same moment
        for image in self._outstanding.in_order():
            yield Result(index=image.index, source=image.source, refusal=refusal)
        for index, source in self._sources:
            yield Result(index=index, source=source, refusal=refusal)

    def _advance(self) -> Refusal | None:
        """Sends one image if one may go, takes in what came (waiting for it if none may), looks at the clocks.

        Returns:
            Why there is no use in going on; None while there is.
        """
        lane = self._free_lane()
        image = self._next_to_send() if lane is not None else None
        if lane is not None and image is not None:
            self._send(image, lane)
        busy = image is not None or bool(self._done) or (self._exhausted and not self._outstanding)
        try:
            self._take(self._events.get(timeout=0.0 if busy else _TICK_SECONDS))
            while True:
                self._take(self._events.get_nowait())
        except queue.Empty:
            now = time.monotonic()
            if now >= self._tick_time:
                self._tick_time = now + _TICK_SECONDS
                return self._look_at_clocks(now)
        return None

    def _free_lane(self) -> Lane | None:
        """The lane for the next image: of those that take some, the one with the fewest under way."""
        outstanding = self._outstanding
        room = 1 if outstanding.has_suspects() else self._window
        if len(outstanding.under_way) >= room or outstanding.byte_count >= WINDOW_BYTES:
            return None
        free = [(lane.stream.image_count, lane) for lane in self._lanes if lane.stream is not None and not lane.retired]
        return min(free, key=lambda pair: pair[0])[1] if free else None

    def _next_to_send(self) -> Image | None:
        outstanding = self._outstanding
        image = outstanding.take_due(time.monotonic()) if outstanding.again else None
        if image is not None:
            return image
        far_ahead = self._next_index - outstanding.oldest_index(self._next_index) >= self._most_ahead
        if far_ahead or len(outstanding) >= self._window or outstanding.has_suspects():
            return None
        index, source = next(self._sources, (-1, ""))
        if index < 0:
            self._exhausted = True
            return None
        self._next_index = index + 1
        if isinstance(source, bytes):
            self._most_ahead = min(self._most_ahead, self._window)  # what waits for its turn holds them
        return Image(index, source)

    def _send(self, image: Image, lane: Lane) -> None:
        assert lane.stream is not None, "a lane that takes images has a stream"
        try:
            content = read_image(image.source, lane.limit_bytes)
        except Refusal as refusal:
            self._finish(image, refusal)
            return
        image.size_bytes = len(content)
        self._outstanding.send(image, lane.stream)
        request = self._request(content)
        lane.stream.send(classify_pb2.StreamClassifyRequest(request_id=str(image.index), request=request))

    def _take(self, event: Event) -> None:
        content = event.content
        if isinstance(event.source, Lane) and isinstance(content, Ready | Away):
            event.source.take(content)
            self._tick_time = 0.0
            return
        lane = next((lane for lane in self._lanes if lane.stream is event.source), None)
        if lane is None or lane.stream is None or isinstance(content, Ready | Away):
            return  # a stream that was given up: what it left unanswered is being sent again
        if isinstance(content, Ended):
            self._ended(lane, content.refusal)
            return
        request_id = content.request_id
        image = self._outstanding.under_way.get(int(request_id)) if request_id.isdecimal() else None
        if image is None or image.stream is not lane.stream:
            return  # answered already, refused as overdue, or on another stream by now
        if isinstance(content, Sent):
            image.overdue_time = time.monotonic() + self._timeout_seconds
            return
        lane.note_answer()
        self._turned_away_time, self._turned_away = math.inf, None
        outcome = outcome_of(content.result)
        if isinstance(outcome, Answer) or not self._may_try_again(image, outcome):
            if isinstance(outcome, Refusal):
                outcome.request_id = lane.stream.request_id
            self._outstanding.take(image)
            self._finish(image, outcome)
            return
        image.due_time = time.monotonic() + backoff_seconds(image.refusal_count - 1, outcome)
        self._outstanding.send_again(image)
        # A server that is shutting down says so: its images go elsewhere, or wait for the next server.
        if outcome.reason == ErrorReason.ERROR_REASON_SHUTTING_DOWN:
            lane.turn_away()

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

    def _ended(self, lane: Lane, refusal: Refusal | None) -> None:
        assert lane.stream is not None, "it is the one that ended"
        refusal = refusal or InternalError("the server ended the stream before it had answered")
        stops = refusal.reason == ErrorReason.ERROR_REASON_SHUTTING_DOWN
        refused = refusal.code in _REFUSED_CODES
        if stops:
            self._turned_away_time = min(self._turned_away_time, time.monotonic())
            self._turned_away = refusal
        for image in self._outstanding.on(lane.stream):
            if not (stops or refused) and self._outstanding.note_break(image):
                self._outstanding.take(image)
                self._finish(image, _guilty(refusal))
            else:
                self._outstanding.send_again(image)
        (lane.note_refused if refused else lane.note_end)(refusal)

    def _look_at_clocks(self, now: float) -> Refusal | None:
        """Does what is due; gives the reason to stop where no server has been well for too long."""
        self._see_to_overdue(now)
        for lane in self._lanes:
            lane.renew_if_due(now)
            lane.open_if_due(now)
        if any(lane.stream is not None for lane in self._lanes):
            self._lost_time = math.inf
        elif self._lost_time == math.inf:
            self._lost_time = now
        turned_away = self._turned_away is not None and self._lost_time < math.inf
        if turned_away and now >= self._turned_away_time + self._timeout_seconds:
            return self._turned_away
        away = [lane.away for lane in self._lanes if lane.away is not None]
        hopeless = len(away) == len(self._lanes) and not any(is_worth_retrying(each) for each in away)
        too_long = now >= self._lost_time + self._timeout_seconds
        return away[-1] if away and self._lost_time < math.inf and (hopeless or too_long) else None

    def _see_to_overdue(self, now: float) -> None:
        """Replaces the streams whose answers are missing; refuses images whose answer is missing a second time."""
        late = set[Stream]()
        for image in [image for image in self._outstanding.under_way.values() if now >= image.overdue_time]:
            image.overdue_count += 1
            if image.overdue_count == 1 and image.stream is not None:
                late.add(image.stream)
                continue
            sentence = f"no answer within {self._timeout_seconds:g} s, twice; allow more time, or a smaller window"
            self._outstanding.take(image)
            self._finish(image, DeadlineExceeded(sentence))
        for lane in self._lanes:
            if lane.stream in late and lane.stream is not None:
                for image in self._outstanding.on(lane.stream):
                    self._outstanding.send_again(image)
                lane.cancel()


def _guilty(refusal: Refusal) -> Refusal:
    """The refusal of an image that broke its streams, the last one with `refusal`."""
    why = f"{GUILTY_BREAKS} streams broke with this image under way, the last with {refusal.code.name}"
    guilty = Refusal(f"{why} ({refusal.message})")
    guilty.code, guilty.reason = refusal.code, refusal.reason
    return guilty
