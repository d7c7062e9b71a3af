"""Confusion matrices of several epochs side by side, as PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .plots import draw_matrix, name_size, save

# Side of a panel: three of the 30 inches that a matrix of its own may have take half a GB of memory.
_LARGEST_INCHES = 20.0


def confusion_matrices(shown: Sequence[tuple[str, Sequence[Sequence[int]]]], labels: Sequence[str], path: Path) -> None:
    """Writes the matrices: rows true, columns predicted, shares of the row as colour, counts as text.

    Args:
        shown: Title and counts of each.
        labels: The classes.
        path: PNG file.
    """
    side = min(_LARGEST_INCHES, max(3.4, 0.5 * len(labels) + 1.6))
    size = name_size(side, len(labels))
    # Square panels: the other layouts cut their titles off.
    figure = Figure(figsize=(side * len(shown) + 1.6, side + 1.0), layout="compressed")
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for axes, (title, confusion) in zip(panels, shown, strict=True):
        counts = np.asarray(confusion)
        image = draw_matrix(axes, counts, labels, font_size=size)
        right = counts.trace() / max(1, counts.sum())
        axes.set(title=f"{title}\n{right:.1%} of {counts.sum()}\nvalidation photos")
    panels[0].set_ylabel("true")
    figure.colorbar(image, ax=list(panels), label="share of the true class", fraction=0.046)
    save(figure, path)
