"""What a run's photos are drawn into, on drawn photos and a network of a few numbers."""

import json
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from trainer.backbone import Backbone
from trainer.data import Data
from trainer.dataset.cache import PixelCache
from trainer.dataset.scan import scan
from trainer.dataset.split import split
from trainer.report.answers import slugs
from trainer.report.pictures import write_pictures
from trainer.report.rebuild import read_probabilities
from trapline import preprocessing

RULES = preprocessing.rules(fit="stretch", image_px=32)
QUIET = SimpleNamespace(say=lambda _sentence: None, progress=lambda _event: None)
CPU = torch.device("cpu")


def colour_network(labels=3):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, labels),
    )  # fmt: skip
    return Backbone(name="small", network=network, head_path="6", mean=(0.5,) * 3, std=(0.5,) * 3, pretrained=False)


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory, draw):
    home = tmp_path_factory.mktemp("pictures")
    with ExitStack() as caches:
        cache = caches.enter_context(PixelCache.open(home / "cache", RULES))
        found = scan(
            draw(home / "photos", count=40),
            preprocessing=RULES,
            cache=cache,
            threads=1,
            report=lambda _done, _total: None,
        )
        parts = split(found, val_share=0.1, test_share=0.4, seed=0, group_by="none", groups_file=None)
        yield Data(scan=found, split=parts, cache=cache)


def answers(data, *, seed=0):
    """Mostly right answers, some sure and wrong."""
    chance = np.random.default_rng(seed)
    targets = data.targets(data.positions("test"))
    rows = chance.dirichlet(np.ones(3), len(targets)).astype(np.float32)
    right = chance.random(len(targets)) < 0.7
    rows[right, targets[right]] += 1
    return rows / rows.sum(axis=1, keepdims=True)


def written(data, folder, **more):
    return write_pictures(colour_network(), data, {"test": answers(data)}, folder, device=CPU, report=QUIET, **more)


def test_every_picture_is_there_and_says_what_is_on_it(data, tmp_path):
    """Each file named in `pictures.json` is a PNG with a title and a sentence; no other picture lies in `plots/`."""
    told = written(data, tmp_path)
    assert json.loads((tmp_path / "pictures.json").read_text()) == told
    kinds = [picture["kind"] for picture in told["pictures"]]
    assert kinds == ["sample", "predictions", "top_losses", *["best", "worst"] * 3, "grad_cam", "feature_maps"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "model_summary.txt", "sample.png", "predictions.png", "top_losses.png", "grad_cam.png", "feature_maps.png",
        "best_blue.png", "best_green.png", "best_red.png", "worst_blue.png", "worst_green.png", "worst_red.png",
    }  # fmt: skip
    for picture in told["pictures"]:
        with Image.open(tmp_path / picture["file"]) as image:
            image.load()
            assert (image.format, min(image.size) > 200) == ("PNG", True)
            assert not image.info
        assert picture["title"]
        assert picture["sentence"].endswith(".")
        assert picture["photos"]


def test_the_entries_are_the_photos_answers(data, tmp_path):
    """Path, truth, prediction and scores of each photo are those of the split and of the probabilities."""
    told = written(data, tmp_path)
    probabilities, positions = answers(data), data.positions("test")
    row = {data.scan.photos[position].path: number for number, position in enumerate(positions)}
    labels = data.scan.labels
    for picture in told["pictures"]:
        for photo in picture["photos"]:
            assert photo["path"].startswith(f"{photo['true']}/")
            if picture["kind"] == "sample":
                assert data.split.parts[photo["path"]] == "train"
                continue
            scores = probabilities[row[photo["path"]]]
            assert photo["predicted"] == labels[scores.argmax()]
            assert photo["score"] == pytest.approx(scores.max())
            assert photo["true_score"] == pytest.approx(scores[labels.index(photo["true"])])
    of = {(picture["kind"], picture.get("label")): picture["photos"] for picture in told["pictures"]}
    assert len(of["best", "red"]) == len(of["worst", "red"]) == 10
    assert all(photo["predicted"] == photo["true"] == "red" for photo in of["best", "red"])
    assert all(photo["true"] == "red" for photo in of["worst", "red"])
    least = [photo["true_score"] for photo in of["top_losses", None]]
    assert least == sorted(least)
    assert [photo["path"] for photo in of["grad_cam", None]] == [photo["path"] for photo in of["top_losses", None]][:10]
    assert {photo["true"] for photo in of["feature_maps", None]} == set(labels)


