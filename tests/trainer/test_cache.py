import fcntl
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from trainer.dataset.cache import PixelCache
from trainer.dataset.cache.folder import IMAGES_FILE, rules_digest
from trainer.dataset.cache.index import Facts
from trainer.errors import TrainerError
from trapline.preprocessing import rules

RULES = rules(fit="stretch", image_px=48)
ROW_BYTES = 48 * 48 * 3

# A key's pixels follow from the key, so that any process can tell a wrong pixel.
WRITER = """
import hashlib, sys
from pathlib import Path
import numpy as np
from trainer.dataset.cache import PixelCache
from trainer.dataset.cache.index import Facts
from trapline.preprocessing import rules

with PixelCache.open(Path(sys.argv[1]), rules(fit="stretch", image_px=48)) as cache:
    print("open", flush=True)
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        key = hashlib.sha256(str(number).encode()).hexdigest()
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), np.uint8)
        facts = Facts(camera=f"camera {number}", taken="", difference_hash=number, max_pixels=number)
        cache.put(key, pixels, facts)
"""


def key(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def drawn(number):
    return np.random.default_rng(number).integers(0, 256, (48, 48, 3), np.uint8)


def facts(number):
    return Facts(camera=f"camera {number}", taken="", difference_hash=number, max_pixels=number)


def writer(folder, first, last):
    command = [sys.executable, "-c", WRITER, str(folder), str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def check(cache, count):
    """Every number's photo that is found has exactly its own pixels and facts; gives how many are found."""
    found = cache.find([key(number) for number in range(count)])
    for number in range(count):
        photo = found.get(key(number))
        if photo is not None:
            assert np.array_equal(cache.pixels([photo.row])[0], drawn(number))
            assert photo.facts == facts(number)
    return len(found)


def test_what_was_put_is_found_by_another_opening(tmp_path):
    """Pixels, facts and failures survive closing, and an unknown key is no hit; hashes keep all 64 bits."""
    large = Facts(camera="Réco #1", taken="2024:01:01 00:00:00", difference_hash=2**64 - 1, max_pixels=9)
    with PixelCache.open(tmp_path, RULES) as cache:
        row = cache.put(key(1), drawn(1), large)
        cache.put_failure(key(2), "it is cut off")
    with PixelCache.open(tmp_path, RULES) as cache:
        found = cache.find([key(1), key(2), key(3)])
        assert list(found) == [key(1)]
        assert (found[key(1)].row, found[key(1)].facts) == (row, large)
        assert np.array_equal(cache.pixels([row]), drawn(1)[None])
        assert cache.failures([key(1), key(2)]) == {key(2): "it is cut off"}


def test_copies_put_at_the_same_time_take_one_row(tmp_path):
    """The second one's row is the next photo's, so that none is lost."""
    with PixelCache.open(tmp_path, RULES) as cache:
        rows = [cache.put(key(number), drawn(number), facts(number)) for number in (0, 0, 1, 0)]
        assert rows[0] == rows[1] == rows[3]
        assert check(cache, 2) == 2
        images = cache.folder / IMAGES_FILE
    assert images.stat().st_size == 2 * ROW_BYTES


def test_rows_come_in_the_order_asked_for(tmp_path):
    """`pixels` gathers any rows, repeated ones too, and none gives an empty array of the right shape."""
    with PixelCache.open(tmp_path, RULES) as cache:
        rows = [cache.put(key(number), drawn(number), facts(number)) for number in range(3)]
        gathered = cache.pixels([rows[2], rows[0], rows[2]])
        assert np.array_equal(gathered, np.stack([drawn(2), drawn(0), drawn(2)]))
        assert cache.pixels([]).shape == (0, 48, 48, 3)


def test_other_rules_have_other_folders(tmp_path):
    """Pixels made by one set of rules are never handed out for another."""
    digests = {rules_digest(rules(fit=fit, image_px=px)) for fit in ("stretch", "letterbox") for px in (48, 64)}
    assert len(digests) == 4
    with PixelCache.open(tmp_path, RULES) as cache:
        cache.put(key(1), drawn(1), facts(1))
    with PixelCache.open(tmp_path, rules(fit="letterbox", image_px=48)) as cache:
        assert cache.find([key(1)]) == {}


def test_a_row_whose_bytes_changed_is_forgotten(tmp_path):
    """Bytes changed or cut off between two runs are a miss; the photos put again are found, and no row is lost."""
    with PixelCache.open(tmp_path, RULES) as cache:
        rows = [cache.put(key(number), drawn(number), facts(number)) for number in (0, 1, 2)]
    with (cache.folder / "images.u8").open("r+b") as file:
        file.seek(rows[0] * ROW_BYTES + 100)
        file.write(b"torn")
        file.truncate((max(rows) + 1) * ROW_BYTES - 1)
    with PixelCache.open(tmp_path, RULES) as cache:
        assert list(cache.find([key(0), key(1), key(2)])) == [key(1)]
        for number in (0, 2):
            cache.put(key(number), drawn(number), facts(number))
        assert check(cache, 3) == 3
    with PixelCache.open(tmp_path, RULES) as cache:
        assert check(cache, 3) == 3
    with PixelCache.open(tmp_path, RULES) as cache:
        cache.put(key(3), drawn(3), facts(3))
    assert (cache.folder / "images.u8").stat().st_size <= 5 * ROW_BYTES


def test_a_row_that_rots_unnoticed_is_never_handed_out(tmp_path):
    """Where nothing but the bytes tells of the damage, reading them stops the run, and the next run decodes again."""
    with PixelCache.open(tmp_path, RULES) as cache:
        rows = [cache.put(key(number), drawn(number), facts(number)) for number in range(3)]
    images = cache.folder / "images.u8"
    before = images.stat()
    with images.open("r+b") as file:
        file.seek(rows[1] * ROW_BYTES + 5)
        file.write(b"rot")
    os.utime(images, ns=(before.st_atime_ns, before.st_mtime_ns))
    with PixelCache.open(tmp_path, RULES) as cache:
        found = cache.find([key(number) for number in range(3)])
        assert np.array_equal(cache.pixels([found[key(0)].row])[0], drawn(0))
        with pytest.raises(TrainerError, match=r"1 photos in the cache .* run the same command again"):
            cache.pixels([photo.row for photo in found.values()])
        assert check(cache, 3) == 2
    with PixelCache.open(tmp_path, RULES) as cache:
        assert set(cache.find([key(number) for number in range(3)])) == {key(0), key(2)}


def test_what_is_being_written_does_not_exist_yet(tmp_path):
    """It is no hit for others; of two that put one photo the first to record it wins, and the other learns of it."""
    with PixelCache.open(tmp_path, RULES) as one, PixelCache.open(tmp_path, RULES) as other:
        first, second = one.put(key(1), drawn(1), facts(1)), other.put(key(1), drawn(1), facts(1))
        assert first != second
        assert other.put(key(2), drawn(2), facts(2)) != one.put(key(3), drawn(3), facts(3))
        assert list(other.find([key(3)])) == []
        assert (one.flush(), other.flush(), one.flush()) == (True, False, True)
        for cache in (one, other):
            assert cache.find([key(1)])[key(1)].row == first
            assert check(cache, 4) == 3
    with PixelCache.open(tmp_path, RULES) as cache:
        assert check(cache, 4) == 3
        rows = {cache.put(key(number), drawn(number), facts(number)) for number in range(100, 230)}
        assert second in rows


@pytest.mark.parametrize("damage", ["garbage", "cut", "empty", "text"])
def test_a_damaged_index_is_made_anew(tmp_path, damage):
    """Whatever became of index.sqlite, the cache opens, says so where photos are lost, and shows no wrong pixel."""
    with PixelCache.open(tmp_path, RULES) as cache:
        for number in range(300):
            cache.put(key(number), drawn(number), facts(number))
    index = cache.folder / "index.sqlite"
    whole = index.read_bytes()
    if damage == "garbage":
        index.write_bytes(whole[:4096] + random.Random(1).randbytes(8192) + whole[12288:])
    elif damage == "cut":
        index.write_bytes(whole[: len(whole) // 2])
    else:
        index.write_bytes(b"" if damage == "empty" else b"hello " * 2000)
    with PixelCache.open(tmp_path, RULES) as cache:
        assert check(cache, 300) == 0
        assert [str(cache.folder) in note for note in cache.notes] == ([] if damage == "empty" else [True])
        cache.put(key(7), drawn(7), facts(7))
    with PixelCache.open(tmp_path, RULES) as cache:
        assert (check(cache, 300), cache.notes) == (1, ())


def test_any_damaged_byte_of_the_index_is_no_wrong_pixel(tmp_path):
    """One changed byte, anywhere, costs photos at most: what is found has its own pixels and facts."""
    with PixelCache.open(tmp_path / "whole", RULES) as cache:
        for number in range(60):
            cache.put(key(number), drawn(number), facts(number))
    whole = (cache.folder / "index.sqlite").read_bytes()
    chance = random.Random(2)
    counts = []
    for attempt in range(40):
        shutil.copytree(tmp_path / "whole", tmp_path / str(attempt))
        place = chance.randrange(len(whole))
        changed = bytes([whole[place] ^ chance.randrange(1, 256)])
        (tmp_path / str(attempt) / cache.folder.name / "index.sqlite").write_bytes(
            whole[:place] + changed + whole[place + 1 :]
        )
        with PixelCache.open(tmp_path / str(attempt), RULES) as damaged:
            counts.append(check(damaged, 60))
    assert min(counts) < 60
    assert max(counts) == 60


def test_a_cache_of_another_version_is_made_anew(tmp_path):
    """A folder of another format is emptied and said, unless a run of that version has it open: that is a sentence."""
    with PixelCache.open(tmp_path, RULES) as cache:
        cache.put(key(1), drawn(1), facts(1))
    card = cache.folder / "cache.json"
    card.write_text(card.read_text().replace('"format": 2', '"format": 1'))
    with (cache.folder / "images.u8").open("r+b") as images:
        fcntl.flock(images, fcntl.LOCK_SH)
        with pytest.raises(TrainerError, match=r"in use by a run of another version .*--cache-dir"):
            PixelCache.open(tmp_path, RULES)
    with PixelCache.open(tmp_path, RULES) as cache:
        assert cache.find([key(1)]) == {}
        assert "another version" in cache.notes[0]
        cache.put(key(1), drawn(1), facts(1))
    with PixelCache.open(tmp_path, RULES) as cache:
        assert (check(cache, 3), cache.notes) == (1, ())


def test_a_killed_writer_leaves_no_wrong_pixel(tmp_path):
    """Whenever a writer is killed, what is found is right, and the next writer goes on."""
    counts = []
    for _ in range(4):
        process = writer(tmp_path, 0, 100_000)
        assert process.stdout.readline() == "open\n"
        timer = threading.Timer(random.uniform(0.005, 0.15), os.kill, (process.pid, signal.SIGKILL))
        timer.start()
        process.wait()
        timer.join()
        process.stdout.close()
        assert process.returncode == -signal.SIGKILL
        with PixelCache.open(tmp_path, RULES) as cache:
            counts.append(check(cache, 3000))
    assert counts[-1] > 0
    assert counts == sorted(counts)


def test_two_processes_write_at_once(tmp_path):
    """Two processes that open and fill one cache together, half of the keys the same, agree on every row."""
    processes = [writer(tmp_path, 0, 200), writer(tmp_path, 100, 300)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    with PixelCache.open(tmp_path, RULES) as cache:
        assert check(cache, 300) == 300
        assert len({photo.row for photo in cache.find([key(number) for number in range(300)]).values()}) == 300


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    """A cache folder that is a file is refused with the option's name."""
    (tmp_path / "file").touch()
    with pytest.raises(TrainerError, match="--cache-dir"):
        PixelCache.open(tmp_path / "file", RULES)


def test_pixels_of_another_shape_are_refused(tmp_path):
    """A row is never filled with what does not fit it."""
    with PixelCache.open(tmp_path, RULES) as cache, pytest.raises(ValueError, match="uint8"):
        cache.put(key(1), np.zeros((48, 47, 3), np.uint8), facts(1))
