"""What the rows of `train.py` say: ratios of time and memory, paired accuracies, the noise floor, and the bounds."""

from collections import Counter
from dataclasses import asdict
from statistics import geometric_mean, mean, median, stdev
from typing import Any

from intervals import Pair, paired
from rows import Row, Rows, share_right
from tools import TRAPLINE

#: Of PROTOCOL.md: least ratio of seconds over sets, least in each set.
BOUNDS = {"trapline-head": (8.0, 4.0), "trapline": (2.0, 1.5)}
MOST_MEMORY = 1 / 3
PEER = "fastai"
SEEDS = 5


def summary(rows: Rows, sets: tuple[str, ...]) -> dict[str, Any]:
    """Everything that the page shows, by name."""
    timed, accuracy = timing(rows.rows, sets), accuracies(rows)
    return {
        "timing": timed,
        "accuracy": accuracy,
        "noise": noise(rows),
        "verdicts": [*_timing_verdicts(timed, sets), *_accuracy_verdicts(accuracy, sets)],
        "superseded": rows.superseded_count,
    }


def own_tools(rows: list[Row]) -> list[str]:
    """Trapline's tools that have rows, those with options of their own last."""
    return sorted({row["tool"] for row in rows} - {PEER, "fastai-tuned"}, key=lambda tool: (tool not in TRAPLINE, tool))


def timing(rows: list[Row], sets: tuple[str, ...]) -> dict[str, dict[str, dict[str, float]]]:
    """Set -> tool -> median seconds and MiB of its quiet rows, and both against fastai's where that has quiet rows."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name in sets:
        quiet = [row for row in rows if row["set"] == name and row["quiet"]]
        of_set: dict[str, dict[str, float]] = {}
        for tool in sorted({row["tool"] for row in quiet}):
            mine = [row for row in quiet if row["tool"] == tool]
            of_set[tool] = {
                "runs": len(mine),
                "seconds": median(row["seconds_total"] for row in mine),
                "peak_mib": median(row["peak_mib"] for row in mine),
            }
        peer = of_set.get(PEER)
        for figures in of_set.values() if peer else ():
            figures["times_sooner"] = peer["seconds"] / figures["seconds"]
            figures["share_of_memory"] = figures["peak_mib"] / peer["peak_mib"]
        result[name] = of_set
    return result


def accuracies(rows: Rows) -> dict[str, dict[str, Any]]:
    """Tool -> set or `pooled` -> the paired comparison with fastai."""
    result: dict[str, dict[str, Any]] = {}
    for tool in own_tools(rows.rows):
        pairs, seeds = _pairs(rows, tool)
        by_set = {name: [pair for pair in pairs if pair.name == name] for name in dict.fromkeys(p.name for p in pairs)}
        compared = {name: asdict(paired(own)) | {"seeds": seeds[name]} for name, own in by_set.items()}
        if pairs:
            compared["pooled"] = asdict(paired(pairs)) | {"seeds": min(seeds.values())}
        result[tool] = compared
    return result


def noise(rows: Rows) -> dict[str, Any]:
    """How far one tool lies from itself: in seconds and accuracy between seeds, in answers where a run was repeated."""
    by_tool: dict[str, Any] = {}
    for tool in sorted({row["tool"] for row in rows.rows}):
        mine = [row for row in rows.rows if row["tool"] == tool]
        by_tool[tool] = {"seconds_spread_percent": _spread(mine), "accuracy_deviation_points": _deviation(mine)}
        if tool not in (PEER, "fastai-tuned"):
            by_tool[tool]["difference_deviation_points"] = _difference_deviation(rows, tool)
        by_tool[tool] |= _repeated(rows.content["rows"], tool)
    return by_tool


def _latest(rows: list[Row], tool: str) -> dict[str, Row]:
    """The newest row of a tool for each division; quiet or not, the answers count."""
    return {row["split"]: row for row in rows if row["tool"] == tool}


def _pairs(rows: Rows, tool: str) -> tuple[list[Pair], Counter[str]]:
    """A tool's and fastai's answers to the same test photos, and how many seeds of each set both have."""
    ours, theirs = _latest(rows.rows, tool), _latest(rows.rows, PEER)
    pairs: list[Pair] = []
    seeds: Counter[str] = Counter()
    for split in sorted(ours.keys() & theirs.keys()):
        name = ours[split]["set"]
        seeds[name] += 1
        answers = zip(rows.test_paths(ours[split]), ours[split]["right"], theirs[split]["right"], strict=True)
        pairs += [Pair(name=name, path=path, ours=int(our), theirs=int(their)) for path, our, their in answers]
    return pairs, seeds


def _spread(rows: list[Row]) -> float | None:
    """Largest over sets of (longest − shortest) / median of the quiet seconds."""
    spreads = []
    for name in {row["set"] for row in rows}:
        seconds = [row["seconds_total"] for row in rows if row["set"] == name and row["quiet"]]
        if len(seconds) > 1:
            spreads.append(100 * (max(seconds) - min(seconds)) / median(seconds))
    return max(spreads, default=None)


def _deviation(rows: list[Row]) -> float | None:
    """Mean over sets of the standard deviation of test accuracy between seeds."""
    deviations = []
    for name in {row["set"] for row in rows}:
        shares = [100 * share_right(row) for row in {row["seed"]: row for row in rows if row["set"] == name}.values()]
        if len(shares) > 1:
            deviations.append(stdev(shares))
    return mean(deviations) if deviations else None


def _difference_deviation(rows: Rows, tool: str) -> float | None:
    """Standard deviation between seeds of the pooled difference to fastai."""
    ours, theirs = _latest(rows.rows, tool), _latest(rows.rows, PEER)
    by_seed: dict[int, list[int]] = {}
    for split in ours.keys() & theirs.keys():
        answers = zip(ours[split]["right"], theirs[split]["right"], strict=True)
        by_seed.setdefault(ours[split]["seed"], []).extend(int(our) - int(their) for our, their in answers)
    differences = [100 * mean(values) for values in by_seed.values()]
    return stdev(differences) if len(differences) > 1 else None


def _repeated(rows: list[Row], tool: str) -> dict[str, int]:
    """Where a tool ran more than once on one division at one commit with the same settings: pairs, changed answers."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        if row["tool"] == tool:
            key = (row["split"], row.get("batch_size"), row["commit"] if tool in TRAPLINE else None)
            groups.setdefault(key, []).append(row["right"])
    pairs = [(first, other) for first, *others in groups.values() for other in others]
    changed = sum(left != right for first, other in pairs for left, right in zip(first, other, strict=True))
    return {"repeated_runs": len(pairs), "changed_answers": changed}


