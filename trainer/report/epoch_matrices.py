"""Confusion matrices of several epochs side by side, as PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..dataset.layout import shown as printable
from ..run_folder import write_atomically

_MOST_LABELS = 40


def confusion_matrices(shown: Sequence[tuple[str, Sequence[Sequence[int]]]], labels: Sequence[str], path: Path) -> None:
    """Writes the matrices: rows true, columns predicted, shares of the row as colour, counts as text.

    Args:
        shown: Title and counts of each.
        labels: The classes.
        path: PNG file.
    """
    names = [printable(label) for label in labels]
    side = max(3.4, 0.5 * len(labels) + 1.6)
    # Square panels: the other layouts cut their titles off.
    figure = Figure(figsize=(side * len(shown) + 1.6, side + 1.0), layout="compressed")
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for axes, (title, confusion) in zip(panels, shown, strict=True):
        counts = np.asarray(confusion)
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        right = counts.trace() / max(1, counts.sum())
        axes.set(xlabel="predicted", title=f"{title}\n{right:.1%} of {counts.sum()} validation photos")
        if len(labels) <= _MOST_LABELS:
            for row, column in zip(*counts.nonzero(), strict=True):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    panels[0].set_ylabel("true")
    figure.colorbar(image, ax=list(panels), label="share of the true class", fraction=0.046)
    FigureCanvasAgg(figure)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
