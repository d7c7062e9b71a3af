import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from trapline.errors import from_rpc_error, reason_name
from trapline.v1 import train_pb2_grpc
from trapline.v1.train_pb2 import CancelTrainJobRequest, GetTrainJobRequest, TrainJob

CALLER, ADMIN = "caller-token-0123456789", "admin-token-0123456789"


async def outcome(call) -> str:
    """`OK`, or the reason or else the code that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        return reason_name(refusal).replace("UNSPECIFIED", refusal.code.name)
    return "OK"


async def listed(channel) -> set[str]:
    """The services that an address says it has."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
    return {service.name for service in (await call.read()).list_services_response.service}


async def test_each_address_has_its_services(kit):
    """All on the first, those named on the admins', health alone on its own; admins' methods are where they belong."""
    train, health, reflection = (
        "trapline.v1.TrainService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    )
    async with kit.running(admin="127.0.0.1:0", health="127.0.0.1:0") as (program, client):
        doors = program.doors
        assert [door.services for door in doors.all] == [(health, reflection, train)] * 2 + [(health,)]
        cancel = CancelTrainJobRequest(name="a")
        assert await outcome(client.stub.CancelTrainJob(cancel)) == "METHOD_NOT_ALLOWED"
        assert await listed(client.channel) == {train, health, reflection}
        async with grpc.aio.insecure_channel(doors.admin.address) as channel:
            assert await outcome(train_pb2_grpc.TrainServiceStub(channel).CancelTrainJob(cancel)) == "OK"
        async with grpc.aio.insecure_channel(doors.health.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert (await check).status == health_pb2.HealthCheckResponse.SERVING
            assert await outcome(train_pb2_grpc.TrainServiceStub(channel).CancelTrainJob(cancel)) == "UNIMPLEMENTED"


async def test_what_the_table_lacks_is_not_served(kit):
    """A method that is registered and not in the program's table does not exist, and neither does reflection if off."""
    async with kit.running(reflection=False) as (_, client):
        delete = client.channel.unary_unary("/trapline.v1.TrainService/DeleteTrainJob")(b"")
        assert await outcome(delete) == "UNIMPLEMENTED"
        with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
            await listed(client.channel)


async def test_a_programs_table_says_who_may_call_what(kit, tmp_path):
    """Callers' and admins' tokens, by the table that the program brings."""
    (tmp_path / "tokens").write_text(f"hills:{CALLER}\n")
    (tmp_path / "admins").write_text(f"{ADMIN}\n")
    files = {"token_file": tmp_path / "tokens", "admin_token_file": tmp_path / "admins"}
    async with kit.running(**files) as (program, client):
        got = {}
        for token in (None, CALLER, ADMIN):
            metadata = [("authorization", f"Bearer {token}")] if token else []
            got[token] = [
                await outcome(client.stub.GetTrainJob(GetTrainJobRequest(name="a"), metadata=metadata)),
                await outcome(client.stub.CancelTrainJob(CancelTrainJobRequest(name="a"), metadata=metadata)),
            ]
        await kit.until(lambda: program.value("trapline_call_seconds_count", method="CancelTrainJob") == 3)
        assert program.value("trapline_call_seconds_count", method="GetTrainJob") == 3
    assert got == {None: ["TOKEN_INVALID"] * 2, CALLER: ["OK", "METHOD_NOT_ALLOWED"], ADMIN: ["OK", "OK"]}


async def test_a_request_may_be_as_large_as_the_program_says(kit):
    """Larger ones are refused by gRPC itself."""
    async with kit.running() as (_, client):
        assert await outcome(client.stub.GetTrainJob(GetTrainJobRequest(name="a" * 60_000))) == "OK"
        assert await outcome(client.stub.GetTrainJob(GetTrainJobRequest(name="a" * 70_000))) == "RESOURCE_EXHAUSTED"


async def test_an_answer_that_cannot_be_made_is_a_fault_in_our_words(kit):
    """INTERNAL, counted as the method's; the next call is answered."""

    async def story():
        yield -1  # no chunk has such a byte

    async with kit.running(story) as (program, client):
        assert await outcome(client.stream("ReadTrainJobArtifact").read()) == "INTERNAL"
        assert await client.stub.GetTrainJob(GetTrainJobRequest(name="a")) == TrainJob(name="a")
        assert program.value("trapline_calls_total", method="ReadTrainJobArtifact", code="INTERNAL") == 1
