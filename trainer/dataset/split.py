"""Which photos are trained on, which choose the best epoch, and which make the number that is reported.

Groups (see `trainer.dataset.groups`) never straddle what is cut here, every class is in every part, and each class's
shares are as near to those asked for as whole groups allow. Parts that the data folder gives are kept as they are:
`val/` and `test/` whole, and what is missing is cut from `train/`.
"""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trapline.csv_rows import CsvRows

from ..errors import DatasetError, UsageError
from .allocation import allocate
from .groups import GroupBy, group
from .layout import PARTS, shown
from .photo import Photo
from .scan import Scan

_UNEVEN = 0.05


@dataclass(frozen=True, kw_only=True)
class Split:
    """The part and group of every photo.

    Attributes:
        parts: Path -> `train`, `val` or `test`, in the order of paths.
        groups: Path -> group, likewise.
        rule: How groups were found, as in `Grouping`; `given` where the data folder has all three parts already.
        grouping: How groups were found, whether or not parts are given.
        notes: Sentences for the person who reads the result: rules dropped, leaks between given parts, uneven shares.
    """

    parts: dict[str, str]
    groups: dict[str, str]
    rule: str
    grouping: str
    notes: tuple[str, ...]

    @property
    def split_digest(self) -> str:
        """SHA-256, in hex, over sorted (path, part) pairs."""
        digest = hashlib.sha256()
        for path, part in sorted(self.parts.items()):
            digest.update(path.encode("utf-8", "surrogateescape") + f"\0{part}\n".encode())
        return digest.hexdigest()


def split(
    scan: Scan, *, val_share: float, test_share: float, seed: int, group_by: GroupBy, groups_file: Path | None
) -> Split:
    """The split of a scanned data folder; the same for the same photos, options and seed.

    Args:
        scan: The data.
        val_share: Share of each class, above 0, cut for validation where no `val/` is given: of all its photos, or of
            those in `train/` where parts are given.
        test_share: Likewise for the test part.
        seed: Of the shuffle.
        group_by: Rule that finds groups; see `groups.group`.
        groups_file: CSV `path,group` that takes the place of a rule.

    Raises:
        UsageError: Shares that leave nothing to train on; a groups file or rule that does not fit the photos.
        DatasetError: A class has too few groups to be in every part.
    """
    if min(val_share, test_share) <= 0 or val_share + test_share >= 1:
        raise UsageError("--val-share and --test-share must be above 0 and leave something to train on: sum below 1")
    grouping = group(
        scan.photos, group_by=group_by, groups_file=groups_file, rejected=[row.path for row in scan.rejected]
    )
    given = {photo.part for photo in scan.photos} - {""}
    shares = {"val": val_share, "test": test_share}
    cut = {part: share for part, share in shares.items() if part not in given}
    parts = {photo.path: photo.part or "train" for photo in scan.photos}
    notes = [*grouping.notes, *_given_notes(scan, given, grouping.groups)]
    if cut:
        parts |= _cut(scan, grouping.groups, cut=cut, seed=seed)
        notes += _uneven_notes(scan, parts, cut=cut)
    return Split(
        parts=dict(sorted(parts.items())),
        groups=dict(sorted(grouping.groups.items())),
        rule=grouping.rule if cut else "given",
        grouping=grouping.rule,
        notes=tuple(notes),
    )


def write_split_csv(scan: Scan, split: Split, path: Path) -> None:
    """Writes one row a photo, sorted by path: `path,label,part,group`; UTF-8, other bytes in file names are kept."""
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = CsvRows(file)
        writer.writerow(("path", "label", "part", "group"))
        for photo in scan.photos:
            writer.writerow((photo.path, photo.label, split.parts[photo.path], split.groups[photo.path]))


