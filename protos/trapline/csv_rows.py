"""CSV that every reader takes apart as it was written."""

import csv
from collections.abc import Iterable
from typing import Any, TextIO


class CsvRows:
    r"""Writes rows of CSV, each ended by a line feed.

    A carriage return within a cell is quoted: Python below 3.11.9 and 3.12.3 leaves it bare (CPython issue 67044), and
    readers, Python's too, take it for the end of the row. Folders that a script with CRLF lines made are named so.

    Args:
        file: Text that is written as it is (`newline=""`).
    """

    def __init__(self, file: TextIO) -> None:
        self._plain = csv.writer(file, lineterminator="\n")
        self._quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writerow(self, cells: Iterable[Any]) -> None:
        """Writes one row."""
        row = list(cells)
        (self._quoted if any(isinstance(cell, str) and "\r" in cell for cell in row) else self._plain).writerow(row)

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Writes several rows."""
        for row in rows:
            self.writerow(row)
