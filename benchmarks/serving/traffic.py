"""Steady traffic by the shipped client, calls and a stream, every answer checked against the version that it names."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from clients.answers import Answer
from clients.classifier import Classifier
from trapline.errors import Refusal

from .figures import milliseconds, percentile

_CALLERS = 4
_TIMEOUT_SECONDS = 60.0


@dataclass(kw_only=True)
class Outcomes:
    """What became of the images of one way to ask.

    Attributes:
        right: Images with the label expected of them from the version that answered.
        mixed: Images with another label: of another image, or of another version than the answer names.
        failed: Images without an answer, by refusal.
        versions: Right answers by version.
        seconds: What each call took; of a stream, the gaps between its answers.
    """

    right: int = 0
    mixed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def told(self) -> dict[str, object]:
        """As a result file has it."""
        return {
            "right": self.right,
            "mixed": self.mixed,
            "failed": sum(self.failed.values()),
            "failures": dict(self.failed),
            "versions": dict(self.versions),
            "p50_ms": milliseconds(percentile(self.seconds, 0.5)),
            "p99_ms": milliseconds(percentile(self.seconds, 0.99)),
            "longest_ms": milliseconds(max(self.seconds, default=None)),
        }


class Traffic:
    """Half of `per_second` images a second as calls, half over a stream, while the block runs.

    Args:
        target: What the client is told: one server, or several that take turns.
        photos: Image files' bytes.
        expected: The right label's id of each photo, by model version.
        per_second: Images a second in all.
    """

    def __init__(self, target: str, photos: list[bytes], expected: dict[str, list[str]], *, per_second: float) -> None:
        self.unary, self.stream = Outcomes(), Outcomes()
        self._target, self._photos, self._expected = target, photos, expected
        self._over, self._lock = threading.Event(), threading.Lock()
        half = per_second / 2
        self._threads = [
            threading.Thread(target=self._call, args=(number, half / _CALLERS)) for number in range(_CALLERS)
        ]
        self._threads.append(threading.Thread(target=self._send, args=(half,)))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _paced(self, per_second: float, first: int) -> Iterator[int]:
        """Numbers of photos at a steady rate, until it is over; a late one does not make the next ones hurry."""
        number, due = first, time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            yield number % len(self._photos)
            number += 1
            due = max(due + 1 / per_second, time.monotonic() - 1)

    def _call(self, first: int, per_second: float) -> None:
        with Classifier(self._target, model="bench", timeout_seconds=_TIMEOUT_SECONDS) as classifier:
            for photo in self._paced(per_second, first):
                began = time.monotonic()
                try:
                    answer: Answer | Refusal = classifier.classify(self._photos[photo], top_k=1)
                except Refusal as refusal:
                    answer = refusal
                self._note(self.unary, photo, answer, time.monotonic() - began)

    def _send(self, per_second: float) -> None:
        sent: list[int] = []

        def files() -> Iterator[bytes]:
            for photo in self._paced(per_second, 0):
                sent.append(photo)
                yield self._photos[photo]

        with Classifier(self._target, model="bench", timeout_seconds=_TIMEOUT_SECONDS) as classifier:
            before = time.monotonic()
            for result in classifier.classify_many(files(), top_k=1):
                now = time.monotonic()
                outcome = result.answer or result.refusal
                assert outcome is not None
                self._note(self.stream, sent[result.index], outcome, now - before)
                before = now
            # Every image that was taken has its result, or it would have been lost.
            lost = len(sent) - self.stream.right - self.stream.mixed - sum(self.stream.failed.values())
            if lost:
                self.stream.failed["LOST"] += lost

    def _note(self, outcomes: Outcomes, photo: int, answer: Answer | Refusal, seconds: float) -> None:
        with self._lock:
            outcomes.seconds.append(seconds)
            if isinstance(answer, Refusal):
                outcomes.failed[f"{answer.code.name}: {answer.message}"] += 1
            elif answer.predictions[0].label_id == self._expected[answer.model_version][photo]:
                outcomes.right += 1
                outcomes.versions[answer.model_version] += 1
            else:
                outcomes.mixed += 1
