"""The place of one model in the server: what it serves now, and what went wrong with what it should serve."""

import asyncio
import copy
import logging
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from trapline.errors import ModelInvalid, ModelLoading, Refusal

from .batcher import Batcher
from .drift import Drift
from .memory import give_back_freed_memory
from .metrics import Metrics
from .repository import Found, Signature
from .session import Session

_log = logging.getLogger(__name__)
# Characters of the sentence about a broken file, which may repeat names out of it: errors travel in HTTP/2 headers.
_LONGEST_REASON = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Serving:
    """One version in service. Who holds it may finish on it after another has taken its place."""

    model_id: str
    version: int
    session: Session
    batcher: Batcher
    drift: Drift
    load_time: Timestamp


@dataclass(frozen=True, kw_only=True)
class UnkeptPin:
    """What a reload asked for, None for the newest, and what the pin file went on saying, None for nothing."""

    asked: int | None
    in_file: int | None


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A version that could not be served.

    Attributes:
        signature: Its file's then.
        refusal: Why.
        retry_time: When it may be tried again though the file is the same, in `time.monotonic` seconds.
    """

    signature: Signature
    refusal: ModelInvalid
    retry_time: float


@dataclass(kw_only=True, eq=False)
class ModelSlot:
    """One model's place: what it serves now, and what went wrong with what it should serve.

    Attributes:
        model_id: The folder's name.
        serving: The version in service; None while it is first loaded or where none can be served.
        tried: Whether loading has been tried to the end.
        error: The version that could not be served last (0 where there is none at all), and why.
        unkept_pin: What a reload asked for where the repository could not be told; None where it could.
        failed: Versions that could not be served.
        lock: Held while a version is loaded: reloads of one model go one after another.
    """

    model_id: str
    serving: Serving | None = None
    tried: bool = False
    error: tuple[int, Refusal] | None = None
    unkept_pin: UnkeptPin | None = None
    failed: dict[int, Failed] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def served(self) -> Serving:
        """The version in service.

        Raises:
            ModelLoading: It is being loaded for the first time.
            ModelInvalid: None of its versions can be served.
        """
        if self.serving is not None:
            return self.serving
        if not self.tried:
            name = f"models/{self.model_id}"
            raise ModelLoading(f"{name} is being loaded; ask again in a moment", retry_seconds=1.0, model=name)
        assert self.error is not None, "a model that was tried and does not serve has an error"
        # A copy: one object raised again and again would collect the traceback, and so the image, of every call.
        raise copy.copy(self.error[1])

    def pin(self, found: Found) -> int | None:
        """The version to stay with: the pin file's, unless a reload overruled it and the file is as it was then."""
        is_seen = found.versions and not found.problem
        if self.unkept_pin is not None and is_seen and found.pinned != self.unkept_pin.in_file:
            self.unkept_pin = None  # somebody wrote it, or took it away, since
        return self.unkept_pin.asked if self.unkept_pin is not None else found.pinned

    def unseen(self, found: Found, metrics: Metrics) -> Refusal | None:
        """Takes note of whether all was seen that decides what to serve; the refusal that tells what was not."""
        if found.problem:
            return self._told_once(f"models/{self.model_id}: {found.problem}", metrics)
        if self.serving is not None and self.error is not None and self.error[0] == 0:
            self.error = None
        return None

    def invalid(self, version: int, error: Refusal, metrics: Metrics) -> ModelInvalid:
        """Takes note of a version that cannot be served (0: there is none); the refusal that tells of it."""
        name, reason = f"models/{self.model_id}", str(error)
        if len(reason) > _LONGEST_REASON:
            reason = reason[:_LONGEST_REASON] + "…"
        text = f"{name} version {version} cannot be served: {reason}" if version else reason
        refusal = ModelInvalid(text, model=name, version=version)
        self.error = (version, refusal)
        metrics.load_failures.labels(self.model_id).inc()
        _log.error("event=model_invalid model=%s version=%d reason=%r", self.model_id, version, reason)
        return refusal

    def no_version(self, metrics: Metrics) -> Refusal:
        """Takes note that there is no version at all; the refusal that tells of it."""
        sentence = "its folder has no version folder (1, 2, 3 ...); publish one"
        return self._told_once(f"models/{self.model_id} cannot be served: {sentence}", metrics)

    def _told_once(self, text: str, metrics: Metrics) -> Refusal:
        """`invalid` for what is wrong with no one version, but not at each look anew."""
        if self.error is not None and str(self.error[1]) == text:
            return copy.copy(self.error[1])
        return self.invalid(0, ModelInvalid(text), metrics)


def new_slot(model_id: str, metrics: Metrics) -> ModelSlot:
    """The place of a model that was not seen before."""
    slot = ModelSlot(model_id=model_id)
    # Counted from 0 on: of a count that begins with its first failure Prometheus sees no increase.
    metrics.load_failures.labels(model_id)
    metrics.batch_failures.labels(model_id)
    metrics.model_error.labels(model_id).set_function(lambda: float(slot.error is not None))
    return slot


def count_swap(old: Serving | None, new: Serving, seconds: float, metrics: Metrics) -> None:
    """Logs and counts that `new` was loaded in `seconds` and answers from now on."""
    _log.info(
        "event=model_served model=%s version=%d replaces=%s seconds=%.3f precision=%s digest=%s providers=%s",
        *(new.model_id, new.version, old.version if old else "-", seconds),
        *(new.session.precision, new.session.digest, ",".join(new.session.providers)),
    )
    metrics.load_seconds.labels(new.model_id).observe(seconds)
    if old is not None:
        metrics.model_info.remove(old.model_id, str(old.version))
    metrics.model_info.labels(new.model_id, str(new.version)).set(1)


async def let_go(slot: ModelSlot, replaced: list[Serving]) -> None:
    """Lets a replaced version of `slot` answer what it was given, then drops its series and its memory.

    `replaced` is emptied: nothing else may refer to the version by then.
    """
    old = replaced.pop()
    await old.batcher.close()
    if slot.serving is not None:
        old.drift.forget(slot.serving.drift)
    del old
    await asyncio.to_thread(give_back_freed_memory)
