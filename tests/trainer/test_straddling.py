import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from trainer.dataset.difference_hash import difference_hash
from trainer.dataset.near_duplicates import MAX_BITS
from trainer.dataset.photo import Photo
from trainer.dataset.scan import Scan
from trainer.dataset.split import split
from trainer.dataset.straddling import straddling


def photo(path, value, part=""):
    return Photo(
        path=path,
        label=path.split("/")[0],
        part=part,
        sha256=path,
        camera="",
        taken="",
        difference_hash=value,
        cache_row=0,
    )


def unseen(_positions):
    raise AssertionError("no pixels are needed")


def alone(photos):
    return {one.path: one.path for one in photos}


def scene(seed):
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return Image.fromarray(blocks).resize((320, 240), Image.Resampling.BICUBIC)


def copy_of(image, *, quality, brightness, cut):
    """The photo cropped by `cut` px at each edge, brightened, and through JPEG."""
    cropped = image.crop((cut, cut, image.width - cut, image.height - cut))
    file = io.BytesIO()
    ImageEnhance.Brightness(cropped).enhance(brightness).save(file, "JPEG", quality=quality)
    return Image.open(file)


def hash_of(image):
    return difference_hash(np.asarray(image.resize((224, 224)).convert("RGB")))


@pytest.mark.parametrize(
    "changes",
    [
        {"quality": 50, "brightness": 1.0, "cut": 0},
        {"quality": 90, "brightness": 1.1, "cut": 0},
        {"quality": 90, "brightness": 1.0, "cut": 1},
        {"quality": 75, "brightness": 1.05, "cut": 1},
    ],
    ids=["re-encoded", "brightened", "cropped", "all"],
)
def test_planted_copies_are_all_found(changes):
    """Of 30 photos to train on a changed copy lies among 60 test photos: each copy is listed with its original."""
    photos = [photo(f"deer/train{number:02}.jpg", hash_of(scene(number))) for number in range(30)]
    photos += [photo(f"deer/copy{number:02}.jpg", hash_of(copy_of(scene(number), **changes))) for number in range(30)]
    photos += [photo(f"deer/other{number:02}.jpg", hash_of(scene(100 + number))) for number in range(30)]
    parts = {one.path: "train" if "train" in one.path else "test" for one in photos}
    found = straddling(photos, parts, alone(photos), pixels=unseen)
    assert {(one.path, one.other_path) for one in found} == {
        (f"deer/copy{number:02}.jpg", f"deer/train{number:02}.jpg") for number in range(30)
    }
    assert all((one.part, one.other_part) == ("test", "train") and one.distance <= MAX_BITS for one in found)


def test_each_photo_has_its_nearest_in_each_other_part():
    """Test before validation; a test photo with repeats in both other parts has two rows, each of the nearest one."""
    photos = [
        photo("a/0", 0xFF00),
        photo("a/1", 0xFF07),
        photo("a/2", 0xFF03),
        photo("a/3", 0xFF1F),
        photo("a/4", 0xFF << 40),
    ]
    parts = {"a/0": "test", "a/1": "train", "a/2": "train", "a/3": "val", "a/4": "val"}
    rows = [(one.path, one.other_path, one.distance) for one in straddling(photos, parts, alone(photos), pixels=unseen)]
    assert rows == [("a/0", "a/2", 2), ("a/0", "a/3", 5), ("a/3", "a/1", 2)]


def test_flat_photos_and_distant_links_of_a_chain_repeat_nobody():
    """Hash 0 is compared with none; the ends of a chain, more than five bits apart, are no near duplicates."""
    photos = [photo("a/0", 0), photo("a/1", 0), photo("a/2", 0b1), photo("a/3", 0b1111), photo("a/4", 0b1111111)]
    parts = {"a/0": "test", "a/1": "train", "a/2": "test", "a/3": "test", "a/4": "train"}
    assert [(one.path, one.other_path) for one in straddling(photos, parts, alone(photos), pixels=unseen)] == [
        ("a/3", "a/4")
    ]
    assert straddling([photo("a/0", 7)], {"a/0": "test"}, {"a/0": "a/0"}, pixels=unseen) == []


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 100))
def test_a_split_of_ours_has_none(seed, split_seed):
    """Bursts of near duplicates, chains among them, that Trapline divides itself never straddle."""
    chance, photos = np.random.default_rng(seed), []
    for burst in range(40):
        value = int(chance.integers(1, 2**63))
        for number in range(int(chance.integers(1, 4))):
            photos.append(photo(f"class{burst % 2}/{burst:02}-{number}.jpg", value))
            for bit in chance.choice(63, 3, replace=False).tolist():
                value ^= 1 << bit
    ordered = tuple(sorted(photos, key=lambda one: one.path))
    scanned = Scan(root=Path("data"), labels=("class0", "class1"), photos=ordered, rejected=())
    result = split(scanned, val_share=0.15, test_share=0.15, seed=split_seed, group_by="auto", groups_file=None)
    assert result.rule == "near_duplicate"
    assert set(Counter(result.parts.values())) == {"train", "val", "test"}
    assert straddling(ordered, result.parts, result.groups, pixels=unseen) == []


