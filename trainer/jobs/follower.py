"""One running job: its process is started, followed and, where it dies, started again, until the job has ended."""

import asyncio
import errno
import logging
import math
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from google.rpc import status_pb2

from trainer.errors import TrainerError
from trainer.run_folder import write_json
from trapline.errors import to_status
from trapline.train_errors import TrainCapacity, TrainRunFailed

from . import process
from .devices import Device
from .events import Outcome, fill, read
from .folders import EVENTS, LOCK, ORDER, job_folder
from .job import Job, name
from .process import Child
from .setting import Setting
from .store import Store

_LOG = logging.getLogger(__name__)
_ROOM_SECONDS = 10.0
# What starting a process fails with for want of descriptors, processes, memory or disk: that of the machine, not of it.
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT)
_RETRY_SECONDS = 1.0
# How long a service that stops waits for a process that it has killed.
_LEAVING_SECONDS = 2.0

Value = TypeVar("Value")


class Follower:
    """Follows one running job.

    Attributes:
        job_id: The job.
        device: What the job has for itself.
    """

    def __init__(self, store: Store, job: Job, device: Device, *, setting: Setting, starts: bool = True) -> None:
        """A follower of the job.

        Args:
            store: The jobs.
            job: The job.
            device: What it has for itself.
            setting: How jobs are run.
            starts: Whether processes may be started on the device; else it is only held by one that lives.
        """
        self.job_id, self.device = job.id, device
        self._store, self._job, self._setting, self._starts = store, job, setting, starts
        self._child: Child | None = None
        self._folder = job_folder(setting.runs_root, job.id)
        self._woken = asyncio.Event()
        self._cancelled, self._draining, self._overtime = job.cancel_time is not None, False, False
        self._kill_time: float | None = None
        # Since when the child's time is not counted yet, on the clock that neither steps nor goes on in a sleep.
        self._uncounted: float | None = None
        self._how = ""
        # Whether the last start that was counted is to be taken back: the service ended it, or it never came about.
        self._spared = False

    def cancel(self) -> None:
        """Ends the job's process, and then the job as cancelled."""
        self._cancelled = True
        self._woken.set()

    def drain(self, seconds: float) -> None:
        """Ends the job's process, within so many seconds, and leaves the job to go on later."""
        self._draining = True
        self._kill_time = min(self._kill_time or math.inf, time.monotonic() + seconds)
        self._woken.set()

    def adopt(self) -> bool:
        """Whether something of the job lives, which an earlier service has started: `follow` watches it or ends it."""
        try:
            self._child = process.adopted(self._folder, self._woken.set)
        except OSError as error:
            _LOG.warning("the process of %s cannot be followed: %s", name(self.job_id), error)
        return self._child is not None or process.held(self._folder / LOCK)

    async def follow(self, *, first: bool = False) -> bool:
        """Whether there is nothing more to do: the job has ended, or the service is to stop.

        Args:
            first: The job was given its first attempt just now.
        """
        self._spared = first
        gone = await self._attend()
        while gone and not await self._concluded(attempted=not first):
            if not self._starts:
                return False
            self._child = await self._launched(again=not first)
            gone = await self._attend()
            first = False
        if not gone:
            _LOG.warning("%s has a process that cannot be ended; the next service waits for it", name(self.job_id))
        return True

    async def _attend(self) -> bool:
        """Takes what the child tells until it has ended, and ends it where it must; gives whether nothing of it lives.

        Only where the service is to stop, something may live that has not ended by being killed.
        """
        child, self._child, asked = self._child, None, False
        if child is not None:
            self._uncounted = time.monotonic() - max(0.0, time.time() - self._job.counted_time)
        while child is not None and not child.ended and not self._leaving():
            self._woken.clear()
            outcome = await self._took()
            self._overtime = self._overtime or self._over_time()
            self._spared = self._spared or self._draining
            if outcome is not None or self._stopping or self._overtime:
                self._kill_time = self._kill_time or time.monotonic() + self._setting.grace_seconds
                if not asked and outcome is None:
                    child.terminate()
                    asked = True
                elif time.monotonic() >= self._kill_time:
                    child.kill()
            child.bound_log()
            if not child.ended:
                await self._wait(self._setting.poll_seconds)
        if child is not None:
            await self._took()
            self._how, self._uncounted = child.buried(), None
        return await process.end_holders(self._folder / LOCK, self._leaving)

    async def _concluded(self, *, attempted: bool) -> bool:
        """Ends the job where it is at its end, now that it has no process; gives whether there is nothing more to do.

        Args:
            attempted: Whether its last attempt has had a process.
        """
        outcome = await self._kept(self._taken)
        if outcome is not None:
            await self._kept(lambda: self._told(outcome))
        elif self._cancelled:
            await self._kept(lambda: self._store.cancelled(self._job.id))
        elif self._overtime:
            hours = (self._setting.max_seconds or 0) / 3600
            await self._fail(f"it was at work for {hours:g} hours, the most that this service gives a job")
        elif self._draining:
            if self._spared:
                await self._kept(lambda: self._store.released(self._job.id))
        elif attempted and self._job.attempts_in_vain >= self._setting.attempts:
            how = f", the last time {self._how}" if self._how else ""
            await self._fail(
                f"its process ended {self._job.attempts_in_vain} times in a row without coming further{how}; the "
                "operator finds what it said last in the job's child.log"
            )
        else:
            return False
        return True

    async def _launched(self, *, again: bool) -> Child | None:
        """A new child, once there is room for it; None where there is to be none after all, or it did not start."""
        if again:
            await self._pause(self._setting.restart_seconds * self._job.attempts_in_vain)
        waited = False
        while not self._stopping:
            if self._setting.short_of_disk():
                _LOG.warning("%s waits: the disk of %s is nearly full", name(self._job.id), self._setting.runs_root)
            else:
                if again:
                    await self._count_attempt()
                elif waited:
                    self._job = await self._kept(lambda: self._store.still_to_start(self._job.id))
                again, self._spared = False, True
                try:
                    # In a thread, which is waited for in any case: it ends with a child that is known.
                    started = await asyncio.to_thread(self._start)
                    child = Child(self._folder, started.pid, self._woken.set, started)
                    self._spared = False
                    return child
                except (OSError, TrainerError) as error:
                    _LOG.warning("the process of %s cannot be started: %s", name(self._job.id), error)
                    cause = error if isinstance(error, OSError) else error.__cause__  # of a file that was not written
                    if getattr(cause, "errno", None) not in _NO_ROOM:
                        self._how, self._spared = "it could not be started", False
                        return None  # where it was and cannot be followed, it is ended as what a child leaves behind
                if not await process.end_holders(self._folder / LOCK, self._leaving):
                    return None
            waited = True
            await self._pause(_ROOM_SECONDS)
        return None

    async def _count_attempt(self) -> None:
        how = f" ({self._how})" if self._how else ""
        sentence = f"the process of this job ended{how} and is started again, from its last checkpoint"
        if not self._job.device:
            sentence = "the service was stopped and started; this job goes on from its last checkpoint, if it has one"
        self._job = await self._kept(lambda: self._store.attempt(self._job.id, self.device.name, sentence))

    def _start(self) -> "subprocess.Popen[bytes]":
        self._folder.mkdir(exist_ok=True)
        order = {
            "options": self._job.options,
            "hidden": [str(path) for path in self._setting.hidden],
            "processors": self.device.processors,
            "last_attempt": self._job.attempts_in_vain >= self._setting.attempts,
        }
        write_json(self._folder / ORDER, order)
        fill(self._folder / EVENTS, self._job.offset)
        return process.start(self._folder, self._setting.program, self.device.environment)

    async def _took(self) -> Outcome | None:
        """Takes what the child has told; what cannot be kept now is taken later."""
        try:
            return await self._taken()
        except (TrainerError, TrainCapacity, OSError) as error:
            _LOG.warning("what %s tells cannot be kept now: %s", name(self._job.id), error)
            return None

    async def _taken(self) -> Outcome | None:
        """Moves all that the child has told into the store; gives what it ended with, where it told that."""
        while True:
            told = read(self._folder / EVENTS, self._job.offset)
            if told.offset > self._job.offset:
                now = time.monotonic()
                self._job = await self._store.append(self._job.id, told.events, told.offset, self._seconds_until(now))
                self._uncounted = now if self._uncounted is not None else None
            elif told.outcome is None:
                return None
            if told.outcome is not None:
                return told.outcome

    async def _told(self, outcome: Outcome) -> Job:
        if outcome.failure is not None:
            return await self._store.failed(self._job.id, _status(self._job, outcome.failure))
        return await self._store.succeeded(self._job.id, outcome.result, outcome.evaluation, outcome.publication)

    async def _fail(self, sentence: str) -> None:
        await self._kept(lambda: self._store.failed(self._job.id, _status(self._job, sentence)))

    async def _kept(self, change: Callable[[], Awaitable[Value]]) -> Value:
        """What a change of the store gives; where the disk is full it is tried until there is room."""
        while True:
            try:
                return await change()
            except (TrainerError, TrainCapacity, OSError) as error:
                if self._draining:
                    raise  # the next service does it
                _LOG.warning("how %s stands cannot be kept now: %s", name(self._job.id), error)
                await asyncio.sleep(_RETRY_SECONDS)

    @property
    def _stopping(self) -> bool:
        return self._cancelled or self._draining

    def _leaving(self) -> bool:
        """Whether the service stops, and what was killed for it has had its time to end."""
        return self._draining and time.monotonic() >= (self._kill_time or 0.0) + _LEAVING_SECONDS

    def _over_time(self) -> bool:
        longest, seconds = self._setting.max_seconds, self._seconds_until(time.monotonic()) or 0.0
        return longest is not None and self._job.run_seconds + seconds > longest

    def _seconds_until(self, now: float) -> float | None:
        """How long the child was at work that is not counted yet; None where it is not watched."""
        return None if self._uncounted is None else now - self._uncounted

    async def _wait(self, seconds: float) -> None:
        """Waits for so long, or until something has happened."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def _pause(self, seconds: float) -> None:
        """Waits for so long, but not where the job is to stop."""
        self._woken.clear()
        if not self._stopping:
            await self._wait(seconds)


def _status(job: Job, sentence: str) -> status_pb2.Status:
    return to_status(TrainRunFailed(sentence, trainJob=name(job.id)))
