"""Every method at every address, by every kind of caller: what is not in the matrix fails the test."""

import contextlib

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from server.access import ACCESS
from trapline.errors import from_rpc_error, reason_name
from trapline.request_id import REQUEST_ID_KEY
from trapline.service.authentication import Access
from trapline.v1 import classify_pb2, model_pb2, train_pb2

CALLER, ADMIN = "caller-token-0123456789", "admin-token-0123456789"
OPEN, TOKEN, ADMIN_TOKEN, ELSEWHERE = "open", "token", "admin token", "elsewhere"

CLASSIFY, MODEL = "/trapline.v1.ClassifyService/", "/trapline.v1.ModelService/"
HEALTH = {"/grpc.health.v1.Health/Check": OPEN, "/grpc.health.v1.Health/Watch": OPEN}
COMMON = {
    **HEALTH,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": TOKEN,
    f"{MODEL}GetModel": TOKEN,
    f"{MODEL}ListModels": TOKEN,
}
CLASSIFYING = {f"{CLASSIFY}{name}": TOKEN for name in ("Classify", "BatchClassify", "StreamClassify")}
#: What each address serves, and to whom. Every method that is anywhere declared and not here is served nowhere.
MATRIX = {
    "main": {**COMMON, **CLASSIFYING, f"{MODEL}ReloadModel": ELSEWHERE},
    "admin": {**COMMON, f"{MODEL}ReloadModel": ADMIN_TOKEN},
    "health": HEALTH,
}
#: Declared, and served by no address.
NOWHERE = {
    "/grpc.health.v1.Health/List",
    *(
        f"/trapline.v1.TrainService/{method.name}"
        for method in train_pb2.DESCRIPTOR.services_by_name["TrainService"].methods
    ),
}
CERTIFICATES = ("good", "none", "wrong CA", "expired")
TOKENS = {"no token": None, "bad token": "wrong-token-0123456789", "good token": CALLER, "admin token": ADMIN}


def declared() -> set[str]:
    """Every method of every service that the server could have registered, and of our own packages."""
    names = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    for module in (classify_pb2, model_pb2, train_pb2):
        names |= {service.full_name for service in module.DESCRIPTOR.services_by_name.values()}
    pool = descriptor_pool.Default()
    return {f"/{name}/{method.name}" for name in names for method in pool.FindServiceByName(name).methods}


def bodies(kit) -> dict[str, bytes]:
    """A good request of each method that is served."""
    image = kit.request(kit.picture())
    messages = {
        "Check": health_pb2.HealthCheckRequest(),
        "Watch": health_pb2.HealthCheckRequest(),
        "ServerReflectionInfo": reflection_pb2.ServerReflectionRequest(list_services=""),
        "Classify": image,
        "BatchClassify": classify_pb2.BatchClassifyRequest(requests=[image]),
        "StreamClassify": classify_pb2.StreamClassifyRequest(request_id="1", request=image),
        "GetModel": model_pb2.GetModelRequest(name="models/colours"),
        "ListModels": model_pb2.ListModelsRequest(),
        "ReloadModel": model_pb2.ReloadModelRequest(name="models/colours"),
    }
    return {name: message.SerializeToString() for name, message in messages.items()}


def credentials(certificates, kind: str) -> grpc.ChannelCredentials:
    pair = {"good": certificates.client, "wrong CA": certificates.foreign, "expired": certificates.late}.get(kind)
    mine = (pair.key.read_bytes(), pair.cert.read_bytes()) if pair else (None, None)
    return grpc.ssl_channel_credentials(certificates.ca.read_bytes(), *mine)


def channel(address: str, certificates=None, *, kind: str = "good") -> grpc.aio.Channel:
    if certificates is None:
        return grpc.aio.insecure_channel(address)
    return grpc.aio.secure_channel(address, credentials(certificates, kind))


