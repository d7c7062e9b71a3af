"""What the server's calls tell of their images, in the log and in traces."""

from dataclasses import dataclass

from trapline.errors import Refusal
from trapline.service import calls

from .batch import Answer

#: The `model` of a call that asks for several.
SEVERAL = "several"
#: Images of one call that have spans; a stream may have any number, and a trace must end.
TRACED_IMAGES = 64


@dataclass(kw_only=True, slots=True)
class Call(calls.Call):
    """One call of the server. Seconds are sums over its answered images.

    Attributes:
        model: Id of the model asked for, where the call names one well formed; `several` for more than one.
        image_count: Images received.
        byte_count: Bytes of their files.
        refused_count: Those that got an error.
        answered_count: Those that got an answer.
        batch_image_count: Images of the answered images' batches, summed.
    """

    model: str = ""
    image_count: int = 0
    byte_count: int = 0
    refused_count: int = 0
    answered_count: int = 0
    preprocess_seconds: float = 0.0
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0
    batch_image_count: int = 0

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
        if self.trace is not None and self.answered_count <= TRACED_IMAGES:
            self.trace.add(
                ("queue", answer.queue_seconds, {}),
                ("decode", answer.preprocess_seconds, {}),
                ("run", answer.inference_seconds, {"trapline.batch_images": answer.batch_image_count}),
            )

    def note_refusal(self, refusal: Refusal) -> None:
        """Takes note of an image's error."""
        self.refused_count += 1
        self.note_error(refusal)

    def words(self) -> tuple[str, tuple[object, ...]]:
        """The model, and of the images how many, how large and how long they took."""
        words, values = "", list[object]()
        if self.model:
            words += " model=%s"
            values.append(self.model)
        if self.image_count:
            words += " images=%d answered=%d refused=%d bytes=%d"
            values += [self.image_count, self.answered_count, self.refused_count, self.byte_count]
        if count := self.answered_count:
            words += " preprocess_seconds=%.6f queue_seconds=%.6f inference_seconds=%.6f batch_images=%.1f"
            sums = (self.preprocess_seconds, self.queue_seconds, self.inference_seconds, self.batch_image_count)
            values += [each / count for each in sums]
        return words, tuple(values)

    def attributes(self) -> dict[str, object]:
        """The model and how many images there were."""
        return {"model": self.model, "images": self.image_count}


def current() -> Call:
    """The call that is worked on; outside of any, one that nobody looks at."""
    call = calls.current()
    return call if isinstance(call, Call) else Call()
