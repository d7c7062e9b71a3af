"""From the paths of a command line to the images they stand for."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trapline.errors import UsageError
from trapline.formats import has_image_extension


@dataclass(frozen=True, kw_only=True)
class Found:
    """The images to classify.

    Attributes:
        paths: In order, each once; a folder's are its own path joined with theirs.
        skipped_count: Files in the folders that are no images by their names; hidden ones are not counted.
    """

    paths: tuple[str, ...]
    skipped_count: int


def find_images(arguments: Iterable[str], *, leave_out: Iterable[Path] = ()) -> Found:
    """The images that `arguments` name.

    A file stands for itself whatever its name. A folder stands for the files with an image's name in it and in the
    folders below, sorted by name; hidden files and folders are left out. A file reached twice is taken once, where it
    was reached first. A folder that cannot be walked (no permission, a link back to a folder above it) is taken as a
    path itself, so that its row says so and nothing is missed in silence.

    Args:
        arguments: Paths of files and folders.
        leave_out: Files that are neither images nor skipped: the job's own.

    Raises:
        UsageError: Nothing is there under one of the paths.
    """
    paths: dict[str, str] = {}
    skipped: set[str] = set()
    own = {os.path.abspath(path) for path in leave_out}  # noqa: PTH100  # Path.absolute keeps `..`
    for argument in arguments:
        if not os.path.lexists(argument):
            raise UsageError(f"nothing is there under {argument}; name photos or folders of photos")
        # Path.is_dir raises where a disk or a right is missing; reading the path will say so.
        is_folder = os.path.isdir(argument)  # noqa: PTH112
        for path, by_name in _below(argument) if is_folder else [(argument, False)]:
            absolute = os.path.abspath(path)  # noqa: PTH100  # the same
            if not by_name or has_image_extension(Path(path)):
                paths.setdefault(absolute, path)
            elif absolute not in own:
                skipped.add(absolute)
    return Found(paths=tuple(paths.values()), skipped_count=len(skipped - set(paths)))


def _below(folder: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[str, bool]]:
    """Every file below `folder`, depth first, by name, and whether its name must be an image's.

    A folder that cannot be walked comes as itself, whatever its name.
    """
    try:
        status = Path(folder).stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            yield folder, False
            return
        with os.scandir(folder) as entries:
            found = sorted((entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith("."))
    except OSError:
        yield folder, False
        return
    for name, is_folder in found:
        path = os.path.join(folder, name)  # noqa: PTH118  # a Path would drop a leading `./` of the user's
        if is_folder:
            yield from _below(path, above | {here})
        else:
            yield path, True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return True  # a link that leads to itself, or to a disk that has gone: walking it will say so
