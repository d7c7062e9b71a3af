"""One StreamClassify call, read by a thread of its own so that its owner never blocks on it."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from trapline.errors import Refusal, from_rpc_error
from trapline.request_id import REQUEST_ID_KEY, new_request_id
from trapline.v1 import classify_pb2, classify_pb2_grpc

from .scout import Away, Ready

#: How long a stream that has answered everything may take to end in order, in seconds.
_FAREWELL_SECONDS = 1.0


@dataclass(frozen=True)
class Ended:
    """The end of a stream.

    Attributes:
        refusal: Why it broke; None where the server ended it with OK.
    """

    refusal: Refusal | None


@dataclass(frozen=True)
class Sent:
    """gRPC has taken the request of that mark, after all those before it."""

    request_id: str


@dataclass(frozen=True)
class Event:
    """Something that came from a stream.

    Attributes:
        source: The stream, or the lane, that it came from; a stream's owner may have a newer one by now.
        content: A request that went, one answer, or the end; or how a server is.
    """

    source: object
    content: classify_pb2.StreamClassifyResponse | Sent | Ended | Ready | Away


class Stream:
    """A StreamClassify call that has just been opened.

    Args:
        stub: The service.
        events: Gets an `Event` for each request that went, each answer, and the end, from threads of the stream's.
        timeout_seconds: The call's deadline.

    Attributes:
        request_id: What the server's log names the call.
        image_count: Images under way on it; kept by `Outstanding`.
    """

    def __init__(
        self,
        stub: classify_pb2_grpc.ClassifyServiceStub,
        events: "queue.SimpleQueue[Event]",
        *,
        timeout_seconds: float,
    ) -> None:
        self._events = events
        self.request_id, self.image_count = new_request_id(), 0
        self._outgoing: queue.SimpleQueue[classify_pb2.StreamClassifyRequest | None] = queue.SimpleQueue()
        self._call = stub.StreamClassify(
            self._requests(), timeout=timeout_seconds, metadata=((REQUEST_ID_KEY, self.request_id),)
        )
        self._reader = threading.Thread(target=self._read, name="trapline-stream", daemon=True)
        self._reader.start()

    def send(self, request: classify_pb2.StreamClassifyRequest) -> None:
        """Hands one request to the call; returns at once."""
        self._outgoing.put(request)

    def half_close(self) -> None:
        """Says that nothing more will be sent."""
        self._outgoing.put(None)

    def finish(self) -> None:
        """Ends a stream that has answered everything, in order where the server lets it."""
        self.half_close()
        self._reader.join(_FAREWELL_SECONDS)
        self._call.cancel()

    def cancel(self) -> None:
        """Ends the stream at once; what is unanswered stays so."""
        self._call.cancel()
        self._outgoing.put(None)  # frees the thread that gRPC reads requests with

    def _requests(self) -> Iterator[classify_pb2.StreamClassifyRequest]:
        """What gRPC's own thread sends: it takes a request when the line has room for it."""
        for request in iter(self._outgoing.get, None):
            self._events.put(Event(self, Sent(request.request_id)))
            yield request

    def _read(self) -> None:
        try:
            for response in self._call:
                self._events.put(Event(self, response))
            self._events.put(Event(self, Ended(None)))
        except grpc.RpcError as error:
            self._events.put(Event(self, Ended(from_rpc_error(error))))
