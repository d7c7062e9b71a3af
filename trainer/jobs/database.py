"""One SQLite file for an event loop: reads at once, writes one after another on a thread of their own."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from trainer.errors import TrainerError
from trapline.train_errors import TrainCapacity

Value = TypeVar("Value")

_BUSY_SECONDS = 30.0
_RETRY_SECONDS = 60.0
_FULL_BYTES = 2**20


class Database:
    """The file, with one connection that reads and one that writes.

    In WAL mode a read never waits for a write. Reads take microseconds and are done where they are asked for; a write
    waits for the disk, since nothing is answered for before it is on it.
    """

    def __init__(self, path: Path, migrate: Callable[[sqlite3.Connection, Path], None]) -> None:
        """Opens the file, which is made where it is missing, and brings its tables up to date.

        Raises:
            UsageError: Its tables are of a newer version.
            TrainerError: It cannot be read or written.
        """
        self.path = path
        with self._sentences():
            self._writing = self._connect()
            migrate(self._writing, path)
            self._reading = self._connect()
            self._reading.execute("PRAGMA query_only = ON")
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="jobs-writer")

    def _connect(self) -> sqlite3.Connection:
        # The writing one is opened here and then used by its thread alone.
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def read(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """The rows that a query selects."""
        with self._sentences():
            return self._reading.execute(sql, values).fetchall()

    async def write(self, work: Callable[[sqlite3.Connection], Value], then: Callable[[Value], object]) -> Value:
        """What `work` gives, done as one transaction that is on the disk when this returns.

        Args:
            work: What to do; where it raises, nothing of it is kept.
            then: Called with that on the event loop after the commit, also where the caller was cancelled meanwhile;
                what it raises is logged.
        """

        def committed(done: asyncio.Future[Value]) -> None:
            if not done.cancelled() and done.exception() is None:
                then(done.result())

        future = asyncio.get_running_loop().run_in_executor(self._writer, self._transaction, work)
        future.add_done_callback(committed)
        return await asyncio.shield(future)

    def _transaction(self, work: Callable[[sqlite3.Connection], Value]) -> Value:
        with self._sentences():
            self._writing.execute("BEGIN IMMEDIATE")
            try:
                value = work(self._writing)
                self._writing.execute("COMMIT")
            except BaseException:
                # A full disk has rolled it back already.
                if self._writing.in_transaction:
                    self._writing.execute("ROLLBACK")
                raise
            return value

    async def close(self) -> None:
        """Closes the file after the writes that were asked for."""
        await asyncio.to_thread(self._writer.shutdown)
        self._reading.close()
        self._writing.close()

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turns what SQLite raises into a sentence."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # of a row, which who writes it knows more of
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._full()):
                raise TrainCapacity(
                    "the disk of the service's jobs is full; try again when there is room",
                    retry_seconds=_RETRY_SECONDS,
                    limit="disk",
                ) from error
            raise TrainerError(f"the file of the jobs, {self.path}, cannot be used ({error})") from error

    def _full(self) -> bool:
        return shutil.disk_usage(self.path.parent).free < _FULL_BYTES
