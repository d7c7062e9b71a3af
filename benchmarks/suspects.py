"""Wrong labels and near duplicates that were planted, and how many of them a run finds.

Labels: for each seed 5 % of the photos of `scenes`, drawn at random, are put into another class's folder, drawn at
random. `trainer run --epochs 0` gets the folder as it is. Counted is how many of the flipped are in the first 120 rows
of its `suspects.csv`. From the same out-of-fold answers other rankings are made, to compare.

Near duplicates: of 40 photos of each set's `train/` a copy is put into `test/`: re-encoded, brightened,
with a strip of each edge cut off, or all of it. Counted is how many of the copies the run's comparison lists.
"""

import argparse
import csv
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from preprocess import hardware, versions
from processes import measured, stop_on_terminate
from rows import Row, Rows
from splits import RULES, TOP, by_seed, gathered, laid_out, scanned
from tools import BACKBONE, weights

from trainer.data import Data
from trainer.dataset.cache import PixelCache
from trainer.dataset.scan import scan
from trainer.dataset.split import split
from trainer.dataset.straddling import straddling
from trainer.evaluate.suspects import doubt, self_confidence
from trainer.run_folder import read_tensors

SET = "scenes"
SHARE = 0.05
FIRST_ROWS = 120
TARGET = 0.7
COPIES = 40
COPIED_SETS = ("scenes", "flowers", "trailcam")
#: How a copy differs: JPEG quality, longer side as a share, brightness, share of each edge that is cut off.
CHANGES = {
    "re-encoded": (60, 0.8, 1.0, 0.0),
    "brightened": (85, 1.0, 1.1, 0.0),
    "cropped": (85, 1.0, 1.0, 0.01),
    "all of it": (60, 0.8, 1.1, 0.01),
}
RESULTS = Path(__file__).parent / "results"
_TRAINER = Path(sys.executable).parent / "trainer"

Scores = NDArray[np.float64]
Given = NDArray[np.int64]


def own(probabilities: Scores, given: Given) -> Scores:
    """The label's own probability, turned round."""
    return 1 - probabilities[np.arange(len(given)), given]


def margin(probabilities: NDArray[np.floating], given: Given) -> Scores:
    """The best other class less the label."""
    rows, others = np.arange(len(given)), probabilities.astype(np.float64)
    own_scores = others[rows, given]
    others[rows, given] = -np.inf
    return others.max(axis=1) - own_scores


def less_self_confidence(probabilities: Scores, given: Given) -> Scores:
    """The margin of probabilities from which each class's self-confidence was taken off."""
    sure = self_confidence(probabilities, given)
    adjusted = probabilities - sure + sure.max()
    return margin(adjusted / adjusted.sum(axis=1, keepdims=True), given)


def weighted_entropy(probabilities: Scores, given: Given) -> Scores:
    """Confidence-weighted entropy (Kuan and Mueller 2022): the label's own improbability over the entropy."""
    safe = np.clip(probabilities, 1e-12, None)
    entropy = -(safe * np.log(safe)).sum(axis=1) / np.log(safe.shape[1])
    return -np.log(safe[np.arange(len(given)), given]) / np.clip(entropy, 1e-6, None)


def confident_first(probabilities: Scores, given: Given) -> Scores:
    """Photos that are confidently another class (confident learning's off-diagonal) first, each part by its margin."""
    others = np.where(np.arange(probabilities.shape[1]) == given[:, None], -np.inf, probabilities)
    sure = self_confidence(probabilities, given)
    return margin(probabilities, given) + 2 * (others >= sure).any(axis=1)


#: What is compared; the first is what `suspects.csv` is ordered by.
RANKINGS: dict[str, Callable[[Any, Given], Scores]] = {
    "share of the two": doubt,
    "margin": margin,
    "less self-confidence": less_self_confidence,
    "own probability": own,
    "weighted entropy": weighted_entropy,
    "confident first": confident_first,
}


def flipped_folder(seed: int, work: Path) -> tuple[Path, dict[str, str]]:
    """The set with 5 % of its labels flipped, and the flipped photos with their true labels."""
    photos = scanned(gathered(SET, work), work)
    chance = np.random.default_rng(seed)
    wrong = set(chance.choice(len(photos.photos), round(SHARE * len(photos.photos)), replace=False).tolist())
    files, truth = {}, {}
    for number, photo in enumerate(photos.photos):
        label = photo.label
        if number in wrong:
            label = str(chance.choice([other for other in photos.labels if other != label]))
        place = f"{label}/{number:05}{Path(photo.path).suffix}"
        files[place] = photos.root / photo.path
        if number in wrong:
            truth[place] = photo.label
    return laid_out(files, work / "flipped" / f"{SET}-{seed}"), truth


