"""Figures from probabilities and true classes, by scikit-learn, with intervals; never NaN."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support


def wilson_interval(right: int, count: int) -> list[float]:
    """The 95 % Wilson score interval of a share, [low, high].

    Holds for images that are independent of each other; photos of one burst are not, so it is then too narrow.
    Source: Wilson (1927), by scipy.stats.
    """
    interval = binomtest(right, count).proportion_ci(confidence_level=0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def figures(probabilities: NDArray[np.float32], targets: NDArray[np.int64], labels: Sequence[str]) -> dict[str, Any]:
    """The figures of a set of images, as JSON values.

    Args:
        probabilities: Softmax probabilities, float32 [images, labels].
        targets: True class of each image, int64 [images], in [0, labels).
        labels: The classes' ids, in output order.

    Returns:
        `image_count`, `accuracy`, `accuracy_interval`, `balanced_accuracy` (mean recall of the classes that occur),
        `macro_f1` (likewise), `loss` (mean cross-entropy, nats), `classes.<label>.{precision, recall, f1,
        average_precision, support}` and `confusion` (rows true, columns predicted, counts). A figure that cannot be
        had (recall of a class without images, precision of one never predicted) is None.
    """
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == targets).sum())
    indices = np.arange(len(labels))
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=indices, zero_division=np.nan
    )
    present = support > 0
    picked = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    classes = {
        label: {
            "precision": _number(precision[index]),
            "recall": _number(recall[index]),
            "f1": _number(f1[index]) if present[index] else None,
            "average_precision": _average_precision(probabilities[:, index], targets == index),
            "support": int(support[index]),
        }
        for index, label in enumerate(labels)
    }
    return {
        "image_count": len(targets),
        "accuracy": right / len(targets),
        "accuracy_interval": wilson_interval(right, len(targets)),
        "balanced_accuracy": float(recall[present].mean()),
        "macro_f1": float(np.nan_to_num(f1[present]).mean()),
        "loss": float(-np.log(np.clip(picked, 1e-12, None)).mean()),
        "classes": classes,
        "confusion": confusion_matrix(targets, predicted, labels=indices).tolist(),
    }


def _average_precision(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float | None:
    return float(average_precision_score(positive, scores)) if positive.any() else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
