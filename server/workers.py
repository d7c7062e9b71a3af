"""Threads that work for the event loop, and hand what came of it back to it."""

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

# Threads of the same process that compute yield to the one that answers, and refuses, by this much.
_NICE = 10


class Workers:
    """A fixed number of threads, started with the first work; to be made, and given it, on the event loop's own.

    `ThreadPoolExecutor` makes a future with a lock for each piece of work and wakes the loop for each result; this is
    several times cheaper, and wakes the loop once for all results that it has not seen yet.

    Args:
        count: How many.
        name: What they are called.
    """

    def __init__(self, count: int, *, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[tuple[Callable[..., Any], Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
        self._results = deque[tuple[Callable[..., None], Any, tuple[Any, ...]]]()
        self._is_woken = False
        self._count, self._name = count, name
        self._threads: list[threading.Thread] = []

    def do(self, work: Callable[..., Any], then: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401  # any work
        """Calls `work(*arguments)` on a thread, then `then(result, *arguments)` on the event loop.

        `work` must not raise.
        """
        self._work.put((work, then, arguments))
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._serve, name=f"{self._name}-{number}") for number in range(self._count)
            ]
            for thread in self._threads:
                thread.start()

    def close(self) -> None:
        """Ends the threads when what they do has ended; without it the process never ends.

        What has not begun is not done.
        """
        with contextlib.suppress(Empty):
            while True:
                self._work.get_nowait()
        for _ in self._threads:
            self._work.put(None)

    def have_ended(self, seconds: float) -> bool:
        """Whether, within so many seconds, all threads have ended; blocks meanwhile. To be called after `close`."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # only Linux has a nice value for each thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
        while (item := self._work.get()) is not None:
            work, then, arguments = item
            self._results.append((then, work(*arguments), arguments))
            del item, work, then, arguments  # or they would live until the next
            if not self._is_woken:
                self._is_woken = True
                with contextlib.suppress(RuntimeError):  # the loop ended first: nobody waits any more
                    self._loop.call_soon_threadsafe(self._hand_back)

    def _hand_back(self) -> None:
        # First, so that a result that comes meanwhile wakes the loop again.
        self._is_woken = False
        while self._results:
            then, result, arguments = self._results.popleft()
            then(result, *arguments)
