"""The page beside a file of serving rows: it stands alone."""

from typing import Any

from rows import Row, Rows

from .figures import MOST_FOREIGN_CORES
from .summary import Compared, Level, compared, counts, levels
from .verdicts import cell, verdicts


def page(rows: Rows) -> str:
    """The rows as tables, with what must be shown and how it was measured."""
    found = levels(rows.rows)
    parts = ["# Serving: Trapline against other servers\n"]
    if found:
        parts += ["## What must be shown\n", "\n".join(f"- {line}" for line in verdicts(found)) + "\n"]
    for model, image, precision in sorted({_table_of(level) for level in found}):
        chosen = [level for level in found if _table_of(level) == (model, image, precision)]
        parts += [f"## {model}, {image}, {precision}\n", _levels_table(chosen) + "\n"]
    for precision in ("fp32", "int8"):
        if pairs := compared(found, precision=precision):
            parts += [f"## Trapline ({precision}) by peer (fp32)\n", _ratios_table(pairs) + "\n"]
    parts += ["## How\n", _how(rows)]
    return "\n".join(parts)


def _table_of(level: Level) -> tuple[str, str, str]:
    return level.key["model"], level.key["image"], level.key["precision"]


def _levels_table(chosen: list[Level]) -> str:
    columns = {
        "images_per_second": "images/s",
        "p50_ms": "p50, ms",
        "p99_ms": "p99, ms",
        "server_cpu_ms_per_image": "server CPU, ms/image",
        "generator_cpu_ms_per_image": "generator CPU, ms/image",
        "share_of_ceiling": "of the combined ceiling",
        "bare_images_per_second": "bare runtime, images/s",
        "foreign_cores": "foreign cores",
        "resident_mib": "memory, MiB",
    }
    keys = ("server", "decode", "method", "callers")
    lines = [f"| {' | '.join([*keys, *columns.values(), 'not right', 'repetitions'])} |"]
    lines.append("|---" * (len(keys) + len(columns) + 2) + "|")
    for level in sorted(chosen, key=lambda level: (level.key["method"] == "stream", level.key["callers"])):
        words = [str(level.key[name]) for name in keys]
        words += [_figure(level.medians[name]) for name in columns]
        lines.append(f"| {' | '.join([*words, str(level.failed), str(len(level.by_repetition))])} |")
    return "\n".join(lines)


def _ratios_table(pairs: list[Compared]) -> str:
    lines = [
        "| model | image | callers | peer | decode | images/s, ours by theirs | p99, theirs by ours | repetitions |",
        "|---" * 8 + "|",
    ]
    lines += [
        f"| {one.ours.key['model']} | {one.ours.key['image']} | {one.ours.key['callers']} | {one.theirs.key['server']} "
        f"| {one.theirs.key['decode']} | {cell(one.rate)} | {cell(one.p99)} | {one.pairs} |"
        for one in pairs
    ]
    return "\n".join(lines)


def _how(rows: Rows) -> str:
    machine, every = rows.content.get("hardware", {}), rows.content["rows"]
    disturbed = sum(not counts(row) for row in every)
    lines = [f"Command: `{command}`" for command in rows.content["commands"]]
    lines += [
        f"Dates: {_span(every)}; commits: {', '.join(sorted({row['commit'] for row in every})) or 'none'}",
        f"Hardware: {machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores, shared with the load generator",
        f"{len(every)} levels were run; {disturbed} do not count: others used {MOST_FOREIGN_CORES} cores or more",
        "Figures are medians over repetitions; ratios are paired by repetition, their interval a bootstrap over them",
        "How each server was set up, and what counts, is in PROTOCOL.md",
    ]
    lines += [f"Versions of {name}: {_versions(said)}" for name, said in rows.content.get("versions", {}).items()]
    lines += [f"Left out: {name}: {reason}" for name, reason in rows.content.get("skipped", {}).items()]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _span(rows: list[Row]) -> str:
    dates = sorted(row["date"][:10] for row in rows)
    return f"{dates[0]} to {dates[-1]}" if dates else "none"


def _versions(said: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in said.items())


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
