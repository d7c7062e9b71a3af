"""Refusals keep their meaning across the wire, both ways."""

import re
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from trapline import errors, train_errors
from trapline.v1.error_reason_pb2 import ErrorReason

# By the module: programs may have refusals of their own (the clients do), which never cross the wire.
MODULES = {module.__name__: module for module in (errors, train_errors)}
REFUSALS = [kind for kind in errors.Refusal.__subclasses__() if kind.__module__ in MODULES]
PROTO = Path(__file__).parents[2] / "protos" / "trapline" / "v1" / "error_reason.proto"
METHOD = "/trapline.v1.ClassifyService/Classify"


def example(refusal: type[errors.Refusal]) -> errors.Refusal:
    return refusal(
        "the thing × is so; do that",
        retry_seconds=0.25,
        violations={"requests[1].image": "is empty", "top_k": "is below 0"},
        limitPixels=64_000_000,
        model="models/foxes",
    )


def assert_same(got: errors.Refusal, sent: errors.Refusal) -> None:
    assert type(got) is type(sent)
    for name in ("message", "code", "reason", "metadata", "retry_seconds", "violations"):
        assert getattr(got, name) == getattr(sent, name), name


@pytest.fixture(name="call", scope="module")
def _call():
    """A function that makes a real call which the server ends with the given status; gives the RpcError."""
    from concurrent.futures import ThreadPoolExecutor

    answer = {}

    def refuse(_request, context):
        context.abort_with_status(answer["status"])

    handler = grpc.unary_unary_rpc_method_handler(refuse)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("trapline.v1.ClassifyService", {"Classify": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

        def call(status):
            answer["status"] = status
            with pytest.raises(grpc.RpcError) as failed:
                channel.unary_unary(METHOD)(b"", timeout=10)
            return failed.value

        yield call
    server.stop(None).wait()


class RawStatus(grpc.Status):
    """A status with trailers as they are, broken ones included."""

    def __init__(self, code, details, trailers):
        self.code, self.details, self.trailing_metadata = code, details, trailers


@pytest.mark.parametrize("refusal", REFUSALS)
def test_each_refusal_survives_the_round_trip(refusal):
    """Class, code, reason, sentence, metadata, delay and violations come back as they were."""
    sent = example(refusal)
    status = errors.to_status(sent)
    assert_same(errors.from_status(status_pb2.Status.FromString(status.SerializeToString())), sent)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_each_refusal_survives_a_real_call(refusal, call):
    """What a server aborts with is what a client reads from the RpcError."""
    sent = example(refusal)
    assert_same(errors.from_rpc_error(call(rpc_status.to_status(errors.to_status(sent)))), sent)


async def test_a_refusal_survives_a_call_of_asyncio():
    """grpc.aio's errors are read like the others."""

    async def refuse(_request, context):
        status = rpc_status.to_status(errors.to_status(example(errors.QueueFull)))
        await context.abort(status.code, status.details, status.trailing_metadata)

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(refuse)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("trapline.v1.ClassifyService", {"Classify": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary(METHOD)(b"", timeout=10)
    await server.stop(None)
    assert_same(errors.from_rpc_error(failed.value), example(errors.QueueFull))


def test_every_status_has_exactly_one_error_info():
    """The domain is ours, the reason has no prefix, and details that do not apply are left out (AIP-193)."""
    status = errors.to_status(errors.ModelNotFound("no such model", model="models/x"))
    assert len(status.details) == 1
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason, dict(info.metadata)) == (
        "trapline.v1",
        "MODEL_NOT_FOUND",
        {"model": "models/x"},
    )


def test_each_reason_has_exactly_one_class():
    """Every reason of the proto is raisable by one class of the contract."""
    by_class = [errors.reason_name(refusal("")) for refusal in REFUSALS]
    assert len(by_class) == len(set(by_class))
    names = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118  # an enum wrapper
    assert set(by_class) == names - {"UNSPECIFIED"}


def test_each_class_has_the_code_that_the_proto_and_the_tree_name():
    """The tree in the module's docstring lists each class with its code and reason."""
    for refusal in REFUSALS:
        line = next(
            line for line in MODULES[refusal.__module__].__doc__.splitlines() if f"── {refusal.__name__} " in line
        )
        assert line.split()[-2:] == [refusal.code.name, errors.reason_name(refusal(""))]


def test_each_reasons_comment_in_the_proto_names_its_code_and_variables():
    """What error_reason.proto says of a reason is what its class declares: the code first, and each key of metadata."""
    comments: dict[str, str] = {}
    lines: list[str] = []
    for line in PROTO.read_text(encoding="utf-8").splitlines():
        if line.startswith("  // "):
            lines.append(line.removeprefix("  // "))
        elif line.startswith("  ERROR_REASON_"):
            comments[line.split()[0].removeprefix("ERROR_REASON_")] = " ".join(lines)
            lines = []
    assert len(comments) == len(ErrorReason.keys())
    for refusal in REFUSALS:
        comment = comments[errors.reason_name(refusal(""))]
        assert comment.startswith(f"{refusal.code.name}: ")
        assert set(re.findall(r"`(\w+)`", comment)) == set(refusal.variables), refusal.__name__


def test_each_class_says_what_its_page_tells():
    """Cause and remedy are there for each class, and a delay to come back after only where that may help."""
    for refusal in REFUSALS:
        assert refusal.cause, refusal.__name__
        assert refusal.remedy, refusal.__name__
        assert refusal.retry or "RetryInfo" not in refusal.cause, refusal.__name__
    retried = {refusal.code.name for refusal in REFUSALS if refusal.retry}
    assert retried == {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert not {refusal.code.name for refusal in REFUSALS if not refusal.retry} & retried


def test_an_unknown_reason_keeps_code_and_sentence():
    """A reason of a newer server is a plain Refusal with the same code, sentence and metadata."""
    status = errors.to_status(errors.QueueFull("full", model="models/x"))
    info = error_details_pb2.ErrorInfo(reason="MADE_UP", domain="trapline.v1", metadata={"model": "models/x"})
    status.details[0].Pack(info)
    got = errors.from_status(status)
    assert type(got) is errors.Refusal
    assert (got.code, got.reason, got.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0, "full")
    assert got.metadata == {"model": "models/x"}


def test_a_foreign_domain_is_not_taken_for_ours():
    """The same word in another domain means something else."""
    status = status_pb2.Status(code=8, message="quota")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="example.org"))
    got = errors.from_status(status)
    assert type(got) is errors.Refusal
    assert got.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_status_without_details_is_a_plain_refusal(call):
    """A refusal of gRPC's own carries a code and a text only."""
    got = errors.from_rpc_error(call(RawStatus(grpc.StatusCode.UNIMPLEMENTED, "not here", None)))
    assert type(got) is errors.Refusal
    assert (got.code, got.message, got.metadata) == (grpc.StatusCode.UNIMPLEMENTED, "not here", {})
    assert errors.from_status(status_pb2.Status(code=99, message="x")).code is grpc.StatusCode.UNKNOWN


def test_a_refused_connection_is_a_plain_refusal():
    """No server at all is UNAVAILABLE with gRPC's text."""
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary(METHOD)(b"", timeout=10)
    got = errors.from_rpc_error(failed.value)
    assert (type(got), got.code) == (errors.Refusal, grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(b"\xff\xff\xff", id="no protobuf"),
        pytest.param(status_pb2.Status(code=3, message="other").SerializeToString(), id="another code"),
        pytest.param(
            status_pb2.Status(
                code=5,
                message="gone",
                details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")],
            ).SerializeToString(),
            id="broken detail",
        ),
    ],
)
def test_details_that_a_proxy_broke_are_left_out(blob, call):
    """Trailers that do not fit the status never hide its code and text behind another exception."""
    trailers = (("grpc-status-details-bin", blob),)
    got = errors.from_rpc_error(call(RawStatus(grpc.StatusCode.NOT_FOUND, "gone", trailers)))
    assert (type(got), got.code, got.message) == (errors.Refusal, grpc.StatusCode.NOT_FOUND, "gone")


def test_exit_codes_of_sentences():
    """Work that failed is 1, a wrong command line 2."""
    assert (errors.TraplineError("x").exit_code, errors.UsageError("x").exit_code) == (1, 2)
    assert errors.QueueFull("x").exit_code == 1