def test_a_pair_says_whether_it_is_of_one_group():
    """Repeats that the grouping put together are told from views that it put apart."""
    photos = [photo("a/0", 7), photo("a/1", 7), photo("a/2", 7 << 30), photo("a/3", 7 << 30)]
    parts = {"a/0": "test", "a/1": "train", "a/2": "test", "a/3": "train"}
    groups = {"a/0": "burst", "a/1": "burst", "a/2": "visit1", "a/3": "visit2"}
    assert [(one.path, one.same_group) for one in straddling(photos, parts, groups, pixels=unseen)] == [
        ("a/0", True),
        ("a/2", False),
    ]


def test_between_given_parts_pixels_decide_where_hashes_are_not_near():
    """Hashes six to twelve bits apart: the same picture is found, another one is not, nor the same one farther away."""
    pictures = np.stack([np.asarray(scene(seed).resize((64, 64))) for seed in (1, 2, 1, 3, 1)])
    paths = ("train/a/0", "train/a/1", "test/a/2", "test/a/3", "test/a/4")
    values = (0xFF, 0xFE, 0xFF ^ 0x3F00, 0xFF ^ 0x3F0000, 0xFF ^ 0x1FFF000000)
    photos = [photo(path, value, path.split("/")[0]) for path, value in zip(paths, values, strict=True)]
    parts = {one.path: one.part for one in photos}
    found = straddling(photos, parts, alone(photos), pixels=lambda rows: pictures[list(rows)])
    assert [(one.path, one.other_path, one.distance) for one in found] == [("test/a/2", "train/a/0", 6)]


def test_a_copy_of_a_photo_that_was_cut_out_of_train_is_found():
    """Given train/ and test/, one original goes to val: both copies are found and are between given parts."""
    pictures = np.stack([np.asarray(scene(seed).resize((64, 64))) for seed in (1, 2, 1, 2)])
    paths = ("train/a/0", "train/a/1", "test/a/2", "test/a/3")
    values = (0xFF, 0xFF << 32, 0xFF ^ 0x3F00, 0xFF << 32 ^ 0x3F)
    photos = [photo(path, value, path.split("/")[0]) for path, value in zip(paths, values, strict=True)]
    parts = {one.path: one.part for one in photos} | {"train/a/1": "val"}
    found = straddling(photos, parts, alone(photos), pixels=lambda rows: pictures[list(rows)])
    assert [(one.path, one.other_path, one.other_part, one.given) for one in found] == [
        ("test/a/2", "train/a/0", "train", True),
        ("test/a/3", "train/a/1", "val", True),
    ]


def test_what_was_cut_from_one_folder_is_not_compared_by_pixels():
    """Where val is cut from train/, hashes far apart are not compared, and near ones are not between given parts."""
    photos = [photo("train/a/0", 0xFF, "train"), photo("train/a/1", 0xFF ^ 0x3F00, "train")]
    photos += [photo("train/a/2", 0xFF ^ 0b1, "train")]
    parts = {"train/a/0": "train", "train/a/1": "val", "train/a/2": "val"}
    found = straddling(photos, parts, alone(photos), pixels=unseen)
    assert [(one.path, one.given) for one in found] == [("train/a/2", False)]


def bars(*, cut=0.0):
    """A facade: bright windows in rows and columns of an uneven pitch of about 17 px, `cut` of each edge cut off."""
    heights, widths = (np.cumsum(np.random.default_rng(seed).integers(6, 12, 60)) for seed in (7, 8))
    there = [np.searchsorted(edges, np.arange(224), side="right") % 2 for edges in (heights, widths)]
    image = Image.fromarray((90 + 130 * np.outer(*there)).astype(np.uint8)).convert("RGB")
    box = (cut * 224, cut * 224, (1 - cut) * 224, (1 - cut) * 224)
    return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box=box))


def night(*, horizon):
    """Dark above and light below, where the flash reaches."""
    rows = np.clip(np.arange(224) - horizon, 0, None)[:, None]
    across = 1 - np.abs(np.linspace(-1, 1, 224)) ** 2 * (horizon / 224)
    return np.repeat((rows * across).clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def test_a_copy_of_a_facade_is_found_and_another_night_photo_is_not():
    """Fine bars slide out of the cells where 1 or 2 % are cut off either photo; that makes no alarm here."""
    pictures = np.stack([bars(), night(horizon=46), bars(cut=0.012), night(horizon=100), bars(cut=0.02)])
    paths = ("train/a/0", "train/a/1", "test/a/2", "test/a/3", "test/a/4")
    values = (0xFF, 0xFF << 32, 0xFF ^ 0x3F00, 0xFF << 32 ^ 0x3F, 0xFF ^ 0x3F0000)
    photos = [photo(path, value, path.split("/")[0]) for path, value in zip(paths, values, strict=True)]
    parts = {one.path: one.part for one in photos}
    found = straddling(photos, parts, alone(photos), pixels=lambda rows: pictures[list(rows)])
    assert [(one.path, one.other_path) for one in found] == [("test/a/2", "train/a/0"), ("test/a/4", "train/a/0")]
