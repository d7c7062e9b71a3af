import csv
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from trainer.dataset.cache import PixelCache
from trainer.dataset.fingerprint import difference, fingerprint
from trainer.dataset.scan import scan, write_scan_csv
from trainer.errors import DatasetError, TrainerError
from trapline import preprocessing
from trapline.preprocessing import load_image, rules

RULES = rules(fit="stretch", image_px=32)


def photo_bytes(seed, *, camera="", taken="", size=(60, 40)):
    """A JPEG of coarse random blocks; each seed looks different."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
    exif = Image.Exif()
    if camera:
        exif[0x0110] = camera
    if taken:
        exif[0x0132] = taken
    data = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(data, "JPEG", quality=90, exif=exif)
    return data.getvalue()


def write(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def scanned(root, cache_folder, **options):
    with PixelCache.open(cache_folder, RULES) as cache:
        return scan(root, preprocessing=RULES, cache=cache, threads=3, report=lambda *_: None, **options)


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    write(
        root,
        {
            f"{label}/{number}.jpg": photo_bytes(f"{label}{number}".encode()[0] * 99 + number)
            for label in ("deer", "fox")
            for number in range(5)
        },
    )
    return root


@pytest.fixture
def cache_folder(tmp_path):
    return tmp_path / "cache"


def test_photos_come_sorted_with_facts_and_pixels(data, cache_folder):
    """Each photo has its hash, EXIF and a cache row with the very pixels that the server would see."""
    write(data, {"deer/x.jpg": photo_bytes(7, camera="Reconyx", taken="2024:05:01 06:07:08")})
    seen = []
    with PixelCache.open(cache_folder, RULES) as cache:
        result = scan(data, preprocessing=RULES, cache=cache, threads=2, report=lambda *step: seen.append(step))
        pixels = cache.pixels([photo.cache_row for photo in result.photos])
    assert [photo.path for photo in result.photos] == sorted(photo.path for photo in result.photos)
    assert seen == [(done, 11) for done in range(12)]
    last_deer = result.photos[5]
    assert (last_deer.path, last_deer.camera, last_deer.taken) == ("deer/x.jpg", "Reconyx", "2024:05:01 06:07:08")
    for photo, array in zip(result.photos, pixels, strict=True):
        assert np.array_equal(array, load_image((data / photo.path).read_bytes(), RULES))
        assert 0 < photo.difference_hash < 2**64


def test_a_second_scan_decodes_nothing(data, cache_folder, monkeypatch):
    """Bytes seen before, good or bad, under any name, are not decoded again, and the result is the same."""
    write(data, {"fox/broken.jpg": photo_bytes(1)[:300]})
    first = scanned(data, cache_folder)
    monkeypatch.setattr(preprocessing, "_load", lambda *_, **__: pytest.fail("decoded"))
    assert scanned(data, cache_folder) == first
    (data / "deer/0.jpg").rename(data / "deer/renamed.jpg")
    again = scanned(data, cache_folder)
    assert len(again.photos) == 10
    assert again.data_digest != first.data_digest


# What changed less than two seconds ago is read again: its clock is ahead, so nothing did.
COUNTING_SCAN = """
import sys
import time
from pathlib import Path

time.time_ns = lambda now=time.time_ns: now() + 3_000_000_000
from trainer.dataset.cache import PixelCache
from trainer.dataset.scan import scan
from trapline.preprocessing import rules

root, opened = Path(sys.argv[1]), set()
sys.addaudithook(lambda name, words: opened.add(words[0]) if name == "open" else None)
preprocessing = rules(fit=sys.argv[3], image_px=32)
with PixelCache.open(Path(sys.argv[2]), preprocessing) as cache:
    scan(root, preprocessing=preprocessing, cache=cache, threads=2, report=lambda *_: None)
