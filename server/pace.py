"""How long a model's images take: measured at warm-up, followed while it serves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_WEIGHT = 0.2  # of the newest observation in a moving average
# One stalled batch (a page-in, a reload's warm-up beside it) or one giant photo must not close the queue for long.
_LARGEST_RATIO = 20.0
# A lane that decodes takes no more images at once than this allows: all wait for the last one of their batch.
_LONGEST_DECODE_SECONDS = 0.25
# Handing a batch over costs about a millisecond, so small ones pay only where a run takes long.
_SHORTEST_BATCH_SECONDS = 0.05
_MARGIN_QUANTILE, _MARGIN_STEP_SECONDS = 0.98, 0.01


@dataclass(frozen=True, kw_only=True)
class Line:
    """A batch of n images takes about a + b·n seconds: both ends of that line.

    Attributes:
        one_seconds: For one image.
        full_seconds: For `image_count` of them.
        image_count: The other end.
    """

    one_seconds: float
    full_seconds: float
    image_count: int

    def seconds(self, image_count: int) -> float:
        """For so many images."""
        one = max(self.one_seconds, 1e-6)
        step = max(0.0, self.full_seconds - one) / max(1, self.image_count - 1)
        return one + step * (image_count - 1)


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """How a model's batches run, and how long they take.

    Attributes:
        alone: One batch with the whole device to itself.
        shared: A batch of one of `lane_count` lanes that all run; None where a batch always has all of the device.
        lane_count: Batches at a time under load; 1 without `shared`.
    """

    alone: Line
    shared: Line | None = None
    lane_count: int = 1

    @property
    def loaded(self) -> Line:
        """That of a batch while many images wait."""
        return self.shared or self.alone


class Pace:
    """Expects how long images will wait for the device.

    Warm-up measures how long batches take; each batch that is served then says how much slower or faster the machine is
    now. Where decoding beside the lanes is slower than the model (a GPU), decoding sets the pace.

    Args:
        arrangement: How batches run.
        decode_threads: Threads that decode beside the lanes; 0 where a lane decodes what it runs.

    Attributes:
        margin_seconds: What is to be added to an expected wait so that few waits are longer: the 0.98 quantile of
            actual less expected waits, followed by stochastic approximation (Robbins and Monro 1951).
    """

    def __init__(self, arrangement: Arrangement, *, decode_threads: int = 0) -> None:
        self.arrangement = arrangement
        self._decode_threads = decode_threads
        self._slowdown = 1.0
        self._decode = 0.0
        self.margin_seconds = 0.0

    def observe_batch(self, image_count: int, seconds: float, *, alone: bool) -> None:
        """Takes note that a batch of `image_count` images ran for `seconds`."""
        ratio = min(seconds / self._line(alone=alone).seconds(image_count), _LARGEST_RATIO)
        self._slowdown += _WEIGHT * (ratio - self._slowdown)

    def observe_wait(self, seconds: float, *, expected: float) -> None:
        """Takes note that an answer came `seconds` later than from an idle server, where `expected`, if not 0, was."""
        if expected > 0:
            step = _MARGIN_QUANTILE - (seconds <= expected + self.margin_seconds)
            self.margin_seconds = max(0.0, self.margin_seconds + _MARGIN_STEP_SECONDS * step)

    def observe_decode(self, seconds: float) -> None:
        """Takes note that decoding one image took `seconds` of one thread."""
        if not self._decode:
            self._decode = seconds
        self._decode += _WEIGHT * (min(seconds, _LARGEST_RATIO * self._decode) - self._decode)

    def batch_seconds(self, image_count: int, *, alone: bool) -> float:
        """How long a batch of `image_count` images is expected to keep its lane, in seconds."""
        decode = 0.0 if self._decode_threads else image_count * self._decode
        return decode + self._line(alone=alone).seconds(image_count) * self._slowdown

    def loaded_count(self) -> int:
        """Most images in a batch while many wait."""
        count = self.arrangement.loaded.image_count
        if self._decode_threads or not self._decode:
            return count
        return min(count, max(1, int(_LONGEST_DECODE_SECONDS / self._decode)))

    def share(self, image_count: int) -> int:
        """Most images in a batch while there are `image_count`, those that run included: half of a lane's part of them.

        Then a lane finds the next batch waiting when its own has ended, and no image waits for a large batch where two
        small ones take as long. None is made smaller than what takes `_SHORTEST_BATCH_SECONDS`.
        """
        half = math.ceil(image_count / (2 * self.arrangement.lane_count))
        seconds_an_image = max(1e-6, self.batch_seconds(2, alone=False) / 2)
        return min(self.loaded_count(), max(half, math.ceil(_SHORTEST_BATCH_SECONDS / seconds_an_image)))

    def wait_seconds(self, *, ahead: float, rests: Sequence[float], model_count: int = 1) -> float:
        """How much later than from an idle server one more image's answer is expected.

        That is the wait for its batch to start, and by how much that batch will take longer than a lone image.

        Args:
            ahead: Images ahead of it that no batch has taken yet.
            rests: For each lane, how long it takes until it is free.
            model_count: Models that take turns on the device.
        """
        size, lane_count = self.loaded_count(), self.arrangement.lane_count
        free = [max(rests)] if lane_count == 1 else sorted(rests)[:lane_count]
        batches = int(ahead // size)
        rounds, lane = divmod(batches, len(free))
        wait = free[lane] + rounds * model_count * self.batch_seconds(size, alone=False)
        if self._decode_threads:
            wait = max(wait, ahead * self._decode / self._decode_threads)
        # With a whole batch ahead others will come as well, and fill its own.
        own = size if batches else int(ahead) + 1
        longer = self.batch_seconds(own, alone=False) - self.batch_seconds(1, alone=True)
        return wait + max(0.0, longer) if wait else 0.0

    def _line(self, *, alone: bool) -> Line:
        return self.arrangement.alone if alone else self.arrangement.loaded


def retry_seconds(wait_seconds: float) -> float:
    """When a caller that was refused at such an expected wait may come back, in seconds."""
    return min(5.0, max(0.05, wait_seconds / 2))
