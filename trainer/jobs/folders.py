"""Where things lie below the runs root."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import UsageError

#: The SQLite file, below the runs root.
STORE = "jobs.sqlite"
#: In a job's folder: what its child is to do.
ORDER = "order.json"
#: In a job's folder: what its child tells.
EVENTS = "events.jsonl"
#: In a job's folder: locked as long as its child lives.
LOCK = "process.lock"
#: In a job's folder: its child's output.
LOG = "child.log"
_DELETED = ".deleted-"


def job_folder(runs_root: Path, job_id: str) -> Path:
    """A job's folder."""
    return runs_root / job_id


def run_folder(runs_root: Path, job_id: str) -> Path:
    """The run folder of a job, as `trainer run --out` writes it."""
    return job_folder(runs_root, job_id) / "run"


def set_aside(runs_root: Path, job_id: str) -> bool:
    """Renames a job's folder to what `clear` removes; gives whether it had one."""
    folder, aside = job_folder(runs_root, job_id), _aside(runs_root, job_id)
    if not folder.exists():
        return False
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    return True


def put_back(runs_root: Path, job_id: str) -> None:
    """Undoes `set_aside`."""
    _aside(runs_root, job_id).rename(job_folder(runs_root, job_id))


def _aside(runs_root: Path, job_id: str) -> Path:
    return runs_root / f"{_DELETED}{job_id}"


def clear(runs_root: Path) -> None:
    """Removes the folders of deleted jobs, also those that an earlier process left."""
    for aside in runs_root.glob(f"{_DELETED}*"):
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def locked_root(runs_root: Path) -> Iterator[None]:
    """The runs root, which is made where it is missing, for this process alone.

    Raises:
        UsageError: Another service has it, or it cannot be written.
    """
    try:
        runs_root.mkdir(parents=True, exist_ok=True)
        lock = (runs_root / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"--runs-root: cannot write {runs_root} ({error.strerror}); name another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"--runs-root: another service runs the jobs in {runs_root}; stop it, or name another folder"
            ) from error
        yield
