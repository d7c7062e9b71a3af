"""One channel to a server: how it connects, how long it keeps trying, and what it says when it gives up.

Every call has a deadline. UNAVAILABLE and a full queue (told by its reason) are tried again with exponential backoff
and jitter, never sooner than the server's RetryInfo asks; everything else is final.
"""

import itertools
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trapline.errors import DeadlineExceeded, ModelInvalid, ModelLoading, Refusal, from_rpc_error
from trapline.request_id import REQUEST_ID_KEY, new_request_id
from trapline.v1 import classify_pb2, classify_pb2_grpc, model_pb2, model_pb2_grpc, train_pb2_grpc
from trapline.v1.error_reason_pb2 import ErrorReason

from .security import Security

#: How long a server that was never reached is tried, in seconds: a typing error should show soon.
START_SECONDS = 5.0
#: Longest wait for the answer to one question about a model, in seconds.
QUESTION_SECONDS = 10.0
#: Longest wait between two attempts that the server did not ask for, in seconds.
LONGEST_BACKOFF_SECONDS = 5.0

#: The health service that says whether a server can classify.
HEALTH_SERVICE = classify_pb2.DESCRIPTOR.services_by_name["ClassifyService"].full_name

_HEALTH_SECONDS = 2.0
_FIRST_BACKOFF_SECONDS = 0.1

_CHANNEL_OPTIONS = (
    # An image may have any size here: what the server takes is asked for, and bigger files are refused unsent.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A connection that died without a word (a laptop's Wi-Fi, a NAT table) is noticed within 40 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Of several servers behind one DNS name, each new call takes the next.
    ("grpc.lb_policy_name", "round_robin"),
    # The default waits up to two minutes before it looks for a restarted server again.
    ("grpc.initial_reconnect_backoff_ms", 200),
    # This is also all that one attempt to connect may take: over a satellite TCP, TLS and HTTP/2 need up to 3 s.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A web proxy of the institute's does not carry gRPC without TLS; it would hide even a server on this machine.
    ("grpc.enable_http_proxy", 0),
)

Reply = TypeVar("Reply")


class ServerUnreachable(Refusal):
    """No server answers at the address."""

    code = grpc.StatusCode.UNAVAILABLE


class Connection:
    """A channel to the server at `address`, with its stubs and its patience.

    Args:
        address: `host:port`, or any target that gRPC knows, e.g. `dns:///trapline.example:50051`.
        security: TLS and the token; plain text where absent, with the token of TRAPLINE_TOKEN where there is one.
        starter: The command that starts such a server, for the sentence that says that there is none.

    Raises:
        UsageError: A file cannot be used, or a token would leave this machine in plain text.
    """

    def __init__(self, address: str, *, security: Security | None = None, starter: str = "server run") -> None:
        self.address, self.closed, self._security, self._starter = address, False, security or Security(), starter
        self._channel = self._security.channel(address, _CHANNEL_OPTIONS)
        self.classify_stub = classify_pb2_grpc.ClassifyServiceStub(self._channel)
        self.model_stub = model_pb2_grpc.ModelServiceStub(self._channel)
        self.train_stub = train_pb2_grpc.TrainServiceStub(self._channel)
        self.health_stub: Any = health_pb2_grpc.HealthStub(self._channel)

    def close(self) -> None:
        """Ends every call and the connection."""
        self.closed = True
        self._channel.close()

    def persist(
        self, attempt: Callable[[float], Reply], *, timeout_seconds: float, unreachable_seconds: float = START_SECONDS
    ) -> Reply:
        """What `attempt` returns, tried again while that may help.

        Args:
            attempt: One call; takes the seconds that are left for it.
            timeout_seconds: Time for all attempts together.
            unreachable_seconds: Time for a server that cannot be reached; `timeout_seconds` where that is less.

        Raises:
            Refusal: The last attempt's, as a sentence.
        """
        try:
            return persist(attempt, timeout_seconds=timeout_seconds, unreachable_seconds=unreachable_seconds)
        except Refusal as refusal:
            raise self.explained(refusal) from refusal.__cause__

    def ready_model(self, name: str) -> model_pb2.Model:
        """The model `name` (`models/{model}`) of a server that says it is well.

        Raises:
            Refusal: The server is not reached, does not serve now, or not this model.
        """
        if self.is_serving() is False:  # where it does not answer, the next question tells why
            raise self.not_serving()
        try:
            return self.asked_model(name, QUESTION_SECONDS)
        except grpc.RpcError as error:
            raise self.explained(from_rpc_error(error)) from error

    def is_serving(self) -> bool | None:
        """Whether the server is well, as it says itself; None where it does not answer."""
        request = health_pb2.HealthCheckRequest(service=HEALTH_SERVICE)
        try:
            answer = self.health_stub.Check(request, timeout=_HEALTH_SECONDS)
        except grpc.RpcError as error:
            # A server, or a proxy before it, without health is taken for well.
            return True if from_rpc_error(error).code is grpc.StatusCode.UNIMPLEMENTED else None
        serving: bool = answer.status == health_pb2.HealthCheckResponse.SERVING
        return serving

    def not_serving(self) -> Refusal:
        """The refusal of a server that is reached and says that it is not well."""
        return ServerUnreachable(f"the server at {self.address} says that it does not serve now; see its log")

    def asked_model(self, name: str, seconds_left: float) -> model_pb2.Model:
        """The model `name` (`models/{model}`), asked for once.

        Raises:
            Refusal: The server does not answer, or the model is broken or still loading.
            grpc.RpcError: The call failed otherwise.
        """
        request = model_pb2.GetModelRequest(name=name)
        try:
            model: model_pb2.Model = self.model_stub.GetModel(request, timeout=min(seconds_left, QUESTION_SECONDS))
        except grpc.RpcError as error:
            if from_rpc_error(error).code is grpc.StatusCode.DEADLINE_EXCEEDED:
                # Such a small question left open: the network swallows it, or the server hangs.
                raise ServerUnreachable(f"the server at {self.address} does not answer; see that it runs") from error
            raise
        if model.state == model_pb2.Model.STATE_LOADING:
            raise ModelLoading(f"{name} is still being loaded; try again in a while", model=name)
        if model.state == model_pb2.Model.STATE_FAILED:
            raise ModelInvalid(model.last_error.message or f"{name} cannot be served", model=name)
        return model

    def explained(self, refusal: Refusal) -> Refusal:
        """`refusal` in words for a person, where gRPC itself made it and not a Trapline server."""
        if refusal.reason != ErrorReason.ERROR_REASON_UNSPECIFIED or isinstance(refusal, ServerUnreachable):
            return refusal
        detail = refusal.message.rpartition(": ")[2].rstrip("]") or refusal.code.name
        if refusal.code is grpc.StatusCode.UNAVAILABLE:
            handshake = self._security.explained(refusal.message)
            if handshake:
                return ServerUnreachable(f"cannot talk to the server at {self.address}: {handshake}")
            return ServerUnreachable(
                f"cannot reach the server at {self.address} ({detail}); start one with `{self._starter}`"
            )
        if refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(
                f"the server at {self.address} did not answer in time; see that it is not overloaded"
            )
        explained = Refusal(f"the server at {self.address} failed with {refusal.code.name} ({refusal.message})")
        if refusal.code is grpc.StatusCode.UNIMPLEMENTED:
            explained = Refusal(
                f"the server at {self.address} cannot do this: it was not started with `{self._starter}`, or is older"
            )
        explained.code = refusal.code
        return explained


