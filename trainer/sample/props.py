"""What stands and lies around in a scene: trunks, bushes, ferns, rocks, a log, grass."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .habitats import Colour
from .texture import smooth_path

WIDTH_PX = 640
HEIGHT_PX = 480
SUPERSAMPLING = 2
"""Scenes are painted this much larger and shrunk, which smooths their edges."""

Points: TypeAlias = npt.NDArray[np.float64]

_HALF_TURN = np.linspace(0, math.pi, 6)[1:-1, None]
_COSINE, _SINE = np.cos(_HALF_TURN), np.sin(_HALF_TURN)


class Canvas:
    """A scene while it is painted from back to front; all coordinates are pixels of the finished frame.

    Beside the colour it holds for every pixel the row at which the thing seen there touches the ground, from
    which come both how far away it is and what can hide behind it.
    """

    def __init__(self, *, horizon_row: float, camera_height_m: float) -> None:
        size_px = (WIDTH_PX * SUPERSAMPLING, HEIGHT_PX * SUPERSAMPLING)
        self.horizon_row = horizon_row
        self.camera_height_m = camera_height_m
        self.colour = Image.new("RGB", size_px)
        self.base = Image.new("F", size_px)
        self._draw_colour = ImageDraw.Draw(self.colour)
        self._draw_base = ImageDraw.Draw(self.base)

    def pixels_per_metre(self, base_row: float) -> float:
        """How many pixels a metre takes that stands at a row."""
        return (base_row - self.horizon_row) / self.camera_height_m

    def polygon(self, points: Points, colour: Colour, base_row: float) -> None:
        """Fills the polygon through (n, 2) points."""
        corners: list[float] = (np.asarray(points, np.float64) * SUPERSAMPLING).ravel().tolist()
        self._draw_colour.polygon(corners, fill=to_bytes(colour))
        self._draw_base.polygon(corners, fill=base_row)


def to_bytes(colour: Colour) -> tuple[int, int, int]:
    """A reflectance as the 8-bit colour that Pillow draws with."""
    red, green, blue = (int(255 * min(max(part, 0.0), 1.0)) for part in colour)
    return red, green, blue


def shaded(colour: Colour, factor: float) -> Colour:
    """A colour made darker (factor below 1) or lighter."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def paint_trunk(canvas: Canvas, colour: Colour, *, x: float, base_row: float, rng: np.random.Generator) -> None:
    """A tree trunk that leaves the frame at its top, rounded by strips of shade, sometimes with a branch."""
    diameter_px = float(rng.uniform(0.14, 0.42)) * canvas.pixels_per_metre(base_row)
    lean_px = float(rng.normal(0, 0.05)) * base_row
    top_share = float(rng.uniform(0.6, 0.85))
    rows = np.linspace(base_row, -10, 7)
    rise = (base_row - rows) / (base_row + 10)
    middle = x + lean_px * rise + rng.normal(0, 0.06, rows.size) * diameter_px
    # The foot flares out, the rest tapers.
    half_px = diameter_px / 2 * (1 + (top_share - 1) * rise + 0.5 * np.exp(-rise * 18))
    if rng.random() < 0.5:
        side = 1 if rng.random() < 0.5 else -1
        at = int(rng.integers(2, 5))
        length_px = diameter_px * float(rng.uniform(2, 5))
        start = np.array([middle[at], rows[at], diameter_px * 0.16])
        bend = start + [side * length_px * 0.5, -length_px * 0.2, -diameter_px * 0.05]
        tip = start + [side * length_px, -length_px * float(rng.uniform(0.3, 0.9)), -diameter_px * 0.14]
        canvas.polygon(edge(spine([start, bend, tip])), shaded(colour, 0.8), base_row)
    for left, right, shade in ((-1.0, 1.0, 0.66), (-0.72, 0.8, 0.86), (-0.45, 0.55, 1.0), (-0.3, 0.1, 1.12)):
        sides = np.concatenate([middle + left * half_px, (middle + right * half_px)[::-1]])
        canvas.polygon(np.column_stack([sides, np.r_[rows, rows[::-1]]]), shaded(colour, shade), base_row)


def paint_bush(canvas: Canvas, colour: Colour, *, x: float, base_row: float, rng: np.random.Generator) -> None:
    """A bush: many leaves in a mound, the lower and inner ones darker."""
    scale_px = canvas.pixels_per_metre(base_row)
    width_px, height_px = float(rng.uniform(0.5, 1.4)) * scale_px, float(rng.uniform(0.35, 1.0)) * scale_px
    leaf_px = max(2.0, 0.055 * scale_px)
    count = int(min(260, 30 + width_px * height_px / leaf_px**2 * 1.1))
    angles, reach = rng.uniform(0, math.pi, count), np.sqrt(rng.uniform(0, 1, count))
    across = x + np.cos(angles) * reach * width_px / 2
    up = np.sin(angles) * reach * height_px
    for position in np.argsort(-up):
        light = 0.45 + 0.65 * up[position] / height_px + rng.normal(0, 0.1)
        turn = rng.uniform(0, math.pi)
        long = np.array([math.cos(turn), math.sin(turn)]) * leaf_px * rng.uniform(0.7, 1.5)
        wide = np.array([-long[1], long[0]]) * 0.4
        centre = np.array([across[position], base_row - up[position]])
        leaf = np.array([centre - long, centre - wide, centre + long, centre + wide])
        canvas.polygon(leaf, shaded(colour, float(light)), base_row)


