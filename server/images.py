"""One image through the server: checked, given a place, decoded, run in a batch, named and cut to the best labels."""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trapline.errors import ImageTooLarge, ImageUnreadable, QueueFull, RequestInvalid, reason_name, to_status
from trapline.model_file import MODEL_ID_PATTERN
from trapline.preprocessing import load_image
from trapline.service.caller import turns_of
from trapline.service.errors import as_refusal, shown
from trapline.v1 import classify_pb2
from trapline.v1.metadata_pb2 import Label

from .batch import Answer
from .batcher import Batcher
from .calls import current
from .metrics import UNKNOWN_MODEL, Metrics
from .models import Models
from .places import Lane, Ticket
from .slots import Serving

_PREFIX = "models/"
_DEFAULT_TOP_K = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Admitted:
    """An image that has a place in the queue of the version that will answer it."""

    request: classify_pb2.ClassifyRequest
    serving: Serving
    ticket: Ticket


def model_id_of(name: str, field: str = "model") -> str:
    """The id in `models/{model}`.

    Raises:
        RequestInvalid: `name`, which the request has in `field`, is not of that form.
    """
    model_id = name.removeprefix(_PREFIX)
    if not name.startswith(_PREFIX) or not MODEL_ID_PATTERN.fullmatch(model_id):
        description = f"must be models/{{model}}, e.g. models/wildlife, not {shown(name)}"
        raise RequestInvalid(f"{field} {description}", violations={field: description})
    return model_id


