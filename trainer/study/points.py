"""The points of a study: which photos each trains on, and what came out, in a folder a point.

A point does not depend on the other sizes that were asked for, so that a study may get more of them later.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import StudyConfig
from ..data import Data
from ..dataset.layout import find_files
from ..dataset.subsets import Subset, check_size, subset
from ..run_folder import read_json, write_json

_POINT = "point.json"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A point that is to be trained.

    Attributes:
        size: Photos of each class as it was asked for: a number, or `all`.
        repeat: From 1.
        subset: The photos.
        folder: Where it leaves what it did.
    """

    size: str
    repeat: int
    subset: Subset
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a point gave on the test part.

    Attributes:
        size: As in `Task`.
        repeat: As in `Task`.
        train_image_count: Photos trained on.
        train_group_count: Groups that they are of.
        cut_group_count: Groups of which other training photos were left out.
        figures: `accuracy`, `balanced_accuracy`, `macro_f1`, `loss`, `classes` and `confusion` as in `metrics.json`.
        right: `1` or `0` for each test photo, in the order of paths.
        stage: `head` or `finetune`, whichever is kept.
        epoch: The unfrozen epoch that is kept; 0 for the head.
        history: Rows of the unfrozen epochs as in `metrics.json`.
        seconds: Time that it took.
    """

    size: str
    repeat: int
    train_image_count: int
    train_group_count: int
    cut_group_count: int
    figures: dict[str, Any]
    right: str
    stage: str
    epoch: int
    history: list[dict[str, Any]]
    seconds: float

    @property
    def right_photos(self) -> NDArray[np.bool_]:
        """Whether each test photo is right, [photos]."""
        return np.array([mark == "1" for mark in self.right])

    @property
    def weakest(self) -> tuple[str, float] | None:
        """The class that is found least, and its recall; None where all of every class is found."""
        return weakest_class({label: row["recall"] for label, row in self.figures["classes"].items()})


def weakest_class(recalls: dict[str, float | None]) -> tuple[str, float] | None:
    """The class that is found least, and its recall; None where all of every class is found."""
    known = [(recall, label) for label, recall in recalls.items() if recall is not None and recall < 1]
    if not known:
        return None
    recall, label = min(known)
    return label, recall


def check_sizes(config: StudyConfig) -> None:
    """Refuses, by the folder's names alone, a size that some class has not even files for.

    Raises:
        UsageError: Such a size; the sentence names the class and its count.
        DatasetError: The data folder's shape is wrong.
    """
    files = [file for file in find_files(config.data).files if file.part in ("", "train")]
    counts = Counter(file.label for file in files)
    for size in config.sizes.split(","):
        if counts:
            check_size(_number(size), counts, where="files")


def tasks(config: StudyConfig, data: Data, folder: Path) -> list[Task]:
    """The points that were asked for, one repeat after another.

    Raises:
        UsageError: A class has fewer training photos than a size; the sentence names it and its count.
    """
    photos = [data.scan.photos[position] for position in data.positions("train")]
    groups = data.split.groups
    return [
        Task(
            size=size,
            repeat=repeat,
            subset=subset(photos, groups, size=_number(size), seed=config.seed, repeat=repeat),
            folder=folder / "points" / f"{size}-{repeat}",
        )
        for repeat in range(1, config.repeats + 1)
        for size in config.sizes.split(",")
    ]


def restricted(data: Data, task: Task) -> Data:
    """The photos of a point: its training photos, and all that choose and test."""
    kept = [
        photo
        for photo in data.scan.photos
        if data.split.parts[photo.path] != "train" or photo.path in task.subset.paths
    ]
    paths = {photo.path for photo in kept}
    note = (
        f"of the training photos {len(task.subset.paths)} are used: size {task.size}, repeat {task.repeat} of a study"
    )
    return replace(
        data,
        scan=replace(data.scan, photos=tuple(kept)),
        split=replace(
            data.split,
            parts={path: part for path, part in data.split.parts.items() if path in paths},
            groups={path: group for path, group in data.split.groups.items() if path in paths},
            notes=(*data.split.notes, note),
        ),
    )


def read_point(task: Task) -> Point | None:
    """The point as it was written; None where it is still to be trained."""
    path = task.folder / _POINT
    return Point(**read_json(path)) if path.is_file() else None


def write_point(task: Task, point: Point) -> None:
    """Records that the point is done."""
    write_json(task.folder / _POINT, asdict(point))


def in_order(points: Sequence[Point]) -> list[Point]:
    """Points by size, `all` last, then by repeat."""
    return sorted(points, key=lambda point: (point.size == "all", _number(point.size) or 0, point.repeat))


def _number(size: str) -> int | None:
    return None if size == "all" else int(size)
