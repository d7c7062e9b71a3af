"""Subsets of the training photos: nested, of the size asked for, groups whole but for one a class, nothing leaks."""

import itertools
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import StudyConfig
from trainer.data import Data
from trainer.dataset.photo import Photo
from trainer.dataset.scan import Scan
from trainer.dataset.split import Split
from trainer.dataset.subsets import subset
from trainer.errors import UsageError
from trainer.study.points import restricted, tasks


def photo(label, number):
    path = f"{label}/{number:03}.jpg"
    return Photo(path=path, label=label, part="", sha256=path, camera="", taken="", difference_hash=0, cache_row=number)


@st.composite
def training_parts(draw):
    """Photos of two to four classes in groups, some of which hold several classes; at least three photos a class."""
    photos, groups = [], {}
    for label in "abcd"[: draw(st.integers(2, 4))]:
        for number in range(draw(st.integers(3, 12))):
            photos.append(photo(label, number))
            groups[photos[-1].path] = f"group {draw(st.integers(0, 8))}"
    return photos, groups


def drawn(part, size, seed=0, repeat=1):
    photos, groups = part
    return subset(photos, groups, size=size, seed=seed, repeat=repeat)


@settings(max_examples=60, deadline=None)
@given(part=training_parts(), seed=st.integers(0, 2**31 - 1), repeat=st.integers(1, 5))
def test_sizes_are_nested_and_met_exactly(part, seed, repeat):
    """The photos of a size are among those of each larger one; each class has just so many, or all that it has."""
    photos, groups = part
    totals = Counter(one.label for one in photos)
    sizes = [1, 2, 3, None]
    got = [drawn(part, size, seed, repeat) for size in sizes]
    for smaller, larger in itertools.pairwise(got):
        assert smaller.paths <= larger.paths
    for size, one in zip(sizes, got, strict=True):
        assert one.counts == {label: size or total for label, total in sorted(totals.items())}
        assert Counter(path.split("/")[0] for path in one.paths) == one.counts
    assert got[-1].paths == {one.path for one in photos}
    assert got[-1].cut_group_count == 0
    assert got[-1].group_count == len(set(groups.values()))


@settings(max_examples=60, deadline=None)
@given(part=training_parts(), seed=st.integers(0, 2**31 - 1), size=st.integers(1, 3))
def test_of_each_class_at_most_one_group_is_cut(part, seed, size):
    """All other groups of a class are in whole or not at all, and the cut ones are counted."""
    photos, groups = part
    one = drawn(part, size, seed)
    cut = set()
    for label in {photo.label for photo in photos}:
        members = Counter(groups[photo.path] for photo in photos if photo.label == label)
        inside = Counter(groups[path] for path in one.paths if path.startswith(f"{label}/"))
        torn = {name for name, count in inside.items() if count < members[name]}
        assert len(torn) <= 1
        cut |= torn
    # A group may also be cut because one of its classes was met before it came.
    assert one.cut_group_count >= len(cut)


def test_the_same_seed_gives_the_same_photos_and_repeats_differ():
    """Nothing but seed and repeat decides; photos in another order are the same subset."""
    photos = [photo(label, number) for label in "ab" for number in range(40)]
    groups = {one.path: one.path for one in photos}
    first = drawn((photos, groups), 10)
    assert first == drawn((photos[::-1], groups), 10)
    assert len({drawn((photos, groups), 10, 0, repeat).paths for repeat in range(1, 6)}) == 5
    assert drawn((photos, groups), 10, 1).paths != first.paths


def test_a_size_that_cannot_be_had_names_the_class_and_its_count():
    """The class with the fewest photos is named, with what it has."""
    photos = [photo("deer", number) for number in range(9)] + [photo("fox", number) for number in range(4)]
    groups = {one.path: one.path for one in photos}
    with pytest.raises(UsageError, match=r"--sizes: 5 photos of fox cannot be had: there are 4 to train on"):
        drawn((photos, groups), 5)
    assert len(drawn((photos, groups), 4).paths) == 8


@settings(max_examples=40, deadline=None)
@given(part=training_parts(), seed=st.integers(0, 1000))
def test_every_point_has_the_same_test_photos_and_trains_on_none_of_them(part, seed):
    """Validation and test are those of the split in every point; what is trained on is of the training part alone."""
    training, groups = part
    others = [photo(label, number) for label in {one.label for one in training} for number in range(100, 104)]
    parts = {one.path: "train" for one in training}
    parts |= {one.path: "test" if number % 2 else "val" for number, one in enumerate(others)}
    photos = tuple(sorted([*training, *others], key=lambda one: one.path))
    groups = groups | {one.path: f"held out {one.path}" for one in others}
    labels = tuple(sorted({one.label for one in photos}))
    data = Data(
        scan=Scan(root=Path("photos"), labels=labels, photos=photos, rejected=()),
        split=Split(parts=parts, groups=groups, rule="none", grouping="none", notes=()),
        cache=None,
    )
    config = StudyConfig.model_construct(sizes="1,3,all", repeats=3, seed=seed)
    wanted = tasks(config, data, Path("study"))
    assert [(task.size, task.repeat) for task in wanted][:4] == [("1", 1), ("3", 1), ("all", 1), ("1", 2)]
    for task in wanted:
        got = restricted(data, task)
        held_out = {path: part for path, part in parts.items() if part != "train"}
        assert {path: part for path, part in got.split.parts.items() if part != "train"} == held_out
        trained_on = {got.scan.photos[position].path for position in got.positions("train")}
        assert trained_on == task.subset.paths
        assert trained_on <= {one.path for one in training}
        assert not {groups[path] for path in trained_on} & {groups[path] for path in held_out}
        assert set(got.split.groups) == {one.path for one in got.scan.photos}
