"""A run's figures as PNG: confusion matrix, reliability, the curves that chose the head, the epoch and the rate."""

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..evaluate.intervals import wilson_interval
from ..recipe.history import Epoch
from ..recipe.schedule import multiple
from ..run_folder import write_atomically
from .lettering import short_label

Schedule = Literal["one_cycle", "constant"]

# Okabe and Ito's colours: told apart by colour-blind readers too.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_LARGEST_MATRIX_INCHES = 30.0
_MOST_NAMED, _MOST_NUMBERED = 200, 40
# In a line above the reliability diagram.
_SENTENCE_CHARACTERS = 64


def confusion_matrix(
    confusion: Sequence[Sequence[int]], labels: Sequence[str], path: Path, *, title: str, shares: bool = False
) -> None:
    """Writes the matrix: rows true, columns predicted, shares of the row as colour, counts or shares as text.

    Args:
        confusion: Counts.
        labels: The classes' names.
        path: PNG file.
        title: Stands above it.
        shares: Whether cells have the share of the true class in percent, as text, instead of the count.
    """
    counts = np.asarray(confusion)
    side = min(_LARGEST_MATRIX_INCHES, max(4.0, 0.6 * len(labels) + 2.5))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = draw_matrix(axes, counts, labels, font_size=name_size(side, len(labels)), shares=shares)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046)
    axes.set(ylabel="true", title=title)
    save(figure, path)


def draw_matrix(
    axes: Axes, counts: NDArray[np.int64], labels: Sequence[str], *, font_size: float = 10.0, shares: bool = False
) -> AxesImage:
    """Draws one matrix; arguments as in `confusion_matrix`."""
    parts = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= _MOST_NAMED:
        names, places = [short_label(label) for label in labels], range(len(labels))
        axes.set_xticks(
            places, names, fontsize=font_size, parse_math=False, rotation=45, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(places, names, fontsize=font_size, parse_math=False)
    axes.set(xlabel="predicted")
    if len(labels) <= _MOST_NUMBERED:
        for row, column in zip(*counts.nonzero(), strict=True):
            colour = "white" if parts[row, column] > 0.5 else "black"
            text = _percent(parts[row, column]) if shares else str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour)
    return image


def name_size(side: float, label_count: int) -> float:
    """Font size of so many classes' names along a side of so many inches."""
    return min(10.0, 50 * side / label_count)


def reliability(bins: Sequence[Mapping[str, Any]], path: Path, *, title: str, sentences: Sequence[str]) -> None:
    """Writes the reliability diagram: how often answers of about equal score are right, and how many there are.

    Args:
        bins: `count`, `confidence` (mean score), `accuracy`, `low` and `high` (its 95 % interval, or None) of each.
        path: PNG file.
        title: Stands above it.
        sentences: What is below the title: the calibration error, or why there is none; likewise of bins' intervals.
    """
    filled = [row for row in bins if row["count"]]
    figure = Figure(figsize=(5.6, 6.8), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    axes.plot([0, 1], [0, 1], "--", color="0.5", label="scores that can be trusted")
    confidence = np.array([row["confidence"] for row in filled])
    axes.plot(confidence, [row["accuracy"] for row in filled], "o-", color=_BLUE, label="test photos")
    known = [row for row in filled if row["low"] is not None]
    if known:
        reach = [
            [max(0, row["accuracy"] - row["low"]) for row in known],
            [max(0, row["high"] - row["accuracy"]) for row in known],
        ]
        places = ([row["confidence"] for row in known], [row["accuracy"] for row in known])
        axes.errorbar(*places, yerr=reach, fmt="none", color=_BLUE, capsize=3, label="95 % interval")
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, _SENTENCE_CHARACTERS)]
    axes.set_title("\n".join([title, *lines]), fontsize="small")
    axes.set(ylabel="share right", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend()
    below.vlines(confidence, 0, [row["count"] for row in filled], color=_ORANGE, linewidth=4)
    free_from = 0.0
    for row in filled:
        # Sure answers crowd: where there is no room for a count, the axis has it.
        if row["confidence"] >= free_from:
            place = (row["confidence"], row["count"])
            below.annotate(str(row["count"]), place, ha="center", xytext=(0, 3), textcoords="offset points")
            free_from = row["confidence"] + 0.05
    below.set(xlabel="score of the best class (mean of a bin)", ylabel="photos")
    below.margins(y=0.35)
    save(figure, path)


def curves(
    history: Sequence[Epoch],
    path: Path,
    *,
    chosen: int,
    epochs: int,
    peak_rate: float,
    strengths: Mapping[float, float],
    strength: float | None,
    schedule: Schedule = "one_cycle",
    validation_count: int | None = None,
) -> None:
    """Writes the run's curves: the head's strength, loss and accuracy an epoch, the learning rate.

    Args:
        history: Rows of the unfrozen stage, epoch 0 first; empty where there was none.
        path: PNG file.
        chosen: The epoch whose weights were kept.
        epochs: Epochs that were planned.
        peak_rate: Peak learning rate of the last layers.
        strengths: Cross-validated loss of each head strength tried; empty where there was no frozen stage.
        strength: The one chosen.
        schedule: How the rate changes over the planned epochs.
        validation_count: Validation photos, for the 95 % interval of the accuracy; None where it would not be honest:
            classes count alike, or photos of a group are right or wrong together.
    """
    drawn = [name for name, wanted in (("head", strengths), ("epochs", len(history) > 1)) if wanted]
    if not drawn:
        return
    panels = 1 * ("head" in drawn) + 3 * ("epochs" in drawn)
    figure = Figure(figsize=(4.2 * panels, 3.6), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, panels)))
    if "head" in drawn:
        _draw_strengths(axes.pop(0), strengths, strength)
    if "epochs" in drawn:
        loss, accuracy, rate = axes
        _draw_loss(loss, history)
        _draw_accuracy(accuracy, history, count=validation_count)
        for panel in (loss, accuracy):
            panel.axvline(chosen, color=_GREEN, linestyle="--", label=f"kept: epoch {chosen}")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.legend()
        _draw_rate(rate, schedule, epochs=epochs, run=history[-1].epoch, peak_rate=peak_rate)
    save(figure, path)


