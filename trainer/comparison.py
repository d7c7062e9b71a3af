"""A run's file and another version of the model, paired on the run's own test photos.

The run's answers are those of the network before any refit, which saw none of these photos; parity has shown that the
exported file gives them too. The other version answers by its exported file, through the contract's preprocessing. What
is paired is whether each photo's best class is right.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trapline import model_file

from .errors import UsageError
from .evaluate.model import ExportedModel, classify_files, load
from .evaluate.paired import exact_mcnemar
from .progress import Progress, Report


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The run's file beside another version, on the run's test photos.

    Attributes:
        version: The other one.
        image_count: Photos that both were asked about.
        accuracy: Share that the run's file is right on, in [0, 1].
        other_accuracy: Share that the other one is right on.
        only_new_right_count: Photos that only the run's file is right on.
        only_other_right_count: Photos that only the other one is right on.
        p_value: Of McNemar's exact test of the two counts, two-sided.
        same_split: Whether the other one was trained and chosen by the same parts of the same photos, so that it saw
            none of these.
    """

    version: str
    image_count: int
    accuracy: float
    other_accuracy: float
    only_new_right_count: int
    only_other_right_count: int
    p_value: float
    same_split: bool


def opened(path: Path, *, threads: int) -> ExportedModel:
    """The exported file at `path`, once it has answered.

    Raises:
        UsageError: It cannot be read, is no exported file, or does not answer.
    """
    model = load(path, threads=threads)
    rules = model.metadata.preprocessing
    try:
        # Two images: a server asks about several at once.
        shape = model.probabilities(np.zeros((2, rules.height_px, rules.width_px, 3), np.uint8)).shape
    except Exception as error:  # ONNX Runtime raises classes of its own for each kind of bad file
        raise UsageError(f"{path} cannot be run") from error
    if shape != (2, len(model.labels)):
        raise UsageError(f"{path} does not answer with one probability a label")
    return model


def compared(
    run: Path, other: ExportedModel, version: str, *, photos: Path, threads: int, report: Report
) -> Comparison | None:
    """The file of a run beside another version; None where none of the test photos can be read any more.

    Args:
        run: The run folder, with `model.onnx` and `predictions.csv`.
        other: The other version, as `opened` gave it.
        version: Its number.
        photos: The folder that paths in `predictions.csv` are relative to.
        threads: Decoding threads.
        report: Where progress goes.
    """
    mine, answers = load(run / model_file.file_name(), threads=1), _test_answers(run)
    right = _right(other, answers, photos=photos, threads=threads, report=report)
    if all(one is None for one in right):
        return None
    return paired(version, answers, right, same_split=_same_split(mine, other))


def paired(
    version: str, answers: Sequence[tuple[str, str, str]], other_right: Sequence[bool | None], *, same_split: bool
) -> Comparison:
    """The figures, of path, label and the run's predicted class of each photo, and whether the other one is right.

    Photos of which the latter is None are left out; one must remain.
    """
    pairs = [
        (label == predicted, right)
        for (_, label, predicted), right in zip(answers, other_right, strict=True)
        if right is not None
    ]
    only_new, only_other = pairs.count((True, False)), pairs.count((False, True))
    return Comparison(
        version=version,
        image_count=len(pairs),
        accuracy=sum(new for new, _ in pairs) / len(pairs),
        other_accuracy=sum(other for _, other in pairs) / len(pairs),
        only_new_right_count=only_new,
        only_other_right_count=only_other,
        p_value=exact_mcnemar(only_new, only_other),
        same_split=same_split,
    )


def _test_answers(run: Path) -> list[tuple[str, str, str]]:
    """Path, label and predicted class of each test photo."""
    with (run / "predictions.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [(row["path"], row["label"], row["predicted"]) for row in csv.DictReader(file) if row["part"] == "test"]


def _right(
    other: ExportedModel,
    answers: Sequence[tuple[str, str, str]],
    *,
    photos: Path,
    threads: int,
    report: Report,
) -> list[bool | None]:
    """Whether the other version is right on each photo: never where it does not know the photo's class.

    None for a photo that cannot be read any more: that is no fault of the version's.
    """
    total = len(answers)
    rows = classify_files(
        other,
        [photos / path for path, _, _ in answers],
        threads=threads,
        report=lambda done: report.progress(Progress(phase="compare", done=done, total=total)),
    )
    right: list[bool | None] = []
    for (_, label, _), (_, scores) in zip(answers, rows, strict=True):
        if isinstance(scores, str):
            right.append(None)
        else:
            shares = scores[: len(other.labels)]
            # Of answers that are no numbers argmax would name the first.
            right.append(bool(np.isfinite(shares).all()) and other.labels[int(shares.argmax())] == label)
    return right


def _same_split(mine: ExportedModel, other: ExportedModel) -> bool:
    ours, theirs = mine.metadata, other.metadata
    same = (ours.data_digest, ours.split_digest) == (theirs.data_digest, theirs.split_digest)
    # A head that was fitted again at the end saw the test photos of its own split.
    return same and theirs.refit != "all"
