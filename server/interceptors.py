"""Around every call of ours: refusals become statuses, and each call leaves one log line and its counts."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from trapline.errors import Refusal, RequestInvalid, reason_name, to_status

from .errors import as_refusal
from .gate import Gate
from .metrics import Metrics

_log = logging.getLogger(__name__)
_OURS = "/trapline."


class _Malformed:
    """Stands for a message that is no protobuf of the method's type."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of `trapline.v1`; health and reflection pass untouched, so probes fill no log."""

    def __init__(self, gate: Gate, metrics: Metrics) -> None:
        self._gate, self._metrics = gate, metrics
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The method's handler, wrapped once; None where there is no such method."""
        path = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or not path.startswith(_OURS):
            return handler
        if path not in self._wrapped:
            self._wrapped[path] = self._wrap(path.rsplit("/", 1)[-1], handler)
        return self._wrapped[path]

    def _wrap(self, method: str, handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":  # noqa: ANN401  # its behaviours are of any type
        parse, serialize = _tolerant(handler.request_deserializer), handler.response_serializer
        if handler.response_streaming:

            async def answer_stream(requests: AsyncIterator[Any], context: Any) -> None:  # noqa: ANN401  # gRPC's own
                await self._call(method, context, lambda: handler.stream_stream(_parsed(requests), context))

            return grpc.stream_stream_rpc_method_handler(answer_stream, parse, serialize)

        async def answer(request: Any, context: Any) -> Any:  # noqa: ANN401  # messages of any method
            return await self._call(method, context, lambda: handler.unary_unary(_whole(request), context))

        return grpc.unary_unary_rpc_method_handler(answer, parse, serialize)

    async def _call(self, method: str, context: Any, work: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401  # as above
        began, code, reason = time.monotonic(), grpc.StatusCode.OK, "-"
        streaming = method.startswith("Stream")
        with self._gate:
            try:
                self._gate.check(streaming=streaming)
                return await work()
            except asyncio.CancelledError:
                code = _cancelled_code(context)
                raise
            except Exception as error:  # noqa: BLE001  # whatever it was, the caller gets a status and the log the rest
                refusal = as_refusal(error)
                code, reason = refusal.code, reason_name(refusal)
                await _abort(context, refusal)
            finally:
                seconds = time.monotonic() - began
                self._metrics.calls.labels(method, code.name).inc()
                if not streaming:
                    self._metrics.call_seconds.labels(method).observe(seconds)
                _log.info(
                    "event=call method=%s code=%s reason=%s seconds=%.6f peer=%s",
                    *(method, code.name, reason, seconds, context.peer()),
                )


async def _abort(context: Any, refusal: Refusal) -> None:  # noqa: ANN401  # gRPC's context of any method
    status = rpc_status.to_status(to_status(refusal))
    trailers = tuple(status.trailing_metadata)
    if refusal.retry_seconds is not None:
        # gRPC's own retries wait for this long instead of their back-off.
        trailers += (("grpc-retry-pushback-ms", str(round(refusal.retry_seconds * 1000))),)
    await context.abort(status.code, status.details, trailers)


def _cancelled_code(context: Any) -> grpc.StatusCode:  # noqa: ANN401  # gRPC's context of any method
    left = context.time_remaining()
    return grpc.StatusCode.DEADLINE_EXCEEDED if left is not None and left <= 0 else grpc.StatusCode.CANCELLED


def _tolerant(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """`parse` that marks garbage instead of raising: gRPC would answer UNKNOWN, and log a traceback a message."""

    def parse_or_mark(data: bytes) -> Any:  # noqa: ANN401  # messages of any method
        try:
            return parse(data)
        except DecodeError:
            return _Malformed()

    return parse_or_mark


def _whole(request: Any) -> Any:  # noqa: ANN401  # messages of any method
    if isinstance(request, _Malformed):
        raise RequestInvalid("the message is not one of this method's type; build it from trapline.v1")
    return request


async def _parsed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _whole(request)
