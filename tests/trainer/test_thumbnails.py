"""The small photos of a report: where they come from, how they are called, what is in them."""

import io
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from trainer.errors import UsageError
from trainer.report import gallery, thumbnails
from trainer.report.evidence import Evidence, read_predictions
from trainer.report.thumbnails import MOST_PHOTOS, page_bytes, read_thumbnails, shown_positions, write_thumbnails


def photos(count, *, height_px=64, width_px=48):
    """Data of so many photos, each of one grey: its position times ten."""
    scan = SimpleNamespace(photos=[SimpleNamespace(path=f"../{number}.jpg") for number in range(count)])
    parts = ["train", "val", "test"]

    def pixels(positions):
        rows = [np.full((height_px, width_px, 3), 10 * position % 256, np.uint8) for position in positions]
        return np.stack(rows)

    def positions(part):
        return [number for number in range(count) if parts[number % 3] == part]

    return SimpleNamespace(scan=scan, pixels=pixels, positions=positions)


def write_predictions(count, run):
    """`predictions.csv` of so many of `photos`: the later a photo the larger its loss."""
    rows = [
        f"../{number}.jpg,{part},fox,fox,0.9,,{1 - number / (count + 1):.6f}"
        for part, first in (("val", 1), ("test", 2))
        for number in range(first, count, 3)
    ]
    header = "path,part,label,predicted,score,unknown_score,probability_fox"
    (run / "predictions.csv").write_text("\n".join([header, *rows]) + "\n")


def test_each_photo_is_a_small_jpeg_named_by_its_line(tmp_path):
    """Stored and not deflated, named by the line in split.csv and never by the file's name, without metadata."""
    write_thumbnails(photos(9), [2, 7], tmp_path / "thumbnails.zip")
    with zipfile.ZipFile(tmp_path / "thumbnails.zip") as archive:
        assert archive.namelist() == ["4.jpg", "9.jpg"]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    found = read_thumbnails(tmp_path / "thumbnails.zip")
    for line, grey in ((4, 20), (9, 70)):
        with Image.open(io.BytesIO(found[line])) as image:
            assert image.format == "JPEG"
            assert image.size == (48, 64)
            assert dict(image.getexif()) == {}
            assert abs(int(np.asarray(image).mean()) - grey) <= 2


def test_the_more_photos_the_smaller(tmp_path):
    """A few photos are 192 px at most, thousands 96 px, so that a page of them can be opened."""
    sides = []
    for count in (2, 1_001, 3_001):
        write_thumbnails(photos(count, height_px=8, width_px=200), range(count), tmp_path / "thumbnails.zip")
        with Image.open(io.BytesIO(read_thumbnails(tmp_path / "thumbnails.zip")[2])) as image:
            sides.append(image.width)
    assert sides == [192, 128, 96]


def test_shown_are_test_and_validation_and_what_is_in_doubt(tmp_path):
    """Test and validation photos, and of the training photos those that suspects.csv and duplicates.csv name."""
    (tmp_path / "suspects.csv").write_text("path,label\n../3.jpg,fox\n../2.jpg,fox\n")
    (tmp_path / "duplicates.csv").write_text("path,other_path\n../6.jpg,../1.jpg\n")
    write_predictions(9, tmp_path)
    assert sorted(shown_positions(photos(9), tmp_path)) == [1, 2, 3, 4, 5, 6, 7, 8]
    (tmp_path / "suspects.csv").unlink()
    (tmp_path / "duplicates.csv").unlink()
    assert sorted(shown_positions(photos(9), tmp_path)) == [1, 2, 4, 5, 7, 8]


def test_a_large_set_is_bounded(tmp_path):
    """No more photos than a page can hold, test photos before others; the room that they take is bounded too."""
    write_predictions(3 * MOST_PHOTOS, tmp_path)
    positions = shown_positions(photos(3 * MOST_PHOTOS), tmp_path)
    assert len(positions) == MOST_PHOTOS
    assert {position % 3 for position in positions} == {2}
    assert page_bytes(10 * MOST_PHOTOS) == page_bytes(MOST_PHOTOS) < 64 * 2**20


def test_a_large_set_has_the_pictures_that_its_gallery_shows(tmp_path, monkeypatch):
    """Where not all photos are shown, those with the largest loss are, with their pictures, and what is in doubt."""
    for module in (gallery, thumbnails):
        monkeypatch.setattr(module, "MOST_PHOTOS", 4)
    write_predictions(21, tmp_path)
    (tmp_path / "suspects.csv").write_text("path,label\n../3.jpg,fox\n")
    lines = {f"../{number}.jpg": number + 2 for number in range(21)}
    evidence = Evidence(run=tmp_path, labels=("fox",), predictions=read_predictions(tmp_path), lines=lines)
    shown = [line - 2 for line in gallery.photos(evidence, images=True)["lines"]]
    assert shown == [20, 17, 14, 11]
    assert sorted(shown_positions(photos(21), tmp_path)) == sorted([3, *shown])


def test_what_is_no_archive_is_named(tmp_path):
    """A damaged file is a sentence with its path."""
    (tmp_path / "thumbnails.zip").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UsageError, match=r"thumbnails\.zip cannot be read"):
        read_thumbnails(tmp_path / "thumbnails.zip")
    assert read_thumbnails(tmp_path / "none.zip") == {}
