"""The benchmarks' divisions of the shared photo sets, laid out as folders that every tool reads.

A set is first gathered as one folder a class (a set that comes divided is put together), then divided by Trapline's own
grouped, stratified splitter, or into folds over the same groups. Files are hard links where the disk allows it.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from trainer.dataset.cache import PixelCache
from trainer.dataset.scan import Scan, scan
from trainer.dataset.split import Split, split
from trapline import preprocessing

TOP = Path(__file__).resolve().parents[1]
RULES = preprocessing.rules(fit="stretch", image_px=224)
FOLDS = 5
_SHARE = 0.15
_PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Divided:
    """One division of one set.

    Attributes:
        name: The set.
        number: Seed of the split, or number of the fold.
        folder: Has train/, val/ and test/ with one folder a class.
        parts: Path within the gathered set -> part.
        digest: SHA-256, in hex, over sorted (path, part) pairs.
    """

    name: str
    number: int
    folder: Path
    parts: dict[str, str]
    digest: str

    @property
    def key(self) -> str:
        """What rows of this division are found by."""
        return f"{self.name}/{self.number}/{self.digest[:12]}"

    @property
    def test(self) -> list[str]:
        """Paths of the test photos, sorted."""
        return sorted(path for path, part in self.parts.items() if part == "test")


def shared_folder() -> Path:
    """The folder with data/ and weights/."""
    shared = os.environ.get("TRAPLINE_SHARED")
    if not shared:
        raise SystemExit("set TRAPLINE_SHARED to the folder with data/ and weights/")
    return Path(shared)


def gathered(name: str, work: Path) -> Path:
    """The set `name` as one folder a class; the shared folder itself where it is so already."""
    source = shared_folder() / "data" / name
    if not source.is_dir():
        raise SystemExit(f"there is no set {name} under {source.parent}")
    if not (source / "train").is_dir():
        return source
    files: dict[str, Path] = {}
    for part in _PARTS:
        for path in sorted((source / part).rglob("*")) if (source / part).is_dir() else ():
            place = path.relative_to(source / part).as_posix()
            if path.is_file() and files.setdefault(place, path) != path:
                raise SystemExit(f"{source}: two parts have a file {place}; rename one of them")
    return laid_out(files, work / "gathered" / name)


def scanned(folder: Path, work: Path) -> Scan:
    """What Trapline finds in `folder`; decoded pixels are kept under `work` for the next time."""
    with PixelCache.open(work / "cache", RULES) as cache:
        return scan(folder, preprocessing=RULES, cache=cache, threads=2, report=lambda _done, _total: None)


def by_seed(name: str, seed: int, work: Path) -> Divided:
    """The division that `trainer run --seed SEED` makes of the whole set."""
    photos = scanned(gathered(name, work), work)
    return _divided(name, seed, photos, _split(photos, seed), work / "splits")


def by_fold(name: str, work: Path) -> list[Divided]:
    """Five divisions whose test parts are the folds of a grouped, stratified cross-validation.

    Of the rest of each, Trapline's splitter cuts `val/`. Groups are those of the whole set.
    """
    photos = scanned(gathered(name, work), work)
    groups = _split(photos, 0).groups
    labels = [photo.label for photo in photos.photos]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    divided = []
    pairs = folds.split(np.zeros(len(labels)), labels, [groups[photo.path] for photo in photos.photos])
    for number, (_rest, held_out) in enumerate(pairs):
        test = set(held_out.tolist())
        marked = [
            replace(photo, part="test" if index in test else "train") for index, photo in enumerate(photos.photos)
        ]
        parts = _split(replace(photos, photos=tuple(marked)), number)
        divided.append(_divided(name, number, photos, parts, work / "folds"))
    return divided


def laid_out(files: dict[str, Path], folder: Path) -> Path:
    """`folder` with `files` (path in it -> source) as hard links or copies; it is there whole or not at all."""
    if folder.is_dir():
        return folder
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    for place, source in files.items():
        target = unfinished / place
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
    unfinished.rename(folder)
    return folder


def read_once(folder: Path, paths: Iterable[str] = ("",)) -> None:
    """Reads every file below, so that no tool is the first to wait for the disk."""
    for start in paths:
        for path in (folder / start).rglob("*"):
            if path.is_file():
                path.read_bytes()


def _split(photos: Scan, seed: int) -> Split:
    return split(photos, val_share=_SHARE, test_share=_SHARE, seed=seed, group_by="auto", groups_file=None)


def _divided(name: str, number: int, photos: Scan, parts: Split, folders: Path) -> Divided:
    files = {f"{part}/{path}": photos.root / path for path, part in parts.parts.items()}
    digest = parts.split_digest
    folder = laid_out(files, folders / f"{name}-{number}-{digest[:12]}")
    return Divided(name=name, number=number, folder=folder, parts=parts.parts, digest=digest)
