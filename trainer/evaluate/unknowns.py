"""How unlike all classes an image is: two measures, compared by leaving each class out, and the better one.

`max_softmax`: one less the best class's probability (Hendrycks and Gimpel 2017). `nearest_class_mean`: the cosine
distance of the features, in standard deviations, to the nearest class's mean (arXiv 2506.06719 for wildlife, there
without scaling).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

    from ..recipe.part import Seen

Method = Literal["nearest_class_mean", "max_softmax"]
METHODS: tuple[Method, ...] = ("nearest_class_mean", "max_softmax")
#: Share of validation images of known classes whose score is at most 1.
KEPT_SHARE = 0.95
#: Training images of a class that means and heads are made of, at most.
MOST_OF_A_CLASS = 40
#: Classes that are left out in turn, at most: each costs a head over all others.
MOST_LEFT_OUT = 40
_WORDS = {"nearest_class_mean": "distance to the nearest class mean", "max_softmax": "one less the best score"}
_STRENGTH = 0.01
_SHORTEST = 1e-12
# Both measures are one less a float32 near 1, rounded to 6e-8: by a smaller unit the file's rounding would be a score.
_SMALLEST_UNIT = 1e-4


@dataclass(frozen=True, kw_only=True)
class Means:
    """Features of training images, as distances need them.

    Attributes:
        centre: Mean of all features, float32 [features].
        scale: Their standard deviation, float32 [features].
        classes: Direction of the mean of each class's standardised features, float32 [labels, features], of length 1.
    """

    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    classes: NDArray[np.float32]

    def distances(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """One less the cosine of each image's standardised features and each class's mean, float32 [images, labels]."""
        values = _directions((features - self.centre) / self.scale)
        distances: NDArray[np.float32] = (1 - values @ self.classes.T).astype(np.float32)
        return distances


def class_means(features: NDArray[np.float32], targets: NDArray[np.int64], *, label_count: int) -> Means:
    """The means of training images' features, float32 [images, features]; every class occurs."""
    centre, scale = features.mean(axis=0), features.std(axis=0)
    # A feature that never changes says nothing and must not be blown up.
    scale = np.where(scale > 1e-6 * max(1e-12, float(scale.max())), scale, np.inf)
    values = (features - centre) / scale
    classes = _directions(np.stack([values[targets == label].mean(axis=0) for label in range(label_count)]))
    scale = np.where(np.isinf(scale), np.float32(1e12), scale)
    return Means(centre=centre.astype(np.float32), scale=scale.astype(np.float32), classes=classes.astype(np.float32))


def _directions(values: NDArray[np.float32]) -> NDArray[np.float32]:
    directions: NDArray[np.float32] = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), _SHORTEST)
    return directions