def _cut(scan: Scan, groups: dict[str, str], *, cut: dict[str, float], seed: int) -> dict[str, str]:
    """Path -> part for the photos that may be cut from; whole groups."""
    source = [photo for photo in scan.photos if photo.part in ("", "train")]
    # A group that reaches into a given val/ or test/ must not reach into one more part.
    fixed = {groups[photo.path] for photo in scan.photos if photo.part in ("val", "test")}
    members: dict[str, list[Photo]] = defaultdict(list)
    for photo in source:
        members[groups[photo.path]].append(photo)
    free = [name for name in members if name not in fixed]
    column = {label: index for index, label in enumerate(scan.labels)}
    counts = np.zeros((len(free), len(column)), np.int64)
    for row, name in enumerate(free):
        for photo in members[name]:
            counts[row, column[photo.label]] += 1
    locked = np.zeros(len(column), np.int64)
    for photo in source:
        locked[column[photo.label]] += groups[photo.path] in fixed
    names = ["train", *cut]
    for label, index in column.items():
        have, need = int(np.count_nonzero(counts[:, index])), len(names) - bool(locked[index])
        if have < need:
            raise _too_few(label, photos=int(counts[:, index].sum()), groups=have, need=need, names=names)
    shares = np.array([1 - sum(cut.values()), *cut.values()])
    part = allocate(counts, locked=locked, shares=shares, generator=np.random.default_rng(seed))
    parts = {photo.path: names[part[row]] for row, name in enumerate(free) for photo in members[name]}
    _check_covered(scan, {**{photo.path: "train" for photo in source}, **parts}, names=names)
    return parts


def _too_few(label: str, *, photos: int, groups: int, need: int, names: list[str]) -> DatasetError:
    return DatasetError(
        f"the class {shown(label)} has {photos:,} photos in {groups:,} groups that can be divided among "
        f"{', '.join(names)}, and at least {need} groups are needed; add photos of other sites or visits, give own "
        "val/ and test/ folders, or accept leaks with --group-by none"
    )


def _check_covered(scan: Scan, parts: dict[str, str], *, names: list[str]) -> None:
    seen = {(photo.label, parts[photo.path]) for photo in scan.photos if photo.path in parts}
    for label in scan.labels:
        for name in names:
            if (label, name) not in seen:
                raise DatasetError(
                    f"no photo of {shown(label)} can be put into {name} without tearing a group apart or taking "
                    "another class out of a part; add photos of other sites or visits, or give own val/ and test/"
                )


def _given_notes(scan: Scan, given: set[str], groups: dict[str, str]) -> list[str]:
    notes = []
    reach: dict[str, set[str]] = defaultdict(set)
    for photo in scan.photos:
        reach[groups[photo.path]].add(photo.part)
    straddling = [name for name, parts in reach.items() if len(parts) > 1]
    if straddling:
        photos = sum(groups[photo.path] in set(straddling) for photo in scan.photos)
        notes.append(
            f"{len(straddling):,} groups ({photos:,} photos, e.g. {shown(straddling[0])}) lie in more than one of the "
            "given parts: scores on them flatter; the given parts were kept"
        )
    present = {(photo.label, photo.part) for photo in scan.photos}
    for part in PARTS[1:]:
        absent = [shown(label) for label in scan.labels if part in given and (label, part) not in present]
        if absent:
            notes.append(f"{part}/ has no photo of {', '.join(absent)}: nothing is measured for it there")
    return notes


def _uneven_notes(scan: Scan, parts: dict[str, str], *, cut: dict[str, float]) -> list[str]:
    """Where whole groups kept a class more than five points, and more than one photo, from the share asked for."""
    source = [photo for photo in scan.photos if photo.part in ("", "train")]
    totals = Counter(photo.label for photo in source)
    had = Counter((photo.label, parts[photo.path]) for photo in source)
    return [
        f"{part} holds {had[label, part] / totals[label]:.0%} of {shown(label)} ({had[label, part]:,} photos) instead "
        f"of {share:.0%}: its groups cannot be divided more evenly"
        for label in scan.labels
        for part, share in cut.items()
        if abs(had[label, part] - share * totals[label]) > max(1, _UNEVEN * totals[label])
    ]
