import asyncio
import itertools
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.calls import TRACED_IMAGES

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter(monkeypatch):
    """Takes the spans of every server of the test; they are there once it has stopped."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr("server.app.exporter_to", lambda _endpoint: exporter)
    return exporter


def below(spans, parent) -> list:
    found = [span for span in spans if span.parent and span.parent.span_id == parent.context.span_id]
    return sorted(found, key=lambda span: span.start_time)


async def test_a_call_is_a_span_with_its_images_parts_below(kit, models, exporter):
    """Call, queue, decode, run, one after another; below the caller's own span where it names one."""
    async with kit.running(models, trace_endpoint="http://127.0.0.1:4317") as (_, stubs):
        metadata = (("traceparent", CALLER), ("x-request-id", "mine"))
        await stubs.classify.Classify(kit.request(kit.picture()), metadata=metadata)
    spans = exporter.get_finished_spans()
    (call,) = [span for span in spans if span.name == "trapline.v1.ClassifyService/Classify"]
    assert f"{call.context.trace_id:032x}-{call.parent.span_id:016x}" == CALLER[3:-3]
    assert call.kind.name == "SERVER"
    assert dict(call.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "trapline.v1.ClassifyService",
        "rpc.method": "Classify",
        "rpc.grpc.status_code": 0,
        "trapline.request_id": "mine",
        "trapline.model": "colours",
        "trapline.images": 1,
    }
    parts = below(spans, call)
    assert [span.name for span in parts] == ["queue", "decode", "run"]
    assert {span.context.trace_id for span in parts} == {call.context.trace_id}
    assert all(one.end_time == next_one.start_time for one, next_one in itertools.pairwise(parts))
    assert all(span.end_time >= span.start_time for span in spans)
    assert parts[2].attributes["trapline.batch_images"] == 1
    assert call.resource.attributes["service.name"] == "trapline-server"


async def test_errors_are_told_and_only_the_servers_are_marked(kit, models, exporter):
    """A bad image has its code and reason and is no error of the server's; a fault is one."""
    async with kit.running(models, holds=True, trace_endpoint="http://127.0.0.1:4317") as (server, stubs):
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.classify.Classify(kit.request(b"junk"))
        server.models.slot("colours").serving.session.failure = RuntimeError("CUDA error")
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.classify.Classify(kit.request(kit.picture()))
    bad, fault = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    assert (bad.attributes["rpc.grpc.status_code"], bad.attributes["trapline.reason"]) == (3, "IMAGE_UNREADABLE")
    assert (bad.status.status_code.name, fault.status.status_code.name) == ("UNSET", "ERROR")
    assert fault.attributes["trapline.error_id"]
    assert bad.parent is None


async def test_who_is_not_let_in_is_traced_too(kit, models, exporter, tmp_path):
    """A call without a token is a span with the reason; of a method that is not served no name is taken over."""
    (tmp_path / "tokens").write_text("hills:some-token-0123456789\n")
    options = {"token_file": tmp_path / "tokens", "trace_endpoint": "http://127.0.0.1:4317"}
    async with kit.running(models, **options) as (_, stubs):
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.classify.Classify(kit.request(kit.picture()))
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.channel.unary_unary("/who/knows")(b"")
    spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    assert [span.name for span in spans] == ["trapline.v1.ClassifyService/Classify", "unknown"]
    assert [span.attributes["rpc.method"] for span in spans] == ["Classify", "unknown"]
    assert {span.attributes["trapline.reason"] for span in spans} == {"TOKEN_INVALID"}


async def test_a_streams_trace_has_an_end(kit, models, exporter):
    """Only the first images of a long stream have spans of their own; the call's span counts them all."""
    count = TRACED_IMAGES + 6
    async with kit.running(models, trace_endpoint="http://127.0.0.1:4317") as (_, stubs):
        requests = [kit.marked(str(number), kit.request(kit.picture())) for number in range(count)]
        answers = [answer async for answer in stubs.classify.StreamClassify(iter(requests))]
    spans = exporter.get_finished_spans()
    assert len(answers) == count
    (call,) = [span for span in spans if span.name.endswith("StreamClassify")]
    assert call.attributes["trapline.images"] == count
    assert len(spans) == 1 + 3 * TRACED_IMAGES


async def test_spans_reach_a_collector(kit, models):
    """What --trace-endpoint names gets the spans by OTLP over gRPC, at the latest when the server stops."""
    got = []

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request, _context):  # noqa: N802  # gRPC's name
            """Keeps the spans."""
            got.extend(span.name for each in request.resource_spans for one in each.scope_spans for span in one.spans)
            return trace_service_pb2.ExportTraceServiceResponse()

    collector = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    async with kit.running(models, trace_endpoint=f"http://127.0.0.1:{port}") as (_, stubs):
        await stubs.classify.Classify(kit.request(kit.picture()))
    await asyncio.to_thread(collector.stop(0).wait)
    assert sorted(got) == ["decode", "queue", "run", "trapline.v1.ClassifyService/Classify"]


async def test_a_collector_that_is_away_costs_only_its_spans(kit, models, caplog):
    """Calls are answered, and the server stops."""
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    async with kit.running(models, trace_endpoint="http://127.0.0.1:9") as (_, stubs):
        assert (await stubs.classify.Classify(kit.request(kit.picture()))).model_version == "1"


def test_nothing_of_it_is_imported_where_it_is_off():
    """A server without --trace-endpoint never imports OpenTelemetry."""
    code = "import sys, server.app, server.cli; print([name for name in sys.modules if 'opentelemetry' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_missing_extra_is_a_sentence(models):
    """Without OpenTelemetry the option is a usage error that names the extra."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "sys.argv = ['server', 'run', '--models', sys.argv[1], '--trace-endpoint', 'http://127.0.0.1:4317']\n"
        "from server.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, models], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "trapline[tracing]" in done.stderr
    assert "Traceback" not in done.stderr
