"""OpenTelemetry traces of calls, by option: a span a call, with what a program says its parts were below it.

Nothing of OpenTelemetry is imported unless `--trace-endpoint` asks for it. The spans of parts are made when they are
over, from durations that were measured anyway, so that tracing touches no work.
"""

import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import grpc

from trapline.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from .calls import Call

_SECOND = 1_000_000_000  # in nanoseconds
# How long a collector that does not answer may hold an export, or the program's end, in seconds.
_EXPORT_SECONDS = 2
_NO_EXTRA = "--trace-endpoint needs OpenTelemetry: install 'trapline[tracing]', or leave the option out"


def exporter_to(endpoint: str) -> "SpanExporter":
    """What sends spans to `endpoint`, http://HOST:PORT or https://HOST:PORT, by OTLP over gRPC.

    Raises:
        UsageError: The packages of the extra `tracing` are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise UsageError(_NO_EXTRA) from error
    return OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=_EXPORT_SECONDS)


class Tracing:
    """Makes the spans of calls and hands them on, on a thread of its own.

    Args:
        exporter: Takes them.
        service_name: What traces call this program, where OTEL_SERVICE_NAME says nothing.
    """

    def __init__(self, exporter: "SpanExporter", service_name: str) -> None:
        from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # The environment's OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER count here.
        resource = Resource.create({SERVICE_NAME: os.environ.get(OTEL_SERVICE_NAME) or service_name})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("trapline")
        self._kind, self._propagator = SpanKind.SERVER, TraceContextTextMapPropagator()

    def begin(self, path: str, request_id: str, metadata: Iterable[tuple[str, str | bytes]]) -> "CallTrace":
        """The spans of a call that begins now, below those of its caller where `metadata` names them (W3C)."""
        carrier = {key: value for key, value in metadata if key in ("traceparent", "tracestate")}
        name = path.removeprefix("/")
        service, _, method = name.rpartition("/")
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "trapline.request_id": request_id,
        }
        context = self._propagator.extract(carrier)
        span = self._tracer.start_span(name, context, kind=self._kind, attributes=attributes)
        return CallTrace(self._tracer, span)

    def close(self) -> None:
        """Hands over what is left; for a few seconds at most where nobody takes it."""
        self._provider.shutdown()


class CallTrace:
    """The spans of one call."""

    def __init__(self, tracer: Any, span: Any) -> None:  # noqa: ANN401  # types of an extra that may not be there
        from opentelemetry.trace import set_span_in_context

        self._tracer, self._span = tracer, span
        self._below = set_span_in_context(span)

    def add(self, *parts: tuple[str, float, Mapping[str, int]]) -> None:
        """Spans below the call's, one after another, the last of which ended just now.

        Args:
            parts: Name, seconds and attributes of each.
        """
        start = time.time_ns() - int(sum(seconds for _, seconds, _ in parts) * _SECOND)
        for name, seconds, attributes in parts:
            end = start + int(seconds * _SECOND)
            self._tracer.start_span(name, self._below, start_time=start, attributes=attributes).end(end)
            start = end

    def end(self, call: "Call", code: grpc.StatusCode, reason: str) -> None:
        """Ends the call's own span with how it went."""
        from opentelemetry.trace import Status, StatusCode

        span = self._span
        span.set_attribute("rpc.grpc.status_code", code.value[0])
        for name, value in (*call.attributes().items(), ("error_id", call.error_id)):
            if value:
                span.set_attribute(f"trapline.{name}", value)
        if code is not grpc.StatusCode.OK:
            span.set_attribute("trapline.reason", reason)
        if code in _SERVER_FAULTS:
            span.set_status(Status(StatusCode.ERROR))
        span.end()


# What OpenTelemetry's conventions for gRPC count as a server's error; the others are the caller's affair.
_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
