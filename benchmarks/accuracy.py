"""Test accuracy of whole runs against a plain linear probe on the same features, by 5-fold grouped cross-validation.

Each fold of a set is the test part of one run, so that every photo is tested once. `trainer run` by its console script,
against scikit-learn's logistic regression as it comes (C = 1) on standardised features of the same backbone: `probe` is
fitted on the run's own training part, `probe_all` on training and validation part together. The differences are paired
by photo. One row a run, added to the JSON file as it ends; what is there already is not run again. See PROTOCOL.md.
"""

import argparse
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intervals import Pair, Paired, paired
from numpy.typing import NDArray
from preprocess import hardware, versions
from processes import stop_on_terminate
from rows import Row, Rows, bits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from splits import FOLDS, RULES, TOP, Divided, by_fold, gathered, scanned
from threadpoolctl import threadpool_limits
from tools import BACKBONE, Setting, options_of, run, weights

from trainer import backbone
from trainer.dataset.cache import PixelCache
from trainer.recipe import probe

SETS = ("hymenoptera", "flowers", "trailcam", "wildlife", "scenes")
PROBES = {"probe": ("train",), "probe_all": ("train", "val")}
#: Points that a run must be better than the plain probe, pooled.
LEAST_POINTS = 1.0
RESULTS = Path(__file__).parent / "results"


def features_of(name: str, work: Path) -> dict[str, NDArray[np.float32]]:
    """The frozen backbone's features of every photo of a set, by path."""
    built = backbone.build(BACKBONE, label_count=2, image_px=224, weights=str(weights()))
    photos = scanned(gathered(name, work), work).photos
    with PixelCache.open(work / "cache", RULES) as cache:
        rows = probe.features(
            built,
            lambda batch: cache.pixels([photos[index].cache_row for index in batch]),
            len(photos),
            batch_size=32,
            device=torch.device("cpu"),
            report=lambda _done, _total: None,
        )[0]
    return {photo.path: row for photo, row in zip(photos, rows, strict=True)}


def probed(divided: Divided, features: dict[str, NDArray[np.float32]], parts: Iterable[str]) -> str:
    """The plain probe fitted on `parts`: right or wrong for each test photo."""
    learnt = [path for path, part in sorted(divided.parts.items()) if part in parts]
    with threadpool_limits(limits=1, user_api="blas"):
        plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        plain.fit(np.stack([features[path] for path in learnt]), [label(path) for path in learnt])
        said = plain.predict(np.stack([features[path] for path in divided.test]))
    return bits(
        {path: int(answer == label(path)) for path, answer in zip(divided.test, said, strict=True)}, divided.test
    )


def label(path: str) -> str:
    """A photo's class, by its path within the set."""
    return path.split("/", maxsplit=1)[0]


def asked_of(arguments: argparse.Namespace) -> Row:
    """What tells the rows of one kind of run from those of others."""
    return {"epochs": arguments.epochs, "options": arguments.trapline_options or ""}


def collect(arguments: argparse.Namespace, rows: Rows) -> None:
    """Every run that the command line asks for and that the file lacks."""
    setting = Setting(epochs=arguments.epochs, trapline_options=options_of(arguments.trapline_options))
    tool = "trapline" if arguments.epochs else "trapline-head"
    for name in arguments.sets.split(","):
        features: dict[str, NDArray[np.float32]] = {}
        for divided in by_fold(name, arguments.work):
            wanted = {"set": name, "fold": divided.number, **asked_of(arguments), "split": divided.key}
            if rows.find(wanted) is not None and not arguments.again:
                continue
            features = features or features_of(name, arguments.work)
            out = arguments.work / "runs" / f"{name}-fold-{divided.number}-{time.time_ns()}"
            row = run(tool, divided, out, setting)
            row |= {which: probed(divided, features, parts) for which, parts in PROBES.items()}
            rows.add(wanted, row, divided)
            shutil.rmtree(out)
            print(said(wanted | row), flush=True)


def said(row: Row) -> str:
    """One run in one line."""
    shares = {which: row[which].count("1") / len(row[which]) for which in ("right", *PROBES)}
    figures = ", ".join(f"{which} {share:.3f}" for which, share in shares.items())
    fold = f"{time.strftime('%H:%M')} {row['set']} fold {row['fold']}"
    return f"{fold}: {figures}, {row['stage']}, {row['seconds_total']:.0f} s"


