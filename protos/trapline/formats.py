"""The image formats that every part of Trapline takes, told by content and never by name."""

from pathlib import Path

#: Formats by Pillow's names; of an animation or a multi-picture file the first frame is taken.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "MPO")

#: File name endings, in lower case, that say "this is meant to be an image" when a folder is walked.
IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".mpo"}
)


def has_image_extension(path: Path) -> bool:
    """Whether a walk of a folder takes the file `path` for an image."""
    return path.suffix.lower() in IMAGE_EXTENSIONS


def formats_sentence() -> str:
    """The formats as a sentence names them: `JPEG, PNG, ... or MPO`."""
    return ", ".join(IMAGE_FORMATS[:-1]) + " or " + IMAGE_FORMATS[-1]
