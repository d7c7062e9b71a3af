"""Whether a run knows that it was trained for too long: its verdict beside what a large withheld set says.

Each run trains on a few photos of a set, validates on 100 others, and after each epoch is measured on 250 photos
that it is never told of. The verdict is `trainer.recipe.history.turning_point`, from the run's own history alone.

The truth, fixed before any run was looked at: a run is over-trained where the withheld photos' mean loss after the last
epoch is above the lowest after any epoch (from the first on) by more than 2 standard errors of the difference, paired
by photo, and by more than 5 % of that lowest loss. Otherwise it is healthy. A run that came out otherwise than planted
counts as what the truth says. At least 90 % of each kind are to be judged right (18 of 20).

Planted over-training: 48 to 90 photos, 10 to 20 epochs, a constant rate, no augmentation, and in most of the runs wrong
labels (20 or 40 %) among the photos that are trained on. Planted healthy: 120 to 300 photos, three or four epochs, a
rate that rises and falls. Runs start from MobileNetV2's ImageNet weights and a fitted head at 64 px, or from nothing
(resnet18, 32 px). The rule's two numbers and the setups were tried on other seeds (0 to 9 and from 100 on) than those
reported, which begin at 200.
"""

import argparse
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from preprocess import hardware, versions
from processes import stop_on_terminate
from rows import Row, Rows
from splits import TOP, gathered
from tools import weights

from trainer.backbone import Backbone, build
from trainer.dataset.cache import PixelCache
from trainer.dataset.scan import scan
from trainer.head_stage import put_head
from trainer.recipe import probe
from trainer.recipe.finetune import finetune
from trainer.recipe.history import Epoch, turning_point
from trainer.recipe.part import Part, losses, predict
from trainer.recipe.plan import Plan
from trainer.recipe.schedule import steps_in_epoch
from trainer.world import World
from trapline import preprocessing

KINDS = ("over-trained", "healthy")
SETS = ("scenes", "flowers")
VALIDATION, MOST_WITHHELD = 100, 250
ERRORS, SHARE = 2.0, 0.05
TARGET = 0.9
RESULTS = Path(__file__).parent / "results"
_CPU = torch.device("cpu")
# No checkpoint can be written there: a run of a minute is not gone on with, and its disk would be the slowest part.
_NOWHERE = Path(os.devnull) / "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One run.

    Attributes:
        name: The set.
        seed: Of every random choice.
        pretrained: Whether it starts from ImageNet's weights and a fitted head.
        photos: Photos to train on.
        epochs: Epochs; it never stops before.
        rate: Learning rate of the last layers.
        earliest_rate: Share of it for the first layer.
        schedule: Of the rate.
        augment: Preset of random changes.
        averaged: Whether weights are averaged over the last half of the steps.
        wrong: Share of wrong labels among them.
    """

    name: str
    seed: int
    pretrained: bool
    photos: int
    epochs: int
    rate: float
    earliest_rate: float
    schedule: Any
    augment: Any
    averaged: bool
    wrong: float


#: What is planted, in four ways each.
_OVER_TRAINED: tuple[dict[str, Any], ...] = (
    {"pretrained": False, "photos": 90, "epochs": 10, "rate": 1e-3, "earliest_rate": 1.0, "wrong": 0.0},
    {"pretrained": True, "photos": 48, "epochs": 20, "rate": 1e-4, "earliest_rate": 0.1, "wrong": 0.4},
    {"pretrained": False, "photos": 90, "epochs": 10, "rate": 1e-3, "earliest_rate": 1.0, "wrong": 0.2},
    {"pretrained": False, "photos": 60, "epochs": 12, "rate": 1e-3, "earliest_rate": 1.0, "wrong": 0.4},
)
_HEALTHY: tuple[dict[str, Any], ...] = (
    {"pretrained": True, "photos": 200, "epochs": 3, "rate": 1e-4, "earliest_rate": 0.01, "augment": "flip"},
    {"pretrained": False, "photos": 300, "epochs": 4, "rate": 1e-3, "earliest_rate": 1.0, "augment": "mild"},
    {"pretrained": True, "photos": 120, "epochs": 3, "rate": 1e-4, "earliest_rate": 0.1, "augment": "mild"},
    {"pretrained": False, "photos": 200, "epochs": 3, "rate": 5e-4, "earliest_rate": 1.0, "augment": "flip"},
)


def setup_of(kind: str, number: int) -> Setup:
    """What run `number` of a kind is; sets change after each round of four."""
    rounds, way = divmod(number, 4)
    if kind == "over-trained":
        fixed = {"schedule": "constant", "augment": "none", "averaged": False}
        chosen = fixed | _OVER_TRAINED[way]
    else:
        fixed = {"schedule": "one_cycle", "averaged": True, "wrong": 0.0}
        chosen = fixed | _HEALTHY[way]
    return Setup(name=SETS[rounds % 2], seed=number, **chosen)


@cache
def photos_of(name: str, image_px: int, work: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
    """A set's pixels, uint8 [N, px, px, 3], classes, int64 [N], and number of classes."""
    rules = preprocessing.rules(fit="stretch", image_px=image_px)
    with PixelCache.open(work / "cache", rules) as cached:
        folder = gathered(name, work)
        found = scan(folder, preprocessing=rules, cache=cached, threads=1, report=lambda _done, _total: None)
        pixels = np.array(cached.pixels([photo.cache_row for photo in found.photos]))
    classes = np.array([found.labels.index(photo.label) for photo in found.photos], np.int64)
    return pixels, classes, len(found.labels)


