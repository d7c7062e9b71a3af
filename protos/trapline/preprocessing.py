"""What `Preprocessing` means: an image file's bytes -> an upright RGB uint8 array. The ONE implementation.

The trainer's evaluation and the server both call `load_image`, so that a photo gives the same pixels in both. The
steps: format by content; size from the header, refused above the cap before anything is decoded; JPEGs decoded at
1/2, 1/4 or 1/8 by their DCT while both sides stay `decode_min_scale` times what resizing needs; EXIF (or XMP)
orientation; 8-bit RGB, 16-bit scaled down and alpha dropped; resize with antialiasing, as Pillow does it.
"""

import hashlib
import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from trapline.errors import ImageTooLarge, ImageUnreadable
from trapline.formats import IMAGE_FORMATS, formats_sentence
from trapline.model_file import RULE_VERSION
from trapline.v1.metadata_pb2 import Preprocessing

#: Default cap on an image's pixels: above every camera trap's frame, below what a decode bomb needs.
MAX_PIXELS = 64_000_000

# Pillow opens an MPO as a JPEG and has no opener of that name.
_OPENED_FORMATS = tuple(name for name in IMAGE_FORMATS if name != "MPO")
_DCT_FORMATS = ("JPEG", "MPO")
# At 2 a photo of 2048 x 1536 was decoded at a half for 224 px, now at a quarter; what that saves, and what it costs:
# docs/design/0024-scale-of-decoding.md.
_DECODE_MIN_SCALE = 1.5
# How a codec's error that it had too little memory begins, for which Pillow has no class.
_OUT_OF_MEMORY = "out of memory"
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})
_RESAMPLING = {
    Preprocessing.INTERPOLATION_BILINEAR: Image.Resampling.BILINEAR,
    Preprocessing.INTERPOLATION_BICUBIC: Image.Resampling.BICUBIC,
}
_FITS = {
    "stretch": Preprocessing.FIT_STRETCH,
    "letterbox": Preprocessing.FIT_LETTERBOX,
    "center_crop": Preprocessing.FIT_CENTER_CROP,
}

# Pillow warns on stderr about odd EXIF and many pixels without naming the file; what matters is raised. Set once for
# the process: changing the filters around each call is not safe among threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True, kw_only=True)
class Exif:
    """What a photo says about where and when it was taken; empty strings where it does not.

    Attributes:
        camera: Make, model and the first eight hex digits of the serial number's SHA-256, joined by spaces.
        taken: Date and time as EXIF writes it, `YYYY:MM:DD HH:MM:SS`.
    """

    camera: str = ""
    taken: str = ""


def rules(*, fit: str, image_px: int, resize_px: int = 0, bicubic: bool = False) -> Preprocessing:
    """The current rules for a square input of `image_px`.

    Args:
        fit: `stretch`, `letterbox` or `center_crop`.
        image_px: Side of the network's input, in pixels.
        resize_px: Shorter side before the cut, for `center_crop` only; 0 means 8/7 of `image_px`.
        bicubic: Resize with the bicubic filter instead of the bilinear one.
    """
    crop = fit == "center_crop"
    return Preprocessing(
        height_px=image_px,
        width_px=image_px,
        fit=_FITS[fit],
        resize_px=(resize_px or round(image_px * 8 / 7)) if crop else 0,
        interpolation=Preprocessing.INTERPOLATION_BICUBIC if bicubic else Preprocessing.INTERPOLATION_BILINEAR,
        decode_min_scale=_DECODE_MIN_SCALE,
        rule_version=RULE_VERSION,
    )


