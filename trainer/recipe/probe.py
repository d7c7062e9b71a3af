"""The frozen stage: every photo through the backbone once, then a linear head in seconds.

The head is L2-regularised multinomial logistic regression on standardised features, its strength chosen by grouped
cross-validation on the training part. The result is one linear layer.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..backbone import Backbone
from ..world import World
from . import augment, out_of_memory
from .part import at_once
from .solver import Balance, Solver, class_weights

#: Inverse strengths tried, from strong to weak, on standardised features.
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
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
    # In bfloat16 a place in the image is up to a pixel off.
    with torch.autocast(images.device.type, enabled=False):
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
    solver = Solver(views, targets, balance=balance)
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
        solver, true = Solver(views[:, asked[train]], targets[asked[train]], balance=balance), targets[asked[held_out]]
        for position, strength in enumerate(STRENGTHS):
            solver.fit(strength)
            rows = solver.probabilities(views[0, asked[held_out]], label_count)
            answers[position, held_out] = rows
            seen[position, held_out, 0] = -np.log(rows[np.arange(len(rows)), true])
            seen[position, held_out, 1] = rows.argmax(axis=1) == true
            report(number * len(STRENGTHS) + position + 1, len(pairs) * len(STRENGTHS))
    weights = class_weights(targets[asked]) if balance != "none" else np.ones(len(asked))
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
