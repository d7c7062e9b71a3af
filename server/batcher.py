"""A model's queue: images wait here, and whenever a lane is free it takes what waits as one batch.

There is no timer by default: an idle server answers at once, a busy one fills its batches by itself. A lone image has
the whole device; under load several batches run side by side where warm-up found that faster, and then each lane also
decodes what it runs. `fair_queue` says whose turn it is, `lanes` which model's, `places` who gets in at all.
"""

import asyncio
import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trapline.errors import QueueFull, Refusal, ShuttingDown
from trapline.service.errors import as_refusal

from .batch import Answer, Batch, Outcome, Run, closed, outcome_of, output_invalid
from .decoding import Decode, Decoding, Encoded
from .fair_queue import FairQueue
from .lanes import Lanes, Offer, Taken
from .metrics import Metrics
from .pace import Pace, retry_seconds
from .places import Lane, Places, QueueLimits, Ticket

#: After this many failed batches in a row the device is taken for broken.
BROKEN_AFTER_FAILURES = 3


class Batcher:
    """Runs one version of one model.

    Args:
        run: Runs a batch.
        score_count: Scores that each image must get.
        limits: How much the queue takes.
        pace: How batches run, and how long they take.
        lanes: Where they run, beside those of other models.
        decoding: Who decodes images before they wait for a lane; where absent, the lane that runs an image does.
        model_id: The model's id, for refusals and metrics.
        metrics: Where to count.
        on_broken: Called on the event loop when `broken` changes.
    """

    def __init__(
        self,
        run: Run,
        *,
        score_count: int,
        limits: QueueLimits,
        pace: Pace,
        lanes: Lanes,
        decoding: Decoding | None = None,
        model_id: str,
        metrics: Metrics,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._score_count, self._limits, self.pace, self._lanes = run, score_count, limits, pace, lanes
        self._decoding, self._model_id, self._metrics, self._on_broken = decoding, model_id, metrics, on_broken
        self._counts = metrics.of(model_id)
        self._queue = FairQueue[Encoded]()
        self._batches: set[Batch] = set()
        self._failures = 0
        self._filling: asyncio.TimerHandle | None = None
        # Images that wait for no others any more: they have waited long enough, or were a whole batch.
        self._due = 0
        self._empty = asyncio.Event()
        self._places = Places(limits, model_id=model_id, metrics=metrics, on_release=self._released)
        self._loop = asyncio.get_running_loop()

    @property
    def broken(self) -> bool:
        """Whether the last batches all failed: a CUDA error often breaks the device for the process's life."""
        return self._failures >= BROKEN_AFTER_FAILURES

    @property
    def image_count(self) -> int:
        """Images accepted and not answered yet."""
        return self._places.image_count

    def __len__(self) -> int:
        """Images that wait for a lane."""
        return len(self._queue)

    def wait_seconds(self, caller: str = "") -> float:
        """How much later than from an idle server the answer to a call of `caller` that comes now is expected."""
        ahead = self._places.ahead(caller)
        return self.pace.wait_seconds(
            ahead=ahead, rests=self._lanes.rests(), model_count=max(1, self._lanes.wanting_count)
        )

    def admit(
        self,
        byte_count: int,
        *,
        lane: Lane,
        caller: str = "",
        deadline: float | None = None,
        wait_seconds: float | None = None,
    ) -> Ticket:
        """A place for an image of `byte_count` bytes, at once.

        Args:
            byte_count: Size of the image's file.
            lane: What it came by.
            caller: Who asks; callers take turns.
            deadline: When the caller gives up, in `time.monotonic` seconds.
            wait_seconds: The expected wait, where the caller measured it before (so that a call of many images is
                not refused for the wait that it makes itself).

        Raises:
            QueueFull: No room, or (calls only) a wait beyond the limit; says when to come back.
        """
        # A stream waits for its turn whatever the wait is.
        now = 0.0 if lane is Lane.STREAM else self.wait_seconds(caller)
        expected = now if wait_seconds is None else wait_seconds
        ticket = self._places.admit(
            byte_count,
            lane=lane,
            caller=caller,
            deadline=deadline,
            wait_seconds=expected,
            margin_seconds=self.pace.margin_seconds,
            retry_seconds=retry_seconds(now),
        )
        if wait_seconds is not None:
            ticket.wait_seconds = 0.0  # the others of its call go before it, too: it tells nothing of expectations
        return ticket

    def refusal(self, caller: str) -> QueueFull | None:
        """What `admit` would raise for a call of `caller` whatever image it has; None where it might not."""
        wait = self.wait_seconds(caller)
        return self._places.refusal(
            0,
            lane=Lane.CALL,
            caller=caller,
            wait_seconds=wait,
            margin_seconds=self.pace.margin_seconds,
            retry_seconds=retry_seconds(wait),
        )

    async def room(self) -> None:
        """Waits until an image has left the queue; its place may be gone again by then."""
        await self._places.room()

    async def classify(self, ticket: Ticket, decode: Decode) -> Answer:
        """The scores of one image that `ticket` was given for.

        Args:
            ticket: Its place.
            decode: Gives the image, uint8 [height_px, width_px, 3]; called on a thread, at most once.

        Raises:
            DeadlineExceeded: The caller's deadline passed first; the image was not run.
            ModelOutputInvalid: The scores are not finite, or not one for each label.
            InternalError: The runtime failed; the images of other batches are not hurt.
            Exception: Whatever `decode` raises.
        """
        ticket.check_deadline()
        image = Encoded(ticket=ticket, future=None, decode=decode)
        try:
            if self._decoding is not None:
                await self._decoding.decoded(image)
                self._note_decoded(image)
                ticket.check_deadline()
            return await self._answer(image)
        except asyncio.CancelledError:
            # It stays in its queue until its turn comes, and its file, which has no place any more, does not.
            image.let_go_of_file()
            raise

    def _answer(self, image: Encoded) -> "asyncio.Future[Answer]":
        future = image.future = self._loop.create_future()
        self._queue.put(image)
        if self._limits.max_delay_seconds and self._filling is None:
            self._fill()
        self._lanes.want(self)
        return future

    async def close(self) -> None:
        """Answers what was accepted, and lets what runs end. Nothing may be admitted any more."""
        while self.image_count or self._batches:
            self._empty.clear()
            await self._empty.wait()
        self._lanes.forget(self)
        for image in self._queue.clear():  # nobody waits for these any more
            image.ticket.count_cancelled()
        # This and its places refer to each other: the model's memory would wait for the garbage collector, which a
        # server that only answers calls hardly ever needs.
        self._run = closed

    def abort(self) -> None:
        """Ends at once: what waits is refused with ShuttingDown, and what runs is not answered."""
        self._lanes.forget(self)
        if self._filling is not None:
            self._filling.cancel()
        for image in (*self._queue.clear(), *(image for batch in self._batches for image in batch.images)):
            image.fail(ShuttingDown("the server stops; ask another one"))

    def start(self, offer: Offer) -> Taken | None:
        """Starts the next batch, if there is one to start; `Lanes` calls it."""
        if len(self._queue) >= self._limits.max_batch:
            self._due = max(self._due, self._limits.max_batch)
        elif offer.full_only or (self._filling is not None and not self._due):
            return None
        if self._filling is not None:
            self._filling.cancel()
            self._filling = None
        arrangement = self.pace.arrangement
        alone = arrangement.shared is None or (offer.whole and self.image_count == 1)
        size = self._limits.max_batch
        if not alone:
            size = min(self.pace.share(self.image_count), math.ceil(len(self._queue) / offer.free))
        images = self._queue.take(size)
        self._due = min(max(0, self._due - len(images)), len(self._queue))
        if len(self._queue) and self._limits.max_delay_seconds and not self._due:
            self._fill()
        if not images:
            return None
        for image in images:
            image.ticket.start()
        # Alone it uses every processor; a device that runs one batch at a time has a lane for the next.
        count = offer.free if alone and not self._lanes.one_device else 1
        ready = time.monotonic() + self._lanes.rest_seconds()
        taken = Taken(count=count, until=ready + self.pace.batch_seconds(len(images), alone=alone))
        batch = Batch(images=images, alone=alone, taken=taken)
        self._batches.add(batch)
        self._lanes.run(self._running, self._ended, batch)
        return taken

    def _fill(self) -> None:
        """Has a batch that is not full wait for more images."""
        self._filling = self._loop.call_later(self._limits.max_delay_seconds, self._filled)

    def _filled(self) -> None:
        self._filling, self._due = None, len(self._queue)
        self._lanes.want(self)

    def _running(self, batch: Batch) -> Outcome:
        return outcome_of(batch, self._run, score_count=self._score_count, model_id=self._model_id)

    def _ended(self, outcome: Outcome, batch: Batch) -> None:
        self._batches.remove(batch)
        if self._decoding is None:
            for image in batch.images:
                self._note_decoded(image)
        for image in set(batch.images).difference(outcome.images):
            image.leave_out()
        if outcome.error is not None:
            self._note_failure(failed=not isinstance(outcome.error, Refusal))
            refusal = as_refusal(outcome.error)
            for image in outcome.images:
                image.fail(refusal)
        elif outcome.scores is not None:
            self._note_failure(failed=False)
            self.pace.observe_batch(len(outcome.images), outcome.seconds, alone=batch.alone)
            self._counts.inference_seconds.observe(outcome.seconds)
            self._counts.batch_images.observe(len(outcome.images))
            for image, row, is_finite in zip(outcome.images, outcome.scores, outcome.finite, strict=True):
                if is_finite:
                    self._hand_back(image, row, outcome)
                else:
                    image.fail(output_invalid(self._model_id, "scores that are not finite"))
        self._lanes.give_back(batch.taken)
        self._released()

    def _note_decoded(self, image: Encoded) -> None:
        if image.pixels is not None:
            self.pace.observe_decode(image.seconds)
            self._counts.preprocess_seconds.observe(image.seconds)

    def _hand_back(self, image: Encoded, row: NDArray[np.float32], outcome: Outcome) -> None:
        queued = max(0.0, outcome.began - image.ticket.admitted_at - image.seconds)
        self._counts.queue_seconds.observe(queued)
        idle = image.seconds + self.pace.arrangement.alone.one_seconds
        waited = time.monotonic() - image.ticket.admitted_at - idle
        self.pace.observe_wait(waited, expected=image.ticket.wait_seconds)
        image.ticket.count_run(wanted=not image.is_told)
        image.tell(
            Answer(
                scores=row,
                preprocess_seconds=image.seconds,
                queue_seconds=queued,
                inference_seconds=outcome.seconds,
                batch_image_count=len(outcome.images),
            )
        )

    def _released(self) -> None:
        if not self.image_count and not self._batches:
            self._empty.set()

    def _note_failure(self, *, failed: bool) -> None:
        was_broken = self.broken
        self._failures = self._failures + 1 if failed else 0
        if failed:
            self._metrics.batch_failures.labels(self._model_id).inc()
        if self.broken != was_broken:
            self._on_broken()
