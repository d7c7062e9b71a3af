"""Photos to pixels, for every peer: as their documentation would have it, and by Trapline's own scaled decode."""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def plain(data: bytes, image_px: int) -> NDArray[np.uint8]:
    """The whole photo decoded by Pillow, then resized with antialiasing: uint8 [image_px, image_px, 3]."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((image_px, image_px), Image.Resampling.BILINEAR))


def scaled(data: bytes, image_px: int) -> NDArray[np.uint8]:
    """The same by `trapline.preprocessing`, which leaves out what the JPEG needs not be decoded to."""
    from trapline import preprocessing

    return preprocessing.load_image(data, preprocessing.rules(fit="stretch", image_px=image_px))


#: By the name that a row has for it.
DECODES: dict[str, Callable[[bytes, int], NDArray[np.uint8]]] = {"documented": plain, "scaled": scaled}