def load_image(data: bytes, preprocessing: Preprocessing, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The pixels that `preprocessing` makes of an image file.

    Args:
        data: The file's bytes, in one of `trapline.formats.IMAGE_FORMATS`.
        preprocessing: The rules, as in a model file's metadata.
        max_pixels: Largest width × height that is decoded.

    Returns:
        RGB, uint8, shape [height_px, width_px, 3], C-contiguous.

    Raises:
        ImageUnreadable: Not a whole image of a known format.
        ImageTooLarge: More pixels than `max_pixels`; nothing was decoded.
        MemoryError: There is too little memory to decode it now; nothing is said of the image.
    """
    return _guarded(data, preprocessing, max_pixels=max_pixels, with_exif=False)[0]


def load_image_and_exif(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], Exif]:
    """As `load_image`, and what the same pass read of the photo's EXIF."""
    return _guarded(data, preprocessing, max_pixels=max_pixels, with_exif=True)


def _guarded(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int, with_exif: bool
) -> tuple[NDArray[np.uint8], Exif]:
    if not data:
        raise ImageUnreadable("the image is empty; send the bytes of an image file")
    try:
        with _open(data, max_pixels) as image:
            return _load(image, preprocessing, with_exif=with_exif)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(max_pixels) from error
    except (ImageTooLarge, ImageUnreadable, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise errors of a dozen unrelated classes for bad bytes
        if isinstance(error, OSError) and str(error).startswith(_OUT_OF_MEMORY):
            # The image may be whole; another time there may be enough.
            raise MemoryError(str(error)) from error
        message = "the image is broken or cut off and cannot be decoded whole; send it again or leave it out"
        raise ImageUnreadable(message) from error


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Reads the header only, and refuses what must not be decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=_OPENED_FORMATS)
    except UnidentifiedImageError as error:
        raise ImageUnreadable(f"the bytes are no image of a known format; send {formats_sentence()}") from error
    if image.width < 1 or image.height < 1:
        raise ImageUnreadable("the image has no pixels; leave it out")
    if image.width * image.height > max_pixels:
        raise _too_large(max_pixels, f"{image.width} × {image.height}")
    return image


def _too_large(max_pixels: int, size: str = "too many") -> ImageTooLarge:
    return ImageTooLarge(
        f"the image has {size} pixels, the limit is {max_pixels:,}; send a smaller one", limitPixels=max_pixels
    )


def _load(image: Image.Image, preprocessing: Preprocessing, *, with_exif: bool) -> tuple[NDArray[np.uint8], Exif]:
    # Loading is what finds a cut-off file, so nothing that swallows errors may load: JPEG keeps its EXIF in the header,
    # the others are loaded before they are asked. A TIFF is turned by its own loader, which then says 1.
    if image.format in _DCT_FORMATS:
        orientation, size = _orientation(image), image.size
        scaled = _scaled_size(size[::-1] if orientation in _SIDEWAYS else size, preprocessing)
        if preprocessing.decode_min_scale > 0:
            width, height = (math.ceil(side * preprocessing.decode_min_scale) for side in scaled)
            image.draft(None, (height, width) if orientation in _SIDEWAYS else (width, height))
        image.load()
    else:
        image.load()
        orientation, size = _orientation(image), image.size
        scaled = _scaled_size(size[::-1] if orientation in _SIDEWAYS else size, preprocessing)
    rgb = _to_rgb(image)
    transpose = _TRANSPOSE.get(orientation)
    if transpose is not None:
        rgb = rgb.transpose(transpose)
    return _fitted(rgb, scaled, preprocessing), _exif(image) if with_exif else Exif()


def _orientation(image: Image.Image) -> int:
    """The EXIF (or XMP) orientation, 1 to 8; 1 where it is missing, odd or unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  # a photo with corrupt EXIF is still a photo
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _exif(image: Image.Image) -> Exif:
    try:  # each tag is read when it is asked for, and may be broken on its own
        tags = image.getexif()
        detail = _detail(tags)
        words = [_text(tags.get(ExifTags.Base.Make)), _text(tags.get(ExifTags.Base.Model))]
        serial = _text(detail.get(ExifTags.Base.BodySerialNumber))
        taken = _text(detail.get(ExifTags.Base.DateTimeOriginal)) or _text(tags.get(ExifTags.Base.DateTime))
    except Exception:  # noqa: BLE001  # a photo with corrupt EXIF is still a photo
        return Exif()
    if serial:
        words.append("#" + hashlib.sha256(serial.encode()).hexdigest()[:8])
    return Exif(camera=" ".join(word for word in words if word), taken=taken)


def _detail(tags: Image.Exif) -> Mapping[int, object]:
    """The EXIF directory. `Exif.get_ifd` decodes every value of it, in twice the time of this."""
    if ExifTags.IFD.Exif not in tags:
        return {}
    detail = TiffImagePlugin.ImageFileDirectory_v2(tags.head, group=ExifTags.IFD.Exif)
    tags.fp.seek(tags[ExifTags.IFD.Exif])
    detail.load(tags.fp)
    return detail


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return "".join(character for character in str(value or "") if character.isprintable()).strip()[:64]


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: 16-bit grey divided by 257, alpha dropped (never blended), palettes looked up."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageUnreadable(f"the image has 32-bit pixels (mode {image.mode}); convert it to 8 or 16 bits")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height that the whole upright image is scaled to, before padding or cutting."""
    width, height = size
    target = (preprocessing.width_px, preprocessing.height_px)
    if preprocessing.fit == Preprocessing.FIT_STRETCH:
        return target
    if preprocessing.fit == Preprocessing.FIT_LETTERBOX:
        scale = min(target[0] / width, target[1] / height)
    else:
        scale = preprocessing.resize_px / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _fitted(rgb: Image.Image, scaled: tuple[int, int], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    size = (preprocessing.width_px, preprocessing.height_px)
    resampling = _RESAMPLING[preprocessing.interpolation]
    if preprocessing.fit == Preprocessing.FIT_CENTER_CROP:
        # Only what the cut keeps is resampled: a strip 1 px wide must not become a picture of gigabytes.
        kept_width, kept_height = (rgb.width * size[0] / scaled[0], rgb.height * size[1] / scaled[1])
        left, top = (rgb.width - kept_width) / 2, (rgb.height - kept_height) / 2
        return np.asarray(rgb.resize(size, resampling, box=(left, top, left + kept_width, top + kept_height)))
    resized = rgb.resize(scaled, resampling)
    if preprocessing.fit == Preprocessing.FIT_LETTERBOX:
        pad = preprocessing.pad_rgb
        canvas = Image.new("RGB", size, (pad >> 16, pad >> 8 & 0xFF, pad & 0xFF))
        canvas.paste(resized, ((size[0] - scaled[0]) // 2, (size[1] - scaled[1]) // 2))
        resized = canvas
    return np.asarray(resized)
