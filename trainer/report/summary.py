"""The table of a network's layers, as text and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..backbone import Backbone
from ..evaluate.layers import LayerRow, model_summary
from ..run_folder import write_text

_BYTES_OF_A_NUMBER = 4


def write_summary(backbone: Backbone, path: Path, *, image_px: int, head_only: bool) -> dict[str, Any]:
    """Writes the table as text; gives `rows`, `parameter_count`, `trainable_count`, `image_px` as JSON values.

    Args:
        backbone: The network.
        path: Text file.
        image_px: Side of the pictures that the shapes are for.
        head_only: Whether the run trained the head alone.
    """
    rows = model_summary(backbone, image_px=image_px, head_only=head_only)
    write_text(path, _text(backbone.name, rows, image_px=image_px))
    return {
        "rows": [asdict(row) | {"output_shape": row.output_shape and list(row.output_shape)} for row in rows],
        "parameter_count": sum(row.parameters for row in rows),
        "trainable_count": sum(row.trainable for row in rows),
        "image_px": image_px,
    }


def _text(name: str, rows: Sequence[LayerRow], *, image_px: int) -> str:
    cells = [
        (
            row.path or "(the network)",
            row.kind,
            " \N{MULTIPLICATION SIGN} ".join(map(str, row.output_shape)) if row.output_shape else "-",
            f"{row.parameters:,}",
            f"{row.trainable:,}",
        )
        for row in rows
    ]
    header = ("layer", "kind", "output", "parameters", "trained")
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [_line(row, widths) for row in (header, tuple("-" * width for width in widths), *cells)]
    count, trainable = sum(row.parameters for row in rows), sum(row.trainable for row in rows)
    lines += [
        "",
        f"{name} for pictures of {image_px} \N{MULTIPLICATION SIGN} {image_px} px",
        f"parameters: {count:,} ({count * _BYTES_OF_A_NUMBER / 1e6:.1f} MB), trained in this run: {trainable:,}, "
        f"as they came: {count - trainable:,}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, the two numbers to the right."""
    words = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
    return "  ".join([*words, *numbers]).rstrip()
