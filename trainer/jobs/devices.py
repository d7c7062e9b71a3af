"""What jobs run on: GPUs, found without torch, and a share of the processors, the same at every start of a job."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trapline.processors import thread_count

_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Device:
    """A place for one job at a time.

    Attributes:
        name: What it is called where a job is kept; two of one name are one place, also after the service's restart.
        environment: Variables of the child.
        processors: Numbers of the processors that it may use; None for all that the service has.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    processors: tuple[int, ...] | None = None


def devices(parallel: int, gpus: Sequence[str], processors: Sequence[int] | None = None) -> tuple[Device, ...]:
    """The places for at most `parallel` jobs: one a GPU where there are any, else shares of the processors.

    Args:
        parallel: Most jobs at a time.
        gpus: The GPUs as CUDA_VISIBLE_DEVICES names them; empty for none.
        processors: Numbers of the processors to share; this process's where absent.
    """
    numbers = sorted(os.sched_getaffinity(0)) if processors is None else list(processors)
    count = min(parallel, len(gpus)) if gpus else parallel
    threads = min(thread_count("auto"), len(numbers))
    # A network trained by another number of threads is another one to the last bit: a share never depends on what
    # else runs. Where there is one place only, nothing is bounded.
    share = max(1, threads // count)
    found = []
    for place in range(count):
        mine = tuple(sorted({numbers[(place * share + number) % len(numbers)] for number in range(share)}))
        name = f"gpu {gpus[place]}" if gpus else f"cpu {place + 1} of {count}"
        visible = gpus[place] if gpus else ""
        environment = {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        found.append(Device(name=name, environment=environment, processors=None if count == 1 else mine))
    return tuple(found)


def find_gpus(wanted: str = "auto", *, proc: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """GPUs as CUDA_VISIBLE_DEVICES names them.

    Args:
        wanted: `auto` for those that this process may see, `none`, or names of one's own, joined by commas.
        proc: Where the driver lists them.
    """
    if wanted == "none":
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if wanted == "auto" else wanted
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        # What comes behind a wrong one CUDA does not see.
        return tuple(names[: next((at for at, name in enumerate(names) if name in ("", "-1")), len(names))])
    return _told_by_driver() or _listed(proc)


def _told_by_driver() -> tuple[str, ...]:
    """The UUIDs that `nvidia-smi -L` lists; parts of a GPU (MIG) in place of the whole."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, check=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ()
    found: list[list[str]] = []
    for line in done.stdout.splitlines():
        uuid = re.search(r"\(UUID: ([\w/-]+)\)", line)
        if uuid is not None and line.startswith("GPU "):
            found.append([uuid[1]])
        elif uuid is not None and found:
            found[-1].append(uuid[1])
    return tuple(name for names in found for name in names[1:] or names)


def _listed(proc: Path) -> tuple[str, ...]:
    """The UUIDs of the folders that the driver has, in the order of their addresses."""
    found = []
    for information in sorted(proc.glob("*/information")):
        uuid = re.search(
            r"^GPU UUID:\s*(GPU-[\w-]+)$", information.read_text(encoding="ascii", errors="replace"), re.MULTILINE
        )
        if uuid is not None:
            found.append(uuid[1])
    return tuple(found)
