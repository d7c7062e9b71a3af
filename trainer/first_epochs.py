"""What validation photos were taken for before fine-tuning and after its first epoch, beside what is exported.

Kept while training goes on, in `checkpoint/`, because only then the network has those weights.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import Data
from .errors import TrainerError
from .run_folder import read_json, write_json
from .setting import Setting

_EPOCHS = (0, 1)
_FILE = Path("checkpoint") / "first_epochs.json"


def keep(setting: Setting, data: Data, epoch: int, predicted: NDArray[np.int64]) -> None:
    """Writes the confusion matrix of validation after `epoch`, where that is one of the first; in the first process."""
    if epoch not in _EPOCHS or not setting.world.first:
        return
    path = setting.folder / _FILE
    known = read_json(path) if epoch and path.is_file() else {}
    confusion = np.zeros((len(data.scan.labels),) * 2, np.int64)
    np.add.at(confusion, (data.targets(data.positions("val")), predicted), 1)
    # A full disk must not end training, which says itself that it can't write.
    with suppress(TrainerError):
        write_json(path, known | {str(epoch): confusion.tolist()})


def drawn(folder: Path, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The kept matrices as `epoch` and `confusion`, and draws them beside that of the exported epoch.

    Args:
        folder: The run folder.
        metrics: What `metrics.json` holds otherwise.

    Returns:
        The rows; empty where no layers were trained.
    """
    path = folder / _FILE
    if not metrics["history"] or not path.is_file():
        return []
    from .report.epoch_matrices import confusion_matrices

    known = read_json(path)
    rows = [{"epoch": epoch, "confusion": known[str(epoch)]} for epoch in _EPOCHS if str(epoch) in known]
    exported = metrics["epoch"]
    shown = [(_title(row["epoch"], exported=exported), row["confusion"]) for row in rows]
    if exported not in [row["epoch"] for row in rows]:
        shown.append((_title(exported, exported=exported), metrics["validation"]["confusion"]))
    confusion_matrices(shown, metrics["labels"], folder / "plots" / "confusion_first_epochs.png")
    return rows


def _title(epoch: int, *, exported: int) -> str:
    when = f"after epoch {epoch}" if epoch else "before the first epoch"
    return f"{when}, exported" if epoch == exported else when
