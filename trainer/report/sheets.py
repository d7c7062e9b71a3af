"""Contact sheets: photos in a grid, each with its caption; right and wrong told by a sign, a word and a colour."""

import math
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..run_folder import write_atomically
from .lettering import drawable, shortened

#: Side of a photo on a sheet, in px: twice what a page needs, so that it is sharp on any screen.
PHOTO_PX = 200
_GAP_PX = 16
_FRAME_PX = 5
_TEXT_PX, _TITLE_PX = 17, 24
_LINE_SHARE = 1.35
_ROWS_ON_A_PAGE = 40
# Half the time of the default, for files a twentieth larger.
_COMPRESS_LEVEL = 3
_INK, _PLAIN = "#1a1a1a", "#b0b0b0"
# Okabe and Ito's blue and vermilion, the latter darkened to be read on white; wrong has the thicker frame besides.
_RIGHT, _WRONG = "#0072B2", "#A84300"
_RIGHT_WORD, _WRONG_WORD = "\N{CHECK MARK} right", "\N{BALLOT X} wrong"


def contact_sheet(
    pixels: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    path: Path,
    *,
    title: str,
    columns: int = 5,
    marks: Sequence[bool | None] | None = None,
) -> list[Path]:
    """Writes a PNG of photos in rows; gives the files: `path`, and `<name>.2.png` and so on beyond 40 rows.

    Args:
        pixels: The photos, uint8 [N, H, W, 3], or a list of [H, W, 3]; drawn 200 px wide and high.
        captions: Text of each photo; a line that is too long loses its middle.
        path: PNG file.
        title: Stands above the photos.
        columns: Photos in a row.
        marks: Whether each photo's answer is right; None, for all or for one, where there is nothing to be right about.
    """
    marks = [None] * len(pixels) if marks is None else marks
    cells = list(zip(pixels, captions, marks, strict=True))
    most = columns * _ROWS_ON_A_PAGE
    pages = [cells[begin : begin + most] for begin in range(0, len(cells), most)] or [[]]
    paths = [path, *(path.with_stem(f"{path.stem}.{number}") for number in range(2, len(pages) + 1))]
    lines = max((len(_lines(caption, mark)) for _, caption, mark in cells), default=0)
    for number, (page, name) in enumerate(zip(pages, paths, strict=True), start=1):
        heading = title if len(pages) == 1 else f"{title} ({number} of {len(pages)})"
        sheet = _page(page, title=heading, columns=columns, lines=lines)
        write_atomically(name, partial(sheet.save, format="PNG", compress_level=_COMPRESS_LEVEL))
    return paths


def heat_on_photo(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The photo in grey, with heat in [0, 1], float32 [H, W], laid over it in colours that every eye can rank.

    The hotter, the more of the colour and the less of the photo: cold places stay as they are.
    """
    grey = pixels.astype(np.float32).mean(axis=2, keepdims=True) * 0.65
    colour = mpl.colormaps["inferno"](0.3 + 0.7 * heat)[..., :3].astype(np.float32) * 255
    share = 0.8 * heat[..., None]
    mixed: NDArray[np.uint8] = (grey * (1 - share) + colour * share).clip(0, 255).astype(np.uint8)
    return mixed


def map_tiles(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Channels of one photo side by side in a square: uint8 [200, 200, 3] of float32 [channels, side, side].

    Each channel from its own least value (dark) to its own greatest (bright).
    """
    across = max(1, math.ceil(math.sqrt(len(maps))))
    tile_px = PHOTO_PX // across
    picture = Image.new("RGB", (PHOTO_PX, PHOTO_PX), "white")
    for number, values in enumerate(maps):
        low, high = float(values.min()), float(values.max())
        shares = (values - low) / (high - low) if high > low else np.zeros_like(values)
        colours = (mpl.colormaps["viridis"](shares)[..., :3] * 255).astype(np.uint8)
        row, column = divmod(number, across)
        tile = Image.fromarray(colours).resize((tile_px - 2, tile_px - 2), _resampling(len(values), tile_px))
        picture.paste(tile, (column * tile_px, row * tile_px))
    return np.asarray(picture)


def _page(
    cells: Sequence[tuple[NDArray[np.uint8], str, bool | None]], *, title: str, columns: int, lines: int
) -> Image.Image:
    columns = max(1, min(columns, len(cells)))
    # A title is never cut: a sheet of one photo is as wide as three.
    width = max(columns, 3) * (PHOTO_PX + _GAP_PX) + _GAP_PX
    heading = _wrapped(drawable(title), _font(_TITLE_PX, bold=True), width - 2 * _GAP_PX)
    top = 2 * _GAP_PX + len(heading) * _line_px(_TITLE_PX)
    cell_px = PHOTO_PX + 2 * _FRAME_PX + lines * _line_px(_TEXT_PX) + _GAP_PX
    sheet = Image.new("RGB", (width, top + math.ceil(len(cells) / columns) * cell_px + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        where = (_GAP_PX, _GAP_PX + number * _line_px(_TITLE_PX))
        draw.text(where, line, fill=_INK, font=_font(_TITLE_PX, bold=True))
    for number, (pixels, caption, mark) in enumerate(cells):
        row, column = divmod(number, columns)
        left = _GAP_PX + column * (PHOTO_PX + _GAP_PX)
        _draw_cell(sheet, draw, (left, top + row * cell_px), pixels=pixels, caption=caption, mark=mark)
    return sheet


def _draw_cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    *,
    pixels: NDArray[np.uint8],
    caption: str,
    mark: bool | None,
) -> None:
    left, top = corner
    colour = _PLAIN if mark is None else _RIGHT if mark else _WRONG
    frame = {None: 1, True: 2, False: _FRAME_PX}[mark]
    right, bottom = left + PHOTO_PX - 1, top + PHOTO_PX - 1
    draw.rectangle((left - frame, top - frame, right + frame, bottom + frame), fill=colour)
    photo = Image.fromarray(pixels)
    if photo.size != (PHOTO_PX, PHOTO_PX):
        photo = photo.resize((PHOTO_PX, PHOTO_PX), _resampling(len(pixels), PHOTO_PX))
    sheet.paste(photo, corner)
    for number, line in enumerate(_lines(caption, mark)):
        is_mark = mark is not None and number == 0
        font = _font(_TEXT_PX, bold=is_mark)
        text = shortened(line, partial(_fits, font, PHOTO_PX))
        where = (left, bottom + 2 * _FRAME_PX + number * _line_px(_TEXT_PX))
        draw.text(where, text, fill=colour if is_mark else _INK, font=font)


def _lines(caption: str, mark: bool | None) -> list[str]:
    lines = [drawable(line) for line in caption.split("\n")]
    return lines if mark is None else [_RIGHT_WORD if mark else _WRONG_WORD, *lines]


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width_px:
            lines[-1] = longer
        else:
            lines.append(shortened(word, partial(_fits, font, width_px)))
    return [line for line in lines if line]


def _fits(font: ImageFont.FreeTypeFont, width_px: int, text: str) -> bool:
    return font.getlength(text) <= width_px


def _resampling(side: int, wanted: int) -> Image.Resampling:
    """Small maps keep their places as squares; photos are made smaller, or a little larger, smoothly."""
    return Image.Resampling.NEAREST if side * 3 <= wanted else Image.Resampling.LANCZOS


def _line_px(text_px: int) -> int:
    return math.ceil(text_px * _LINE_SHARE)


@cache
def _font(text_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, and the two signs."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / name, text_px)
