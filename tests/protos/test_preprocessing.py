"""Decoding: formats, orientation, modes, EXIF. Geometry, hostile bytes and processes have files of their own."""

import hashlib
import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from trapline import preprocessing
from trapline.errors import ImageUnreadable
from trapline.formats import IMAGE_FORMATS

#: Format, how to save it, and whether the pixels come back to the last bit.
ENCODINGS = {
    "JPEG": ({"quality": 95, "subsampling": 0}, False),
    "PNG": ({}, True),
    "WEBP": ({"lossless": True}, True),
    "GIF": ({}, True),
    "TIFF": ({"compression": "tiff_lzw"}, True),
    "BMP": ({}, True),
    "MPO": ({"quality": 95, "subsampling": 0}, False),
}
#: What was stored, made from what is upright, for each EXIF orientation (EXIF 2.32, tag 0x0112).
STORED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, -1),
}


def rules(width_px: int, height_px: int, **changes) -> preprocessing.Preprocessing:
    made = preprocessing.rules(fit="stretch", image_px=width_px)
    made.height_px = height_px
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def encode(image: Image.Image | np.ndarray, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags.tobytes()


def smooth(width: int, height: int) -> np.ndarray:
    """A picture without symmetry: red grows to the right, green downwards, blue has a corner."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    corner = np.where((across < 64) & (down < 64), 255, 0)
    return np.stack([across, down, corner], axis=2).round().astype(np.uint8)


@pytest.mark.parametrize("file_format", IMAGE_FORMATS)
def test_every_format_gives_its_pixels_back(file_format):
    """Each format of the list decodes, told by content, to the pixels that were stored."""
    options, exact = ENCODINGS[file_format]
    few_colours = np.kron(np.arange(12).reshape(3, 4), np.ones((8, 8), int))
    pixels = np.stack([few_colours * 20, 255 - few_colours * 20, few_colours * 7], axis=2).astype(np.uint8)
    if file_format == "MPO":
        options = options | {"save_all": True, "append_images": [Image.fromarray(255 - pixels)]}
    loaded = preprocessing.load_image(encode(pixels, file_format, **options), rules(32, 24))
    assert loaded.flags.c_contiguous
    assert loaded.dtype == np.uint8
    difference = np.abs(loaded.astype(int) - pixels)
    assert difference.max() == 0 if exact else difference.mean() < 3


def test_a_progressive_jpeg_equals_the_baseline_one():
    """How a JPEG's coefficients are ordered changes no pixel, scaled or not."""
    pixels = smooth(640, 480)
    for side in (64, 300):
        baseline = preprocessing.load_image(encode(pixels, "JPEG", progressive=False), rules(side, side))
        progressive = preprocessing.load_image(encode(pixels, "JPEG", progressive=True), rules(side, side))
        np.testing.assert_array_equal(baseline, progressive)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_each_exif_orientation_comes_out_upright_exactly(file_format, orientation):
    """All eight orientations of a lossless file give the upright pixels to the last bit."""
    upright = smooth(24, 17)
    options = {"lossless": True} if file_format == "WEBP" else {}
    if file_format == "TIFF":
        tags = Image.Exif()
        tags[ExifTags.Base.Orientation] = orientation
        options["exif"] = tags
    else:
        options["exif"] = exif(orientation)
    data = encode(np.ascontiguousarray(STORED[orientation](upright)), file_format, **options)
    np.testing.assert_array_equal(preprocessing.load_image(data, rules(24, 17)), upright)


@pytest.mark.parametrize("decode_min_scale", [0.0, 2.0])
@pytest.mark.parametrize("orientation", STORED)
def test_each_exif_orientation_of_a_large_jpeg_comes_out_upright(orientation, decode_min_scale):
    """A JPEG is turned upright whether or not it was decoded at a smaller scale."""
    upright = smooth(1200, 800)
    data = encode(np.ascontiguousarray(STORED[orientation](upright)), "JPEG", quality=92, exif=exif(orientation))
    loaded = preprocessing.load_image(data, rules(75, 50, decode_min_scale=decode_min_scale))
    expected = np.asarray(Image.fromarray(upright).resize((75, 50), Image.Resampling.BILINEAR))
    assert np.abs(loaded.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("orientation", STORED)
def test_each_exif_orientation_of_a_small_jpeg_is_exact(orientation):
    """Turning a JPEG moves its decoded pixels and changes none."""
    stored = smooth(40, 24)
    plain = preprocessing.load_image(encode(stored, "JPEG", quality=92), rules(40, 24, decode_min_scale=0))
    sideways = orientation >= 5
    turned = preprocessing.load_image(
        encode(stored, "JPEG", quality=92, exif=exif(orientation)),
        rules(*((24, 40) if sideways else (40, 24)), decode_min_scale=0),
    )
    np.testing.assert_array_equal(STORED[orientation](turned), plain)


def test_an_odd_orientation_is_taken_for_upright():
    """A value outside 1 to 8 turns nothing."""
    pixels = smooth(24, 17)
    for orientation in (0, 9, 77):
        data = encode(pixels, "PNG", exif=exif(orientation))
        np.testing.assert_array_equal(preprocessing.load_image(data, rules(24, 17)), pixels)


def test_xmp_orientation_is_applied():
    """A photo that says how it lies in XMP alone is turned too."""
    pixels = smooth(24, 17)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    data = encode(np.ascontiguousarray(pixels[::-1, ::-1]), "WEBP", lossless=True, xmp=xmp)
    np.testing.assert_array_equal(preprocessing.load_image(data, rules(24, 17)), pixels)


def test_alpha_is_dropped_and_never_blended():
    """The colour below a transparent pixel counts, however transparent it is."""
    pixels = smooth(24, 17)
    alpha = np.linspace(0, 255, 24 * 17).astype(np.uint8).reshape(17, 24, 1)
    for file_format, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}.items():
        data = encode(np.concatenate([pixels, alpha], axis=2), file_format, **options)
        np.testing.assert_array_equal(preprocessing.load_image(data, rules(24, 17)), pixels)


def test_a_palette_with_a_transparent_entry_keeps_its_colours():
    """Transparency of a palette, by index or by bytes, changes no colour."""
    paletted = Image.fromarray(smooth(24, 17)).quantize(16)
    expected = np.asarray(paletted.convert("RGB"))
    for transparency in (3, bytes(range(0, 256, 16))):
        for file_format in ("PNG", "GIF") if isinstance(transparency, int) else ("PNG",):
            data = encode(paletted, file_format, transparency=transparency)
            np.testing.assert_array_equal(preprocessing.load_image(data, rules(24, 17)), expected)


def test_grey_modes_become_equal_channels():
    """1-bit, 8-bit and grey with alpha give three equal channels."""
    level = smooth(24, 17)[..., 0]
    black_and_white = np.where(level > 127, 255, 0).astype(np.uint8)
    with_alpha = Image.merge("LA", [Image.fromarray(level), Image.fromarray(level[::-1].copy())])
    for image, expected in (
        (Image.fromarray(black_and_white).convert("1"), black_and_white),
        (Image.fromarray(level), level),
        (with_alpha, level),
    ):
        loaded = preprocessing.load_image(encode(image), rules(24, 17))
        np.testing.assert_array_equal(loaded, np.stack([expected] * 3, axis=2))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(file_format):
    """16-bit levels are divided by 257: 0 stays 0, 65535 becomes 255, the middle the middle."""
    levels = np.linspace(0, 65535, 24 * 17).astype(np.uint16).reshape(17, 24)
    loaded = preprocessing.load_image(encode(levels, file_format), rules(24, 17))
    np.testing.assert_array_equal(loaded[..., 0], np.round(levels / 257).astype(np.uint8))
    assert (loaded.min(), loaded.max()) == (0, 255)


def test_cmyk_is_not_inverted():
    """White stays white and red red in a CMYK JPEG."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16], pixels[:, 16:] = 255, (255, 0, 0)
    loaded = preprocessing.load_image(encode(Image.fromarray(pixels).convert("CMYK"), "JPEG"), rules(32, 16))
    assert np.abs(loaded.astype(int) - pixels).mean() < 4


def test_thirty_two_bit_pixels_are_refused():
    """A mode with no agreed range is refused with what to do."""
    with pytest.raises(ImageUnreadable, match="convert it to 8 or 16 bits"):
        preprocessing.load_image(encode(np.ones((4, 4), np.float32), "TIFF"), rules(4, 4))


def test_exif_tells_camera_and_time_and_hashes_the_serial():
    """The camera is make, model and a hash: the serial number itself never leaves the file."""
    tags = Image.Exif()
    tags[ExifTags.Base.Make], tags[ExifTags.Base.Model] = "Reconyx", " HC600\0"
    serial = "SN-0012345"
    tags[ExifTags.IFD.Exif] = {
        ExifTags.Base.BodySerialNumber: serial,
        ExifTags.Base.DateTimeOriginal: "2021:05:06 07:08:09",
    }
    data = encode(smooth(24, 17), "JPEG", exif=tags.tobytes())
    _, found = preprocessing.load_image_and_exif(data, rules(24, 17))
    digest = hashlib.sha256(serial.encode()).hexdigest()[:8]
    assert found == preprocessing.Exif(camera=f"Reconyx HC600 #{digest}", taken="2021:05:06 07:08:09")
    assert serial not in repr(found)


def test_exif_falls_back_to_the_files_time_and_to_nothing():
    """Without DateTimeOriginal the plain DateTime counts; without either, empty strings."""
    tags = Image.Exif()
    tags[ExifTags.Base.DateTime] = "2020:01:02 03:04:05"
    with_time = encode(smooth(24, 17), "JPEG", exif=tags.tobytes())
    assert preprocessing.load_image_and_exif(with_time, rules(24, 17))[1].taken == "2020:01:02 03:04:05"
    assert preprocessing.load_image_and_exif(encode(smooth(24, 17)), rules(24, 17))[1] == preprocessing.Exif()


def test_exif_text_stored_as_bytes_reads_as_text():
    """A make stored with the wrong type does not come out as a Python repr."""
    tags = Image.Exif()
    tags[ExifTags.Base.Make] = "Reconyx"
    block = (
        tags.tobytes()
        .replace(b"\x0f\x01\x02\x00", b"\x0f\x01\x07\x00")
        .replace(b"\x01\x0f\x00\x02", b"\x01\x0f\x00\x07")
    )
    found = preprocessing.load_image_and_exif(encode(smooth(24, 17), "JPEG", exif=block), rules(24, 17))[1]
    assert found.camera == "Reconyx"
