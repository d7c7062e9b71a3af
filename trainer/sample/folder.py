"""The sample's folder: pictures with EXIF, the list of true labels, a note; all of it or nothing."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from trapline.csv_rows import CsvRows

from ..errors import TrainerError, UsageError
from .frame import draw_burst
from .habitats import HABITATS
from .plan import CAMERAS, LABELS, Burst, Camera, plan_bursts
from .scene import build_scene

_JPEG_QUALITY = 85
# First word of every seed, so that plan, places and bursts never share random numbers; the plan has 0.
_SCENE_STREAM, _BURST_STREAM = 1, 2

_README = """\
A made-up camera-trap data set, drawn by `trainer sample`. No camera and no animal was involved.

photos/CLASS/*.jpg  {photo_count} labelled pictures: {classes}
unseen/*.jpg        {unseen_count} pictures from later days, for trying a trained model on
unseen.csv          the true label of each picture in unseen/ (columns: path, label)

{camera_count} cameras, day and night, bursts of 1 to 4 pictures a few seconds apart. EXIF names the camera
(Make, Model, BodySerialNumber) and the time (DateTimeOriginal), so pictures of one burst can be kept together.

    trainer run photos --out RUN
"""


@dataclass(frozen=True, kw_only=True)
class SampleSummary:
    """What was written.

    Attributes:
        folder: the sample.
        photos: the labelled data set inside it, one folder a class.
        unseen: the folder of pictures to try a model on.
        image_count: pictures in `photos`.
        class_counts: pictures of each class in `photos`, by label, sorted.
        burst_count: bursts in `photos`.
        camera_count: cameras that took any picture.
        unseen_image_count: pictures in `unseen`.
    """

    folder: Path
    photos: Path
    unseen: Path
    image_count: int
    class_counts: Mapping[str, int]
    burst_count: int
    camera_count: int
    unseen_image_count: int

    def __str__(self) -> str:
        counts = ", ".join(f"{label} {count}" for label, count in self.class_counts.items())
        return (
            f"{self.image_count} photos ({counts}) in {self.burst_count} bursts of {self.camera_count} cameras: "
            f"{self.photos}\n{self.unseen_image_count} unseen photos to classify: {self.unseen}"
        )


def write_sample(
    out: Path,
    *,
    seed: int = 0,
    burst_count: int = 240,
    unseen_burst_count: int = 12,
    report: Callable[[int, int], None] | None = None,
) -> SampleSummary:
    """Draws the sample data set into a folder that is new or empty.

    The same arguments give the same bytes. Nothing appears in `out` before everything is drawn.

    Args:
        out: the folder to make.
        seed: another seed gives other places, animals and times; 0 or more.
        burst_count: bursts in `photos/`, about 1.6 pictures each; at least one a class.
        unseen_burst_count: bursts in `unseen/`, 2 pictures each on average.
        report: called after each picture with the number done and the number of all.

    Raises:
        UsageError: `out` is a file or holds something already, or a number is out of range.
        TrainerError: the pictures cannot be written.
    """
    _check_numbers(seed=seed, burst_count=burst_count, unseen_burst_count=unseen_burst_count)
    # Where a link leads, so that the link itself is not replaced.
    folder = out.resolve()
    _check_vacant(folder, out)
    bursts = plan_bursts(seed=seed, burst_count=burst_count, unseen_burst_count=unseen_burst_count)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # An empty folder that is there stays the same folder: it may be a mount point, or the shell may be in it.
        beside = folder if folder.exists() else folder.parent
        with tempfile.TemporaryDirectory(prefix=".sample-", dir=beside) as scratch:
            draft = Path(scratch) / "sample"
            draft.mkdir()
            _draw_all(draft, bursts, seed=seed, report=report)
            if folder.exists():
                for entry in sorted(draft.iterdir()):
                    entry.rename(folder / entry.name)
            else:
                draft.rename(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TrainerError(f"cannot write the sample to {out}: {reason}; name another folder") from error
    return _summary(out, bursts)


def _check_numbers(*, seed: int, burst_count: int, unseen_burst_count: int) -> None:
    if seed < 0:
        raise UsageError(f"the seed must be 0 or more, not {seed}")
    if burst_count < len(LABELS):
        raise UsageError(f"burst_count must be at least {len(LABELS)}, one a class, not {burst_count}")
    if unseen_burst_count < 0:
        raise UsageError(f"unseen_burst_count must be 0 or more, not {unseen_burst_count}")


def _check_vacant(folder: Path, named: Path) -> None:
    """Raises unless `folder` is absent or an empty folder; the message uses the name that the user gave."""
    try:
        is_taken = folder.is_dir() and any(folder.iterdir())
    except OSError as error:
        raise UsageError(f"cannot read {named}: {error.strerror}; name another folder") from error
    if is_taken:
        raise UsageError(f"{named} is not empty; name a new or an empty folder for the sample")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{named} is a file; name a new or an empty folder for the sample")


def _draw_all(draft: Path, bursts: list[Burst], *, seed: int, report: Callable[[int, int], None] | None) -> None:
    """Writes every picture and the files beside them into `draft`, camera by camera."""
    for name in ("unseen", *(f"photos/{label}" for label in LABELS)):
        (draft / name).mkdir(parents=True)
    total = sum(len(burst.times) for burst in bursts)
    done = 0
    for position, camera in enumerate(CAMERAS):
        own = [burst for burst in bursts if burst.camera == position]
        if not own:
            continue
        scene = build_scene(HABITATS[camera.habitat], np.random.default_rng([seed, _SCENE_STREAM, position]))
        for burst in own:
            rng = np.random.default_rng([seed, _BURST_STREAM, burst.number])
            for time, picture in zip(burst.times, draw_burst(scene, camera, burst, rng), strict=True):
                _save(picture, draft / _path(burst, time), camera, time, is_night=burst.is_night)
                done += 1
                if report is not None:
                    report(done, total)
    _write_labels(draft / "unseen.csv", bursts)
    _write_note(draft / "README.txt", bursts)


def _path(burst: Burst, time: datetime) -> str:
    """Where a picture goes, from the sample's folder; the name tells camera and time, never the class."""
    folder = "unseen" if burst.is_unseen else f"photos/{burst.label}"
    return f"{folder}/{CAMERAS[burst.camera].name}-{time:%Y%m%d-%H%M%S}.jpg"


def _save(picture: Image.Image, path: Path, camera: Camera, time: datetime, *, is_night: bool) -> None:
    """Writes a JPEG with the EXIF of a camera trap."""
    stamp = f"{time:%Y:%m:%d %H:%M:%S}"
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = camera.make
    exif[ExifTags.Base.Model] = camera.model
    exif[ExifTags.Base.DateTime] = stamp
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = stamp
    details[ExifTags.Base.BodySerialNumber] = camera.serial
    details[ExifTags.Base.Flash] = int(is_night)
    picture.save(path, "JPEG", quality=_JPEG_QUALITY, exif=exif)


def _write_labels(path: Path, bursts: list[Burst]) -> None:
    """Writes the true label of every unseen picture, sorted by path."""
    rows = sorted((_path(burst, time), burst.label) for burst in bursts if burst.is_unseen for time in burst.times)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = CsvRows(file)
        writer.writerow(("path", "label"))
        writer.writerows(rows)


def _write_note(path: Path, bursts: list[Burst]) -> None:
    summary = _summary(path.parent, bursts)
    text = _README.format(
        photo_count=summary.image_count,
        classes=", ".join(f"{label} {count}" for label, count in summary.class_counts.items()),
        unseen_count=summary.unseen_image_count,
        camera_count=summary.camera_count,
    )
    path.write_text(text, encoding="utf-8", newline="\n")


def _summary(folder: Path, bursts: list[Burst]) -> SampleSummary:
    photos = [burst for burst in bursts if not burst.is_unseen]
    counts = Counter(burst.label for burst in photos for _ in burst.times)
    return SampleSummary(
        folder=folder,
        photos=folder / "photos",
        unseen=folder / "unseen",
        image_count=counts.total(),
        class_counts={label: counts[label] for label in LABELS},
        burst_count=len(photos),
        camera_count=len({burst.camera for burst in bursts}),
        unseen_image_count=sum(len(burst.times) for burst in bursts if burst.is_unseen),
    )
