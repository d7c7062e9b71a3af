"""Where pixels land: stretch, letterbox, centre crop, and what decoding JPEGs at a smaller scale may change."""

import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trapline import preprocessing

FITS = ("stretch", "letterbox", "center_crop")
PAD_RGB = 0x204060
PAD = (0x20, 0x40, 0x60)
BRIGHT = (250, 200, 150)


def encode(image: Image.Image | np.ndarray, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, file_format, **options)
    return buffer.getvalue()


def photo(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Something like a photograph: coarse structure, fine structure and a little noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
    fine = Image.fromarray(generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8))
    return Image.blend(coarse, fine.resize((width, height)), 0.3)


def load(image: Image.Image, rules: preprocessing.Preprocessing, file_format: str = "PNG") -> np.ndarray:
    return preprocessing.load_image(encode(image, file_format), rules)


def test_stretch_keeps_each_corner_in_its_corner():
    """Each side is scaled on its own; the four quarters of any shape fill the four quarters of the input."""
    for width, height in ((80, 40), (41, 97), (7, 3)):
        whole = Image.new("RGB", (width, height), (0, 0, 0))
        colours = {(0, 0): (255, 0, 0), (1, 0): (0, 255, 0), (0, 1): (0, 0, 255), (1, 1): (255, 255, 0)}
        for (right, down), colour in colours.items():
            box = (right * width // 2, down * height // 2, (right + 1) * width // 2, (down + 1) * height // 2)
            whole.paste(colour, box)
        loaded = load(whole, preprocessing.rules(fit="stretch", image_px=32))
        for (right, down), colour in colours.items():
            assert tuple(loaded[2 + down * 27, 2 + right * 27]) == colour


@pytest.mark.parametrize("size", [(100, 50), (50, 100), (99, 50), (33, 97), (64, 64), (10, 5), (3, 7), (640, 479)])
def test_letterbox_centres_the_whole_picture_on_the_padding_colour(size):
    """The longer side fills the input, the shorter one keeps its share, the rest has the padding colour."""
    rules = preprocessing.rules(fit="letterbox", image_px=64)
    rules.pad_rgb = PAD_RGB
    loaded = load(Image.new("RGB", size, BRIGHT), rules)
    width, height = (round(side * 64 / max(size)) for side in size)
    left, top = (64 - width) // 2, (64 - height) // 2
    expected = np.empty((64, 64, 3), np.uint8)
    expected[:] = PAD
    expected[top : top + height, left : left + width] = BRIGHT
    np.testing.assert_array_equal(loaded, expected)


def test_letterbox_pads_with_black_by_default():
    """Where a model says no colour, padding is black."""
    loaded = load(Image.new("RGB", (40, 10), BRIGHT), preprocessing.rules(fit="letterbox", image_px=16))
    assert loaded[0].max() == 0
    assert tuple(loaded[8, 8]) == BRIGHT


@pytest.mark.parametrize("turned", [False, True])
def test_center_crop_keeps_the_middle_and_loses_the_ends(turned):
    """Of three squares side by side, the middle one is what a crop without margin shows."""
    whole = Image.new("RGB", (300, 100), (255, 0, 0))
    whole.paste(BRIGHT, (100, 0, 200, 100))
    if turned:
        whole = whole.transpose(Image.Transpose.ROTATE_90)
    # Antialiasing mixes in a neighbour's colour at the cut's very edge only.
    loaded = load(whole, preprocessing.rules(fit="center_crop", image_px=32, resize_px=32))
    assert (loaded[1:-1, 1:-1] == BRIGHT).all()


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("size", [(600, 480), (479, 641), (300, 300), (65, 333), (45, 30)])
def test_center_crop_equals_resizing_the_whole_and_cutting_the_middle(size, bicubic):
    """Resampling only what is kept gives what the textbook order of steps gives, to within rounding."""
    rules = preprocessing.rules(fit="center_crop", image_px=56, bicubic=bicubic)
    assert rules.resize_px == 64
    whole = photo(*size).resize((size[0] // 4 + 1, size[1] // 4 + 1)).resize(size)
    scaled = tuple(round(side * 64 / min(size)) for side in size)
    resized = whole.resize(scaled, Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR)
    left, top = (scaled[0] - 56) // 2, (scaled[1] - 56) // 2
    expected = np.asarray(resized)[top : top + 56, left : left + 56].astype(float)
    assert np.abs(load(whole, rules) - expected).mean() < 2


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 3), (1, 60000), (60000, 1), (2, 30001)])
def test_strips_and_specks_are_scaled_like_anything_else(fit, size):
    """A picture one pixel wide or high is scaled quickly, and its colour stays."""
    started = time.perf_counter()
    loaded = load(Image.new("RGB", size, BRIGHT), preprocessing.rules(fit=fit, image_px=224))
    assert time.perf_counter() - started < 5
    assert loaded.shape == (224, 224, 3)
    assert (loaded == BRIGHT).all(axis=2).any()
    if fit != "letterbox":
        assert (loaded == BRIGHT).all()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 500),
    height=st.integers(1, 500),
    fit=st.sampled_from(FITS),
    image_px=st.integers(1, 70),
    margin_px=st.integers(0, 20),
)
def test_every_size_gives_the_inputs_shape(width, height, fit, image_px, margin_px):
    """No pair of sizes trips the geometry: the shape is right and a plain picture stays plain."""
    rules = preprocessing.rules(fit=fit, image_px=image_px, resize_px=image_px + margin_px)
    rules.pad_rgb = BRIGHT[0] << 16 | BRIGHT[1] << 8 | BRIGHT[2]
    loaded = load(Image.new("RGB", (width, height), BRIGHT), rules, "BMP")
    assert loaded.shape == (image_px, image_px, 3)
    assert (loaded == BRIGHT).all()


