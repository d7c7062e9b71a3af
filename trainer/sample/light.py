"""Day and night: turns reflectance and distance into what the sensor records."""

from dataclasses import dataclass

import numpy as np

from .props import HEIGHT_PX, WIDTH_PX
from .scene import FARTHEST_M
from .texture import Field, fractal

Window = tuple[slice, slice]
"""Rows and columns of the frame."""

WHOLE: Window = (slice(None), slice(None))

# What the infra-red flash sees of red, green and blue: leaves and fur shine more than their colour says.
_INFRARED = np.array([0.55, 0.55, 0.05], np.float32)


@dataclass(frozen=True, kw_only=True)
class Light:
    """The light of one burst.

    Attributes:
        is_night: lit by the camera's own infra-red flash; the picture is grey.
        field: float32 (height, width), how strongly each pixel is lit: sun and shade, or the flash's cone.
        tint: float32 (3,), colour of the light.
        visibility_m: distance at which mist has taken two thirds of the contrast.
        reach_m: distance at which the flash is down to half.
        gain: exposure.
        noise: standard deviation of the sensor's noise, of a full scale of 1.
        shadow: how dark the ground is below an animal, 0 to 1.
    """

    is_night: bool
    field: Field
    tint: Field
    visibility_m: float
    reach_m: float
    gain: float
    noise: float
    shadow: float

    def fall_on(self, albedo: Field, distance_m: Field, window: Window = WHOLE) -> Field:
        """What the sensor records of a surface.

        Args:
            albedo: float32 (h, w, 3), reflectance.
            distance_m: float32, broadcastable to (h, w).
            window: the part of the frame that the surface covers, (h, w) large.

        Returns:
            Float32 (h, w, 3), by night (h, w, 1), 0 to 1, ready to be shown.
        """
        lit = self.field[window]
        if self.is_night:
            grey = albedo @ _INFRARED
            flash = lit * self.gain / (1 + (distance_m / self.reach_m) ** 2)
            return np.asarray(1.015 - np.exp(-grey * flash), np.float32)[..., None]
        haze = np.exp(distance_m / np.float32(-self.visibility_m))
        veiled = albedo * (lit * haze)[..., None]
        veiled += (0.62 * (1 - haze))[..., None]
        veiled *= self.tint * np.float32(-1.9 * self.gain)
        # A soft shoulder, as cameras have, instead of burnt-out white.
        return np.asarray(0.98 - 0.98 * np.exp(veiled, out=veiled), np.float32)


def make_light(distance_m: Field, *, is_night: bool, warmth: float, rng: np.random.Generator) -> Light:
    """The light of one burst: flash by night; sun, cloud, dusk or mist by day.

    Args:
        distance_m: float32 (height, width), the scene's; its sky gets no flecks of sun.
        is_night: by infra-red flash.
        warmth: the camera's white balance, above 0 redder.
        rng: decides the weather.
    """
    rows, columns = np.mgrid[-1 : 1 : HEIGHT_PX * 1j, -1 : 1 : WIDTH_PX * 1j].astype(np.float32)
    if is_night:
        off_centre = (columns - float(rng.normal(0, 0.08))) ** 2 + 0.7 * (rows - 0.1) ** 2
        return Light(
            is_night=True,
            field=np.exp(-0.9 * off_centre).astype(np.float32),
            tint=np.ones(3, np.float32),
            visibility_m=1e6,
            reach_m=float(rng.uniform(3.5, 5.0)),
            gain=float(rng.uniform(2.0, 2.8)),
            noise=float(rng.uniform(0.015, 0.035)),
            shadow=0.25,
        )
    weather = str(rng.choice(["sun", "sun", "cloud", "cloud", "cloud", "dusk", "mist"]))
    # Sun flecks have edges; the tanh makes them.
    dapple = np.tanh(1.6 * fractal(rng, (HEIGHT_PX, WIDTH_PX), cell_px=90, octaves=4)) * (distance_m < FARTHEST_M)
    strength = {"sun": 0.42, "cloud": 0.07, "dusk": 0.12, "mist": 0.04}[weather]
    low, high = {"sun": (0.95, 1.25), "cloud": (0.8, 1.1), "dusk": (0.55, 0.75), "mist": (0.8, 1.0)}[weather]
    warm = warmth + {"sun": 0.03, "cloud": -0.02, "dusk": 0.0, "mist": -0.03}[weather] + float(rng.normal(0, 0.02))
    return Light(
        is_night=False,
        field=(1 + strength * dapple - 0.08 * (columns**2 + rows**2)).astype(np.float32),
        tint=np.array([1 + warm, 1.0, 1 - warm], np.float32),
        visibility_m=float(rng.uniform(22, 40)) if weather == "mist" else float(rng.uniform(150, 400)),
        reach_m=1.0,
        gain=float(rng.uniform(low, high)),
        noise=float(rng.uniform(0.015, 0.03)) if weather == "dusk" else float(rng.uniform(0.006, 0.014)),
        shadow={"sun": 0.55, "cloud": 0.4, "dusk": 0.3, "mist": 0.3}[weather],
    )
