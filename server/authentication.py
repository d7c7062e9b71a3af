"""Who may call what: bearer tokens, checked before anything of a request is read.

Every method that is served stands in `ACCESS`, by its full name. What does not stand there is not served, whoever asks
and whatever is registered: a new method is closed until someone says who may call it.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from trapline.credentials import TOKEN_KEY, read_tokens, token_of
from trapline.errors import MethodNotAllowed, Refusal, TokenInvalid

from .caller import token_name
from .config import ServerConfig
from .interceptors import CallInterceptor
from .metrics import Metrics
from .watched import Watched

CLASSIFY_SERVICE = "trapline.v1.ClassifyService"
MODEL_SERVICE = "trapline.v1.ModelService"
HEALTH_SERVICE = "grpc.health.v1.Health"
REFLECTION_SERVICE = "grpc.reflection.v1alpha.ServerReflection"
RELOAD_MODEL = f"/{MODEL_SERVICE}/ReloadModel"


class Access(Enum):
    """Who may call a method: anyone, who has a token, or who has an admin's token."""

    OPEN = "open"
    CALLER = "caller"
    ADMIN = "admin"


#: Health is open: probes have no tokens, and it tells nothing but whether work can be taken. Reflection is not: it is
#: for people, who have one.
ACCESS: Mapping[str, Access] = {
    f"/{HEALTH_SERVICE}/Check": Access.OPEN,
    f"/{HEALTH_SERVICE}/Watch": Access.OPEN,
    f"/{REFLECTION_SERVICE}/ServerReflectionInfo": Access.CALLER,
    f"/{CLASSIFY_SERVICE}/Classify": Access.CALLER,
    f"/{CLASSIFY_SERVICE}/BatchClassify": Access.CALLER,
    f"/{CLASSIFY_SERVICE}/StreamClassify": Access.CALLER,
    f"/{MODEL_SERVICE}/GetModel": Access.CALLER,
    f"/{MODEL_SERVICE}/ListModels": Access.CALLER,
    RELOAD_MODEL: Access.ADMIN,
}


def access_of(*services: str) -> Mapping[str, Access]:
    """The part of `ACCESS` that belongs to the services of these full names."""
    return {method: access for method, access in ACCESS.items() if method.split("/")[1] in services}


_Digests = tuple[tuple[str, bytes], ...]


class Tokens:
    """The tokens that are good now, of `--token-file` and of `--admin-token-file`.

    Raises:
        UsageError: A file cannot be used.
    """

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self._files: dict[Access, Watched[_Digests]] = {}
        for access, flag, path in (
            (Access.CALLER, "--token-file", config.token_file),
            (Access.ADMIN, "--admin-token-file", config.admin_token_file),
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


class Authentication(grpc.aio.ServerInterceptor):
    """The first interceptor of an address: lets a call in, or answers it unread.

    Args:
        calls: Counts and logs what is refused like any other call.
        tokens: Those that are good.
        access: The methods of this address, with who may call each.
        elsewhere: Those of them that another address serves in its place.
    """

    def __init__(
        self,
        calls: CallInterceptor,
        tokens: Tokens,
        *,
        access: Mapping[str, Access],
        elsewhere: frozenset[str] = frozenset(),
    ) -> None:
        self._calls, self._tokens, self._access, self._elsewhere = calls, tokens, access, elsewhere

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The method's handler; one that refuses; or None, which gRPC answers with UNIMPLEMENTED."""
        method = handler_call_details.method
        try:
            access = self._access.get(method, Access.CALLER)
            self._tokens.admit(method, access, handler_call_details.invocation_metadata)
            if method in self._elsewhere:
                raise MethodNotAllowed(
                    f"{_short(method)} is not served at this address; call the server's admin address",
                    method=_short(method),
                )
        except Refusal as refusal:
            return self._calls.refusing(method if method in self._access else "unknown", refusal)
        return await continuation(handler_call_details) if method in self._access else None


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
