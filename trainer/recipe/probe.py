"""The frozen stage: every photo through the backbone once, then a linear head in seconds.

The head is L2-regularised multinomial logistic regression on standardised features, its strength chosen by grouped
cross-validation on the training part. Standardising is folded into the layer, so the result is one linear layer.

scikit-learn is imported where the head is fitted: it takes seconds, and may come while features are computed.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..backbone import Backbone
from ..world import World
from . import augment, out_of_memory
from .part import at_once

#: Inverse strengths tried, from strong to weak, on standardised features.
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
#: What is done for rare classes: nothing; `sampler` weighs images by the inverse of their class's count; `loss` fits
#: as if nothing was, and takes the logarithm of each class's share off its score (logit adjustment, Menon et al. 2021).
Balance = Literal["none", "sampler", "loss"]
#: How an image is seen: as it is, or changed by chance.
View = augment.Strengths | None
_FOLDS = 5
_LARGEST_CROSS_VALIDATION = 20_000


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What cross-validation says of the strengths, by images as they are.

    Attributes:
        strength: The inverse strength with the least mean loss.
        losses: Mean loss of each one tried; empty where a class has too few groups to choose.
        held_out: With the chosen one, float32 [images, labels]: each image's probabilities by the head that was fitted
            without its group, after `balance`; NaN where not asked, None where there were no folds.
        seen: With the chosen one, float64 [images, 2]: loss of each image, and 1 where its best class is right; NaN
            where not asked.
    """

    strength: float
    losses: dict[float, float]
    held_out: NDArray[np.float32] | None
    seen: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A linear head fitted on features.

    Attributes:
        weight: Float32 [labels, features].
        bias: Float32 [labels].
        strength: The inverse strength C that was chosen.
        losses: Mean cross-validated cross-entropy of each strength tried; empty where no choice was possible.
        held_out: Probabilities of the training images by heads that had not seen them, as in `Choice`.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    strength: float
    losses: dict[float, float]

    held_out: NDArray[np.float32] | None = None


