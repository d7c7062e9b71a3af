"""Every file of the shared folder `awkward` gets what its README asks; runs where TRAPLINE_SHARED names that folder."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from trapline import preprocessing
from trapline.errors import ImageTooLarge, ImageUnreadable, Refusal

SIDE_PX = 128
# No DCT scaling: what is compared here is decoding and turning.
RULES = preprocessing.rules(fit="stretch", image_px=SIDE_PX)
RULES.decode_min_scale = 0


@dataclass(frozen=True, kw_only=True)
class Like:
    """The picture is that of another file, within a mean difference of so many levels."""

    name: str
    levels: float
    grey: bool = False


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Decodes to what Pillow makes of the first frame; the upright size is given."""

    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A refusal of this class, whose sentence has these words."""

    error: type[Refusal]
    words: str


CUT_OFF = Refused(error=ImageUnreadable, words="broken or cut off")
UNKNOWN = Refused(error=ImageUnreadable, words="no image of a known format")

EXPECTED: dict[str, Like | Plain | Refused] = {
    "african_elephants_bw.jpg": Plain(size=(2048, 1536)),
    "african_elephants_cmyk.jpg": Like(name="african_elephants_bw.jpg", levels=6, grey=True),
    "african_elephants_truncated_file.jpg": CUT_OFF,
    "african_elephants_with_exif_orientation.jpg": Like(name="african_elephants_bw.jpg", levels=6, grey=True),
    "apng_16bit_rgba.png": Plain(size=(128, 64)),
    "app13-multiple.jpg": Plain(size=(256, 160)),
    "broken.png": UNKNOWN,
    "broken_data_stream.png": CUT_OFF,
    "chi.gif": Plain(size=(320, 240)),
    "decompression_bomb.gif": Refused(error=ImageTooLarge, words="the limit is"),
    "dispose_bgnd.gif": Plain(size=(100, 100)),
    "empty.jpg": Refused(error=ImageUnreadable, words="empty"),
    "exif_imagemagick_orientation.png": Plain(size=(512, 512)),
    "flower.webp": Plain(size=(480, 360)),
    "grey_16bit.png": Like(name="progressive_photo.jpg", levels=2, grey=True),
    "hopper.jpg": Plain(size=(128, 128)),
    "hopper_bad_exif.jpg": Plain(size=(500, 500)),
    "hopper_gray.jpg": Like(name="hopper.jpg", levels=6, grey=True),
    "hopper_orientation_2.jpg": Like(name="hopper.jpg", levels=6),
    "hopper_orientation_3.jpg": Like(name="hopper.jpg", levels=6),
    "hopper_orientation_5.jpg": Like(name="hopper.jpg", levels=6),
    "hopper_orientation_6.jpg": Like(name="hopper.jpg", levels=6),
    "hopper_orientation_6.webp": Like(name="hopper.jpg", levels=6),
    "hopper_orientation_8.jpg": Like(name="hopper.jpg", levels=6),
    "icc_profile_big.jpg": Plain(size=(425, 250)),
    "iss634.webp": Plain(size=(245, 245)),
    "junk_jpeg_header.jpg": Plain(size=(1024, 768)),
    "l_trns.png": Plain(size=(64, 64)),
    "palette_transparency.png": Like(name="progressive_photo.jpg", levels=4),
    "pil136.tiff": Plain(size=(55, 43)),
    "pil_sample_cmyk.jpg": Plain(size=(100, 100)),
    # The same result as a baseline JPEG: the palette PNG is a third encoding of the frame, and
    # test_preprocessing.py compares the two kinds of JPEG to the last bit.
    "progressive_photo.jpg": Plain(size=(640, 480)),
    "sugarshack.mpo": Plain(size=(640, 480)),
    "text_named.jpg": UNKNOWN,
    "transparent.gif": Plain(size=(200, 150)),
    "transparent.png": Plain(size=(200, 150)),
    "transparent.webp": Like(name="transparent.png", levels=4),
    "truncated_image.png": CUT_OFF,
    "truncated_jpeg.jpg": CUT_OFF,
    "uncompressed_la.png": Plain(size=(128, 128)),
    "wrong_extension_is_png.jpg": Like(name="progressive_photo.jpg", levels=4),
    "xmp_tags_orientation.png": Plain(size=(326, 268)),
    "zero_width.gif": UNKNOWN,
}

# Pillow warns about hopper_bad_exif.jpg, and the test run makes errors of warnings; programs ignore this one.
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")


@pytest.fixture(name="folder", scope="module")
def _folder() -> Path:
    shared = os.environ.get("TRAPLINE_SHARED")
    if not shared:
        pytest.skip("TRAPLINE_SHARED is not set: it names the folder with data/awkward")
    return Path(shared) / "data" / "awkward"


def load(path: Path) -> np.ndarray:
    return preprocessing.load_image(path.read_bytes(), RULES)


def grey(pixels: np.ndarray) -> np.ndarray:
    return pixels @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("name", EXPECTED)
def test_each_awkward_file_gets_what_its_readme_asks(folder, name):
    """A good but unusual file gives 3-channel 8-bit RGB; a bad one a refusal that says what to do."""
    expected = EXPECTED[name]
    if isinstance(expected, Refused):
        with pytest.raises(expected.error, match=expected.words) as refused:
            load(folder / name)
        assert str(folder) not in str(refused.value)
        assert "0x" not in str(refused.value)
        return
    pixels = load(folder / name)
    assert pixels.shape == (SIDE_PX, SIDE_PX, 3)
    assert pixels.dtype == np.uint8
    if isinstance(expected, Like):
        other = load(folder / expected.name)
        one, other = (grey(pixels), grey(other)) if expected.grey else (pixels.astype(float), other.astype(float))
        assert np.abs(one - other).mean() < expected.levels
    else:
        with Image.open(folder / name) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        assert upright.size == expected.size
        by_pillow = upright.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(pixels, np.asarray(by_pillow))


def test_the_table_has_every_awkward_file(folder):
    """A file added to the folder needs an expectation here."""
    assert {path.name for path in folder.iterdir()} - {"README.md"} == set(EXPECTED)


def test_a_turned_picture_is_told_from_an_upright_one(folder):
    """The tolerance of the table is far below what a missed orientation costs."""
    upright = load(folder / "hopper.jpg").astype(float)
    turned = load(folder / "hopper_orientation_3.jpg").astype(float)[::-1, ::-1]
    assert np.abs(upright - turned).mean() > 30
