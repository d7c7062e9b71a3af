"""Where things lie below the runs root."""

import fcntl
import secrets
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
#: In a job's folder: its run.
RUN = "run"
_DELETED = ".deleted-"


def job_folder(runs_root: Path, job_id: str) -> Path:
    """A job's folder."""
    return runs_root / job_id


def run_folder(runs_root: Path, job_id: str) -> Path:
    """The run folder of a job, as `trainer run --out` writes it."""
    return job_folder(runs_root, job_id) / RUN


def set_aside(runs_root: Path, job_id: str) -> Path | None:
    """Renames a job's folder to what `clear` removes; gives its new place, or None where there was no folder."""
    folder, aside = job_folder(runs_root, job_id), runs_root / f"{_DELETED}{job_id}.{secrets.token_hex(4)}"
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return None
    return aside


def remove(aside: Path | None) -> None:
    """Removes what `set_aside` gave; what cannot be removed now `clear` removes later."""
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def clear(runs_root: Path) -> None:
    """Removes the folders of deleted jobs that an earlier service left."""
    for aside in runs_root.glob(f"{_DELETED}*"):
        remove(aside)


@contextmanager
def locked_root(runs_root: Path) -> Iterator[None]:
    """The runs root, which is made where it is missing, for this process alone.

    Raises:
        UsageError: Another service has it, or it cannot be written or locked.
    """
    try:
        runs_root.mkdir(parents=True, exist_ok=True)
        lock = (runs_root / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"--runs-root: cannot write {runs_root} ({error.strerror}); name another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"--runs-root: another service runs the jobs in {runs_root}; stop it, or name another folder"
            ) from error
        except OSError as error:
            raise UsageError(
                f"--runs-root: {runs_root} cannot be locked ({error.strerror}), so two services might run its jobs; "
                "name a folder on a disk of this machine"
            ) from error
        yield
