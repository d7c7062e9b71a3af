"""How a service runs its jobs."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How jobs are run.

    Attributes:
        runs_root: Folder of the jobs' folders.
        hidden: Folders whose files are told to clients by their names below it.
        program: What a child is; it gets the job's folder as its last argument.
        min_free_bytes: Room on the disk of the runs below which no process is started.
        max_seconds: Longest time that a job's processes may run; None for any.
        grace_seconds: How long a process may take to stop when it is asked to.
        poll_seconds: How often what it tells is looked at.
        restart_seconds: How long is waited before a process that died is started again; longer each time.
        attempts: Starts in a row without coming further after which a job fails.
    """

    runs_root: Path
    hidden: Sequence[Path] = ()
    # -P: its folder, which it is started in, is no place for modules.
    program: Sequence[str] = (sys.executable, "-P", "-m", "trainer.jobs.child")
    min_free_bytes: int = 0
    max_seconds: float | None = None
    grace_seconds: float = 30.0
    poll_seconds: float = 0.3
    restart_seconds: float = 1.0
    attempts: int = 5

    def short_of_disk(self) -> bool:
        """Whether there is too little room to start anything."""
        return shutil.disk_usage(self.runs_root).free < self.min_free_bytes
