"""How many processors the machine, or the container around the process, gives: both programs start as many threads."""

import os
from pathlib import Path
from typing import Literal


def thread_count(wanted: int | Literal["auto"], *, cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Threads to start: `wanted`, or what affinity and the CPU quota leave.

    Torch and ONNX Runtime count the node's cores. In a container with a quota of two of 64 that makes 64 threads which
    wait for each other at every barrier, so the smaller of the two bounds is taken, rounded down, never below 1.
    """
    if wanted != "auto":
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(cgroup_root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota(cgroup_root: Path) -> float | None:
    """CPUs that the control group of this process may use (versions 2 and 1); None where nothing limits it."""
    unified = _numbers(cgroup_root / "cpu.max")
    if len(unified) == 2:
        return unified[0] / unified[1]
    for folder in (cgroup_root / "cpu", cgroup_root / "cpu,cpuacct"):
        quota, period = _numbers(folder / "cpu.cfs_quota_us"), _numbers(folder / "cpu.cfs_period_us")
        if quota and period:
            return quota[0] / period[0]
    return None


def _numbers(path: Path) -> list[float]:
    """The positive numbers of a one-line file; empty where it is missing or says `max` or -1."""
    try:
        numbers = [float(word) for word in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []
    return numbers if all(number > 0 for number in numbers) else []
