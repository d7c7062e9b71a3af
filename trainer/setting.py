"""What every part of training needs, in one value."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .backbone import Backbone
from .config import RunConfig
from .progress import Progress, Report
from .world import World


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every part of training needs.

    Attributes:
        config: What to do.
        folder: The run folder.
        backbone: The network, on `device`.
        device: Where it is.
        world: The processes that train together.
        report: Where progress goes.
    """

    config: RunConfig
    folder: Path
    backbone: Backbone
    device: torch.device
    world: World
    report: Report

    @property
    def checkpoint(self) -> Path:
        """The folder of what resuming needs."""
        return self.folder / "checkpoint"

    def progress(self, phase: str, *, unit: str = "images") -> Callable[[int, int], None]:
        """Tells how far a phase is."""
        return lambda done, total: self.report.progress(Progress(phase=phase, done=done, total=total, unit=unit))
