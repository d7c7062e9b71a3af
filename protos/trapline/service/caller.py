"""Who makes the call under way: for the log, and for taking turns."""

import re
from contextvars import ContextVar
from typing import Any

#: The name of the token that the call came with; empty where none was asked for.
token_name: ContextVar[str] = ContextVar("token_name", default="")
_LONGEST_NAME = 80


def caller_of(context: Any, *, identified: bool = True) -> str:  # noqa: ANN401  # gRPC's context of any method
    """The name of the call's token, else what the client's certificate says, else `-`; never a space or a secret.

    Args:
        context: The call's.
        identified: Whether clients have certificates; asking for them costs time.
    """
    if name := token_name.get():
        return name
    identities = list(context.peer_identities() or ()) if identified else ()
    if not identities:
        return "-"
    return re.sub(r"[^\w.@:/-]", "?", identities[0].decode("utf-8", "replace"))[:_LONGEST_NAME]


def turns_of(context: Any) -> str:  # noqa: ANN401  # gRPC's context of any method
    """Whose turns the call takes: those of its token's name, or of its connection."""
    return token_name.get() or str(context.peer())
