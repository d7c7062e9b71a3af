"""Who may call what: bearer tokens, checked before anything of a request is read.

Every method that a program serves stands in its table, by its full name. What does not stand there is not served,
whoever asks and whatever is registered: a new method is closed until someone says who may call it.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from trapline.credentials import TOKEN_KEY, read_tokens, token_of
from trapline.errors import MethodNotAllowed, TokenInvalid

from .caller import token_name
from .metrics import ServiceMetrics
from .options import ServiceOptions
from .watched import Watched

HEALTH_SERVICE = "grpc.health.v1.Health"
REFLECTION_SERVICE = "grpc.reflection.v1alpha.ServerReflection"


class Access(Enum):
    """Who may call a method: anyone, who has a token, or who has an admin's token."""

    OPEN = "open"
    CALLER = "caller"
    ADMIN = "admin"


#: What every program's table has. Health is open: probes have no tokens, and it tells nothing but whether work can be
#: taken. Reflection is not: it is for people, who have one.
TELLING: Mapping[str, Access] = {
    f"/{HEALTH_SERVICE}/Check": Access.OPEN,
    f"/{HEALTH_SERVICE}/Watch": Access.OPEN,
    f"/{REFLECTION_SERVICE}/ServerReflectionInfo": Access.CALLER,
}

_Digests = tuple[tuple[str, bytes], ...]


class Tokens:
    """The tokens that are good now, of `--token-file` and of `--admin-token-file`.

    Raises:
        UsageError: A file cannot be used.
    """

    def __init__(self, options: ServiceOptions, metrics: ServiceMetrics) -> None:
        self._files: dict[Access, Watched[_Digests]] = {}
        for access, flag, path in (
            (Access.CALLER, "--token-file", options.token_file),
            (Access.ADMIN, "--admin-token-file", options.admin_token_file),
        ):
            if path is not None:
                read = _reader(path, flag)
                self._files[access] = Watched(f"{access.value}_tokens", [path], read=read, metrics=metrics)

    def admit(self, method: str, access: Access, metadata: Any) -> None:  # noqa: ANN401  # gRPC's pairs of key and value
        """Lets a call of `method`, which has `access`, in; the log's `caller` then names its token.

        A method of callers takes an admin's token too. A method of admins takes a caller's where there is no file of
        admins' tokens. A kind of caller that has no file is not asked for a token.

        Raises:
            TokenInvalid: The call needs a token, and has none that is good.
            MethodNotAllowed: Its token is good, but not for this method.
        """
        wanted = Access.CALLER if access is Access.ADMIN and Access.ADMIN not in self._files else access
        if wanted not in self._files:
            return
        headers = [value for key, value in metadata or () if key == TOKEN_KEY]
        token = token_of(headers[0]) if len(headers) == 1 and isinstance(headers[0], str) else None
        if token is None:
            raise TokenInvalid("this server asks for a token; send one as `authorization: Bearer TOKEN`, once")
        names = {kind: _name_of(token, file.current()) for kind, file in self._files.items()}
        if not any(names.values()):
            raise TokenInvalid("the token is not one that this server knows; ask who runs it for one that is")
        good = names.get(wanted) or names.get(Access.ADMIN)
        token_name.set(good or names[Access.CALLER])
        if not good:
            raise MethodNotAllowed(
                f"this token may not call {_short(method)}; use an admin's token", method=_short(method)
            )


class Authentication:
    """Who may call what at one address.

    Args:
        tokens: Those that are good.
        access: The methods of this address, with who may call each.
        elsewhere: Those of them that another address serves in its place.

    Attributes:
        access: The methods of this address.
    """

    def __init__(
        self, tokens: Tokens, *, access: Mapping[str, Access], elsewhere: frozenset[str] = frozenset()
    ) -> None:
        self._tokens, self.access, self._elsewhere = tokens, access, elsewhere

    def admit(self, method: str, metadata: Any) -> None:  # noqa: ANN401  # gRPC's pairs of key and value
        """Lets a call of `method` in; of one that is not served, too, where its token is good.

        Raises:
            Refusal: It may not come in.
        """
        self._tokens.admit(method, self.access.get(method, Access.CALLER), metadata)
        if method in self._elsewhere:
            raise MethodNotAllowed(
                f"{_short(method)} is not served at this address; call the server's admin address",
                method=_short(method),
            )


def _reader(path: Path, flag: str) -> Callable[[], _Digests]:
    def read() -> _Digests:
        return tuple((name, _digest(token)) for name, token in read_tokens(path, flag=flag).items())

    return read


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _name_of(token: str, known: _Digests) -> str:
    """The name of `token`; empty where it is not known. The time it takes tells nothing of the tokens."""
    digest, found = _digest(token), ""
    for name, other in known:
        if hmac.compare_digest(digest, other):
            found = name
    return found


def _short(method: str) -> str:
    return method.rpartition("/")[2]
