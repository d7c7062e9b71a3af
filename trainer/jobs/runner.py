"""The queue at work: pending jobs get a device in their turn, running ones a follower."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from trainer.errors import TrainerError
from trapline.train_errors import TrainCapacity, TrainJobNotFound, TrainJobWrongState

from .devices import Device
from .folders import clear, put_back, set_aside
from .follower import Follower, Setting
from .job import Job, name
from .store import Store

_LOG = logging.getLogger(__name__)
_TICK_SECONDS = 1.0


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
        # Jobs that run and have no follower: their device is taken.
        self._waiting: list[str] = []
        self._woken, self._stopping = asyncio.Event(), False
        self._filling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes over what an earlier service left: living processes are followed, jobs without one go on."""
        await asyncio.to_thread(clear, self._setting.runs_root)
        known = {device.name: device for device in self._devices}
        for job in await self._store.running():
            # A process that lives keeps what it has, even where that is no device of this service any more.
            device = known.get(job.device)
            follower = self._follower(job, device or Device(name=job.device), starts=device is not None)
            if await follower.adopt():
                self._follow(follower)
            else:
                self._waiting.append(job.id)
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
        job = await self._store.cancel_asked(job_id)
        if job_id in self._followers:
            self._followers[job_id].cancel()
        elif job_id in self._waiting:
            # It has no process; whether it had come to its end is in what that told.
            self._waiting.remove(job_id)
            self._follow(self._follower(job, Device(name=""), starts=False))
        return job

    async def delete(self, job_id: str) -> None:
        """Deletes a job that has ended, with its folder.

        Raises:
            TrainJobNotFound: There is no such job.
            TrainJobWrongState: It has not ended.
        """
        root = self._setting.runs_root
        # Never is there a folder without a job: another job of that id would find it.
        had_folder = (await self._store.get(job_id)).ended and set_aside(root, job_id)
        try:
            await self._store.delete(job_id)
        except BaseException:
            if had_folder:
                put_back(root, job_id)
            raise
        await asyncio.to_thread(clear, root)

    async def stop(self, seconds: float) -> None:
        """Ends the processes of all jobs within so many seconds; the jobs go on when a service starts again."""
        self._stopping = True
        self.wake()
        if self._filling is not None:
            await self._filling
        for follower in self._followers.values():
            follower.drain(seconds)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fill_for_ever(self) -> None:
        while not self._stopping:
            self._woken.clear()
            try:
                await self._fill()
            except (TrainerError, TrainCapacity, OSError) as error:
                _LOG.warning("no job can be started now: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._woken.wait()

    async def _fill(self) -> None:
        """Gives each free device a job."""
        while not self._stopping and (device := self._free()) is not None and not self._setting.short_of_disk():
            if self._waiting:
                job = await self._store.get(self._waiting.pop(0))
                self._follow(self._follower(job, device))
                continue
            pending = await self._store.next_pending()
            if pending is None:
                return
            # Nothing else starts jobs, so that the device is still free then.
            with suppress(TrainJobWrongState, TrainJobNotFound):  # it was cancelled meanwhile
                await self._store.started(pending.id, device.name)
                # As it is now: it may have been asked to stop meanwhile.
                self._follow(self._follower(await self._store.get(pending.id), device), first=True)

    def _free(self) -> Device | None:
        used = {follower.device.name for follower in self._followers.values()}
        return next((device for device in self._devices if device.name not in used), None)

    def _follower(self, job: Job, device: Device, *, starts: bool = True) -> Follower:
        return Follower(self._store, job, device, setting=self._setting, starts=starts)

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
