"""The call under way: what its log line and its trace tell, gathered by whoever works on it."""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapline.errors import Refusal
from trapline.request_id import REQUEST_ID_KEY, is_request_id, new_request_id

if TYPE_CHECKING:
    from .tracing import CallTrace


@dataclass(kw_only=True, slots=True)
class Call:
    """One call of ours. A program whose calls tell more has a subclass, whose other fields have defaults.

    Attributes:
        method: The method's name.
        request_id: What the caller named it, or made here.
        trace: Its spans; None where tracing is off.
        error_id: The last INTERNAL error's id.
    """

    method: str = ""
    request_id: str = ""
    trace: "CallTrace | None" = None
    error_id: str = ""

    def note_error(self, refusal: Refusal) -> None:
        """Takes note of the id under which the log has the whole of an error."""
        self.error_id = refusal.metadata.get("errorId", self.error_id)

    def words(self) -> tuple[str, tuple[object, ...]]:
        """What the log line says beside what it says of every call: ` key=%s` words, each after a space; their values.

        Nothing that a caller sent may stand there but names that are known to be well formed.
        """
        return "", ()

    def attributes(self) -> dict[str, object]:
        """What its span says beside what it says of every call, by name."""
        return {}


_CURRENT: ContextVar[Call] = ContextVar("call")


def begin(call: Call) -> None:
    """Makes `call` the one that this task, and those that it starts, work on."""
    _CURRENT.set(call)


def current() -> Call | None:
    """The call that is worked on; None outside of any."""
    return _CURRENT.get(None)


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The id that the caller gave in its metadata, where it is fit to be logged; else a new one."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and is_request_id(value):
            return str(value)
    return new_request_id()
