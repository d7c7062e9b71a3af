"""Classifies photos from Python with a running Trapline server.

from clients.classifier import Classifier

with Classifier("127.0.0.1:50051", model="fox") as classifier:
    print(classifier.classify("photo.jpg").predictions[0].label_id)
    for result in classifier.classify_many(["a.jpg", "b.jpg"]):
        print(result.source, result.answer or result.refusal)
"""

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from types import TracebackType
from typing import Self

from trapline.errors import RequestInvalid
from trapline.v1 import classify_pb2, model_pb2

from .answers import Answer, Result, Source, answer_of
from .connection import call_metadata
from .images import read_image
from .resending import ResendingStream
from .security import Security
from .servers import Servers

#: Images under way at a time: enough to fill the batches of a server with some to spare.
DEFAULT_WINDOW = 64
#: For one image's answer, in seconds.
DEFAULT_TIMEOUT_SECONDS = 60.0


class Classifier:
    """One model on one server, or on several; a context manager.

    Every call has a deadline. UNAVAILABLE and a full queue are tried again until `timeout_seconds` are over; where no
    server is reached at all within 5 s of a first call it is given up then. Of several servers each that is well takes
    its share; one that fails, or says that it does not serve, is left alone until it is well again.

    Args:
        address: `host:port`, or a gRPC target such as `dns:///trapline.example:50051`, whose servers take turns; or
            several of them.
        model: The model's id, as `trapline models` lists it.
        timeout_seconds: Longest wait for one image's answer, in seconds, more than 0.
        security: TLS and the token, for every server; plain text where absent, with the token of TRAPLINE_TOKEN where
            there is one.

    Raises:
        RequestInvalid: `timeout_seconds` is out of range, or there is no address.
        UsageError: A file of `security` cannot be used, or a token would leave this machine in plain text.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        model: str,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        security: Security | None = None,
    ) -> None:
        if not 0 < timeout_seconds < math.inf:
            raise RequestInvalid(f"timeout_seconds must be more than 0 and finite, not {timeout_seconds}")
        addresses = [address] if isinstance(address, str) else list(address)
        if not addresses:
            raise RequestInvalid("address must name a server, HOST:PORT, or several")
        self._servers = Servers(addresses, security=security)
        self._name = f"models/{model}"
        self._timeout_seconds = timeout_seconds
        self._limit_bytes: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call and the connections."""
        self._servers.close()

    def model(self) -> model_pb2.Model:
        """What the server says of the model, once it serves; waits while it is being loaded.

        Raises:
            Refusal: The server is not reached, or the model is unknown, cannot be served, or is still loading.
        """
        model = self._servers.persist(
            lambda connection, seconds_left: connection.asked_model(self._name, seconds_left),
            timeout_seconds=self._timeout_seconds,
        )
        self._limit_bytes = model.max_image_bytes
        return model

    def classify(
        self, image: Source, *, top_k: int = 5, min_score: float | None = None, model_thresholds: bool = False
    ) -> Answer:
        """What the model sees in one image.

        Args:
            image: A path, or an image file's bytes.
            top_k: How many predictions, best first, at least 1.
            min_score: Leave out predictions that score below this, in [0, 1].
            model_thresholds: Leave out those below the score that the model asks for in each class, instead.

        Raises:
            Refusal: The file cannot be read, or the server refuses the image or is not reached; the class tells.
        """
        limit_bytes = self.model().max_image_bytes if self._limit_bytes is None else self._limit_bytes
        ask = _asking(self._name, top_k=top_k, min_score=min_score, model_thresholds=model_thresholds)
        request = ask(read_image(image, limit_bytes))
        metadata = call_metadata()
        response = self._servers.persist(
            lambda connection, seconds_left: connection.classify_stub.Classify(
                request, timeout=seconds_left, metadata=metadata
            ),
            timeout_seconds=self._timeout_seconds,
        )
        return answer_of(response)

    def classify_many(
        self,
        images: Iterable[Source],
        *,
        top_k: int = 5,
        min_score: float | None = None,
        model_thresholds: bool = False,
        window: int = DEFAULT_WINDOW,
    ) -> Generator[Result, None, None]:
        """One result for each image, in the order of `images`, each as soon as those before it are there.

        One bad image is one result with a refusal, and so is each one left when the server is lost half way: iterating
        raises nothing. Images are read as they are sent; at most `window` of them, and about 128 MiB, are in memory.
        The next image is taken from `images` on the caller's thread: while a generator makes one, or waits for it (a
        camera's, say), answers that have come are held back until it gives the image.

        Args:
            images: Paths, or image files' bytes; taken one by one, so a generator may go on for ever.
            top_k: How many predictions for each, best first, at least 1.
            min_score: Leave out predictions that score below this, in [0, 1].
            model_thresholds: Leave out those below the score that the model asks for in each class, instead.
            window: Most images under way at a time, at least 1.

        Raises:
            Refusal: At once, when the server is not reached or does not serve the model.
        """
        if window < 1:
            raise RequestInvalid(f"window must be at least 1, not {window}")
        ask = _asking(self._name, top_k=top_k, min_score=min_score, model_thresholds=model_thresholds)
        self.model()
        stream = ResendingStream(
            self._servers.connections,
            model=self._name,
            request=ask,
            window=window,
            timeout_seconds=self._timeout_seconds,
        )
        return _in_order(stream.results(images))


def _asking(
    name: str, *, top_k: int, min_score: float | None, model_thresholds: bool
) -> Callable[[bytes], classify_pb2.ClassifyRequest]:
    """What makes the request for an image's bytes."""
    if top_k < 1:
        raise RequestInvalid(f"top_k must be at least 1, not {top_k}")
    if min_score is not None and not 0 <= min_score <= 1:
        raise RequestInvalid(f"min_score must be in [0, 1], not {min_score}")
    if min_score is not None and model_thresholds:
        raise RequestInvalid("min_score and model_thresholds are two ways to leave predictions out: give one")
    # Of the two only one may be set in a message, be it to nothing.
    filters = {"model_thresholds": True} if model_thresholds else {"min_score": min_score}
    return lambda content: classify_pb2.ClassifyRequest(model=name, image=content, top_k=top_k, **filters)


def _in_order(results: Generator[Result, None, None]) -> Generator[Result, None, None]:
    """The same results by index; how many wait for their turn is bounded where they come from."""
    waiting: dict[int, Result] = {}
    next_index = 0
    with contextlib.closing(results):
        for result in results:
            waiting[result.index] = result
            while next_index in waiting:
                yield waiting.pop(next_index)
                next_index += 1
