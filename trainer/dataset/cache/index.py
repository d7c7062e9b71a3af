"""The index of one cache folder: which photo lies in which row of pixels, and what is known of it.

Rows are taken first, by processes, then written, then recorded under a photo's key, with the checksum of the pixels.
Every record is sealed by a checksum of its own, so that damaged bytes of the index make a photo unknown and never
another one.
"""

import json
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_KEYS_IN_ONE_QUERY = 500
# One tree of photos and no index beside it, because two trees could contradict each other where the file is damaged.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS photos (
    sha256 TEXT PRIMARY KEY, row INTEGER NOT NULL, record TEXT NOT NULL, seal INTEGER NOT NULL, used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS free (row INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS given (one INTEGER PRIMARY KEY CHECK (one = 1), rows INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS settled (length INTEGER NOT NULL, changed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS failures (sha256 TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What decoding a photo told besides its pixels.

    Attributes:
        camera: As in `Photo`.
        taken: As in `Photo`.
        difference_hash: As in `Photo`.
        max_pixels: The limit on width × height under which it was decoded.
    """

    camera: str
    taken: str
    difference_hash: int
    max_pixels: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A finished row.

    Attributes:
        row: Its number.
        checksum: CRC-32 of its pixels.
        facts: What is known of the photo.
        used: When a run last asked for it, to a day: Unix time in nanoseconds.
    """

    row: int
    checksum: int
    facts: Facts
    used: int


class Index:
    """An open index, shared by threads; other processes may have the same file open. Raises `sqlite3.Error`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, check: bool) -> Self:
        """The index in the file `path`, made where it is missing.

        Args:
            path: The file.
            check: Look through the whole file for damage first: about 1 ms for every 1,000 photos.

        Raises:
            sqlite3.DatabaseError: The file is damaged, or no index.
        """
        connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        try:
            connection.text_factory = lambda data: data.decode("utf-8", "replace")  # its seal tells damaged text
            connection.execute("PRAGMA synchronous = OFF")  # a new file lost with the power is made anew
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            connection.execute("PRAGMA synchronous = NORMAL")
            if check:
                _check(connection)
        except UnicodeDecodeError as error:  # SQLite's own sentence quotes the damaged bytes
            connection.close()
            raise sqlite3.DatabaseError("the file is damaged") from error
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def find(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The finished rows of those of the keys that have one."""
        found = {}
        for row, sha256, record, sealed, used in self._select("row, sha256, record, seal, used", "photos", keys):
            if sealed != seal(sha256, row, record):
                continue
            checksum, camera, taken, difference_hash, max_pixels = json.loads(record)
            facts = Facts(camera=camera, taken=taken, difference_hash=difference_hash, max_pixels=max_pixels)
            found[sha256] = Entry(row=row, checksum=checksum, facts=facts, used=used)
        return found

    def put(self, entries: Mapping[str, Entry]) -> list[int]:
        """Records photos whose pixels are written; gives the rows of those that another process recorded first.

        Those rows are free then, and the other process's are the photos' own.
        """
        values, unused = [], []
        with self.transaction() as connection:
            marks = ",".join("?" * len(entries))
            query = f"SELECT sha256, row, record, seal FROM photos WHERE sha256 IN ({marks})"  # noqa: S608  # marks only
            there = {row[0]: row for row in connection.execute(query, list(entries))}
            for key, entry in entries.items():
                row, checksum = entry.row, entry.checksum
                before = there.get(key)
                if before is not None and before[3] == seal(key, before[1], before[2]):
                    unused.append((row,))
                    row, checksum = before[1], json.loads(before[2])[0]
                facts = entry.facts
                record = json.dumps((checksum, facts.camera, facts.taken, facts.difference_hash, facts.max_pixels))
                values.append((key, row, record, seal(key, row, record), entry.used))
            connection.executemany("INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?)", values)
            connection.executemany("INSERT OR IGNORE INTO free VALUES (?)", unused)
        return [row for (row,) in unused]

    def forget(self, keys: Sequence[str]) -> None:
        """Takes damaged photos out; `space.reclaim` frees their rows."""
        with self.transaction() as connection:
            connection.executemany("DELETE FROM photos WHERE sha256 = ?", [(key,) for key in keys])

    def forget_rows(self, rows: Sequence[int]) -> None:
        """As `forget`, by their rows."""
        with self.transaction() as connection:
            connection.executemany("DELETE FROM photos WHERE row = ?", [(row,) for row in rows])

    def has_failures(self) -> bool:
        """Whether any file could not be decoded before."""
        with self._lock:
            return self._connection.execute("SELECT 1 FROM failures LIMIT 1").fetchone() is not None

    def failures(self, keys: Sequence[str]) -> dict[str, str]:
        """Those of the files that could not be decoded before, and why."""
        return dict(self._select("sha256, reason", "failures", keys))

    def put_failure(self, key: str, reason: str) -> None:
        """Remembers that a file cannot be decoded."""
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO failures VALUES (?, ?)", (key, reason))

    def touch(self, keys: Sequence[str], *, used: int) -> None:
        """Says that photos are in use now."""
        with self.transaction() as connection:
            connection.executemany("UPDATE photos SET used = ? WHERE sha256 = ?", ((used, key) for key in keys))

    def settled(self) -> tuple[int, int] | None:
        """Length and time of change of the file of pixels when all of it was on the disk; None if it may not be."""
        with self._lock:
            row: tuple[int, int] | None = self._connection.execute("SELECT length, changed FROM settled").fetchone()
        return row

    def settle(self, state: tuple[int, int] | None) -> None:
        """Records `settled`; None before anything is written to the file of pixels."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM settled")
            if state is not None:
                connection.execute("INSERT INTO settled VALUES (?, ?)", state)

    def compact(self) -> None:
        """Gives the room of what was deleted back to the disk."""
        with self._lock:
            self._connection.execute("VACUUM")

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()

    def _select(self, columns: str, table: str, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(keys), _KEYS_IN_ONE_QUERY):
            some = keys[start : start + _KEYS_IN_ONE_QUERY]
            marks = ",".join("?" * len(some))
            query = f"SELECT {columns} FROM {table} WHERE sha256 IN ({marks})"  # noqa: S608  # our own names only
            with self._lock:
                rows = self._connection.execute(query, list(some)).fetchall()
            yield from rows

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, for statements that happen together or not at all."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # what found no room on the disk, SQLite may have taken back itself
                    self._connection.execute("ROLLBACK")
                raise


def photo_count(path: Path) -> int | None:
    """How many photos the index in the file `path` has; None where it cannot be read."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
    except sqlite3.Error:
        return None
    try:
        return int(connection.execute("SELECT count(*) FROM photos").fetchone()[0])
    except sqlite3.Error:
        return None
    finally:
        connection.close()


def _check(connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    with sqlite3.connect(":memory:") as new:
        new.executescript(_SCHEMA)
        declared = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY sql"
        if connection.execute(declared).fetchall() != new.execute(declared).fetchall():
            found = "its tables are others"
    new.close()
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def seal(key: str, row: int, record: str) -> int:
    """The checksum that shows that a record is that of this key and row."""
    return zlib.crc32(f"{key} {row} {record}".encode("utf-8", "replace"))
