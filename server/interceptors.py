"""Around every call of ours: refusals become statuses, and each call leaves one log line and its counts."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from trapline.errors import Refusal, RequestInvalid, reason_name, to_status
from trapline.request_id import REQUEST_ID_KEY

from .caller import caller_of
from .calls import Call, begin, request_id_of
from .errors import as_refusal
from .gate import Gate
from .metrics import Metrics
from .tracing import Tracing

_log = logging.getLogger(__name__)
_OURS = "/trapline."


class _Malformed:
    """Stands for a message that is no protobuf of the method's type."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of `trapline.v1`; health and reflection are neither logged nor counted: probes fill no log.

    Args:
        gate: What is still taken.
        metrics: Where to count.
        tracing: Makes spans; None where that is off.
        identified: Whether clients have certificates, by which the log names them.
    """

    def __init__(
        self, gate: Gate, metrics: Metrics, tracing: Tracing | None = None, *, identified: bool = False
    ) -> None:
        self._gate, self._metrics, self._tracing, self._identified = gate, metrics, tracing, identified
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The method's handler, wrapped once; None where there is no such method."""
        path = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if path not in self._wrapped:
            self._wrapped[path] = self._wrap(path, handler) if path.startswith(_OURS) else _quiet(handler)
        return self._wrapped[path]

    def refusing(self, path: str, refusal: Refusal) -> "grpc.RpcMethodHandler[Any, Any]":
        """A handler for a call of any kind that answers with `refusal`, and reads nothing of the request before."""

        async def refuse(_requests: AsyncIterator[Any], context: Any) -> None:  # noqa: ANN401  # gRPC's own
            async def work() -> None:
                raise refusal

            await self._call(path, context, work)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _wrap(self, path: str, handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":  # noqa: ANN401  # its behaviours are of any type
        parse, serialize = _tolerant(handler.request_deserializer), handler.response_serializer
        if handler.response_streaming:

            async def answer_stream(requests: AsyncIterator[Any], context: Any) -> None:  # noqa: ANN401  # gRPC's own
                await self._call(path, context, lambda: handler.stream_stream(_parsed(requests), context))

            return grpc.stream_stream_rpc_method_handler(answer_stream, parse, serialize)

        async def answer(request: Any, context: Any) -> Any:  # noqa: ANN401  # messages of any method
            # Serialised in here, where a failure is told in our words.
            return await self._call(
                path, context, lambda: _serialized(handler.unary_unary(_whole(request), context), serialize)
            )

        return grpc.unary_unary_rpc_method_handler(answer, parse)

    async def _call(self, path: str, context: Any, work: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401  # as above
        began, code, reason = time.monotonic(), grpc.StatusCode.OK, "-"
        call = self._begun(path, context)
        streaming = call.method.startswith("Stream")
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
                call.note_error(refusal)
                try:
                    await _abort(context, refusal, (REQUEST_ID_KEY, call.request_id))
                finally:
                    del refusal  # whose traceback refers to this frame: only the garbage collector would free the call
            finally:
                seconds = time.monotonic() - began
                self._metrics.calls.labels(call.method, code.name).inc()
                if not streaming:
                    self._metrics.call_seconds.labels(call.method).observe(seconds)
                if call.trace is not None:
                    call.trace.end(call, code, reason)
                caller = caller_of(context, identified=self._identified)
                _tell(call, caller, context.peer(), code=code.name, reason=reason, seconds=seconds)

    def _begun(self, path: str, context: Any) -> Call:  # noqa: ANN401  # gRPC's context of any method
        """The call, named and traced, as the one that its task works on."""
        metadata = context.invocation_metadata()
        call = Call(method=path.rsplit("/", 1)[-1], request_id=request_id_of(metadata))
        if self._tracing is not None:
            call.trace = self._tracing.begin(path, call.request_id, metadata)
        begin(call)
        # Never initial metadata: gRPC retries no call that has sent some.
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        return call


def _tell(call: Call, caller: str, peer: str, *, code: str, reason: str, seconds: float) -> None:
    """The call's line in the log: what is known of it, and nothing of its images but how many and how large."""
    words = "event=call request_id=%s method=%s code=%s reason=%s seconds=%.6f caller=%s peer=%s"
    values: list[object] = [call.request_id, call.method, code, reason, seconds, caller, peer]
    if call.model:
        words += " model=%s"
        values.append(call.model)
    if call.image_count:
        words += " images=%d answered=%d refused=%d bytes=%d"
        values += [call.image_count, call.answered_count, call.refused_count, call.byte_count]
    if count := call.answered_count:
        words += " preprocess_seconds=%.6f queue_seconds=%.6f inference_seconds=%.6f batch_images=%.1f"
        sums = (call.preprocess_seconds, call.queue_seconds, call.inference_seconds, call.batch_image_count)
        values += [each / count for each in sums]
    if call.error_id:
        words += " error_id=%s"
        values.append(call.error_id)
    _log.info(words, *values)


def _quiet(handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":  # noqa: ANN401  # its behaviours are of any type
    """A handler of health or reflection whose faults leave in our words: gRPC would send the exception's own text."""
    parse, serialize = _tolerant(handler.request_deserializer), handler.response_serializer

    async def answer(request: Any, context: Any) -> Any:  # noqa: ANN401  # messages of any method
        async with _refusing_faults(context):
            return await (handler.unary_stream or handler.unary_unary)(_whole(request), context)

    async def answers(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: ANN401  # the same
        async with _refusing_faults(context):
            async for response in handler.stream_stream(_parsed(requests), context):
                yield response

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(answers, parse, serialize)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(answer, parse, serialize)
    return grpc.unary_unary_rpc_method_handler(answer, parse, serialize)


@contextlib.asynccontextmanager
async def _refusing_faults(context: Any) -> AsyncIterator[None]:  # noqa: ANN401  # gRPC's context of any method
    try:
        yield
    except grpc.aio.AbortError:
        raise  # answered already
    except Exception as error:  # noqa: BLE001  # whatever it was, the caller gets a status and the log the rest
        await _abort(context, as_refusal(error))


async def _abort(context: Any, refusal: Refusal, *more: tuple[str, str]) -> None:  # noqa: ANN401  # gRPC's context of any method
    status = rpc_status.to_status(to_status(refusal))
    trailers = (*status.trailing_metadata, *more)
    if refusal.retry_seconds is not None:
        # gRPC's own retries wait for this long instead of their back-off.
        trailers += (("grpc-retry-pushback-ms", str(round(refusal.retry_seconds * 1000))),)
    try:
        await context.abort(status.code, status.details, trailers)
    except grpc.aio.AbortError as aborted:
        # gRPC keeps it with the call's context and raises it again at the end. With its traceback, or the error that
        # it was raised in place of, it would keep the request, too, until the garbage collector comes.
        aborted.__traceback__ = aborted.__context__ = None


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


async def _serialized(answer: Awaitable[Any], serialize: Callable[[Any], bytes]) -> bytes:
    return serialize(await answer)


async def _parsed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _whole(request)
