"""A model's queue: images wait here, and whenever the device is free it takes what waits as one batch.

There is no timer by default: an idle server answers at once, a busy one fills its batches by itself. Calls go first
into a batch, but a quarter of it is kept for streams that wait; `places` says who gets in at all.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trapline.errors import DeadlineExceeded, ModelOutputInvalid, Refusal, ShuttingDown

from .errors import as_refusal
from .metrics import Metrics
from .pace import Pace
from .places import Lane, Places, QueueLimits, Ticket

#: After this many failed batches in a row the device is taken for broken.
BROKEN_AFTER_FAILURES = 3


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One image's scores, float32 [labels], and where its time went."""

    scores: NDArray[np.float32]
    queue_seconds: float
    inference_seconds: float
    batch_image_count: int


@dataclass(kw_only=True, eq=False)
class _Waiting:
    pixels: NDArray[np.uint8]
    ticket: Ticket
    preprocess_seconds: float
    future: "asyncio.Future[Answer]"
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs one version of one model, a batch at a time, on a thread of its own.

    Args:
        run: uint8 [N, height_px, width_px, 3] -> float32 [N, label_count]; called from one thread only.
        label_count: Scores that each image must get.
        limits: How much the queue takes.
        pace: How long batches take.
        model_id: The model's id, for refusals and metrics.
        metrics: Where to count.
        on_broken: Called on the event loop when `broken` changes.
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
        *,
        label_count: int,
        limits: QueueLimits,
        pace: Pace,
        model_id: str,
        metrics: Metrics,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._label_count, self._limits, self.pace = run, label_count, limits, pace
        self._model_id, self._metrics, self._on_broken = model_id, metrics, on_broken
        self._queues: dict[Lane, deque[_Waiting]] = {lane: deque() for lane in Lane}
        self._running: Sequence[_Waiting] = ()
        self._run_began = 0.0
        self._turn = 0
        self._failures = 0
        self._closing = False
        self._arrived = asyncio.Event()
        # A place that is given back may be the last one that a closing queue waits for.
        self._places = Places(limits, model_id=model_id, metrics=metrics, on_release=self._arrived.set)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"run-{model_id}")
        self._loop_task = asyncio.create_task(self._serve(), name=f"batcher-{model_id}")

    @property
    def broken(self) -> bool:
        """Whether the last batches all failed: a CUDA error often breaks the device for the process's life."""
        return self._failures >= BROKEN_AFTER_FAILURES

    @property
    def image_count(self) -> int:
        """Images accepted and not answered yet."""
        return self._places.image_count

    def wait_seconds(self) -> float:
        """How long a call that comes now is expected to wait for its batch to start."""
        running_calls = sum(item.ticket.lane is Lane.CALL for item in self._running)
        waiting: float = self._places.images[Lane.CALL] - running_calls
        if self._queues[Lane.STREAM]:
            waiting *= 4 / 3  # the share of each batch that streams get
        elapsed = time.monotonic() - self._run_began
        return self.pace.wait_seconds(waiting=waiting, running=len(self._running), elapsed_seconds=elapsed)

    def admit(
        self, byte_count: int, *, lane: Lane, deadline: float | None = None, wait_seconds: float | None = None
    ) -> Ticket:
        """A place for an image of `byte_count` bytes, at once.

        Args:
            byte_count: Size of the image's file.
            lane: Who asks.
            deadline: When the caller gives up, in `time.monotonic` seconds.
            wait_seconds: The expected wait, where the caller measured it before (so that a call of many images is
                not refused for the wait that it makes itself).

        Raises:
            QueueFull: No room, or (calls only) a wait beyond the limit; says when to come back.
        """
        now = self.wait_seconds()
        expected = 0.0 if lane is Lane.STREAM else now if wait_seconds is None else wait_seconds
        retry_seconds = min(5.0, max(0.05, now / 2))
        return self._places.admit(
            byte_count, lane=lane, deadline=deadline, wait_seconds=expected, retry_seconds=retry_seconds
        )

    async def room(self) -> None:
        """Waits until an image has left the queue; its place may be gone again by then."""
        await self._places.room()

    async def classify(self, ticket: Ticket, pixels: NDArray[np.uint8], *, preprocess_seconds: float = 0.0) -> Answer:
        """The scores of one image, uint8 [height_px, width_px, 3], that `ticket` was given for.

        Raises:
            DeadlineExceeded: The caller's deadline passed first; the image was not run.
            ModelOutputInvalid: The scores are not finite, or not one for each label.
            InternalError: The runtime failed; the images of other batches are not hurt.
        """
        ticket.check_deadline()
        item = _Waiting(
            pixels=pixels,
            ticket=ticket,
            preprocess_seconds=preprocess_seconds,
            future=asyncio.get_running_loop().create_future(),
        )
        self._queues[ticket.lane].append(item)
        self._arrived.set()
        return await item.future

    async def close(self) -> None:
        """Answers what was accepted, then ends the thread. Nothing may be admitted any more."""
        self._closing = True
        self._arrived.set()
        await self._loop_task
        self._thread.shutdown(wait=False)

    def abort(self) -> None:
        """Ends at once: what waits is refused with ShuttingDown, and what runs is not answered."""
        self._loop_task.cancel()
        for item in (*self._running, *self._queues[Lane.CALL], *self._queues[Lane.STREAM]):
            _fail(item, ShuttingDown("the server stops; ask another one"))
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        while not (self._closing and self.image_count == 0):
            await self._arrived.wait()
            self._arrived.clear()
            while any(self._queues.values()):
                await self._fill()
                batch = self._take()
                if batch:
                    await self._answer(batch)

    async def _fill(self) -> None:
        """Waits up to `max_delay_seconds`, counted from the first image's arrival, for a full batch."""
        while self._limits.max_delay_seconds:
            waiting = [item for queue in self._queues.values() for item in queue if not item.future.done()]
            if not waiting or len(waiting) >= self._limits.max_batch:
                return
            left = min(item.since for item in waiting) + self._limits.max_delay_seconds - time.monotonic()
            try:
                await asyncio.wait_for(self._arrived.wait(), max(0.0, left))
            except TimeoutError:
                return
            self._arrived.clear()

    def _take(self) -> list[_Waiting]:
        """The next batch: calls first, a quarter for streams that wait; who left or is late is left out."""
        self._turn += 1
        size = self._limits.max_batch
        kept = size // 4 or int(self._turn % 4 == 0)
        batch = self._pick(Lane.STREAM, kept)
        batch += self._pick(Lane.CALL, size - len(batch))
        return batch + self._pick(Lane.STREAM, size - len(batch))

    def _pick(self, lane: Lane, count: int) -> list[_Waiting]:
        queue, picked = self._queues[lane], list[_Waiting]()
        while queue and len(picked) < count:
            item = queue.popleft()
            if item.future.done():
                item.ticket.count_cancelled()
                continue
            try:
                item.ticket.check_deadline()
            except DeadlineExceeded as late:
                _fail(item, late)
                continue
            picked.append(item)
        return picked

    async def _answer(self, batch: list[_Waiting]) -> None:
        self._running, self._run_began = batch, time.monotonic()
        try:
            work = asyncio.get_running_loop().run_in_executor(self._thread, self._run_batch, batch)
            scores, seconds = await work
        except Exception as error:  # noqa: BLE001  # whatever the runtime raises fails this batch and no other
            self._note_failure(failed=not isinstance(error, Refusal))
            refusal = as_refusal(error)
            for item in batch:
                _fail(item, refusal)
            return
        finally:
            self._running = ()
        self._note_failure(failed=False)
        self.pace.observe_batch(len(batch), seconds)
        self._metrics.inference_seconds.labels(self._model_id).observe(seconds)
        self._metrics.batch_images.labels(self._model_id).observe(len(batch))
        finite = [bool(np.isfinite(row).all()) for row in scores]
        for item, row, is_finite in zip(batch, scores, finite, strict=True):
            if is_finite:
                self._hand_back(item, row, seconds, len(batch))
            else:
                _fail(item, self._output_invalid("scores that are not finite"))

    def _run_batch(self, batch: Sequence[_Waiting]) -> tuple[NDArray[np.float32], float]:
        """On the thread: scores [len(batch), label_count] and the seconds that they took."""
        pixels = np.stack([item.pixels for item in batch])
        began = time.perf_counter()
        scores = self._run(pixels)
        seconds = time.perf_counter() - began
        if scores.shape != (len(batch), self._label_count):
            raise self._output_invalid(f"scores of shape {list(scores.shape)}")
        return scores, seconds

    def _hand_back(self, item: _Waiting, row: NDArray[np.float32], seconds: float, image_count: int) -> None:
        queued = max(0.0, self._run_began - item.ticket.admitted_at - item.preprocess_seconds)
        self._metrics.queue_seconds.labels(self._model_id).observe(queued)
        item.ticket.count_run(wanted=not item.future.done())
        if not item.future.done():
            item.future.set_result(
                Answer(scores=row, queue_seconds=queued, inference_seconds=seconds, batch_image_count=image_count)
            )

    def _note_failure(self, *, failed: bool) -> None:
        was_broken = self.broken
        self._failures = self._failures + 1 if failed else 0
        if failed:
            self._metrics.batch_failures.labels(self._model_id).inc()
        if self.broken != was_broken:
            self._on_broken()

    def _output_invalid(self, what: str) -> ModelOutputInvalid:
        return ModelOutputInvalid(
            f"models/{self._model_id} gave {what} for this image; export the model again",
            model=f"models/{self._model_id}",
        )


def _fail(item: _Waiting, refusal: Refusal) -> None:
    if not item.future.done():
        item.future.set_exception(refusal)
