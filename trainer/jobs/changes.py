"""Wakes those who wait for a job to change."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Changes:
    """Who waits for which job. A watcher is one flag, so that a slow one holds up nothing and keeps nothing."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[asyncio.Event]] = {}

    def tell(self, job_id: str) -> None:
        """Wakes everyone who watches this job; to be called on the event loop."""
        for woken in self._watchers.get(job_id, ()):
            woken.set()

    @contextmanager
    def watching(self, job_id: str) -> Iterator[asyncio.Event]:
        """A flag that is set whenever the job has changed.

        Clear it, then read the store, then wait for it: nothing that came in between is missed.
        """
        woken = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(woken)
        try:
            yield woken
        finally:
            watchers = self._watchers[job_id]
            watchers.discard(woken)
            if not watchers:
                del self._watchers[job_id]
