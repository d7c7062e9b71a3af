"""Photos of one part with what the network answered, as sheets and `pictures.json` tell them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import Data


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The photos of a part and their answers; a row is an index into them.

    Attributes:
        data: All photos.
        part: `val` or `test`.
        probabilities: Float32 [photos of the part, labels].
    """

    data: Data
    part: str
    probabilities: NDArray[np.float32]

    @cached_property
    def positions(self) -> list[int]:
        """Position in `data` of each row."""
        return self.data.positions(self.part)

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """True class of each row, int64 [photos]."""
        return self.data.targets(self.positions)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Best class of each row, int64 [photos]."""
        best: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names."""
        return self.data.scan.labels

    def right(self, row: int) -> bool:
        """Whether a photo's best class is its true one."""
        return bool(self.predicted[row] == self.targets[row])

    def recall(self, label: int) -> float:
        """Share of a class's photos that are right; the class must have some."""
        return float((self.predicted[self.targets == label] == label).mean())

    def pixels(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        """What the network sees of some rows, uint8 [n, H, W, 3]."""
        return self.data.pixels([self.positions[row] for row in rows])

    def caption(self, row: int) -> str:
        """What is true and what the network said, with its probabilities."""
        truth, answer, scores = self.targets[row], self.predicted[row], self.probabilities[row]
        # As many lines for a right answer, so that captions of a row can be compared line by line.
        told = f"said {self.labels[answer]} {scores[answer]:.2f}"
        return f"true {self.labels[truth]} {scores[truth]:.2f}\n{told}"

    def entry(self, row: int) -> dict[str, Any]:
        """A photo and its answer for `pictures.json`."""
        truth, answer, scores = self.targets[row], self.predicted[row], self.probabilities[row]
        return {
            "path": self.data.scan.photos[self.positions[row]].path,
            "true": self.labels[truth],
            "predicted": self.labels[answer],
            "score": float(scores[answer]),
            "true_score": float(scores[truth]),
        }


def slugs(labels: Sequence[str]) -> list[str]:
    """A name for files of each label: lower-case letters, digits, `_` and `-`, at most 48, no two alike."""
    taken: list[str] = []
    for label in labels:
        base = re.sub(r"[^a-z0-9_]+", "-", label.lower()).strip("-")[:40] or "class"
        slug, number = base, 1
        while slug in taken:
            number += 1
            slug = f"{base}-{number}"
        taken.append(slug)
    return taken
