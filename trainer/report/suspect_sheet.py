"""The sheet of the photos whose label is doubted most."""

import csv
from pathlib import Path

from ..data import Data
from .sheets import contact_sheet

_ON_SHEET = 40


def draw_suspects(data: Data, folder: Path) -> None:
    """Draws `plots/suspects.png` of a run folder by its `suspects.csv`; removes it where no label is doubted."""
    path = folder / "plots" / "suspects.png"
    positions = {photo.path: position for position, photo in enumerate(data.scan.photos)}
    with (folder / "suspects.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(_ON_SHEET), strict=False)]
    if not rows:
        path.unlink(missing_ok=True)
        return
    captions = [f"{row['label']}\n→ {row['suggested']} {float(row['score']):.2f}" for row in rows]
    pixels = data.pixels([positions[row["path"]] for row in rows])
    contact_sheet(pixels, captions, path, title="labels that are doubted, most doubted first")
