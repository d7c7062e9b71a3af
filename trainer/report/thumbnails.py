"""Small pictures for the report, from the pixels that the network saw: without EXIF, so without place and camera."""

import csv
import io
import itertools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UsageError
from ..run_folder import write_atomically
from .evidence import Prediction, read_predictions

if TYPE_CHECKING:
    from ..data import Data

#: In the run folder.
THUMBNAILS_FILE = "thumbnails.zip"
#: Photos that a gallery shows at most; the test part comes first.
MOST_PHOTOS = 10_000
#: Rows of `suspects.csv` and of `duplicates.csv` that it shows.
MOST_SUSPECTS, MOST_DUPLICATES = 120, 50
# Photos up to which a longest side in px is taken: a page stays under about 30 MB.
_SIDES_PX = ((1_000, 192), (3_000, 128), (MOST_PHOTOS, 96))
_QUALITY = 70
# What a pixel takes in the ZIP file and, as text, in the page, at most.
_BYTES_A_PIXEL = 0.6
_BATCH = 64


def shown_first(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The photos of the gallery, in its order: the test part before validation, the largest loss first."""
    return sorted(predictions, key=lambda row: (row.part != "test", -row.loss))[:MOST_PHOTOS]


def shown_positions(data: "Data", run: Path) -> list[int]:
    """Positions of the photos that the report shows: those of the gallery, and the first that other files name.

    Args:
        data: The photos and their parts.
        run: The run folder, with `predictions.csv`, and with `suspects.csv` and `duplicates.csv` where there are such
            photos.
    """
    position = {photo.path: index for index, photo in enumerate(data.scan.photos)}
    measured = [position[row.path] for row in shown_first(read_predictions(run))]
    named = _paths(run / "suspects.csv", MOST_SUSPECTS) | _paths(run / "duplicates.csv", MOST_DUPLICATES)
    others = [index for index, photo in enumerate(data.scan.photos) if photo.path in named]
    return list(dict.fromkeys([*others, *measured]))


def page_bytes(count: int) -> int:
    """What the small pictures of so many photos take at most, in their own file and in the report."""
    count = min(count, MOST_PHOTOS)
    return int(count * _side_px(count) ** 2 * _BYTES_A_PIXEL)


def write_thumbnails(data: "Data", positions: Sequence[int], path: Path) -> None:
    """Writes a ZIP file of JPEGs, each named by its photo's line in `split.csv`, so that no file name is in it.

    Args:
        data: The photos and their pixels.
        positions: Which photos.
        path: The ZIP file; it is whole or not there.
    """
    side_px = _side_px(len(positions))

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for start in range(0, len(positions), _BATCH):
                batch = positions[start : start + _BATCH]
                for position, pixels in zip(batch, data.pixels(batch), strict=True):
                    # A fixed date: the same photos give the same file.
                    archive.writestr(zipfile.ZipInfo(_name(position + 2)), _jpeg(pixels, side_px=side_px))

    write_atomically(path, write)


def read_thumbnails(path: Path) -> Mapping[int, bytes]:
    """The JPEGs by their photos' lines in `split.csv`; none where there is no such file.

    Raises:
        UsageError: It is no file that `write_thumbnails` wrote.
    """
    if not path.is_file():
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            return {int(name.removesuffix(".jpg")): archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); delete it for a report without photos") from error


def _side_px(count: int) -> int:
    return next(side for most, side in _SIDES_PX if count <= most or most == MOST_PHOTOS)


def _name(line: int) -> str:
    return f"{line}.jpg"


def _jpeg(pixels: NDArray[np.uint8], *, side_px: int) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _paths(path: Path, most: int) -> set[str]:
    """The photos that the first rows of a CSV file name."""
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = itertools.islice(csv.DictReader(file), most)
        return {row[name] for row in rows for name in ("path", "other_path") if row.get(name)}
