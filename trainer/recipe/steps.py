"""One optimiser step after another, on this process's share of each batch.

Every random choice follows from the seed, the epoch and the step, so that a run which goes on from any step ends, on a
CPU, with the same bytes as one that was never stopped, and several processes take the very step that one would take. On
a GPU kernels add in any order, and the last digits may differ.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ..backbone import Backbone
from ..planning import fast_bfloat16
from ..world import World
from . import augment, mixing, out_of_memory
from .part import Part
from .plan import Plan
from .schedule import largest_step, multiple, steps_in_epoch

#: Images of a batch that go through the network at once, on a CPU: half of 16 takes 12 % longer and half the memory.
_PIECE = 8
# The only common base of the BatchNorm classes.
_FIXED = (nn.modules.batchnorm._BatchNorm, nn.Dropout)


class NotFinite(Exception):
    """A loss that is no number any more.

    Attributes:
        positions: Of the images that it was of, within their part.
        in_validation: Whether they are validation images, asked after a step; else a training step's.
    """

    def __init__(self, positions: list[int], *, in_validation: bool = False) -> None:
        super().__init__(positions)
        self.positions, self.in_validation = positions, in_validation


class Steps:
    """The network in training, its optimiser and its averaged weights; identical in every process after each step.

    Attributes:
        count: Steps in an epoch.
        averages: Whether weights are averaged over steps.
        optimizer: AdamW or Adam, one parameter group a parameter.
        averaged: The weights averaged over steps, by name; those of `backbone` itself where nothing is averaged.
    """

    def __init__(self, backbone: Backbone, train: Part, *, plan: Plan, device: torch.device, world: World) -> None:
        self._backbone, self._train, self._plan, self._device, self._world = backbone, train, plan, device, world
        network = backbone.network
        if world.size > 1 and device.type == "cuda" and not backbone.pretrained:
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # changes it in place
        self._trained: nn.Module = network
        if world.size > 1:
            self._trained = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
        self.count = steps_in_epoch(len(train.targets), plan.batch_size)
        self._largest = largest_step(len(train.targets), plan.batch_size)
        self._whole = not backbone.pretrained or device.type == "cuda"
        self._in_bfloat16 = in_bfloat16(device)
        self.optimizer = _optimizer(backbone, plan)
        self._state = network.state_dict()
        self.averages = plan.ema_decay > 0
        self.averaged = {name: value.clone() for name, value in self._state.items()} if self.averages else self._state
        self._added = torch.zeros(backbone.head.out_features, device=device)
        if plan.balance == "loss":
            self._added = torch.from_numpy(log_shares(train.targets, backbone.head.out_features)).to(device)

    def order(self, epoch: int) -> list[int]:
        """Positions of the epoch's training images, in the order that its steps take them."""
        targets, chance = self._train.targets, self._chance(epoch, 0)
        if self._plan.balance != "sampler":
            return torch.randperm(len(targets), generator=chance).tolist()
        weights = 1.0 / torch.from_numpy(np.bincount(targets)).double()[torch.from_numpy(targets)]
        return torch.multinomial(weights, len(targets), replacement=True, generator=chance).tolist()

    def rate(self, epoch: int, step: int) -> float:
        """The last layers' learning rate at `step` (from 0) of `epoch` (from 1)."""
        plan = self._plan
        place = (epoch - 1) * self.count + step
        return plan.learning_rate * multiple(plan.schedule, place, plan.epochs * self.count)

    def take(self, order: list[int], *, epoch: int, step: int, rate: float | None = None) -> float:
        """Takes one step; gives the mean loss of the whole batch, before the step.

        Args:
            order: What `order(epoch)` gave.
            epoch: From 1.
            step: From 0.
            rate: The last layers' rate; the plan's own where absent.

        Raises:
            NotFinite: The loss is no number; nothing was changed.
            TrainerError: There is not enough memory for the batch.
        """
        # Evenly cut, so that no step has one image left over, which BatchNorm could not take.
        begin, end = (len(order) * (step + bound) // self.count for bound in (0, 1))
        self._set_rate(self.rate(epoch, step) if rate is None else rate)
        size, largest = self._plan.batch_size, self._largest
        most = min(size, largest) if self._whole else min(size, largest, _PIECE * self._world.size)
        with out_of_memory.told(size, self._device, at_once=most, step=largest):
            return self._take(order[begin:end], self._chance(epoch, step + 1))

    def train_mode(self) -> None:
        """Training mode; a pretrained network keeps its BatchNorm statistics, and its head drops nothing.

        Statistics of a few dozen photos are worse than those of the pretraining (training.md of the docs has the
        figures), and the head that fine-tuning starts from was fitted without dropout.
        """
        self._trained.train()
        if self._backbone.pretrained:
            for module in self._backbone.network.modules():
                if isinstance(module, _FIXED):
                    module.eval()

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the network has the averaged weights."""
        if not self.averages:
            yield
            return
        own = {name: value.clone() for name, value in self._state.items()}
        self._backbone.network.load_state_dict(self.averaged)
        try:
            yield
        finally:
            self._backbone.network.load_state_dict(own)

    def _take(self, positions: list[int], chance: torch.Generator) -> float:
        plan, count = self._plan, len(positions)
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=chance)) + self._world.rank)
        changes = augment.draw(count, augment.strengths(plan.augment, plan.rotation_degrees), chance)
        pairs = mixing.draw_pairs(count, mixup=plan.mixup, cutmix=plan.cutmix, chance=chance)
        share = self._world.share(count)
        values = self._images(positions, changes, torch.arange(count)[share.start : share.stop])
        targets = torch.from_numpy(self._train.targets[positions])
        chosen = None if pairs is None else pairs.partner[share.start : share.stop]
        if pairs is not None and chosen is not None:
            values = mixing.mixed(values, self._images(positions, changes, chosen), pairs)
        own, others = targets[share.start : share.stop], targets[chosen] if chosen is not None else None
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64)
        parts = pieces(len(values), whole=self._whole)
        for piece in parts:
            # Over the whole batch, so that uneven shares weigh as in one process; DDP gives the mean over processes.
            loss = self._loss(values[piece], own[piece], None if others is None else others[piece], pairs) / count
            with self._alone() if piece is not parts[-1] else nullcontext():
                (loss * self._world.size).backward()  # type: ignore[no-untyped-call]  # torch has no hint for it
            total += loss.detach().double().cpu()
        value = float(self._world.summed(total))
        if not np.isfinite(value):
            raise NotFinite(positions)
        self.optimizer.step()
        self._share_statistics()
        self._average()
        return value

    def _alone(self) -> AbstractContextManager[None]:
        """Inside, gradients are kept to this process: they travel with those of the batch's last part."""
        wrapped = self._trained
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def _loss(self, values: Tensor, own: Tensor, others: Tensor | None, pairs: mixing.Pairs | None) -> Tensor:
        """Sum of some images' losses."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._in_bfloat16):
            logits = self._trained(values)
        logits = logits.float() + self._added
        options: dict[str, Any] = {"label_smoothing": self._plan.label_smoothing, "reduction": "sum"}
        loss = functional.cross_entropy(logits, own.to(self._device), **options)
        if pairs is not None and others is not None:
            blended = functional.cross_entropy(logits, others.to(self._device), **options)
            loss = pairs.own * loss + (1 - pairs.own) * blended
        return loss

    def _images(self, positions: list[int], changes: augment.Changes, chosen: Tensor) -> Tensor:
        """The network's input for some images of a batch."""
        numbers = chosen.tolist()
        pixels = torch.from_numpy(self._train.pixels([positions[number] for number in numbers]))
        return self._backbone.normalised(augment.apply(pixels.to(self._device), changes.of(chosen)))

    def _average(self) -> None:
        """Moves the averaged weights towards the network's; few at first, so that the start is soon forgotten."""
        if not self.averages:
            return
        taken = float(self.optimizer.state[self.optimizer.param_groups[0]["params"][0]]["step"])
        decay = min(self._plan.ema_decay, (1 + taken) / (10 + taken))
        for name, value in self._state.items():
            if value.is_floating_point():
                self.averaged[name].lerp_(value, 1 - decay)
            else:
                self.averaged[name].copy_(value)

    def _share_statistics(self) -> None:
        """Gives every process the mean of all processes' BatchNorm statistics, each from its share of the batch.

        Nothing to do where they are fixed, or were computed of the whole batch (SyncBatchNorm, which CPUs lack).
        """
        if self._world.size == 1 or self._backbone.pretrained or self._device.type == "cuda":
            return
        statistics = [value for value in self._backbone.network.buffers() if value.is_floating_point()]
        if not statistics:
            return
        means = self._world.summed(torch.cat([value.flatten() for value in statistics])) / self._world.size
        begin = 0
        for value in statistics:
            value.copy_(means[begin : begin + value.numel()].view_as(value))
            begin += value.numel()

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * rate

    def _chance(self, epoch: int, step: int) -> torch.Generator:
        numbers = np.random.SeedSequence((self._plan.seed, epoch, step)).generate_state(2)
        return torch.Generator().manual_seed(int(numbers[0]) << 31 | int(numbers[1]) >> 1)


def in_bfloat16(device: torch.device) -> bool:
    """Whether steps multiply in bfloat16: on GPUs that do so themselves; those before Ampere would be slowed by it."""
    return device.type == "cuda" and fast_bfloat16(device)


def pieces(count: int, *, whole: bool) -> list[slice]:
    """Parts of a batch that go through the network one after another, their gradients summed.

    On a CPU small parts take a fraction of the whole's memory and little more time. Where BatchNorm computes its
    statistics of the batch, and on a GPU, the batch stays `whole`.
    """
    number = 1 if whole else max(1, -(-count // _PIECE))
    return [slice(count * part // number, count * (part + 1) // number) for part in range(number)]


def _optimizer(backbone: Backbone, plan: Plan) -> torch.optim.Optimizer:
    """One parameter group a parameter: the rate grows with depth, vectors (biases, norms) do not decay."""
    groups: list[dict[str, object]] = []
    for (name, parameter), depth in zip(backbone.network.named_parameters(), backbone.depths().values(), strict=True):
        share = plan.earliest_rate ** (1 - depth) if backbone.pretrained else 1.0
        decay = plan.weight_decay if parameter.ndim > 1 else 0.0
        groups.append({"params": [parameter], "share": share, "weight_decay": decay, "name": name})
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[plan.optimizer](groups, lr=plan.learning_rate)


def log_shares(targets: NDArray[np.int64], label_count: int) -> NDArray[np.float32]:
    """Logarithm of each class's share of the images: float32 [labels]; a class without any counts as one image."""
    counts = np.maximum(1, np.bincount(targets, minlength=label_count))
    shares: NDArray[np.float32] = np.log(counts / counts.sum()).astype(np.float32)
    return shares
