"""What a run's photos are taken for by heads that never saw them: each photo once, by one kind of model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .backbone import Backbone, build
from .config import RunConfig
from .head_stage import put_head
from .progress import Progress, Report
from .recipe.part import predict
from .training import Trained


@dataclass(frozen=True, kw_only=True)
class OutOfFold:
    """Answers for photos that whoever answered was not trained on.

    Attributes:
        positions: The photos, as indices into `scan.photos`, int64 [photos].
        probabilities: Float32 [photos, labels], as they are: not calibrated.
        whole: Whether training photos are among them, answered by cross-validation.
        sentence: Who answered which photos.
    """

    positions: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    whole: bool
    sentence: str


def out_of_fold(
    config: RunConfig, trained: Trained, probabilities: Mapping[str, NDArray[np.float32]], *, report: Report
) -> OutOfFold:
    """Training photos by the frozen head's cross-validation, validation and test photos by the frozen head itself.

    Without a frozen head there are validation and test photos alone, by the network. No training photo goes through the
    backbone again. Of more than 20,000 training photos cross-validation asks 20,000.

    Args:
        config: What was asked for.
        trained: What training gave, before a refit.
        probabilities: The network's answers for `val` and `test`, float32 [photos, labels], not calibrated.
        report: Where progress goes.
    """
    data, head = trained.data, trained.head
    held_out = None if head is None else head.held_out
    answers = {part: probabilities[part] for part in ("val", "test")}
    if held_out is None:
        why = "the groups of a class cannot be divided among folds" if head is not None else "there is no frozen stage"
        sentence = f"training photos have no out-of-fold answers: {why}"
    else:
        sentence = "training photos by cross-validation of the frozen head, the others by the frozen head"
        if trained.stage != "head":
            frozen = _frozen(config, trained)
            answers = {part: _answers(frozen, trained, part, report=report) for part in answers}
        answers = {"train": held_out, **answers}
    positions = np.concatenate([np.array(data.positions(part), np.int64) for part in answers])
    rows = np.concatenate(list(answers.values()))
    asked = ~np.isnan(rows).any(axis=1)
    order = np.argsort(positions[asked])
    return OutOfFold(
        positions=positions[asked][order],
        probabilities=rows[asked][order],
        whole=held_out is not None,
        sentence=sentence,
    )


def _frozen(config: RunConfig, trained: Trained) -> Backbone:
    """The network as it was before fine-tuning: its initial weights and the fitted head."""
    backbone = build(
        config.backbone,
        label_count=len(trained.data.scan.labels),
        image_px=trained.plan["image_px"],
        weights=config.weights,
    )
    backbone.network.to(trained.device)
    assert trained.head is not None
    put_head(backbone, trained.head)
    return backbone


def _answers(backbone: Backbone, trained: Trained, part: str, *, report: Report) -> NDArray[np.float32]:
    return predict(
        backbone,
        trained.data.part(part),
        batch_size=trained.plan["batch_size"],
        device=trained.device,
        report=lambda done, total: report.progress(Progress(phase=f"frozen {part}", done=done, total=total)),
    )
