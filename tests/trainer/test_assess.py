"""What is told of a network's figures, by what is known of the photos; answers are drawn: there is no network."""

from types import SimpleNamespace

import numpy as np
import pytest

from trainer.data import Data
from trainer.evaluate import assess as assessing
from trainer.recipe.part import Seen
from trainer.results import _interval

LABELS = ("deer", "fox", "hog")
PARTS = ("train", "val", "test")
UNKNOWN = "as if each image were independent; bursts make it too narrow"


def assessed(monkeypatch, grouping, *, groups=None, each=80, stage="head", labels=LABELS):
    """The figures of drawn answers for `each` photos a class and part; each photo is its own group, or as given."""
    names = [f"{part}/{label}/{number}" for part in PARTS for label in labels for number in range(each)]
    photos = [SimpleNamespace(path=name, label=name.split("/")[1]) for name in names]
    parts = {name: name.split("/")[0] for name in names}
    split = SimpleNamespace(parts=parts, groups=groups or {name: name for name in names}, grouping=grouping)
    data = Data(scan=SimpleNamespace(photos=photos, labels=labels), split=split, cache=None)
    random = np.random.default_rng(0)

    def seen_by(_trained, part, *_arguments, **_options):
        features = random.normal(0, 1, (len(part.targets), 5)).astype(np.float32)
        features[np.arange(len(features)), part.targets] += 3
        return Seen(features=features, logits=2 * features[:, : len(labels)], targets=part.targets)

    monkeypatch.setattr(assessing, "seen_by", seen_by)
    trained = SimpleNamespace(data=data, plan={"features_in_bfloat16": False}, stage=stage)
    return assessing.assess(trained, target_precision=0.9, report=SimpleNamespace(progress=lambda _event: None)).metrics


def test_photos_that_no_rule_grouped_are_not_called_independent(monkeypatch):
    """With the rule `none` the figures, the calibration and the thresholds all say what their intervals are worth."""
    found = assessed(monkeypatch, "none")
    assert found["test"]["group_count"] is None
    assert found["test"]["interval_sentence"].endswith(UNKNOWN)
    assert UNKNOWN in found["test"]["ece_sentence"]
    assert UNKNOWN in found["test"]["reliability_sentence"]
    assert UNKNOWN in found["thresholds"]["interval_sentence"]
    assert "too narrow where there are bursts" in _interval(found["test"])


@pytest.mark.parametrize(("stage", "flatters"), [("head", False), ("finetune", True)])
def test_a_network_that_was_trained_on_the_class_left_out_flatters(monkeypatch, stage, flatters):
    """Of a frozen backbone nothing is said; of a fine-tuned one the sentence says that the figure is too kind."""
    sentence = assessed(monkeypatch, "file", stage=stage)["unknowns"]["sentence"]
    assert "chosen on validation; AUROC on test images with each class left out in turn, mean: " in sentence
    assert ("this flatters, since the network was trained on the class left out, too" in sentence) == flatters


@pytest.mark.parametrize("grouping", ["near_duplicate", "file"])
def test_photos_that_a_rule_found_alone_are(monkeypatch, grouping):
    """The same photos, looked at for groups: their intervals need no word."""
    found = assessed(monkeypatch, grouping)
    assert "each a group of their own" in found["test"]["interval_sentence"]
    assert "bursts" not in found["test"]["ece_sentence"]
    assert found["test"]["reliability_sentence"] is found["thresholds"]["interval_sentence"] is None
    assert "bursts" not in _interval(found["test"])