print(*sorted(str(Path(name).relative_to(root)) for name in opened if str(name).startswith(str(root))))
"""


def test_a_second_scan_reads_only_what_changed(data, cache_folder):
    """No file is opened again, whatever it is called now; one written anew in place, of the same size and time, is."""

    def opened(fit="stretch"):
        command = [sys.executable, "-c", COUNTING_SCAN, str(data), str(cache_folder), fit]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    write(data, {"fox/broken.jpg": photo_bytes(1)[:300]})
    assert len(opened()) == 11
    assert opened() == []
    assert len(opened("letterbox")) == 11
    assert opened("letterbox") == []
    target = data / "deer/1.jpg"
    before = target.stat()
    with target.open("r+b") as file:
        file.write(photo_bytes(50)[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    (data / "deer").rename(data / "owl")
    assert opened() == ["owl/1.jpg"]


def test_room_is_told_and_refused_before_anything_is_decoded(data, cache_folder):
    """The first sentence says what the cache needs; where the bound is too small, no photo was decoded for nothing."""
    said = []
    with PixelCache.open(cache_folder, RULES, most_bytes=17 << 20) as cache:
        scan(data, preprocessing=RULES, cache=cache, threads=2, report=lambda *_: None, say=said.append)
    assert len(said) == 1
    assert "0 of 10 files are in it; the others need up to 1 MiB" in said[0]
    steps = []
    with (
        PixelCache.open(cache_folder / "small", RULES, most_bytes=16 << 20) as cache,
        pytest.raises(TrainerError, match="give --cache-gib"),
    ):
        scan(data, preprocessing=RULES, cache=cache, threads=2, report=lambda *step: steps.append(step))
    assert steps == [(0, 10)]


def test_rows_that_moved_for_room_are_looked_up_again(data, cache_folder):
    """Where the cache shrank below a scan's photos, it ends with the rows where they lie now."""
    write(data, {f"deer/more{number}.jpg": photo_bytes(number + 200) for number in range(200)})
    scanned(data, cache_folder)
    for path in data.glob("deer/more*.jpg"):
        if not path.stem.endswith("9"):
            path.unlink()
    least = (16 << 20) + (80 << 10) + 30 * 32 * 32 * 3
    with PixelCache.open(cache_folder, RULES, most_bytes=least) as cache:
        photos = scan(data, preprocessing=RULES, cache=cache, threads=2, report=lambda *_: None).photos
        pixels = cache.pixels([photo.cache_row for photo in photos])
        (images,) = cache_folder.glob("*/images.u8")
        assert images.stat().st_size < 100 * 32 * 32 * 3
    for photo, array in zip(photos, pixels, strict=True):
        assert np.array_equal(array, load_image((data / photo.path).read_bytes(), RULES))


def test_bad_files_are_listed_with_a_reason_and_the_rest_goes_on(data, cache_folder):
    """Broken, empty, oversized, foreign and dead files are rows of their own status."""
    write(
        data,
        {
            "fox/broken.jpg": photo_bytes(1)[:300],
            "fox/empty.png": b"",
            "fox/large.jpg": photo_bytes(2, size=(200, 100)),
            "fox/notes.txt": b"hello",
            "fox/text.jpg": b"no image at all",
        },
    )
    (data / "fox/dead.jpg").symlink_to("nowhere")
    result = scanned(data, cache_folder, max_pixels=10_000)
    assert {row.path: row.status for row in result.rejected} == {
        "fox/broken.jpg": "unreadable",
        "fox/dead.jpg": "unreadable",
        "fox/empty.png": "unreadable",
        "fox/large.jpg": "too_large",
        "fox/notes.txt": "skipped",
        "fox/text.jpg": "unreadable",
    }
    assert all(row.reason for row in result.rejected)
    assert len(result.photos) == 10


def test_a_cached_photo_does_not_slip_through_a_lower_limit(data, cache_folder):
    """`max_pixels` counts for what an earlier run cached, and a raised limit lets the photo in again."""
    write(data, {"fox/large.jpg": photo_bytes(2, size=(200, 100))})
    assert len(scanned(data, cache_folder).photos) == 11
    assert [row.status for row in scanned(data, cache_folder, max_pixels=10_000).rejected] == ["too_large"]
    assert len(scanned(data, cache_folder).photos) == 11


def test_copies_in_one_class_are_kept_once(data, cache_folder):
    """The first by path stays, and the others name it."""
    write(data, {"deer/00-copy.jpg": photo_bytes(5), "deer/zz-copy.jpg": photo_bytes(5)})
    (row,) = scanned(data, cache_folder).rejected
    assert (row.path, row.status) == ("deer/zz-copy.jpg", "duplicate")
    assert "deer/00-copy.jpg" in row.reason


def test_copies_never_straddle_given_parts(tmp_path, cache_folder):
    """Of copies in test, val and train the one in test stays, and the reason says so."""
    root = tmp_path / "data"
    write(
        root,
        {
            f"train/{label}/{number}.jpg": photo_bytes(number + 10 * (label == "fox"))
            for label in ("deer", "fox")
            for number in range(3)
        },
    )
    write(root, {"val/deer/v.jpg": photo_bytes(1), "test/deer/t.jpg": photo_bytes(1), "val/fox/v.jpg": photo_bytes(50)})
    result = scanned(root, cache_folder)
    assert {row.path for row in result.rejected} == {"train/deer/1.jpg", "val/deer/v.jpg"}
    assert all("test/deer/t.jpg" in row.reason and "both" in row.reason for row in result.rejected)


