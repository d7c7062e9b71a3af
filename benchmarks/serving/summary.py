"""What the rows of a comparison come to: medians of each level, and ratios of Trapline to each peer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from preprocess import ratio
from rows import Row

#: What a level is known by, besides the repetition.
LEVEL = ("server", "decode", "precision", "method", "callers", "model", "image")
#: Figures of a level whose medians are shown.
FIGURES = (
    "images_per_second",
    "p50_ms",
    "p99_ms",
    "server_cpu_ms_per_image",
    "generator_cpu_ms_per_image",
    "bare_images_per_second",
    "combined_ceiling_images_per_second",
    "foreign_cores",
    "resident_mib",
)


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level over its repetitions.

    Attributes:
        key: The items of `LEVEL`.
        by_repetition: The rows that count, by repetition.
        medians: Of `FIGURES` over them, and of `share_of_ceiling`.
        failed: Calls without a right answer, in all of them.
    """

    key: Row
    by_repetition: dict[int, Row]
    medians: dict[str, float | None]
    failed: int


def counts(row: Row) -> bool:
    """Whether a row enters a median: nobody disturbed it."""
    return bool(row["quiet"])


def levels(rows: Iterable[Row]) -> list[Level]:
    """The levels that have a row that counts, in the order of the rows."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if counts(row):
            found.setdefault(tuple(row[name] for name in LEVEL), []).append(row)
    return [_level(dict(zip(LEVEL, key, strict=True)), group) for key, group in found.items()]


def _level(key: Row, rows: list[Row]) -> Level:
    medians = {name: _median([row[name] for row in rows]) for name in FIGURES}
    medians["share_of_ceiling"] = _median(
        [row["images_per_second"] / row["combined_ceiling_images_per_second"] for row in rows]
    )
    failed = sum(count for row in rows for outcome, count in row["outcomes"].items() if outcome != "OK")
    return Level(key=key, by_repetition={row["repetition"]: row for row in rows}, medians=medians, failed=failed)


def _median(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return round(float(np.median(present)), 3) if present else None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Trapline against one peer at one level; a ratio above 1 says that Trapline is the faster.

    Attributes:
        ours: Trapline's level.
        theirs: The peer's.
        rate: The ratio of images a second, and the ends of its interval.
        p99: The peer's p99 by ours.
        pairs: Repetitions that both have.
    """

    ours: Level
    theirs: Level
    rate: tuple[float, float, float]
    p99: tuple[float, float, float]
    pairs: int


def compared(found: list[Level], *, precision: str = "fp32") -> list[Compared]:
    """Trapline's calls with that precision against every peer, level by level."""
    results = []
    for ours in found:
        if ours.key["server"] != "trapline" or ours.key["precision"] != precision or ours.key["method"] != "unary":
            continue
        for theirs in found:
            same = all(theirs.key[name] == ours.key[name] for name in ("callers", "model", "image", "method"))
            if same and theirs.key["server"] != "trapline" and (one := _compared(ours, theirs)) is not None:
                results.append(one)
    return results


def _compared(ours: Level, theirs: Level) -> Compared | None:
    both = sorted(ours.by_repetition.keys() & theirs.by_repetition.keys())
    pairs = [(ours.by_repetition[number], theirs.by_repetition[number]) for number in both]
    pairs = [(mine, other) for mine, other in pairs if mine["images"] and other["images"]]
    if not pairs:
        return None
    rate = ratio("rate", *([row["images_per_second"] for row in side] for side in zip(*pairs, strict=True)))
    p99 = ratio("p99", *([row["p99_ms"] for row in side] for side in zip(*((b, a) for a, b in pairs), strict=True)))
    return Compared(
        ours=ours,
        theirs=theirs,
        rate=(rate["rate"], *rate["rate_interval"]),
        p99=(p99["p99"], *p99["p99_interval"]),
        pairs=len(pairs),
    )
