"""What callers and servers show each other: certificates, keys and bearer tokens, read from files and checked.

A token is 16 to 1,024 letters, digits and `-._~+/`, with `=` at its end where it likes (RFC 6750, 2.1). It travels as
`authorization: Bearer TOKEN`. A file of tokens has one a line, `TOKEN` or `NAME:TOKEN`; empty lines and lines that
begin with `#` are passed over. Certificates and keys are PEM; a key must not be encrypted.

No sentence of this module repeats a token or a key.
"""

import re
import ssl
from pathlib import Path

from trapline.errors import UsageError

#: The metadata key that a token travels under.
TOKEN_KEY = "authorization"  # noqa: S105  # the name of a header, no secret

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,1024}=*")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_SCHEME = "bearer"
_HOW_TO_MAKE_ONE = "`openssl rand -hex 32` makes one"


def token_header(token: str) -> str:
    """The value of `TOKEN_KEY` that carries `token`."""
    return f"Bearer {token}"


def token_of(header: str) -> str | None:
    """The token that the value of `TOKEN_KEY` carries; None where it is no bearer token."""
    scheme, _, token = header.partition(" ")
    return token if scheme.lower() == _SCHEME and _TOKEN.fullmatch(token) else None


def check_token(token: str, *, source: str) -> str:
    """`token` itself.

    Raises:
        UsageError: It cannot be one; the sentence begins with `source` and does not repeat it.
    """
    if not _TOKEN.fullmatch(token):
        raise UsageError(f"{source} is no token of at least 16 letters, digits and -._~+/ ({_HOW_TO_MAKE_ONE})")
    return token


def read_tokens(path: Path, *, flag: str) -> dict[str, str]:
    """The tokens of a file by their names; one without a name is called `line-N`.

    Args:
        path: The file.
        flag: The option that named it, for the sentence.

    Raises:
        UsageError: It cannot be read, has no token, one that cannot be one, or one name or token twice.
    """
    tokens: dict[str, str] = {}
    for number, line in enumerate(_text(path, flag).splitlines(), 1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        name, separator, token = content.rpartition(":")
        name = name if separator else f"line-{number}"
        source = f"{flag}: line {number} of {path}"
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{source} names its token by other than 1 to 64 letters, digits and ._@-; write NAME:TOKEN"
            )
        check_token(token, source=source)
        if name in tokens or token in tokens.values():
            raise UsageError(f"{source} has a name or a token that another line has; give each its own")
        tokens[name] = token
    if not tokens:
        raise UsageError(f"{flag}: {path} has no token; write one a line ({_HOW_TO_MAKE_ONE})")
    return tokens


def read_pair(
    certificate: Path, key: Path, *, flags: tuple[str, str] = ("--tls-cert", "--tls-key")
) -> tuple[bytes, bytes]:
    """The PEM bytes of a certificate chain and of its key, which belong together.

    Raises:
        UsageError: One cannot be read or is no such file, or they do not belong together.
    """
    contents = _bytes(certificate, flags[0]), _bytes(key, flags[1])
    for content, mark, path, flag, what in (
        (contents[0], b"BEGIN CERTIFICATE", certificate, flags[0], "certificate"),
        (contents[1], b"PRIVATE KEY", key, flags[1], "private key"),
    ):
        if mark not in content:
            raise UsageError(f"{flag}: {path} holds no {what} in PEM; name the file that does")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Asked for a password, OpenSSL would read it from the terminal.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, ValueError, OSError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            why = f"{key} is not the key of the certificate in {certificate}; name the two that were made together"
        else:
            why = f"{certificate} and {key} cannot be used ({_reason(error)}); they must be PEM, the key not encrypted"
        raise UsageError(f"{flags[1]}: {why}") from error
    if contents != (_bytes(certificate, flags[0]), _bytes(key, flags[1])):
        raise UsageError(f"{flags[0]}: {certificate} or its key changed while it was read; try again")
    return contents


def read_authorities(path: Path, *, flag: str) -> bytes:
    """The PEM bytes of a file of CA certificates.

    Raises:
        UsageError: It cannot be read, or holds no certificate.
    """
    content = _bytes(path, flag)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(f"{flag}: {path} holds no CA's certificate in PEM; name the file that does") from error
    return content


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__)


def _bytes(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{flag}: cannot read {path} ({error.strerror}); see that it is there and may be read"
        ) from error


def _text(path: Path, flag: str) -> str:
    try:
        return _bytes(path, flag).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{flag}: {path} is no text in UTF-8; write one token a line") from error
