"""SHA-256 of files that were read before, by what `stat` says of them: a second run reads no photo again.

A file is known by device, inode, size and the times of its last change of contents and of state, to the nanosecond,
whatever its name. No program can set the second time back, so that a file written anew is a new file here. What was
changed less than two seconds before it was read is not remembered: the clocks of some file systems tick that slowly
(the same rule as git's index: https://git-scm.com/docs/racy-git).
"""

import hashlib
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

#: The file in the user's cache folder that all folders of rules share.
HASHES_FILE = "trapline-files.sqlite"
_SETTLED_NS = 2_000_000_000
_DAY_SECONDS = 86_400
_KEPT_DAYS = 180
_MARKED_AGAIN_AFTER_DAYS = 30
_KEYS_IN_ONE_QUERY = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (stat BLOB PRIMARY KEY, sha256 BLOB NOT NULL, day INTEGER NOT NULL) WITHOUT ROWID;
"""


class KnownHashes:
    """The hashes remembered in one file, shared by threads and processes.

    Losing them costs time and nothing else: where the file cannot be read or written any more, nothing is known.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._day = int(time.time()) // _DAY_SECONDS
        self._wrote = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """The hashes in the file `path`; where that is missing or damaged it is made anew.

        Raises:
            sqlite3.Error: The file cannot be used.
        """
        try:
            return cls(_connect(path))
        except sqlite3.DatabaseError:
            remove_hashes(path)
            return cls(_connect(path))

    def find(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """SHA-256 in hex of those of the files (as `file_key` names them) that were read before."""
        found: dict[bytes, str] = {}
        seldom = []
        for start in range(0, len(keys), _KEYS_IN_ONE_QUERY):
            some = keys[start : start + _KEYS_IN_ONE_QUERY]
            marks = ",".join("?" * len(some))
            rows: list[tuple[bytes, bytes, int]] = []
            # CAST, because a damaged file may hold any type.
            columns = "stat, CAST(sha256 AS BLOB), CAST(day AS INTEGER)"
            query = f"SELECT {columns} FROM files WHERE stat IN ({marks})"  # noqa: S608  # our own names only
            with suppress(sqlite3.Error), self._lock:
                rows = self._connection.execute(query, list(some)).fetchall()
            for key, sha256, day in rows:
                found[key] = sha256.hex()
                if day < self._day - _MARKED_AGAIN_AFTER_DAYS:
                    seldom.append(key)
        if seldom:
            self._write("UPDATE files SET day = ? WHERE stat = ?", [(self._day, key) for key in seldom])
        return found

    def put(self, hashes: Mapping[bytes, str]) -> None:
        """Remembers files."""
        self._wrote = self._wrote or bool(hashes)
        self._write(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?)",
            [(key, bytes.fromhex(sha256), self._day) for key, sha256 in hashes.items()],
        )

    def close(self) -> None:
        """Lets go of the file; where it grew, what no run has met for half a year leaves it first."""
        if self._wrote:
            self._write("DELETE FROM files WHERE day < ?", [(self._day - _KEPT_DAYS,)])
        self._connection.close()

    def _write(self, statement: str, values: Sequence[tuple[object, ...]]) -> None:
        with suppress(sqlite3.Error), self._lock, self._connection:
            self._connection.executemany(statement, values)


def file_key(facts: os.stat_result) -> bytes:
    """What a file is known by: 16 bytes over everything that changes when its contents do."""
    times = facts.st_mtime_ns, facts.st_ctime_ns
    packed = struct.pack("<QQQqq", facts.st_dev, facts.st_ino, facts.st_size, *times)
    return hashlib.blake2b(packed, digest_size=16).digest()


def is_settled(facts: os.stat_result, now_ns: int) -> bool:
    """Whether a change after `now_ns` cannot leave `file_key` as it is."""
    return max(facts.st_mtime_ns, facts.st_ctime_ns) < now_ns - _SETTLED_NS


def remove_hashes(path: Path) -> None:
    """Deletes the file and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # what is lost with the power costs time and nothing else
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
        if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
    except BaseException:
        connection.close()
        raise
    return connection
