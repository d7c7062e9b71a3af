"""Which rows of a file of pixels are free, taken or given back: the space that an index keeps account of.

A row is free, or a photo's, or some process's that took it to write to. Nobody has to remember the last kind: what is
neither free nor a photo's when a process is alone was a killed one's.
"""

from collections.abc import Sequence

from .index import Index, seal


def take_free(index: Index, most: int) -> list[int]:
    """Up to so many free rows, which are the caller's now."""
    with index.transaction() as connection:
        rows = connection.execute("SELECT row FROM free ORDER BY row LIMIT ?", (most,)).fetchall()
        connection.executemany("DELETE FROM free WHERE row = ?", rows)
    return [row for (row,) in rows]


def take_new(index: Index, count: int) -> list[int]:
    """So many rows behind all others, which are the caller's now."""
    with index.transaction() as connection:
        first = connection.execute("SELECT coalesce(max(rows), 0) FROM given").fetchone()[0]
        connection.execute("INSERT OR REPLACE INTO given VALUES (1, ?)", (first + count,))
    return list(range(first, first + count))


def give_back(index: Index, rows: Sequence[int]) -> None:
    """Frees rows that were taken and not used."""
    with index.transaction() as connection:
        connection.executemany("INSERT OR IGNORE INTO free VALUES (?)", [(row,) for row in rows])


def free_count(index: Index) -> int:
    """How many rows are free."""
    with index.transaction() as connection:
        return int(connection.execute("SELECT count(*) FROM free").fetchone()[0])


def row_count(index: Index) -> int:
    """How many rows were given out so far."""
    with index.transaction() as connection:
        return int(connection.execute("SELECT coalesce(max(rows), 0) FROM given").fetchone()[0])


def fits(index: Index, file_rows: int) -> bool:
    """Whether the file of pixels has as many rows as were given out."""
    query = "SELECT coalesce(min(row), 0), coalesce(max(row), -1), (SELECT max(rows) FROM given) FROM free"
    with index.transaction() as connection:
        least, most, given = connection.execute(query).fetchone()
    return bool(least >= 0 and most < file_rows and (given or 0) == file_rows)


def reclaim(index: Index, file_rows: int) -> None:
    """Frees all rows of the file that hold no photo, as killed processes leave them; only for whoever is alone."""
    with index.transaction() as connection:
        connection.execute("DELETE FROM photos WHERE row NOT BETWEEN 0 AND ?", (file_rows - 1,))
        taken = {row for (row,) in connection.execute("SELECT row FROM photos")}
        connection.execute("DELETE FROM free")
        free = [(row,) for row in range(file_rows) if row not in taken]
        connection.executemany("INSERT INTO free VALUES (?)", free)
        connection.execute("INSERT OR REPLACE INTO given VALUES (1, ?)", (file_rows,))


def uses(index: Index) -> list[tuple[int, int]]:
    """When photos were last used and how many were then, oldest first."""
    with index.transaction() as connection:
        return connection.execute("SELECT used, count(*) FROM photos GROUP BY used ORDER BY used").fetchall()


def evict(index: Index, used: int) -> None:
    """Frees the rows of the photos that were last used just then; only for whoever is alone."""
    with index.transaction() as connection:
        connection.execute("INSERT OR IGNORE INTO free SELECT row FROM photos WHERE used = ?", (used,))
        connection.execute("DELETE FROM photos WHERE used = ?", (used,))


def moves(index: Index, first: int) -> list[tuple[str, int, int]]:
    """SHA-256, row, and a free row before `first`, of every photo that lies in `first` or behind it."""
    with index.transaction() as connection:
        photos = connection.execute("SELECT sha256, row FROM photos WHERE row >= ?", (first,)).fetchall()
        free = connection.execute("SELECT row FROM free WHERE row < ?", (first,)).fetchall()
    return [(key, old, new) for (key, old), (new,) in zip(photos, free, strict=False)]


def move(index: Index, moved: Sequence[tuple[str, int, int]]) -> None:
    """Says that photos lie in other rows now; only for whoever is alone."""
    with index.transaction() as connection:
        for key, old, new in moved:
            query = "SELECT record, seal FROM photos WHERE sha256 = ?"
            record, sealed = connection.execute(query, (key,)).fetchone()
            if sealed == seal(key, old, record):
                values = (new, seal(key, new, record), key)
                connection.execute("UPDATE photos SET row = ?, seal = ? WHERE sha256 = ?", values)
            else:
                connection.execute("DELETE FROM photos WHERE sha256 = ?", (key,))
            connection.execute("DELETE FROM free WHERE row = ?", (new,))
            connection.execute("INSERT OR IGNORE INTO free VALUES (?)", (old,))


def cut(index: Index, first: int) -> int:
    """Forgets the free rows behind the last photo's, from `first` on; gives how many rows are left."""
    with index.transaction() as connection:
        last = connection.execute("SELECT coalesce(max(row), -1) FROM photos").fetchone()[0]
        left = max(first, last + 1)
        connection.execute("DELETE FROM free WHERE row >= ?", (left,))
        connection.execute("INSERT OR REPLACE INTO given VALUES (1, ?)", (left,))
    return int(left)