def run_of(seed: int, work: Path) -> Row:
    """One run on a set with flipped labels, and how many of these its list and the other rankings have on top."""
    folder, truth = flipped_folder(seed, work)
    out = work / "runs" / f"suspects-{seed}-{time.time_ns()}"
    out.mkdir(parents=True)
    command = [str(_TRAINER), "run", str(folder), "--out", str(out / "run"), "--backbone", BACKBONE, "--epochs", "0"]
    command += ["--weights", str(weights()), "--seed", str(seed), "--cache-dir", str(work / "run-cache")]
    measured(command, environment={"CUDA_VISIBLE_DEVICES": ""}, log=out / "log.txt")
    listed = table(out / "run" / "suspects.csv")
    paths, given, probabilities = answers(out / "run")
    disagree = np.flatnonzero(probabilities.argmax(axis=1) != given)
    found = {}
    for name, ranking in RANKINGS.items():
        first = disagree[np.argsort(-ranking(probabilities, given)[disagree], kind="stable")][:FIRST_ROWS]
        found[name] = sum(paths[row] in truth for row in first)
    shutil.rmtree(out)
    return {
        "flipped": len(truth),
        "listed": len(listed),
        "found": sum(row["path"] in truth for row in listed[:FIRST_ROWS]),
        "suggested_right": sum(truth.get(row["path"]) == row["suggested"] for row in listed[:FIRST_ROWS]),
        "rankings": found,
    }


def answers(run: Path) -> tuple[list[str], Given, NDArray[np.float32]]:
    """Paths, labels and out-of-fold probabilities of a run that kept its head."""
    places = {row["path"]: row for row in table(run / "split.csv")}
    labels = sorted({row["label"] for row in places.values()})
    held_out = read_tensors(run / "checkpoint" / "head.safetensors")[0]["held_out"].numpy()
    rows = dict(zip((path for path, row in places.items() if row["part"] == "train"), held_out, strict=True))
    for row in table(run / "predictions.csv"):
        rows[row["path"]] = np.array([row[f"probability_{label}"] for label in labels], np.float32)
    paths = [path for path, values in rows.items() if not np.isnan(values).any()]
    given = np.array([labels.index(places[path]["label"]) for path in paths], np.int64)
    return paths, given, np.stack([rows[path] for path in paths])


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def copies_of(name: str, change: str, seed: int, work: Path) -> Row:
    """How many planted copies are listed."""
    divided = by_seed(name, seed, work)
    chance = np.random.default_rng(seed)
    train = sorted(path for path, part in divided.parts.items() if part == "train")
    chosen = [train[number] for number in chance.choice(len(train), COPIES, replace=False)]
    folder = work / "copies" / f"{name}-{seed}-{time.time_ns()}"
    shutil.copytree(divided.folder, folder)
    planted = {}
    for number, path in enumerate(chosen):
        place = f"test/{path.split('/', maxsplit=1)[0]}/planted-{number:03}.jpg"
        write_copy(folder / "train" / path, folder / place, CHANGES[change])
        planted[place] = f"train/{path}"
    with PixelCache.open(work / "cache", RULES) as cache:
        photos = scan(folder, preprocessing=RULES, cache=cache, threads=2, report=lambda _done, _total: None)
    parts = split(photos, val_share=0.15, test_share=0.15, seed=seed, group_by="auto", groups_file=None)
    with PixelCache.open(work / "cache", RULES) as cache:
        data = Data(scan=photos, split=parts, cache=cache)
        found = straddling(photos.photos, parts.parts, parts.groups, pixels=data.pixels)
    listed = {row.path for row in found}
    others = len(listed - planted.keys())
    shutil.rmtree(folder)
    flat = sum(photo.difference_hash == 0 for photo in photos.photos if photo.path in planted)
    return {"planted": len(planted), "found": len(planted.keys() & listed), "others": others, "too_flat": flat}


def write_copy(source: Path, target: Path, change: tuple[int, float, float, float]) -> None:
    """A copy of a photo, with one of `CHANGES`."""
    quality, share, brightness, cut = change
    with Image.open(source) as photo:
        image = photo.convert("RGB")
    width, height = image.size
    left, top = round(cut * width), round(cut * height)
    image = image.crop((left, top, width - left, height - top))
    image = image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS)
    ImageEnhance.Brightness(image).enhance(brightness).save(target, quality=quality)


