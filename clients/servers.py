"""The servers that a job may ask: single calls take turns among those that are well."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import grpc

from trapline.errors import Refusal, from_rpc_error

from .connection import START_SECONDS, Connection, is_worth_retrying, persist
from .security import Security

# How long a server that failed is left alone before it is looked at again, in seconds.
_REST_SECONDS = 1.0

Reply = TypeVar("Reply")


class Servers:
    """Connections to one server or several.

    Args:
        addresses: Of each, `host:port` or a gRPC target; at least one.
        security: TLS and the token, for each.

    Raises:
        UsageError: A file cannot be used, or a token would leave this machine in plain text.
    """

    def __init__(self, addresses: Sequence[str], *, security: Security | None = None) -> None:
        self.connections = tuple(Connection(address, security=security) for address in addresses)
        self._turns = itertools.cycle(self.connections)
        # When to look again at a server that failed; it is then asked for its health first.
        self._rests: dict[Connection, float] = {}
        self._reached = False

    def close(self) -> None:
        """Ends every call and every connection."""
        for connection in self.connections:
            connection.close()

    def persist(
        self,
        attempt: Callable[[Connection, float], Reply],
        *,
        timeout_seconds: float,
        unreachable_seconds: float = START_SECONDS,
    ) -> Reply:
        """What `attempt` returns, tried again, at the next server, while that may help.

        Args:
            attempt: One call; takes the server to ask and the seconds that it has.
            timeout_seconds: Time for all attempts together.
            unreachable_seconds: Time for servers that cannot be reached, before any has answered, once each was
                asked; `timeout_seconds` where that is less.

        Raises:
            Refusal: The last attempt's, as a sentence.
        """
        connection = self.connections[0]

        def once(seconds_left: float) -> Reply:
            nonlocal connection
            connection = self._next()
            try:
                return attempt(connection, seconds_left)
            except (grpc.RpcError, Refusal) as error:
                refusal = error if isinstance(error, Refusal) else from_rpc_error(error)
                if is_worth_retrying(refusal) or refusal.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
                    self._rests[connection] = time.monotonic() + _REST_SECONDS
                raise refusal from error

        try:
            # Who answered once is there: what is asked next may wait through a restart.
            patience_seconds = timeout_seconds if self._reached else unreachable_seconds
            reply = persist(
                once,
                timeout_seconds=timeout_seconds,
                unreachable_seconds=patience_seconds,
                server_count=len(self.connections),
            )
        except Refusal as refusal:
            raise connection.explained(refusal) from refusal.__cause__
        self._reached = True
        return reply

    def _next(self) -> Connection:
        """The next server in turn that is not left alone; the next at all where all are."""
        if len(self.connections) == 1:
            return self.connections[0]
        for connection in itertools.islice(self._turns, len(self.connections)):
            rested = self._rests.get(connection)
            if rested is None:
                return connection
            if time.monotonic() >= rested:
                if connection.is_serving():
                    self._rests.pop(connection, None)  # another thread's call may have been here
                    return connection
                self._rests[connection] = time.monotonic() + _REST_SECONDS
        return next(self._turns)
