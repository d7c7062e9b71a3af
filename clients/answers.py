"""What the clients hand back: predictions, the answer for one image, the outcome for one of many."""

import os
from dataclasses import dataclass
from typing import TypeAlias

from trapline.errors import InternalError, Refusal, from_status
from trapline.v1 import classify_pb2

#: One image: the path of its file, or the file's bytes.
Source: TypeAlias = str | os.PathLike[str] | bytes


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One label and how strongly the model holds to it.

    Attributes:
        label_id: The class's stable id, e.g. `vulpes_vulpes`.
        score: Softmax probability, in [0, 1].
        label_index: Position among the model's labels.
    """

    label_id: str
    score: float
    label_index: int


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Where the time of one image went on the server; times in microseconds, the batch in images."""

    preprocess_micros: int
    queue_micros: int
    inference_micros: int
    batch_image_count: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model sees in one image.

    Attributes:
        predictions: Best first; empty where `min_score` or the model's thresholds left out every one.
        model: The model that answered, as `models/{model}`.
        model_version: Its version, which a reload may change between two images.
        timing: Where the time went on the server.
        unknown_score: How unlike every class the image is; above 1 likely of none. None where the model can't tell.
    """

    predictions: tuple[Prediction, ...]
    model: str
    model_version: str
    timing: Timing
    unknown_score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome for one image of many; exactly one of `answer` and `refusal` is set.

    Attributes:
        index: Position of the image in what was asked for, from 0.
        source: The image as it was given.
        answer: What the model sees.
        refusal: Why there is no answer.
    """

    index: int
    source: Source
    answer: Answer | None = None
    refusal: Refusal | None = None


def answer_of(response: classify_pb2.ClassifyResponse) -> Answer:
    """The `Answer` that a response message carries."""
    timing = response.timing
    return Answer(
        predictions=tuple(
            Prediction(label_id=item.label_id, score=item.score, label_index=item.label_index)
            for item in response.predictions
        ),
        model=response.model,
        model_version=response.model_version,
        timing=Timing(
            preprocess_micros=timing.preprocess_micros,
            queue_micros=timing.queue_micros,
            inference_micros=timing.inference_micros,
            batch_image_count=timing.batch_image_count,
        ),
        unknown_score=response.unknown_score if response.HasField("unknown_score") else None,
    )


def outcome_of(result: classify_pb2.ClassifyResult) -> Answer | Refusal:
    """The answer, or the refusal, that one result of a stream carries."""
    match result.WhichOneof("result"):
        case "response":
            return answer_of(result.response)
        case "error":
            return from_status(result.error)
        case _:
            return InternalError(
                "the server sent neither an answer nor an error for this image; is it newer than this?"
            )
