"""The places of a model's queue: who gets one, how many there are, and the wait for one.

Two lanes share them. Calls (unary) are refused at once when there is no room; streams wait for room instead. Streams
never hold more than half, and where they wait calls leave them a few: neither can starve the other.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Self

from trapline.errors import DeadlineExceeded, QueueFull

from .metrics import Metrics


class Lane(IntEnum):
    """Who asks: a call that is refused when there is no room, or a stream that waits for it."""

    CALL = 0
    STREAM = 1


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """How much one model's queue takes.

    Attributes:
        max_batch: Most images in one batch.
        max_delay_seconds: How long a batch that is not full waits for more while the device is free.
        max_wait_seconds: Calls that would wait longer than this for the device are refused.
        max_images: Most images accepted and not answered yet, those being decoded and run included.
        max_bytes: Most bytes of those images' files.
    """

    max_batch: int
    max_delay_seconds: float
    max_wait_seconds: float
    max_images: int
    max_bytes: int


class Ticket:
    """A place in the queue, from an image's arrival until it is answered; a context manager that gives it back."""

    def __init__(
        self,
        places: "Places",
        byte_count: int,
        *,
        lane: Lane,
        caller: str,
        deadline: float | None,
        wait_seconds: float = 0.0,
    ) -> None:
        self.byte_count, self.lane, self.caller, self.wait_seconds = byte_count, lane, caller, wait_seconds
        self.admitted_at = time.monotonic()
        self.waits = True
        self._places, self._deadline, self._left = places, deadline, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def give_back(self) -> bool:
        """Gives the place back; a second time does nothing. Whether it was still held."""
        if self._left:
            return False
        self._left = True
        self._places.release(self)
        return True

    def start(self) -> None:
        """Takes note that the image waits no more: its batch has begun."""
        if self.waits:
            self.waits = False
            self._places.started(self)

    def check_deadline(self) -> None:
        """Refuses an image whose caller's deadline has passed, and counts it.

        Raises:
            DeadlineExceeded: It has.
        """
        if self.is_late():
            self._places.count_dropped("deadline")
            raise DeadlineExceeded("the deadline passed before the image was run; allow more time or send less at once")

    def count_cancelled(self) -> None:
        """Counts the image as one whose caller was gone before it was run."""
        self._places.count_dropped("deadline" if self.is_late() else "cancelled")

    def count_run(self, *, wanted: bool) -> None:
        """Counts an image that was run as wasted where its caller is gone: not `wanted`, or past its deadline."""
        if self.is_late():
            self._places.count_wasted("deadline")
        elif not wanted:
            self._places.count_wasted("cancelled")

    def is_late(self) -> bool:
        """Whether the caller's deadline has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline


class Places:
    """Counts what was admitted to one model's queue and not answered yet.

    Args:
        limits: How much there may be.
        model_id: The model's id, for refusals and metrics.
        metrics: Where to count.
        on_release: Called when a place was given back.
    """

    def __init__(self, limits: QueueLimits, *, model_id: str, metrics: Metrics, on_release: Callable[[], None]) -> None:
        self._limits, self._model_id, self._metrics, self._on_release = limits, model_id, metrics, on_release
        self._counts = metrics.of(model_id)
        self.images = dict.fromkeys(Lane, 0)
        self._bytes = dict.fromkeys(Lane, 0)
        # Images that wait, and images at all, by caller.
        self._waiting: dict[Lane, Counter[str]] = {lane: Counter() for lane in Lane}
        self._held = Counter[str]()
        self._room: asyncio.Future[None] | None = None

    @property
    def image_count(self) -> int:
        """Images of both lanes."""
        return sum(self.images.values())

    def ahead(self, caller: str) -> float:
        """Images of calls that go before one more of `caller`; callers take turns, and streams get a quarter."""
        calls = self._waiting[Lane.CALL]
        own = calls[caller]
        ahead: float = sum(min(count, own + 1) for count in calls.values())
        if self._waiting[Lane.STREAM]:
            ahead *= 4 / 3
        return ahead

    def admit(
        self,
        byte_count: int,
        *,
        lane: Lane,
        caller: str,
        deadline: float | None,
        wait_seconds: float,
        margin_seconds: float = 0.0,
        retry_seconds: float,
    ) -> Ticket:
        """A place for an image of `byte_count` bytes that is expected to wait `wait_seconds`, seldom a margin longer.

        Raises:
            QueueFull: There is none, or the wait is beyond the limit; tells to come back in `retry_seconds`.
        """
        refusal = self.refusal(
            byte_count,
            lane=lane,
            caller=caller,
            wait_seconds=wait_seconds,
            margin_seconds=margin_seconds,
            retry_seconds=retry_seconds,
        )
        if refusal is not None:
            if lane is Lane.CALL:
                self.count_dropped("refused")
            try:
                raise refusal
            finally:
                del refusal  # whose traceback refers to this frame
        self.images[lane] += 1
        self._bytes[lane] += byte_count
        self._waiting[lane][caller] += 1
        self._held[caller] += 1
        # Up and down, not set: while a version is replaced there are two queues of one model.
        self._counts.queue_images.inc()
        self._counts.queue_bytes.inc(byte_count)
        return Ticket(self, byte_count, lane=lane, caller=caller, deadline=deadline, wait_seconds=wait_seconds)

    def refusal(
        self,
        byte_count: int,
        *,
        lane: Lane,
        caller: str,
        wait_seconds: float,
        margin_seconds: float = 0.0,
        retry_seconds: float,
    ) -> QueueFull | None:
        """What `admit` would raise; None where there is room."""
        # Of half the limit at most: a wait that nothing can be told about must not close the queue.
        longest = wait_seconds + min(margin_seconds, self._limits.max_wait_seconds / 2) if wait_seconds else 0.0
        if longest <= self._limits.max_wait_seconds and self._fits(byte_count, lane, caller):
            return None
        return QueueFull(
            f"the queue of models/{self._model_id} is full: {self.image_count} images of at most "
            f"{self._limits.max_images}, {longest * 1000:.0f} ms to wait of at most "
            f"{self._limits.max_wait_seconds * 1000:.0f}; send it again later, or use StreamClassify, which waits",
            retry_seconds=retry_seconds,
            model=f"models/{self._model_id}",
            queueCapacity=self._limits.max_images,
        )

    def started(self, ticket: Ticket) -> None:
        """Takes note that an image is being run; `Ticket` calls it."""
        _take_off(self._waiting[ticket.lane], ticket.caller)

    def release(self, ticket: Ticket) -> None:
        """Takes a place back; `Ticket` calls it."""
        ticket.start()
        _take_off(self._held, ticket.caller)
        self.images[ticket.lane] -= 1
        self._bytes[ticket.lane] -= ticket.byte_count
        self._counts.queue_images.dec()
        self._counts.queue_bytes.dec(ticket.byte_count)
        if self._room is not None:
            self._room.set_result(None)
            self._room = None
        self._on_release()

    async def room(self) -> None:
        """Waits until a place was given back; it may be gone again by then."""
        if self._room is None:
            self._room = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._room)

    def count_dropped(self, cause: str) -> None:
        """Counts an image that is not run: `cancelled`, `deadline` or `refused`."""
        self._metrics.dropped.labels(self._model_id, cause).inc()

    def count_wasted(self, cause: str) -> None:
        """Counts an image that was run for nobody: `cancelled` or `deadline`."""
        self._metrics.wasted.labels(self._model_id, cause).inc()

    def _fits(self, byte_count: int, lane: Lane, caller: str) -> bool:
        limits, streamed = self._limits, self.images[Lane.STREAM]
        images, size = self.image_count + 1, sum(self._bytes.values()) + byte_count
        if lane is Lane.STREAM and streamed:
            if streamed >= limits.max_images // 2:
                return False
            if self._bytes[Lane.STREAM] + byte_count > limits.max_bytes // 2:
                return False
        if lane is Lane.CALL and self._room is not None:
            # Streams wait: calls leave them a few places, or a steady overload of calls would stop them for ever.
            images += max(0, min(limits.max_batch, limits.max_images // 4) - streamed)
        if self._held[caller]:
            # The last places are for those who have none: one caller's flood must not turn the others away.
            images += min(limits.max_batch, limits.max_images // 8)
        return images <= limits.max_images and size <= limits.max_bytes


def _take_off(counter: Counter[str], caller: str) -> None:
    counter[caller] -= 1
    if not counter[caller]:
        del counter[caller]  # or callers that left would pile up
