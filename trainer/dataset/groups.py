"""Groups of photos that must not straddle a split: one site, one visit of an animal, one burst of frames.

A model that has seen the first frame of a burst knows the second one by heart; scores measured on it flatter. Groups
are found over all classes at once, because a burst may show two species and a site shows many.
"""

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from ..errors import UsageError
from .layout import shown
from .near_duplicates import clusters
from .photo import Photo

#: What `--group-by` takes.
GroupBy = Literal["auto", "none", "folder", "exif", "name"]

#: Photos of one camera with at most this between neighbours are one visit.
MAX_GAP_SECONDS = 60

# Of fewer photos a third is one burst: the class is small, and not the group large.
_SMALL_CLASS = 10
# Of a small class too, that many groups are needed to have it in every part.
_FEWEST_GROUPS = 3

_NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>[0-9]{1,18})(?P<after>[^0-9]*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Which photos belong together.

    Attributes:
        rule: `file`, `folder`, `exif`, `name`, `near_duplicate` or `none`.
        groups: Path -> group. A group is called by its folder (with `/` at the end), by the groups file, or by the path
            of its first photo.
        notes: Sentences on rules that were dropped.
    """

    rule: str
    groups: dict[str, str]
    notes: tuple[str, ...]


def group(
    photos: Sequence[Photo], *, group_by: GroupBy, groups_file: Path | None, rejected: Collection[str]
) -> Grouping:
    """The groups of `photos` by the first rule that fits.

    `auto` takes `folder` where at least half of the photos lie in subfolders below their class, else `exif` where at
    least half have camera and time, else `near_duplicate`. A rule asked for by name is taken where any photo has what
    it needs. Photos without it are grouped as near duplicates. A rule that puts more than a third of a class into one
    group of several photos is dropped for the next one, in the order `name`/`folder`, `exif`, `near_duplicate`,
    `none`; only a groups file is taken as it is. A class of fewer than 10 photos drops no rule that leaves it three
    groups.

    Args:
        photos: Of the whole data set.
        group_by: The rule asked for; ignored where `groups_file` is given.
        groups_file: CSV with the columns `path,group`.
        rejected: Paths left out by the scan, which the groups file may name.

    Raises:
        UsageError: The groups file is no such CSV or its paths are not those of the photos; or no photo has what the
            rule asked for needs.
    """
    if groups_file is not None:
        groups = _from_file(groups_file, photos, rejected)
        large = _too_large(photos, groups)
        kept = (f"the groups file was kept although {large}",) if large else ()
        return Grouping(rule="file", groups=groups, notes=kept)
    notes: list[str] = []
    for rule in _candidates(photos, group_by):
        groups = _RULES[rule](photos)
        large = _too_large(photos, groups)
        if large is None:
            return Grouping(rule=rule, groups=groups, notes=tuple(notes))
        notes.append(f"groups by {rule} were dropped, because {large}")
    return Grouping(rule="none", groups=_alone(photos), notes=tuple(notes))


def _candidates(photos: Sequence[Photo], group_by: GroupBy) -> Iterator[str]:
    """The rules to try before `none`."""
    if group_by == "none":
        return
    enough = len(photos) / 2
    has_folder = sum(bool(photo.subfolder) for photo in photos)
    has_exif = sum(_second(photo) is not None for photo in photos)
    has_number = sum(_number(photo) is not None for photo in photos)
    have = {"folder": has_folder, "exif": has_exif, "name": has_number}
    if group_by != "auto" and not have[group_by]:
        raise UsageError(f"--group-by {group_by}: {_NEEDS[group_by]}; use --group-by auto")
    if group_by == "name":
        yield "name"
    if group_by == "folder" or (group_by == "auto" and has_folder >= enough):
        yield "folder"
    if group_by == "exif" or (group_by != "name" and has_exif >= enough):
        yield "exif"
    yield "near_duplicate"


_NEEDS = {
    "folder": "no photo lies in a subfolder below its class folder",
    "exif": "no photo says in its EXIF which camera took it and when",
    "name": "no file name holds a number",
}


def _too_large(photos: Sequence[Photo], groups: dict[str, str]) -> str | None:
    """Which group holds more than a third of a class, as a clause, where one does: the largest share is named."""
    totals = Counter(photo.label for photo in photos)
    sizes = Counter((groups[photo.path], photo.label) for photo in photos)
    group_counts = Counter(label for _, label in sizes)
    large = [
        (name, label)
        for (name, label), size in sizes.items()
        if size > 1
        and size * 3 > totals[label]
        and (totals[label] >= _SMALL_CLASS or group_counts[label] < _FEWEST_GROUPS)
    ]
    if not large:
        return None
    name, label = max(large, key=lambda key: (sizes[key] / totals[key[1]], key))
    size, total = sizes[name, label], totals[label]
    return f"one group ({shown(name)}) holds {size:,} of the {total:,} photos of {shown(label)}, more than a third"


def _alone(photos: Sequence[Photo]) -> dict[str, str]:
    return {photo.path: photo.path for photo in photos}


def _by_near_duplicate(photos: Sequence[Photo]) -> dict[str, str]:
    ordered = sorted(photos, key=lambda photo: photo.path)
    first = clusters([photo.difference_hash for photo in ordered])
    return {photo.path: ordered[index].path for photo, index in zip(ordered, first.tolist(), strict=True)}


def _by_folder(photos: Sequence[Photo]) -> dict[str, str]:
    """By the first folder below the class; `deer/site1/` and `fox/site1/` are one site, with one background."""
    groups = _by_near_duplicate([photo for photo in photos if not photo.subfolder])
    groups |= {photo.path: photo.subfolder.split("/")[0] + "/" for photo in photos if photo.subfolder}
    return groups


def _by_exif(photos: Sequence[Photo]) -> dict[str, str]:
    timed = [(photo.camera, second, photo.path) for photo in photos if (second := _second(photo)) is not None]
    return _chained(photos, timed, max_gap=MAX_GAP_SECONDS)


def _by_name(photos: Sequence[Photo]) -> dict[str, str]:
    """By runs of file numbers in one subfolder: a camera counts on, whatever classes its photos were sorted into."""
    numbered = [(*number, photo.path) for photo in photos if (number := _number(photo)) is not None]
    return _chained(photos, numbered, max_gap=1)


_RULES = {"folder": _by_folder, "exif": _by_exif, "name": _by_name, "near_duplicate": _by_near_duplicate}


def _chained(photos: Sequence[Photo], known: Sequence[tuple[str, int, str]], *, max_gap: int) -> dict[str, str]:
    """Groups of (source, position, path) with at most `max_gap` between neighbours; the rest as near duplicates."""
    groups: dict[str, str] = {}
    last_source, last_position, name = "", 0, ""
    for source, position, path in sorted(known):
        if not name or source != last_source or position - last_position > max_gap:
            name = path
        groups[path] = name
        last_source, last_position = source, position
    return groups | _by_near_duplicate([photo for photo in photos if photo.path not in groups])


def _second(photo: Photo) -> int | None:
    """When the photo was taken, in seconds by the camera's clock; None where camera or time is unknown."""
    if not photo.camera:
        return None
    try:
        taken = datetime.strptime(photo.taken, "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007  # EXIF knows no zone; gaps need none
    except ValueError:
        return None
    return int((taken - datetime.min).total_seconds())  # noqa: DTZ901  # the same clock on both sides


def _number(photo: Photo) -> tuple[str, int] | None:
    """The file name around its last number (with its subfolder), and the number."""
    match = _NUMBERED.fullmatch(Path(photo.path).stem)
    if match is None:
        return None
    return "/".join((photo.subfolder, match["before"], match["after"])), int(match["number"])


def _from_file(path: Path, photos: Sequence[Photo], rejected: Collection[str]) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--groups: cannot read {path} ({reason}); name a CSV with the columns path,group") from error
    groups: dict[str, str] = {}
    for row in rows:
        name, own_group = row.get("path"), row.get("group")
        if not name or not own_group:
            raise UsageError(f"--groups: {path} must have the columns path,group, both filled in every row")
        if groups.setdefault(name, own_group) != own_group:
            raise UsageError(f"--groups: {path} puts {shown(name)} into two groups; leave one row of it")
    paths = {photo.path for photo in photos}
    unknown = sorted(groups.keys() - paths - set(rejected))
    if unknown:
        raise UsageError(
            f"--groups: {path} names {_some(unknown)} that the data folder lacks; write paths relative to it, as in "
            "scan.csv"
        )
    missing = sorted(paths - groups.keys())
    if missing:
        raise UsageError(f"--groups: {path} has no row for {_some(missing)}; give every photo a group")
    return {photo.path: groups[photo.path] for photo in photos}


def _some(paths: Sequence[str]) -> str:
    return (
        f"{len(paths):,} paths (" + ", ".join(shown(path) for path in paths[:3]) + (", ...)" if len(paths) > 3 else ")")
    )
