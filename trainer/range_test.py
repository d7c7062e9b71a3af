"""The range test of a run: from its fitted head, on its training part; its curve as CSV and PNG."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import Data
from .head_stage import frozen_head
from .planning import training_plan
from .recipe.lr_finder import Found, find
from .run_folder import write_text
from .setting import Setting


def range_test(setting: Setting, data: Data, plan: dict[str, Any], features: NDArray[np.float32] | None) -> Found:
    """The range test, from the fitted head where there is one."""
    frozen_head(setting, data, plan, features)
    return find(
        setting.backbone,
        data.part("train"),
        plan=training_plan(setting.config, plan),
        device=setting.device,
        world=setting.world,
        report=setting.progress("range test", unit="steps"),
    )


def write_found(found: Found, curve: Path, picture: Path) -> None:
    """Writes a range test's curve as CSV and as PNG."""
    from .report import plots

    write_text(curve, found.csv())
    plots.range_test(
        found.rates, found.losses, found.smoothed, picture, suggestion=found.suggestion, rises_from=found.rises_from
    )