def features(
    backbone: Backbone,
    pixels: Callable[[Sequence[int]], NDArray[np.uint8]],
    count: int,
    *,
    batch_size: int,
    device: torch.device,
    views: Sequence[View] = (None,),
    bfloat16: bool = False,
    world: World | None = None,
    report: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """The features of `count` images in order: float32 [views, count, features].

    Args:
        backbone: The network, already on `device`.
        pixels: Gives uint8 [n, H, W, 3] for a sequence of positions.
        count: Number of images.
        batch_size: Images at a time, at most.
        device: Where the network is.
        views: How each image is seen: None as it is, else changed by chance of those strengths.
        bfloat16: Compute in bfloat16, where the processor does that faster.
        world: The processes that share the work; each gets every row.
        report: Told images done and in all, of this process.

    Raises:
        TrainerError: There is not enough memory for a batch.
    """
    world = world or World()
    backbone.network.eval()
    share, most = world.share(count), at_once(batch_size, device)
    out = np.empty((len(share), len(views), backbone.head.in_features), dtype=np.float32)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        for begin in range(0, len(share), most):
            positions = share[begin : begin + most]
            with out_of_memory.told(batch_size, device, at_once=most):
                images = torch.from_numpy(pixels(positions)).to(device)
                for number, view in enumerate(views):
                    seen = images if view is None else _changed(images, view, positions, number)
                    out[begin : begin + len(positions), number] = backbone.features(seen).cpu().numpy()
            report(begin + len(positions), len(share))
    return np.ascontiguousarray(world.gathered(out).swapaxes(0, 1))


def _changed(images: Tensor, view: augment.Strengths, positions: range, number: int) -> Tensor:
    """Changed images; an image's change depends on its position and the view's number alone."""
    if view == augment.MIRROR:
        return images.flip(2)
    rows = [augment.draw(1, view, torch.Generator().manual_seed(position << 8 | number)) for position in positions]
    return augment.apply(images, augment.joined(rows))


# One thread: the matrices are small, and a pool that waits for a busy core takes a hundred times longer.
@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def fit_head(
    views: NDArray[np.float32],
    targets: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    balance: Balance,
    seed: int,
    report: Callable[[int, int], None],
) -> Head:
    """The head for features of training images.

    Args:
        views: Features, float32 [views, images, features]; the first view is the image as it is.
        targets: Class of each image, in [0, label_count); every class occurs.
        groups: Group of each image; a group is never both fitted on and validated on.
        balance: What is done for rare classes.
        seed: Seed of the folds.
        report: Told fits done and in all.
    """
    choice = choose_strength(views, targets, groups, balance=balance, seed=seed, report=report)
    head = fitted(views, targets, balance=balance, strength=choice.strength, losses=choice.losses)
    return replace(head, held_out=choice.held_out)


def fitted(
    views: NDArray[np.float32],
    targets: NDArray[np.int64],
    *,
    balance: Balance,
    strength: float,
    losses: dict[float, float],
) -> Head:
    """The head of a strength that was chosen before; arguments as in `fit_head`."""
    solver = _Solver(views, targets, balance=balance)
    solver.fit(strength)
    weight, bias = solver.layer()
    # In C order: scikit-learn's coefficients may lie the other way round.
    weight = np.ascontiguousarray(weight)
    return Head(weight=weight.astype(np.float32), bias=bias.astype(np.float32), strength=strength, losses=losses)


@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def choose_strength(
    views: NDArray[np.float32],
    targets: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    balance: Balance,
    seed: int,
    report: Callable[[int, int], None],
) -> Choice:
    """The strength with the least cross-validated loss; arguments as in `fit_head`."""
    count, label_count = views.shape[1], int(targets.max()) + 1
    asked = np.arange(count)
    if count > _LARGEST_CROSS_VALIDATION:
        asked = np.sort(np.random.default_rng(seed).choice(count, _LARGEST_CROSS_VALIDATION, replace=False))
    pairs = _folds(targets, groups, asked, seed=seed)
    if not pairs:
        return Choice(strength=0.01, losses={}, held_out=None, seen=np.full((count, 2), np.nan))
    answers = np.empty((len(STRENGTHS), len(asked), label_count), np.float32)
    seen = np.empty((len(STRENGTHS), len(asked), 2))
    for number, (train, held_out) in enumerate(pairs):
        solver, true = _Solver(views[:, asked[train]], targets[asked[train]], balance=balance), targets[asked[held_out]]
        for position, strength in enumerate(STRENGTHS):
            solver.fit(strength)
            rows = solver.probabilities(views[0, asked[held_out]], label_count)
            answers[position, held_out] = rows
            seen[position, held_out, 0] = -np.log(rows[np.arange(len(rows)), true])
            seen[position, held_out, 1] = rows.argmax(axis=1) == true
            report(number * len(STRENGTHS) + position + 1, len(pairs) * len(STRENGTHS))
    weights = _weights(targets[asked]) if balance != "none" else np.ones(len(asked))
    means = {
        strength: float(np.average(rows[:, 0], weights=weights)) for strength, rows in zip(STRENGTHS, seen, strict=True)
    }
    # The stronger of two equals.
    best = min(means, key=lambda strength: (means[strength], strength))
    chosen = STRENGTHS.index(best)
    everywhere, of_chosen = np.full((count, label_count), np.nan, np.float32), np.full((count, 2), np.nan)
    everywhere[asked], of_chosen[asked] = answers[chosen], seen[chosen]
    return Choice(strength=best, losses=means, held_out=everywhere, seen=of_chosen)


def _folds(
    targets: NDArray[np.int64], groups: NDArray[np.int64], asked: NDArray[np.int64], *, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """What to fit on and what to hold out, as indices into `asked`, for each fold.

    None where a class has one group, or where a fold would leave a single class to fit on.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    smallest = min(len(set(groups[targets == label].tolist())) for label in np.unique(targets))
    if smallest < 2:
        return []
    folds = StratifiedGroupKFold(min(_FOLDS, smallest), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Groups may make a class rarer in one fold than asked for; the loss counts such a fold all the same.
        warnings.simplefilter("ignore", UserWarning)
        pairs = list(folds.split(asked, targets[asked], groups[asked]))
    return pairs if all(len(np.unique(targets[asked[train]])) > 1 for train, _ in pairs) else []


def _weights(targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight of each image by the inverse of its class's count; 1 on average."""
    counts = np.bincount(targets)
    weights: NDArray[np.float64] = len(targets) / (np.count_nonzero(counts) * counts[targets])
    return weights


class _Solver:
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
        weights = _weights(targets) if balance == "sampler" else np.ones(len(targets))
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
