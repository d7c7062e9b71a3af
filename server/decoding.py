"""The threads that decode: calls before streams, callers in turn, and nothing for a caller that has left."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .fair_queue import FairQueue, Waiting
from .places import Ticket


@dataclass(kw_only=True, eq=False)
class _Encoded(Waiting):
    decode: Callable[[], Any]


class Decoding:
    """Decodes for all models; Pillow lets go of the interpreter lock meanwhile.

    Args:
        threads: Images decoded at a time.
    """

    def __init__(self, threads: int) -> None:
        self._free = threads
        self._queue = FairQueue[_Encoded]()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def decoded(self, ticket: Ticket, decode: Callable[[], Any]) -> Any:  # noqa: ANN401  # whatever `decode` gives
        """What `decode` gives, called on a thread when the turn of the ticket's caller comes.

        Raises:
            DeadlineExceeded: The caller's deadline passed first; nothing was decoded.
        """
        image = _Encoded(ticket=ticket, future=asyncio.get_running_loop().create_future(), decode=decode)
        self._queue.put(image)
        self._start()
        return await image.future

    def close(self) -> None:
        """Ends the threads; nothing may be asked any more."""
        self._queue.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        while self._free and len(self._queue):
            for image in self._queue.take(1):
                self._free -= 1
                self._threads.submit(self._decode, image, image.future.get_loop())

    def _decode(self, image: _Encoded, loop: asyncio.AbstractEventLoop) -> None:
        """On a thread."""
        result: Any = None
        failure: BaseException | None = None
        try:
            result = image.decode()
        except BaseException as error:  # noqa: BLE001  # the caller's to judge
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop ended first: nobody waits any more
            loop.call_soon_threadsafe(self._ended, image, result, failure)

    def _ended(self, image: _Encoded, result: Any, failure: BaseException | None) -> None:  # noqa: ANN401  # as above
        self._free += 1
        if image.future.done():
            image.ticket.count_cancelled()
        elif failure is not None:
            image.future.set_exception(failure)
        else:
            image.future.set_result(result)
        self._start()
