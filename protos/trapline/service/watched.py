"""Files that are read again when they change: certificates and tokens are renewed without a restart."""

import logging
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from trapline.errors import UsageError

from .metrics import ServiceMetrics

_log = logging.getLogger(__name__)
#: Least time between two looks at the files, in seconds.
LOOK_SECONDS = 1.0

Value = TypeVar("Value")


class Watched(Generic[Value]):
    """What some files hold now. New content that cannot be used leaves the content before it in force.

    Args:
        name: What it is, for the log and the metrics' label `file`.
        paths: The files. The last one is secret: that others may read it is warned of.
        read: Reads and checks them.
        metrics: Where to count.

    Raises:
        UsageError: The files cannot be used to begin with.
    """

    def __init__(self, name: str, paths: Sequence[Path], *, read: Callable[[], Value], metrics: ServiceMetrics) -> None:
        self._name, self._paths, self._read = name, tuple(paths), read
        self._seen = self._signature()
        self._value = read()
        # Why they could not be used at the last look. Their owner or a disk may change that, and no signature with it.
        self._problem = ""
        self._next_look = time.monotonic() + LOOK_SECONDS
        # gRPC asks for certificates from threads of its own.
        self._lock = threading.Lock()
        # There from the start: of a count that begins with its first failure Prometheus sees no increase.
        self._reloads = {outcome: metrics.credential_reloads.labels(name, outcome) for outcome in ("ok", "failed")}
        self._kept = metrics.credentials_kept.labels(name)
        self._warn_of_readers()

    def current(self) -> Value:
        """What the files hold, looked at again where `LOOK_SECONDS` have passed."""
        if time.monotonic() >= self._next_look:
            with self._lock:
                self._look()
        return self._value

    def _look(self) -> None:
        self._next_look = time.monotonic() + LOOK_SECONDS
        signature = self._signature()
        if signature == self._seen and not self._problem:
            return
        # As it was before reading: what changes meanwhile is seen at the next look.
        changed, self._seen = signature != self._seen, signature
        try:
            self._value = self._read()
        except UsageError as error:
            told, self._problem = self._problem, str(error)
            if not changed and self._problem == told:
                return
            self._reloads["failed"].inc()
            self._kept.set(1)
            _log.error("event=credentials_kept file=%s reason=%r", self._name, str(error))
            return
        self._problem = ""
        self._reloads["ok"].inc()
        self._kept.set(0)
        _log.info("event=credentials_reloaded file=%s", self._name)
        self._warn_of_readers()

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_signature(path) for path in self._paths)

    def _warn_of_readers(self) -> None:
        try:
            mode = self._paths[-1].stat().st_mode
        except OSError:
            return  # gone again: the next look tells
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            _log.warning("event=secret_readable_by_others path=%s mode=%o", self._paths[-1], stat.S_IMODE(mode))


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
