"""What a child tells, one JSON line an event: the report that writes it, and the service's reading of it.

A line is `{"time": ..., KIND: ...}`. KIND is `sentence`, `progress` (a `TrainProgress`), and last of all `succeeded`
(an `Outcome`'s fields) or `failed` (a sentence). Each line is one write to the end of the file. A line that was torn by
a kill is ended by the next process's first write, and is skipped.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from trainer.progress import Progress, Rate, progress_message
from trapline.v1 import train_pb2
from trapline.v1.metadata_pb2 import Evaluation

from .job import Event, timestamp

_MOST_CHARACTERS = 10_000
# Much longer than any line.
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a child ended with.

    Attributes:
        failure: Why it failed, in a sentence; None where it succeeded.
        result: The result in sentences.
        evaluation: Figures on the test images.
        publication: What became of the file.
    """

    failure: str | None = None
    result: str = ""
    evaluation: Evaluation | None = None
    publication: train_pb2.Publication | None = None


class EventFile:
    """The child's side: a report that writes to the file."""

    def __init__(
        self,
        path: Path,
        *,
        shown: Callable[[str], str] = str,
        least_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the file, which is made where it is missing.

        Args:
            path: The file.
            shown: Gives a sentence as a client may see it.
            least_seconds: Least time between two progresses, but for the end of a phase.
            clock: Seconds that only grow.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._descriptor).st_size
        self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        self._shown, self._least_seconds, self._clock = shown, least_seconds, clock
        self._rate, self._told = Rate(), -math.inf

    def say(self, sentence: str) -> None:
        """Tells one finished fact."""
        with suppress(OSError):  # a full disk: training goes on without being told
            self._write(sentence=self._text(sentence))

    def progress(self, event: Progress) -> None:
        """Tells how far the phase is, where that was not told a moment ago or the phase is at its end."""
        now = self._clock()
        pace = self._rate.observe(event, now)
        if event.done < event.total and now - self._told < self._least_seconds:
            return
        self._told = now
        with suppress(OSError):  # as above
            self._write(progress=json_format.MessageToDict(progress_message(event, *pace)))

    def succeeded(self, outcome: Outcome) -> None:
        """Tells, as the last event, that the run is done."""
        told: dict[str, Any] = {"result": self._text(outcome.result)}
        if outcome.evaluation is not None:
            told["evaluation"] = json_format.MessageToDict(outcome.evaluation)
        if outcome.publication is not None:
            told["publication"] = json_format.MessageToDict(outcome.publication)
            told["publication"]["reason"] = self._text(outcome.publication.reason)
        self._write(succeeded=told)

    def failed(self, sentence: str) -> None:
        """Tells, as the last event, why the run failed."""
        self._write(failed=self._text(sentence))

    def _text(self, sentence: str) -> str:
        # Names of files that are no UTF-8 are no text either.
        text = self._shown(sentence).encode("utf-8", "backslashreplace").decode()
        return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"

    def _write(self, **told: object) -> None:
        line = json.dumps({"time": time.time(), **told}, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        data = b"\n" + line if self._torn else line
        written = os.write(self._descriptor, data)
        self._torn = self._torn if written == 0 else written < len(data)
        if written < len(data):
            raise OSError(f"{len(data) - written} bytes of an event were not written")


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was read of a child's events.

    Attributes:
        events: The events, without a sequence.
        offset: Where the next one begins: that of the outcome where there is one.
        outcome: What the child ended with; None where it has not told.
    """

    events: tuple[Event, ...]
    offset: int
    outcome: Outcome | None


def read(path: Path, offset: int) -> Told:
    """The whole lines from `offset` on, up to the outcome or about a MiB of them; a torn last one waits."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(_CHUNK_BYTES)
    except FileNotFoundError:
        chunk = b""
    events: list[Event] = []
    whole = chunk.rfind(b"\n") + 1
    if not whole and len(chunk) == _CHUNK_BYTES:
        whole = len(chunk)  # no event of ours
    for line in chunk[:whole].splitlines(keepends=True):
        told = _parsed(line)
        if isinstance(told, Outcome):
            return Told(events=tuple(events), offset=offset, outcome=told)
        if told is not None:
            events.append(told)
        offset += len(line)
    return Told(events=tuple(events), offset=offset, outcome=None)


def fill(path: Path, offset: int) -> None:
    """Makes the file reach to where it was read to: after a power cut it may not, and what comes next would be lost.

    What it is filled with is a torn line.
    """
    with path.open("ab") as file:
        if file.tell() < offset:
            file.truncate(offset)


def _parsed(line: bytes) -> Event | Outcome | None:
    """The event of a line; None where it is torn, or of a kind that is not known."""
    try:
        told = json.loads(line)
        if "succeeded" in told:
            return _outcome(told["succeeded"])
        if "failed" in told:
            return Outcome(failure=str(told["failed"]))
        event = Event(event_time=timestamp(told["time"]))
        if "sentence" in told:
            event.sentence = told["sentence"]
        else:
            json_format.ParseDict(told["progress"], event.progress, ignore_unknown_fields=True)
    except (ValueError, TypeError, KeyError, json_format.ParseError):
        return None
    return event


def _outcome(told: Mapping[str, Any]) -> Outcome:
    messages: dict[str, Any] = {}
    for name, kind in (("evaluation", Evaluation), ("publication", train_pb2.Publication)):
        if name in told:
            messages[name] = json_format.ParseDict(told[name], kind(), ignore_unknown_fields=True)
    return Outcome(result=str(told["result"]), **messages)