@dataclass(frozen=True, kw_only=True)
class Unknowns:
    """How an image's unknown score is made.

    Attributes:
        method: The measure that told left-out classes better, on average over the classes.
        unit: What its raw value is divided by: `KEPT_SHARE` of the validation images have a score of at most 1 then.
        means: For distances; None where the measure needs none.
        auroc: Of each method and class left out, on validation images; None where it cannot be had or was not
            measured, empty with two classes.
        test_auroc: The same on test images.
    """

    method: Method
    unit: float
    means: Means | None
    auroc: Mapping[Method, Sequence[float | None]]
    test_auroc: Mapping[Method, Sequence[float | None]]

    def scores(self, probabilities: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unknown score of each image, float32 [images]: 0 and more; above 1 it is likely of no class.

        Args:
            probabilities: Softmax probabilities as they are served, float32 [images, labels].
            features: What the head sees, float32 [images, features].
        """
        return (_raw(self.method, probabilities, features, self.means) / self.unit).astype(np.float32)

    def facts(self, labels: Sequence[str], *, fine_tuned: bool) -> dict[str, Any]:
        """The JSON values of `metrics.json`.

        Args:
            labels: The classes.
            fine_tuned: Whether the backbone was trained on them, on those left out too.
        """
        means = {method: mean_of(self.auroc[method]) for method in METHODS}
        test_means = {method: mean_of(self.test_auroc[method]) for method in METHODS}
        return {
            "method": self.method,
            "threshold": 1.0,
            "kept_share": KEPT_SHARE,
            "auroc": test_means,
            "validation_auroc": means,
            "classes": {
                label: {
                    method: self.test_auroc[method][index] if self.test_auroc[method] else None for method in METHODS
                }
                for index, label in enumerate(labels)
            },
            "sentence": f"the file tells unknowns by {_WORDS[self.method]}{self._measured(test_means, fine_tuned)}; "
            f"above 1 lie {1 - KEPT_SHARE:.0%} of the known validation images",
        }

    def _measured(self, means: Mapping[Method, float | None], fine_tuned: bool) -> str:
        """How the method was chosen and how good it is, as the middle of a sentence."""
        if not self.auroc[self.method]:
            return "; of two classes none can be left out, so nothing was measured and nothing chosen"
        shown = ", ".join(
            f"{_WORDS[method]} {'not measured' if mean is None else f'{mean:.2f}'}" for method, mean in means.items()
        )
        count = len(self.auroc[self.method])
        which = "each class" if count <= MOST_LEFT_OUT else f"each of {MOST_LEFT_OUT} of the {count} classes"
        flatters = "; this flatters, since the network was trained on the class left out, too" if fine_tuned else ""
        return (
            f", chosen on validation; AUROC on test images with {which} left out in turn, mean: {shown} (0.5 is "
            f"chance, 1 perfect){flatters}"
        )


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there; None where none is."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def find_unknowns(
    training: "Seen",
    validation: "Seen",
    test: "Seen",
    probabilities: NDArray[np.float32],
    *,
    label_count: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Unknowns:
    """Compares the two measures by leaving each class out, and makes the better one ready.

    A class is left out of the means, and out of a head fitted anew on the same training features; of many classes
    `MOST_LEFT_OUT` are, spread evenly. The backbone is the one that was trained, with all classes where it was
    fine-tuned: what it tells apart is then measured too kindly.

    Args:
        training: At most `MOST_OF_A_CLASS` images of each class; every class occurs.
        validation: What the choice is made on.
        test: What the choice is reported on.
        probabilities: Of validation as they are served, float32 [images, labels]; the score's unit is of these.
        label_count: Number of classes.
        progress: Told how many classes were left out, of how many.
    """
    # Of two classes one is left: nothing to be unsure between, and no direction from the middle to its mean.
    count = label_count if label_count > 2 else 0
    auroc: dict[Method, list[float | None]] = {method: [None] * count for method in METHODS}
    test_auroc: dict[Method, list[float | None]] = {method: [None] * count for method in METHODS}
    chosen = np.linspace(0, count - 1, min(count, MOST_LEFT_OUT)).round().astype(int).tolist()
    means = class_means(training.features, training.targets, label_count=label_count)
    start = None
    if count > 3:  # of three, two are left, and their head has one row for both
        whole = _head((training.features - means.centre) / means.scale, training.targets)
        start = np.column_stack([whole.coef_, whole.intercept_])
    for done, label in enumerate(chosen, 1):
        measures = _without(training, label, start, label_count=label_count)
        for part, found in ((validation, auroc), (test, test_auroc)):
            for each in METHODS:
                found[each][label] = _auroc(part.targets == label, measures[each](part.features))
        progress(done, len(chosen))
    near, soft = (mean_of(auroc[each]) or 0.0 for each in METHODS)
    method: Method = "nearest_class_mean" if near > soft else "max_softmax"
    raw = _raw(method, probabilities, validation.features, means)
    return Unknowns(
        method=method,
        unit=max(_SMALLEST_UNIT, float(np.quantile(raw, KEPT_SHARE))),
        means=means if method == "nearest_class_mean" else None,
        auroc=auroc,
        test_auroc=test_auroc,
    )


def _raw(
    method: Method, probabilities: NDArray[np.float32], features: NDArray[np.float32], means: Means | None
) -> NDArray[np.float32]:
    if method == "max_softmax" or means is None:
        unsure: NDArray[np.float32] = 1 - probabilities.max(axis=1)
        return unsure
    nearest: NDArray[np.float32] = means.distances(features).min(axis=1)
    return nearest


def _without(training: "Seen", label: int, start: NDArray[np.float32] | None, *, label_count: int) -> dict[Method, Any]:
    """Both measures, made without one class: functions of features, float32 [images, features].

    Args:
        training: Images of all classes.
        label: The class.
        start: Weights and bias of a head of all classes, float32 [labels, features + 1]; None to start from nothing.
        label_count: Number of all classes.
    """
    kept = training.targets != label
    features, targets = training.features[kept], np.unique(training.targets[kept], return_inverse=True)[1]
    means = class_means(features, targets, label_count=label_count - 1)
    others = None if start is None else np.delete(start, label, axis=0)
    head = _head((features - means.centre) / means.scale, targets, others)
    return {
        "nearest_class_mean": lambda rows: means.distances(rows).min(axis=1),
        "max_softmax": lambda rows: 1 - head.predict_proba((rows - means.centre) / means.scale).max(axis=1),
    }


def _head(
    features: NDArray[np.float32], targets: NDArray[np.int64], start: NDArray[np.float32] | None = None
) -> "LogisticRegression":
    """A head on standardised features; with the weights of another one to start from it is there in a few steps."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    head = LogisticRegression(C=_STRENGTH, max_iter=200, warm_start=True)
    if start is not None:
        head.coef_, head.intercept_ = start[:, :-1], start[:, -1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        head.fit(features, targets)
    return head


def _auroc(unknown: NDArray[np.bool_], scores: NDArray[np.float32]) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(unknown, scores)) if unknown.any() and not unknown.all() else None