async def outcome(line: grpc.aio.Channel, method: str, body: bytes, token: str | None) -> str:
    """`OK`, or the code and reason that a call ends with. On the wire all kinds of methods are the same."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    call = line.unary_stream(method)(body, metadata=metadata, timeout=30)
    try:
        assert await call.read() is not grpc.aio.EOF
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        return f"{refusal.code.name} {reason_name(refusal)}".removesuffix(" UNSPECIFIED")
    call.cancel()
    return "OK"


def expected(access: str | None, token: str) -> str:
    if access == OPEN:
        return "OK"
    if token not in ("good token", "admin token"):
        return "UNAUTHENTICATED TOKEN_INVALID"
    if access is None:
        return "UNIMPLEMENTED"
    if access == ELSEWHERE or (access == ADMIN_TOKEN and token == "good token"):
        return "PERMISSION_DENIED METHOD_NOT_ALLOWED"
    return "OK"


@pytest.fixture
def token_files(tmp_path):
    """Files of callers' and of admins' tokens, as options."""
    (tmp_path / "tokens").write_text(f"# callers\nhills:{CALLER}\n")
    (tmp_path / "admins").write_text(f"{ADMIN}\n")
    return {"token_file": tmp_path / "tokens", "admin_token_file": tmp_path / "admins"}


@contextlib.asynccontextmanager
async def guarded(kit, models, certificates, token_files):
    """A server with all three addresses, TLS with client certificates, and both kinds of tokens; its addresses."""
    options = {
        **token_files,
        "admin": "127.0.0.1:0",
        "health": "127.0.0.1:0",
        "tls_cert": certificates.server.cert,
        "tls_key": certificates.server.key,
        "tls_client_ca": certificates.ca,
    }
    async with kit.running(models, **options) as (server, _):
        doors = server.doors
        yield {"main": doors.main.address, "admin": doors.admin.address, "health": doors.health.address}


def test_the_matrix_has_every_method():
    """A method that is declared, or that the server knows an access for, and is not in the matrix fails here."""
    in_matrix = {method for methods in MATRIX.values() for method in methods}
    assert declared() == in_matrix | NOWHERE
    assert set(ACCESS) == in_matrix
    admins = {method for method, access in ACCESS.items() if access is Access.ADMIN}
    assert admins == {f"{MODEL}ReloadModel"}
    assert {method for method, access in ACCESS.items() if access is Access.OPEN} == set(HEALTH)


async def test_the_reflection_list_is_the_matrix(kit, models, certificates, token_files):
    """What an address says that it serves is what the matrix has for it; the health address has no reflection."""
    body = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    pool = descriptor_pool.Default()
    async with guarded(kit, models, certificates, token_files) as addresses:
        for name in ("main", "admin"):
            async with channel(addresses[name], certificates) as line:
                call = line.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(
                    iter([body]), metadata=[("authorization", f"Bearer {ADMIN}")]
                )
                answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
            services = [service.name for service in answer.list_services_response.service]
            methods = {f"/{each}/{method.name}" for each in services for method in pool.FindServiceByName(each).methods}
            assert methods - NOWHERE == set(MATRIX[name])


@pytest.mark.parametrize("address", MATRIX)
async def test_every_method_by_every_kind_of_token(kit, models, certificates, token_files, address):
    """With a good certificate: open methods answer all; others answer good tokens only, admins' ones admins' only."""
    requests = bodies(kit)
    async with (
        guarded(kit, models, certificates, token_files) as addresses,
        channel(addresses[address], None if address == "health" else certificates) as line,
    ):
        wrong = []
        for method in sorted(declared()):
            for kind, token in TOKENS.items():
                got = await outcome(line, method, requests.get(method.rpartition("/")[2], b""), token)
                want = expected(MATRIX[address].get(method), kind)
                if got != want:
                    wrong.append((method, kind, got, want))
        assert not wrong


@pytest.mark.parametrize("kind", [kind for kind in CERTIFICATES if kind != "good"])
async def test_no_method_without_a_good_certificate(kit, models, certificates, token_files, kind):
    """No certificate, one of another CA, an expired one: no method answers, not even health, whatever the token."""
    async with guarded(kit, models, certificates, token_files) as addresses:
        for name in ("main", "admin"):
            async with channel(addresses[name], certificates, kind=kind) as line:
                outcomes = [await outcome(line, method, b"", ADMIN) for method in sorted(declared())]
            assert set(outcomes) == {"UNAVAILABLE"}
            async with channel(addresses[name]) as plain:
                assert await outcome(plain, "/grpc.health.v1.Health/Check", b"", None) == "UNAVAILABLE"
        async with channel(addresses["health"]) as line:
            assert await outcome(line, "/grpc.health.v1.Health/Check", b"", None) == "OK"


async def test_without_options_everything_is_open(kit, models):
    """A server without tokens and TLS answers every method at its one address, reload too, as before."""
    requests = bodies(kit)
    async with kit.running(models) as (server, _), channel(server.listen) as line:
        served = {**MATRIX["main"], f"{MODEL}ReloadModel": OPEN}
        for method in sorted(declared()):
            got = await outcome(line, method, requests.get(method.rpartition("/")[2], b""), None)
            assert (method, got) == (method, "OK" if method in served else "UNIMPLEMENTED")


@pytest.mark.parametrize(
    ("given", "token", "outcomes"),
    [
        ({"token_file"}, CALLER, ["OK", "OK"]),
        ({"token_file"}, None, ["UNAUTHENTICATED TOKEN_INVALID", "UNAUTHENTICATED TOKEN_INVALID"]),
        ({"admin_token_file"}, None, ["OK", "UNAUTHENTICATED TOKEN_INVALID"]),
        ({"admin_token_file"}, ADMIN, ["OK", "OK"]),
        ({"token_file", "admin_token_file"}, CALLER, ["OK", "PERMISSION_DENIED METHOD_NOT_ALLOWED"]),
        ({"token_file", "admin_token_file"}, ADMIN, ["OK", "OK"]),
    ],
)
async def test_one_address_can_tell_admins_from_callers(kit, models, token_files, *, given, token, outcomes):
    """Without --admin, ReloadModel takes an admin's token where there are such, else a caller's."""
    requests, options = bodies(kit), {name: path for name, path in token_files.items() if name in given}
    async with kit.running(models, **options) as (server, _), channel(server.listen) as line:
        methods = (f"{CLASSIFY}Classify", f"{MODEL}ReloadModel")
        assert [
            await outcome(line, method, requests[method.rpartition("/")[2]], token) for method in methods
        ] == outcomes


@pytest.mark.parametrize(
    "method",
    [
        "trapline.v1.ClassifyService/Classify",
        "//trapline.v1.ClassifyService/Classify",
        "/trapline.v1.ClassifyService/Classify/",
        "/trapline.v1.classifyservice/classify",
        "/grpc.health.v1.Health/Check/../../../trapline.v1.ClassifyService/Classify",
        "/grpc.health.v1.Health/Checks",
        "/x",
        "/",
    ],
)
async def test_method_names_are_matched_strictly(kit, models, token_files, method):
    """No other spelling of a method's name gets past the token, or to a method."""
    body = bodies(kit)["Classify"]
    async with kit.running(models, **token_files) as (server, _), channel(server.listen) as line:
        assert await outcome(line, method, body, None) in ("UNAUTHENTICATED TOKEN_INVALID", "UNIMPLEMENTED")
        assert await outcome(line, method, body, CALLER) == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    "headers",
    [
        [f"Bearer {CALLER}", f"Bearer {CALLER}"],
        [f"Basic {CALLER}"],
        [CALLER],
        ["Bearer"],
        [f"Bearer  {CALLER}"],
        [f"Bearer {CALLER[:-1]}"],
        [f"Bearer {CALLER}x"],
        ["Bearer " + "x" * 5000],
    ],
)
async def test_a_header_that_is_not_quite_right_is_refused(kit, models, token_files, headers):
    """Two headers, another scheme, no scheme, part of a token, a huge one: UNAUTHENTICATED all."""
    async with kit.running(models, **token_files) as (server, _), channel(server.listen) as line:
        metadata = [("authorization", value) for value in headers]
        call = line.unary_unary(f"{MODEL}ListModels")(b"", metadata=metadata)
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert CALLER not in await call.details()
        lower = line.unary_unary(f"{MODEL}ListModels")(b"", metadata=[("authorization", f"bearer {CALLER}")])
        assert await lower.code() is grpc.StatusCode.OK


