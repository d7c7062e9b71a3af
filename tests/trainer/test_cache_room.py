import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from trainer.dataset.cache import PixelCache
from trainer.dataset.cache.folder import used_bytes
from trainer.dataset.cache.index import Facts
from trainer.dataset.cache.rows import INDEX_BYTES
from trainer.errors import TrainerError
from trapline.preprocessing import rules

RULES = rules(fit="stretch", image_px=48)
OTHER_RULES = rules(fit="letterbox", image_px=48)
ROW_BYTES = 48 * 48 * 3
# What is not photos: the least that indexes take, and what is left to SQLite's journals.
OVERHEAD_BYTES = (64 << 10) + (16 << 20)


def key(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def drawn(number):
    return np.random.default_rng(number).integers(0, 256, (48, 48, 3), np.uint8)


def put(cache, number):
    cache.put(key(number), drawn(number), Facts(camera="", taken="", difference_hash=number, max_pixels=1))


def fill(folder, numbers, *, preprocessing=RULES, bound=1 << 40):
    """A run of its own: makes room, then stores what it lacks; gives the sentence."""
    keys = [key(number) for number in numbers]
    with PixelCache.open(folder, preprocessing, most_bytes=bound) as cache:
        known = list(cache.find(keys))
        room = cache.make_room(known=known, new=len(keys) - len(known))
        for number in numbers:
            if key(number) not in known:
                put(cache, number)
    return room.sentence


def kept(folder, numbers, *, preprocessing=RULES):
    """Which of the photos are in the cache, each with its own pixels."""
    with PixelCache.open(folder, preprocessing) as cache:
        found = cache.find([key(number) for number in numbers])
        here = [number for number in numbers if key(number) in found]
        for number in here:
            assert np.array_equal(cache.pixels([found[key(number)].row])[0], drawn(number))
    return here


def bound_of(photos):
    return OVERHEAD_BYTES + photos * (ROW_BYTES + INDEX_BYTES)


def test_what_is_needed_is_said_before_the_work(tmp_path):
    """Height × width × 3 bytes a photo and a little for the index, beside what the disk and the bound leave."""
    fill(tmp_path, range(10))
    with PixelCache.open(tmp_path, RULES, most_bytes=3 << 30) as cache:
        said = cache.make_room(known=[key(number) for number in range(10)], new=1000).sentence
    assert "10 of 1,010 files are in it; the others need up to 8 MiB" in said
    assert re.search(r"the disk has [\d.,]+ [MG]iB free, --cache-gib allows 3.0 GiB in all", said)


def test_the_bound_holds_and_the_oldest_run_s_photos_go_first(tmp_path):
    """Many data sets through a cache for two of them: never above the bound, the last two are there, each one right."""
    for data_set in range(5):
        said = fill(tmp_path, range(data_set * 20, data_set * 20 + 20), bound=bound_of(40))
        assert used_bytes(tmp_path) + (16 << 20) <= bound_of(40)
        assert ("20 photos of an earlier run" in said) == (data_set > 1)
    assert kept(tmp_path, range(100)) == list(range(60, 100))


def test_folders_of_other_rules_go_as_a_whole_oldest_first(tmp_path):
    """Another folder unused for longer goes before own photos, and own photos used before it go before it."""
    fill(tmp_path, range(20), preprocessing=OTHER_RULES)
    fill(tmp_path, range(20))
    said = fill(tmp_path, range(20, 40), bound=bound_of(41))
    assert "the folder" in said
    assert (kept(tmp_path, range(40)), kept(tmp_path, range(20), preprocessing=OTHER_RULES)) == (list(range(40)), [])
    shutil.rmtree(tmp_path)
    fill(tmp_path, range(20))
    fill(tmp_path, range(20), preprocessing=OTHER_RULES)
    fill(tmp_path, range(20, 40), bound=bound_of(41))
    assert kept(tmp_path, range(40)) == list(range(20, 40))
    assert kept(tmp_path, range(20), preprocessing=OTHER_RULES) == list(range(20))


def test_a_folder_of_another_version_goes_first(tmp_path):
    """However lately it was used, what this version cannot read is dropped before what it can."""
    fill(tmp_path, range(20))
    old = tmp_path / "0123456789abcdef"
    old.mkdir()
    (old / "index.sqlite").write_bytes(b"")
    (old / "images.u8").write_bytes(bytes(20 * ROW_BYTES))
    said = fill(tmp_path, range(20, 40), bound=bound_of(41))
    assert "the folder 0123456789abcdef" in said
    assert not old.exists()
    assert kept(tmp_path, range(40)) == list(range(40))


def test_what_a_run_has_open_stays(tmp_path):
    """Rows and folders under a living run are never dropped; where that leaves too little, it is said."""
    fill(tmp_path, range(20))
    with PixelCache.open(tmp_path, RULES) as running:
        found = running.find([key(number) for number in range(20)])
        with pytest.raises(TrainerError, match=r"other runs use so much .* wait for them to end, or give --cache-gib"):
            fill(tmp_path, range(20, 40), bound=bound_of(30))
        with pytest.raises(TrainerError, match=r"other runs use so much"):
            fill(tmp_path, range(20), preprocessing=OTHER_RULES, bound=bound_of(30))
        for number in range(20):
            assert np.array_equal(running.pixels([found[key(number)].row])[0], drawn(number))
    assert kept(tmp_path, range(40)) == list(range(20))
    fill(tmp_path, range(20, 40), bound=bound_of(30))
    assert kept(tmp_path, range(40)) == list(range(20, 40))


def test_photos_that_exceed_the_bound_alone_are_refused_at_once(tmp_path):
    """The sentence names what is needed, the bound and one that suffices; what was there stays; that one suffices."""
    fill(tmp_path, range(10))
    with pytest.raises(TrainerError, match=r"50 photos need up to 17 MiB .*--cache-gib 0\.0\d+ allows") as caught:
        fill(tmp_path, range(50), bound=bound_of(20))
    assert kept(tmp_path, range(50)) == list(range(10))
    enough = float(re.search(r"give --cache-gib ([\d.]+)", str(caught.value))[1])
    fill(tmp_path, range(50), bound=int(enough * 2**30))
    assert kept(tmp_path, range(50)) == list(range(50))


def test_a_lower_bound_shrinks_the_cache(tmp_path):
    """Old photos leave, the run's own move together, and the file is cut; every photo keeps its pixels."""
    fill(tmp_path, range(100))
    fill(tmp_path, range(100, 120))
    # Used again after a day, these lie scattered among the others.
    scattered = list(range(0, 100, 5))
    with PixelCache.open(tmp_path, RULES) as cache:
        cache._index.touch([key(number) for number in scattered], used=time.time_ns())
    fill(tmp_path, scattered, bound=bound_of(30))
    assert used_bytes(tmp_path) + (16 << 20) <= bound_of(30)
    assert set(scattered) <= set(kept(tmp_path, range(120)))
    fill(tmp_path, range(200, 210), bound=bound_of(30))
    assert used_bytes(tmp_path) + (16 << 20) <= bound_of(30)
    assert set(range(200, 210)) <= set(kept(tmp_path, range(300)))


def test_two_runs_that_fill_at_once_stay_below_the_bound(tmp_path):
    """Each found room when it began; the one that meets the bound says why, and the cache holds what was written."""
    with PixelCache.open(tmp_path, RULES, most_bytes=bound_of(100)) as one:
        one.make_room(known=[], new=80)
        with PixelCache.open(tmp_path, OTHER_RULES, most_bytes=bound_of(100)) as other:
            other.make_room(known=[], new=80)
            with pytest.raises(TrainerError, match=r"bound of --cache-gib, because other runs fill it too"):
                any(put(cache, number) for number in range(80) for cache in (one, other))
            assert used_bytes(tmp_path) + (16 << 20) <= bound_of(100)
    assert len(kept(tmp_path, range(80))) + len(kept(tmp_path, range(80), preprocessing=OTHER_RULES)) > 70


def test_a_cache_inside_the_data_folder_is_refused(tmp_path):
    """Its folder would be a class at the next run; nothing is written there."""
    for label in ("deer", "fox"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "a.jpg").write_bytes(b"no photo")
    words = ["run", tmp_path / "data", "--out", tmp_path / "run", "--cache-dir", tmp_path / "data" / "cache"]
    trainer = Path(sys.executable).parent / "trainer"
    done = subprocess.run([trainer, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "lies in the data folder" in done.stderr) == (2, True)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["deer", "fox"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_too_small_is_said_before_the_work(small_disk):
    """What is needed, what is free, and which option names another place; nothing was written or dropped."""
    fill(small_disk, range(20))
    with pytest.raises(TrainerError, match=r"has \d+ MiB free, and up to \d+ MiB are needed for 9,980 .*--cache-dir"):
        fill(small_disk, range(10_000))
    assert kept(small_disk, range(30)) == list(range(20))


def test_old_photos_make_room_on_a_small_disk(small_disk):
    """The disk is as good a bound as --cache-gib: what was not used for longest is dropped for what is needed now."""
    fill(small_disk, range(3000))
    said = fill(small_disk, range(3000, 7000), preprocessing=OTHER_RULES)
    assert "dropped to make room: the folder" in said
    fill(small_disk, range(7000, 10_000), preprocessing=OTHER_RULES)
    assert len(kept(small_disk, range(7000, 10_000), preprocessing=OTHER_RULES)) == 3000


def test_a_disk_that_fills_up_loses_nothing(small_disk):
    """Another program takes the room in the middle: a sentence; with room again, only the rest is stored."""
    folder, filler = small_disk / "cache", small_disk / "filler"

    def store_while_it_fills():
        with PixelCache.open(folder, RULES) as cache:
            for number in range(300):
                put(cache, number)
                if number == 100:
                    cache.flush()
                    fill_disk = ["dd", "if=/dev/zero", f"of={filler}", "bs=4096"]
                    assert subprocess.run(fill_disk, capture_output=True, check=False).returncode == 1

    with pytest.raises(TrainerError, match=r"(No space left on device|disk is full).*--cache-dir") as caught:
        store_while_it_fills()
    assert str(folder) in str(caught.value)
    filler.unlink()
    there = kept(folder, range(300))
    assert 100 < len(there) < 300
    fill(folder, range(300))
    assert kept(folder, range(300)) == list(range(300))
