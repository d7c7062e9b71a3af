"""Reading one image file, without looking inside: what cannot be sent is refused here, in a sentence."""

import os
import stat
from pathlib import Path

from trapline.errors import ImageTooLarge, ImageUnreadable

from .answers import Source


def read_image(source: Source, limit_bytes: int) -> bytes:
    """The bytes of `source`.

    Args:
        source: A path, or the bytes themselves.
        limit_bytes: Most bytes that the server takes for one image; 0 where it does not say.

    Raises:
        ImageUnreadable: No regular file is there, or it cannot be read.
        ImageTooLarge: It has more than `limit_bytes`; a file is then not read.
    """
    if isinstance(source, bytes):
        _check_size(len(source), limit_bytes)
        return source
    path = Path(source)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageUnreadable(_why_folder(path))
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe would wait for whoever writes into it, for ever perhaps.
            raise ImageUnreadable("this is no regular file; copy the image into one")
        _check_size(status.st_size, limit_bytes)
        content = path.read_bytes()
    except OSError as error:
        raise ImageUnreadable(
            f"the file cannot be read ({error.strerror}); see that it exists and may be read"
        ) from error
    except ValueError as error:
        raise ImageUnreadable(f"no file can have this name ({error})") from error
    _check_size(len(content), limit_bytes)  # it may have grown in between
    return content


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if limit_bytes and size_bytes > limit_bytes:
        raise ImageTooLarge(
            f"the image has {size_bytes:,} bytes, the server takes {limit_bytes:,}; send a smaller one",
            limitBytes=limit_bytes,
        )


def _why_folder(path: Path) -> str:
    try:
        with os.scandir(path):
            pass
    except OSError as error:
        return f"the folder cannot be read ({error.strerror}); see that you may read it"
    return "this is a folder, or a link back to one above it; name the folder that its images are in"
