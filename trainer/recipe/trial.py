"""What an image costs in seconds and bytes, measured within a second on a copy of the network that is thrown away."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..backbone import Backbone
from ..world import World
from . import probe
from .part import Part, predict
from .plan import Plan
from .schedule import largest_step
from .steps import Steps, pieces

_SECONDS_AT_ONCE, _LONGEST_SECONDS = 0.25, 2.5
_FEWEST = 2


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one image costs.

    Attributes:
        feature_seconds: To pass through the frozen network for the head.
        forward_seconds: To be predicted.
        forward_bytes: What the layer that gives most gives for it.
        step_seconds: Its share of a training step; 0 where nothing is trained.
        step_bytes: What a step keeps of it for the way back, likewise.
        fixed_step_bytes: What a step keeps beside that, whatever the number of images.
    """

    feature_seconds: float
    forward_seconds: float
    forward_bytes: int
    step_seconds: float = 0.0
    step_bytes: int = 0
    fixed_step_bytes: int = 0


def measure(backbone: Backbone, train: Part, *, plan: Plan, device: torch.device, bfloat16: bool, steps: bool) -> Trial:
    """What one image costs on this machine, now; network, gradients and the state of chance stay as they are.

    Args:
        backbone: The network, on `device`.
        train: Training images.
        plan: What the unfrozen stage is told.
        device: Where the network is.
        bfloat16: Whether features are computed in bfloat16.
        steps: Whether there will be training steps.
    """
    own = replace(backbone, network=copy.deepcopy(backbone.network))
    most, of_step = min(plan.batch_size, len(train.targets)), largest_step(len(train.targets), plan.batch_size)
    few = replace(train, targets=train.targets[:of_step], names=train.names[:of_step])

    def features(count: int) -> None:
        probe.features(
            own,
            few.pixels,
            count,
            batch_size=count,
            device=device,
            bfloat16=bfloat16,
            report=lambda _done, _total: None,
        )

    given: list[float] = []

    def forward(count: int) -> None:
        with _outputs(own.network) as sizes:
            predict(own, replace(few, targets=few.targets[:count]), batch_size=count, device=device)
        given.append(max(sizes, default=0) / count)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        forward_seconds = _seconds(forward, plan.batch_size, most, device)
        feature_seconds = _seconds(features, plan.batch_size, most, device) if bfloat16 else forward_seconds
        trial = Trial(
            feature_seconds=feature_seconds,
            forward_seconds=forward_seconds,
            forward_bytes=int(max(given)),
        )
        if not steps:
            return trial
        alone = Steps(own, few, plan=replace(plan, batch_size=of_step), device=device, world=World())
        return _with_steps(trial, own, alone, most=of_step, device=device)


def _with_steps(trial: Trial, own: Backbone, steps: Steps, *, most: int, device: torch.device) -> Trial:
    """The trial with what a training step of `most` images costs, each step on the first images of one order."""
    order = steps.order(1)
    kept: dict[int, int] = {}
    steps.train_mode()

    def step(count: int) -> None:
        with _saved_for_backward(own.network) as saved:
            # At no rate: what the weights become is of no interest, but numbers they should stay.
            steps.take(order[:count], epoch=1, step=0, rate=0.0)
        kept[count] = sum(saved.values())

    at_once = images_at_once(most, whole=not own.pretrained or device.type == "cuda")
    seconds = _seconds(step, most, at_once, device)
    fewest, largest = min(kept), max(kept)
    an_image = kept[fewest] // fewest
    if largest > fewest:
        an_image = (kept[largest] - kept[fewest]) // (largest - fewest)
    return replace(
        trial,
        step_seconds=seconds,
        step_bytes=an_image,
        fixed_step_bytes=max(0, kept[fewest] - fewest * an_image),
    )


def images_at_once(batch_size: int, *, whole: bool) -> int:
    """Most images of a batch that a training step has in the network at the same time."""
    sizes: list[int] = [piece.stop - piece.start for piece in pieces(batch_size, whole=whole)]
    return max(sizes)


def _seconds(work: Callable[[int], None], batch_size: int, most: int, device: torch.device) -> float:
    """Seconds of an image in `work(count)` with `batch_size` of them; tried with as many as a short time allows.

    Args:
        work: What is measured.
        batch_size: Images that it will have.
        most: Images that it may be tried with at most.
        device: Where it works.
    """
    fewest = min(most, _FEWEST)
    first = _timed(work, fewest, device)
    if first > _LONGEST_SECONDS:
        return first / fewest
    few = _timed(work, fewest, device)
    count = min(most, max(2 * fewest, int(fewest * _SECONDS_AT_ONCE / few)))
    if count == fewest:
        return few / fewest
    many = _timed(work, count, device)
    # Some of it is the same for any number of images; a busy machine must not make more than half of it so.
    an_image = min(many / count, max(many / count / 2, (many - few) / (count - fewest)))
    return max(many / count / 2, (many + (batch_size - count) * an_image) / batch_size)


def _timed(work: Callable[[int], None], count: int, device: torch.device) -> float:
    began = time.perf_counter()
    work(count)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


@contextmanager
def _outputs(network: nn.Module) -> Iterator[list[int]]:
    """The bytes of what each layer gives inside."""
    sizes: list[int] = []

    def seen(_layer: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    handles = [module.register_forward_hook(seen) for module in network.modules()]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _saved_for_backward(network: nn.Module) -> Iterator[dict[int, int]]:
    """The bytes of each piece of memory that is kept for the way back inside, the network's own left out."""
    own = {value.untyped_storage().data_ptr() for value in network.state_dict().values()}
    sizes: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield sizes