def persist(
    attempt: Callable[[float], Reply], *, timeout_seconds: float, unreachable_seconds: float, server_count: int = 1
) -> Reply:
    """What `attempt` returns, tried again while that may help; see `Connection.persist`.

    Of several servers, which `attempt` asks in turn, one that hangs leaves the others time: until each was asked an
    attempt has half of what is left, and `unreachable_seconds` do not count.
    """
    start = time.monotonic()
    for attempt_number in itertools.count():
        all_asked = attempt_number + 1 >= server_count
        try:
            seconds_left = start + timeout_seconds - time.monotonic()
            return attempt(max(seconds_left if all_asked else seconds_left / 2, 0.001))
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
        except Refusal as refused:
            refusal = refused
        unreached = all_asked and _is_transport(refusal)
        patience_seconds = min(timeout_seconds, unreachable_seconds) if unreached else timeout_seconds
        wait_seconds = backoff_seconds(attempt_number, refusal)
        if not is_worth_retrying(refusal) or time.monotonic() + wait_seconds >= start + patience_seconds:
            raise refusal
        time.sleep(wait_seconds)
    raise AssertionError("the loop above never ends by itself")


def call_metadata() -> tuple[tuple[str, str], ...]:
    """The metadata of a new call: its id, which the server's log has too."""
    return ((REQUEST_ID_KEY, new_request_id()),)


def is_worth_retrying(refusal: Refusal) -> bool:
    """Whether the same request may succeed a little later."""
    # CANCELLED is none of our own: a server that stops says so of a call that it had not begun yet.
    retryable = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
    return refusal.retry or refusal.code in retryable


def backoff_seconds(attempt_number: int, refusal: Refusal) -> float:
    """How long to wait after attempt `attempt_number` (from 0): doubling, jittered, and at least what RetryInfo asks.

    Source: "Exponential Backoff and Jitter", AWS Architecture Blog, 2015 (equal jitter).
    """
    longest = min(_FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt_number, 16), LONGEST_BACKOFF_SECONDS)
    jittered = longest * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, guards no secret
    asked_for = (refusal.retry_seconds or 0.0) * random.uniform(1.0, 1.25)  # noqa: S311  # the same
    return max(jittered, asked_for)


def _is_transport(refusal: Refusal) -> bool:
    """Whether gRPC itself says that no server was reached, or not in time."""
    unreached = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return refusal.code in unreached and refusal.reason == ErrorReason.ERROR_REASON_UNSPECIFIED
