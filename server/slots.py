"""The place of one model in the server: what it serves now, and what went wrong with what it should serve."""

import asyncio
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from trapline.errors import Refusal

from .batcher import Batcher
from .drift import Drift
from .memory import give_back_freed_memory
from .session import Session


@dataclass(frozen=True, kw_only=True, eq=False)
class Serving:
    """One version in service. Who holds it may finish on it after another has taken its place."""

    model_id: str
    version: int
    session: Session
    batcher: Batcher
    drift: Drift
    load_time: Timestamp


@dataclass(kw_only=True, eq=False)
class ModelSlot:
    """One model's place: what it serves now, and what went wrong with what it should serve.

    Attributes:
        model_id: The folder's name.
        serving: The version in service; None while it is first loaded or where none can be served.
        tried: Whether loading has been tried to the end.
        error: The version that could not be served last (0 where there is none at all), and why.
        unkept_pin: The version that a reload named, where the repository could not be told.
        failed: Versions that could not be served: their file's signature then, and why.
        lock: Held while a version is loaded: reloads of one model go one after another.
    """

    model_id: str
    serving: Serving | None = None
    tried: bool = False
    error: tuple[int, Refusal] | None = None
    unkept_pin: int | None = None
    failed: dict[int, tuple[tuple[int, int], Refusal]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


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
