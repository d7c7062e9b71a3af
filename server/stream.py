"""One StreamClassify call: reads while there is room, answers out of order, and ends in one of three ways.

The client half-closes: the rest is answered, OK. The server drains: nothing more is read, what was read is answered,
UNAVAILABLE / SHUTTING_DOWN. The client leaves: its images that wait are dropped.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from trapline.errors import RequestInvalid
from trapline.service.errors import shown
from trapline.service.gate import Gate, shutting_down
from trapline.v1 import classify_pb2

from .images import Images, error_result


class Stream:
    """The state of one stream.

    Args:
        images: Classifies one image.
        gate: Tells when to wind down.
        window: Most requests that are read and whose answers are not written yet; past it nothing is read, which
            HTTP/2 flow control turns into a pause of the client.
        caller: Who sends it.
        deadline: When the caller gives up, in `time.monotonic` seconds.
    """

    def __init__(self, images: Images, gate: Gate, *, window: int, caller: str, deadline: float | None) -> None:
        self._images, self._gate, self._caller, self._deadline = images, gate, caller, deadline
        self._slots = asyncio.Semaphore(window)
        self._unanswered: set[str] = set()
        self._tasks: set[asyncio.Task[classify_pb2.ClassifyResult]] = set()
        # Whether the next request is waited for: only there may reading be cut off, or one that came would be lost.
        self._listens = self._is_cut_off = False
        # Each request's mark, its result, and whether the mark is now free again.
        self._outbox: asyncio.Queue[tuple[str, classify_pb2.ClassifyResult, bool] | None] = asyncio.Queue()

    async def serve(
        self,
        requests: AsyncIterator[classify_pb2.StreamClassifyRequest],
        write: Callable[[classify_pb2.StreamClassifyResponse], Awaitable[None]],
    ) -> None:
        """Answers every request that is read, exactly once.

        Raises:
            ShuttingDown: The server drains; what was read has been answered.
            RequestInvalid: A message of the stream was no StreamClassifyRequest; what came before it was answered.
        """
        reader = asyncio.create_task(self._read(requests))
        watcher = asyncio.create_task(self._wind_down(reader))
        try:
            while (entry := await self._outbox.get()) is not None:
                request_id, result, frees = entry
                if frees:
                    # Before the write returns: by then the client may have the answer, and have sent the mark again.
                    self._unanswered.discard(request_id)
                await write(classify_pb2.StreamClassifyResponse(request_id=request_id, result=result))
                self._slots.release()
            if await reader:
                raise shutting_down()
        finally:
            left = [watcher, reader, *self._tasks]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _wind_down(self, reader: "asyncio.Task[bool]") -> None:
        """Cuts the reading off where it waits for a request while the server winds down."""
        await self._gate.winding_down.wait()
        if self._listens:
            self._is_cut_off = True
            reader.cancel()

    async def _read(self, requests: AsyncIterator[classify_pb2.StreamClassifyRequest]) -> bool:
        """Reads until the client half-closes (False) or the server winds down (True), and sees all of it answered."""
        try:
            return await self._take_all(requests)
        except asyncio.CancelledError:
            if not self._is_cut_off:
                raise
            return True
        finally:
            if self._tasks:
                await asyncio.wait(self._tasks)
            self._outbox.put_nowait(None)

    async def _take_all(self, requests: AsyncIterator[classify_pb2.StreamClassifyRequest]) -> bool:
        """Takes one request after the other, until there is none (False) or the server winds down (True)."""
        while True:
            await self._slots.acquire()
            if self._gate.winding_down.is_set():
                return True
            self._listens = True
            try:
                item = await anext(requests, None)
            finally:
                self._listens = False
            if item is None:
                return False
            await self._take(item)

    async def _take(self, item: classify_pb2.StreamClassifyRequest) -> None:
        request_id = item.request_id
        problem = ""
        if not request_id:
            problem = "must not be empty: it is what tells the answers apart"
        elif request_id in self._unanswered:
            problem = f"{shown(request_id)} is that of a request not answered yet; give each its own"
        if problem:
            error = RequestInvalid(f"request_id {problem}", violations={"request_id": problem})
            self._outbox.put_nowait((request_id, error_result(error), False))
            return
        self._unanswered.add(request_id)
        try:
            admitted = await self._images.admit_in_turn(item.request, caller=self._caller, deadline=self._deadline)
        except Exception as error:  # noqa: BLE001  # becomes this image's result
            self._outbox.put_nowait((request_id, error_result(error), True))
            return
        task = self._images.answering(admitted)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(request_id, done))

    def _done(self, request_id: str, task: "asyncio.Task[classify_pb2.ClassifyResult]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._outbox.put_nowait((request_id, task.result(), True))