async def test_who_is_refused_is_refused_before_the_request_is_read(kit, models, token_files):
    """Garbage without a token is UNAUTHENTICATED, and so is a call that never sends its request; each has its id."""
    async with kit.running(models, **token_files) as (server, _), channel(server.listen) as line:
        for name in ("Classify", "BatchClassify", "StreamClassify"):
            got = await outcome(line, f"{CLASSIFY}{name}", b"\xff\xff\xff", None)
            assert got == "UNAUTHENTICATED TOKEN_INVALID"
            silent = line.stream_stream(f"{CLASSIFY}{name}")(metadata=[(REQUEST_ID_KEY, name)])
            assert await silent.code() is grpc.StatusCode.UNAUTHENTICATED
            assert dict(await silent.trailing_metadata())[REQUEST_ID_KEY] == name


async def test_refused_calls_are_logged_and_counted_and_no_token_is(kit, models, token_files, caplog):
    """The log names the caller by its token's name, metrics count by method and code, and no token is in either."""
    caplog.set_level("INFO")
    requests = bodies(kit)
    async with kit.running(models, **token_files) as (server, _), channel(server.listen) as line:
        await outcome(line, f"{CLASSIFY}Classify", requests["Classify"], CALLER)
        await outcome(line, f"{CLASSIFY}Classify", requests["Classify"], "wrong-token-0123456789")
        await outcome(line, f"{MODEL}ReloadModel", requests["ReloadModel"], CALLER)
        await outcome(line, "/who/knows", b"", None)
        counted = server.metrics.registry.get_sample_value

        def calls(method: str, code: str) -> float | None:
            return counted("trapline_calls_total", {"method": method, "code": code})

        await kit.until(lambda: calls("unknown", "UNAUTHENTICATED") == 1)
        assert calls("Classify", "OK") == calls("Classify", "UNAUTHENTICATED") == 1
        assert calls("ReloadModel", "PERMISSION_DENIED") == 1
    assert "method=Classify code=OK reason=- " in caplog.text
    assert caplog.text.count("caller=hills") == 2
    assert "reason=METHOD_NOT_ALLOWED" in caplog.text
    for token in (CALLER, ADMIN, "wrong-token"):
        assert token not in caplog.text


