"""The tables of deploy/kustomize/README.md: settings and sizes, by where they are set."""

import functools
import re
from collections.abc import Iterator

from .tools import TOP

_README = TOP / "deploy" / "kustomize" / "README.md"
_HEADERS = {"settings": "| map | option |", "limits": "| where | container |", "volumes": "| where | volume or claim |"}


@functools.cache
def rows(table: str) -> list[list[str]]:
    """The cells of a table, row by row."""
    after = _README.read_text(encoding="utf-8").split(_HEADERS[table])[1].split("\n\n")[0]
    lines = [line for line in after.splitlines()[2:] if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def settings(program: str, parts: tuple[str, ...]) -> dict[str, str]:
    """Variables of a program's map, where `parts` are chosen, later ones last."""
    return {
        option: value
        for part in ("base", *parts)
        for owner, option, where, value in rows("settings")
        if (owner, where) == (program, part)
    }


def limits(container: str, parts: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Requests and limits of `WORKLOAD/CONTAINER`."""
    found: dict[str, dict[str, str]] = {}
    for part in ("base", *parts):
        for where, name, *figures in rows("limits"):
            if (where, name) == (part, container):
                for resource, figure in zip(("cpu", "memory", "ephemeral-storage"), figures, strict=True):
                    least, _, most = figure.partition(", ")
                    found.setdefault("requests", {})[resource] = least
                    found.setdefault("limits", {})[resource] = most or least
    return found


def size(name: str, parts: tuple[str, ...]) -> str:
    """Size of a claim, or of the volume `WORKLOAD/VOLUME`."""
    return {name: figure for part in ("base", *parts) for where, name, figure in _sizes() if where == part}[name]


def _sizes() -> Iterator[tuple[str, str, str]]:
    for where, name, figure in rows("volumes"):
        assert re.fullmatch(r"\d+[MG]i", figure), figure
        yield where, name, figure
