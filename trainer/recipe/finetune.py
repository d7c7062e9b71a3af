"""The unfrozen stage: all layers, from the head that the frozen stage fitted (LP-FT, Kumar et al. 2022).

AdamW on a one-cycle schedule, lower rates for earlier layers, BatchNorm statistics kept where the network was
pretrained. Every random choice of an epoch follows from the seed and the epoch's number, so a run that goes on from
the last finished epoch ends with the same bytes as one that was never stopped.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..backbone import Backbone
from ..errors import TrainerError
from ..run_folder import read_tensors, write_tensors
from .augment import augment
from .history import Epoch, beats, best_epoch
from .part import Part, losses, predict
from .schedule import WARM_UP_SHARE, one_cycle

_WEIGHT_DECAY = 0.01
_EARLIEST_RATE = 0.1
# The only common base of the BatchNorm classes.
_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the unfrozen stage was told.

    Attributes:
        epochs: Most epochs.
        batch_size: Images in a step.
        learning_rate: Peak rate of the last layers.
        patience: Epochs without a better one, after the rate's peak, before it stops.
        seed: Seed of every random choice.
        weighted_loss: Whether classes weigh by the inverse of their counts in the loss.
        weighted_sampling: Whether images are drawn by the inverse of their class's count.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    seed: int
    weighted_loss: bool
    weighted_sampling: bool


def finetune(
    backbone: Backbone,
    train: Part,
    validation: Part,
    *,
    plan: Plan,
    device: torch.device,
    checkpoint: Path,
    report: Callable[[int, int, str], None],
) -> list[Epoch]:
    """Trains all layers; leaves the best epoch's weights in `backbone`, those it came with where no epoch beat them.

    Args:
        backbone: The network with its fitted head, on `device`.
        train: Training images.
        validation: Images that choose the epoch.
        plan: What to do.
        device: Where the network is.
        checkpoint: Folder for the state after each epoch; a state found there is gone on from.
        report: Told steps done, steps in all and the latest figures in words.

    Returns:
        The history, epoch 0 first. The best row is `best_epoch(history)`.

    Raises:
        TrainerError: The loss is not finite any more.
    """
    parameters = _groups(backbone, plan.learning_rate)
    optimizer = torch.optim.AdamW(parameters, weight_decay=_WEIGHT_DECAY)
    history = _resumed(backbone, optimizer, checkpoint)
    if not history:
        start = _losses(backbone, validation, plan=plan, device=device)
        write_tensors(
            checkpoint / "start.safetensors", {key: torch.from_numpy(value) for key, value in start.items()}, {}
        )
        write_tensors(checkpoint / "best.safetensors", _state(backbone), {})
        history = [_row(start, start, epoch=0, train_loss=None, rate=0.0)]
    start = {name: value.numpy() for name, value in read_tensors(checkpoint / "start.safetensors")[0].items()}
    steps = max(1, len(train.targets) // plan.batch_size)
    class_weights = _class_weights(train.targets, backbone.head.out_features).to(device) if plan.weighted_loss else None
    for epoch in range(len(history), plan.epochs + 1):
        # Near the peak of the rate validation is often worse than before and after it: nobody loses patience there.
        if epoch - 1 - max(best_epoch(history).epoch, math.ceil(plan.epochs * WARM_UP_SHARE)) >= plan.patience:
            break
        loss = _one_epoch(
            backbone,
            optimizer,
            train,
            plan=plan,
            epoch=epoch,
            steps=steps,
            device=device,
            weights=class_weights,
            report=report,
        )
        rate = plan.learning_rate * one_cycle(epoch * steps - 1, plan.epochs * steps)
        seen = _losses(backbone, validation, plan=plan, device=device)
        row = _row(seen, start, epoch=epoch, train_loss=loss, rate=rate)
        better = beats(row, best_epoch(history))
        history.append(row)
        # The best weights first: stopped in between, the epoch is done again and writes the same bytes.
        if better:
            write_tensors(checkpoint / "best.safetensors", _state(backbone), {})
        _save(backbone, optimizer, history, checkpoint)
        report(
            epoch * steps,
            plan.epochs * steps,
            f"validation {row.validation_accuracy:.1%} loss {row.validation_loss:.3f}",
        )
    tensors, _ = read_tensors(checkpoint / "best.safetensors")
    backbone.network.load_state_dict(tensors)
    return history


def _groups(backbone: Backbone, learning_rate: float) -> list[dict[str, object]]:
    """One parameter group a parameter: the rate grows with depth, vectors (biases, norms) do not decay."""
    groups: list[dict[str, object]] = []
    for (name, parameter), depth in zip(backbone.network.named_parameters(), backbone.depths().values(), strict=True):
        share = _EARLIEST_RATE ** (1 - depth) if backbone.pretrained else 1.0
        decay = _WEIGHT_DECAY if parameter.ndim > 1 else 0.0
        groups.append({"params": [parameter], "peak": learning_rate * share, "weight_decay": decay, "name": name})
    return groups


def _one_epoch(
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
    train: Part,
    *,
    plan: Plan,
    epoch: int,
    steps: int,
    device: torch.device,
    weights: Tensor | None,
    report: Callable[[int, int, str], None],
) -> float:
    """One pass; gives the mean training loss."""
    seed = plan.seed * 1_000_003 + epoch
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    order = _order(train.targets, chance, weighted=plan.weighted_sampling)
    backbone.network.train()
    if backbone.pretrained:
        for module in backbone.network.modules():
            if isinstance(module, _NORMS):
                module.eval()
    total = 0.0
    for step in range(steps):
        # Evenly cut, so that no step has one image left over, which BatchNorm could not take.
        begin, end = (len(order) * (step + bound) // steps for bound in (0, 1))
        positions = order[begin:end]
        images = augment(torch.from_numpy(train.pixels(positions)).to(device), chance)
        targets = torch.from_numpy(train.targets[positions]).to(device)
        multiple = one_cycle((epoch - 1) * steps + step, plan.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * multiple
        loss = functional.cross_entropy(backbone.network(backbone.normalised(images)), targets, weight=weights)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainerError(
                f"the training loss stopped being a number in epoch {epoch}, step {step + 1}; "
                f"try a lower --learning-rate than {plan.learning_rate:g}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no hint for it
        optimizer.step()
        total += value * len(positions)
        report((epoch - 1) * steps + step + 1, plan.epochs * steps, f"epoch {epoch} loss {value:.3f}")
    return total / len(order)


def _order(targets: NDArray[np.int64], chance: torch.Generator, *, weighted: bool) -> list[int]:
    if not weighted:
        return torch.randperm(len(targets), generator=chance).tolist()
    weights = 1.0 / torch.from_numpy(np.bincount(targets)).double()[torch.from_numpy(targets)]
    return torch.multinomial(weights, len(targets), replacement=True, generator=chance).tolist()


def _class_weights(targets: NDArray[np.int64], label_count: int) -> Tensor:
    counts = np.maximum(1, np.bincount(targets, minlength=label_count))
    return torch.tensor(len(targets) / (label_count * counts), dtype=torch.float32)


def _losses(
    backbone: Backbone, validation: Part, *, plan: Plan, device: torch.device
) -> dict[str, NDArray[np.float64]]:
    """Loss of each validation image, and 1 where its best class is right."""
    probabilities = predict(backbone, validation, batch_size=plan.batch_size, device=device)
    right = (probabilities.argmax(axis=1) == validation.targets).astype(np.float64)
    return {"losses": losses(probabilities, validation.targets), "right": right}


def _row(
    seen: dict[str, NDArray[np.float64]],
    start: dict[str, NDArray[np.float64]],
    *,
    epoch: int,
    train_loss: float | None,
    rate: float,
) -> Epoch:
    differences = seen["losses"] - start["losses"]
    return Epoch(
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=float(seen["losses"].mean()),
        validation_accuracy=float(seen["right"].mean()),
        learning_rate=rate,
        standard_error=float(differences.std(ddof=1) / math.sqrt(len(differences))) if len(differences) > 1 else 0.0,
    )


def _state(backbone: Backbone) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in backbone.network.state_dict().items()}


def _save(backbone: Backbone, optimizer: torch.optim.Optimizer, history: list[Epoch], checkpoint: Path) -> None:
    tensors = {f"network.{name}": value for name, value in _state(backbone).items()}
    for group in optimizer.param_groups:
        for key, value in optimizer.state[group["params"][0]].items():
            tensors[f"{key}.{group['name']}"] = value.detach().cpu().contiguous()
    write_tensors(checkpoint / "epoch.safetensors", tensors, {"history": [asdict(row) for row in history]})


def _resumed(backbone: Backbone, optimizer: torch.optim.Optimizer, checkpoint: Path) -> list[Epoch]:
    """Puts the last finished epoch's state back; gives its history, empty where there is none."""
    path = checkpoint / "epoch.safetensors"
    if not path.is_file():
        return []
    tensors, facts = read_tensors(path)
    prefix = "network."
    network = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    backbone.network.load_state_dict(network)
    for group in optimizer.param_groups:
        parameter = group["params"][0]
        # Like the parameter in memory layout, as the optimizer itself would have made them.
        optimizer.state[parameter] = {
            "step": tensors[f"step.{group['name']}"],
            **{
                key: torch.empty_like(parameter).copy_(tensors[f"{key}.{group['name']}"])
                for key in ("exp_avg", "exp_avg_sq")
            },
        }
    return [Epoch(**row) for row in facts["history"]]
