"""What processors the machine, or the container around the process, gives: how many threads to start, what they can."""

import os
import platform
from pathlib import Path
from typing import Literal

#: Of ONNX Runtime: products of int8 by slower instructions that do not saturate; see `adds_int8_products_exactly`.
EXACT_INT8_ENTRY = ("session.x64quantprecision", "1")
_EXACT_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


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


def adds_int8_products_exactly(cpuinfo: Path = Path("/proc/cpuinfo"), *, machine: str | None = None) -> bool:
    """Whether the processor adds products of int8 in 32 bits, so that an int8 model answers as it was checked.

    Processors for x86 without VNNI or AMX add two products in 16 bits, where the sum of two large ones is cut off: the
    same file then gives other, much worse answers. Where this is False, a session must be given `EXACT_INT8_ENTRY`.

    Args:
        cpuinfo: The kernel's list of the processors' features.
        machine: The architecture; this machine's where absent.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64", "i686"):
        return True
    try:
        flags = cpuinfo.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return not _EXACT_FLAGS.isdisjoint(flags)


def _numbers(path: Path) -> list[float]:
    """The positive numbers of a one-line file; empty where it is missing or says `max` or -1."""
    try:
        numbers = [float(word) for word in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []
    return numbers if all(number > 0 for number in numbers) else []
