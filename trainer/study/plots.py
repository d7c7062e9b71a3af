"""The pictures of a study as PNG: the learning curve, a confusion matrix a size, and the epochs of each size."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator, PercentFormatter

from ..report import plots
from .points import Point, in_order

# Okabe and Ito's colours: told apart by colour-blind readers too.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_COLOURS = (_BLUE, _ORANGE, _GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^Dv<>"
# Repeats stand a little beside the mean, whose bar would hide them.
_ASIDE = 1.03


def learning_curve(summary: Mapping[str, Any], points: Sequence[Point], path: Path) -> None:
    """Writes accuracy over the photos a class: each point, means with intervals, and what is likely for twice as many.

    Args:
        summary: Of `summary.summarised`.
        points: What it was made of.
        path: PNG file.
    """
    rows = summary["sizes"]
    counts = {row["size"]: row["photos_a_class"] for row in rows}
    figure = Figure(figsize=(7.6, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [_ASIDE * counts[point.size] for point in points],
        [point.figures["accuracy"] for point in points],
        "o",
        color=_ORANGE,
        alpha=0.7,
        markersize=5,
        label="each repeat",
    )
    means = [row["accuracy"] for row in rows]
    axes.plot(list(counts.values()), means, "-", color=_BLUE)
    known = [row for row in rows if row["accuracy_interval"] is not None]
    bounds = [np.abs(np.array(row["accuracy_interval"]) - row["accuracy"]) for row in known]
    axes.errorbar(
        [row["photos_a_class"] for row in known],
        [row["accuracy"] for row in known],
        yerr=np.array(bounds).T if known else None,
        fmt="s",
        color=_BLUE,
        capsize=4,
        label="mean, 95 % interval",
    )
    if summary["more_images"]["verdict"] == "likely":
        power = summary["more_images"]["power_law"]
        now, then = power["photos_a_class"] / 2, power["photos_a_class"]
        expected = [power["accuracy"] - power["gain"], power["accuracy"]]
        axes.plot([now, then], expected, "--", color=_GREEN, label="twice as many, by a power law")
    _scale(axes, rows)
    test, repeats = summary["test"], rows[0]["repeats"]
    axes.set(
        title=f"{repeats} repeats, all on the same {test['image_count']} test photos",
        xlabel="training photos a class",
        ylabel="test photos right",
    )
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="lower right")
    plots.save(figure, path)


def confusion_matrices(summary: Mapping[str, Any], folder: Path) -> None:
    """Writes `confusion_matrix_<size>.png` of every size; each test photo counts once a repeat."""
    for row in summary["sizes"]:
        what = "all photos" if row["size"] == "all" else f"{row['size']} photos a class"
        title = f"{what}, {row['repeats']} repeats: {row['accuracy']:.1%} right"
        path = folder / f"confusion_matrix_{row['size']}.png"
        plots.confusion_matrix(row["confusion"], summary["labels"], path, title=title)


def epoch_curves(points: Sequence[Point], path: Path) -> None:
    """Writes loss and accuracy an epoch of every size, means of the repeats that got so far; nothing without epochs."""
    by_size: dict[str, list[Point]] = defaultdict(list)
    for point in in_order(points):
        if point.history:
            by_size[point.size].append(point)
    if not by_size:
        return
    figure = Figure(figsize=(13.2, 4.4), layout="constrained")
    panels = list(figure.subplots(1, 3))
    shown = (
        ("train_loss", "training loss", "cross-entropy (nats)"),
        ("validation_loss", "validation loss", "cross-entropy (nats)"),
        ("validation_accuracy", "validation accuracy", "share right"),
    )
    for axes, (name, title, unit) in zip(panels, shown, strict=True):
        for number, (size, some) in enumerate(by_size.items()):
            epochs, means = _means(some, name)
            marker = _MARKERS[number % len(_MARKERS)]
            axes.plot(epochs, means, f"{marker}-", color=_COLOURS[number % len(_COLOURS)], label=size)
        axes.set(title=title, xlabel="epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", useOffset=False)
    panels[2].yaxis.set_major_formatter(PercentFormatter(1))
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, title="training photos a class", loc="outside lower center", ncols=len(labels))
    plots.save(figure, path)


def _means(points: Sequence[Point], name: str) -> tuple[list[int], list[float]]:
    """Epochs and the mean of a figure over the repeats that have it there."""
    seen: dict[int, list[float]] = defaultdict(list)
    for point in points:
        for row in point.history:
            if row[name] is not None:
                seen[row["epoch"]].append(row[name])
    return sorted(seen), [float(np.mean(seen[epoch])) for epoch in sorted(seen)]


def _scale(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """A logarithmic axis with the sizes as its marks."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([row["photos_a_class"] for row in rows]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    # A line lower: it may stand close to the largest number.
    named = [f"\nall ({row['photos_a_class']:.0f})" if row["size"] == "all" else row["size"] for row in rows]
    axes.set_xticklabels(named)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
