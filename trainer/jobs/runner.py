"""The queue at work: pending jobs get a device in their turn, running ones a follower."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from trainer.errors import TrainerError
from trapline.train_errors import TrainCapacity, TrainJobNotFound, TrainJobWrongState

from .devices import Device
from .folders import clear, job_folder, remove, set_aside
from .follower import Follower
from .job import Job, name
from .setting import Setting
from .store import Store

_LOG = logging.getLogger(__name__)
_TICK_SECONDS = 1.0

Value = TypeVar("Value")


class Runner:
    """Runs the jobs of a store. Hold `folders.locked_root` around the store's and its life."""

    def __init__(self, store: Store, *, devices: Sequence[Device], setting: Setting) -> None:
        """A runner that is not started yet.

        Args:
            store: The jobs.
            devices: A place for each job that may run at a time.
            setting: How they are run.
        """
        self._store, self._devices, self._setting = store, tuple(devices), setting
        self._followers: dict[str, Follower] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing: set[asyncio.Task[Any]] = set()
        self._deleting = asyncio.Lock()
        # Jobs that run and have no follower: their device is taken.
        self._waiting: list[str] = []
        self._woken, self._stopping = asyncio.Event(), False
        self._filling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes over what an earlier service left: living processes are followed, jobs without one go on."""
        await asyncio.to_thread(clear, self._setting.runs_root)
        known = {device.name: device for device in self._devices}
        # Nothing is awaited between a job's reading and its follower: who cancels it meanwhile finds one of them.
        for job in self._store.running():
            # A process that lives keeps what it has, even where that is no device of this service any more.
            device = known.get(job.device)
            follower = self._follower(job, device or Device(name=job.device), starts=device is not None)
            if not follower.adopt():
                # Where it had come to its end it needs no place for that; else it waits for one.
                follower = self._without_device(job)
            self._follow(follower)
        self._filling = asyncio.create_task(self._fill_for_ever())

    def wake(self) -> None:
        """Looks at the queue at once: to be called when a job was created."""
        self._woken.set()

    async def cancel(self, job_id: str) -> Job:
        """Asks a job to stop; gives it as it then is.

        Raises:
            TrainJobNotFound: There is no such job.
            TrainJobWrongState: It has ended in another way.
        """
        return await self._whole(self._cancelled(job_id))

    async def delete(self, job_id: str) -> None:
        """Deletes a job that has ended, with its folder.

        Raises:
            TrainJobNotFound: There is no such job.
            TrainJobWrongState: It has not ended.
        """
        await asyncio.shield(await self._whole(self._deleted(job_id)))

    async def stop(self, seconds: float) -> None:
        """Ends the processes of all jobs within so many seconds; the jobs go on when a service starts again."""
        self._stopping = True
        self.wake()
        await asyncio.gather(*self._changing, return_exceptions=True)
        if self._filling is not None:
            await self._filling
        for follower in self._followers.values():
            follower.drain(seconds)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _whole(self, change: Coroutine[Any, Any, Value]) -> Value:
        """What a change gives, which is done to its end also where the caller leaves."""
        task = asyncio.create_task(change)
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
        return await asyncio.shield(task)

    async def _cancelled(self, job_id: str) -> Job:
        job = await self._store.cancel_asked(job_id)
        if job_id in self._followers:
            self._followers[job_id].cancel()
        elif job_id in self._waiting:
            # It has no process; whether it had come to its end is in what that told.
            self._waiting.remove(job_id)
            self._follow(self._without_device(job))
        return job

    async def _deleted(self, job_id: str) -> asyncio.Future[None]:
        """Deletes a job; gives the removal of its folder, which is set aside and may be large."""
        root = self._setting.runs_root
        async with self._deleting:
            # Never is there a folder without a job: another job of that id would find it.
            aside = set_aside(root, job_id) if (await self._store.get(job_id)).ended else None
            try:
                await self._store.delete(job_id)
            except Exception:
                if aside is not None:
                    aside.rename(job_folder(root, job_id))
                raise
        return asyncio.get_running_loop().run_in_executor(None, remove, aside)

    async def _fill_for_ever(self) -> None:
        while not self._stopping:
            self._woken.clear()
            try:
                await self._fill()
            except (TrainerError, TrainCapacity, OSError) as error:
                _LOG.warning("no job can be started now: %s", error)
            except Exception:  # noqa: BLE001  # the queue goes on
                _LOG.exception("no job can be started now by a fault of the service")
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._woken.wait()

    async def _fill(self) -> None:
        """Gives each free device a job."""
        while not self._stopping and (device := self._free()) is not None and not self._setting.short_of_disk():
            if self._waiting:
                await self._resume(self._waiting[0], device)
                continue
            pending = await self._store.next_pending()
            if pending is None:
                return
            # What has its id was never its own: it came out of a backup, whose folders are copied after the file.
            await asyncio.to_thread(remove, set_aside(self._setting.runs_root, pending.id))
            with suppress(TrainJobWrongState, TrainJobNotFound):  # it was cancelled meanwhile
                await self._store.started(pending.id, device.name)
                self._waiting.insert(0, pending.id)
                await self._resume(pending.id, device, first=True)

    async def _resume(self, job_id: str, device: Device, *, first: bool = False) -> None:
        """Takes a job off those that wait once it is read, as it now is: it may have been asked to stop meanwhile."""
        job = await self._store.get(job_id)
        # Nothing else starts jobs, so that the device is still free; who cancels one that waits takes it away.
        if job_id in self._waiting:
            self._waiting.remove(job_id)
            self._follow(self._follower(job, device), first=first)

    def _free(self) -> Device | None:
        if len(self._followers) >= len(self._devices):
            return None  # some are at work on places that an earlier service had
        used = {follower.device.name for follower in self._followers.values()}
        return next((device for device in self._devices if device.name not in used), None)

    def _follower(self, job: Job, device: Device, *, starts: bool = True) -> Follower:
        return Follower(self._store, job, device, setting=self._setting, starts=starts)

    def _without_device(self, job: Job) -> Follower:
        return self._follower(job, Device(name=""), starts=False)

    def _follow(self, follower: Follower, *, first: bool = False) -> None:
        self._followers[follower.job_id] = follower
        task = asyncio.create_task(self._followed(follower, first=first))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _followed(self, follower: Follower, *, first: bool) -> None:
        done = False
        try:
            done = await follower.follow(first=first)
        except (TrainerError, TrainCapacity, OSError) as error:
            _LOG.warning("%s is let go of: %s", name(follower.job_id), error)
        except Exception:  # noqa: BLE001  # the other jobs go on, and this one is tried again
            _LOG.exception("%s is let go of by a fault of the service", name(follower.job_id))
        finally:
            del self._followers[follower.job_id]
            if not done:
                self._waiting.append(follower.job_id)
            self.wake()
