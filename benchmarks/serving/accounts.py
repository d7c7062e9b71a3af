"""Who used the processors: processor time of the machine, and of process trees, from /proc."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from processes import busy_seconds, tree

from .figures import foreign_cores

#: A variable of the environment that every process of one server has, those that left its tree included.
MARK = "TRAPLINE_BENCHMARK_SERVER"
_TICKS = os.sysconf("SC_CLK_TCK")


def members(root: int, mark: str) -> set[int]:
    """Processes of a server: the tree of `root`, and whatever else carries its mark."""
    wanted = f"{MARK}={mark}".encode()
    found = set(tree(root))
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) not in found:
            try:
                carries = wanted in (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if carries:
                found.add(int(folder.name))
    return found


def cpu_seconds(processes: Iterable[int]) -> float:
    """Processor time of `processes` so far, and of their children that have ended."""
    total = 0
    for process in processes:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


def resident_mib(processes: Iterable[int]) -> float:
    """Memory of `processes`, resident sizes added up."""
    pages = 0
    for process in processes:
        try:
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, kw_only=True)
class Account:
    """Processor time at one moment, in seconds: of the machine, of the server's processes, of the generator's."""

    machine: float
    server: float
    generator: float

    @classmethod
    def now(cls, *, root: int, mark: str, supervisor: int) -> "Account":
        """The account of the server under `root`; `supervisor`, which started both, counts with the generator."""
        own = os.times()
        return cls(
            machine=busy_seconds(),
            server=cpu_seconds(members(root, mark)),
            generator=own.user + own.system + _alone(supervisor),
        )

    def since(self, before: "Account", *, seconds: float, images: int) -> dict[str, float | None]:
        """What was used between `before` and this, as a row has it."""
        server, generator = self.server - before.server, self.generator - before.generator
        foreign = foreign_cores(
            busy_seconds=self.machine - before.machine, own_seconds=server + generator, seconds=seconds
        )
        return {
            "server_cpu_ms_per_image": round(1000 * server / images, 3) if images else None,
            "generator_cpu_ms_per_image": round(1000 * generator / images, 3) if images else None,
            "server_cores": round(server / seconds, 3),
            "generator_cores": round(generator / seconds, 3),
            "foreign_cores": round(foreign, 3),
        }


def _alone(process: int) -> float:
    """Processor time of one process, without its children."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
