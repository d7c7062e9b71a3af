"""The call under way: what its log line and its trace tell, gathered by whoever works on its images."""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapline.errors import Refusal
from trapline.request_id import REQUEST_ID_KEY, is_request_id, new_request_id

from .batch import Answer

if TYPE_CHECKING:
    from .tracing import CallTrace

#: The `model` of a call that asks for several.
SEVERAL = "several"


@dataclass(kw_only=True, slots=True)
class Call:
    """One call of ours. Seconds are sums over its answered images.

    Attributes:
        method: The method's name.
        request_id: What the caller named it, or made here.
        trace: Its spans; None where tracing is off.
        model: Id of the model asked for, where the call names one well formed; `several` for more than one.
        image_count: Images received.
        byte_count: Bytes of their files.
        refused_count: Those that got an error.
        answered_count: Those that got an answer.
        batch_image_count: Images of the answered images' batches, summed.
        error_id: The last INTERNAL error's id.
    """

    method: str = ""
    request_id: str = ""
    trace: "CallTrace | None" = None
    model: str = ""
    image_count: int = 0
    byte_count: int = 0
    refused_count: int = 0
    answered_count: int = 0
    preprocess_seconds: float = 0.0
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0
    batch_image_count: int = 0
    error_id: str = ""

    def note_model(self, model_id: str) -> None:
        """Takes note of a model that the call asks for; `model_id` has the form of one."""
        if self.model != model_id:
            self.model = SEVERAL if self.model else model_id

    def note_image(self, byte_count: int) -> None:
        """Takes note of an image that came."""
        self.image_count += 1
        self.byte_count += byte_count

    def note_answer(self, answer: Answer) -> None:
        """Takes note of an image's answer, when it is there."""
        self.answered_count += 1
        self.preprocess_seconds += answer.preprocess_seconds
        self.queue_seconds += answer.queue_seconds
        self.inference_seconds += answer.inference_seconds
        self.batch_image_count += answer.batch_image_count
        if self.trace is not None:
            self.trace.image(answer)

    def note_refusal(self, refusal: Refusal) -> None:
        """Takes note of an image's error."""
        self.refused_count += 1
        self.note_error(refusal)

    def note_error(self, refusal: Refusal) -> None:
        """Takes note of the id under which the log has the whole of an error."""
        self.error_id = refusal.metadata.get("errorId", self.error_id)


_CURRENT: ContextVar[Call] = ContextVar("call")


def begin(call: Call) -> None:
    """Makes `call` the one that this task, and those that it starts, work on."""
    _CURRENT.set(call)


def current() -> Call:
    """The call that is worked on; outside of any, one that nobody looks at."""
    return _CURRENT.get(None) or Call()


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The id that the caller gave in its metadata, where it is fit to be logged; else a new one."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and is_request_id(value):
            return str(value)
    return new_request_id()
