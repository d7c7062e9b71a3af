"""What `trainer cache list` and `trainer cache clear` do."""

import math
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from .folder import CacheFolder, delete, folders, locked, storage_errors
from .hashes import HASHES_FILE, remove_hashes

_DAY_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True)
class Cleared:
    """What clearing came to.

    Attributes:
        sentences: One line a folder.
        some_in_use: Whether a folder stayed because a run has it open.
    """

    sentences: str
    some_in_use: bool


def table(cache: Path) -> str:
    """The folders of rules in the user's cache folder, a line each, least recently used first."""
    found = _found(cache)
    if not found:
        return _nothing(cache)
    rows = [("folder", "rules", "photos", "MiB", "last used", "")]
    for folder in found:
        used = datetime.fromtimestamp(folder.last_used).astimezone().strftime("%Y-%m-%d %H:%M")
        count = "–" if folder.photo_count is None else f"{folder.photo_count:,}"
        note = "in use" if folder.in_use else ""
        rows.append((folder.path.name, _rules(folder), count, _mib(folder), used, note))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{name:<{widths[0]}}  {rules:<{widths[1]}}  {count:>{widths[2]}}  {size:>{widths[3]}}  {used:<16}  {note}"
        for name, rules, count, size, used, note in rows
    ]
    return "\n".join([str(cache), *(line.rstrip() for line in lines)])


def clear(cache: Path, *, older_than_days: int | None) -> Cleared:
    """Deletes the folders of rules that nobody has open, or only those unused for so many days; nothing else."""
    if not _found(cache):
        return Cleared(sentences=_nothing(cache), some_in_use=False)
    newest = math.inf if older_than_days is None else time.time() - older_than_days * _DAY_SECONDS
    lines, some_in_use = [], False
    with storage_errors(cache), locked(cache):
        for folder in folders(cache):
            words = f"{folder.path} ({_rules(folder)}, {_mib(folder)} MiB)"
            if folder.last_used > newest:
                continue
            if folder.in_use:
                some_in_use = True
                lines.append(f"a run has it open, not deleted: {words}")
            else:
                delete(folder.path)
                lines.append(f"deleted: {words}")
        if not folders(cache):
            remove_hashes(cache / HASHES_FILE)
    return Cleared(sentences="\n".join(lines) or f"nothing in {cache} is that old", some_in_use=some_in_use)


def _found(cache: Path) -> list[CacheFolder]:
    # Without the lock, which would leave a file in a folder that is no cache.
    with storage_errors(cache):
        if not folders(cache):
            return []
        with locked(cache):
            return folders(cache)


def _mib(folder: CacheFolder) -> str:
    return f"{math.ceil(folder.size_bytes / 2**20):,}"


def _rules(folder: CacheFolder) -> str:
    return folder.rules if folder.is_current else f"of another version{f': {folder.rules}' if folder.rules else ''}"


def _nothing(cache: Path) -> str:
    return f"no decoded photos in {cache}"
