"""The shades of a confusion matrix on light and on dark paper, each with an ink that can be read on it."""

from dataclasses import dataclass

_STEPS = 20
# From no share to the whole, on light and on dark paper; Okabe and Ito's blues, so told apart by everyone.
_LIGHT = ((255, 255, 255), (0, 81, 125))
_DARK = ((30, 37, 42), (126, 200, 240))
# Of black and white one always has more than 4.5 to 1.
_INKS = ((0, 0, 0), (255, 255, 255))

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Shade:
    """Background and ink of one step, as CSS colours."""

    step: int
    light: str
    light_ink: str
    dark: str
    dark_ink: str


def shades() -> list[Shade]:
    """The steps from no share (0) to the whole (20): step = share × 20, rounded."""
    return [
        Shade(
            step=step,
            light=_css(light := _mixed(*_LIGHT, step / _STEPS)),
            light_ink=_css(_ink(light)),
            dark=_css(dark := _mixed(*_DARK, step / _STEPS)),
            dark_ink=_css(_ink(dark)),
        )
        for step in range(_STEPS + 1)
    ]


def contrast(first: Colour, second: Colour) -> float:
    """The contrast ratio of two colours, 1 to 21; source: WCAG 2.2, relative luminance."""
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _ink(paper: Colour) -> Colour:
    return max(_INKS, key=lambda ink: contrast(ink, paper))


def _mixed(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _luminance(colour: Colour) -> float:
    red, green, blue = (
        (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
        for value in (part / 255 for part in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
