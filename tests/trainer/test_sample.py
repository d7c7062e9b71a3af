import csv
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image

from trainer.sample import write_sample
from trainer.sample.plan import CAMERAS, LABELS, plan_bursts
from trapline.errors import UsageError

FEW = {"seed": 3, "burst_count": 4, "unseen_burst_count": 4}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A sample of a few bursts, what was said while it was drawn, and what was said at the end."""
    folder = tmp_path_factory.mktemp("sample") / "deep" / "out"
    reports: list[tuple[int, int]] = []
    summary = write_sample(folder, **FEW, report=lambda done, total: reports.append((done, total)))
    return SimpleNamespace(folder=folder, reports=reports, summary=summary)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def exif(path: Path) -> tuple[tuple[str, str, str], datetime]:
    """Camera and time of a picture, as any reader finds them."""
    with Image.open(path) as picture:
        tags = picture.getexif()
    details = tags.get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.DateTimeOriginal] == tags[ExifTags.Base.DateTime]
    time = datetime.fromisoformat(details[ExifTags.Base.DateTimeOriginal].replace(":", "-", 2))
    return (tags[ExifTags.Base.Make], tags[ExifTags.Base.Model], details[ExifTags.Base.BodySerialNumber]), time


def test_the_same_seed_gives_the_same_bytes(small, tmp_path):
    """Two runs agree in every byte of every file, also where the folder was there before."""
    folder = tmp_path / "existing"
    folder.mkdir()
    write_sample(folder, **FEW)
    assert content(folder) == content(small.folder)


def test_the_folder_holds_what_the_summary_says(small):
    """Pictures lie where and as many as the summary says, and nothing else lies beside them."""
    files = content(small.folder)
    photos = Counter(name.split("/")[1] for name in files if name.startswith("photos/"))
    unseen = [name for name in files if name.startswith("unseen/")]
    assert photos == small.summary.class_counts
    assert small.summary.image_count == photos.total()
    assert small.summary.unseen_image_count == len(unseen)
    assert small.summary.folder == small.folder
    assert sorted({name.split("/")[0] for name in files}) == ["README.txt", "photos", "unseen", "unseen.csv"]
    assert [entry.name for entry in small.folder.parent.iterdir()] == ["out"]
    assert str(small.summary.image_count) in str(small.summary)


def test_every_unseen_picture_has_its_true_label(small):
    """unseen.csv names each picture in unseen/ once, with a class that photos/ has."""
    with (small.folder / "unseen.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    listed = [row["path"] for row in rows]
    assert listed == sorted(name for name in content(small.folder) if name.startswith("unseen/"))
    assert {row["label"] for row in rows} == set(LABELS)


def test_exif_recovers_the_bursts(small):
    """Camera and gaps of at most 60 s, both from EXIF, give back precisely the bursts that were planned."""
    shots = sorted((*exif(path), path.name) for path in small.folder.rglob("*.jpg"))
    groups = [[shots[0][2]]]
    for before, shot in pairwise(shots):
        if shot[0] != before[0] or shot[1] - before[1] > timedelta(seconds=60):
            groups.append([])
        groups[-1].append(shot[2])
    planned = [
        [f"{CAMERAS[burst.camera].name}-{time:%Y%m%d-%H%M%S}.jpg" for time in burst.times]
        for burst in plan_bursts(**FEW)
    ]
    assert sorted(groups) == sorted(planned)


def test_pictures_are_upright_jpegs_of_the_camera(small):
    """Each file is an RGB JPEG in its camera's size, grey by night and coloured by day."""
    sizes = {camera.serial: camera.size_px for camera in CAMERAS}
    for path in small.folder.rglob("*.jpg"):
        (_, _, serial), time = exif(path)
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", sizes[serial])
            pixels = np.asarray(picture, np.int16)
        is_grey = bool(np.ptp(pixels, axis=2).max() == 0)
        assert is_grey == (time.hour >= 22 or time.hour < 4)


def test_no_two_pictures_are_the_same(small):
    """Frames of one burst differ too, if only by the sensor's noise."""
    pictures = [data for name, data in content(small.folder).items() if name.endswith(".jpg")]
    assert len(set(pictures)) == len(pictures)


def test_progress_counts_every_picture(small):
    """The report rises by one picture at a time to the number of all."""
    total = small.summary.image_count + small.summary.unseen_image_count
    assert small.reports == [(done, total) for done in range(1, total + 1)]


def test_classes_are_balanced_and_tied_to_no_camera_or_light():
    """Every class has as many pictures, and is seen by every camera by day and by night."""
    bursts = [burst for burst in plan_bursts(seed=0, burst_count=240, unseen_burst_count=12) if not burst.is_unseen]
    pictures = Counter(burst.label for burst in bursts for _ in burst.times)
    assert set(pictures) == set(LABELS)
    assert len(set(pictures.values())) == 1
    assert 320 <= pictures.total() <= 400
    views = Counter((burst.label, burst.camera, burst.is_night) for burst in bursts)
    assert len(views) == len(LABELS) * len(CAMERAS) * 2
    assert len(set(views.values())) == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bursts_of_a_camera_are_hours_apart(seed):
    """Gaps within a burst are 5 s at most, between bursts of a camera an hour at least; unseen bursts are the last."""
    bursts = plan_bursts(seed=seed, burst_count=240, unseen_burst_count=12)
    for camera in range(len(CAMERAS)):
        own = sorted((burst for burst in bursts if burst.camera == camera), key=lambda burst: burst.times)
        for burst, following in pairwise(own):
            assert following.times[0] - burst.times[-1] > timedelta(hours=1)
            assert burst.is_unseen <= following.is_unseen
        gaps = [later - earlier for burst in own for earlier, later in pairwise(burst.times)]
        assert all(timedelta(0) < gap <= timedelta(seconds=5) for gap in gaps)
    assert {len(burst.times) for burst in bursts} == {1, 2, 3, 4}


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    """What lies in the folder stays as it is, and the sentence names the folder."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty") as refusal:
        write_sample(tmp_path, **FEW)
    assert str(tmp_path) in str(refusal.value)
    assert content(tmp_path) == {"mine.txt": b"mine"}


def test_a_file_in_the_way_is_refused(tmp_path):
    """A file is not replaced by a folder."""
    path = tmp_path / "sample"
    path.write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        write_sample(path, **FEW)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("change", [{"seed": -1}, {"burst_count": 3}, {"unseen_burst_count": -1}])
def test_numbers_out_of_range_are_refused(tmp_path, change):
    """The refusal comes before anything is drawn."""
    with pytest.raises(UsageError, match=str(*change.values())):
        write_sample(tmp_path / "sample", **{**FEW, **change})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("exists", [True, False])
def test_an_interrupted_sample_leaves_nothing(tmp_path, exists):
    """After Ctrl-C there is no sample, no part of one and no scratch folder."""
    folder = tmp_path / "sample"
    if exists:
        folder.mkdir()

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(folder, **FEW, report=interrupt)
    assert list(tmp_path.rglob("*")) == ([folder] if exists else [])


def test_torch_is_not_imported():
    """Drawing needs NumPy and Pillow only."""
    code = "import sys, trainer.sample; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
