"""Names below a root folder: how a caller says which folder or file, never by a path.

A name is segments joined by `/`. It is resolved one segment at a time, each opened inside the folder opened before it
and never through a link. So nothing outside of the root is opened, even where somebody swaps folders meanwhile.
"""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_NAME = 1024
LONGEST_SEGMENT = 255
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A named pipe must not hold who opens it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BREAKS = ("Cc", "Zl", "Zp")
#: Errors that say something of a name, and not of the machine: of its disk, or of how many files it has open.
OF_THE_NAME = (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EPERM)


class NameRefused(ValueError):
    """A name is malformed, or nothing that may be opened lies there; a clause without its subject, the name."""


def check_name(name: str) -> tuple[str, ...]:
    """The segments of `name`.

    Raises:
        NameRefused: It is no such name.
    """
    if not name:
        raise NameRefused("must not be empty; name what lies below the root")
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        raise NameRefused(f"must be at most {LONGEST_NAME:,} bytes long")
    segments = tuple(name.split("/"))
    if not segments[0]:
        raise NameRefused("must not begin with '/'; it is a name below the root, not a path")
    for segment in segments:
        if segment in ("", ".", ".."):
            raise NameRefused("must be names joined by '/', none of them empty, '.' or '..'")
        if len(segment.encode("utf-8", "surrogatepass")) > LONGEST_SEGMENT:
            raise NameRefused(f"must have at most {LONGEST_SEGMENT} bytes between two '/'")
        if "\\" in segment or any(unicodedata.category(character) in _BREAKS for character in segment):
            raise NameRefused(r"must have no '\', no NUL and no control characters")
        if any("\ud800" <= character <= "\udfff" for character in segment):
            raise NameRefused("must be text")
    return segments


@contextmanager
def open_folder(root: Path, name: str) -> Iterator[int]:
    """A descriptor of the folder `name` below `root`.

    Raises:
        NameRefused: The name is malformed, or no folder lies there, or one that may not be read.
    """
    folder = _descend(root, check_name(name))
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def open_file(root: Path, name: str) -> Iterator[int]:
    """A descriptor of the regular file `name` below `root`, for reading.

    Raises:
        NameRefused: The name is malformed, or no regular file lies there, or one that may not be read.
    """
    *folders, last = check_name(name)
    folder = _descend(root, tuple(folders))
    try:
        file = file_in(folder, last)
    finally:
        os.close(folder)
    try:
        yield file
    finally:
        os.close(file)


def file_in(folder: int, segment: str) -> int:
    """A new descriptor of the regular file `segment` in an open folder.

    Raises:
        NameRefused: There is none, or one that may not be read.
    """
    try:
        # Looked at before it is opened: opening a device may do something.
        if not stat.S_ISREG(os.stat(segment, dir_fd=folder, follow_symlinks=False).st_mode):
            raise NameRefused("is no regular file, or a link, and links are not followed")
        file = os.open(segment, _FILE, dir_fd=folder)
    except OSError as error:
        raise _refused(error, "file") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise NameRefused("is no regular file")
    return file


def _descend(root: Path, segments: tuple[str, ...]) -> int:
    """A descriptor of the folder that `segments` lead to; the caller closes it."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for segment in segments:
        try:
            inner = os.open(segment, _FOLDER, dir_fd=folder)
        except OSError as error:
            raise _refused(error, "folder") from error
        finally:
            os.close(folder)
        folder = inner
    return folder


def _refused(error: OSError, kind: str) -> Exception:
    if error.errno not in OF_THE_NAME:
        return OSError(error.errno, error.strerror)  # says nothing of the name
    if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
        return NameRefused(f"names no {kind} below the root")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return NameRefused(f"leads through what is no folder, or a link, to its {kind}; links are not followed")
    return NameRefused(f"names a {kind} that cannot be read ({error.strerror})")
