"""The models that are served: which version, loading another beside it, swapping one reference while it is in use."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from trapline.errors import ModelInvalid, ModelNotFound, Refusal
from trapline.service.errors import as_refusal, shown

from .batcher import Batcher
from .drift import Drift
from .looks import Looks
from .metrics import Metrics
from .repository import Found, Repository, parse_version
from .session import Session
from .slots import Failed, ModelSlot, Serving, UnkeptPin, count_swap, let_go, new_slot

_log = logging.getLogger(__name__)
# After how long a version that could not be read is tried again.
_RETRY_SECONDS = 30.0


class Models:
    """The models of one repository.

    Args:
        repository: Where they lie.
        load: Reads and warms up a version (id, version); slow, called on a thread; raises ModelInvalid.
        serve: Makes the queue of a loaded version (id, session).
        metrics: Where to count.
        on_change: Called on the event loop after anything that may change `ready`.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        load: Callable[[str, int], Session],
        serve: Callable[[str, Session], Batcher],
        metrics: Metrics,
        on_change: Callable[[], None],
    ) -> None:
        self._looks, self._load, self._serve = Looks(repository), load, serve
        self._metrics, self._on_change = metrics, on_change
        self._slots = {model_id: new_slot(model_id, metrics) for model_id in repository.model_ids()}
        self._settled = False
        # One load at a time: two at once would need the memory of both, and slow down who is served.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._loading = set[Future[Session]]()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def ready(self) -> bool:
        """Whether every model of the start was tried, and one at least can answer."""
        return self._settled and any(slot.serving and not slot.serving.batcher.broken for slot in self._slots.values())

    @property
    def broken(self) -> bool:
        """Whether a model's device fails every batch: only another process can be expected to repair that."""
        return any(slot.serving and slot.serving.batcher.broken for slot in self._slots.values())

    def slots(self) -> list[ModelSlot]:
        """All models, by id."""
        return [self._slots[model_id] for model_id in sorted(self._slots)]

    def __contains__(self, model_id: str) -> bool:
        """Whether there is a model of that id."""
        return model_id in self._slots

    def slot(self, model_id: str) -> ModelSlot:
        """The model of that id.

        Raises:
            ModelNotFound: There is none.
        """
        slot = self._slots.get(model_id)
        if slot is None:
            raise ModelNotFound(
                f"no model {shown(model_id)} is served here; `trapline models` lists those that are",
                model=f"models/{model_id[:80]}",
            )
        return slot

    def serving(self, model_id: str) -> Serving:
        """The version of a model to ask now.

        Raises:
            ModelNotFound: No such model.
            ModelLoading: It is being loaded for the first time.
            ModelInvalid: None of its versions can be served.
        """
        return self.slot(model_id).served()

    def only(self) -> Serving | None:
        """What is served, where there is one model alone and it serves."""
        if len(self._slots) != 1:
            return None
        return next(iter(self._slots.values())).serving

    async def load_all(self) -> None:
        """Loads the newest version of each model that can be served; what cannot is told by its slot."""
        for slot in self.slots():
            async with slot.lock:
                await self._load_newest(slot)
        self._settled = True
        self._on_change()

    async def refresh(self) -> None:
        """Loads what is new in the repository: models, and versions newer than the served ones unless pinned."""
        for model_id in await self._looks.model_ids():
            if model_id not in self._slots:
                self._slots[model_id] = new_slot(model_id, self._metrics)
            slot = self._slots[model_id]
            async with slot.lock:
                await self._load_newest(slot)

    async def reload(self, model_id: str, version: str = "") -> ModelSlot:
        """Loads a version anew and swaps it in; the newest, or `version`, which then stays pinned.

        It goes on where the caller leaves. Calls under way finish on the version that they started with.

        Raises:
            ModelNotFound: No such model or version.
            ModelInvalid: It cannot be served; what was served before still is.
        """
        if model_id not in self._slots:
            versions = (await self._looks.model(model_id)).versions
            is_there = parse_version(version) in versions if version else bool(versions)
            if is_there and model_id not in self._slots:  # a watch may have found it meanwhile
                self._slots[model_id] = new_slot(model_id, self._metrics)
        await asyncio.shield(self._spawn(self._reload(self.slot(model_id), version)))
        return self.slot(model_id)

    async def close(self) -> None:
        """Ends every queue at once; what is still waiting is refused."""
        self._looks.close()
        self._loader.shutdown(wait=False, cancel_futures=True)
        for task in self._tasks:
            task.cancel()
        for slot in self._slots.values():
            if slot.serving is not None:
                slot.serving.batcher.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def has_let_go(self, seconds: float) -> bool:
        """Whether, within so many seconds, no thread works on a model any more; to be called after `close`."""
        return not self._loading or not (await asyncio.to_thread(wait, self._loading, seconds)).not_done

    async def _reload(self, slot: ModelSlot, version: str) -> None:
        async with slot.lock:
            found = await self._looks.model(slot.model_id)
            wanted = parse_version(version) if version else None
            if found.problem and not found.versions:
                raise ModelInvalid(f"models/{slot.model_id}: {found.problem}", model=f"models/{slot.model_id}")
            if version and wanted not in found.versions:
                name = f"models/{slot.model_id}"
                sentence = f"{name} has no version {shown(version)}; publish it first, or leave the version out"
                raise ModelNotFound(sentence, model=name, version=version[:80])
            served_before = slot.serving is not None
            try:
                if not found.versions:
                    raise slot.no_version(self._metrics)
                await self._swap(slot, wanted or found.versions[0], found)
            except ModelInvalid:
                if not served_before and wanted is None:
                    await self._load_newest(slot)  # an older version may do
                if served_before or slot.serving is None:
                    raise
            finally:
                slot.tried = True
            kept = await self._looks.pin(slot.model_id, wanted)
            slot.unkept_pin = None if kept else UnkeptPin(asked=wanted, in_file=found.pinned)

    async def _load_newest(self, slot: ModelSlot) -> None:
        """Serves the pinned version, or the newest that can be served of those newer than the served one.

        What is known to be broken is not tried again until its file changes; what could not be read is, after a while.

        To be called with the slot's lock: a reload that was waited for may have pinned a version, which then stays.
        """
        # One look, with the lock: one from before could have missed the pin. All is decided from what it found.
        found = await self._looks.model(slot.model_id)
        unseen = slot.unseen(found, self._metrics)
        if unseen is not None and slot.serving is not None:
            return  # it may be what is wanted
        versions, pin = found.versions, slot.pin(found)
        if pin is not None and pin in versions:
            if slot.serving is not None and slot.serving.version == pin:
                return
            # Another server of this repository, or this one before its restart, was told to serve it.
            versions = [pin, *versions]
        errors: list[tuple[int, Refusal]] = [] if unseen is None else [(0, unseen)]
        for version in versions:
            if slot.serving is not None and version != pin and version <= slot.serving.version:
                break
            failed = slot.failed.get(version)
            is_known = failed is not None and failed.signature == found.signatures[version]
            if failed is not None and is_known and time.monotonic() < failed.retry_time:
                errors.append((version, failed.refusal))
                continue
            try:
                await self._swap(slot, version, found)
            except ModelInvalid as error:
                errors.append((version, error))
                continue
            if version == pin:
                break
        if not versions and slot.serving is None and unseen is None:
            errors.append((0, slot.no_version(self._metrics)))
        slot.error = errors[0] if errors else None
        slot.tried = True

    async def _swap(self, slot: ModelSlot, version: int, found: Found) -> None:
        """Loads a version beside the served one, then puts it in its place."""
        began = time.monotonic()
        refusal: ModelInvalid | None = None
        retry_time = math.inf
        loading = self._loader.submit(self._load, slot.model_id, version)
        self._loading.add(loading)
        try:
            session = await asyncio.wrap_future(loading)
        except Exception as error:  # noqa: BLE001  # whatever a broken file raises, the other models are served
            if not isinstance(error, ModelInvalid) or isinstance(error.__cause__, OSError):
                retry_time = time.monotonic() + _RETRY_SECONDS  # a disk's or the memory's fault may pass
            refusal = slot.invalid(version, as_refusal(error), self._metrics)
        self._loading.discard(loading)  # it would keep what it gave or raised
        del loading
        if refusal is not None:
            # Out here, so that what is kept has no `error` behind it, whose frames hold the file's bytes and session.
            signature = found.signatures[version]
            slot.failed[version] = Failed(signature=signature, refusal=refusal, retry_time=retry_time)
            raise refusal
        seconds = time.monotonic() - began
        now = Timestamp()
        now.GetCurrentTime()
        old, slot.serving = (
            slot.serving,
            Serving(
                model_id=slot.model_id,
                version=version,
                session=session,
                batcher=self._serve(slot.model_id, session),
                drift=self._drift(slot.model_id, version, session),
                load_time=now,
            ),
        )
        slot.tried = True
        slot.failed.pop(version, None)
        newer = [each for each in found.versions if each > version]
        if slot.error is not None and slot.error[0] not in newer:
            slot.error = None
        count_swap(old, slot.serving, seconds, self._metrics)
        if old is not None:
            self._spawn(let_go(slot, [old]))
        self._on_change()

    def _drift(self, model_id: str, version: int, session: Session) -> Drift:
        labels = [label.id for label in session.metadata.labels]
        return Drift(self._metrics, model_id=model_id, version=version, labels=labels)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Runs `work` to its end whoever waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not isinstance(task.exception(), Refusal):
            _log.error("event=background_task_failed", exc_info=task.exception())