def _timing_verdicts(timed: dict[str, dict[str, dict[str, float]]], sets: tuple[str, ...]) -> list[str]:
    verdicts = []
    for tool, (least_mean, least) in BOUNDS.items():
        found = {name: timed[name][tool] for name in sets if "times_sooner" in timed[name].get(tool, {})}
        asked = (
            f"{tool} at least {least_mean:g} times sooner than fastai (geometric mean), at least {least:g} in each set"
        )
        if len(found) < len(sets):
            verdicts.append(f"{asked}: not measured yet ({len(found)} of {len(sets)} sets have quiet rows of both).")
            continue
        ratios = [figures["times_sooner"] for figures in found.values()]
        met = geometric_mean(ratios) >= least_mean and min(ratios) >= least
        measured = f"{geometric_mean(ratios):.2f} times, {min(ratios):.2f} in the worst set"
        verdicts.append(f"{asked}: {_word(met)}, {measured}.")
        largest = max(figures["share_of_memory"] for figures in found.values())
        asked = f"{tool}'s peak memory at most a third of fastai's in each set"
        verdicts.append(f"{asked}: {_word(largest <= MOST_MEMORY)}, {largest:.2f} in the worst set.")
    return verdicts


def _accuracy_verdicts(accuracy: dict[str, dict[str, Any]], sets: tuple[str, ...]) -> list[str]:
    verdicts = []
    for tool in BOUNDS:
        asked = f"{tool} more often right than fastai on the test part, lower end of the pooled interval above 0"
        compared = accuracy.get(tool, {})
        complete = [name for name in sets if compared.get(name, {"seeds": 0})["seeds"] >= SEEDS]
        if len(complete) < len(sets):
            so_far = f"; so far {compared['pooled']['low']:+.2f}" if compared else ""
            verdicts.append(
                f"{asked}: not measured yet ({len(complete)} of {len(sets)} sets have {SEEDS} seeds of both{so_far})."
            )
            continue
        low = compared["pooled"]["low"]
        verdicts.append(f"{asked}: {_word(low > 0)}, {low:+.2f} points.")
    return verdicts


def _word(met: bool) -> str:
    return "met" if met else "NOT met"
