"""The rows of a comparison in one JSON file, written anew as each run ends: it can be stopped and gone on with."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splits import Divided

TOP = Path(__file__).resolve().parents[1]
Row = dict[str, Any]


class Rows:
    """The file: `rows` (one a run), `splits` (test paths by division) and whatever else its script writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"commands": [], "splits": {}, "rows": []}
        if path.exists():
            self.content |= json.loads(path.read_text())
        # Whole paths are this machine's own business.
        words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
        command = " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *words])
        if command not in self.content["commands"]:
            self.content["commands"].append(command)

    @property
    def rows(self) -> list[Row]:
        """Rows that count: those not superseded."""
        return [row for row in self.content["rows"] if not row.get("superseded")]

    @property
    def superseded_count(self) -> int:
        """Rows that were repeated."""
        return len(self.content["rows"]) - len(self.rows)

    def find(self, wanted: Row) -> Row | None:
        """The row with all items of `wanted`."""
        return next((row for row in self.rows if wanted.items() <= row.items()), None)

    def add(self, identity: Row, row: Row, divided: "Divided | None" = None) -> None:
        """Keeps a run; one of the same identity before it stays in the file as superseded.

        Args:
            identity: What the run is found by.
            row: What it gave.
            divided: The division that it was tested on, where it was tested on one.
        """
        while (before := self.find(identity)) is not None:
            before["superseded"] = True
        if divided is not None:
            self.content["splits"][divided.key] = {"test": divided.test}
        self.content["rows"].append({**identity, **row, "date": time.strftime("%Y-%m-%d %H:%M"), "commit": commit()})
        self.save()

    def test_paths(self, row: Row) -> list[str]:
        """The test photos that a row's `right` stands for."""
        paths: list[str] = self.content["splits"][row["split"]]["test"]
        return paths

    def save(self) -> None:
        """Writes the file at once: a kill leaves the one before or this one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(self.content, indent=1) + "\n")
        unfinished.replace(self.path)


def bits(right: dict[str, int], test: Iterable[str]) -> str:
    """Right or wrong as one character a photo, in the order of `test`; every photo must have its answer."""
    paths = list(test)
    if right.keys() != set(paths):
        raise SystemExit(f"{len(right.keys() ^ set(paths))} photos were tested but not given, or given but not tested")
    return "".join(str(right[path]) for path in paths)


def share_right(row: Row, name: str = "right") -> float:
    """Share of right answers of one run."""
    return row[name].count("1") / len(row[name])


def commit() -> str:
    """The checkout's commit, and whether it has changes."""
    try:
        said = [
            subprocess.run(["git", *words], cwd=TOP, check=True, capture_output=True, text=True).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said[0] + ("-dirty" if said[1] else "")