def summary(rows: Rows, counted: list[Row]) -> dict[str, Any]:
    """Set or `pooled` -> probe -> the paired comparison; how many runs kept the fine-tuned stage."""
    pairs: dict[str, dict[str, list[Pair]]] = {}
    for row in counted:
        for which in PROBES:
            answers = zip(rows.test_paths(row), row["right"], row[which], strict=True)
            own = [Pair(name=row["set"], path=path, ours=int(our), theirs=int(their)) for path, our, their in answers]
            for name in (row["set"], "pooled"):
                pairs.setdefault(name, {}).setdefault(which, []).extend(own)
    result: dict[str, Any] = {}
    for name in [*sorted(pairs.keys() - {"pooled"}), *(["pooled"] if pairs else [])]:
        own_rows = [row for row in counted if name in (row["set"], "pooled")]
        result[name] = {which: asdict(paired(own)) for which, own in pairs[name].items()}
        result[name] |= {"runs": len(own_rows), "kept": sum(row["stage"] == "finetune" for row in own_rows)}
    return result


def verdict(found: dict[str, Any]) -> str:
    """The bound of PROTOCOL.md, against each probe, in words."""
    incomplete = [name for name in SETS if found.get(name, {"runs": 0})["runs"] < FOLDS]
    asked = f"At least {LEAST_POINTS:+g} point pooled and no set's interval wholly below 0"
    if incomplete:
        return f"{asked}: not measured yet ({', '.join(incomplete)} not complete)."
    sentences = []
    for which, parts in PROBES.items():
        behind = [name for name in SETS if found[name][which]["high"] < 0]
        points = found["pooled"][which]["points"]
        met = points >= LEAST_POINTS and not behind
        told = f"wholly below 0: {', '.join(behind)}" if behind else "no set wholly below 0"
        sentences.append(
            f"against the probe on {' and '.join(parts)}: {'met' if met else 'NOT met'}, {points:+.2f} points, {told}"
        )
    return f"{asked}; " + "; ".join(sentences) + "."


def page(rows: Rows, found: dict[str, Any], epochs: int) -> str:
    """The result as a page."""
    machine = rows.content["hardware"]
    lines = ["# Test accuracy against a plain linear probe", "", verdict(found), ""]
    lines += [f"`{command}`" for command in rows.content["commands"]]
    lines += [
        "",
        f"{BACKBONE}, {FOLDS} grouped folds, {epochs} unfrozen epochs at most. The verdict is on the first probe.",
    ]
    lines += [f"{machine['cpu']}, {machine['cores']} cores, {time.strftime('%Y-%m-%d')}."]
    lines += ["Trapline at " + ", ".join(sorted({row["commit"] for row in rows.rows})) + ".", ""]
    lines.append("| set | answers | Trapline % | probe on train % | difference (95 %) | probe on train and val % ")
    lines[-1] += "| difference (95 %) | fine-tuned stage kept |"
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, own in found.items():
        first, second = Paired(**own["probe"]), Paired(**own["probe_all"])
        lines.append(
            f"| {name} | {first.answers} | {first.ours_percent:.2f} | {first.theirs_percent:.2f} | {first.cell()} | "
            f"{second.theirs_percent:.2f} | {second.cell()} | {own['kept']} of {own['runs']} runs |"
        )
    lines += ["", "Versions: " + ", ".join(f"{name} {text}" for name, text in rows.content["versions"].items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS), help="names under data/, separated by commas")
    parser.add_argument("--epochs", type=int, default=3, help="most unfrozen epochs (default: 3)")
    parser.add_argument("--json", type=Path, help="file for the rows; default: under results/; the page lies beside it")
    parser.add_argument("--again", action="store_true", help="run also what the file has; the rows before are kept")
    parser.add_argument("--trapline-options", metavar="WORDS", help="further options of trainer run, as one word")
    parser.add_argument("--work", type=Path, default=TOP / ".cache" / "benchmarks", help="folder for folds and runs")
    arguments = parser.parse_args()
    stop_on_terminate()
    path = arguments.json or RESULTS / f"accuracy_{BACKBONE}_2-cores_{time.strftime('%Y-%m')}.json"
    rows = Rows(path)
    rows.content |= {"hardware": hardware(), "versions": versions() | {"torch": torch.__version__}}
    collect(arguments, rows)
    found = summary(rows, [row for row in rows.rows if asked_of(arguments).items() <= row.items()])
    rows.content["summary"] = found
    rows.save()
    path.with_suffix(".md").write_text(page(rows, found, arguments.epochs))
    print(page(rows, found, arguments.epochs))


if __name__ == "__main__":
    main()
