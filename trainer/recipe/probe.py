"""The frozen stage: every photo through the backbone once, then a linear head in seconds.

The head is L2-regularised multinomial logistic regression on standardised features, its strength chosen by grouped
cross-validation on the training part. Standardising is folded into the layer, so the result is one linear layer.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from ..backbone import Backbone

#: Inverse strengths tried, from strong to weak, on standardised features.
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_FOLDS = 5
_LARGEST_CROSS_VALIDATION = 20_000


@dataclass(frozen=True, kw_only=True)
class Head:
    """A linear head fitted on features.

    Attributes:
        weight: Float32 [labels, features].
        bias: Float32 [labels].
        strength: The inverse strength C that was chosen.
        losses: Mean cross-validated cross-entropy of each strength tried; empty where no choice was possible.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    strength: float
    losses: dict[float, float]


def features(
    backbone: Backbone,
    pixels: Callable[[Sequence[int]], NDArray[np.uint8]],
    count: int,
    *,
    batch_size: int,
    device: torch.device,
    report: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """The features of `count` images in order: float32 [count, features].

    Args:
        backbone: The network, already on `device`.
        pixels: Gives uint8 [n, H, W, 3] for a sequence of positions.
        count: Number of images.
        batch_size: Images at a time.
        device: Where the network is.
        report: Told images done and in all.
    """
    backbone.network.eval()
    out = np.empty((count, backbone.head.in_features), dtype=np.float32)
    with torch.inference_mode():
        for begin in range(0, count, batch_size):
            positions = range(begin, min(begin + batch_size, count))
            images = torch.from_numpy(pixels(positions)).to(device)
            out[positions.start : positions.stop] = backbone.features(images).cpu().numpy()
            report(positions.stop, count)
    return out


# One thread: the matrices are small, and a pool that waits for a busy core takes a hundred times longer.
@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def fit_head(
    inputs: NDArray[np.float32],
    targets: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    label_count: int,
    balanced: bool,
    seed: int,
    report: Callable[[int, int], None],
) -> Head:
    """The head for `inputs`.

    Args:
        inputs: Training features, float32 [images, features].
        targets: Class of each image, in [0, label_count); every class occurs.
        groups: Group of each image; a group is never both fitted on and validated on.
        label_count: Number of classes.
        balanced: Weight classes by the inverse of their counts.
        seed: Seed of the folds.
        report: Told fits done and in all.
    """
    strength, losses = _choose_strength(inputs, targets, groups, balanced=balanced, seed=seed, report=report)
    solver = _Solver(inputs, targets, balanced=balanced)
    solver.fit(strength)
    weight, bias = solver.layer()
    if label_count == 2:
        # scikit-learn keeps one row for two classes; two rows of half of it give the same probabilities.
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Head(weight=weight.astype(np.float32), bias=bias.astype(np.float32), strength=strength, losses=losses)


def _choose_strength(
    inputs: NDArray[np.float32],
    targets: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    balanced: bool,
    seed: int,
    report: Callable[[int, int], None],
) -> tuple[float, dict[float, float]]:
    smallest = min(len(set(groups[targets == label].tolist())) for label in np.unique(targets))
    fold_count = min(_FOLDS, smallest)
    if fold_count < 2:
        return 0.01, {}
    if len(inputs) > _LARGEST_CROSS_VALIDATION:
        chosen = np.random.default_rng(seed).choice(len(inputs), _LARGEST_CROSS_VALIDATION, replace=False)
        inputs, targets, groups = inputs[chosen], targets[chosen], groups[chosen]
    folds = StratifiedGroupKFold(fold_count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Groups may make a class rarer in one fold than asked for; the loss below counts such a fold all the same.
        warnings.simplefilter("ignore", UserWarning)
        pairs = list(folds.split(inputs, targets, groups))
    losses = dict.fromkeys(STRENGTHS, 0.0)
    classes = np.unique(targets)
    for number, (train, held_out) in enumerate(pairs):
        solver = _Solver(inputs[train], targets[train], balanced=balanced)
        for position, strength in enumerate(STRENGTHS):
            solver.fit(strength)
            known = solver.model.predict_proba(solver.standardised(inputs[held_out]))
            probabilities = np.full((len(held_out), len(classes)), 1e-7)
            probabilities[:, np.searchsorted(classes, solver.model.classes_)] = np.clip(known, 1e-7, None)
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            losses[strength] += float(log_loss(targets[held_out], probabilities, labels=classes)) / len(pairs)
            report(number * len(STRENGTHS) + position + 1, len(pairs) * len(STRENGTHS))
    # The stronger of two equals.
    return min(losses, key=lambda strength: (losses[strength], strength)), losses


class _Solver:
    """Logistic regression on the standardised features of one set of images, for several strengths."""

    def __init__(self, inputs: NDArray[np.float32], targets: NDArray[np.int64], *, balanced: bool) -> None:
        self.mean = inputs.mean(axis=0, dtype=np.float64)
        self.scale = inputs.std(axis=0, dtype=np.float64)
        # A feature that never changes (a dead unit) must not be blown up by its own rounding.
        self.scale[self.scale < 1e-6 * max(1e-12, float(self.scale.max()))] = 1.0
        standardised = (inputs - self.mean) / self.scale
        self._rotation: NDArray[np.float64] | None = None
        if len(inputs) < inputs.shape[1]:
            # The solution lies in the span of the images (the penalty does not mind a rotation), so with fewer images
            # than features it is found, unchanged, among that many coordinates.
            self._rotation = np.linalg.svd(standardised, full_matrices=False)[2].T
            standardised = standardised @ self._rotation
        self._inputs, self._targets = standardised, targets
        # Each strength starts from the one before.
        self.model = LogisticRegression(max_iter=400, warm_start=True, class_weight="balanced" if balanced else None)

    def standardised(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Features [N, features] in the coordinates that the model was fitted in."""
        values: NDArray[np.float64] = (inputs - self.mean) / self.scale
        return values if self._rotation is None else values @ self._rotation

    def fit(self, strength: float) -> None:
        """Fits the model with the inverse strength `strength`."""
        self.model.C = strength
        with warnings.catch_warnings():
            # Weak penalties need more steps than they are worth; cross-validation judges what they reached.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(self._inputs, self._targets)

    def layer(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight [labels or 1, features] and bias of the fitted model, on features as they are."""
        weight = self.model.coef_ if self._rotation is None else self.model.coef_ @ self._rotation.T
        weight = weight / self.scale
        return weight, self.model.intercept_ - weight @ self.mean
