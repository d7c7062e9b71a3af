"""How the way to a server is guarded: TLS, the client's own certificate, and the bearer token that says who calls.

A token comes from a file, or from the environment variable TRAPLINE_TOKEN; never from the command line, which every
user of the machine can read. It goes over TLS, or to this very machine; in plain text to another one only where that
is asked for.
"""

import contextlib
import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from trapline.credentials import TOKEN_KEY, check_token, read_authorities, read_pair, read_tokens, token_header
from trapline.errors import UsageError

#: The environment variable that a token is taken from where no file is named.
TOKEN_VARIABLE = "TRAPLINE_TOKEN"  # noqa: S105  # the name of a variable, no secret

_UNIX = ("unix:", "unix-abstract:")
# What gRPC (with BoringSSL) says of a connection that failed, and what that means.
_HANDSHAKES = {
    "WRONG_VERSION_NUMBER": "it speaks plain text, not TLS; leave the --tls options out, or start it with --tls-cert",
    "certificate has expired": "its certificate has expired; have it renewed",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not of a CA that is trusted here; name that CA's with --tls-ca",
    "Hostname Verification Check failed": "its certificate is for another name; call it by a name in the certificate",
}
_CLOSED = ("last error", "Socket closed")


@dataclass(frozen=True, kw_only=True)
class Security:
    """What guards the calls to a server.

    Attributes:
        tls: Whether to speak TLS where none of the files below says so: the server's certificate must then be signed
            by one of the public CAs that gRPC brings along.
        tls_ca: PEM file of the CA's certificate that signed the server's; TLS is spoken then.
        tls_cert: PEM file of the client's own certificate, for a server that asks for one; TLS is spoken then.
        tls_key: PEM file of its key, not encrypted.
        token_file: File with one token, `TOKEN` or `NAME:TOKEN`; read again for each call, so it may be renewed.
        plaintext_token: Whether a token may go without TLS to another machine.
    """

    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    plaintext_token: bool = False

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self.tls or self.tls_ca is not None or self.tls_cert is not None

    def channel(self, address: str, options: tuple[tuple[str, Any], ...]) -> grpc.Channel:
        """A channel to `address` whose calls carry the token.

        Raises:
            UsageError: A file cannot be used, or the token would leave this machine in plain text.
        """
        token = _token(self.token_file)
        if token is not None and not self.encrypted and not self.plaintext_token and not is_this_machine(address):
            raise UsageError(
                f"a token would go to {address} in plain text, for all on the way to read; speak TLS (--tls-ca FILE, "
                "or --tls), or say --plaintext-token where something else guards the way"
            )
        channel = (
            grpc.secure_channel(address, self._credentials(), options=options)
            if self.encrypted
            else grpc.insecure_channel(address, options=options)
        )
        return channel if token is None else grpc.intercept_channel(channel, _TokenSender(token))

    def explained(self, detail: str) -> str:
        """What gRPC's account of a failed connection means for a person; empty where TLS has nothing to do with it."""
        for mark, sentence in _HANDSHAKES.items():
            if mark in detail:
                return sentence
        if not all(mark in detail for mark in _CLOSED):
            return ""
        if not self.encrypted:
            return "it closed the connection at once; it may speak TLS: name its CA's certificate with --tls-ca"
        return "it closed the connection after the handshake; it may ask for " + (
            "another client certificate: see that --tls-cert is of the CA that it trusts, and not expired"
            if self.tls_cert
            else "a client certificate: name yours with --tls-cert and --tls-key"
        )

    def _credentials(self) -> grpc.ChannelCredentials:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("--tls-cert and --tls-key belong together: give both or neither")
        authorities = read_authorities(self.tls_ca, flag="--tls-ca") if self.tls_ca else None
        chain, key = read_pair(self.tls_cert, self.tls_key) if self.tls_cert and self.tls_key else (None, None)
        return grpc.ssl_channel_credentials(authorities, key, chain)


def is_this_machine(address: str) -> bool:
    """Whether what is sent to a gRPC target never leaves this machine: a loopback address or a Unix socket."""
    if address.startswith(_UNIX):
        return True
    target = re.sub(r"^(dns|ipv4|ipv6):(//[^/]*/)?", "", address)
    return all(_is_loopback(each) for each in target.split(","))


def _is_loopback(address: str) -> bool:
    host = re.sub(r":\d+$", "", address).strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: where it leads may change


def _token(path: Path | None) -> Callable[[], str] | None:
    """What gives the token for a call; None where there is none."""
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            return None
        check_token(token, source=TOKEN_VARIABLE)
        return lambda: token
    known = _only_token(path)

    def current() -> str:
        nonlocal known
        # While it is being written, or gone, the one before is sent: the server tells whether it is still good.
        with contextlib.suppress(UsageError):
            known = _only_token(path)
        return known

    return current


def _only_token(path: Path) -> str:
    tokens = list(read_tokens(path, flag="--token-file").values())
    if len(tokens) > 1:
        raise UsageError(f"--token-file: {path} has {len(tokens)} tokens; name a file with the one to send")
    return tokens[0]


class _TokenSender(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    """Adds the token to each call."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:  # noqa: ANN401  # gRPC's own
        """The call, with the token."""
        return continuation(self._with_token(details), request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:  # noqa: ANN401  # gRPC's own
        """The call, with the token."""
        return continuation(self._with_token(details), request)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:  # noqa: ANN401  # gRPC's own
        """The call, with the token."""
        return continuation(self._with_token(details), requests)

    def _with_token(self, details: Any) -> Any:  # noqa: ANN401  # gRPC's own
        return details._replace(metadata=[*(details.metadata or ()), (TOKEN_KEY, token_header(self._token()))])