def paint_fern(canvas: Canvas, colour: Colour, *, x: float, base_row: float, rng: np.random.Generator) -> None:
    """A fern: fronds that rise from one foot and bend outwards."""
    scale_px = canvas.pixels_per_metre(base_row)
    for _ in range(int(rng.integers(7, 13))):
        length_px = float(rng.uniform(0.3, 0.65)) * scale_px
        spread = float(rng.normal(0, 0.55))
        foot = np.array([x, base_row])
        middle = foot + [spread * length_px * 0.5, -length_px * 0.75]
        tip = foot + [spread * length_px * 1.3, -length_px * float(rng.uniform(0.5, 0.95))]
        spine = smooth_path([foot, middle, tip], steps=7)
        tone = shaded(colour, float(rng.uniform(0.65, 1.2)))
        for position, point in enumerate(spine[1:-1]):
            reach_px = length_px * 0.13 * (1 - position / len(spine))
            leaf = [point + [-reach_px, reach_px * 0.5], point + [0, -1.2], point + [reach_px, reach_px * 0.5]]
            canvas.polygon(np.array([*leaf, point + [0, 1.0]]), tone, base_row)


def paint_rock(canvas: Canvas, colour: Colour, *, x: float, base_row: float, rng: np.random.Generator) -> None:
    """A boulder with a lit top, and its dark line on the ground."""
    scale_px = canvas.pixels_per_metre(base_row)
    width_px = float(rng.lognormal(-1.2, 0.5)) * scale_px
    height_px = width_px * float(rng.uniform(0.35, 0.7))
    angles = np.linspace(0, 2 * math.pi, 11, endpoint=False) + rng.normal(0, 0.12, 11)
    radii = rng.uniform(0.82, 1.1, 11)
    ring = np.column_stack([np.cos(angles) * radii * width_px / 2, np.sin(angles) * radii * height_px / 2])
    centre = np.array([x, base_row - height_px * 0.32])
    canvas.polygon(centre + ring * [1.1, 1.0] + [0, height_px * 0.12], shaded(colour, 0.35), base_row)
    for size, shift, shade in ((1.0, 0.0, 0.72), (0.85, 0.1, 0.95), (0.55, 0.24, 1.12)):
        canvas.polygon(centre + ring * size - [0, shift * height_px], shaded(colour, shade), base_row)


def paint_log(canvas: Canvas, colour: Colour, *, x: float, base_row: float, rng: np.random.Generator) -> None:
    """A fallen trunk, lit from above."""
    scale_px = canvas.pixels_per_metre(base_row)
    radius_px, length_px = 0.13 * scale_px, float(rng.uniform(1.3, 2.2)) * scale_px
    slope = float(rng.normal(0, 0.07))
    near = np.array([x - length_px / 2, base_row - radius_px, radius_px])
    far = np.array([x + length_px / 2, base_row - radius_px + slope * length_px, radius_px * 0.7])
    for size, shift, shade in ((1.0, 0.0, 0.55), (0.8, 0.2, 0.85), (0.45, 0.45, 1.1)):
        lifted = [end * [1, 1, size] - [0, shift * radius_px, 0] for end in (near, far)]
        canvas.polygon(edge(spine(lifted)), shaded(colour, shade), base_row)


def paint_blade(canvas: Canvas, colour: Colour, *, x: float, base_row: float, length_px: float, bend: float) -> None:
    """One blade of grass; `bend` is how far its tip leans, as a share of its length."""
    half_px = max(0.45, length_px * 0.026)
    blade = [
        [x - half_px, base_row],
        [x + bend * length_px * 0.35 - half_px * 0.7, base_row - length_px * 0.6],
        [x + bend * length_px, base_row - length_px],
        [x + bend * length_px * 0.35 + half_px * 0.7, base_row - length_px * 0.6],
        [x + half_px, base_row],
    ]
    canvas.polygon(np.array(blade), colour, base_row)


@dataclass(frozen=True)
class Spine:
    """A bent line with a thickness, ready to be outlined; arrays of n rows.

    Attributes:
        middle: (n, 2) points along the line.
        radius: (n, 1) thickness to either side.
        along, across: (n, 2) unit vectors in and square to the line's direction.
    """

    middle: Points
    radius: Points
    along: Points
    across: Points


def spine(points: npt.ArrayLike, steps: int = 6) -> Spine:
    """The smooth line through rows of x, y and radius, with `steps` points a segment."""
    path = smooth_path(points, steps)
    middle = path[:, :2]
    along = np.empty_like(middle)
    along[1:-1] = middle[2:] - middle[:-2]
    along[0], along[-1] = middle[1] - middle[0], middle[-1] - middle[-2]
    along /= np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9
    across = along[:, ::-1] * (-1.0, 1.0)
    return Spine(middle, np.maximum(path[:, 2:], 0.0), along, across)


def edge(line: Spine, *, width: float = 1.0, rise: float = 0.0) -> Points:
    """The outline of a tapered, bent limb, or of a stripe along it.

    Args:
        line: the limb.
        width: of the stripe, 1 for the whole limb.
        rise: how far the stripe lies above the limb's middle, in its radius.

    Returns:
        Corners of a polygon, (n, 2), with half a circle at either end.
    """
    middle = line.middle + line.radius * (0.0, rise)
    radius = line.radius * width
    side = radius * line.across
    end = middle[-1] + radius[-1] * (_COSINE * line.across[-1] + _SINE * line.along[-1])
    start = middle[0] - radius[0] * (_COSINE * line.across[0] + _SINE * line.along[0])
    return np.concatenate([middle + side, end, (middle - side)[::-1], start])
