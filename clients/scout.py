"""Looks after one server from a thread of its own: whether it is well, by `grpc.health.v1`, and serves the model."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2

from trapline.errors import Refusal, from_rpc_error
from trapline.v1 import model_pb2

from .connection import HEALTH_SERVICE, Connection, backoff_seconds

#: Longest time between two looks at a server that is away, in seconds.
LONGEST_PAUSE_SECONDS = 1.0
# A watch is renewed after this long, in seconds, so that none outlives what it watches by much.
_WATCH_SECONDS = 300.0


@dataclass(frozen=True)
class Ready:
    """The server is well and serves the model."""

    model: model_pb2.Model


@dataclass(frozen=True)
class Away:
    """The server is to be left alone for now: not reached, not serving, or without the model."""

    refusal: Refusal


class Scout:
    """Tells of one server each time it becomes ready, or goes away, until `close`.

    Args:
        connection: The server.
        model: The model, as `models/{model}`.
        tell: Takes each change, on the scout's thread; `Ready` also after each `look_again` that finds it well.
    """

    def __init__(self, connection: Connection, *, model: str, tell: Callable[[Ready | Away], None]) -> None:
        self._connection, self._model, self._tell = connection, model, tell
        self._asked = threading.Event()
        self._closed = False
        self._watch: grpc.Call | None = None
        self._thread = threading.Thread(target=self._look, name="trapline-scout", daemon=True)
        self._thread.start()

    def look_again(self) -> None:
        """Lets it look anew: a stream to the server ended."""
        self._asked.set()
        watch = self._watch
        if watch is not None:
            watch.cancel()

    def close(self) -> None:
        """Ends it."""
        self._closed = True
        self.look_again()

    def join(self) -> None:
        """Waits until it has ended."""
        self._thread.join()

    def _look(self) -> None:
        pause_count = 0
        while not self._closed:
            self._asked.clear()
            try:
                self._tell(Ready(self._connection.ready_model(self._model)))
                pause_count = 0
                self._stay_until_unwell()
            except ValueError:  # what gRPC raises of a channel that was closed
                if not self._connection.closed:
                    raise
                return
            except Refusal as refusal:
                self._tell(Away(refusal))
                self._asked.wait(min(backoff_seconds(pause_count, refusal), LONGEST_PAUSE_SECONDS))
                pause_count += 1

    def _stay_until_unwell(self) -> None:
        """Returns when it is time to look anew.

        Raises:
            Refusal: The server is not reached any more, or says that it does not serve.
        """
        request = health_pb2.HealthCheckRequest(service=HEALTH_SERVICE)
        watch = self._watch = self._connection.health_stub.Watch(request, timeout=_WATCH_SECONDS)
        try:
            if self._asked.is_set() or self._closed:  # before there was a watch to cancel
                return
            for answer in watch:
                if answer.status != health_pb2.HealthCheckResponse.SERVING:
                    raise self._connection.not_serving()
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            if refusal.code is grpc.StatusCode.UNIMPLEMENTED:
                self._asked.wait(_WATCH_SECONDS)  # no health to watch: the streams will tell
            elif refusal.code not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise self._connection.explained(refusal) from error
        finally:
            watch.cancel()
