"""How much memory this process may still take: the machine's, and what the control groups around it leave."""

import os
from pathlib import Path


def available_memory_bytes(
    *,
    meminfo: Path = Path("/proc/meminfo"),
    group: Path = Path("/proc/self/cgroup"),
    root: Path = Path("/sys/fs/cgroup"),
) -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say, as elsewhere than on Linux."""
    known = [_of_machine(meminfo), *(_of_group(folder) for folder in _groups(group, root))]
    return min((count for count in known if count is not None), default=None)


def used_memory_bytes() -> int:
    """Bytes of memory that this process has now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _of_machine(meminfo: Path) -> int | None:
    kibibytes = _facts(meminfo).get("MemAvailable:")
    return None if kibibytes is None else kibibytes * 1024


def _groups(group: Path, root: Path) -> list[Path]:
    """The folders of the process's control groups for memory and of those around them (versions 2 and 1)."""
    try:
        lines = group.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        own = top / path.lstrip("/")
        # In a container the path may be the host's: what is not there is passed over.
        folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(top)]
    return folders


def _of_group(folder: Path) -> int | None:
    """What the group leaves; files that the kernel would drop count as free."""
    for limit, used, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = _number(folder / limit), _number(folder / used)
        if most is not None and now is not None:
            return max(0, most - now + _facts(folder / "memory.stat").get(reclaimable, 0))
    return None


def _number(path: Path) -> int | None:
    """The number in a file; None where it is missing or says `max`."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _facts(path: Path) -> dict[str, int]:
    """First word and number of each line; empty where the file is missing."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}
