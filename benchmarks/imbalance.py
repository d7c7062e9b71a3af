"""What `--balance auto` is worth: scenes with three of six classes cut to 1:20, tested on a balanced part.

For each seed Trapline's splitter divides the whole set; three classes, drawn by the seed, then lose all but a twentieth
of their training and validation photos, while the test part stays as it was. `trainer run` is called by its console
script with `--balance none` and with `--balance auto`; answers are paired by photo. Rows are kept as in `train.py`.
"""

import argparse
import shutil
import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from intervals import Pair, Paired, paired
from preprocess import hardware, versions
from processes import stop_on_terminate
from rows import Row, Rows, share_right
from splits import TOP, Divided, by_seed, laid_out
from tools import BACKBONE, Setting, run

SET = "scenes"
RARE_CLASSES = 3
ONE_IN = 20
WAYS = ("none", "auto")
RESULTS = Path(__file__).parent / "results"


def cut(divided: Divided, work: Path) -> Divided:
    """The same division with three classes cut; every class keeps at least two photos a part."""
    chance = np.random.default_rng(divided.number)
    members: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, part in sorted(divided.parts.items()):
        members[path.split("/", maxsplit=1)[0], part].append(path)
    rare = chance.choice(sorted({label for label, _part in members}), RARE_CLASSES, replace=False)
    parts = {}
    for (label, part), paths in members.items():
        wanted = len(paths) if part == "test" or label not in rare else max(2, round(len(paths) / ONE_IN))
        chosen = sorted(chance.choice(len(paths), wanted, replace=False))
        parts |= {paths[number]: part for number in chosen}
    files = {f"{part}/{path}": divided.folder / part / path for path, part in parts.items()}
    folder = laid_out(files, work / "cut" / f"{divided.name}-{divided.number}-{divided.digest[:12]}")
    return replace(divided, name=f"{divided.name}-cut", folder=folder, parts=parts)


def collect(arguments: argparse.Namespace, rows: Rows) -> None:
    """Every run that the file lacks."""
    for seed in range(arguments.seeds):
        divided = cut(by_seed(SET, seed, arguments.work), arguments.work)
        for way in WAYS[:: -1 if seed % 2 else 1]:
            wanted = {"set": divided.name, "seed": seed, "balance": way, "epochs": arguments.epochs}
            if rows.find(wanted) is not None:
                continue
            out = arguments.work / "runs" / f"{divided.name}-{seed}-{way}-{time.time_ns()}"
            setting = Setting(epochs=arguments.epochs, trapline_options=("--balance", way))
            tool = "trapline" if arguments.epochs else "trapline-head"
            row = run(tool, divided, out, setting)
            rows.add(wanted, row | {"split": divided.key}, divided)
            shutil.rmtree(out)
            print(f"{time.strftime('%H:%M')} seed {seed} --balance {way}: {share_right(row):.3f}", flush=True)


def compared(rows: Rows, epochs: int) -> Paired | None:
    """`auto` against `none`, over the seeds that have both; None where none has."""
    found: dict[int, dict[str, Row]] = defaultdict(dict)
    for row in rows.rows:
        if row["epochs"] == epochs:
            found[row["seed"]][row["balance"]] = row
    pairs = [
        Pair(name=SET, path=path, ours=int(ours), theirs=int(theirs))
        for ways in found.values()
        if len(ways) == len(WAYS)
        for path, ours, theirs in zip(
            rows.test_paths(ways["auto"]), ways["auto"]["right"], ways["none"]["right"], strict=True
        )
    ]
    return paired(pairs) if pairs else None


def page(rows: Rows, result: Paired, epochs: int) -> str:
    """The result as a page."""
    machine = rows.content["hardware"]
    seeds = sorted({row["seed"] for row in rows.rows if row["epochs"] == epochs})
    lines = [
        "# `--balance auto` against `none`, three of six classes cut to 1:20",
        "",
        f"Accuracy on the balanced, untouched test part of `{SET}`, {len(seeds)} seeds, {epochs} unfrozen epochs: "
        f"auto {result.ours_percent:.2f} %, none {result.theirs_percent:.2f} %, difference {result.cell()} points "
        f"(95 %, {result.answers} answers). The interval {'excludes' if result.low > 0 else 'INCLUDES'} 0.",
        "",
        *(f"`{command}`" for command in rows.content["commands"]),
        "",
        f"{BACKBONE}, {machine['cpu']}, {machine['cores']} cores, {time.strftime('%Y-%m-%d')}. Trapline at "
        + ", ".join(sorted({row["commit"] for row in rows.rows}))
        + ".",
        "",
        "| seed | none % | auto % |",
        "|---|---|---|",
    ]
    for seed in seeds:
        cells = [
            f"{100 * share_right(row):.1f}"
            if (row := rows.find({"seed": seed, "balance": way, "epochs": epochs}))
            else "–"
            for way in WAYS
        ]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0, 1, ... (default: 10)")
    parser.add_argument("--epochs", type=int, default=0, help="most unfrozen epochs (default: 0)")
    parser.add_argument("--json", type=Path, help="file for the rows; default: under results/; the page lies beside it")
    parser.add_argument("--work", type=Path, default=TOP / ".cache" / "benchmarks", help="folder for splits and runs")
    arguments = parser.parse_args()
    stop_on_terminate()
    path = arguments.json or RESULTS / f"imbalance_{BACKBONE}_2-cores_{time.strftime('%Y-%m')}.json"
    rows = Rows(path)
    rows.content |= {"hardware": hardware(), "versions": versions()}
    collect(arguments, rows)
    result = compared(rows, arguments.epochs)
    if result is None:
        raise SystemExit("no seed has both runs")
    rows.content["summary"] = asdict(result)
    rows.save()
    path.with_suffix(".md").write_text(page(rows, result, arguments.epochs))
    print(page(rows, result, arguments.epochs))


if __name__ == "__main__":
    main()