class Images:
    """Classifies single images for all three methods, and counts how each ended.

    Args:
        models: Whom to ask.
        max_image_bytes: Larger files are refused.
        max_image_pixels: Images with more are refused before they are decoded.
        metrics: Where to count.
    """

    def __init__(self, models: Models, *, max_image_bytes: int, max_image_pixels: int, metrics: Metrics) -> None:
        self._models, self._metrics = models, metrics
        self._max_image_bytes, self._max_image_pixels = max_image_bytes, max_image_pixels
        Image.init()  # its plugins load at the first unknown file otherwise, 0.2 s while a caller waits

    def admit(
        self,
        request: classify_pb2.ClassifyRequest,
        *,
        caller: str,
        deadline: float | None,
        waits: dict[Batcher, float] | None = None,
    ) -> Admitted:
        """A place for the request's image, at once.

        Args:
            request: The image and its model.
            caller: Who asks; callers take turns.
            deadline: When the caller gives up, in `time.monotonic` seconds.
            waits: Expected waits by queue, shared by the images of one call: it is not refused for its own length.

        Raises:
            Refusal: The request is wrong, its model does not serve, or (QueueFull) there is no room.
        """
        current().note_image(len(request.image))
        with self._failures_counted(request.model):
            return self._admit(request, Lane.CALL, caller, deadline, waits)

    def refusal_unread(self, context: Any) -> Callable[[], NoReturn] | None:  # noqa: ANN401  # gRPC's of any method
        """What refuses a call of one image whose request nobody has read; None where there may be room for it.

        Only where one model is served alone: which one a call is for stands in its request. One that is wrong as well
        is told so when there is room.
        """
        serving = self._models.only()
        refusal = None if serving is None else serving.batcher.refusal(turns_of(context))
        if serving is None or refusal is None:
            return None
        return partial(self._refuse_unread, serving.model_id, [refusal])

    def _refuse_unread(self, model_id: str, refusals: list[QueueFull]) -> NoReturn:
        current().note_image(0)
        current().note_model(model_id)
        self._metrics.dropped.labels(model_id, "refused").inc()
        with self._failures_counted(f"{_PREFIX}{model_id}"):
            raise refusals.pop()  # its traceback refers to all frames that know of the list

    async def admit_in_turn(
        self, request: classify_pb2.ClassifyRequest, *, caller: str, deadline: float | None
    ) -> Admitted:
        """A place for a stream's image, as soon as there is room.

        Raises:
            Refusal: The request is wrong or its model does not serve.
        """
        current().note_image(len(request.image))
        with self._failures_counted(request.model):
            while True:
                try:
                    return self._admit(request, Lane.STREAM, caller, deadline, None)
                except QueueFull:
                    # The version may be another one after the wait, so the model is asked for again.
                    await self._models.serving(model_id_of(request.model)).batcher.room()

    async def answer(self, admitted: Admitted) -> classify_pb2.ClassifyResponse:
        """The answer for an image that was admitted; its place is given back whatever happens.

        Raises:
            Refusal: There is none, and why.
        """
        with admitted.ticket, self._failures_counted(admitted.request.model):
            answer = await admitted.serving.batcher.classify(admitted.ticket, partial(self._decode, admitted))
            label_count = len(admitted.serving.session.metadata.labels)
            probabilities, unknown_score = answer.scores[:label_count], None
            if len(answer.scores) > label_count:
                unknown_score = float(answer.scores[label_count])
            order = np.argsort(-probabilities, kind="stable")[: admitted.request.top_k or _DEFAULT_TOP_K].tolist()
            response = _response(admitted, answer, order, unknown_score)
            # Before the place is given back: a replaced version drops its series once all its places are.
            admitted.serving.drift.observe(order[0], float(probabilities[order[0]]), unknown_score)
        self._metrics.of(admitted.serving.model_id).answered.inc()
        current().note_answer(answer)
        return response

    def answering(self, admitted: Admitted) -> "asyncio.Task[classify_pb2.ClassifyResult]":
        """The answer or the error as a task; the place is given back even where it is cancelled before it begins."""

        def ended(_: "asyncio.Task[classify_pb2.ClassifyResult]") -> None:
            if admitted.ticket.give_back():  # it never began: nothing else has counted it
                admitted.ticket.count_cancelled()
                self._count(admitted.request.model, "CANCELLED")

        task = asyncio.create_task(self._result(admitted))
        task.add_done_callback(ended)
        return task

    async def _result(self, admitted: Admitted) -> classify_pb2.ClassifyResult:
        try:
            return classify_pb2.ClassifyResult(response=await self.answer(admitted))
        except Exception as error:  # noqa: BLE001  # becomes this image's result
            return error_result(error)

    def _admit(
        self,
        request: classify_pb2.ClassifyRequest,
        lane: Lane,
        caller: str,
        deadline: float | None,
        waits: dict[Batcher, float] | None,
    ) -> Admitted:
        model_id = model_id_of(request.model)
        current().note_model(model_id)
        serving = self._models.serving(model_id)
        self._check(request, serving)
        batcher = serving.batcher
        wait = None
        if waits is not None:
            wait = waits[batcher] if batcher in waits else waits.setdefault(batcher, batcher.wait_seconds(caller))
        ticket = batcher.admit(len(request.image), lane=lane, caller=caller, deadline=deadline, wait_seconds=wait)
        return Admitted(request=request, serving=serving, ticket=ticket)

    def _check(self, request: classify_pb2.ClassifyRequest, serving: Serving) -> None:
        violations = {}
        if request.top_k < 0:
            violations["top_k"] = f"must be 0 (for {_DEFAULT_TOP_K}) or more, not {request.top_k}"
        score = request.min_score
        if request.HasField("min_score") and (math.isnan(score) or not 0 <= score <= 1):
            violations["min_score"] = f"must be in [0, 1], not {score:g}"
        if request.model_thresholds and not serving.session.metadata.target_precision:
            violations["model_thresholds"] = (
                "must be unset: the model has no thresholds; use min_score, or train it again"
            )
        if violations:
            sentence = "; ".join(f"{field} {description}" for field, description in violations.items())
            raise RequestInvalid(sentence, violations=violations)
        if not request.image:
            raise ImageUnreadable("the image is empty; send the bytes of an image file")
        if len(request.image) > self._max_image_bytes:
            raise ImageTooLarge(
                f"the file has {len(request.image):,} bytes, the limit {self._max_image_bytes:,}; send a smaller one",
                limitBytes=self._max_image_bytes,
            )

    def _decode(self, admitted: Admitted) -> NDArray[np.uint8]:
        rules = admitted.serving.session.metadata.preprocessing
        return load_image(admitted.request.image, rules, max_pixels=self._max_image_pixels)

    @contextmanager
    def _failures_counted(self, name: str) -> Iterator[None]:
        """Counts an image that gets no answer; what is not a Refusal becomes one."""
        try:
            yield
        except asyncio.CancelledError:
            self._count(name, "CANCELLED")
            raise
        except Exception as error:  # noqa: BLE001  # raised again, or what became of it
            refusal = as_refusal(error)
            try:
                self._count(name, reason_name(refusal))
                current().note_refusal(refusal)
                if refusal is error:
                    raise
                raise refusal from error
            finally:
                del refusal  # whose traceback refers to this frame

    def _count(self, name: str, outcome: str) -> None:
        model_id = name.removeprefix(_PREFIX)
        known = name.startswith(_PREFIX) and model_id in self._models
        self._metrics.images.labels(model_id if known else UNKNOWN_MODEL, outcome).inc()


def error_result(error: Exception) -> classify_pb2.ClassifyResult:
    """Why an image of a batch or a stream has no answer."""
    return classify_pb2.ClassifyResult(error=to_status(as_refusal(error)))


def _response(
    admitted: Admitted, answer: Answer, order: list[int], unknown_score: float | None
) -> classify_pb2.ClassifyResponse:
    request, labels = admitted.request, admitted.serving.session.metadata.labels
    scored = [(index, min(1.0, max(0.0, float(answer.scores[index])))) for index in order]
    return classify_pb2.ClassifyResponse(
        predictions=[
            classify_pb2.Prediction(label_id=labels[index].id, score=score, label_index=index)
            for index, score in scored
            if score >= _least_score(request, labels[index])
        ],
        model=f"{_PREFIX}{admitted.serving.model_id}",
        model_version=str(admitted.serving.version),
        timing=classify_pb2.Timing(
            preprocess_micros=_micros(answer.preprocess_seconds),
            queue_micros=_micros(answer.queue_seconds),
            inference_micros=_micros(answer.inference_seconds),
            batch_image_count=answer.batch_image_count,
        ),
        unknown_score=unknown_score,
    )


def _least_score(request: classify_pb2.ClassifyRequest, label: Label) -> float:
    """What a prediction of the label must score not to be left out."""
    if request.model_thresholds:
        return label.threshold if label.HasField("threshold") else math.inf
    return request.min_score


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)
