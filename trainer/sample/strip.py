"""The info strip that cameras print across the bottom of a picture."""

import functools
import math
from datetime import datetime

from PIL import Image, ImageDraw, ImageFont

from .plan import Camera
from .props import WIDTH_PX

STRIP_PX = 22
"""Height of the strip in a picture 640 pixels wide."""

_NEW_MOON = datetime(2000, 1, 6, 18, 14)  # noqa: DTZ001  # compared with the cameras' times, which know no zone
_MONTH_DAYS = 29.530588
_WHITE = (235, 235, 235)


def add_strip(picture: Image.Image, camera: Camera, time: datetime, *, temperature_c: int) -> None:
    """Prints maker, date, time, moon, temperature and site over the bottom of a picture, in place."""
    scale = picture.width / WIDTH_PX
    top = picture.height - round(STRIP_PX * scale)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, top, picture.width, picture.height), fill=(0, 0, 0))
    font = _font(round(14 * scale))
    middle = (top + picture.height) / 2
    fahrenheit = round(temperature_c * 9 / 5 + 32)
    texts = (
        (8, "lm", camera.make.split()[0].upper()),
        (110, "lm", f"{time:%Y-%m-%d  %H:%M:%S}"),
        (318, "lm", f"{temperature_c}\N{DEGREE SIGN}C  {fahrenheit}\N{DEGREE SIGN}F"),
        (632, "rm", camera.site),
    )
    for x, anchor, text in texts:
        draw.text((x * scale, middle), text, fill=_WHITE, font=font, anchor=anchor)
    _draw_moon(draw, x=292 * scale, y=middle, radius=6.5 * scale, time=time)


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font: the same everywhere, whatever the system has installed."""
    return ImageFont.load_default(size_px)


def _draw_moon(draw: ImageDraw.ImageDraw, *, x: float, y: float, radius: float, time: datetime) -> None:
    """The moon as it stood that day: a disc with its lit part filled."""
    age = ((time - _NEW_MOON).total_seconds() / 86400 % _MONTH_DAYS) / _MONTH_DAYS
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(70, 70, 70))
    # The lit part lies between the limb and the terminator, a half ellipse.
    terminator = math.cos(2 * math.pi * age)
    side = 1 if age < 0.5 else -1
    angles = [math.pi * (step / 12 - 0.5) for step in range(13)]
    limb = [(x + side * radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
    inner = [
        (x + side * terminator * radius * math.cos(angle), y + radius * math.sin(angle)) for angle in reversed(angles)
    ]
    draw.polygon(limb + inner, fill=_WHITE)
