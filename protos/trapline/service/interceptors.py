"""Around every call: strangers are refused unread, refusals become statuses, each call leaves a line and its counts."""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn

import grpc
import grpc.aio
from prometheus_client import Counter, Histogram

from trapline.errors import Refusal, reason_name
from trapline.request_id import REQUEST_ID_KEY

from .authentication import Authentication
from .caller import caller_of
from .calls import Call, begin, request_id_of
from .errors import as_refusal
from .gate import Gate
from .metrics import ServiceMetrics
from .tracing import Tracing
from .wire import Find, Serve, abort, parsed, quiet, reading, tolerant, whole, writing

_log = logging.getLogger(__name__)
_OURS = "/trapline."


class _Method:
    """One method of an address, and what is counted of it: to find a child of a metric costs more than to count.

    Args:
        path: Its full name.
        metrics: Where to count.
        streams: Whether a call may have several answers: such a one takes as long as its caller likes.

    Attributes:
        name: Its name alone.
        handler: What gRPC calls; None where it is not served.
    """

    def __init__(self, path: str, metrics: ServiceMetrics, *, streams: bool) -> None:
        self.path, self.name, self.streams = path, path.rsplit("/", 1)[-1], streams
        self.handler: grpc.RpcMethodHandler[Any, Any] | None = None
        self._metrics = metrics
        self._counters: dict[grpc.StatusCode, Counter] = {}
        self._timer: Histogram | None = None

    def count(self, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call that ended with `code`."""
        counter = self._counters.get(code)
        if counter is None:
            counter = self._counters[code] = self._metrics.calls.labels(self.name, code.name)
        counter.inc()
        if not self.streams:
            if self._timer is None:
                self._timer = self._metrics.call_seconds.labels(self.name)
            self._timer.observe(seconds)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """The one interceptor of an address: lets a call in or answers it unread, and wraps the methods of `trapline.v1`.

    Health and reflection are neither logged nor counted: probes fill no log.

    Args:
        authentication: Says who is let in to which method; what it does not know is not served.
        gate: What is still taken.
        metrics: Where to count.
        tracing: Makes spans; None where that is off.
        call_kind: What a call takes note of.
        before_reading: What may refuse a call of a method, by its full name, before anything of its request is read.
            Only methods of one request and one answer have one.
        identified: Whether clients have certificates, by which the log names them.
    """

    def __init__(
        self,
        authentication: Authentication,
        *,
        gate: Gate,
        metrics: ServiceMetrics,
        tracing: Tracing | None = None,
        call_kind: type[Call] = Call,
        before_reading: Mapping[str, Find] | None = None,
        identified: bool = False,
    ) -> None:
        self._authentication, self._gate, self._metrics, self._tracing = authentication, gate, metrics, tracing
        self._call_kind, self._identified = call_kind, identified
        self._before_reading = before_reading or {}
        self._methods: dict[str, _Method] = {}
        # No name of a method that is not served is kept, logged or counted: there is no end of them.
        self._unknown = _Method("unknown", metrics, streams=False)

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The method's handler; one that refuses; or None, which gRPC answers with UNIMPLEMENTED."""
        path = handler_call_details.method
        method = self._methods.get(path)
        if method is None:
            method = self._unknown
            if path in self._authentication.access:
                method = self._methods[path] = self._found(path, await continuation(handler_call_details))
        try:
            self._authentication.admit(path, handler_call_details.invocation_metadata)
        except Refusal as refusal:
            return self._refusing(method, refusal)
        return method.handler

    def _found(self, path: str, handler: Any) -> _Method:  # noqa: ANN401  # its behaviours are of any type
        if handler is None:
            return _Method(path, self._metrics, streams=False)
        method = _Method(path, self._metrics, streams=bool(handler.response_streaming))
        method.handler = self._wrapped(method, handler) if path.startswith(_OURS) else quiet(handler)
        return method

    def _refusing(self, method: _Method, refusal: Refusal) -> "grpc.RpcMethodHandler[Any, Any]":
        """A handler for a call of any kind that answers with `refusal`, and reads nothing of the request before."""

        async def refuse(_requests: AsyncIterator[Any], _context: Any) -> None:  # noqa: ANN401  # gRPC's own
            nonlocal refusal
            try:
                raise refusal
            finally:
                del refusal  # whose traceback refers to this frame

        return grpc.stream_stream_rpc_method_handler(self._around(method, refuse, read=_as_it_is))

    def _wrapped(self, method: _Method, handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":  # noqa: ANN401  # as above
        parse, serialize = tolerant(handler.request_deserializer), handler.response_serializer
        if not method.streams:
            # Serialised in here, where a failure is told in our words.
            serve = self._around(method, handler.unary_unary, read=whole, serialize=serialize)
            find = self._before_reading.get(method.path)
            if find is None:
                return grpc.unary_unary_rpc_method_handler(serve, parse)
            turn_away = self._around(method, _refuse, read=_as_it_is)
            return grpc.stream_unary_rpc_method_handler(reading(find, serve, turn_away), parse)
        work = handler.stream_stream or handler.unary_stream
        if inspect.isasyncgenfunction(work):
            work = writing(work)
        if handler.request_streaming:
            serve = self._around(method, work, read=parsed)
            return grpc.stream_stream_rpc_method_handler(serve, parse, serialize)
        serve = self._around(method, work, read=whole)
        return grpc.unary_stream_rpc_method_handler(serve, parse, serialize)

    def _around(
        self,
        method: _Method,
        work: Serve,
        *,
        read: Callable[[Any], Any],
        serialize: Callable[[Any], bytes] | None = None,
    ) -> Serve:
        """`work` with all that is around a call; one coroutine for both, as every call pays for each."""
        gate = self._gate

        async def serve(request: Any, context: Any) -> Any:  # noqa: ANN401  # messages of any method
            began, code, reason = time.monotonic(), grpc.StatusCode.OK, "-"
            call = self._begun(method, context)
            with gate:
                try:
                    gate.check(streaming=method.streams)
                    answer = await work(read(request), context)
                    return answer if serialize is None else serialize(answer)
                except asyncio.CancelledError:
                    code = _cancelled_code(context)
                    raise
                except Exception as error:  # noqa: BLE001  # whatever it was, the caller gets a status and the log the rest
                    refusal = as_refusal(error)
                    code, reason = refusal.code, reason_name(refusal)
                    call.note_error(refusal)
                    try:
                        await abort(context, refusal, (REQUEST_ID_KEY, call.request_id))
                    finally:
                        del refusal  # whose traceback refers to this frame: only the collector would free the call
                finally:
                    seconds = time.monotonic() - began
                    method.count(code, seconds)
                    if call.trace is not None:
                        call.trace.end(call, code, reason)
                    caller = caller_of(context, identified=self._identified)
                    _tell(call, caller, context.peer(), code=code.name, reason=reason, seconds=seconds)

        return serve

    def _begun(self, method: _Method, context: Any) -> Call:  # noqa: ANN401  # gRPC's context of any method
        """The call, named and traced, as the one that its task works on."""
        metadata = context.invocation_metadata()
        call = self._call_kind(method=method.name, request_id=request_id_of(metadata))
        if self._tracing is not None:
            call.trace = self._tracing.begin(method.path, call.request_id, metadata)
        begin(call)
        # Never initial metadata: gRPC retries no call that has sent some.
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        return call


def _tell(call: Call, caller: str, peer: str, *, code: str, reason: str, seconds: float) -> None:
    """The call's line in the log."""
    more, values = call.words()
    words = "event=call request_id=%s method=%s code=%s reason=%s seconds=%.6f caller=%s peer=%s" + more
    shared = (call.request_id, call.method, code, reason, seconds, caller, peer)
    if call.error_id:
        _log.info(words + " error_id=%s", *shared, *values, call.error_id)
    else:
        _log.info(words, *shared, *values)


def _cancelled_code(context: Any) -> grpc.StatusCode:  # noqa: ANN401  # gRPC's context of any method
    left = context.time_remaining()
    return grpc.StatusCode.DEADLINE_EXCEEDED if left is not None and left <= 0 else grpc.StatusCode.CANCELLED


async def _refuse(refuse: Callable[[], NoReturn], _context: Any) -> NoReturn:  # noqa: ANN401  # gRPC's own
    refuse()


def _as_it_is(request: Any) -> Any:  # noqa: ANN401  # messages of any method
    return request