async def test_a_certificates_name_is_in_the_log(kit, models, certificates, caplog):
    """With client certificates and no tokens the log names the caller by its certificate."""
    caplog.set_level("INFO")
    pair = certificates.server
    options = {"tls_cert": pair.cert, "tls_key": pair.key, "tls_client_ca": certificates.ca}
    async with kit.running(models, **options) as (server, _), channel(server.listen, certificates) as line:
        assert await outcome(line, f"{MODEL}ListModels", b"", None) == "OK"
        await kit.until(lambda: "method=ListModels" in caplog.text)
    assert "caller=camera@hills.example" in caplog.text


async def test_foreign_services_tell_faults_in_our_words(kit, models):
    """Garbage for health and reflection is REQUEST_INVALID: no exception's text of any library leaves the server."""
    async with kit.running(models) as (server, _), channel(server.listen) as line:
        for method in sorted(ACCESS):
            body = b"" if method.endswith("ListModels") else b"\xff\xff\xff"
            if body:
                assert await outcome(line, method, body, None) == "INVALID_ARGUMENT REQUEST_INVALID"
        unknown = health_pb2.HealthCheckRequest(service="who").SerializeToString()
        assert await outcome(line, "/grpc.health.v1.Health/Check", unknown, None) == "NOT_FOUND"