def range_test(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    path: Path,
    *,
    suggestion: float,
    rises_from: float | None,
) -> None:
    """Writes a learning-rate range test: raw and smoothed loss over the rate, and the rate that it suggests."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(rates, losses, ".", color=_ORANGE, alpha=0.6, label="each step")
    axes.semilogx(rates, smoothed, "-", color=_BLUE, label="smoothed")
    axes.axvline(suggestion, color=_GREEN, linestyle="--", label=f"suggested: {suggestion:.1e}")
    if rises_from is not None:
        axes.axvline(rises_from, color=_ORANGE, linestyle=":", label=f"rises for good: {rises_from:.1e}")
    # Single steps far above are cut: what matters lies below.
    low, high = min(losses), min(max(losses), 2 * max(smoothed))
    axes.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low) + 1e-6)
    axes.set(title="learning-rate range test", xlabel="learning rate (last layers)", ylabel="training loss (nats)")
    figure.legend(loc="outside lower center", ncols=4)
    save(figure, path)


def _draw_strengths(axes: Axes, strengths: Mapping[float, float], strength: float | None) -> None:
    axes.semilogx(list(strengths), list(strengths.values()), "o-", color=_BLUE)
    if strength is not None:
        axes.axvline(strength, color=_GREEN, linestyle="--", label=f"chosen: {strength:g}")
        axes.legend()
    axes.set(title="head: regularisation", xlabel="inverse strength C", ylabel="cross-validated loss (nats)")


def _draw_loss(axes: Axes, history: Sequence[Epoch]) -> None:
    trained = [(row.epoch, row.train_loss) for row in history if row.train_loss is not None]
    axes.plot(*zip(*trained, strict=True), "o-", color=_ORANGE, label="train")
    axes.plot(
        [row.epoch for row in history], [row.validation_loss for row in history], "s-", color=_BLUE, label="validation"
    )
    axes.set(title="loss", xlabel="epoch", ylabel="cross-entropy (nats)")


def _draw_accuracy(axes: Axes, history: Sequence[Epoch], *, count: int | None) -> None:
    numbers, shares = [row.epoch for row in history], [row.validation_accuracy for row in history]
    axes.plot(numbers, shares, "s-", color=_BLUE, label="validation")
    if count:
        bounds = [wilson_interval(round(share * count), count) for share in shares]
        low, high = zip(*bounds, strict=True)
        axes.fill_between(numbers, low, high, color=_BLUE, alpha=0.15, label=f"95 % interval, {count} photos")
    axes.set(title="accuracy", xlabel="epoch", ylabel="share right")


def _draw_rate(axes: Axes, schedule: Schedule, *, epochs: int, run: int, peak_rate: float) -> None:
    positions = np.linspace(0, epochs, 200)
    rates = [peak_rate * multiple(schedule, round(1000 * x), 1000 * epochs) for x in positions]
    axes.plot(positions, rates, color=_BLUE)
    axes.set_ylim(bottom=0)
    axes.axvspan(0, run, color=_GREEN, alpha=0.12, label="run")
    axes.set(title="learning rate (last layers)", xlabel="epoch", ylabel="rate")
    axes.legend()


def _percent(share: float) -> str:
    """Whole percent; what is there is never 0."""
    return "<1" if 0 < share < 0.005 else f"{100 * share:.0f}"


def save(figure: Figure, path: Path) -> None:
    """Writes a figure with a constrained layout as PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    layout = figure.get_layout_engine()
    if isinstance(layout, ConstrainedLayoutEngine):
        # Beside axes whose sides are tied to each other the default leaves a label's edge outside.
        layout.set(w_pad=0.12, h_pad=0.12)
    with warnings.catch_warnings():
        # A name in a writing that the font lacks is drawn as boxes; the report has it in letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