def parts_of(setup: Setup, pixels: NDArray[np.uint8], classes: NDArray[np.int64]) -> list[Part]:
    """Photos to train on, to validate on, and withheld ones."""
    chance = np.random.default_rng((setup.seed, len(classes)))
    order = chance.permutation(len(classes))
    ends = [setup.photos, setup.photos + VALIDATION, setup.photos + VALIDATION + MOST_WITHHELD]
    told = classes.copy()
    wrong = chance.choice(order[: ends[0]], round(setup.wrong * ends[0]), replace=False)
    told[wrong] = (classes[wrong] + chance.integers(1, classes.max() + 1, len(wrong))) % (classes.max() + 1)
    return [part(pixels, told, rows) for rows in np.split(order, ends)[:3]]


def part(pixels: NDArray[np.uint8], targets: NDArray[np.int64], rows: NDArray[np.int64]) -> Part:
    """Some photos as a part."""
    own = pixels[rows]
    return Part(pixels=lambda batch: own[list(batch)], targets=targets[rows], names=[str(row) for row in rows])


def plan_of(setup: Setup) -> Plan:
    """What the unfrozen stage is told."""
    batch_size = 16
    steps = steps_in_epoch(setup.photos, batch_size) * setup.epochs
    return Plan(
        epochs=setup.epochs,
        batch_size=batch_size,
        learning_rate=setup.rate,
        patience=setup.epochs,
        seed=setup.seed,
        schedule=setup.schedule,
        earliest_rate=setup.earliest_rate,
        ema_decay=1 - 1 / (0.5 * steps) if setup.averaged else 0.0,
        augment=setup.augment,
        checkpoint_seconds=math.inf,
    )


def run_of(setup: Setup, work: Path) -> Row:
    """Trains one run; gives its history, the withheld losses, and both verdicts."""
    image_px = 64 if setup.pretrained else 32
    pixels, classes, label_count = photos_of(setup.name, image_px, work)
    train, validation, withheld = parts_of(setup, pixels, classes)
    torch.manual_seed(setup.seed)
    name, given = ("mobilenet_v2", str(weights())) if setup.pretrained else ("resnet18", "none")
    backbone = build(name, label_count=label_count, image_px=image_px, weights=given)
    if setup.pretrained:
        put_head(backbone, fitted_head(backbone, train, setup))
    seen: list[NDArray[np.float64]] = []

    def each(row: Epoch) -> None:
        if row.epoch:
            rows = predict(backbone, withheld, batch_size=16, device=_CPU)
            seen.append(losses(rows, withheld.targets))

    history = finetune(
        backbone,
        train,
        validation,
        plan=plan_of(setup),
        device=_CPU,
        world=World(),
        checkpoint=_NOWHERE,
        say=lambda _sentence: None,
        report=lambda _event: None,
        each=each,
    )
    return {
        "setup": asdict(setup),
        "history": [asdict(row) for row in history],
        "withheld": len(withheld.targets),
        **truth_of(seen),
    }


def fitted_head(backbone: Backbone, train: Part, setup: Setup) -> probe.Head:
    """The head that a run would fit, by photos as they are."""
    values = probe.features(
        backbone,
        train.pixels,
        len(train.targets),
        batch_size=16,
        device=_CPU,
        report=lambda _done, _total: None,
    )
    return probe.fit_head(
        values,
        train.targets,
        np.arange(len(train.targets)),
        balance="none",
        seed=setup.seed,
        report=lambda _done, _total: None,
    )


