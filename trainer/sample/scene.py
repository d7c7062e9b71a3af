"""The places: what each camera sees when nothing is there, with the depth of every pixel."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .habitats import Colour, Habitat
from .props import (
    HEIGHT_PX,
    SUPERSAMPLING,
    WIDTH_PX,
    Canvas,
    paint_blade,
    paint_bush,
    paint_fern,
    paint_log,
    paint_rock,
    paint_trunk,
    shaded,
)
from .texture import Field, fractal

FOCAL_PX = 560.0
"""Focal length: about 60 degrees across the frame, as trail cameras have."""

FARTHEST_M = 60.0
"""How far away the sky is taken to be."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An empty place in even light.

    Attributes:
        albedo: float32 (height, width, 3), reflectance 0 to 1.
        base_row: float32 (height, width), the row where the thing seen at a pixel touches the ground; bare ground
            holds its own row. An animal whose feet are at row r hides behind standing things of a larger one.
        distance_m: float32 (height, width), from the camera.
        horizon_row: the row at which the ground ends.
        camera_height_m: height of the lens above the ground.
        grass_m: how high the grass stands.
    """

    albedo: Field
    base_row: Field
    distance_m: Field
    horizon_row: float
    camera_height_m: float
    grass_m: float

    def row_at(self, distance_m: float) -> float:
        """The row where something that stands this far away touches the ground."""
        return self.horizon_row + FOCAL_PX * self.camera_height_m / distance_m


def build_scene(habitat: Habitat, rng: np.random.Generator) -> Scene:
    """A place of the given kind; another state of `rng` gives another place."""
    horizon_row = float(rng.uniform(95, 140))
    canvas = Canvas(horizon_row=horizon_row, camera_height_m=float(rng.uniform(0.85, 1.1)))
    backdrop = _backdrop(habitat, canvas, rng)
    canvas.colour.paste(Image.fromarray((backdrop.clip(0, 1) * 255).astype(np.uint8)).resize(canvas.colour.size))
    rows = np.maximum(np.arange(HEIGHT_PX, dtype=np.float32), horizon_row + 0.5)
    base = np.repeat(rows[:, None], WIDTH_PX, axis=1)
    canvas.base.paste(Image.fromarray(base).resize(canvas.base.size, Image.Resampling.NEAREST))
    for _, paint in sorted(_props(habitat, canvas, rng), key=lambda prop: prop[0]):
        paint()

    colour = np.asarray(canvas.colour.reduce(SUPERSAMPLING), np.float32) / 255
    base_row = np.asarray(canvas.base)[::SUPERSAMPLING, ::SUPERSAMPLING].astype(np.float32)
    depth = FOCAL_PX * canvas.camera_height_m / np.maximum(base_row - horizon_row, 1)
    # Bark, stone and leaves have a grain; the sky has none.
    grain = 1 + 0.09 * fractal(rng, (HEIGHT_PX, WIDTH_PX), cell_px=5, octaves=2) * (depth < FARTHEST_M)
    return Scene(
        albedo=(colour * grain[..., None]).clip(0, 1),
        base_row=base_row,
        distance_m=np.minimum(depth, FARTHEST_M).astype(np.float32),
        horizon_row=horizon_row,
        camera_height_m=canvas.camera_height_m,
        grass_m=habitat.blade_m,
    )


def _backdrop(habitat: Habitat, canvas: Canvas, rng: np.random.Generator) -> Field:
    """Sky, far foliage and bare ground, float32 (height, width, 3)."""
    shape = (HEIGHT_PX, WIDTH_PX)
    rows = np.arange(HEIGHT_PX, dtype=np.float32)[:, None]
    above = ((canvas.horizon_row - rows) / canvas.horizon_row).clip(0, 1)
    sky = np.array([0.80, 0.85, 0.90], np.float32) - 0.12 * above[..., None]
    leaves = fractal(rng, shape, cell_px=22, octaves=5) + 0.35 * fractal(rng, shape, cell_px=3, octaves=1)
    # The canopy thins out upwards in the open and closes in a wood.
    cover = leaves * 0.5 + (habitat.canopy_share * 2.6 - 0.8) - above * (1.3 - habitat.canopy_share) * 4
    cover += 1.5 * np.exp(-above * 7)
    tone = (0.8 + 0.26 * fractal(rng, shape, cell_px=12, octaves=3)).clip(0.25, 1.5)
    canopy = np.array(habitat.canopy, np.float32) * tone[..., None]
    upper = _mix(np.broadcast_to(sky, (*shape, 3)), canopy, (cover * 3).clip(0, 1))
    return _mix(upper, _ground(habitat, canvas, rng), ((rows - canvas.horizon_row) / 3).clip(0, 1))


def _ground(habitat: Habitat, canvas: Canvas, rng: np.random.Generator) -> Field:
    """Bare ground in true perspective: noise in the plane of the ground, looked up for each pixel."""
    rows, columns = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX].astype(np.float32)
    depth_m = FOCAL_PX * canvas.camera_height_m / np.maximum(rows - canvas.horizon_row, 2)
    across_m = (columns - WIDTH_PX / 2) * depth_m / FOCAL_PX
    cells_per_metre = 40
    plane_px = 1024
    plane = fractal(rng, (plane_px, plane_px), cell_px=64, octaves=5)
    patches = fractal(rng, (plane_px, plane_px), cell_px=300, octaves=2)
    at = tuple(
        # Back and forth over the plane, so that its edges meet themselves without a seam.
        np.abs((metres * cells_per_metre + plane_px / 2).astype(np.int64) % (2 * plane_px - 2) - plane_px + 1)
        for metres in (depth_m, across_m)
    )
    fine, coarse = plane[at], patches[at]
    mixture = (0.5 + 0.25 * fine + 0.25 * coarse).clip(0, 1)
    if habitat.has_path:
        centre_m = rng.uniform(-0.5, 0.5) + 0.35 * np.sin(depth_m * 0.5 + rng.uniform(0, 6))
        mixture = np.maximum(mixture, np.exp(-(((across_m - centre_m) / 0.45) ** 2)))
    colour = _mix(
        np.broadcast_to(np.array(habitat.ground, np.float32), (*rows.shape, 3)),
        np.broadcast_to(np.array(habitat.litter, np.float32), (*rows.shape, 3)),
        mixture,
    )
    return np.asarray(colour * (1 + 0.13 * fine[..., None]), np.float32)


def _props(habitat: Habitat, canvas: Canvas, rng: np.random.Generator) -> list[tuple[float, Callable[[], None]]]:
    """Everything that stands around: the row of its foot, and what paints it."""
    props: list[tuple[float, Callable[[], None]]] = []

    def place(painter: Callable[..., None], colour: Colour, nearest_m: float, farthest_m: float) -> None:
        distance_m = float(np.exp(rng.uniform(np.log(nearest_m), np.log(farthest_m))))
        base_row = canvas.horizon_row + FOCAL_PX * canvas.camera_height_m / distance_m
        x = float(rng.uniform(-20, WIDTH_PX + 20))
        tone = shaded(colour, float(rng.uniform(0.8, 1.2)))
        own = rng.spawn(1)[0]
        props.append((base_row, lambda: painter(canvas, tone, x=x, base_row=base_row, rng=own)))

    for number in range(habitat.trunk_count):
        place(paint_trunk, habitat.bark, *((3.2, 8) if number % 6 == 0 else (7, 35)))
    for number in range(habitat.bush_count):
        painter = paint_fern if number % 2 else paint_bush
        place(painter, shaded(habitat.grass, 0.85), *((2.3, 5) if number % 4 == 1 else (6, 22)))
    for _ in range(habitat.rock_count):
        place(paint_rock, (0.47, 0.45, 0.42), 2.2, 14)
    if habitat.has_log:
        place(paint_log, habitat.bark, 4, 7)
    return props + _grass(habitat, canvas, rng)


def _grass(habitat: Habitat, canvas: Canvas, rng: np.random.Generator) -> list[tuple[float, Callable[[], None]]]:
    """Blades in tufts all over the ground, thinner and shorter with distance."""
    props: list[tuple[float, Callable[[], None]]] = []
    # Denser with distance, as ground seen from low above is.
    depth = rng.random(habitat.blade_count // 9) ** 1.5
    tuft_rows = canvas.horizon_row + 4 + (HEIGHT_PX + 30 - canvas.horizon_row) * depth
    for tuft_row in tuft_rows.tolist():
        tuft_x = float(rng.uniform(-10, WIDTH_PX + 10))
        scale_px = canvas.pixels_per_metre(tuft_row)
        height_m = habitat.blade_m * float(rng.lognormal(0, 0.35))
        tone = shaded(habitat.grass, float(rng.uniform(0.6, 1.15)))
        for _ in range(9):
            blade = {
                "x": tuft_x + float(rng.normal(0, 0.06)) * scale_px,
                "base_row": tuft_row + float(rng.normal(0, 0.015)) * scale_px,
                "length_px": min(max(3.0, height_m * scale_px * float(rng.uniform(0.4, 1.1))), 75.0),
                "bend": float(rng.normal(0, 0.45)),
            }
            colour = shaded(tone, float(rng.uniform(0.75, 1.2)))
            props.append((blade["base_row"], _later(canvas, colour, blade)))
    return props


def _later(canvas: Canvas, colour: Colour, blade: dict[str, float]) -> Callable[[], None]:
    """What paints one blade when its turn comes."""
    return lambda: paint_blade(canvas, colour, **blade)


def _mix(first: Field, second: Field, share: Field) -> Field:
    """`first` where `share` (height, width) is 0, `second` where it is 1."""
    return np.asarray(first + (second - first) * share[..., None], np.float32)
