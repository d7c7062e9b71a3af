"""Whether a data folder is still the one a run has seen: by sizes and times in a moment, by contents for sure."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .layout import find_files, shown

_NAMED = 3


def fingerprint(root: Path) -> str:
    """SHA-256, in hex, over path, size and modification time of every image file below `root`; no file is opened.

    The same fingerprint means the same data; another one means "scan and compare `data_digest`", since a copied folder
    has new times.

    Raises:
        UsageError: `root` is missing or no folder.
        DatasetError: The folder's shape is wrong.
    """
    digest = hashlib.sha256()
    for file in find_files(root).files:
        try:
            facts = os.stat(f"{root}/{file.path}")  # noqa: PTH116  # of 100,000 files: Path doubles the time
            seen = f"{facts.st_size} {facts.st_mtime_ns}"
        except OSError:  # gone since its folder was listed: the folder is changing
            seen = "gone"
        digest.update(_bytes(file.path) + f"\0{seen}\n".encode())
    return digest.hexdigest()


def data_digest(sha256_of: Mapping[str, str]) -> str:
    """SHA-256, in hex, over sorted (path, SHA-256 of the file) pairs."""
    digest = hashlib.sha256()
    for path, sha256 in sorted(sha256_of.items()):
        digest.update(_bytes(path) + f"\0{sha256}\n".encode())
    return digest.hexdigest()


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """How two (path -> SHA-256) mappings differ, e.g. `2 new (deer/5.jpg, fox/1.jpg), 1 changed (deer/2.jpg)`.

    Empty where they do not.
    """
    kinds = {
        "new": sorted(now.keys() - before.keys()),
        "gone": sorted(before.keys() - now.keys()),
        "changed": sorted(path for path in before.keys() & now.keys() if before[path] != now[path]),
    }
    return ", ".join(f"{len(paths):,} {kind} ({_some(paths)})" for kind, paths in kinds.items() if paths)


def _some(paths: Sequence[str]) -> str:
    return ", ".join(shown(path) for path in paths[:_NAMED]) + (", ..." if len(paths) > _NAMED else "")


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
