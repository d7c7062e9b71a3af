"""The pictures of a run as PNG: confusion matrix, and the curves that chose the head, the epoch and the rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..recipe.history import Epoch
from ..recipe.schedule import one_cycle
from ..run_folder import write_atomically

# Okabe and Ito's colours: told apart by colour-blind readers too.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


def confusion_matrix(confusion: Sequence[Sequence[int]], labels: Sequence[str], path: Path, *, title: str) -> None:
    """Writes the matrix: rows true, columns predicted, shares of the row as colour, counts as text."""
    counts = np.asarray(confusion)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = max(4.0, 0.6 * len(labels) + 2.5)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if len(labels) <= 40:
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    _save(figure, path)


def curves(
    history: Sequence[Epoch],
    path: Path,
    *,
    chosen: int,
    epochs: int,
    peak_rate: float,
    strengths: Mapping[float, float],
    strength: float | None,
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
        _draw_epochs(axes, history, chosen=chosen, epochs=epochs, peak_rate=peak_rate)
    _save(figure, path)


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
    _save(figure, path)


def _draw_strengths(axes: Axes, strengths: Mapping[float, float], strength: float | None) -> None:
    axes.semilogx(list(strengths), list(strengths.values()), "o-", color=_BLUE)
    if strength is not None:
        axes.axvline(strength, color=_GREEN, linestyle="--", label=f"chosen: {strength:g}")
        axes.legend()
    axes.set(title="head: regularisation", xlabel="inverse strength C", ylabel="cross-validated loss (nats)")


def _draw_epochs(axes: Sequence[Axes], history: Sequence[Epoch], *, chosen: int, epochs: int, peak_rate: float) -> None:
    numbers = [row.epoch for row in history]
    loss, accuracy, rate = axes
    trained = [row for row in history if row.train_loss is not None]
    loss.plot(
        [row.epoch for row in trained], [row.train_loss or 0.0 for row in trained], "o-", color=_ORANGE, label="train"
    )
    loss.plot(numbers, [row.validation_loss for row in history], "s-", color=_BLUE, label="validation")
    loss.set(title="loss", xlabel="epoch", ylabel="cross-entropy (nats)")
    accuracy.plot(numbers, [row.validation_accuracy for row in history], "s-", color=_BLUE, label="validation")
    accuracy.set(title="accuracy", xlabel="epoch", ylabel="share right")
    for panel in (loss, accuracy):
        panel.axvline(chosen, color=_GREEN, linestyle="--", label=f"kept: epoch {chosen}")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.legend()
    positions = np.linspace(0, epochs, 200)
    rate.plot(positions, [peak_rate * one_cycle(round(1000 * x), 1000 * epochs) for x in positions], color=_BLUE)
    rate.axvspan(0, history[-1].epoch, color=_GREEN, alpha=0.12, label="run")
    rate.set(title="learning rate (last layers)", xlabel="epoch", ylabel="rate")
    rate.legend()


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
