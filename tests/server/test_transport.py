"""TLS, tokens and addresses of a server: files at the start, files that change, limits of a connection."""

import os
import shutil
import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.app import build
from server.config import ServerConfig
from trapline.errors import UsageError, from_rpc_error, reason_name
from trapline.v1 import classify_pb2, model_pb2, model_pb2_grpc

FIRST, SECOND = "first-token-0123456789", "second-token-0123456789"
LIST_MODELS = "/trapline.v1.ModelService/ListModels"


@pytest.fixture
def files(tmp_path, certificates):
    """A server's own certificate and key, to be changed by a test, as options."""
    shutil.copy(certificates.server.cert, tmp_path / "tls.pem")
    shutil.copy(certificates.server.key, tmp_path / "tls.key")
    return {"tls_cert": tmp_path / "tls.pem", "tls_key": tmp_path / "tls.key"}


@pytest.fixture
def looks_always(monkeypatch):
    """Files are looked at each time, not only once a second."""
    monkeypatch.setattr("trapline.service.watched.LOOK_SECONDS", 0.0)


def secure(address: str, authority) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own, never one that is there already
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority.read_bytes()), options=options)


async def code(line: grpc.aio.Channel, token: str = "") -> grpc.StatusCode:
    metadata = [("authorization", f"Bearer {token}")] if token else []
    return await line.unary_unary(LIST_MODELS)(b"", metadata=metadata, timeout=20).code()


def replace(path, content: bytes) -> None:
    """Puts new content in a file's place in one step, as renewing programs do."""
    other = path.with_suffix(".new")
    other.write_bytes(content)
    other.rename(path)


def reloads(server, file: str) -> dict[str, float]:
    """How many changes of a file were taken over, and how many were not."""
    count = server.metrics.registry.get_sample_value
    name = "trapline_credential_reloads_total"
    return {outcome: count(name, {"file": file, "outcome": outcome}) or 0 for outcome in ("ok", "failed")}


@pytest.mark.usefixtures("looks_always")
async def test_a_renewed_certificate_is_served_and_live_connections_stay(kit, models, certificates, files, caplog):
    """New files are in force at the next handshake; broken ones leave the old in force; no stream notices any of it."""
    async with kit.running(models, **files) as (server, _), secure(server.listen, certificates.ca) as line:
        stream = line.stream_stream("/trapline.v1.ClassifyService/StreamClassify")()

        async def answered(mark: str) -> bool:
            item = classify_pb2.StreamClassifyRequest(request_id=mark, request=kit.request(kit.picture()))
            await stream.write(item.SerializeToString())
            answer = classify_pb2.StreamClassifyResponse.FromString(await stream.read())
            return (answer.request_id, answer.result.HasField("response")) == (mark, True)

        async def serves(authority) -> bool:
            async with secure(server.listen, authority) as fresh:
                return await code(fresh) is grpc.StatusCode.OK

        assert await answered("before")
        replace(files["tls_key"], certificates.renewed.key.read_bytes())
        assert await serves(certificates.ca), "only the key is there yet: the old pair stays in force"
        replace(files["tls_cert"], certificates.renewed.cert.read_bytes())
        assert not await serves(certificates.ca)
        assert await serves(certificates.foreign_ca)
        assert await answered("after")
        replace(files["tls_cert"], b"nonsense")
        assert await serves(certificates.foreign_ca)
        files["tls_cert"].unlink()
        assert await serves(certificates.foreign_ca)
        replace(files["tls_cert"], certificates.server.cert.read_bytes())
        replace(files["tls_key"], certificates.server.key.read_bytes())
        assert await serves(certificates.ca)
        assert await answered("at last")
        stream.cancel()
        assert reloads(server, "certificates")["ok"] == 2
        assert reloads(server, "certificates")["failed"] >= 3
    assert "event=credentials_kept file=certificates" in caplog.text
    assert "is not the key of the certificate in" in caplog.text


@pytest.mark.usefixtures("looks_always")
async def test_clients_certificates_follow_a_renewed_ca(kit, models, certificates, files, tmp_path):
    """A new file of --tls-client-ca decides whose certificates are good from the next handshake on."""
    trusted = tmp_path / "clients.pem"
    shutil.copy(certificates.ca, trusted)

    async def serves(pair) -> bool:
        mine = grpc.ssl_channel_credentials(certificates.ca.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes())
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(server.listen, mine, options=options) as fresh:
            return await code(fresh) is grpc.StatusCode.OK

    async with kit.running(models, **files, tls_client_ca=trusted) as (server, _):
        assert [await serves(pair) for pair in (certificates.client, certificates.foreign)] == [True, False]
        replace(trusted, certificates.foreign_ca.read_bytes())
        assert [await serves(pair) for pair in (certificates.client, certificates.foreign)] == [False, True]


