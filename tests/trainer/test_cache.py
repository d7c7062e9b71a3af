import hashlib
import os
import random
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from trainer.dataset.cache import Facts, PixelCache, rules_digest
from trainer.errors import TrainerError
from trapline.preprocessing import rules

RULES = rules(fit="stretch", image_px=48)

# A key's pixels follow from the key, so that any process can tell a wrong pixel.
WRITER = """
import hashlib, sys
from pathlib import Path
import numpy as np
from trainer.dataset.cache import Facts, PixelCache
from trapline.preprocessing import rules

with PixelCache.open(Path(sys.argv[1]), rules(fit="stretch", image_px=48)) as cache:
    print("open", flush=True)
    for number in range(int(sys.argv[2]), int(sys.argv[3])):
        key = hashlib.sha256(str(number).encode()).hexdigest()
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), np.uint8)
        facts = Facts(camera=f"camera {number}", taken="", difference_hash=number, width_px=number, height_px=1)
        cache.put(key, pixels, facts)
"""


def key(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def drawn(number):
    return np.random.default_rng(number).integers(0, 256, (48, 48, 3), np.uint8)


def facts(number):
    return Facts(camera=f"camera {number}", taken="", difference_hash=number, width_px=number, height_px=1)


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
    large = Facts(camera="Réco #1", taken="2024:01:01 00:00:00", difference_hash=2**64 - 1, width_px=9, height_px=8)
    with PixelCache.open(tmp_path, RULES) as cache:
        row = cache.put(key(1), drawn(1), large)
        cache.put_failure(key(2), "it is cut off")
    with PixelCache.open(tmp_path, RULES) as cache:
        found = cache.find([key(1), key(2), key(3)])
        assert list(found) == [key(1)]
        assert (found[key(1)].row, found[key(1)].facts) == (row, large)
        assert np.array_equal(cache.pixels([row]), drawn(1)[None])
        assert cache.failures([key(1), key(2)]) == {key(2): "it is cut off"}


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
    """Bytes that do not match their checksum, or are missing at the end, are a miss; putting again heals the row."""
    with PixelCache.open(tmp_path, RULES) as cache:
        first, last = cache.put(key(1), drawn(1), facts(1)), cache.put(key(2), drawn(2), facts(2))
        with (cache.folder / "images.u8").open("r+b") as file:
            file.seek(100)
            file.write(b"torn")
            file.truncate(2 * 48 * 48 * 3 - 1)
        assert cache.find([key(1), key(2)]) == {}
        assert cache.put(key(1), drawn(1), facts(1)) == first
        assert cache.put(key(2), drawn(2), facts(2)) == last
        assert check(cache, 3) == 2


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


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    """A disk without room names the folder and the option that chooses another one."""
    with PixelCache.open(tmp_path, RULES) as cache:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(TrainerError, match=r"No space left on device.*--cache-dir") as caught:
            cache.put(key(1), drawn(1), facts(1))
        assert str(tmp_path) in str(caught.value)
        assert cache.find([key(1)]) == {}


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    """A cache folder that is a file is refused with the option's name."""
    (tmp_path / "file").touch()
    with pytest.raises(TrainerError, match="--cache-dir"):
        PixelCache.open(tmp_path / "file", RULES)


def test_pixels_of_another_shape_are_refused(tmp_path):
    """A row is never filled with what does not fit it."""
    with PixelCache.open(tmp_path, RULES) as cache, pytest.raises(ValueError, match="uint8"):
        cache.put(key(1), np.zeros((48, 47, 3), np.uint8), facts(1))
