"""Whether a run's file becomes the next version of a model, beside the newest one; and publishing it, once."""

import functools
import hashlib
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from trapline import model_file
from trapline.processors import thread_count

from .comparison import Comparison, compared, opened
from .config import RunConfig
from .errors import UsageError
from .progress import Report
from .publish import VersionAppeared, newest_number, publish
from .run_folder import RunFolder, write_atomically

_Promote = Literal["if_better", "always", "never"]


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
        other = opened(newest, threads=threads)
    except UsageError as error:
        return _unasked(newest, error, promote)
    found = compared(run, other, newest.parent.name, photos=photos, threads=threads, report=report)
    if found is None:
        return _unknown(newest, "none of the test photos can be read any more", promote)
    return _verdict(found, promote)


def published(
    folder: RunFolder, models: Path, model_id: str, judge: Callable[[], Verdict]
) -> tuple[Verdict, Path | None]:
    """Publishes what is to be, once, also where an earlier process was killed between publishing and saying so.

    Args:
        folder: The run's, with its file; where it was published already, that file takes its place again.
        models: The model repository.
        model_id: The id to publish under.
        judge: Says whether the file is to be published; not asked again where that has been done already, and once
            more where another version appeared meanwhile.

    Returns:
        The verdict, and the version's folder; None where it was not promoted.
    """
    model = folder.path / model_file.file_name()
    version = published_before(folder, models, model_id)
    if version is not None:
        # Exported again it is another file, and what is made of the run's must belong to the one that is served.
        write_atomically(model, functools.partial(shutil.copyfile, version))
        return Verdict.of(folder.state["verdict"]), version.parent
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    while True:
        judged_after = newest_number(models / model_id)
        verdict = judge()
        if not verdict.promoted:
            return verdict, None
        folder.set_state("running", publishing=digest, verdict=asdict(verdict))
        with suppress(VersionAppeared):
            return verdict, publish(model, models, model_id, after=judged_after)


def published_before(folder: RunFolder, models: Path, model_id: str) -> Path | None:
    """The file of the version that an earlier process of the run published; None where none did."""
    earlier = folder.state.get("publishing")
    versions = models.glob(f"{model_id}/[0-9]*/{model_file.file_name()}") if earlier else ()
    return next((path for path in versions if hashlib.sha256(path.read_bytes()).hexdigest() == earlier), None)


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


def _unasked(newest: Path, error: UsageError, promote: _Promote) -> Verdict:
    """Where the newest version does not answer: a broken file serves nobody, one that is only out of reach may."""
    # Reasons are told to clients, who have no business with paths of this machine.
    why = str(error).replace(str(newest), newest.name)
    if isinstance(error.__cause__, OSError):
        return _unknown(newest, why, promote)
    reason = f"version {newest.parent.name} is broken ({why})"
    if promote == "if_better":
        return Verdict(promoted=True, reason=f"{reason}: it is replaced, with nothing to compare with")
    return Verdict(promoted=promote == "always", reason=f"--promote {promote}; {reason}")


def _unknown(newest: Path, why: str, promote: _Promote) -> Verdict:
    """Where nobody can say which is better: what is served stays."""
    reason = f"not compared with version {newest.parent.name}: {why}"
    asked = "" if promote == "if_better" else f"--promote {promote}; "
    return Verdict(promoted=promote == "always", reason=asked + reason)


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
