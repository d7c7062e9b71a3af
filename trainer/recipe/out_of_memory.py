"""Too little memory for a batch, as a sentence that says which size to try."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import TrainerError

# CUDA and NumPy have classes for it. Torch on the CPU raises RuntimeError; oneDNN says only that it could not go on.
_SAID = re.compile(r"not enough memory|out of memory|allocate memory|bad_alloc|could not (create|execute) a")


@contextmanager
def told(
    batch_size: int, device: torch.device, *, at_once: int | None = None, step: int | None = None
) -> Iterator[None]:
    """Raises TrainerError with the next size to try where the work inside runs out of memory.

    Args:
        batch_size: Images at a time, as `--batch-size` has it.
        device: Where they are.
        at_once: How many of them go through the network at once, where that is fewer: nothing else is gained by less.
        step: Images of the largest step, where the work is one.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not _SAID.search(str(error)):
            raise
        most = at_once or batch_size
        smaller = f"try {most // 2}" if most >= 4 else "try a smaller --image-px or --backbone"
        images = f", whose steps have up to {step} images" if step is not None and step != batch_size else ""
        raise TrainerError(
            f"there is not enough memory on {device} for --batch-size {batch_size}{images}; {smaller}"
        ) from error
