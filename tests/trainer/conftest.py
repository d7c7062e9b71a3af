import numpy as np
import pytest
from PIL import Image

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def draw_photos(folder, *, count=12, seed=0, side_px=48):
    """Writes `count` noisy PNGs a class; classes differ in colour, so a few steps learn them."""
    chance = np.random.default_rng(seed)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            noise = chance.integers(-60, 60, (side_px, side_px, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:03}.png")
    return folder


@pytest.fixture(scope="session")
def draw():
    """The function that draws a data set."""
    return draw_photos
