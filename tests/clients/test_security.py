"""How the clients guard their way to a server, and what they say when it is guarded otherwise."""

import queue
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

from clients.classifier import Classifier
from clients.connection import HEALTH_SERVICE, Connection, ServerUnreachable
from clients.scout import Away, Ready, Scout
from clients.security import Security, is_this_machine
from trapline.credentials import TOKEN_KEY
from trapline.errors import MethodNotAllowed, TokenInvalid, UsageError, to_status
from trapline.v1 import classify_pb2_grpc, model_pb2_grpc

TOKEN = "some-token-0123456789"


class Guard(grpc.ServerInterceptor):
    """Lets calls with a token in; notes what the others came with."""

    def __init__(self, token: str) -> None:
        self.token, self.calls, self.refusal = token, [], TokenInvalid("this server asks for a token; send one")

    def intercept_service(self, continuation, handler_call_details):
        """The handler, or one that refuses."""
        sent = [value for key, value in handler_call_details.invocation_metadata if key == TOKEN_KEY]
        self.calls.append((handler_call_details.method.rpartition("/")[2], sent))
        if sent == [f"Bearer {self.token}"]:
            return continuation(handler_call_details)

        def refuse(_requests, context):
            context.abort_with_status(rpc_status.to_status(to_status(self.refusal)))

        return grpc.stream_stream_rpc_method_handler(refuse)


