import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from trainer.evaluate.metrics import figures

LABELS = ["deer", "empty", "fox", "hog"]


def random_case(seed, *, missing=None):
    chance = np.random.default_rng(seed)
    targets = chance.integers(0, 4, 40)
    if missing is not None:
        targets[targets == missing] = (missing + 1) % 4
    probabilities = chance.dirichlet(np.ones(4), 40).astype(np.float32)
    return probabilities, targets.astype(np.int64)


def awkward_case(seed):
    """Two to six classes, one to sixty images; some classes empty or of one image, some scores tied."""
    chance = np.random.default_rng(seed)
    label_count, count = int(chance.integers(2, 7)), int(chance.integers(1, 61))
    there = chance.permutation(label_count)[: int(chance.integers(1, label_count + 1))]
    targets = chance.choice(there, count)
    if seed % 3 == 0 and count > 1:
        # One image of a class, the rest of another.
        targets = np.full(count, there[0])
        targets[0] = (there[0] + 1) % label_count
    scores = chance.dirichlet(np.ones(label_count), count)
    if seed % 2:
        scores = np.round(scores * 4) + 1
        scores /= scores.sum(axis=1, keepdims=True)
    return scores.astype(np.float32), targets.astype(np.int64), [f"class {index}" for index in range(label_count)]


@pytest.mark.parametrize(
    "seeds",
    [range(100), *(pytest.param(range(start, start + 100), marks=pytest.mark.full) for start in range(100, 1000, 100))],
)
def test_figures_equal_scikit_learns(seeds):
    """In 1,000 random cases every figure is scikit-learn's own to 1e-9, also for classes empty or of one image."""
    for seed in seeds:
        probabilities, targets, labels = awkward_case(seed)
        got = figures(probabilities, targets, labels)
        predicted = probabilities.argmax(axis=1)
        there, names = np.unique(targets), range(len(labels))
        exactly = {"abs": 1e-9, "rel": 0}
        precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
            targets, predicted, labels=names, zero_division=0
        )
        assert got["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(targets, predicted), **exactly)
        assert got["balanced_accuracy"] == pytest.approx(recall[there].mean(), **exactly)
        assert got["macro_f1"] == pytest.approx(
            sklearn_metrics.f1_score(targets, predicted, labels=there, average="macro", zero_division=0), **exactly
        )
        picked = np.clip(probabilities[np.arange(len(targets)), targets].astype(np.float64), 1e-12, None)
        assert got["loss"] == pytest.approx(-np.log(picked).mean(), **exactly)
        assert got["confusion"] == sklearn_metrics.confusion_matrix(targets, predicted, labels=names).tolist()
        average_precisions = []
        for index, label in enumerate(labels):
            row = got["classes"][label]
            assert row["support"] == support[index]
            if not support[index]:
                assert (row["recall"], row["f1"], row["average_precision"]) == (None, None, None)
                continue
            expected = sklearn_metrics.average_precision_score(targets == index, probabilities[:, index])
            average_precisions.append(expected)
            assert row["average_precision"] == pytest.approx(expected, **exactly)
            assert row["recall"] == pytest.approx(recall[index], **exactly)
            assert row["f1"] == pytest.approx(f1[index], **exactly)
            if (predicted == index).any():
                assert row["precision"] == pytest.approx(precision[index], **exactly)
            else:
                assert row["precision"] is None
        assert got["mean_average_precision"] == pytest.approx(np.mean(average_precisions), **exactly)


def test_a_class_without_images_has_no_figures_and_spoils_none():
    """No NaN reaches the file: what cannot be had is null, means are over the classes that occur."""
    probabilities, targets = random_case(1, missing=2)
    got = figures(probabilities, targets, LABELS)
    fox = got["classes"]["fox"]
    assert (fox["recall"], fox["f1"], fox["average_precision"], fox["support"]) == (None, None, None, 0)
    recalls = [got["classes"][label]["recall"] for label in LABELS if label != "fox"]
    assert got["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    json.dumps(got, allow_nan=False)


def test_a_class_never_predicted_has_no_precision():
    """Precision of a class that nothing was called is null, its F1 counts as 0 in the mean."""
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]], dtype=np.float32)
    got = figures(probabilities, np.array([0, 1]), ["a", "b"])
    assert got["classes"]["b"]["precision"] is None
    assert got["classes"]["b"]["recall"] == 0
    assert got["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
