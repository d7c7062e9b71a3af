"""The pictures of a run that are made from its photos, and `pictures.json`, which says what is on each.

Every photo is drawn from the pixels that the network sees, so no picture carries anything else of a photo's file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..backbone import Backbone
from ..data import Data
from ..progress import Progress, Report
from ..run_folder import write_json
from .answers import Answers
from .layer_sheets import activations, heat_sheet, map_sheet, shares_sentence, typical
from .photo_sheets import PICTURES_FILE, Picture, class_sheets, prediction_sheets, remove_photos, sample_sheet
from .summary import write_summary


def write_pictures(
    backbone: Backbone,
    data: Data,
    probabilities: Mapping[str, NDArray[np.float32]],
    folder: Path,
    *,
    device: torch.device,
    report: Report,
    head_only: bool = False,
    images: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes the pictures into `plots/` and `pictures.json`; gives what that file holds.

    Args:
        backbone: The network that is exported.
        data: The photos and their parts.
        probabilities: By part, float32 [photos of the part, labels]; `test` is shown.
        folder: The run folder.
        device: Where the network works.
        report: Where progress goes.
        head_only: Whether the run trained the head alone.
        images: Without them nothing is written that shows a photo or names its file.
        seed: Of the samples.

    Returns:
        `pictures`: of each its `file`, `kind`, `title`, `sentence` (how to read it) and `photos`, in the order on the
        sheet (`path`, `true`; with an answer `predicted`, its `score`, and `true_score`). `non_zero_shares`: `layer`,
        `share`, `channels`, `side` of each depth, with `non_zero_image_count` and `non_zero_sentence`.
        `model_summary`: `rows`, `parameter_count`, `trainable_count`. `notes`: sentences on what is missing.
    """
    backbone.network.to(device)
    seen = Answers(data=data, part="test", probabilities=probabilities["test"])
    pictures: list[Picture] = []
    notes: list[str] = []

    def tell(done: int) -> None:
        report.progress(Progress(phase="pictures", done=done, total=4, unit="pictures"))

    tell(0)
    if images:
        pictures += [sample_sheet(data, folder, seed=seed), *prediction_sheets(seen, folder, seed=seed)]
        pictures += class_sheets(seen, folder, notes)
    tell(1)
    if images:
        pictures += heat_sheet(seen, backbone, folder, notes)
    tell(2)
    mapped = typical(seen)
    depths, count = activations(seen, backbone, mapped, shown=images, seed=seed)
    if images and depths:
        pictures.append(map_sheet(seen, mapped, depths, folder))
    tell(3)
    summary = write_summary(
        backbone,
        folder / "plots" / "model_summary.txt",
        image_px=data.pixels([0]).shape[1],
        head_only=head_only,
    )
    found = {
        "pictures": pictures,
        "non_zero_shares": [
            {"layer": depth.name, "share": depth.share, "channels": depth.channel_count, "side": depth.side}
            for depth in depths
        ],
        "non_zero_image_count": count,
        "non_zero_sentence": shares_sentence(depths, count),
        "model_summary": summary,
        "notes": notes if images else ["--no-images: no picture shows a photo"],
    }
    remove_photos(folder, but=[picture["file"] for picture in pictures])
    write_json(folder / PICTURES_FILE, found)
    tell(4)
    return found