def collect(arguments: argparse.Namespace, rows: Rows) -> None:
    """Everything that the file lacks."""
    for seed in range(arguments.seeds):
        wanted = {"what": "labels", "set": SET, "seed": seed}
        if rows.find(wanted) is None:
            rows.add(wanted, run_of(seed, arguments.work))
            print(time.strftime("%H:%M"), wanted, rows.find(wanted), flush=True)
        for name in COPIED_SETS:
            for change in CHANGES:
                wanted = {"what": "copies", "set": name, "change": change, "seed": seed}
                if rows.find(wanted) is None:
                    rows.add(wanted, copies_of(name, change, seed, arguments.work))
                    print(time.strftime("%H:%M"), wanted, rows.find(wanted), flush=True)


def page(rows: Rows) -> str:
    """The result as a page."""
    machine = rows.content["hardware"]
    labels = [row for row in rows.rows if row["what"] == "labels"]
    flipped, found = (sum(row[name] for row in labels) for name in ("flipped", "found"))
    met = all(row["found"] >= TARGET * row["flipped"] for row in labels)
    lines = [
        "# Wrong labels and near duplicates that were planted",
        "",
        f"`{SET}` with {SHARE:.0%} of its labels flipped at random, {len(labels)} seeds, {BACKBONE}, `--epochs 0`: "
        f"{found} of {flipped} flipped labels ({found / flipped:.1%}) are in the first {FIRST_ROWS} rows of "
        f"`suspects.csv`. At least {TARGET:.0%} at each seed: {'met' if met else 'NOT met'}.",
        "",
        *(f"`{command}`" for command in rows.content["commands"]),
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {time.strftime('%Y-%m-%d')}. Trapline at "
        + ", ".join(sorted({row["commit"] for row in rows.rows}))
        + ".",
        "",
        "| seed | flipped | in the first rows | with the right suggestion | rows in all |",
        "|---|---|---|---|---|",
        *(
            f"| {row['seed']} | {row['flipped']} | {row['found']} ({row['found'] / row['flipped']:.0%}) | "
            f"{row['suggested_right']} | {row['listed']} |"
            for row in labels
        ),
        "",
        "Other rankings of the same answers, without the bound on photos of one group:",
        "",
        "| ranking | found in the first rows |",
        "|---|---|",
        *(f"| {name} | {sum(row['rankings'][name] for row in labels)} of {flipped} |" for name in RANKINGS),
        "",
        *copies(rows),
    ]
    return "\n".join([*lines, ""])


def copies(rows: Rows) -> list[str]:
    """The table of near duplicates."""
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in rows.rows:
        if row["what"] == "copies":
            for place, name in enumerate(("found", "planted", "too_flat")):
                counts[row["set"], row["change"]][place] += row[name]
    lines = [
        f"Copies of `train/` photos planted in `test/`, {COPIES} a seed (JPEG quality 60 or 85, 1.1 times as bright, "
        "1 % of each edge cut off), and how many `duplicates.csv` would list:",
        "",
        f"| set | {' | '.join(CHANGES)} |",
        "|---|" + "---|" * len(CHANGES),
    ]
    for name in COPIED_SETS:
        cells = [f"{found} of {planted}" for found, planted, _flat in (counts[name, change] for change in CHANGES)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    flat = sum(row[2] for row in counts.values())
    found, planted = (sum(row[place] for row in counts.values()) for place in range(2))
    met = "met" if found == planted else "NOT met"
    return [*lines, "", f"{found:,} of {planted:,} found; {flat} too flat to be compared. All found: {met}."]


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... (default: 5)")
    parser.add_argument("--json", type=Path, help="file for the rows; default: under results/; the page lies beside it")
    parser.add_argument("--work", type=Path, default=TOP / ".cache" / "benchmarks", help="folder for splits and runs")
    arguments = parser.parse_args()
    stop_on_terminate()
    path = arguments.json or RESULTS / f"suspects_{BACKBONE}_2-cores_{time.strftime('%Y-%m')}.json"
    rows = Rows(path)
    rows.content |= {"hardware": hardware(), "versions": versions()}
    collect(arguments, rows)
    rows.save()
    path.with_suffix(".md").write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
