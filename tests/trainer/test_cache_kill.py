"""The cache under kill -9 and under several processes: real scans of real files, in processes of their own."""

import hashlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from trainer.dataset.cache import PixelCache
from trainer.dataset.layout import find_files
from trainer.dataset.scan import scan
from trapline.preprocessing import load_image, rules

RULES = rules(fit="stretch", image_px=32)
PHOTOS = 900

SCAN = """
import sys
from pathlib import Path
from trainer.dataset.cache import PixelCache
from trainer.dataset.scan import scan
from trapline.preprocessing import rules

rules = rules(fit="stretch", image_px=32)
print(-1, flush=True)
with PixelCache.open(Path(sys.argv[2]), rules) as cache:
    tell = lambda done, _: print(done, flush=True)
    result = scan(Path(sys.argv[1]), preprocessing=rules, cache=cache, threads=2, report=tell)
    pixels = cache.pixels([photo.cache_row for photo in result.photos])
print(len(result.photos), int(pixels.sum()))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """JPEGs of two classes, each of its own colours."""
    root = tmp_path_factory.mktemp("data")
    for number in range(PHOTOS):
        folder = root / ("deer" if number % 2 else "fox")
        folder.mkdir(exist_ok=True)
        blocks = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
        Image.fromarray(blocks).resize((160, 120)).save(folder / f"{number}.jpg", quality=80)
    return root


@pytest.fixture(scope="module")
def decoded(data):
    """Path to what the photo's pixels are."""
    return {file.path: load_image((data / file.path).read_bytes(), RULES) for file in find_files(data).files}


def start(data, cache):
    return subprocess.Popen([sys.executable, "-c", SCAN, str(data), str(cache)], stdout=subprocess.PIPE, text=True)


def found_in(cache_folder, data, decoded):
    """How many photos the cache has; each is compared with what decoding its file gives."""
    sha256_of = {path: hashlib.sha256((data / path).read_bytes()).hexdigest() for path in decoded}
    with PixelCache.open(cache_folder, RULES) as cache:
        found = cache.find(list(sha256_of.values()))
        for path, sha256 in sha256_of.items():
            if sha256 in found:
                assert np.array_equal(cache.pixels([found[sha256].row])[0], decoded[path])
        assert cache.notes == ()
    return len(found)


def finish(cache_folder, data, decoded):
    """A scan that nobody disturbs: every photo of it has its own pixels."""
    with PixelCache.open(cache_folder, RULES) as cache:
        photos = scan(data, preprocessing=RULES, cache=cache, threads=2, report=lambda *_: None).photos
        pixels = cache.pixels([photo.cache_row for photo in photos])
    assert len(photos) == PHOTOS
    for photo, array in zip(photos, pixels, strict=True):
        assert np.array_equal(array, decoded[photo.path])


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.full)])
def test_a_scan_killed_at_any_moment_leaves_no_wrong_pixel(data, decoded, tmp_path, kills):
    """Killed at random moments, from before the cache is made to after it is full: what is there is right."""
    counts = []
    chance = random.Random(kills)
    for attempt in range(kills):
        process = start(data, tmp_path)
        moment = int(PHOTOS * (attempt + chance.random()) / kills) if attempt else -1
        while int(process.stdout.readline() or PHOTOS) < moment:
            pass
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.communicate()
        counts.append(found_in(tmp_path, data, decoded))
    assert counts == sorted(counts)
    assert any(0 < count < PHOTOS for count in counts)
    finish(tmp_path, data, decoded)
    assert found_in(tmp_path, data, decoded) == PHOTOS


def test_two_scans_fill_one_cache_at_once(data, decoded, tmp_path):
    """Both end with every photo's pixels, and the cache holds each photo once, with few rows to spare."""
    processes = [start(data, tmp_path) for _ in range(2)]
    said = [process.communicate()[0].splitlines()[-1] for process in processes]
    expected = sum(int(array.sum()) for array in decoded.values())
    assert said == [f"{PHOTOS} {expected}"] * 2
    assert found_in(tmp_path, data, decoded) == PHOTOS
    (images,) = tmp_path.glob("*/images.u8")
    assert images.stat().st_size < (PHOTOS + 200) * 32 * 32 * 3
