"""Decoding: an image that is still a file, and the threads that decode where the lanes do not do it themselves."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .fair_queue import FairQueue, Waiting, is_wanted
from .workers import Workers

#: Gives an image's pixels, uint8 [height_px, width_px, 3].
Decode: TypeAlias = Callable[[], NDArray[np.uint8]]
# Images handed to each thread, that which it decodes among them: with the next one at hand it need not be woken.
_AT_HAND = 2


@dataclass(kw_only=True, eq=False)
class Encoded(Waiting):
    """An image that waits, decoded or not.

    Attributes:
        decode: Gives the pixels.
        pixels: They, once there are any.
        seconds: How long decoding took.
        problem: Why there will be none.
    """

    decode: Decode
    pixels: NDArray[np.uint8] | None = None
    seconds: float = 0.0
    problem: BaseException | None = None

    def is_awaited(self) -> bool:
        """Whether its caller still waits; on any thread, and nothing is counted."""
        return not self.is_told and not self.ticket.is_late()

    def make_ready(self) -> bool:
        """Decodes it where somebody still waits and it is not yet; gives whether there are pixels. On a thread."""
        if self.pixels is None and self.is_awaited():
            began = time.perf_counter()
            try:
                self.pixels = self.decode()
            except BaseException as error:  # noqa: BLE001  # the caller's to judge
                self.problem = error
            self.seconds = time.perf_counter() - began
        return self.pixels is not None

    def let_go_of_file(self) -> None:
        """Keeps the file no longer: nobody waits for the image any more, so it is not decoded."""
        self.decode = _left

    def leave_out(self) -> None:
        """Ends its wait without a run: tells its caller why, and counts it where nobody waits any more."""
        problem, self.problem = self.problem, None  # whose traceback refers to this image
        if problem is None:
            is_wanted(self)  # tells who was late
        elif self.is_told:
            self.ticket.count_cancelled()
        else:
            self.fail(problem)


def _left() -> NDArray[np.uint8]:
    raise AssertionError("what nobody waits for is not decoded")


class Decoding:
    """Decodes for several models; Pillow lets go of the interpreter lock meanwhile.

    Calls go before streams, callers take turns, and nothing is decoded for a caller that has left.

    Args:
        threads: Images decoded at a time.
    """

    def __init__(self, threads: int) -> None:
        self._free = threads * _AT_HAND
        self._queue = FairQueue[Encoded]()
        self._threads = Workers(threads, name="decode")

    def decoded(self, image: Encoded) -> "asyncio.Future[None]":
        """Has `image` decoded on a thread, when the turn of its caller comes.

        What it gives raises DeadlineExceeded where the caller's deadline passed first, and whatever decoding raises.
        """
        future = image.future = asyncio.get_running_loop().create_future()
        self._queue.put(image)
        self._start()
        return future

    def close(self) -> None:
        """Ends the threads; nothing may be asked any more."""
        self._queue.clear()
        self._threads.close()

    def have_ended(self, seconds: float) -> bool:
        """Whether, within so many seconds, all threads have ended; see `Workers.have_ended`."""
        return self._threads.have_ended(seconds)

    def _start(self) -> None:
        while self._free and len(self._queue):
            for image in self._queue.take(1):
                self._free -= 1
                self._threads.do(Encoded.make_ready, self._ended, image)

    def _ended(self, _is_ready: bool, image: Encoded) -> None:  # as `Workers` gives it
        self._free += 1
        if image.pixels is None:
            image.leave_out()
        elif image.is_told:
            image.ticket.count_cancelled()
        else:
            image.tell(None)
        self._start()
