"""Child processes: started in a session of their own, or found alive, where an earlier service started them.

A child holds the lock of its job's folder as long as it lives, by a descriptor that it inherits: who cannot take the
lock knows that it lives, and who has the file open is it.
"""

import asyncio
import fcntl
import logging
import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .folders import LOCK, LOG

_LOG = logging.getLogger(__name__)
_LOG_BYTES = 4 * 2**20
# What would tell the child to be another run, or one of several processes.
_OTHERS = ("TRAINER_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class Child:
    """A process of a job, whether this service started it or found it.

    Attributes:
        pid: Its number, and that of its group.
        ended: Whether it has ended.
    """

    def __init__(
        self, folder: Path, pid: int, told: Callable[[], object], process: subprocess.Popen[bytes] | None = None
    ) -> None:
        """Watches a process that lives, or that is not reaped yet.

        Args:
            folder: The job's folder.
            pid: The process.
            told: Called on the event loop when it has ended.
            process: The same, where this service started it.

        Raises:
            ProcessLookupError: It is gone.
        """
        self.pid, self.ended = pid, False
        self._folder, self._told, self._process = folder, told, process
        self._descriptor = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        self.ended = True
        self._told()

    def terminate(self) -> None:
        """Asks it to stop; what it started itself is its own to end."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once, and all of its group."""
        # As long as it is not reaped its number is nobody else's.
        if self._process is not None or not select.select([self._descriptor], [], [], 0)[0]:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def buried(self) -> str:
        """Ends what is left of its group once it has ended, and watches it no more; gives how it ended, if known."""
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        if self._process is None or not self.ended:
            return ""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        code = self._process.wait()
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def bound_log(self) -> None:
        """Empties its log where that has grown too large."""
        log = self._folder / LOG
        with suppress(OSError):
            if log.stat().st_size > _LOG_BYTES:
                os.truncate(log, 0)


def start(folder: Path, program: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts the program on a job's folder, which it gets as its last argument.

    Raises:
        OSError: It cannot be started, or another process holds the folder's lock.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
    with (folder / LOCK).open("a") as lock, (folder / LOG).open("ab") as log:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return subprocess.Popen(
            [*program, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**inherited, **environment},
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )


def adopted(folder: Path, told: Callable[[], object]) -> Child | None:
    """The child that lives on a job's folder; None where there is none, or none that this process may know.

    Raises:
        OSError: It cannot be looked for, or not be watched.
    """
    for pid in holders(folder / LOCK):
        with suppress(ProcessLookupError):
            if os.getpgid(pid) != pid:
                continue
            child = Child(folder, pid, told)
            # The number might have become another process's in between.
            if pid in holders(folder / LOCK):
                return child
            child.buried()
    return None


def holders(lock: Path) -> list[int]:
    """Processes other than this one that have the file open."""
    target, found = str(lock.resolve()), []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with suppress(OSError):  # it ended, or is another user's
            if any(_link(entry) == target for entry in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""


async def end_holders(lock: Path, given_up: Callable[[], bool] = lambda: False) -> bool:
    """Kills the processes that have the file open until none of them holds its lock any more.

    Args:
        lock: The file.
        given_up: Asked again and again whether it is not waited for any longer.

    Returns:
        Whether the lock is free.
    """
    tries = 0
    while held(lock):
        if given_up():
            return False
        with suppress(OSError):  # they ended, are another user's, or there is no descriptor to look for them
            for pid in holders(lock):
                os.kill(pid, signal.SIGKILL)
        tries += 1
        if tries == 100:
            _LOG.warning("a process that cannot be found or ended holds %s; its job waits for it", lock)
        await asyncio.sleep(0.02 if tries < 100 else 1)
    return True


def held(lock: Path) -> bool:
    """Whether a process holds the lock; where that cannot be told it is taken for so."""
    try:
        with lock.open("r+b") as file:  # NFS locks only what is open for writing
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
