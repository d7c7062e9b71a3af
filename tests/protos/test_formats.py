"""The list of formats is one list: sentence, extensions, opener."""

from pathlib import Path

import pytest

from trapline import formats

PROTOS = Path(__file__).parents[2] / "protos"


def test_the_sentence_names_every_format():
    """Errors and docs name the formats in one way."""
    assert formats.formats_sentence() == "JPEG, PNG, WEBP, GIF, TIFF, BMP or MPO"


@pytest.mark.parametrize("name", ["a.jpg", "b.JPEG", "c.PNG", "d.webp", "e.gif", "f.tif", "g.TIFF", "h.bmp", "i.mpo"])
def test_a_walk_takes_image_extensions_in_any_case(name):
    """A folder's images are told by their extension, whatever its case."""
    assert formats.has_image_extension(Path("folder") / name)


@pytest.mark.parametrize("name", ["a.txt", "jpg", ".jpg", "a.jpg.part", "a", "a.heic", "Thumbs.db"])
def test_a_walk_leaves_other_files_out(name):
    """What is not named like an image is skipped."""
    assert not formats.has_image_extension(Path("folder") / name)


def test_each_format_has_an_extension_and_a_pillow_plugin():
    """Every extension belongs to a format of the list, and every format has one."""
    from PIL import Image

    Image.init()
    registered = Image.registered_extensions()
    assert {registered[extension] for extension in formats.IMAGE_EXTENSIONS} == set(formats.IMAGE_FORMATS)
