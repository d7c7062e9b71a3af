"""Looks into the repository, on a thread that nobody has to wait for.

Models may lie on network storage. Where its server is away a look hangs for as long as that lasts: meanwhile calls and
health are answered as ever, and the process can end.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from .repository import Found, Repository

_Seen = TypeVar("_Seen")


class Looks:
    """A repository as the event loop sees it; one look goes after another.

    Args:
        repository: What to look into.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._wanted: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # Of its own and a daemon: the end of the process waits for the threads of every pool.
        threading.Thread(target=self._work, name="repository", daemon=True).start()

    async def model_ids(self) -> list[str]:
        """Ids of the models' folders, sorted."""
        return await self._look(self._repository.model_ids)

    async def model(self, model_id: str) -> Found:
        """What there is of one model."""
        return await self._look(lambda: self._repository.look(model_id))

    async def pin(self, model_id: str, version: int | None) -> bool:
        """Pins a model to a version, or takes the pin away; whether it could be written down."""
        return await self._look(lambda: self._repository.pin(model_id, version))

    def close(self) -> None:
        """Ends the thread after the look that is under way, if that ever ends."""
        self._wanted.put(None)

    async def _look(self, look: Callable[[], _Seen]) -> _Seen:
        seen = Future[_Seen]()

        def work() -> None:
            if not seen.set_running_or_notify_cancel():
                return  # who asked has left
            try:
                seen.set_result(look())
            except BaseException as error:  # noqa: BLE001  # raised where it is waited for
                seen.set_exception(error)

        self._wanted.put(work)
        return await asyncio.wrap_future(seen)

    def _work(self) -> None:
        while (work := self._wanted.get()) is not None:
            work()