def test_the_figures_of_the_layers_are_told(data, tmp_path):
    """Shares of each depth over the test photos, and the table of layers as JSON and as text."""
    told = written(data, tmp_path, head_only=True)
    assert [row["layer"] for row in told["non_zero_shares"]] == ["1", "3"]
    assert all(0 < row["share"] < 1 for row in told["non_zero_shares"])
    assert told["non_zero_image_count"] == len(data.positions("test"))
    assert "never exactly zero" not in told["non_zero_sentence"]
    summary = told["model_summary"]
    assert summary["parameter_count"] == 3 * 8 * 9 + 8 + 8 * 8 * 9 + 8 + 8 * 3 + 3
    assert summary["trainable_count"] == 8 * 3 + 3
    text = (tmp_path / "plots" / "model_summary.txt").read_text()
    assert "Conv2d" in text
    assert f"parameters: {summary['parameter_count']:,}" in text
    assert len(text.splitlines()) == 2 + len(summary["rows"]) + 3


def test_without_images_no_photo_and_no_name_is_left(data, tmp_path):
    """The same shares and summary, no picture, no path; and pictures of an earlier time are taken away."""
    with_photos = written(data, tmp_path)
    (tmp_path / "plots" / "curves.png").write_bytes(b"a figure")
    told = written(data, tmp_path, images=False)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["curves.png", "model_summary.txt"]
    assert told["pictures"] == []
    assert ".png" not in (tmp_path / "pictures.json").read_text()
    for key in ("non_zero_shares", "model_summary", "non_zero_image_count"):
        assert told[key] == with_photos[key]


def test_the_same_run_gives_the_same_bytes(data, tmp_path):
    """Samples are seeded, files hold no time: made again, every picture is the same; another seed, another sample."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        written(data, tmp_path / name, seed=seed)
    first, second, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "plots").iterdir()} for name in "abc"
    )
    assert first == second
    assert {name for name in first if first[name] != other[name]} == {"sample.png", "predictions.png"}


def test_what_cannot_be_shown_is_said(data, tmp_path):
    """A class that is never right has no best sheet, a network without maps no Grad-CAM; each with a sentence."""
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    network = Backbone(name="flat", network=flat, head_path="1", mean=(0,) * 3, std=(1,) * 3, pretrained=False)
    never_blue = np.tile(np.array([[0.0, 0.6, 0.4]], np.float32), (len(data.positions("test")), 1))
    told = write_pictures(network, data, {"test": never_blue}, tmp_path, device=CPU, report=QUIET)
    kinds = [picture["kind"] for picture in told["pictures"]]
    assert kinds == ["sample", "predictions", "top_losses", "worst", "best", "worst", "worst"]
    assert told["non_zero_shares"] == []
    assert any("no test photo of blue was right" in note for note in told["notes"])
    assert any("no Grad-CAM: flat" in note for note in told["notes"])


def test_slugs_are_safe_and_all_different():
    """Whatever folders are called: letters, digits, `_` and `-` alone, short, no two alike, plain names as they are."""
    labels = [
        "red fox",
        "Red Fox",
        "..",
        "é",
        "è",
        "",
        "a/b",
        "\udc80",
        "con",
        "x" * 300,
        "x" * 301,
        "fox_2",
        "red-fox-2",
    ]
    made = slugs(labels)
    assert len(set(made)) == len(labels)
    assert all(set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") and 0 < len(slug) <= 48 for slug in made)
    assert slugs(["deer", "fox"]) == ["deer", "fox"]
    assert made[:2] == ["red-fox", "red-fox-2"]


def test_probabilities_are_read_again(data, tmp_path):
    """`predictions.csv` gives a part's rows in the order of its photos; a missing photo or file is a sentence."""
    from trainer.errors import UsageError

    names = [data.scan.photos[position].path for position in data.positions("test")]
    lines = [f"{name},test,x,x,0.5,0.9,0.{number:03},0.1,0.2" for number, name in enumerate(names)]
    header = "path,part,label,predicted,score,unknown_score,probability_blue,probability_green,probability_red"
    path = tmp_path / "predictions.csv"
    path.write_text("\n".join([header, *reversed(lines)]) + "\n")
    rows = read_probabilities(path, data, "test")
    assert rows.dtype == np.float32
    assert rows[:, 0].tolist() == pytest.approx([number / 1000 for number in range(len(names))])
    path.write_text("\n".join([header, *lines[1:]]) + "\n")
    with pytest.raises(UsageError, match="has no answers for the run's test photos"):
        read_probabilities(path, data, "test")
    with pytest.raises(UsageError, match="has no answers for the run's test photos"):
        read_probabilities(tmp_path / "absent.csv", data, "test")
