"""Nested parts of the training photos, so many of each class: what the points of a study train on.

In each repeat the groups of the training part are put into an order by chance, once for all classes. A class's photos
stand in the order of their groups, and a size takes the first so many of them. So the photos of a size are among those
of every larger one, groups come whole as they do from a camera, and of each class one group at most is cut to meet the
size.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from .layout import shown
from .photo import Photo


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Some training photos.

    Attributes:
        paths: Their paths.
        counts: Their number by class.
        group_count: Groups that they are of.
        cut_group_count: Those of the groups of which other training photos were left out.
    """

    paths: frozenset[str]
    counts: dict[str, int]
    group_count: int
    cut_group_count: int


def subset(photos: Sequence[Photo], groups: Mapping[str, str], *, size: int | None, seed: int, repeat: int) -> Subset:
    """The first `size` photos of each class in the order of one repeat.

    Args:
        photos: The training part.
        groups: Path -> group, of those photos at least.
        size: Photos of each class; None for all.
        seed: Of the study.
        repeat: Number of the repeat; each has another order.

    Raises:
        UsageError: A class has fewer photos; the sentence names it and its count.
    """
    check_size(size, Counter(photo.label for photo in photos), where="to train on")
    names = sorted({groups[photo.path] for photo in photos})
    turns = np.random.default_rng((seed, repeat)).permutation(len(names))
    turn = dict(zip(names, turns.tolist(), strict=True))
    counts: Counter[str] = Counter()
    taken: list[str] = []
    for photo in sorted(photos, key=lambda photo: (turn[groups[photo.path]], photo.path)):
        if size is None or counts[photo.label] < size:
            counts[photo.label] += 1
            taken.append(photo.path)
    members = Counter(groups[photo.path] for photo in photos)
    inside = Counter(groups[path] for path in taken)
    return Subset(
        paths=frozenset(taken),
        counts=dict(sorted(counts.items())),
        group_count=len(inside),
        cut_group_count=sum(count < members[name] for name, count in inside.items()),
    )


def check_size(size: int | None, counts: Mapping[str, int], *, where: str) -> None:
    """Refuses a size that a class cannot have.

    Args:
        size: Photos of each class; None for all.
        counts: Photos of each class that there are.
        where: What they are there for, for the sentence.

    Raises:
        UsageError: The class with the fewest photos has too few.
    """
    label = min(counts, key=lambda label: (counts[label], label))
    if size is not None and counts[label] < size:
        raise UsageError(
            f"--sizes: {size} photos of {shown(label)} cannot be had: there are {counts[label]} {where}; give sizes up "
            f"to {counts[label]}, or all for whatever each class has"
        )
