"""Every method of the train service at every address, by every kind of caller: what is not in the matrix fails."""

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from trainer.jobs.access import ACCESS
from trapline.errors import from_rpc_error, reason_name
from trapline.service.authentication import Access
from trapline.v1 import classify_pb2, model_pb2, train_pb2

CALLER, ADMIN = "caller-token-0123456789", "admin-token-0123456789"
TOKENS = {"no token": None, "bad token": "wrong-token-0123456789", "caller": CALLER, "admin": ADMIN}
OPEN, TOKEN, ADMIN_TOKEN, ELSEWHERE = "open", "token", "admin token", "elsewhere"

TRAIN = "/trapline.v1.TrainService/"
HEALTH = {"/grpc.health.v1.Health/Check": OPEN, "/grpc.health.v1.Health/Watch": OPEN}
READING = {
    **HEALTH,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": TOKEN,
    **{
        f"{TRAIN}{name}": TOKEN
        for name in (
            "GetTrainJob",
            "ListTrainJobs",
            "WatchTrainJob",
            "ListTrainJobArtifacts",
            "ReadTrainJobArtifact",
        )
    },
}
CHANGING = [f"{TRAIN}{name}" for name in ("CreateTrainJob", "CancelTrainJob", "DeleteTrainJob")]
#: What each address serves, and to whom. Every method that is declared and not here is served nowhere.
MATRIX = {
    "main": {**READING, **dict.fromkeys(CHANGING, ELSEWHERE)},
    "admin": {**READING, **dict.fromkeys(CHANGING, ADMIN_TOKEN)},
    "health": HEALTH,
}
#: Declared, and another program's or nobody's.
NOWHERE = {"/grpc.health.v1.Health/List"} | {
    f"/{service.full_name}/{method.name}"
    for module in (classify_pb2, model_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def declared():
    """Every method of every service of ours, and of those that every program has."""
    names = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    for module in (classify_pb2, model_pb2, train_pb2):
        names |= {service.full_name for service in module.DESCRIPTOR.services_by_name.values()}
    pool = descriptor_pool.Default()
    return {f"/{name}/{method.name}" for name in names for method in pool.FindServiceByName(name).methods}


def bodies():
    """A request of each method that is answered, with OK or with a refusal that only who was let in gets."""
    job = train_pb2.TrainJob(config=train_pb2.TrainConfig(dataset="hills"))
    name = "trainJobs/done"
    messages = {
        "Check": health_pb2.HealthCheckRequest(),
        "Watch": health_pb2.HealthCheckRequest(),
        "ServerReflectionInfo": reflection_pb2.ServerReflectionRequest(list_services=""),
        "CreateTrainJob": train_pb2.CreateTrainJobRequest(train_job=job, validate_only=True),
        "GetTrainJob": train_pb2.GetTrainJobRequest(name=name),
        "ListTrainJobs": train_pb2.ListTrainJobsRequest(),
        "CancelTrainJob": train_pb2.CancelTrainJobRequest(name=name),
        "DeleteTrainJob": train_pb2.DeleteTrainJobRequest(name="trainJobs/none"),
        "WatchTrainJob": train_pb2.WatchTrainJobRequest(name=name),
        "ListTrainJobArtifacts": train_pb2.ListTrainJobArtifactsRequest(parent=name),
        "ReadTrainJobArtifact": train_pb2.ReadTrainJobArtifactRequest(parent=name, path="model.onnx"),
    }
    return {name: message.SerializeToString() for name, message in messages.items()}


#: What those of `bodies` that change something end with.
INSIDE = {
    "CancelTrainJob": "FAILED_PRECONDITION TRAIN_JOB_WRONG_STATE",
    "DeleteTrainJob": "NOT_FOUND TRAIN_JOB_NOT_FOUND",
}


async def outcome(channel, method, body, token):
    """`OK`, or the code and reason that a call ends with. On the wire all kinds of methods are the same."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    call = channel.unary_stream(method)(body, metadata=metadata, timeout=30)
    try:
        assert await call.read() is not grpc.aio.EOF
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        return f"{refusal.code.name} {reason_name(refusal)}".removesuffix(" UNSPECIFIED")
    call.cancel()
    return "OK"


def expected(method, access, token):
    """What the matrix says of a call."""
    inside = INSIDE.get(method.rpartition("/")[2], "OK")
    if access == OPEN:
        return inside
    if token not in ("caller", "admin"):
        return "UNAUTHENTICATED TOKEN_INVALID"
    if access is None:
        return "UNIMPLEMENTED"
    if access == ELSEWHERE or (access == ADMIN_TOKEN and token == "caller"):
        return "PERMISSION_DENIED METHOD_NOT_ALLOWED"
    return inside


@pytest.fixture
def token_files(tmp_path):
    """Files of callers' and of admins' tokens, as options."""
    (tmp_path / "tokens").write_text(f"hills:{CALLER}\n")
    (tmp_path / "admins").write_text(f"{ADMIN}\n")
    return {"token_file": tmp_path / "tokens", "admin_token_file": tmp_path / "admins"}


async def with_a_job(one):
    """Makes the job `done` as an admin, and waits for its end."""
    job = train_pb2.TrainJob(config=train_pb2.TrainConfig(dataset="hills"))
    metadata = [("authorization", f"Bearer {ADMIN}")]
    address = (one.server.doors.admin or one.server.doors.main).address
    request = train_pb2.CreateTrainJobRequest(train_job=job, train_job_id="done").SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.unary_unary(f"{TRAIN}CreateTrainJob")(request, metadata=metadata)
        watch = train_pb2.WatchTrainJobRequest(name="trainJobs/done").SerializeToString()
        async for _ in channel.unary_stream(f"{TRAIN}WatchTrainJob")(watch, metadata=metadata):
            pass


def test_the_matrix_has_every_method():
    """A method that is declared, or that the service knows an access for, and is not in the matrix fails here."""
    in_matrix = {method for methods in MATRIX.values() for method in methods}
    assert declared() == in_matrix | NOWHERE
    assert set(ACCESS) == in_matrix
    assert {method for method, access in ACCESS.items() if access is Access.ADMIN} == set(CHANGING)
    assert {method for method, access in ACCESS.items() if access is Access.OPEN} == set(HEALTH)
    assert set(bodies()) == {method.rpartition("/")[2] for method in in_matrix}


async def test_every_method_by_every_kind_of_token(service, token_files):
    """At all three addresses; a call of a good token at the wrong address is told where it belongs."""
    requests, wrong = bodies(), []
    async with service(**token_files, admin="127.0.0.1:0", health="127.0.0.1:0") as one:
        await with_a_job(one)
        doors = one.server.doors
        for name, door in {"main": doors.main, "admin": doors.admin, "health": doors.health}.items():
            async with grpc.aio.insecure_channel(door.address) as channel:
                for method in sorted(declared()):
                    for kind, token in TOKENS.items():
                        got = await outcome(channel, method, requests.get(method.rpartition("/")[2], b""), token)
                        want = expected(method, MATRIX[name].get(method), kind)
                        if got != want:
                            wrong.append((name, method, kind, got, want))
    assert not wrong


@pytest.mark.parametrize(
    ("given", "token", "reading", "changing"),
    [
        ((), None, "OK", "OK"),
        (("token_file",), CALLER, "OK", "OK"),
        (("token_file",), None, "UNAUTHENTICATED TOKEN_INVALID", "UNAUTHENTICATED TOKEN_INVALID"),
        (("admin_token_file",), None, "OK", "UNAUTHENTICATED TOKEN_INVALID"),
        (("admin_token_file",), ADMIN, "OK", "OK"),
        (("token_file", "admin_token_file"), CALLER, "OK", "PERMISSION_DENIED METHOD_NOT_ALLOWED"),
        (("token_file", "admin_token_file"), ADMIN, "OK", "OK"),
    ],
)
async def test_one_address_can_tell_admins_from_callers(service, token_files, *, given, token, reading, changing):
    """Without --admin, jobs are made by admins where there are such, else by callers."""
    requests = bodies()
    async with service(**{name: token_files[name] for name in given}) as one:
        for method, want in ((f"{TRAIN}ListTrainJobs", reading), (f"{TRAIN}CreateTrainJob", changing)):
            assert await outcome(one.channel, method, requests[method.rpartition("/")[2]], token) == want


async def test_reflection_names_what_is_served(service):
    """A tool such as grpcurl finds the service; with --no-reflection none does."""
    body = bodies()["ServerReflectionInfo"]
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    async with service() as one:
        call = one.channel.stream_stream(path)(iter([body]))
        answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
        names = {each.name for each in answer.list_services_response.service}
        assert "trapline.v1.TrainService" in names
    async with service(reflection=False) as one:
        assert await outcome(one.channel, path, body, None) == "UNIMPLEMENTED"
