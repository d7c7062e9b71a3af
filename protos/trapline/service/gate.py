"""What a program still takes, and what it has under way: the drain's two steps and the count that it waits for."""

import asyncio
from types import TracebackType
from typing import Self

from trapline.errors import ShuttingDown


class Gate:
    """The door that calls come in by; `with gate:` around a call counts it.

    Attributes:
        winding_down: Set first: streams read no more and new ones are refused, single calls are still taken.
    """

    def __init__(self) -> None:
        self.winding_down = asyncio.Event()
        self._closed = False
        self._call_count = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def call_count(self) -> int:
        """Calls under way."""
        return self._call_count

    def close(self) -> None:
        """Takes no call any more."""
        self.winding_down.set()
        self._closed = True

    def check(self, *, streaming: bool) -> None:
        """Lets a new call in.

        Raises:
            ShuttingDown: The program drains.
        """
        if self._closed or (streaming and self.winding_down.is_set()):
            raise shutting_down()

    async def empty(self) -> None:
        """Waits until no call is under way."""
        await self._empty.wait()

    def __enter__(self) -> Self:
        self._call_count += 1
        self._empty.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call_count -= 1
        if self._call_count == 0:
            self._empty.set()


def shutting_down() -> ShuttingDown:
    """The refusal of a program that drains."""
    return ShuttingDown("the server is about to stop and takes nothing new; ask another one, or this one again later")
