"""The tables of jobs, and a row of them as a `Job`.

Never change a script that was released: append one, and rows are brought up to it where the file is opened.
"""

import json
import sqlite3
from pathlib import Path

from google.rpc import status_pb2

from trapline.errors import UsageError
from trapline.v1 import train_pb2
from trapline.v1.metadata_pb2 import Evaluation

from .job import Job

#: What brings the tables from each version to the next, from version 0, an empty file.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE jobs (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        request_id TEXT UNIQUE,
        config BLOB NOT NULL,
        options TEXT NOT NULL,
        state INTEGER NOT NULL,
        create_time REAL NOT NULL,
        start_time REAL,
        end_time REAL,
        cancel_time REAL,
        error BLOB,
        progress BLOB,
        evaluation BLOB,
        publication BLOB,
        result TEXT NOT NULL DEFAULT '',
        attempt_count INTEGER NOT NULL DEFAULT 0,
        last_sequence INTEGER NOT NULL DEFAULT 0,
        offset INTEGER NOT NULL DEFAULT 0,
        attempts_in_vain INTEGER NOT NULL DEFAULT 0,
        reached TEXT NOT NULL DEFAULT '{}',
        run_seconds REAL NOT NULL DEFAULT 0,
        counted_time REAL NOT NULL DEFAULT 0,
        device TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX jobs_by_state ON jobs (state, key);
    CREATE TABLE events (
        job INTEGER NOT NULL REFERENCES jobs (key) ON DELETE CASCADE,
        sequence INTEGER NOT NULL,
        message BLOB NOT NULL,
        PRIMARY KEY (job, sequence)
    ) STRICT, WITHOUT ROWID;
    """,
)

_COLUMNS = (
    "key id config options state create_time start_time end_time cancel_time error progress evaluation publication "
    "result attempt_count last_sequence offset attempts_in_vain run_seconds counted_time device"
)
#: What of a job is selected: `job_of` reads such rows.
SELECT_JOB = (
    f"SELECT {', '.join(_COLUMNS.split())}, CASE WHEN state = {train_pb2.TrainJob.STATE_PENDING} THEN (SELECT count(*) "  # noqa: S608  # constants
    "FROM jobs AS other WHERE other.state = jobs.state AND other.key < jobs.key) ELSE 0 END AS queue_position FROM jobs"
)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Brings the tables up to this version, each step whole or not at all.

    Raises:
        UsageError: The file is of a newer version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise UsageError(
            f"{path} has tables of version {version}, and this Trapline knows them up to {len(MIGRATIONS)}: start the "
            "Trapline that wrote it, or a newer one, or name another runs root"
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        # `executescript` ends no transaction that the script itself begins.
        connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")


def job_of(row: sqlite3.Row) -> Job:
    """The job of a row that `SELECT_JOB` selected."""
    values = dict(row)
    kinds = {
        "config": train_pb2.TrainConfig,
        "error": status_pb2.Status,
        "progress": train_pb2.TrainProgress,
        "evaluation": Evaluation,
        "publication": train_pb2.Publication,
    }
    for column, kind in kinds.items():
        if values[column] is not None:
            values[column] = kind.FromString(values[column])
    values["options"] = json.loads(values["options"])
    return Job(**values)
