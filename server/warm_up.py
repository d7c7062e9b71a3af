"""Runs a model before it serves: whether it works at all, how long its batches take, and how they are best arranged."""

import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trapline.errors import ModelInvalid
from trapline.v1.metadata_pb2 import ModelMetadata

from .pace import Arrangement, Line

_log = logging.getLogger(__name__)

# A row of scores may miss the sum of 1 by this much: half precision and int8 round.
_SUM_TOLERANCE = 0.02
# Larger batches are not tried where one takes longer.
_LONGEST_SHARED_SECONDS = 0.25
_MEASURED_SECONDS = 0.1
_ROUNDS, _MORE_ROUNDS = 2, 3
# The smallest batch is taken that comes this near to the best rate: everybody's answer waits for the batch's end. But
# handing a batch over, not measured here, costs about a millisecond in all: it should take this long for that.
_NEAR_BEST = 0.97
_WORTH_SECONDS = 0.125
# Lanes are taken from this share of the other rate on: decoding and gRPC beside them, not measured here, disturb less.
_LANES_FROM = 0.95


class Runnable(Protocol):
    """What is warmed up: a `Session`."""

    metadata: ModelMetadata
    max_batch: int
    threads: int
    buckets: tuple[int, ...]

    @property
    def score_count(self) -> int:
        """Number of scores for each image."""

    @property
    def has_lanes(self) -> bool:
        """Whether batches can run side by side."""

    def run(self, pixels: NDArray[np.uint8], *, alone: bool = True) -> NDArray[np.float32]:
        """The scores."""


def warm_up(session: Runnable) -> Arrangement:
    """How the session's batches are best run, measured.

    Every batch size that will be padded to is run (on the CPU the smallest and the largest). Where batches can run side
    by side, as many single-threaded ones as there are threads compete with one that has all threads.

    Raises:
        ModelInvalid: It fails to run, or its scores are no probabilities.
    """
    seconds = {size: _checked(session, size) for size in session.buckets or sorted({1, session.max_batch})}
    for size in (1, session.max_batch):  # again: a first run also allocates
        seconds[size] = _checked(session, size)
    alone = Line(one_seconds=seconds[1], full_seconds=seconds[session.max_batch], image_count=session.max_batch)
    if not session.has_lanes:
        return Arrangement(alone=alone)
    measured = _Measured(session)
    with ThreadPoolExecutor(session.threads) as lanes:
        for _ in range(_ROUNDS):
            measured.again(lanes)
        # One burst of other work must not decide for the process's life: what would be refused is measured again.
        for _ in range(_MORE_ROUNDS):
            if not measured.lanes_lose():
                break
            measured.again(lanes)
    shared, rate, alone_rate = measured.shared(), measured.lanes_rate(), measured.alone_rate()
    chosen = Arrangement(alone=alone, shared=shared, lane_count=session.threads)
    if measured.lanes_lose():
        chosen = Arrangement(alone=alone)
    _log.info(
        "event=model_measured one_ms=%.1f alone_rate=%.1f lanes_rate=%.1f unit=images_per_second lanes=%d batch=%d",
        *(1000 * alone.one_seconds, alone_rate, rate, chosen.lane_count, chosen.loaded.image_count),
    )
    return chosen


class _Measured:
    """The shortest times seen of batches side by side, by size, and of a full batch with all threads."""

    def __init__(self, session: Runnable) -> None:
        self._session = session
        self._side_by_side: dict[int, float] = {}
        self._alone = math.inf

    def again(self, lanes: ThreadPoolExecutor) -> None:
        """Measures everything once more, in turns, so that other work disturbs both alike."""
        size = 1
        while size <= self._session.max_batch:
            seconds = _side_by_side(self._session, lanes, size)
            self._side_by_side[size] = min(seconds, self._side_by_side.get(size, math.inf))
            if seconds > _LONGEST_SHARED_SECONDS:
                break
            size *= 2
        self._alone = min(self._alone, _checked(self._session, self._session.max_batch))

    def shared(self) -> Line:
        """The smallest batch on one of several lanes that comes near the best rate of them all."""
        seconds = self._side_by_side
        best = max(size / seconds[size] for size in seconds)
        near = [size for size in seconds if size / seconds[size] >= _NEAR_BEST * best]
        chosen = next((size for size in sorted(near) if seconds[size] >= _WORTH_SECONDS), max(near))
        return Line(one_seconds=seconds[1], full_seconds=seconds[chosen], image_count=chosen)

    def lanes_rate(self) -> float:
        """Images a second of all lanes together."""
        shared = self.shared()
        return self._session.threads * shared.image_count / shared.full_seconds

    def alone_rate(self) -> float:
        """Images a second of full batches with all threads."""
        return self._session.max_batch / self._alone

    def lanes_lose(self) -> bool:
        """Whether full batches with all threads are faster."""
        return self.lanes_rate() < _LANES_FROM * self.alone_rate()


def _side_by_side(session: Runnable, lanes: ThreadPoolExecutor, image_count: int) -> float:
    """Seconds of one batch while as many run as there are lanes."""
    pixels = _pictures(session, image_count)

    def several(_: int) -> float:
        began, times = time.perf_counter(), 0
        while not times or time.perf_counter() - began < _MEASURED_SECONDS:
            session.run(pixels, alone=False)
            times += 1
        return (time.perf_counter() - began) / times

    each = list(lanes.map(several, range(session.threads)))
    return sum(each) / len(each)


def _pictures(session: Runnable, image_count: int) -> NDArray[np.uint8]:
    rules = session.metadata.preprocessing
    shape = (image_count, rules.height_px, rules.width_px, 3)
    pixels = np.random.default_rng(image_count).integers(0, 256, shape, np.uint8)
    pixels[0] = 127  # an even picture: what divides by an image's own spread shows it here
    return pixels


def _checked(session: Runnable, image_count: int) -> float:
    """Seconds of a batch whose scores were looked at."""
    rules, label_count = session.metadata.preprocessing, len(session.metadata.labels)
    pixels = _pictures(session, image_count)
    began = time.perf_counter()
    try:
        scores = session.run(pixels)
    except Exception as error:
        _log.warning("event=warm_up_failed error=%r", error)
        raise ModelInvalid(
            f"the model loads but fails to run {image_count} images of {rules.width_px} × {rules.height_px} px; "
            "its input must be uint8 [N, height, width, 3] with a dynamic N: export it again"
        ) from error
    seconds = time.perf_counter() - began
    if scores.shape != (image_count, session.score_count):
        raise ModelInvalid(
            f"the output has shape {list(scores.shape)} for {image_count} images of {session.score_count} scores; "
            "export it again"
        )
    if not np.isfinite(scores).all():
        raise ModelInvalid("the model's scores are not finite numbers; train or export it again")
    if (scores < -1e-6).any() or (abs(scores[:, :label_count].sum(axis=1) - 1) > _SUM_TOLERANCE).any():
        raise ModelInvalid("the model's scores are no probabilities, they do not sum to 1; export it with a softmax")
    return seconds
