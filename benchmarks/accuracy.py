"""Test accuracy of whole runs against a plain linear probe on the same features and splits.

For each set and seed: `trainer run` by its console script, then scikit-learn's logistic regression as it comes (C = 1)
on standardised features of the same backbone, trained on the run's own training part and scored on its test part. The
differences are paired by photo; the interval is a bootstrap over photos, since several seeds may test one photo.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from preprocess import hardware, versions
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from trainer import backbone
from trainer.dataset.cache import PixelCache
from trainer.dataset.scan import scan
from trainer.recipe import probe
from trapline import preprocessing

BACKBONE = "mobilenet_v2"
RESULTS = Path(__file__).parent / "results"


def features_of(data: Path, cache_dir: Path, weights: Path) -> dict[str, np.ndarray]:
    """The frozen backbone's features of every photo, by path."""
    rules = preprocessing.rules(fit="stretch", image_px=224)
    built = backbone.build(BACKBONE, label_count=2, image_px=224, weights=str(weights))
    with PixelCache.open(cache_dir, rules) as cache:
        photos = scan(data, preprocessing=rules, cache=cache, threads=2, report=lambda _done, _total: None).photos
        rows = probe.features(
            built,
            lambda batch: cache.pixels([photos[index].cache_row for index in batch]),
            len(photos),
            batch_size=32,
            device=torch.device("cpu"),
            report=lambda _done, _total: None,
        )
    return {photo.path: row for photo, row in zip(photos, rows, strict=True)}


def run(data: Path, out: Path, *, seed: int, cache_dir: Path, weights: Path, epochs: int) -> float:
    """One run by the console script; gives its seconds."""
    began = time.monotonic()
    command = [Path(sys.executable).parent / "trainer", "run", data, "--out", out, "--backbone", BACKBONE]
    command += ["--weights", weights, "--seed", str(seed), "--epochs", str(epochs), "--cache-dir", cache_dir]
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def compared(out: Path, features: dict[str, np.ndarray]) -> dict[str, Any]:
    """Right or wrong, by Trapline and by the plain probe, for each test photo of one run."""
    parts = rows_of(out / "split.csv")
    train = [row for row in parts if row["part"] == "train"]
    test = [row for row in rows_of(out / "predictions.csv") if row["part"] == "test"]
    with threadpool_limits(limits=1, user_api="blas"):
        plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        plain.fit(np.stack([features[row["path"]] for row in train]), [row["label"] for row in train])
        answers = plain.predict(np.stack([features[row["path"]] for row in test]))
    metrics = json.loads((out / "metrics.json").read_text())
    return {
        "paths": [row["path"] for row in test],
        "trapline": [int(row["predicted"] == row["label"]) for row in test],
        "probe": [int(answer == row["label"]) for answer, row in zip(answers, test, strict=True)],
        "stage": metrics["stage"],
        "epoch": metrics["epoch"],
    }


def interval(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Accuracies, and the paired difference with a 95 % bootstrap interval over photos, in points."""
    differences: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows:
        for path, ours, theirs in zip(row["paths"], row["trapline"], row["probe"], strict=True):
            differences[row["set"], path].append(ours - theirs)
    sums = np.array([sum(values) for values in differences.values()])
    counts = np.array([len(values) for values in differences.values()])
    chance = np.random.default_rng(0)
    chosen = chance.integers(0, len(sums), (10_000, len(sums)))
    low, high = np.quantile(sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1), [0.025, 0.975]) * 100
    ours = np.mean(np.concatenate([row["trapline"] for row in rows]))
    theirs = np.mean(np.concatenate([row["probe"] for row in rows]))
    return {
        "trapline_percent": 100 * float(ours),
        "probe_percent": 100 * float(theirs),
        "difference_points": 100 * float(ours - theirs),
        "low_points": float(low),
        "high_points": float(high),
        "test_count": int(counts.sum()),
    }


def page(result: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# Test accuracy against a plain linear probe",
        "",
        f"`{result['command']}`, {result['date']}, {result['hardware']['cpu']}, {result['hardware']['cores']} cores.",
        f"{BACKBONE}, {result['seeds']} seeds (split included), {result['epochs']} unfrozen epochs at most.",
        "",
        "| set | test answers | Trapline % | plain probe % | difference, points (95 %) | fine-tuned stage kept |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["summary"].items():
        kept = [entry["stage"] == "finetune" for entry in result["rows"] if name in (entry["set"], "pooled")]
        lines.append(
            f"| {name} | {row['test_count']} | {row['trapline_percent']:.2f} | {row['probe_percent']:.2f} | "
            f"{row['difference_points']:+.2f} ({row['low_points']:+.2f} to {row['high_points']:+.2f}) | "
            f"{sum(kept)} of {len(kept)} runs |"
        )
    lines += ["", "Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="trailcam,flowers,scenes,hymenoptera", help="names under data/")
    parser.add_argument("--seeds", type=int, default=5, help="runs a set, seeds 0, 1, ...")
    parser.add_argument("--epochs", type=int, default=3, help="most unfrozen epochs")
    parser.add_argument("--json", type=Path, help="file for the result; default: under results/, with a page")
    arguments = parser.parse_args()
    shared = os.environ.get("TRAPLINE_SHARED")
    if not shared:
        raise SystemExit("set TRAPLINE_SHARED to the folder with data/ and weights/")
    weights = Path(shared) / "weights" / "mobilenet_v2.pth"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.sets.split(","):
            data, cache_dir = Path(shared) / "data" / name, Path(folder) / "cache"
            features = features_of(data, cache_dir, weights)
            for seed in range(arguments.seeds):
                out = Path(folder) / f"{name}-{seed}"
                options = {"cache_dir": cache_dir, "weights": weights, "epochs": arguments.epochs}
                seconds = run(data, out, seed=seed, **options)
                row = {"set": name, "seed": seed, "seconds": seconds} | compared(out, features)
                rows.append(row)
                ours, theirs = np.mean(row["trapline"]), np.mean(row["probe"])
                print(f"{name} seed {seed}: {ours:.3f} probe {theirs:.3f} {row['stage']} {seconds:.0f} s", flush=True)
                shutil.rmtree(out)
    names = dict.fromkeys(row["set"] for row in rows)
    summary = {name: interval([row for row in rows if row["set"] == name]) for name in names} | {
        "pooled": interval(rows)
    }
    result = {
        "command": " ".join(["benchmarks/accuracy.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "versions": versions() | {"torch": torch.__version__},
        "seeds": arguments.seeds,
        "epochs": arguments.epochs,
        "summary": summary,
        "rows": rows,
    }
    path = arguments.json or RESULTS / f"accuracy_{BACKBONE}_2-cores_{time.strftime('%Y-%m')}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.json is None:
        path.with_suffix(".md").write_text(page(result))
    print(page(result))


if __name__ == "__main__":
    main()
