"""`trainer cache list` and `trainer cache clear`, by the console script."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from trainer.dataset.cache import PixelCache
from trainer.dataset.cache.index import Facts
from trapline.preprocessing import rules

TRAINER = Path(sys.executable).parent / "trainer"
LETTERS = rules(fit="letterbox", image_px=64)
CROPS = rules(fit="center_crop", image_px=32, bicubic=True)
FACTS = Facts(camera="", taken="", difference_hash=0, max_pixels=1)


def trainer(*arguments, code=0):
    done = subprocess.run(
        [TRAINER, "cache", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def fill(folder, preprocessing, count, *, days_ago=0):
    pixels = np.zeros((preprocessing.height_px, preprocessing.width_px, 3), np.uint8)
    with PixelCache.open(folder, preprocessing) as cache:
        for number in range(count):
            cache.put(f"{number:064x}", pixels, FACTS)
    then = time.time() - days_ago * 86_400
    os.utime(cache.folder / "cache.json", (then, then))
    return cache.folder


def old_version(folder):
    """A folder as the first format left it."""
    place = folder / "0123456789abcdef"
    place.mkdir(parents=True)
    for name in ("images.u8", "index.sqlite", "index.sqlite-wal"):
        (place / name).write_bytes(bytes(3 << 20))
    return place


def test_list_shows_what_is_there(tmp_path):
    """Rules in words, photos, MiB, last use, whether in use; least recently used first; other versions are named."""
    crops, letters = fill(tmp_path, CROPS, 300), fill(tmp_path, LETTERS, 7, days_ago=3)
    old = old_version(tmp_path)
    with PixelCache.open(tmp_path, CROPS):
        lines = trainer("list", "--cache-dir", tmp_path).stdout.splitlines()
    assert lines[0] == str(tmp_path)
    assert lines[1].split() == ["folder", "rules", "photos", "MiB", "last", "used"]
    assert re.fullmatch(rf"{letters.name}  64 × 64 px, letterbox, bilinear +7 +1  \d+-\d\d-\d\d \d\d:\d\d", lines[2])
    rows = {line.split()[0]: line for line in lines[2:]}
    assert next(iter(rows)) == letters.name
    assert re.search(r"32 × 32 px, center_crop, bicubic, of 37 px +300 +1  .*  in use$", rows[crops.name])
    assert re.search(r"of another version +– +6  ", rows[old.name])


def test_clear_deletes_the_cache_and_nothing_else(tmp_path):
    """Every folder of photos goes, old versions too; a user's files beside and inside stay, whatever their names."""
    folders = [fill(tmp_path, CROPS, 3), fill(tmp_path, LETTERS, 3), old_version(tmp_path)]
    mine = [
        tmp_path / "thesis.txt",
        tmp_path / "images.u8",
        tmp_path / "fedcba9876543210" / "index.sqlite",
        tmp_path / "photos" / "images.u8",
        tmp_path / "photos" / "index.sqlite",
        folders[0] / "notes.txt",
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    elsewhere = fill(tmp_path / "elsewhere", LETTERS, 2)
    (tmp_path / "aaaaaaaaaaaaaaaa").symlink_to(elsewhere)
    said = trainer("clear", "--cache-dir", tmp_path).stdout
    assert all(f"deleted: {folder}" in said for folder in folders)
    assert all(path.read_text() == "mine" for path in mine)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "thesis.txt", "images.u8", "fedcba9876543210", "photos", "elsewhere", "aaaaaaaaaaaaaaaa", folders[0].name,
        ".trapline-cache-lock",
    }  # fmt: skip
    assert [path.name for path in folders[0].iterdir()] == ["notes.txt"]
    assert (elsewhere / "images.u8").exists()
    assert "no decoded photos in" in trainer("list", "--cache-dir", tmp_path).stdout


def test_clear_leaves_what_a_run_has_open(tmp_path):
    """It says so and ends with 1; the run's photos are still there; after it, the folder goes."""
    crops, letters = fill(tmp_path, CROPS, 3), fill(tmp_path, LETTERS, 3)
    with PixelCache.open(tmp_path, CROPS) as cache:
        said = trainer("clear", "--cache-dir", tmp_path, code=1).stdout
        assert f"a run has it open, not deleted: {crops}" in said
        assert f"deleted: {letters}" in said
        assert cache.pixels([cache.find([f"{1:064x}"])[f"{1:064x}"].row]).shape == (1, 32, 32, 3)
    trainer("clear", "--cache-dir", tmp_path)
    assert not crops.exists()


@pytest.mark.parametrize(("days", "stay"), [(5, 2), (2, 1), (0, 0)])
def test_clear_can_spare_what_was_used_lately(tmp_path, days, stay):
    """--older-than-days counts from the last run that used a folder."""
    fill(tmp_path, CROPS, 3, days_ago=1)
    fill(tmp_path, LETTERS, 3, days_ago=4)
    trainer("clear", "--cache-dir", tmp_path, "--older-than-days", days)
    assert len(list(tmp_path.glob("*/cache.json"))) == stay


def test_a_folder_that_is_no_cache_is_left_as_it_is(tmp_path):
    """Neither verb writes into, or deletes from, a folder that holds no cache; a missing one is not made."""
    (tmp_path / "thesis.txt").write_text("mine")
    for verb, folder in (("list", tmp_path), ("clear", tmp_path), ("clear", tmp_path / "missing")):
        assert f"no decoded photos in {folder}" in trainer(verb, "--cache-dir", folder).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
