"""Where the unfrozen stage stands, in files that are whole or absent: what a run that was killed goes on from.

`progress.safetensors` has the network, its averaged weights, the optimiser's state and the position; `best.safetensors`
the weights that would be exported now; `start.safetensors` what validation said before the first step.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..backbone import Backbone
from ..run_folder import read_tensors, write_tensors
from ..world import World
from .history import Epoch
from .steps import Steps

_PROGRESS, _BEST, _START = "progress.safetensors", "best.safetensors", "start.safetensors"


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where training stands.

    Attributes:
        epoch: The epoch that the next step belongs to, from 1.
        step: The next step in it, from 0.
        loss_sum: Sum over the epoch's steps so far of mean loss × images.
        history: Rows of the epochs that ended, epoch 0 first.
        lowest: Validation loss of each image, float64, in the epoch with the lowest mean so far; None before the first.
    """

    epoch: int
    step: int
    loss_sum: float
    history: list[Epoch]
    lowest: NDArray[np.float64] | None = None


def state(backbone: Backbone) -> dict[str, Tensor]:
    """A copy of the network's tensors by name, on the CPU."""
    return {name: _kept(value) for name, value in backbone.network.state_dict().items()}


def save(folder: Path, backbone: Backbone, steps: Steps, position: Position) -> None:
    """Writes the position and all that the next step depends on."""
    tensors = {f"network.{name}": value for name, value in state(backbone).items()}
    if steps.averages:
        tensors |= {f"averaged.{name}": _kept(value) for name, value in steps.averaged.items()}
    for group in steps.optimizer.param_groups:
        for key, value in steps.optimizer.state[group["params"][0]].items():
            tensors[f"{key}.{group['name']}"] = _kept(value)
    facts = asdict(position)
    del facts["lowest"]
    if position.lowest is not None:
        tensors["lowest"] = torch.from_numpy(position.lowest)
    write_tensors(folder / _PROGRESS, tensors, facts)


def restore(folder: Path, backbone: Backbone, steps: Steps, world: World) -> Position | None:
    """Puts a written state back, in every process; gives its position, None where there is none."""
    path = folder / _PROGRESS
    # Only the first process need see the folder: the others may run on other machines.
    written = world.told(read_tensors(path) if world.first and path.is_file() else None)
    if written is None:
        return None
    tensors, facts = written
    backbone.network.load_state_dict(_below("network", tensors))
    if steps.averages:
        for name, value in _below("averaged", tensors).items():
            steps.averaged[name].copy_(value)
    for group in steps.optimizer.param_groups:
        parameter = group["params"][0]
        # Like the parameter in memory layout, as the optimiser itself would have made them.
        steps.optimizer.state[parameter] = {
            "step": tensors[f"step.{group['name']}"],
            **{
                key: torch.empty_like(parameter).copy_(tensors[f"{key}.{group['name']}"])
                for key in ("exp_avg", "exp_avg_sq")
            },
        }
    lowest = tensors["lowest"].numpy() if "lowest" in tensors else None
    return Position(**(facts | {"history": [Epoch(**row) for row in facts["history"]], "lowest": lowest}))


def save_best(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Writes the weights that are best so far."""
    write_tensors(folder / _BEST, tensors, {})


def read_best(folder: Path) -> dict[str, Tensor]:
    """The weights that `save_best` wrote."""
    return read_tensors(folder / _BEST)[0]


def save_start(folder: Path, seen: dict[str, Tensor]) -> None:
    """Writes what validation said of each image before the first step."""
    write_tensors(folder / _START, seen, {})


def read_start(folder: Path) -> dict[str, Tensor]:
    """What `save_start` wrote."""
    return read_tensors(folder / _START)[0]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    begin = f"{prefix}."
    return {name.removeprefix(begin): value for name, value in tensors.items() if name.startswith(begin)}


def _kept(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
