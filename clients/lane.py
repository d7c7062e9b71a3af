"""One server's part in a job: whether it is ready, the stream to it, and when the next may be opened."""

import math
import queue
import time

from trapline.errors import DeadlineExceeded, Refusal

from .connection import Connection, backoff_seconds
from .scout import Away, Ready, Scout
from .stream import Event, Stream

#: How long a stream takes new images, in seconds.
STREAM_SECONDS = 300.0


class Lane:
    """A server, and the stream to it while there is one.

    Args:
        connection: The server.
        model: The model, as `models/{model}`.
        events: Gets what happens, from other threads: to the server with the lane as source, and to its streams.
        timeout_seconds: For one image's answer.

    Attributes:
        stream: The stream to it; None while there is none.
        retired: Whether the stream takes no more images.
        away: Why the server is left alone; None while it is ready, or not known yet.
        limit_bytes: Most bytes of an image that it takes; 0 where it does not say.
    """

    def __init__(
        self, connection: Connection, *, model: str, events: "queue.SimpleQueue[Event]", timeout_seconds: float
    ) -> None:
        self._connection, self._events, self._timeout_seconds = connection, events, timeout_seconds
        self.stream: Stream | None = None
        self.retired = False
        self.away: Refusal | None = None
        self.limit_bytes = 0
        self._ready = False
        self._vain_count = 0
        self._open_time = self._renew_time = 0.0
        self._scout = Scout(connection, model=model, tell=lambda news: events.put(Event(self, news)))

    @property
    def takes_images(self) -> bool:
        """Whether there is a stream that new images may go on."""
        return self.stream is not None and not self.retired

    def take(self, news: Ready | Away) -> None:
        """Takes in how the server is; one that is not well gets nothing new, and may answer what it has."""
        if isinstance(news, Away):
            self._ready, self.away = False, news.refusal
            self.retire()
        else:
            self._ready, self.away = True, None
            self.limit_bytes = news.model.max_image_bytes

    def open_if_due(self, now: float) -> None:
        """Opens a stream where the server is ready and it is time."""
        if self.stream is not None or not self._ready or now < self._open_time:
            return
        # Retired after STREAM_SECONDS, an image may still be under way for its own time: the call outlives both.
        deadline_seconds = STREAM_SECONDS + 2 * self._timeout_seconds
        self.stream = Stream(self._connection.classify_stub, self._events, timeout_seconds=deadline_seconds)
        self.retired = False
        self._renew_time = now + STREAM_SECONDS

    def retire(self) -> None:
        """Lets the stream take no more images; it ends once it has answered what it has."""
        if self.takes_images:
            assert self.stream is not None
            self.retired = True
            self.stream.half_close()

    def turn_away(self) -> None:
        """Takes note that the server is about to stop: the next stream waits until it shows itself."""
        self.retire()
        self._ready = False
        self._scout.look_again()

    def renew_if_due(self, now: float) -> None:
        """Retires a stream that has served its time, and ends one that is retired and has answered everything."""
        if now >= self._renew_time:
            self.retire()
        if self.stream is not None and self.retired and not self.stream.image_count:
            self.stream.finish()
            self.stream = None

    def note_answer(self) -> None:
        """Takes note that the stream gave a result: what ended before it was not in vain."""
        self._vain_count = 0

    def note_refused(self, refusal: Refusal) -> None:
        """Takes note that the server refuses streams, however well it says it is: it is left alone."""
        if self.stream is not None:
            self.stream.half_close()
        self.stream, self._ready, self.away = None, False, self._connection.explained(refusal)

    def note_end(self, refusal: Refusal) -> None:
        """Takes note that the stream ended without being asked to: the next one waits until the server shows itself."""
        if self.stream is not None:
            self.stream.half_close()  # frees the thread that gRPC reads requests with
        self._stand_back(refusal)

    def cancel(self) -> None:
        """Ends the stream at once, for want of answers; what is unanswered stays so, and goes elsewhere where it can.

        A new stream, the one with the fewest images, would get them back: it waits as after an end.
        """
        if self.stream is not None:
            self.stream.cancel()
            self._stand_back(DeadlineExceeded("no answer in time"))

    def _stand_back(self, refusal: Refusal) -> None:
        """Lets the next stream wait for some time, and until the server shows itself."""
        self.stream, self._ready = None, False
        self._open_time = time.monotonic() + backoff_seconds(self._vain_count, refusal)
        self._vain_count += 1
        self._scout.look_again()

    def close(self) -> None:
        """Ends everything, in order where nothing is unanswered."""
        self._scout.close()
        if self.stream is not None:
            (self.stream.cancel if self.stream.image_count else self.stream.finish)()

    def due_time(self) -> float:
        """When something is to be done for it next; never, where only its server can bring that about."""
        if self.stream is None:
            return self._open_time if self._ready else math.inf
        return math.inf if self.retired else self._renew_time