@pytest.mark.usefixtures("looks_always")
async def test_tokens_change_while_connections_live(kit, models, tmp_path, caplog):
    """On one connection the new file's tokens are good and the old one's are not; a broken file changes nothing."""
    file = tmp_path / "tokens"
    file.write_text(f"hills:{FIRST}\n")
    ok, refused = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
    async with kit.running(models, token_file=file) as (server, stubs):
        line = stubs.channel
        assert [await code(line, token) for token in (FIRST, SECOND)] == [ok, refused]
        replace(file, f"# renewed\n{SECOND}\n".encode())
        assert [await code(line, token) for token in (FIRST, SECOND)] == [refused, ok]
        for broken in (b"", b"short\n", b"\xff\xfe\n", f"{SECOND}\n{SECOND}\n".encode()):
            replace(file, broken)
            assert [await code(line, token) for token in (FIRST, SECOND)] == [refused, ok]
        assert reloads(server, "caller_tokens") == {"ok": 1, "failed": 4}
    assert SECOND not in caplog.text


async def test_who_can_read_a_secret_is_told(kit, models, tmp_path, caplog):
    """A file of tokens that others may read is a warning that names it; one that they may not is none."""
    file = tmp_path / "tokens"
    file.write_text(FIRST)
    for mode, told in ((0o600, False), (0o644, True)):
        file.chmod(mode)
        caplog.clear()
        async with kit.running(models, token_file=file):
            assert (f"event=secret_readable_by_others path={file} mode=644" in caplog.text) == told


