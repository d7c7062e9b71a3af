"""Sheets of what a network's layers see: Grad-CAM on the worst photos, maps at several depths."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..backbone import Backbone
from ..errors import TrainerError
from ..evaluate.interpret import best_and_worst, sample_over_classes, top_losses
from ..evaluate.layers import Depth, feature_maps, grad_cam
from .answers import Answers
from .photo_sheets import Picture, picture
from .sheets import contact_sheet, heat_on_photo, map_tiles

_HEATED = 10
_SHARES_FROM = 200
_MOST_MAPPED = 8
_NEVER_ZERO = 0.999


def heat_sheet(seen: Answers, backbone: Backbone, folder: Path, notes: list[str]) -> list[Picture]:
    """Writes Grad-CAM on the worst photos: what spoke for the answer, and what for the truth; gives its entry.

    None, and a sentence in `notes`, where the network has no map.
    """
    rows = top_losses(seen.probabilities, seen.targets, count=_HEATED)
    pixels, answers, truth = seen.pixels(rows), seen.predicted[rows], seen.targets[rows]
    try:
        heats = [grad_cam(backbone, pixels, classes) for classes in (answers, truth)]
    except TrainerError as error:
        notes.append(str(error))
        return []
    cells: list[NDArray[np.uint8]] = []
    captions: list[str] = []
    marks: list[bool | None] = []
    for number, row in enumerate(rows):
        overlays = [heat_on_photo(pixels[number], heat[number]) for heat in heats]
        cells += [pixels[number], *overlays]
        about = [f"for {seen.labels[label]}" for label in (answers[number], truth[number])]
        captions += [seen.caption(row), *about]
        marks += [seen.right(row), None, None]
    title = f"what spoke for the answer, and what for the true class, on the {len(rows)} worst test photos"
    path = folder / "plots" / "grad_cam.png"
    contact_sheet(cells, captions, path, title=title, columns=6, marks=marks)
    return [
        picture(
            "grad_cam",
            title=title,
            sentence="Grad-CAM at the network's last map: the brighter, the more that place spoke for the class named "
            "below. Colours are of each picture alone, so their strength cannot be compared. Heat beside the animal "
            "means that the network went by something else.",
            photos=[seen.entry(row) for row in rows],
        )
    ]


def typical(seen: Answers) -> list[int]:
    """The surest right photo of each class, or its surest at all; of at most eight classes, spread over all."""
    present = np.unique(seen.targets)
    if len(present) > _MOST_MAPPED:
        present = present[np.linspace(0, len(present) - 1, _MOST_MAPPED).round().astype(int)]
    rows = []
    for label in present:
        best, worst = best_and_worst(seen.probabilities, seen.targets, label=int(label), count=len(seen.targets))
        rows.append(best[0] if best else worst[-1])
    return rows


def activations(
    seen: Answers, backbone: Backbone, first: list[int], *, shown: bool, seed: int
) -> tuple[list[Depth], int]:
    """Activations of up to 200 test photos, those of `first` with maps where `shown`; and of how many photos."""
    others = sample_over_classes(seen.targets, count=_SHARES_FROM, seed=seed)
    rows = list(dict.fromkeys([*first, *others]))[:_SHARES_FROM]
    return feature_maps(backbone, seen.pixels(rows), shown=len(first) if shown else 0), len(rows)


def shares_sentence(depths: list[Depth], count: int) -> str:
    """The shares of activations that are not zero, in words."""
    if not depths:
        return "no layer of this network has a map of the picture at this size: no activations were counted"
    listed = ", ".join(f"{depth.share:.2f} ({depth.name})" for depth in depths)
    sentence = f"share of activations that are not zero, over {count} test photos, from the first layers to the last: "
    if min(depth.share for depth in depths) > _NEVER_ZERO:
        return f"{sentence}{listed}. The activations of this network (GELU, SiLU) are never exactly zero"
    return f"{sentence}{listed}"


def map_sheet(seen: Answers, rows: list[int], depths: list[Depth], folder: Path) -> Picture:
    """Writes the maps of some rows at several depths; gives the entry."""
    cells: list[NDArray[np.uint8]] = []
    captions: list[str] = []
    pixels = seen.pixels(rows)
    for number, row in enumerate(rows):
        cells.append(pixels[number])
        captions.append(seen.caption(row))
        for depth in depths:
            cells.append(map_tiles(depth.maps[number]))
            size = f"{depth.channel_count} maps, {depth.side} \N{MULTIPLICATION SIGN} {depth.side}"
            captions.append(f"{depth.name}\n{size}\n{depth.share:.0%} not zero")
    title = f"what {len(depths)} depths of the network see in a photo of each class"
    path = folder / "plots" / "feature_maps.png"
    contact_sheet(cells, captions, path, title=title, columns=1 + len(depths))
    return picture(
        "feature_maps",
        title=title,
        sentence="From left to right from the first layers to the last: of each the 16 channels that differ most over "
        "the photo, each from its own least value (dark) to its own greatest (bright). The share is of all channels "
        "and of all photos that were measured.",
        photos=[seen.entry(row) for row in rows],
    )
