"""Where batches run: lanes of one device, given in turn to the models that have images waiting."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .workers import Workers


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a queue is offered.

    Attributes:
        free: Lanes that are free.
        whole: Whether all are, and no other queue wants one.
        full_only: Whether only a full batch may be started, which is then prepared while the device is at work.
    """

    free: int
    whole: bool
    full_only: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Taken:
    """What a started batch has, until it gives it back.

    Attributes:
        count: Lanes.
        until: When it is expected to end, in `time.monotonic` seconds.
    """

    count: int
    until: float


class Queue(Protocol):
    """What wants lanes."""

    def start(self, offer: Offer) -> Taken | None:
        """Starts a batch with `Lanes.run`, if there is one to start."""

    def __len__(self) -> int:
        """Images that wait."""


class Lanes:
    """So many batches run at a time; queues that want a lane get one after the other.

    Args:
        count: How many, each with a thread.
        one_device: Whether they share a device that runs one batch at a time (a GPU): the second lane then prepares
            a batch while that of the first one runs. Only a full one, which nothing that arrives meanwhile would join.

    Attributes:
        ended_count: Batches that have come back.
    """

    def __init__(self, count: int, *, one_device: bool = False) -> None:
        self.count, self.one_device = count, one_device
        self._free = count
        self.ended_count = 0
        self._taken: set[Taken] = set()
        self._wanting: deque[Queue] = deque()
        self._threads = Workers(count, name="run")
        self._loop = asyncio.get_running_loop()
        self._is_offering = False

    @property
    def wanting_count(self) -> int:
        """Queues that wait for a lane."""
        return len(self._wanting)

    @property
    def overdue(self) -> bool:
        """Whether a batch takes longer than was expected."""
        return min((each.until for each in self._taken), default=math.inf) < time.monotonic()

    def rest_seconds(self) -> float:
        """How long it will take until a batch can start."""
        return min(self.rests())

    def rests(self) -> list[float]:
        """For each lane, how long it will take until a batch can start on it; lanes of one device wait for all."""
        now = time.monotonic()
        busy = [max(0.0, each.until - now) for each in self._taken for _ in range(each.count)]
        if self.one_device:
            return [max(busy, default=0.0)]
        return busy + [0.0] * self._free

    def want(self, queue: Queue) -> None:
        """Gives `queue` a lane, now or when its turn comes."""
        if queue not in self._wanting:
            self._wanting.append(queue)
        self._offer_soon()

    def forget(self, queue: Queue) -> None:
        """Offers `queue` nothing any more."""
        if queue in self._wanting:
            self._wanting.remove(queue)

    def run(self, work: Callable[..., Any], then: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401  # any work
        """Does `work` on a lane's thread, then `then` on the event loop, as `Workers.do`."""
        self._threads.do(work, then, *arguments)

    def give_back(self, taken: Taken) -> None:
        """Takes back what a batch had that has ended."""
        self._taken.remove(taken)
        self.ended_count += 1
        self._free += taken.count
        self._offer_soon()

    def close(self) -> None:
        """Ends the threads when what they run has ended."""
        self._threads.close()

    def have_ended(self, seconds: float) -> bool:
        """Whether, within so many seconds, all threads have ended; see `Workers.have_ended`."""
        return self._threads.have_ended(seconds)

    def _offer_soon(self) -> None:
        """Offers what is free once the event loop has come to the end of its turn: what arrives in it goes together."""
        if not self._is_offering and self._free and self._wanting:
            self._is_offering = True
            self._loop.call_soon(self._offer)

    def _offer(self) -> None:
        self._is_offering = False
        not_started: list[Queue] = []
        while self._free and self._wanting:
            queue = self._wanting.popleft()
            busy = self._free < self.count
            whole = not busy and not self._wanting and not not_started
            taken = queue.start(Offer(free=self._free, whole=whole, full_only=busy and self.one_device))
            if taken is not None:
                self._taken.add(taken)
                self._free -= taken.count
            if len(queue):
                (not_started if taken is None else self._wanting).append(queue)
        self._wanting.extendleft(reversed(not_started))
