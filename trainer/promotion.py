"""Whether a run's file becomes the next version of a model: asked of the run's own test photos, beside the newest one.

The run's answers are those of the network before any refit, which saw none of these photos; the other version answers
by its exported file, through the contract's preprocessing. What is paired is whether each photo's best class is right.
"""

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from trapline import model_file
from trapline.processors import thread_count

from .config import RunConfig
from .errors import UsageError
from .evaluate.model import ExportedModel, classify_files, load
from .evaluate.paired import mcnemar
from .progress import Progress, Report
from .publish import publish
from .run_folder import RunFolder

_Promote = Literal["if_better", "always", "never"]


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
        p_value: Of McNemar's test of the two counts.
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


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of the file.

    Attributes:
        promoted: Whether it becomes the next version.
        reason: Why, in a sentence.
        comparison: The figures; None where there was nothing to compare with.
    """

    promoted: bool
    reason: str
    comparison: Comparison | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The verdict that `asdict` gave."""
        comparison = values["comparison"]
        return cls(**{**values, "comparison": Comparison(**comparison) if comparison is not None else None})

    def facts(self, model_id: str, version: str | None) -> dict[str, Any]:
        """The same for `metrics.json`, with the id and the version that it became."""
        comparison = asdict(self.comparison) if self.comparison is not None else None
        return {"model_id": model_id, "version": version, "reason": self.reason, "comparison": comparison}


def judged(
    run: Path,
    models: Path,
    model_id: str,
    *,
    photos: Path,
    promote: _Promote,
    threads: int,
    report: Report,
) -> Verdict:
    """Whether the file of a run becomes the next version.

    Args:
        run: The run folder, with `model.onnx` and `predictions.csv`.
        models: The model repository.
        model_id: The model's id in it.
        photos: The folder that paths in `predictions.csv` are relative to.
        promote: `if_better` where it is right on more photos than the newest version; `always`; `never`.
        threads: Decoding and inference threads.
        report: Where progress goes.
    """
    newest = newest_version(models, model_id)
    if newest is None:
        if promote == "never":
            return Verdict(promoted=False, reason=f"--promote never; {model_id} has no version yet")
        return Verdict(promoted=True, reason=f"it is the first version of {model_id}")
    try:
        other = load(newest, threads=threads)
    except UsageError as error:
        reason = f"version {newest.parent.name} cannot be asked ({error})"
        return Verdict(
            promoted=promote != "never", reason=reason if promote != "never" else f"--promote never; {reason}"
        )
    mine = load(run / model_file.file_name(), threads=1)
    answers = _test_answers(run)
    right = _right(other, answers, photos=photos, threads=threads, report=report)
    return _verdict(_compared(newest.parent.name, answers, right, same_split=_same_split(mine, other)), promote)


def published(
    folder: RunFolder, models: Path, model_id: str, judge: Callable[[], Verdict]
) -> tuple[Verdict, Path | None]:
    """Publishes what is to be, once, also where an earlier process was killed between publishing and saying so.

    Args:
        folder: The run's, with its file.
        models: The model repository.
        model_id: The id to publish under.
        judge: Says whether the file is to be published; not asked again where that has been done already.

    Returns:
        The verdict, and the version's folder; None where it was not promoted.
    """
    model = folder.path / model_file.file_name()
    earlier = folder.state.get("publishing")
    for version in models.glob(f"{model_id}/[0-9]*/{model.name}") if earlier else ():
        if hashlib.sha256(version.read_bytes()).hexdigest() == earlier:
            return Verdict.of(folder.state["verdict"]), version.parent
    verdict = judge()
    if not verdict.promoted:
        return verdict, None
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    folder.set_state("running", publishing=digest, verdict=asdict(verdict))
    return verdict, publish(model, models, model_id)


def publication(config: RunConfig, folder: RunFolder, *, photos: Path, report: Report) -> tuple[dict[str, Any], str]:
    """Publishes a run's file where it is promoted; gives the facts for `metrics.json`, and a sentence."""
    models, model_id = config.publish, config.model_id
    assert models is not None
    assert model_id is not None

    def judge() -> Verdict:
        return judged(
            folder.path,
            models,
            model_id,
            photos=photos,
            promote=config.promote,
            threads=thread_count("auto"),
            report=report,
        )

    verdict, version = published(folder, models, model_id, judge)
    facts = verdict.facts(model_id, version.name if version is not None else None)
    if version is not None:
        return facts, f"published {model_id} version {version.name}: {version} ({verdict.reason})"
    by_hand = f"trainer publish {folder.path} {models} --model-id {model_id}"
    return facts, f"not published: {verdict.reason}; `{by_hand}` publishes it all the same"


def newest_version(models: Path, model_id: str) -> Path | None:
    """The fp32 file of the newest version in the repository; None where there is none."""
    found = models.glob(f"{model_id}/*/{model_file.file_name()}")
    numbered = [path for path in found if path.parent.name.isascii() and path.parent.name.isdigit()]
    return max(numbered, key=lambda path: int(path.parent.name), default=None)


def _verdict(found: Comparison, promote: _Promote) -> Verdict:
    mine, others = (round(share * found.image_count) for share in (found.accuracy, found.other_accuracy))
    figures = (
        f"right on {mine} of {found.image_count} test photos, version {found.version} on {others} "
        f"(McNemar p {found.p_value:.2g})"
    )
    if not found.same_split:
        figures += (
            f"; version {found.version} was made by another split and may have been trained on some of them, so it "
            "may look better than it is"
        )
    if promote == "if_better":
        better = found.only_new_right_count > found.only_other_right_count
        return Verdict(promoted=better, reason=f"{'better' if better else 'not better'}: {figures}", comparison=found)
    return Verdict(promoted=promote == "always", reason=f"--promote {promote}; {figures}", comparison=found)


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
) -> list[bool]:
    """Whether the other version is right on each photo: never where it does not know the photo's class."""
    total = len(answers)
    rows = classify_files(
        other,
        [photos / path for path, _, _ in answers],
        threads=threads,
        report=lambda done: report.progress(Progress(phase="compare", done=done, total=total)),
    )
    return [
        not isinstance(scores, str) and other.labels[int(scores[: len(other.labels)].argmax())] == label
        for (_, label, _), (_, scores) in zip(answers, rows, strict=True)
    ]


def _compared(
    version: str, answers: Sequence[tuple[str, str, str]], other_right: Sequence[bool], *, same_split: bool
) -> Comparison:
    new_right = [label == predicted for _, label, predicted in answers]
    pairs = list(zip(new_right, other_right, strict=True))
    only_new, only_other = pairs.count((True, False)), pairs.count((False, True))
    return Comparison(
        version=version,
        image_count=len(pairs),
        accuracy=sum(new_right) / len(pairs),
        other_accuracy=sum(other_right) / len(pairs),
        only_new_right_count=only_new,
        only_other_right_count=only_other,
        p_value=mcnemar(only_new, only_other)[0],
        same_split=same_split,
    )


def _same_split(mine: ExportedModel, other: ExportedModel) -> bool:
    ours, theirs = mine.metadata, other.metadata
    same = (ours.data_digest, ours.split_digest) == (theirs.data_digest, theirs.split_digest)
    # A head that was fitted again at the end saw the test photos of its own split.
    return same and theirs.refit != "all"
