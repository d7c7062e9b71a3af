"""One child process, timed from its start and with the memory of its whole tree sampled."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_SECONDS = 0.25
# Proportional sizes are dear: the kernel walks every page, 0.2 s for 6 GiB.
_GROWTH = 1.01
_MOST_SHARE_OF_TIME = 0.02


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one run took.

    Attributes:
        began: When it was started, on the monotonic clock that all processes share.
        seconds: From its start to its end.
        peak_mib: Largest proportional set size of its tree, until `clock_stops` appeared; see `Peak`.
        others_share: Share of all cores' time that other processes used meanwhile.
        load: The machine's 1-minute load average before the start.
    """

    began: float
    seconds: float
    peak_mib: float
    others_share: float
    load: float


def measured(
    command: list[str], *, environment: dict[str, str] | None = None, log: Path, clock_stops: Path | None = None
) -> Measured:
    """Runs `command` to its end; its output goes to `log`.

    Args:
        command: Program and arguments.
        environment: Variables added to this process's own.
        log: File for its output.
        clock_stops: A file that the process writes when its measured work is done; memory is sampled until then.

    Raises:
        SystemExit: It failed; the end of its output is in the sentence.
    """
    load, busy, used = os.getloadavg()[0], busy_seconds(), children_seconds()
    peak = Peak()
    with log.open("wb") as output:
        began = time.monotonic()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )
        try:
            while True:
                if clock_stops is None or not clock_stops.exists():
                    peak.sample(child.pid)
                try:
                    child.wait(_SAMPLE_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            # Ctrl-C or a kill of this process: the child has a session of its own and would go on.
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    seconds = time.monotonic() - began
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n" + log.read_text(errors="replace")[-2000:])
    others = (busy_seconds() - busy) - (children_seconds() - used)
    cores = os.cpu_count() or 1
    return Measured(
        began=began,
        seconds=seconds,
        peak_mib=peak.kib / 1024,
        others_share=max(0.0, others / (cores * seconds)),
        load=load,
    )


class Peak:
    """The largest sum of proportional set sizes (PSS) of a process and its descendants.

    PSS divides what processes share among them, so that their sum counts it once; resident sizes count it in each.
    It is taken whenever the sum of resident sizes has grown by 1 % over any before, and takes at most 2 % of the time.
    """

    def __init__(self) -> None:
        self.kib = 0.0
        self._resident_kib = 0.0
        self._next = 0.0

    def sample(self, root: int) -> None:
        """Looks at the tree of `root` once."""
        processes = tree(root)
        resident = sum(_kib(process, "status", "VmRSS:") for process in processes)
        began = time.monotonic()
        if resident < self._resident_kib * _GROWTH or began < self._next:
            return
        self._resident_kib = resident
        self.kib = max(self.kib, sum(_kib(process, "smaps_rollup", "Pss:") for process in processes))
        took = time.monotonic() - began
        self._next = began + took / _MOST_SHARE_OF_TIME


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The name, in parentheses, may hold anything; state and parent follow it.
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            children[int(parent)].append(int(folder.name))
    found = [root]
    for process in found:
        found += children[process]
    return found


def stop_on_terminate() -> None:
    """Makes a plain `kill` end this process like Ctrl-C does, children included."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))


def _kib(process: int, file: str, field: str) -> float:
    """A size from one of the process's files; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith(field)), 0.0)


def busy_seconds() -> float:
    """Seconds that all cores together have worked since the start of the machine, time taken by its host included."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = fields[:8]
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    """Processor time of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
