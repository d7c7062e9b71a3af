"""Whether scores mean what they say: calibration error and loss of whole runs, by 5-fold grouped cross-validation.

Each fold of a set is the test part of one `trainer run`, whose temperature was fitted on its own validation part, so
every photo is answered once by a network that saw it in no way. What the scores would have been without the temperature
is computed from them: a temperature is undone by raising probabilities to its power. One row a run, added to the JSON
file as it ends; what is there already is not run again. See PROTOCOL.md.
"""

import argparse
import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from preprocess import hardware, versions
from processes import stop_on_terminate
from rows import Row, Rows
from splits import FOLDS, TOP, by_fold
from tools import BACKBONE, Setting, options_of, run

from trainer.evaluate.calibrate import calibration_figures, softmax
from trainer.evaluate.unknowns import mean_of

SETS = ("hymenoptera", "flowers", "trailcam", "wildlife", "scenes", "fruit")
#: Sets whose error must be shown, and the most that it may be after temperature.
SHOWN, MOST_ERROR = ("scenes", "flowers"), 0.05
RESULTS = Path(__file__).parent / "results"


def answers(run_folder: Path, temperature: float) -> Row:
    """Each test photo's best score with and without the temperature, its true class's probabilities, right or wrong."""
    labels = json.loads((run_folder / "metrics.json").read_text())["labels"]
    with (run_folder / "predictions.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "test"]
    after = np.array([[float(row[f"probability_{label}"]) for label in labels] for row in rows])
    # Six decimals are written: what is 0 there was below.
    after = np.maximum(after, 1e-7)
    before = softmax((np.log(after) * temperature).astype(np.float32))
    targets = np.array([labels.index(row["label"]) for row in rows])
    true = np.arange(len(rows)), targets
    return {
        "right": "".join(str(int(row["label"] == row["predicted"])) for row in rows),
        "score_before": before.max(axis=1).round(4).tolist(),
        "score_after": after.max(axis=1).round(4).tolist(),
        "loss_before": round(float(-np.log(before[true]).mean()), 4),
        "loss_after": round(float(-np.log(after[true]).mean()), 4),
    }


def collect(arguments: argparse.Namespace, rows: Rows) -> None:
    """Every run that the command line asks for and that the file lacks."""
    setting = Setting(epochs=arguments.epochs, trapline_options=options_of(arguments.trapline_options))
    tool = "trapline" if arguments.epochs else "trapline-head"
    for name in arguments.sets.split(","):
        for divided in by_fold(name, arguments.work):
            wanted = {"set": name, "fold": divided.number, "epochs": arguments.epochs, "split": divided.key}
            if rows.find(wanted) is not None:
                continue
            out = arguments.work / "runs" / f"{name}-fold-{divided.number}-{time.time_ns()}"
            took = run(tool, divided, out, setting)
            metrics = json.loads((out / "run" / "metrics.json").read_text())
            calibration = metrics["calibration"]
            row = {key: calibration[key] for key in ("temperature", "validation_loss_before", "validation_loss_after")}
            unknowns = metrics["unknowns"]
            row |= answers(out / "run", calibration["temperature"])
            row |= {"unknown_method": unknowns["method"], "unknown_auroc": unknowns["auroc"], "stage": took["stage"]}
            row |= {"left_to_person_share": metrics["thresholds"]["left_to_person_share"]}
            row |= {"kept_accuracy": metrics["thresholds"]["kept_accuracy"]}
            rows.add(wanted, row)
            shutil.rmtree(out)
            print(time.strftime("%H:%M"), name, divided.number, f"temperature {row['temperature']:.2f}", flush=True)


def pooled(own: list[Row], which: str) -> dict[str, Any]:
    """The calibration figures of a set's answers, all folds together."""
    score = np.concatenate([row[f"score_{which}"] for row in own])
    right = np.array([int(bit) for row in own for bit in row["right"]])
    scores: NDArray[np.float32] = np.stack([score, np.full(len(score), -1.0)], axis=1).astype(np.float32)
    return calibration_figures(scores, 1 - right)


def summary(rows: list[Row]) -> dict[str, Any]:
    """Set -> errors before and after with intervals, validation losses, and what thresholds and unknowns gave."""
    result: dict[str, Any] = {}
    for name in SETS:
        own = [row for row in rows if row["set"] == name]
        if not own:
            continue
        before, after = (pooled(own, which) for which in ("before", "after"))
        kept = [row["kept_accuracy"] for row in own if row["kept_accuracy"] is not None]
        result[name] = {
            "runs": len(own),
            "answers": sum(len(row["right"]) for row in own),
            "temperatures": [round(row["temperature"], 3) for row in own],
            "ece_before": before["ece"],
            "ece_after": after["ece"],
            "ece_after_interval": after["ece_interval"],
            "ece_by_chance": after["ece_by_chance"],
            "test_loss_before": float(np.mean([row["loss_before"] for row in own])),
            "test_loss_after": float(np.mean([row["loss_after"] for row in own])),
            "validation_never_worse": all(row["validation_loss_after"] <= row["validation_loss_before"] for row in own),
            "left_to_person_share": float(np.mean([row["left_to_person_share"] for row in own])),
            "kept_accuracy": float(np.mean(kept)) if kept else None,
            "unknown_methods": [row["unknown_method"] for row in own],
            "unknown_auroc": {
                method: mean_of([row["unknown_auroc"][method] for row in own]) for method in own[0]["unknown_auroc"]
            },
        }
    return result


def verdict(found: dict[str, Any]) -> list[str]:
    """What must be shown, and whether it is."""
    lines = []
    for name in SHOWN:
        if found.get(name, {"runs": 0})["runs"] < FOLDS:
            lines.append(f"- {name}: expected calibration error at most {MOST_ERROR}: not measured yet")
            continue
        error, (low, high) = found[name]["ece_after"], found[name]["ece_after_interval"]
        met = "met" if error <= MOST_ERROR else "NOT met"
        lines.append(
            f"- {name}: expected calibration error after temperature at most {MOST_ERROR}: {met}, {error:.3f} "
            f"({low:.3f} to {high:.3f})"
        )
    never = all(row["validation_never_worse"] for row in found.values())
    lines.append(
        f"- validation loss never worse after temperature, on {len(found)} sets: {'met' if never else 'NOT met'}"
    )
    return lines


def page(rows: Rows, found: dict[str, Any]) -> str:
    """The result as a page."""
    lines = ["# Calibration: do scores mean what they say?", "", *verdict(found), ""]
    lines += [f"`{command}`" for command in rows.content["commands"]]
    machine = rows.content["hardware"]
    lines += [
        "",
        f"{BACKBONE}, {FOLDS} grouped folds; {machine['cpu']}, {machine['cores']} cores, {time.strftime('%Y-%m-%d')}.",
    ]
    lines += ["Trapline at " + ", ".join(sorted({row["commit"] for row in rows.rows})) + ".", ""]
    lines.append(
        "| set | answers | ECE before | ECE after (95 %) | by chance | test loss before | after | temperatures | "
        "left to a person | of the rest right | unknowns: AUROC by class mean | by max softmax | shipped |"
    )
    lines.append("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name, row in found.items():
        low, high = row["ece_after_interval"]
        shipped = ", ".join(
            f"{method} {row['unknown_methods'].count(method)}×" for method in sorted(set(row["unknown_methods"]))
        )
        lines.append(
            f"| {name} | {row['answers']} | {row['ece_before']:.3f} | {row['ece_after']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {row['ece_by_chance']:.3f} | {row['test_loss_before']:.3f} | {row['test_loss_after']:.3f} | "
            f"{min(row['temperatures']):.2f} to {max(row['temperatures']):.2f} | {row['left_to_person_share']:.1%} | "
            + ("–" if row["kept_accuracy"] is None else f"{row['kept_accuracy']:.1%}")
            + "".join(
                f" | {'–' if row['unknown_auroc'][method] is None else format(row['unknown_auroc'][method], '.2f')}"
                for method in ("nearest_class_mean", "max_softmax")
            )
            + f" | {shipped} |"
        )
    lines += ["", "Versions: " + ", ".join(f"{name} {text}" for name, text in rows.content["versions"].items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS), help="names under data/, separated by commas")
    parser.add_argument("--epochs", type=int, default=0, help="most unfrozen epochs (default: 0)")
    parser.add_argument("--json", type=Path, help="file for the rows; default: under results/; the page lies beside it")
    parser.add_argument("--trapline-options", metavar="WORDS", help="further options of trainer run, as one word")
    parser.add_argument("--work", type=Path, default=TOP / ".cache" / "benchmarks", help="folder for folds and runs")
    arguments = parser.parse_args()
    stop_on_terminate()
    path = arguments.json or RESULTS / f"calibration_{BACKBONE}_2-cores_{time.strftime('%Y-%m')}.json"
    rows = Rows(path)
    rows.content |= {"hardware": hardware(), "versions": versions()}
    collect(arguments, rows)
    found = summary([row for row in rows.rows if row["epochs"] == arguments.epochs])
    rows.content["summary"] = found
    rows.save()
    path.with_suffix(".md").write_text(page(rows, found))
    print(page(rows, found))


if __name__ == "__main__":
    main()
