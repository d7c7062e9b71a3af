"""Where a data folder's classes and files are, told by names alone; no file is opened.

`DATA/<class>/**` or `DATA/{train,val,test}/<class>/**`, where `val` and `test` may be missing. Files beside the class
folders (a README) and whatever is hidden are ignored. A class folder may be a link; below it no folder link is
followed, so a walk always ends.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from trapline.formats import has_image_extension

from ..errors import DatasetError, UsageError
from .photo import Rejected, Status

#: Names of the folders that divide a data set already.
PARTS = ("train", "val", "test")

# Folders called so are parts that somebody named differently, hardly ever species.
_PART_WORDS = frozenset({*PARTS, "training", "valid", "validation", "testing"})


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that should be an image; attributes as in `Photo`."""

    path: str
    label: str
    part: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A data folder by its names.

    Attributes:
        labels: Class names, sorted.
        parts: The given parts in the order of `PARTS`; `("",)` where the classes lie in the data folder itself.
        files: What should be images, sorted by path.
        rejected: Files without an image's extension, links that lead nowhere, folders that cannot be listed.
    """

    labels: tuple[str, ...]
    parts: tuple[str, ...]
    files: tuple[File, ...]
    rejected: tuple[Rejected, ...]


def find_files(root: Path, *, least_classes: int = 2) -> Layout:
    """The classes and files of the data folder `root`.

    Raises:
        UsageError: `root` is missing, no folder or not readable.
        DatasetError: Its folders are not what the module's first lines say.
    """
    parts = _parts(root, _folders(root))
    classes = {part: _folders(root / part) for part in parts}
    for part, names in classes.items():
        if not names:
            raise DatasetError(_no_classes(root, part))
    labels = tuple(classes[parts[0]])
    _check_names(root, labels)
    for part in parts[1:]:
        extra = [name for name in classes[part] if name not in labels]
        if extra:
            raise DatasetError(
                f"{root}: {part}/ has the class {_listed(extra)} that train/ lacks; add photos of it to train/ or "
                f"take it out of {part}/"
            )
    if len(labels) < least_classes:
        raise DatasetError(
            f"{root} has one class folder only ({shown(labels[0])}); a classifier needs at least two, "
            "one folder for each class"
        )
    files: list[File] = []
    rejected: list[Rejected] = []
    for part in parts:
        for label in classes[part]:
            _walk(root, part, label, files=files, rejected=rejected)
    return Layout(
        labels=labels,
        parts=parts,
        files=tuple(sorted(files, key=lambda file: file.path)),
        rejected=tuple(sorted(rejected, key=lambda row: row.path)),
    )


def _folders(folder: Path) -> list[str]:
    """The visible folders in `folder`, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no folder {folder}; name the folder that holds one folder for each class"
        ) from error
    except NotADirectoryError as error:
        raise UsageError(f"{folder} is a file; name the folder that holds one folder for each class") from error
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be listed ({error.strerror}); make it readable") from error


def _parts(root: Path, names: list[str]) -> tuple[str, ...]:
    """The parts that `root` is divided into, from the names of its folders."""
    if "train" in names:
        others = [name for name in names if name not in PARTS]
        if others:
            raise DatasetError(
                f"{root} has {_listed(others)} beside train/; only val/ and test/ may stand there: rename it so, move "
                "it away, or put all class folders directly into the data folder"
            )
        return tuple(part for part in PARTS if part in names)
    suspects = [name for name in names if name.casefold() in _PART_WORDS]
    if suspects:
        raise DatasetError(
            f"{root} has {_listed(suspects)} but no train/: a divided data set is train/ with val/ and test/ "
            "(in lower case) and class folders in each; a class must be called something else"
        )
    return ("",)


def _check_names(root: Path, labels: tuple[str, ...]) -> None:
    """Labels are written into the model file, which holds UTF-8 alone."""
    unwritten = [label for label in labels if shown(label) != label]
    if unwritten:
        raise DatasetError(
            f"{root}: the name of the class folder {_listed(unwritten)} is no UTF-8, and a class is called by it in "
            "the model file; rename the folder (mv), then start again"
        )


def _walk(root: Path, part: str, label: str, *, files: list[File], rejected: list[Rejected]) -> None:
    """Adds every visible file below one class folder to `files` or `rejected`."""

    def reject(path: str, status: Status, reason: str) -> None:
        rejected.append(Rejected(path=path, label=label, part=part, status=status, reason=reason))

    waiting = [f"{part}/{label}" if part else label]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as scanned:
                entries = [entry for entry in scanned if not entry.name.startswith(".")]
        except OSError as error:
            reject(folder, "unreadable", f"the folder cannot be listed ({error.strerror})")
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.is_dir():
                reject(path, "skipped", "a link to a folder is not followed")
            elif not has_image_extension(Path(entry.name)):
                reject(path, "skipped", "its name has no image extension")
            elif entry.is_file():
                files.append(File(path=path, label=label, part=part))
            else:
                reject(path, "unreadable", "it is no regular file, or a link that leads nowhere")


def _no_classes(root: Path, part: str) -> str:
    if part:
        return f"{root}: {part}/ has no class folders; put one folder for each class into it, or remove {part}/"
    return f"{root} has no class folders; put the photos of each class into a folder named after the class"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(shown(name) for name in names[:5]) + more


def shown(name: str) -> str:
    """A file's or class's name for a sentence: bytes that are no UTF-8 would stop `print`."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
