"""Figures from probabilities and true classes, by scikit-learn, with intervals; never NaN."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

from .intervals import intervals


def figures(
    probabilities: NDArray[np.float32],
    targets: NDArray[np.int64],
    labels: Sequence[str],
    *,
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """The figures of a set of images, as JSON values.

    Args:
        probabilities: Softmax probabilities, float32 [images, labels].
        targets: True class of each image, int64 [images], in [0, labels).
        labels: The classes' ids, in output order.
        groups: Group of each image, int64 [images]; None where nothing is known of them.

    Returns:
        `image_count`, `group_count`, `accuracy`, `balanced_accuracy` (mean recall of the classes that occur),
        `macro_f1` and `mean_average_precision` (likewise), `loss` (mean cross-entropy, nats),
        `classes.<label>.{precision, recall, f1, average_precision, support}` and `confusion` (rows true, columns
        predicted, counts); beside a figure its 95 % interval as `<figure>_interval`, and `interval_method` and
        `interval_sentence` of `intervals`. A figure that cannot be had (recall of a class without images, precision of
        one never predicted) is None.
    """
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == targets).sum())
    indices = np.arange(len(labels))
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=indices, zero_division=np.nan
    )
    present = support > 0
    picked = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    found = intervals(targets, predicted, groups, label_count=len(labels))
    classes = {
        label: {
            "precision": _number(precision[index]),
            "precision_interval": found.precision[index],
            "recall": _number(recall[index]),
            "recall_interval": found.recall[index],
            "f1": _number(f1[index]) if present[index] else None,
            "average_precision": _average_precision(probabilities[:, index], targets == index),
            "support": int(support[index]),
        }
        for index, label in enumerate(labels)
    }
    precisions = [row["average_precision"] for row in classes.values() if row["average_precision"] is not None]
    return {
        "image_count": len(targets),
        "group_count": None if groups is None else len(np.unique(groups)),
        "accuracy": right / len(targets),
        "accuracy_interval": found.accuracy,
        "balanced_accuracy": float(recall[present].mean()),
        "balanced_accuracy_interval": found.balanced_accuracy,
        "macro_f1": float(np.nan_to_num(f1[present]).mean()),
        "macro_f1_interval": found.macro_f1,
        "mean_average_precision": float(np.mean(precisions)),
        "loss": float(-np.log(np.clip(picked, 1e-12, None)).mean()),
        "interval_method": found.method,
        "interval_sentence": found.sentence,
        "classes": classes,
        "confusion": confusion_matrix(targets, predicted, labels=indices).tolist(),
    }


def _average_precision(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float | None:
    return float(average_precision_score(positive, scores)) if positive.any() else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
