"""What a whole run says of its own photos: planted wrong labels, planted copies across given parts."""

import csv
import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageEnhance

# A run imports torch and exports: half a minute on a quiet machine, several on a busy one.
pytestmark = pytest.mark.timeout(500)

COPIES, WRONG = 6, ("train/red/wrong0.png", "train/green/wrong1.png", "val/red/wrong2.png")


def draw(path, colour, seed):
    """A photo of one colour before a background of its own, smooth enough that a copy looks the same."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    image = Image.fromarray(blocks).resize((96, 80), Image.Resampling.BICUBIC)
    box = np.full((64, 44, 3), 20, np.uint8)
    box[..., colour] = 235
    image.paste(Image.fromarray(box), (26, 8))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(name="run", scope="module")
def _run(forked, tmp_path_factory):
    """A finished run on given parts with copies of training photos in test/ and three wrong labels; and its output."""
    return judged(forked, tmp_path_factory.mktemp("judged"), {"train": 30, "val": 8, "test": 8}, wrong=WRONG)


def judged(forked, home, counts, *, wrong=()):
    """The same of so many photos of each class in each given part."""
    photos, number = home / "photos", 0
    for part, count in counts.items():
        for colour, label in enumerate(("red", "green")):
            for _ in range(count):
                number += 1
                draw(photos / part / label / f"{number:03}.png", colour, number)
    for place, path in enumerate(wrong):
        draw(photos / path, int("red" in path), 1000 + place)
    for place in range(COPIES):
        with Image.open(photos / "train" / "red" / f"{place + 1:03}.png") as image:
            copy = ImageEnhance.Brightness(image.convert("RGB")).enhance(1.06)
        copy.save(photos / "test" / "red" / f"copy{place}.jpg", quality=90)
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), home / "weights.pth")
    command = ["run", photos, "--out", home / "run", "--backbone", "mobilenet_v3_small", "--epochs", "0"]
    command += ["--weights", home / "weights.pth", "--image-px", "32", "--cache-dir", home / "cache"]
    code, said = forked(*command)
    assert code == 0, said
    return home / "run", said


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_planted_wrong_labels_are_on_top(run):
    """Training and validation photos alike are in suspects.csv, with the label that they should have."""
    folder, _ = run
    first = {row["path"]: row for row in rows_of(folder / "suspects.csv")[: len(WRONG) + 2]}
    assert set(WRONG) <= set(first)
    for path in WRONG:
        assert (first[path]["part"], first[path]["label"]) == tuple(path.split("/")[:2])
        assert first[path]["suggested"] == {"red": "green", "green": "red"}[first[path]["label"]]


def test_planted_copies_are_all_listed_and_judged(run):
    """Each copy is in duplicates.csv with its original, and the run ends with the sentence that says so."""
    folder, said = run
    pairs = {(row["path"], row["other_path"]) for row in rows_of(folder / "duplicates.csv")}
    assert {(f"test/red/copy{place}.jpg", f"train/red/{place + 1:03}.png") for place in range(COPIES)} <= pairs
    judgement = {row["code"]: row for row in json.loads((folder / "metrics.json").read_text())["judgement"]}
    assert judgement["duplicates"]["severity"] == "serious"
    assert judgement["duplicates"]["facts"]["image_count"] >= COPIES
    assert f"serious: {judgement['duplicates']['sentence']}" in said


def test_copies_are_as_serious_where_validation_is_cut_from_train(forked, tmp_path):
    """Given train/ and test/ alone: each copy is listed, with its original in train or val, and is no similar view."""
    folder, said = judged(forked, tmp_path, {"train": 38, "test": 8})
    rows = {(row["path"], row["other_path"]): row for row in rows_of(folder / "duplicates.csv")}
    for place in range(COPIES):
        assert rows[f"test/red/copy{place}.jpg", f"train/red/{place + 1:03}.png"]["given"] == "True"
    judgement = {row["code"]: row for row in json.loads((folder / "metrics.json").read_text())["judgement"]}
    assert judgement["duplicates"]["severity"] == "serious"
    assert judgement["duplicates"]["facts"]["image_count"] >= COPIES
    assert "similar_views" not in judgement
    assert f"serious: {judgement['duplicates']['sentence']}" in said


def test_out_of_fold_answers_are_of_every_photo(run):
    """Each photo of each part is answered once; the figures in metrics.json are of the training photos alone."""
    folder, _ = run
    metrics = json.loads((folder / "metrics.json").read_text())
    counts = metrics["split"]["image_counts"]
    assert metrics["suspects"]["asked_image_count"] == sum(counts.values())
    assert metrics["out_of_fold"]["image_count"] == counts["train"]
    assert 0.5 < metrics["out_of_fold"]["accuracy"] < 1
    assert metrics["suspects"]["image_count"] == len(rows_of(folder / "suspects.csv"))
    assert metrics["split"]["class_counts"]["test"] == {"green": 8, "red": 8 + COPIES}


def test_groups_that_given_parts_tear_apart_are_counted(run):
    """The sentence about the split says how many groups lie in two parts."""
    folder, said = run
    reach = {}
    for row in rows_of(folder / "split.csv"):
        reach.setdefault(row["group"], set()).add(row["part"])
    torn = sum(len(parts) > 1 for parts in reach.values())
    assert torn >= COPIES
    sentence = json.loads((folder / "metrics.json").read_text())["split"]["sentence"]
    assert sentence.endswith(f"{torn} of them in two parts")
    assert sentence in said
