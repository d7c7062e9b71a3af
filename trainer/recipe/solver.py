"""Logistic regression on standardised features, and the linear layer with the same scores on features as they are.

scikit-learn is imported where the head is fitted: it takes seconds, and may come while features are computed.
"""

import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: What is done for rare classes: nothing; `sampler` weighs images by the inverse of their class's count; `loss` fits
#: as if nothing was, and takes the logarithm of each class's share off its score (logit adjustment, Menon et al. 2021).
Balance = Literal["none", "sampler", "loss"]


def class_weights(targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight of each image by the inverse of its class's count; 1 on average."""
    counts = np.bincount(targets)
    weights: NDArray[np.float64] = len(targets) / (np.count_nonzero(counts) * counts[targets])
    return weights


class Solver:
    """Logistic regression on the standardised features of one set of images, for several strengths."""

    def __init__(self, views: NDArray[np.float32], targets: NDArray[np.int64], *, balance: Balance) -> None:
        from sklearn.linear_model import LogisticRegression

        count = len(views)
        inputs, self._targets = np.concatenate(list(views)), np.tile(targets, count)
        self.mean = inputs.mean(axis=0, dtype=np.float64)
        self.scale = inputs.std(axis=0, dtype=np.float64)
        # A feature that never changes (a dead unit) must not be blown up by its own rounding.
        self.scale[self.scale < 1e-6 * max(1e-12, float(self.scale.max()))] = 1.0
        standardised = ((inputs - self.mean) / self.scale).astype(np.float32)
        self._rotation: NDArray[np.float32] | None = None
        if len(inputs) < inputs.shape[1]:
            # The solution lies in the span of the images (the penalty does not mind a rotation), so with fewer images
            # than features it is found, unchanged, among that many coordinates.
            self._rotation = np.linalg.svd(standardised, full_matrices=False)[2].T
            standardised = standardised @ self._rotation
        self._inputs = standardised
        # All views of an image together weigh as much as one photo.
        weights = class_weights(targets) if balance == "sampler" else np.ones(len(targets))
        self._image_weights = np.tile(weights, count) / count
        shares = np.unique(targets, return_counts=True)[1] / len(targets)
        self._taken_off = np.log(shares) if balance == "loss" else np.zeros(len(shares))
        # Each strength starts from the one before.
        self.model = LogisticRegression(max_iter=400, warm_start=True)

    def fit(self, strength: float) -> None:
        """Fits the model with the inverse strength `strength`."""
        from sklearn.exceptions import ConvergenceWarning

        self.model.C = strength
        with warnings.catch_warnings():
            # Weak penalties need more steps than they are worth; cross-validation judges what they reached.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(self._inputs, self._targets, sample_weight=self._image_weights)

    def probabilities(self, inputs: NDArray[np.float32], label_count: int) -> NDArray[np.float64]:
        """Probabilities of some images' features, float64 [images, labels], never 0."""
        values = ((inputs - self.mean) / self.scale).astype(np.float32)
        known = self.model.predict_proba(values if self._rotation is None else values @ self._rotation)
        known = known * np.exp(-self._taken_off)
        known /= known.sum(axis=1, keepdims=True)
        # A class that this fold did not have may be the true one.
        probabilities = np.full((len(inputs), label_count), 1e-7)
        probabilities[:, self.model.classes_] = np.clip(known, 1e-7, None)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return probabilities

    def layer(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight [labels, features] and bias [labels] of the fitted model, on features as they are."""
        weight = self.model.coef_ if self._rotation is None else self.model.coef_ @ self._rotation.T
        weight = weight.astype(np.float64) / self.scale
        bias = self.model.intercept_.astype(np.float64) - weight @ self.mean
        if len(weight) == 1:
            # scikit-learn keeps one row for two classes; two rows of half of it give the same probabilities.
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return weight, bias - self._taken_off
