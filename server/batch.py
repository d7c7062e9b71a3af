"""One batch on a lane's thread: made ready, run, looked at. Nothing here knows the event loop."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trapline.errors import ModelOutputInvalid

from .decoding import Encoded
from .lanes import Taken


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One image's scores, float32 [score_count], and where its time went.

    Attributes:
        scores: They.
        preprocess_seconds: Decoding.
        queue_seconds: All that was neither decoding nor the run.
        inference_seconds: The run of its batch.
        batch_image_count: Images in that.
    """

    scores: NDArray[np.float32]
    preprocess_seconds: float
    queue_seconds: float
    inference_seconds: float
    batch_image_count: int


class Run(Protocol):
    """Runs a batch: uint8 [N, height_px, width_px, 3] -> float32 [N, score_count]; called from several threads."""

    def __call__(self, pixels: NDArray[np.uint8], *, alone: bool) -> NDArray[np.float32]:
        """The scores; `alone` says whether the batch has the whole device."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images that go to a lane together.

    Attributes:
        images: They.
        alone: Whether they have the whole device.
        taken: The lanes that they have.
    """

    images: Sequence[Encoded]
    alone: bool
    taken: Taken


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What came of a batch.

    Attributes:
        images: Those that were run.
        scores: Theirs, float32 [images, score_count].
        finite: Whether each image's are, bool [images].
        began: When the run did, in `time.monotonic` seconds.
        seconds: How long it took.
        error: Why there are no scores; `images` are those that should have been run.
    """

    images: Sequence[Encoded]
    scores: NDArray[np.float32] | None = None
    finite: Sequence[bool] = ()
    began: float = 0.0
    seconds: float = 0.0
    error: Exception | None = None


def outcome_of(batch: Batch, run: Run, *, score_count: int, model_id: str) -> Outcome:
    """Decodes what is not decoded yet, leaves out what nobody waits for any more, and runs the rest; never raises."""
    images = [image for image in batch.images if image.make_ready()]
    # Decoding the others may have taken long.
    images = [image for image in images if image.is_awaited()]
    if not images:
        return Outcome(images=images)
    try:
        pixels = np.stack([image.pixels for image in images if image.pixels is not None])
        began = time.monotonic()
        scores = run(pixels, alone=batch.alone)
        seconds = time.monotonic() - began
        if scores.shape != (len(images), score_count):
            raise output_invalid(model_id, f"scores of shape {list(scores.shape)}")
        finite: list[bool] = np.isfinite(scores).all(axis=1).tolist()  # type: ignore[assignment]  # one dimension
        return Outcome(images=images, scores=scores, finite=finite, began=began, seconds=seconds)
    except Exception as error:  # noqa: BLE001  # whatever the runtime raises fails this batch and no other
        return Outcome(images=images, error=error)


def output_invalid(model_id: str, what: str) -> ModelOutputInvalid:
    """The error of an image for which the model gave `what`."""
    return ModelOutputInvalid(
        f"models/{model_id} gave {what} for this image; export the model again", model=f"models/{model_id}"
    )


def closed(pixels: NDArray[np.uint8], *, alone: bool) -> NDArray[np.float32]:  # noqa: ARG001  # as `Run` has it
    """The `Run` of a queue that has ended."""
    raise AssertionError("a closed queue runs nothing")
