"""Sheets of photos: what is trained on, what was predicted, the largest losses, the best and the worst of a class."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Data
from ..evaluate.interpret import best_and_worst, sample_over_classes, top_losses
from ..run_folder import read_json, write_json
from .answers import Answers, slugs
from .sheets import contact_sheet

#: What is on each picture of a run.
PICTURES_FILE = "pictures.json"
_PLOTS = "plots"
_OF_EACH_CLASS = 10
_TOP_LOSSES = 20
_PREDICTIONS = 30
_SAMPLED_OF_EACH_CLASS = 5
_MOST_SAMPLED = 100
_MOST_CLASSES = 60

#: An entry of `pictures.json`.
Picture = dict[str, Any]


def sample_sheet(data: Data, folder: Path, *, seed: int = 0) -> Picture:
    """Writes `plots/sample.png`, training photos of each class; gives its entry for `pictures.json`."""
    positions = data.positions("train")
    targets = data.targets(positions)
    count = min(_MOST_SAMPLED, _SAMPLED_OF_EACH_CLASS * len(np.unique(targets)))
    rows = sample_over_classes(targets, count=count, seed=seed)
    photos = [data.scan.photos[positions[row]] for row in rows]
    title = f"{len(rows)} of {len(positions)} photos to train on"
    pixels = data.pixels([positions[row] for row in rows])
    contact_sheet(pixels, [photo.label for photo in photos], folder / _PLOTS / "sample.png", title=title)
    return picture(
        "sample",
        title=title,
        sentence="Look whether each photo lies in the right folder, and whether the animal is large enough to be seen: "
        "this is the size at which the network sees it.",
        photos=[{"path": photo.path, "true": photo.label} for photo in photos],
    )


def prediction_sheets(seen: Answers, folder: Path, *, seed: int) -> list[Picture]:
    """Writes a random sample of the answers, and the photos with the largest losses; gives their entries."""
    grid = sample_over_classes(seen.targets, count=_PREDICTIONS, seed=seed)
    worst = top_losses(seen.probabilities, seen.targets, count=_TOP_LOSSES)
    return [
        _sheet(
            seen,
            grid,
            folder,
            "predictions",
            title=f"{len(grid)} test photos drawn at random, with what they were taken for",
            sentence="Classes take turns, so this shows what answers look like and not how often they are right.",
        ),
        _sheet(
            seen,
            worst,
            folder,
            "top_losses",
            title=f"the {len(worst)} test photos with the largest losses",
            sentence="The least probability for the true class first. A sure answer that is wrong means a hard photo "
            "or a wrong label: look which.",
        ),
    ]


def class_sheets(seen: Answers, folder: Path, notes: list[str]) -> list[Picture]:
    """Writes two sheets a class, of very many classes those that are found least; gives their entries.

    What cannot be shown is added to `notes` as a sentence.
    """
    labels, names = seen.labels, slugs(seen.labels)
    present = [label for label in range(len(labels)) if (seen.targets == label).any()]
    shown = sorted(sorted(present, key=seen.recall)[:_MOST_CLASSES])
    absent = [name for label, name in enumerate(labels) if label not in present]
    if absent:
        notes.append(f"no test photo of {', '.join(absent)}: nothing is shown of it")
    if len(shown) < len(present):
        notes.append(f"best and worst photos are drawn of the {len(shown)} classes that are found least")
    pictures = []
    for label in shown:
        best, worst = best_and_worst(seen.probabilities, seen.targets, label=label, count=_OF_EACH_CLASS)
        of_all = f"of {int((seen.targets == label).sum())} test photos of {labels[label]}"
        if best:
            sentence = "The surest of the right answers: what the network takes for a typical one."
            title = f"the {len(best)} best {of_all}"
            drawn = _sheet(seen, best, folder, f"best_{names[label]}", title=title, sentence=sentence)
            pictures.append(drawn | {"kind": "best", "label": labels[label]})
        else:
            notes.append(f"no test photo of {labels[label]} was right: it has no best ones")
        sentence = "The least probability for this class first; the last ones may be right."
        title = f"the {len(worst)} worst {of_all}"
        drawn = _sheet(seen, worst, folder, f"worst_{names[label]}", title=title, sentence=sentence)
        pictures.append(drawn | {"kind": "worst", "label": labels[label]})
    return pictures


def remove_photos(folder: Path, *, but: Collection[str] = ()) -> None:
    """Takes away the pictures of an earlier time that show photos, from `plots/` and from `pictures.json`.

    Args:
        folder: The run folder.
        but: Files that stay, as `pictures.json` names them.
    """
    told = read_json(folder / PICTURES_FILE) if (folder / PICTURES_FILE).is_file() else {"pictures": []}
    listed = {entry["file"] for entry in told["pictures"]} | {f"{_PLOTS}/sample.png"}
    for file in listed.difference(but):
        # By its name alone: whatever that file says, nothing outside of `plots/` is deleted.
        (folder / _PLOTS / Path(file).name).unlink(missing_ok=True)
    if (folder / PICTURES_FILE).is_file():
        told["pictures"] = [entry for entry in told["pictures"] if entry["file"] in but]
        write_json(folder / PICTURES_FILE, told)


def picture(name: str, *, title: str, sentence: str, photos: list[dict[str, Any]]) -> Picture:
    """An entry for the picture `plots/<name>.png`."""
    return {"file": f"{_PLOTS}/{name}.png", "kind": name, "title": title, "sentence": sentence, "photos": photos}


def _sheet(seen: Answers, rows: list[int], folder: Path, name: str, *, title: str, sentence: str) -> Picture:
    """Writes a sheet of answered photos."""
    contact_sheet(
        seen.pixels(rows),
        [seen.caption(row) for row in rows],
        folder / _PLOTS / f"{name}.png",
        title=title,
        marks=[seen.right(row) for row in rows],
    )
    return picture(name, title=title, sentence=sentence, photos=[seen.entry(row) for row in rows])
