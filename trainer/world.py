"""The processes that train one model together: one alone, or those that `torchrun` started.

Torch is imported only where there is more than one. Every process runs the same functions in the same order; what one
of them decides reaches the others through `told`, and what each computed of its share through `gathered`.

Two groups of all processes: one for steps, where none is long behind the others, so that a machine that vanished is
noticed in minutes; and a patient one for all else, where the first process may scan a million photos while the others
wait for it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .errors import TrainerError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.distributed import ProcessGroup

Value = TypeVar("Value")

_LONGEST_STEP = timedelta(minutes=30)
_LONGEST_WAIT = timedelta(days=2)


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's place among those of one run.

    Attributes:
        rank: Its number among all, from 0; the first one alone writes.
        size: Their number.
        local_rank: Its number on its machine, which is that of its GPU.
        local_size: The number of processes on its machine.
        patient: The group of all processes in which they wait long for each other; None for one alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    patient: "ProcessGroup | None" = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The part of `count` things in a row that falls to this process; shares differ by at most one."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def told(self, value: Value) -> Value:
        """The first process's `value`, in every process; what the others pass is dropped."""
        if self.size == 1:
            return value
        import torch.distributed

        holder = [value if self.first else None]
        torch.distributed.broadcast_object_list(holder, group=self.patient)
        return holder[0]  # type: ignore[return-value]  # the first process's value, which is a Value

    def gathered(self, rows: "NDArray[Any]") -> "NDArray[Any]":
        """The rows of every process's share, in the order of the whole, in every process."""
        if self.size == 1:
            return rows
        import numpy as np
        import torch.distributed

        parts: list[NDArray[np.generic] | None] = [None] * self.size
        torch.distributed.all_gather_object(parts, rows, group=self.patient)
        return np.concatenate([part for part in parts if part is not None])

    def unlike_first(self, value: str) -> int | None:
        """The first of the processes whose `value` is not that of process 0, told to all; None where all agree."""
        if self.size == 1:
            return None
        import numpy as np

        values = self.gathered(np.array([value]))
        return next((rank for rank, other in enumerate(values) if other != values[0]), None)

    def summed(self, values: "Tensor") -> "Tensor":
        """The sum of every process's `values` of a step, of one shape and on the CPU; `values` itself holds it too."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.barrier(self.patient)

    def once_a_machine(self, work: Callable[[], Value]) -> Value:
        """What `work` gives: its first process on each machine does it, the others after it, with what it left."""
        if self.local_rank > 0:
            self.wait()
        done = work()
        if self.local_rank == 0:
            self.wait()
        return done

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Turns what torch raises inside where another process has ended into a sentence, said once a machine."""
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            if self.size == 1 or not ("gloo" in reason or "NCCL" in reason or "Dist" in type(error).__name__):
                raise
            if self.local_rank > 0:
                raise SystemExit(1) from error
            raise TrainerError(
                "another process of this run has ended or cannot be reached; look at what it said last, and run the "
                f"same command again to go on ({reason[:200]})"
            ) from error


@contextmanager
def joined_world() -> Iterator[World]:
    """This process's world: that which `torchrun` describes in the environment, else itself alone.

    Raises:
        UsageError: The machine has GPUs, and fewer of them than processes.
        TrainerError: Another process of the world has ended.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield World()
        return
    import torch
    import torch.distributed

    # Other launchers start one process a machine and name no local rank.
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # Objects and figures travel by gloo, gradients on GPUs by NCCL.
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        if local_size > torch.cuda.device_count():
            raise UsageError(
                f"{local_size} processes were started on a machine with {torch.cuda.device_count()} GPUs; start one a "
                "GPU (torchrun --nproc-per-node gpu), or hide the GPUs (CUDA_VISIBLE_DEVICES=) to train without them"
            )
        torch.cuda.set_device(local_rank)
    world = World(rank=int(os.environ["RANK"]), size=size, local_rank=local_rank, local_size=local_size)
    with world.connected():
        torch.distributed.init_process_group(backend, timeout=_LONGEST_STEP)
        try:
            patient = torch.distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT)
            yield replace(world, patient=cast("ProcessGroup", patient))
        finally:
            torch.distributed.destroy_process_group()