def test_an_input_that_is_not_square_has_its_own_height_and_width():
    """Height and width are not exchanged anywhere."""
    for fit in FITS:
        rules = preprocessing.rules(fit=fit, image_px=20, resize_px=40)
        rules.width_px, rules.height_px = 40, 20
        assert load(photo(90, 70), rules).shape == (20, 40, 3)


@pytest.mark.parametrize("size", [(191, 191), (191, 2000), (2000, 191), (64, 64)])
def test_a_jpeg_below_three_times_the_target_is_decoded_whole(size):
    """With one side below 3x, half the scale would leave less than 1.5x of it: no pixel may change."""
    data = encode(photo(*size), "JPEG")
    rules = preprocessing.rules(fit="stretch", image_px=64)
    scaled = preprocessing.load_image(data, rules)
    rules.decode_min_scale = 0
    np.testing.assert_array_equal(scaled, preprocessing.load_image(data, rules))


@pytest.mark.parametrize(
    ("size", "decoded"), [((192, 192), (96, 96)), ((1100, 530), (275, 133)), ((1024, 2048), (128, 256))]
)
def test_a_large_jpeg_is_decoded_at_the_smallest_scale_of_one_and_a_half_times_the_target(size, decoded):
    """The DCT's scale is the smallest that leaves both sides 1.5x the target, and the pixels are Pillow's at it."""
    data = encode(photo(*size), "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (96, 96))
        assert image.size == decoded
        assert min(image.size) >= 1.5 * 64
        expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))
    loaded = preprocessing.load_image(data, preprocessing.rules(fit="stretch", image_px=64))
    np.testing.assert_array_equal(loaded, expected)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(1600, 1200), (2048, 1536), (1333, 2000)])
def test_a_scaled_decode_is_close_to_the_whole_one(fit, size):
    """Decoding at a smaller scale changes pixels by two levels of 255 in the mean, at most."""
    data = encode(photo(*size), "JPEG", quality=90)
    rules = preprocessing.rules(fit=fit, image_px=112)
    scaled = preprocessing.load_image(data, rules)
    rules.decode_min_scale = 0
    whole = preprocessing.load_image(data, rules)
    assert np.abs(scaled.astype(int) - whole).mean() < 2
    assert not np.array_equal(scaled, whole), "the picture was not decoded at a smaller scale"