def test_one_photo_under_two_classes_stops_the_run(data, cache_folder):
    """A contradiction of labels names both paths."""
    write(data, {"deer/same.jpg": photo_bytes(5), "fox/also.jpg": photo_bytes(5)})
    with pytest.raises(DatasetError, match=r"deer/same\.jpg = fox/also\.jpg"):
        scanned(data, cache_folder)


def test_a_class_without_a_readable_photo_stops_the_run(data, cache_folder):
    """The class and a reason are named."""
    write(data, {"owl/broken.jpg": photo_bytes(1)[:300]})
    with pytest.raises(DatasetError, match=r"class owl .*owl/broken\.jpg"):
        scanned(data, cache_folder)


def test_names_that_are_no_utf8_survive(data, cache_folder, tmp_path):
    """A file's odd bytes are the same in scan.csv as on disk, and sentences about it can be printed."""
    odd = os.fsdecode(b'deer/caf\xe9, "1"\n.jpg')
    write(data, {odd: photo_bytes(3)})
    result = scanned(data, cache_folder)
    assert odd in [photo.path for photo in result.photos]
    write_scan_csv(result, tmp_path / "scan.csv")
    assert b"caf\xe9" in (tmp_path / "scan.csv").read_bytes()
    with (tmp_path / "scan.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert odd in [row["path"] for row in csv.DictReader(file)]
    difference({}, {odd: "1"}).encode()


def test_scan_csv_has_a_row_for_every_file(data, cache_folder, tmp_path):
    """Photos and rejected files together, sorted, with the pinned columns."""
    write(data, {"fox/broken.jpg": photo_bytes(1)[:300], "deer/a.txt": b""})
    write_scan_csv(scanned(data, cache_folder), tmp_path / "scan.csv")
    rows = list(csv.DictReader((tmp_path / "scan.csv").read_text().splitlines()))
    assert list(rows[0]) == ["path", "label", "part", "status", "reason", "sha256", "camera", "taken"]
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert [row["status"] for row in rows].count("ok") == 10
    assert len(rows) == 12


def test_digest_and_fingerprint_say_whether_the_data_changed(data, cache_folder):
    """A touched file changes the fingerprint only, new bytes change the digest; a README changes neither."""
    digest, quick = scanned(data, cache_folder).data_digest, fingerprint(data)
    write(data, {"README.md": b"hello"})
    assert fingerprint(data) == quick
    os.utime(data / "deer/0.jpg", ns=(1, 1))
    assert fingerprint(data) != quick
    assert scanned(data, cache_folder).data_digest == digest
    write(data, {"deer/0.jpg": photo_bytes(77)})
    assert scanned(data, cache_folder).data_digest != digest


def test_a_difference_names_the_files():
    """New, gone and changed paths are counted and the first are named; no difference is an empty sentence."""
    before = {"a": "1", "b": "2", "c": "3"}
    assert difference(before, dict(before)) == ""
    now = {"b": "2", "c": "4", **{f"n{number}": "" for number in range(5)}}
    assert difference(before, now) == "5 new (n0, n1, n2, ...), 1 gone (a), 1 changed (c)"


def test_an_interrupt_stops_the_pool(data, cache_folder):
    """Ctrl-C leaves `scan` as KeyboardInterrupt, with no thread left and few files examined after it."""
    write(data, {f"deer/more{number}.jpg": photo_bytes(number + 100) for number in range(60)})

    def report(done, _):
        if done == 3:
            raise KeyboardInterrupt

    with PixelCache.open(cache_folder, RULES) as cache:
        with pytest.raises(KeyboardInterrupt):
            scan(data, preprocessing=RULES, cache=cache, threads=2, report=report)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("scan")]


def test_the_data_set_needs_no_torch():
    """Scanning and splitting import neither torch nor torchvision."""
    code = "import sys, trainer.dataset.split; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path("/")).returncode == 0


def test_a_photo_that_memory_was_short_for_is_read_the_next_time(data, cache_folder, monkeypatch):
    """A codec that had too little memory says nothing of the photo: the scan ends, and nothing is kept of it."""
    write(data, {"fox/large.jpg": photo_bytes(77, size=(300, 200))})
    load = ImageFile.ImageFile.load

    def short(image):
        if image.size[0] > 60:  # the others are smaller
            raise ImageFile._get_oserror(-9, encoder=False)
        return load(image)

    with monkeypatch.context() as patched:
        patched.setattr(ImageFile.ImageFile, "load", short)
        with pytest.raises(TrainerError, match=r"not enough memory to decode fox/large\.jpg; free some"):
            scanned(data, cache_folder)
    again = scanned(data, cache_folder)
    assert again.rejected == ()
    assert "fox/large.jpg" in {photo.path for photo in again.photos}