@pytest.fixture
def serve(running):
    """Serves the scripted services once more: by TLS, with a guard before them, or both; gives the address."""

    @contextmanager
    def start(*, pair=None, client_ca=None, guard=None):
        server = grpc.server(ThreadPoolExecutor(8), interceptors=[guard] if guard else [])
        classify_pb2_grpc.add_ClassifyServiceServicer_to_server(running.services, server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(running.services, server)
        health_pb2_grpc.add_HealthServicer_to_server(running.health, server)
        if pair is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            keys = [(pair.key.read_bytes(), pair.cert.read_bytes())]
            trusted = client_ca.read_bytes() if client_ca else None
            port = server.add_secure_port(
                "127.0.0.1:0", grpc.ssl_server_credentials(keys, trusted, client_ca is not None)
            )
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait()

    return start


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv("TRAPLINE_TOKEN", raising=False)


def test_verbs_work_over_tls_with_a_certificate_and_a_token(serve, certificates, photos, trapline, tmp_path):
    """Classify, models and reload reach a server that asks for a client certificate and a token, by their options."""
    (tmp_path / "token").write_text(f"# mine\nhills:{TOKEN}\n")
    guard = Guard(TOKEN)
    with serve(pair=certificates.server, client_ca=certificates.ca, guard=guard) as address:
        mine = ("--tls-cert", certificates.client.cert, "--tls-key", certificates.client.key)
        words = ("--server", address, "--tls-ca", certificates.ca, *mine, "--token-file", tmp_path / "token")
        code, stdout, _ = trapline("classify", photos, "--model", "fox", *words)
        assert code == 0
        assert stdout.count(",ok,") == 12
        assert trapline("models", *words)[0] == 0
        assert trapline("reload", "fox", *words)[:2] == (0, "fox: version 4 is served\n")
    of_health = {"Check", "Watch"}
    methods = {method for method, _ in guard.calls}
    assert methods - of_health == {"GetModel", "StreamClassify", "ListModels", "ReloadModel"}
    assert all(sent == [f"Bearer {TOKEN}"] for _, sent in guard.calls)


def test_each_of_several_servers_gets_certificate_and_token(serve, certificates, tmp_path):
    """Single calls take turns, and a stream goes to whoever is there: over TLS and with the token, to both."""
    (tmp_path / "token").write_text(TOKEN)
    mine = certificates.client
    security = Security(tls_ca=certificates.ca, tls_cert=mine.cert, tls_key=mine.key, token_file=tmp_path / "token")
    options = {"pair": certificates.server, "client_ca": certificates.ca}
    one, other = Guard(TOKEN), Guard(TOKEN)
    with (
        serve(guard=one, **options) as first,
        serve(guard=other, **options) as second,
        Classifier([first, second], model="fox", security=security) as classifier,
    ):
        for _ in range(4):
            assert classifier.classify(b"fox").predictions[0].label_id == "fox"
        assert all(result.answer for result in classifier.classify_many([b"fox"] * 8))
    for guard in (one, other):
        assert [method for method, _ in guard.calls].count("Classify") == 2
        assert all(sent == [f"Bearer {TOKEN}"] for _, sent in guard.calls)


def test_the_watch_of_health_has_the_token(serve, running, tmp_path):
    """A proxy may ask for a token of every call: the watch goes on with one, and tells when the server turns unwell."""
    (tmp_path / "token").write_text(TOKEN)
    running.health.set(HEALTH_SERVICE, serving=True)
    guard, news = Guard(TOKEN), queue.SimpleQueue()
    with (
        serve(guard=guard) as address,
        closing(Connection(address, security=Security(token_file=tmp_path / "token"))) as connection,
        closing(Scout(connection, model="models/fox", tell=news.put)),
    ):
        assert isinstance(news.get(timeout=30), Ready)
        running.health.set(HEALTH_SERVICE, serving=False)
        away = news.get(timeout=30)
        assert isinstance(away, Away)
        assert "says that it does not serve now" in away.refusal.message
    assert ("Watch", [f"Bearer {TOKEN}"]) in guard.calls


@pytest.mark.parametrize(
    ("pair", "client_ca", "options", "sentence"),
    [
        (None, False, {"tls_ca": "ca"}, "it speaks plain text, not TLS; leave the --tls options out"),
        ("server", False, {}, "it closed the connection at once; it may speak TLS: name its CA's .* --tls-ca"),
        ("server", False, {"tls_ca": "foreign_ca"}, "its certificate is not of a CA that is trusted here; .* --tls-ca"),
        ("server", False, {"tls": True}, "its certificate is not of a CA that is trusted here; .* --tls-ca"),
        ("late_server", False, {"tls_ca": "ca"}, "its certificate has expired; have it renewed"),
        ("misnamed", False, {"tls_ca": "ca"}, "its certificate is for another name"),
        ("server", True, {"tls_ca": "ca"}, ".* it may ask for a client certificate: name yours with --tls-cert"),
        ("server", True, {"tls_ca": "ca", "mine": "foreign"}, ".* another client certificate: see that --tls-cert"),
        ("server", True, {"tls_ca": "ca", "mine": "late"}, ".* another client certificate: see that --tls-cert"),
    ],
)
def test_each_failed_handshake_is_a_sentence(serve, certificates, pair, client_ca, options, sentence):  # noqa: PLR0917  # one column a name
    """Plain text to TLS and the reverse, unknown CA, expired, another name, no or a wrong client certificate."""
    mine = getattr(certificates, options["mine"]) if "mine" in options else None
    security = Security(
        tls=options.get("tls", False),
        tls_ca=getattr(certificates, options["tls_ca"]) if "tls_ca" in options else None,
        tls_cert=mine.cert if mine else None,
        tls_key=mine.key if mine else None,
    )
    served = getattr(certificates, pair) if pair else None
    with (
        serve(pair=served, client_ca=certificates.ca if client_ca else None) as address,
        Classifier(address, model="fox", timeout_seconds=0.3, security=security) as classifier,
        pytest.raises(ServerUnreachable, match=f"cannot talk to the server at {address}: {sentence}"),
    ):
        classifier.model()


@pytest.mark.parametrize("refusal", [TokenInvalid("send a token"), MethodNotAllowed("not you", method="GetModel")])
def test_who_is_not_let_in_is_told_at_once(serve, trapline, refusal):
    """UNAUTHENTICATED and PERMISSION_DENIED are final: one call, the server's own sentence, exit 1."""
    guard = Guard(TOKEN)
    guard.refusal = refusal
    with serve(guard=guard) as address:
        code, _, stderr = trapline("models", "--server", address)
        assert (code, len(guard.calls)) == (1, 1)
        assert f"error: {refusal.message}" in stderr
        with Classifier(address, model="fox") as classifier, pytest.raises(type(refusal)):
            classifier.classify_many([b"fox"])
        assert len(guard.calls) == 2


def test_a_token_comes_from_the_environment_too(serve, monkeypatch):
    """TRAPLINE_TOKEN is sent where no file is named; what cannot be a token is a sentence that does not repeat it."""
    monkeypatch.setenv("TRAPLINE_TOKEN", TOKEN)
    with serve(guard=Guard(TOKEN)) as address, Classifier(address, model="fox") as classifier:
        assert classifier.model().version == "3"
        assert classifier.classify(b"fox").predictions[0].label_id == "fox"
    monkeypatch.setenv("TRAPLINE_TOKEN", "bad token")
    with pytest.raises(UsageError, match="TRAPLINE_TOKEN is no token of at least 16") as failed:
        Classifier("127.0.0.1:1", model="fox")
    assert "bad token" not in str(failed.value)


def test_a_renewed_token_file_is_sent_from_the_next_call_on(serve, tmp_path):
    """A file that changes is read again; one that is gone for a moment leaves the token before it."""
    file, other = tmp_path / "token", "other-token-0123456789"
    file.write_text(TOKEN)
    guard = Guard(TOKEN)
    with (
        serve(guard=guard) as address,
        Classifier(address, model="fox", security=Security(token_file=file)) as classifier,
    ):
        assert classifier.model().version == "3"
        guard.token = other
        file.write_text(other)
        assert classifier.model().version == "3"
        file.unlink()
        assert classifier.model().version == "3"
    assert [sent for _, sent in guard.calls] == [[f"Bearer {token}"] for token in (TOKEN, other, other)]


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:50051", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("127.8.8.8:1", True),
        ("unix:/run/trapline.sock", True),
        ("dns:///localhost:50051", True),
        ("dns://8.8.8.8/localhost:50051", True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("ipv6:[::1]:50051", True),
        ("10.0.0.1:50051", False),
        ("0.0.0.0:50051", False),
        ("localhost.example:50051", False),
        ("127.0.0.1.example:50051", False),
        ("dns:///trapline.example:50051", False),
        ("dns:trapline.example:50051", False),
        ("xds:///localhost", False),
    ],
)
def test_no_token_leaves_this_machine_in_plain_text(address, here, tmp_path):
    """A token without TLS goes to loopback addresses and Unix sockets only, unless that is asked for."""
    (tmp_path / "token").write_text(TOKEN)
    assert is_this_machine(address) == here
    if not here:
        with pytest.raises(UsageError, match="in plain text, for all on the way to read; speak TLS"):
            Classifier(address, model="fox", security=Security(token_file=tmp_path / "token"))
    Classifier(address, model="fox").close()
    for way in ({"plaintext_token": True}, {"tls": True}):
        Classifier(address, model="fox", security=Security(token_file=tmp_path / "token", **way)).close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tls-ca", "absent"], "--tls-ca: cannot read absent (No such file or directory)"),
        (["--tls-ca", "words"], "--tls-ca: words holds no CA's certificate in PEM"),
        (["--tls-cert", "words"], "--tls-cert and --tls-key belong together"),
        (["--tls-cert", "words", "--tls-key", "words"], "--tls-cert: words holds no certificate in PEM"),
        (["--token-file", "absent"], "--token-file: cannot read absent"),
        (["--token-file", "words"], "--token-file: line 1 of words is no token"),
        (["--token-file", "two"], "--token-file: two has 2 tokens"),
        (["--token-file", "one", "--server", "10.0.0.1:1"], "a token would go to 10.0.0.1:1 in plain text"),
    ],
)
def test_files_that_cannot_be_used_exit_2(trapline, tmp_path, monkeypatch, arguments, sentence):
    """What is wrong with a file, or the two of a pair, is said before any server is asked; no token is repeated."""
    monkeypatch.chdir(tmp_path)
    Path("words").write_text("only words\n")
    Path("one").write_text(f"{TOKEN}\n")
    Path("two").write_text(f"{TOKEN}\n{TOKEN}x\n")
    code, _, stderr = trapline("models", *arguments)
    assert code == 2
    assert sentence in stderr
    assert TOKEN not in stderr


def test_no_option_takes_a_token():
    """A token on a command line could be read by every user of the machine: there is no such option."""
    from clients.cli import VERBS

    names = {name for verb in VERBS for name in verb.options.model_fields}
    assert "token" not in names
    assert {"token_file", "plaintext_token"} <= names
