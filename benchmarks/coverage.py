"""How often a run's 95 % intervals over groups hold the truth, by simulation.

Groups of photos are drawn whose share of right answers differs from group to group (a beta distribution with a given
correlation within a group), with sizes that are equal, uniform, geometric or lognormal, 8 photos or so on average.
Each group is of one of three classes. Counted is how often the interval of accuracy, balanced accuracy and macro F1
holds the value of the distribution, for what `trainer.evaluate.intervals` gives and for percentiles of groups drawn
again, which it gave before.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from preprocess import hardware, versions
from rows import Row, Rows
from scipy.stats import norm, t

from trainer.evaluate.intervals import intervals

CLASSES = 3
GROUPS = (30, 60, 120)
SIZES = ("equal", "uniform", "geometric", "lognormal")
SHARES = (0.7, 0.85, 0.95, 0.99)
ALIKE = (0.05, 0.2, 0.5)
FIGURES = ("accuracy", "balanced_accuracy", "macro_f1")
METHODS = ("jackknife", "percentiles")
DRAWS = 400
WANTED = (0.91, 0.98)
#: Of the first setting; the tests of the intervals have others.
FIRST_SEED = 9000
RESULTS = Path(__file__).parent / "results"

Answers = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def group_sizes(kind: str, groups: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Photos of each group."""
    if kind == "equal":
        return np.full(groups, 8)
    if kind == "uniform":
        return random.integers(1, 16, groups)
    if kind == "geometric":
        return random.geometric(1 / 8, groups)
    return np.maximum(1, np.exp(random.normal(1.5, 1.0, groups)).round()).astype(np.int64)


def answers(setting: Row, random: np.random.Generator) -> Answers:
    """True classes, answers and groups of one draw."""
    sizes = group_sizes(setting["sizes"], setting["groups"], random)
    strength = (1 - setting["alike"]) / setting["alike"]
    share = random.beta(setting["share"] * strength, (1 - setting["share"]) * strength, setting["groups"])
    units = np.repeat(np.arange(setting["groups"]), sizes)
    targets = random.integers(0, CLASSES, setting["groups"])[units]
    wrong = (targets + random.integers(1, CLASSES, len(units))) % CLASSES
    return targets, np.where(random.random(len(units)) < share[units], targets, wrong), units


def percentiles(drawn: Answers, weights: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Expanded percentiles (Hesterberg 2015) of each figure, of groups drawn as often as `weights` [draws, groups]."""
    targets, predicted, units = drawn
    groups = weights.shape[1]
    tables = np.zeros((groups, CLASSES, CLASSES))
    np.add.at(tables, (units, targets, predicted), 1)
    confusion = np.einsum("dg,gij->dij", weights, tables)
    right, true, called = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2), confusion.sum(1)
    with np.errstate(invalid="ignore"):
        values = (right.sum(1) / true.sum(1), np.nanmean(right / true, 1), np.nanmean(2 * right / (true + called), 1))
    tail = norm.cdf(np.sqrt(groups / (groups - 1)) * t.ppf(0.025, groups - 1))
    return {name: tuple(np.quantile(one, [tail, 1 - tail])) for name, one in zip(FIGURES, values, strict=True)}


def covered(setting: Row, seed: int, repeats: int) -> Row:
    """Shares of `repeats` intervals that hold the truth, and mean widths, by method and figure."""
    random = np.random.default_rng(seed)
    weights = random.multinomial(setting["groups"], np.full(setting["groups"], 1 / setting["groups"]), DRAWS)
    held: dict[str, list[bool]] = {f"{method}/{figure}": [] for method in METHODS for figure in FIGURES}
    widths: dict[str, list[float]] = {name: [] for name in held}
    for _ in range(repeats):
        drawn = answers(setting, random)
        ours = intervals(*drawn, label_count=CLASSES)
        before = percentiles(drawn, weights)
        for figure in FIGURES:
            for method, (low, high) in zip(METHODS, (getattr(ours, figure), before[figure]), strict=True):
                held[f"{method}/{figure}"].append(bool(low <= setting["share"] <= high))
                widths[f"{method}/{figure}"].append(float(high - low))
    return {
        "repeats": repeats,
        "held": {name: float(np.mean(values)) for name, values in held.items()},
        "width": {name: float(np.mean(values)) for name, values in widths.items()},
    }


def page(rows: Rows) -> str:
    """The result as a page."""
    machine = rows.content["hardware"]
    lines = [
        "# How often intervals over groups hold the truth",
        "",
        f"{len(rows.rows)} settings (groups {GROUPS}, sizes {', '.join(SIZES)}, true share {SHARES}, correlation "
        f"within a group {ALIKE}), {rows.rows[0]['repeats']} simulated test sets each. The interval says 95 %; wanted "
        f"are {WANTED[0]:.0%} to {WANTED[1]:.0%}.",
        "",
        *(f"`{command}`" for command in rows.content["commands"]),
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {time.strftime('%Y-%m-%d')}. Trapline at "
        + ", ".join(sorted({row["commit"] for row in rows.rows}))
        + ".",
    ]
    chosen: list[tuple[str, dict[str, Any]]] = [("all", {})]
    chosen += [(f"{value} groups", {"groups": value}) for value in GROUPS]
    chosen += [(f"sizes {value}", {"sizes": value}) for value in SIZES]
    chosen += [(f"true share {value}", {"share": value}) for value in SHARES]
    chosen += [(f"correlation {value}", {"alike": value}) for value in ALIKE]
    for figure in FIGURES:
        lines += ["", f"## {figure.replace('_', ' ').capitalize()}", ""]
        lines += ["| settings | jackknife: mean (least to most), settings as wanted, width | percentiles, likewise |"]
        lines += ["|---|---|---|"]
        for name, wanted in chosen:
            some = [row for row in rows.rows if wanted.items() <= row.items()]
            lines.append(f"| {name} | " + " | ".join(cell(some, f"{method}/{figure}") for method in METHODS) + " |")
    return "\n".join([*lines, ""])


def cell(some: list[Row], name: str) -> str:
    """A method's shares over some settings."""
    held = np.array([row["held"][name] for row in some])
    good = int(((held >= WANTED[0]) & (held <= WANTED[1])).sum())
    width = np.mean([row["width"][name] for row in some])
    return f"{held.mean():.1%} ({held.min():.1%} to {held.max():.1%}), {good} of {len(some)}, {width:.3f}"


def main() -> None:
    """Runs every setting that the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400, help="simulated test sets a setting (default: 400)")
    parser.add_argument("--json", type=Path, help="file for the rows; default: under results/; the page lies beside it")
    arguments = parser.parse_args()
    path = arguments.json or RESULTS / f"coverage_{time.strftime('%Y-%m')}.json"
    rows = Rows(path)
    rows.content |= {"hardware": hardware(), "versions": versions()}
    for number, values in enumerate(itertools.product(GROUPS, SIZES, SHARES, ALIKE)):
        setting = dict(zip(("groups", "sizes", "share", "alike"), values, strict=True))
        if rows.find(setting) is None:
            rows.add(setting, covered(setting, FIRST_SEED + number, arguments.repeats))
    rows.save()
    path.with_suffix(".md").write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