def truth_of(seen: Sequence[NDArray[np.float64]]) -> Row:
    """What the withheld losses say, from those of each photo after each epoch."""
    means = [float(values.mean()) for values in seen]
    lowest = int(np.argmin(means))
    differences = seen[-1] - seen[lowest]
    rise = float(differences.mean())
    error = float(differences.std(ddof=1) / math.sqrt(len(differences)))
    over = rise > ERRORS * error and rise > SHARE * means[lowest]
    return {
        "withheld_losses": [round(value, 4) for value in means],
        "withheld_lowest": lowest + 1,
        "withheld_rise": rise,
        "withheld_rise_error": error,
        "truth": KINDS[0] if over else KINDS[1],
    }


def verdict(row: Row) -> str:
    """What the run says of itself."""
    history = [Epoch(**epoch) for epoch in row["history"]]
    return KINDS[0] if turning_point(history) is not None else KINDS[1]


def collect(arguments: argparse.Namespace, rows: Rows) -> None:
    """Every run that the file lacks."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    for number in range(arguments.first, arguments.first + arguments.runs):
        for kind in KINDS:
            wanted = {"planted": kind, "number": number}
            if rows.find(wanted) is not None:
                continue
            began = time.monotonic()
            row = run_of(setup_of(kind, number), arguments.work)
            rows.add(wanted, row)
            said = f"{kind} {number}: truth {row['truth']}, verdict {verdict(row)}, {time.monotonic() - began:.0f} s"
            print(time.strftime("%H:%M"), said, flush=True)


def page(rows: Rows) -> str:
    """The result as a page."""
    machine = rows.content["hardware"]
    counts = {truth: [row for row in rows.rows if row["truth"] == truth] for truth in KINDS}
    right = {truth: sum(verdict(row) == truth for row in some) for truth, some in counts.items()}
    met = all(right[truth] >= TARGET * len(some) for truth, some in counts.items())
    told = ", ".join(f"{right[truth]} of {len(some)} {truth} runs" for truth, some in counts.items())
    changed = sum(row["planted"] != row["truth"] for row in rows.rows)
    lines = [
        "# Over-training: what runs say of themselves, and what withheld photos say",
        "",
        f"Judged right: {told}. At least {TARGET:.0%} of each: {'met' if met else 'NOT met'}. {changed} runs came out "
        "otherwise than planted and count as what the withheld photos say.",
        "",
        *(f"`{command}`" for command in rows.content["commands"]),
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {time.strftime('%Y-%m-%d')}. Trapline at "
        + ", ".join(sorted({row["commit"] for row in rows.rows}))
        + f". {VALIDATION} validation photos a run; the truth's rule is at the top of `benchmarks/overtraining.py`.",
        "",
        "| planted | run | set | start | photos | epochs | wrong labels | withheld: lowest at, rise (error) | "
        "validation: lowest at, rise (error) | truth | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows.rows),
    ]
    return "\n".join([*lines, ""])


def _line(row: Row) -> str:
    setup, trained = row["setup"], row["history"][1:]
    lowest = min(trained, key=lambda epoch: epoch["validation_loss"])["epoch"]
    last, said, start = trained[-1], verdict(row), "ImageNet" if setup["pretrained"] else "nothing"
    return (
        f"| {row['planted']} | {row['number']} | {setup['name']} | {start} | "
        f"{setup['photos']} | {setup['epochs']} | {setup['wrong']:.0%} | {row['withheld_lowest']}, "
        f"{row['withheld_rise']:.3f} ({row['withheld_rise_error']:.3f}) | {lowest}, {last['rise']:.3f} "
        f"({last['rise_error']:.3f}) | {row['truth']} | {said if said == row['truth'] else f'**{said}**'} |"
    )


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="runs of each kind (default: 20)")
    parser.add_argument("--first", type=int, default=200, help="number and seed of the first (default: 200)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--json", type=Path, help="file for the rows; default: under results/; the page lies beside it")
    parser.add_argument("--work", type=Path, default=TOP / ".cache" / "benchmarks", help="folder for pixels")
    parser.add_argument("--page", action="store_true", help="only write the page of the rows that are there")
    arguments = parser.parse_args()
    stop_on_terminate()
    torch.set_num_threads(arguments.threads)
    path = arguments.json or RESULTS / f"overtraining_2-cores_{time.strftime('%Y-%m')}.json"
    rows = Rows(path)
    if not arguments.page:
        rows.content |= {"hardware": hardware(), "versions": versions()}
        collect(arguments, rows)
        rows.save()
    path.with_suffix(".md").write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
