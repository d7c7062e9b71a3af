"""A stream that a server sends, opened anew when it is lost half way."""

import sys
import time
from collections.abc import Callable, Generator
from typing import Any

import grpc

from trapline.errors import Refusal, from_rpc_error

from .connection import (
    LONGEST_BACKOFF_SECONDS,
    START_SECONDS,
    Connection,
    ServerUnreachable,
    backoff_seconds,
    is_worth_retrying,
)


def resumed(
    connection: Connection,
    open_stream: Callable[[], Any],
    *,
    has_all: Callable[[], bool],
    lost_seconds: float,
    reached: bool,
) -> Generator[Any, None, None]:
    """The messages of a server's stream, opened anew whenever it ends before its time.

    A message after a stream's first, or a stream that stood for some seconds, is contact with the server.

    Args:
        connection: The way to the server.
        open_stream: The call, from where the caller is.
        has_all: Whether the caller has all that it wants.
        lost_seconds: Time without contact after which it gives up, in seconds; at most 5 s where the server was never
            reached.
        reached: Whether it has answered before, to another call.

    Raises:
        Refusal: The last stream's, as a sentence.
    """
    heard, failure_count = time.monotonic(), 0
    patience_seconds = lost_seconds if reached else min(lost_seconds, START_SECONDS)
    while True:
        opened, message_count = time.monotonic(), 0
        stream = open_stream()
        try:
            for message in stream:
                message_count += 1
                yield message
            refusal: Refusal = ServerUnreachable(f"the server at {connection.address} ends its stream too early")
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
        finally:
            if not sys.is_finalizing():  # else gRPC's threads stand still, and one may hold the lock that this takes
                stream.cancel()
        if has_all():
            return
        now = time.monotonic()
        if message_count > 1 or (message_count and now - opened > LONGEST_BACKOFF_SECONDS):
            heard, failure_count = now, 0
        if message_count:
            patience_seconds = lost_seconds
        wait_seconds = backoff_seconds(failure_count, refusal)
        if connection.closed or not is_worth_retrying(refusal) or now + wait_seconds >= heard + patience_seconds:
            raise connection.explained(refusal)
        failure_count += 1
        time.sleep(wait_seconds)
