"""The plots and pictures of a finished run, made again from its folder and its photos."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trapline.processors import thread_count

from ..config import ReportConfig
from ..errors import DatasetError, UsageError
from ..progress import Report
from ..run_folder import PLAN_FILE, RunFolder, open_finished, read_json, read_tensors
from ..torch_import import import_torch

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..data import Data

_MODEL_FILE = "model.onnx"


def rebuild(run: Path, config: ReportConfig, report: Report) -> bool:
    """Makes the plots of a finished run again, and its pictures where its photos are still there.

    Where they are not, says so and leaves the pictures as they are; those that show photos only where they may.

    Returns:
        Whether the pictures were made.

    Raises:
        UsageError: `run` is no folder of a run that is done, or lacks a file that a run leaves.
    """
    import_torch()
    from .. import first_epochs
    from ..evaluate.model import load
    from ..run_data import run_data
    from .figures import draw
    from .photo_sheets import remove_photos
    from .thumbnails import THUMBNAILS_FILE

    with open_finished(run) as folder:
        metrics, plan = read_json(run / "metrics.json"), read_json(run / PLAN_FILE)
        draw(metrics, plan, run / "plots", epochs=folder.state["config"]["epochs"])
        first_epochs.drawn(run, metrics)
        if not config.images:
            # Whether or not the photos are still there.
            remove_photos(run)
            for shown in (run / "plots" / "suspects.png", run / THUMBNAILS_FILE):
                shown.unlink(missing_ok=True)
        metadata = load(run / _MODEL_FILE, threads=1).metadata
        try:
            data, cache_dir = _found(config, folder)
            with run_data(
                run, metadata, data=data, cache_dir=cache_dir, cache_gib=config.cache_gib, report=report
            ) as photos:
                _write(folder, photos, images=config.images, report=report)
        except (UsageError, DatasetError, OSError) as error:
            report.say(f"the pictures of photos stay as they are: {error}")
            return False
    return True


def read_probabilities(path: Path, data: "Data", part: str) -> NDArray[np.float32]:
    """What a run's `predictions.csv` has of one part: float32 [photos of the part, labels].

    Raises:
        UsageError: The file is missing, or has no answer for one of the photos.
    """
    columns = [f"probability_{label}" for label in data.scan.labels]
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            answers = {row["path"]: [float(row[column]) for column in columns] for row in csv.DictReader(file)}
        rows = [answers[data.scan.photos[position].path] for position in data.positions(part)]
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(f"{path} has no answers for the run's {part} photos ({error!r}); run it again") from error
    return np.array(rows, dtype=np.float32).reshape(-1, len(columns))


def _found(config: ReportConfig, folder: RunFolder) -> tuple[Path, Path | None]:
    """Where the photos and their decoded pixels are."""
    known = folder.state.get("places", {})
    if config.data is None and "data" not in known:
        raise UsageError(f"--data is required: the run in {folder.path} does not say where its photos are")
    cache_dir = config.cache_dir or (Path(known["cache_dir"]) if "cache_dir" in known else None)
    return config.data or Path(known["data"]), cache_dir


def _write(folder: RunFolder, data: "Data", *, images: bool, report: Report) -> None:
    import torch

    from .pictures import write_pictures
    from .suspect_sheet import draw_suspects
    from .thumbnails import THUMBNAILS_FILE, shown_positions, write_thumbnails

    torch.set_num_threads(thread_count("auto"))
    plan = read_json(folder.path / PLAN_FILE)
    write_pictures(
        _network(folder.path, data.scan.labels, image_px=plan["image_px"], pretrained=plan["pretrained"]),
        data,
        {"test": read_probabilities(folder.path / "predictions.csv", data, "test")},
        folder.path,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        report=report,
        head_only=plan["stage"] == "head",
        images=images,
        seed=folder.state["config"]["seed"],
    )
    if images:
        draw_suspects(data, folder.path)
        write_thumbnails(data, shown_positions(data, folder.path), folder.path / THUMBNAILS_FILE)


def _network(run: Path, labels: Sequence[str], *, image_px: int, pretrained: bool) -> "Backbone":
    from ..backbone import restored

    tensors, facts = read_tensors(run / "weights.safetensors")
    return restored(facts["backbone"], tensors, label_count=len(labels), image_px=image_px, pretrained=pretrained)