def wrong_files(certificates, folder) -> dict[str, tuple[dict[str, object], str]]:
    """Options that name files which cannot be used, and what is said of each."""
    from cryptography.hazmat.primitives import serialization

    pair = {"tls_cert": certificates.server.cert, "tls_key": certificates.server.key}
    key = serialization.load_pem_private_key(certificates.server.key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    (folder / "locked.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    (folder / "half.pem").write_bytes(certificates.server.cert.read_bytes()[:300])
    (folder / "words").write_text("words\n")
    (folder / "spaces").write_text("a token with spaces in it\n")
    (folder / "twins").write_text(f"{FIRST}\n{FIRST}\n")
    (folder / "named").write_text(f"a b:{FIRST}\n")
    (folder / "empty").write_text("# nothing yet\n\n")
    absent = folder / "absent"
    return {
        "no certificate": ({**pair, "tls_cert": absent}, f"--tls-cert: cannot read {absent} \\(No such file"),
        "no key": ({**pair, "tls_key": absent}, f"--tls-key: cannot read {absent} \\(No such file"),
        "a folder": ({**pair, "tls_key": folder}, "Is a directory"),
        "not matching": ({**pair, "tls_key": certificates.client.key}, "is not the key of the certificate in"),
        "swapped": ({"tls_cert": pair["tls_key"], "tls_key": pair["tls_cert"]}, "--tls-cert: .* holds no certificate"),
        "no PEM": ({**pair, "tls_key": folder / "words"}, "--tls-key: .* holds no private key in PEM"),
        "cut off": ({**pair, "tls_cert": folder / "half.pem"}, "cannot be used"),
        "encrypted": ({**pair, "tls_key": folder / "locked.key"}, "the key not encrypted"),
        "no CA": ({**pair, "tls_client_ca": absent}, "--tls-client-ca: cannot read"),
        "CA no PEM": ({**pair, "tls_client_ca": folder / "words"}, "--tls-client-ca: .* holds no CA's certificate"),
        "no tokens": ({"token_file": absent}, "--token-file: cannot read"),
        "empty": ({"token_file": folder / "empty"}, "--token-file: .* has no token; .*openssl rand"),
        "short": ({"token_file": folder / "words"}, "line 1 of .*words is no token of at least 16"),
        "spaces": ({"admin_token_file": folder / "spaces"}, "--admin-token-file: line 1 of .*spaces is no token"),
        "twins": ({"token_file": folder / "twins"}, "line 2 of .*twins has a name or a token that another"),
        "bad name": ({"token_file": folder / "named"}, "line 1 of .*named names its token by other than"),
    }


async def test_files_that_cannot_be_used_are_sentences_before_anything_listens(models, certificates, tmp_path):
    """Missing, broken, not matching, encrypted: one sentence with the option and the file, exit 2, and no secret."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    cases = wrong_files(certificates, tmp_path)
    assert len(cases) == 16
    for options, sentence in cases.values():
        with pytest.raises(UsageError, match=sentence) as failed:
            build(ServerConfig(models=models, device="cpu", listen=address, metrics="", **options))
        assert failed.value.exit_code == 2
        assert FIRST not in str(failed.value)
    with socket.socket() as nobody:
        assert nobody.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
async def test_a_key_that_may_not_be_read_is_a_sentence(models, files):
    """A key of another user's is told by its path."""
    files["tls_key"].chmod(0)
    with pytest.raises(UsageError, match="Permission denied"):
        build(ServerConfig(models=models, device="cpu", listen="127.0.0.1:0", metrics="", **files))


async def test_an_address_in_use_stops_the_others_too(models):
    """Where --admin or --health cannot be had, the sentence names the option, and --listen is not served either."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("admin", "health"):
            server = build(
                ServerConfig(models=models, device="cpu", listen="127.0.0.1:0", metrics="", **{option: address})
            )
            with pytest.raises(UsageError, match=f"--{option}: {address} is in use"):
                await server.start()
            assert server.doors.main.address == "", "not even bound"
            await server.stop()


async def test_all_addresses_drain_together(kit, models):
    """A reload under way on the admin address counts: a drain waits for it, and says NOT_SERVING on each address."""
    async with kit.running(models, admin="127.0.0.1:0", health="127.0.0.1:0", drain_seconds=1) as (server, _):
        lines = [grpc.aio.insecure_channel(door.address) for door in server.doors.all]
        stub = model_pb2_grpc.ModelServiceStub(lines[1])
        assert (await stub.ReloadModel(model_pb2.ReloadModelRequest(name="models/colours"))).version == "1"
        watches = [health_pb2_grpc.HealthStub(line).Watch(health_pb2.HealthCheckRequest()) for line in lines]
        serving, stopping = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        assert [(await watch.read()).status for watch in watches] == [serving] * 3
        assert await server.drain() == 0
        assert [(await watch.read()).status for watch in watches] == [stopping] * 3
        assert [await code(line) for line in lines] == [grpc.StatusCode.UNAVAILABLE] * 3
        for line in lines:
            await line.close()


async def test_a_connection_has_only_so_many_calls(kit, models):
    """Of calls on one connection no more than --max-connection-calls are under way; the others wait for them to end.

    gRPC may turn one away that comes while another ends: UNAVAILABLE, which clients send again.
    """
    limit = 3
    async with kit.running(models, holds=True, max_connection_calls=limit, max_queue_ms=60_000) as (server, stubs):
        serving = server.models.slot("colours").serving
        serving.session.held.clear()
        calls = [stubs.classify.Classify(kit.request(kit.picture())) for _ in range(2 * limit)]
        await kit.until(lambda: serving.batcher.image_count == limit)
        other = kit.client(f"localhost:{server.listen.rpartition(':')[2]}")
        health = await health_pb2_grpc.HealthStub(other.channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING, "another connection has its own calls"
        assert serving.batcher.image_count == limit
        serving.session.held.set()
        codes = [await call.code() for call in calls]
        assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert codes.count(grpc.StatusCode.OK) >= limit
        await other.channel.close()


async def test_who_pings_too_often_is_sent_away(kit, models):
    """A connection that floods pings is closed with ENHANCE_YOUR_CALM; others are served."""
    import asyncio

    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
    ping = bytes.fromhex("000008060000000000") + bytes(8)
    async with kit.running(models) as (server, stubs):
        host, port = server.listen.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(preface + 20 * ping)
        received = await reader.read()
        writer.close()
        assert b"too_many_pings" in received
        assert await code(stubs.channel) is grpc.StatusCode.OK


async def test_refusals_of_the_admins_address_say_where_to_go(kit, models):
    """With --admin a reload on the main address is METHOD_NOT_ALLOWED, with the method and what to do."""
    async with kit.running(models, admin="127.0.0.1:0") as (server, stubs):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stubs.models.ReloadModel(model_pb2.ReloadModelRequest(name="models/colours"))
        refusal = from_rpc_error(failed.value)
        assert (reason_name(refusal), refusal.metadata) == ("METHOD_NOT_ALLOWED", {"method": "ReloadModel"})
        assert "admin address" in refusal.message
        assert server.doors.admin.address not in refusal.message
