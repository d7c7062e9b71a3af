"""A run's figures for TensorBoard, in `events/`: loss and rate of each step, validation of each epoch, the test.

A run that goes on takes some steps again. What an older file has of them is cut off it before the new file begins, and
the new file says so to a TensorBoard that had read them already: no step is there twice, and none is left out.
"""

import os
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from ..recipe.history import Epoch

_PREFIX = "events.out.tfevents."
_TEST = "test/"
# Around each record: its length and that length's checksum before it, its own checksum behind.
_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")


class EventFile:
    """One process's event file in a folder; whatever is told is in the file when the call returns.

    A disk that is full or away never ends training: what could not be written follows, in order, once it can be.
    Before something is told, nothing is written and no folder made.
    """

    def __init__(self, folder: Path, *, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._file: int | None = None
        self._end = 0
        self._waiting = b""
        self._is_stale: Callable[[Any], bool] | None = None
        self._failure_told = False

    def step(self, step: int, *, loss: float, rate: float) -> None:
        """Tells a training step's mean loss and the last layers' learning rate; steps count from 1."""
        self._tell_training(step, {"train/loss": loss, "train/learning_rate": rate})

    def epoch(self, row: Epoch, *, step: int) -> None:
        """Tells a row of the history; `step` is its epoch's last one."""
        figures = {"validation/loss": row.validation_loss, "validation/accuracy": row.validation_accuracy}
        if row.train_loss is not None:
            figures["train/epoch_loss"] = row.train_loss
        self._tell_training(step, figures)

    def test(self, figures: Mapping[str, float], *, step: int) -> None:
        """Tells the final figures; those of an earlier process are replaced."""
        if self._is_stale is None:
            self._is_stale = _is_test
            self._waiting = _record(_version())
        self._tell(step, {f"{_TEST}{name}": value for name, value in figures.items()})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None

    def _tell_training(self, step: int, figures: Mapping[str, float]) -> None:
        if self._is_stale is None:
            self._is_stale = lambda event: event.step >= step
            start = Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START))
            self._waiting = _record(_version()) + _record(start)
        self._tell(step, figures)

    def _tell(self, step: int, figures: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        self._waiting += _record(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        try:
            if self._file is None:
                self._file = self._begun()
            # At a place of our own: a record of which only a part was written is gone on with, not begun again.
            while self._waiting:
                written = os.pwrite(self._file, self._waiting, self._end)
                self._waiting, self._end = self._waiting[written:], self._end + written
        except OSError as error:
            if not self._failure_told:
                self._failure_told = True
                self._say(
                    f"what TensorBoard shows cannot be written to {self._folder} ({error.strerror}); "
                    "the run goes on, and it follows once there is room"
                )

    def _begun(self) -> int:
        """The new file, after what it repeats was cut off the older ones."""
        self._folder.mkdir(parents=True, exist_ok=True)
        older = sorted(self._folder.glob(f"{_PREFIX}[0-9]*"))
        for path in older:
            data = path.read_bytes()
            kept = _kept_bytes(data, self._is_stale or _is_test)
            if kept < len(data):
                os.truncate(path, kept)
        # Read in the order of their names.
        number = 1 + max((int(path.name.removeprefix(_PREFIX)) for path in older), default=0)
        return os.open(self._folder / f"{_PREFIX}{number:06}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)


def _kept_bytes(data: bytes, is_stale: Callable[[Any], bool]) -> int:
    """How much of a file comes before its first stale record, or before one that was not written to its end."""
    place = 0
    while place + _HEADER.size <= len(data):
        length, _ = _HEADER.unpack_from(data, place)
        begin = place + _HEADER.size
        end = begin + length + _FOOTER.size
        try:
            if end > len(data) or is_stale(Event.FromString(data[begin : begin + length])):
                break
        except DecodeError:
            break
        place = end
    return place


def _record(event: Any) -> bytes:  # noqa: ANN401  # tensorboardX has no type hints
    data: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + _FOOTER.pack(masked_crc32c(data))


def _version() -> Any:  # noqa: ANN401  # tensorboardX has no type hints
    return Event(wall_time=time.time(), file_version="brain.Event:2")


def _is_test(event: Any) -> bool:  # noqa: ANN401  # tensorboardX has no type hints
    return any(value.tag.startswith(_TEST) for value in event.summary.value)
