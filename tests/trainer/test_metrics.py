import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from trainer.evaluate.metrics import figures, wilson_interval

LABELS = ["deer", "empty", "fox", "hog"]


def random_case(seed, *, missing=None):
    chance = np.random.default_rng(seed)
    targets = chance.integers(0, 4, 40)
    if missing is not None:
        targets[targets == missing] = (missing + 1) % 4
    probabilities = chance.dirichlet(np.ones(4), 40).astype(np.float32)
    return probabilities, targets.astype(np.int64)


@pytest.mark.parametrize("seed", range(20))
def test_figures_equal_scikit_learns(seed):
    """Accuracy, balanced accuracy, macro F1, per-class figures and the matrix are scikit-learn's own."""
    probabilities, targets = random_case(seed)
    got = figures(probabilities, targets, LABELS)
    predicted = probabilities.argmax(axis=1)
    assert got["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(targets, predicted), abs=1e-12)
    assert got["balanced_accuracy"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(targets, predicted))
    assert got["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(targets, predicted, average="macro"))
    assert got["loss"] == pytest.approx(sklearn_metrics.log_loss(targets, probabilities, labels=range(4)), abs=1e-6)
    assert got["confusion"] == sklearn_metrics.confusion_matrix(targets, predicted, labels=range(4)).tolist()
    for index, label in enumerate(LABELS):
        expected = sklearn_metrics.average_precision_score(targets == index, probabilities[:, index])
        assert got["classes"][label]["average_precision"] == pytest.approx(expected)


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


@pytest.mark.parametrize(
    ("right", "count", "low", "high"), [(95, 100, 0.8882, 0.9785), (10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775)]
)
def test_wilson_interval_is_the_published_one(right, count, low, high):
    """Known values of the Wilson score interval."""
    assert wilson_interval(right, count) == pytest.approx([low, high], abs=5e-4)
