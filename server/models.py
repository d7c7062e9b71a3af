"""The models that are served: which version, loading another beside it, swapping one reference while it is in use."""

import asyncio
import copy
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from trapline.errors import ModelInvalid, ModelLoading, ModelNotFound, Refusal
from trapline.service.errors import as_refusal, shown

from .batcher import Batcher
from .drift import Drift
from .metrics import Metrics
from .repository import Repository, parse_version
from .session import Session
from .slots import ModelSlot, Serving, let_go

_log = logging.getLogger(__name__)
# Characters of the sentence about a broken file, which may repeat names out of it: errors travel in HTTP/2 headers.
_LONGEST_REASON = 1000


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
        self._repository, self._load, self._serve = repository, load, serve
        self._metrics, self._on_change = metrics, on_change
        self._slots = {model_id: self._new_slot(model_id) for model_id in repository.model_ids()}
        self._settled = False
        # One load at a time: two at once would need the memory of both, and slow down who is served.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
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
        slot = self.slot(model_id)
        if slot.serving is not None:
            return slot.serving
        if not slot.tried:
            raise ModelLoading(
                f"models/{model_id} is being loaded; ask again in a moment",
                retry_seconds=1.0,
                model=f"models/{model_id}",
            )
        assert slot.error is not None, "a model that was tried and does not serve has an error"
        # A copy: one object raised again and again would collect the traceback, and so the image, of every call.
        raise copy.copy(slot.error[1])

    async def load_all(self) -> None:
        """Loads the newest version of each model that can be served; what cannot is told by its slot."""
        for slot in self.slots():
            async with slot.lock:
                await self._load_newest(slot)
        self._settled = True
        self._on_change()

    async def refresh(self) -> None:
        """Loads what is new in the repository: models, and versions newer than the served ones unless pinned."""
        for model_id in self._repository.model_ids():
            if model_id not in self._slots:
                self._slots[model_id] = self._new_slot(model_id)
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
        versions = self._repository.versions(model_id)
        if model_id not in self._slots and versions:
            self._slots[model_id] = self._new_slot(model_id)
        slot = self.slot(model_id)
        wanted = parse_version(version) if version else None
        if version and wanted not in versions:
            raise ModelNotFound(
                f"models/{model_id} has no version {shown(version)}; publish it first, or leave the version out",
                model=f"models/{model_id}",
                version=version[:80],
            )
        await asyncio.shield(self._spawn(self._reload(slot, wanted)))
        return slot

    async def close(self) -> None:
        """Ends every queue at once; what is still waiting is refused."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        for task in self._tasks:
            task.cancel()
        for slot in self._slots.values():
            if slot.serving is not None:
                slot.serving.batcher.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reload(self, slot: ModelSlot, wanted: int | None) -> None:
        async with slot.lock:
            versions = self._repository.versions(slot.model_id)
            served_before = slot.serving is not None
            try:
                if not versions:
                    raise self._invalid(slot, 0, self._no_version(slot))
                await self._swap(slot, wanted or versions[0])
            except ModelInvalid:
                if not served_before and wanted is None:
                    await self._load_newest(slot)  # an older version may do
                if served_before or slot.serving is None:
                    raise
            finally:
                slot.tried = True
            kept = self._repository.pin(slot.model_id, wanted)
            slot.unkept_pin = None if kept else wanted

    async def _load_newest(self, slot: ModelSlot) -> None:
        """Serves the pinned version, or the newest that can be served of those newer than the served one.

        What is known to be broken is not tried again until its file changes.

        To be called with the slot's lock: a reload that was waited for may have pinned a version, which then stays.
        """
        versions = self._repository.versions(slot.model_id)
        pin = self._repository.pinned(slot.model_id) or slot.unkept_pin
        if pin is not None and pin in versions:
            if slot.serving is not None and slot.serving.version == pin:
                return
            # Another server of this repository, or this one before its restart, was told to serve it.
            versions = [pin, *versions]
        errors = list[tuple[int, Refusal]]()
        for version in versions:
            if slot.serving is not None and version != pin and version <= slot.serving.version:
                break
            signature, why = slot.failed.get(version, (None, None))
            if why is not None and signature == self._repository.signature(slot.model_id, version):
                errors.append((version, why))
                continue
            try:
                await self._swap(slot, version)
            except ModelInvalid as error:
                errors.append((version, error))
                continue
            if version == pin:
                break
        if not versions and slot.serving is None:
            errors.append((0, self._invalid(slot, 0, self._no_version(slot))))
        slot.error = errors[0] if errors else None
        slot.tried = True

    async def _swap(self, slot: ModelSlot, version: int) -> None:
        """Loads a version beside the served one, then puts it in its place."""
        signature = self._repository.signature(slot.model_id, version)
        began = time.monotonic()
        refusal: ModelInvalid | None = None
        try:
            loop = asyncio.get_running_loop()
            session = await loop.run_in_executor(self._loader, self._load, slot.model_id, version)
        except Exception as error:  # noqa: BLE001  # whatever a broken file raises, the other models are served
            refusal = self._invalid(slot, version, as_refusal(error))
        if refusal is not None:
            # Out here, so that what is kept has no `error` behind it, whose frames hold the file's bytes and session.
            slot.failed[version] = (signature, refusal)
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
        newer = [each for each in self._repository.versions(slot.model_id) if each > version]
        if slot.error is not None and slot.error[0] not in newer:
            slot.error = None
        self._count_swap(old, slot.serving, seconds)
        if old is not None:
            self._spawn(let_go(slot, [old]))
        self._on_change()

    def _new_slot(self, model_id: str) -> ModelSlot:
        slot = ModelSlot(model_id=model_id)
        # Counted from 0 on: of a count that begins with its first failure Prometheus sees no increase.
        self._metrics.load_failures.labels(model_id)
        self._metrics.batch_failures.labels(model_id)
        self._metrics.model_error.labels(model_id).set_function(lambda: float(slot.error is not None))
        return slot

    def _drift(self, model_id: str, version: int, session: Session) -> Drift:
        labels = [label.id for label in session.metadata.labels]
        return Drift(self._metrics, model_id=model_id, version=version, labels=labels)

    def _count_swap(self, old: Serving | None, new: Serving, seconds: float) -> None:
        _log.info(
            "event=model_served model=%s version=%d replaces=%s seconds=%.3f precision=%s digest=%s providers=%s",
            *(new.model_id, new.version, old.version if old else "-", seconds),
            *(new.session.precision, new.session.digest, ",".join(new.session.providers)),
        )
        self._metrics.load_seconds.labels(new.model_id).observe(seconds)
        if old is not None:
            self._metrics.model_info.remove(old.model_id, str(old.version))
        self._metrics.model_info.labels(new.model_id, str(new.version)).set(1)

    def _invalid(self, slot: ModelSlot, version: int, error: Refusal) -> ModelInvalid:
        """Takes note of a version that cannot be served; the refusal that tells of it."""
        name, reason = f"models/{slot.model_id}", str(error)
        if len(reason) > _LONGEST_REASON:
            reason = reason[:_LONGEST_REASON] + "…"
        text = f"{name} version {version} cannot be served: {reason}" if version else reason
        refusal = ModelInvalid(text, model=name, version=version)
        slot.error = (version, refusal)
        self._metrics.load_failures.labels(slot.model_id).inc()
        _log.error("event=model_invalid model=%s version=%d reason=%r", slot.model_id, version, reason)
        return refusal

    def _no_version(self, slot: ModelSlot) -> ModelInvalid:
        return ModelInvalid(
            f"models/{slot.model_id} cannot be served: its folder has no version folder (1, 2, 3 ...); publish one"
        )

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
