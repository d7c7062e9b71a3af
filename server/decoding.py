"""The threads that decode: calls before streams, callers in turn, and nothing for a caller that has left."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .fair_queue import FairQueue, Waiting, is_wanted
from .places import Ticket
from .workers import Workers


@dataclass(kw_only=True, eq=False)
class _Encoded(Waiting):
    decode: Callable[[], Any]


# Images handed to each thread, that which it decodes among them: with the next one at hand it need not be woken.
_AT_HAND = 2
_SKIPPED = object()


class Decoding:
    """Decodes for all models; Pillow lets go of the interpreter lock meanwhile.

    Args:
        threads: Images decoded at a time.
    """

    def __init__(self, threads: int) -> None:
        self._free = threads * _AT_HAND
        self._queue = FairQueue[_Encoded]()
        self._threads = Workers(threads, name="decode")

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
        self._threads.close()

    def _start(self) -> None:
        while self._free and len(self._queue):
            for image in self._queue.take(1):
                self._free -= 1
                self._threads.do(_decoded, self._ended, image)

    def _ended(self, outcome: Any, image: _Encoded) -> None:  # noqa: ANN401  # whatever `decode` gives
        self._free += 1
        if outcome is _SKIPPED:
            is_wanted(image)  # counts it
        elif image.future.done():
            image.ticket.count_cancelled()
        elif isinstance(outcome, BaseException):
            image.future.set_exception(outcome)
        else:
            image.future.set_result(outcome)
        self._start()


def _decoded(image: _Encoded) -> Any:  # noqa: ANN401  # as above
    """What its `decode` gives, or raises; on a thread. Nothing is decoded for who left since it was handed over."""
    if image.future.done() or image.ticket.is_late():
        return _SKIPPED
    try:
        return image.decode()
    except BaseException as error:  # noqa: BLE001  # the caller's to judge
        return error
