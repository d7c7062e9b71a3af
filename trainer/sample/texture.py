"""Random fields that make drawn things look grown: noise at several scales, and smoothed paths."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Field: TypeAlias = npt.NDArray[np.float32]


def fractal(rng: np.random.Generator, shape: tuple[int, int], *, cell_px: float, octaves: int = 3) -> Field:
    """A smooth random field of mean 0 and standard deviation about 1.

    Args:
        rng: where the randomness comes from.
        shape: height and width of the field, in pixels.
        cell_px: size of the largest blobs; each further octave halves size and strength.
        octaves: how many scales are added up.

    Returns:
        Float32 array of the given shape.
    """
    height_px, width_px = shape
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        cell = max(cell_px / 2**octave, 1.0)
        grid_shape = (int(height_px / cell) + 2, int(width_px / cell) + 2)
        grid = Image.fromarray(rng.standard_normal(grid_shape, np.float32))
        smooth = grid.resize((width_px, height_px), Image.Resampling.BICUBIC)
        total += np.asarray(smooth, np.float32) * np.float32(0.5**octave)
    return np.asarray((total - total.mean()) / (total.std() + 1e-6), np.float32)


def smooth_path(points: npt.ArrayLike, steps: int = 6) -> npt.NDArray[np.float64]:
    """The Catmull-Rom curve through control points, with `steps` samples a segment.

    Args:
        points: control points, one a row; any number of columns (here x, y and radius).
        steps: samples per segment.

    Returns:
        Array of (len(points) - 1) * steps + 1 rows that starts and ends at the outer control points.
    """
    control = np.asarray(points, np.float64)
    padded = np.vstack([2 * control[0] - control[1], control, 2 * control[-1] - control[-2]])
    before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(steps) / steps)[None, :, None]
    before, start, end, after = (part[:, None, :] for part in (before, start, end, after))
    curve = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    return np.vstack([curve.reshape(-1, control.shape[1]), control[-1:]])
