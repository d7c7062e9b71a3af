"""What a finished run answered for its test photos, by the photos' contents, and what keeps runs from comparison."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..dataset.layout import shown
from ..errors import UsageError
from ..run_folder import finished_state, read_json


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a run said of a test photo.

    Attributes:
        path: The photo's, in the run's data folder.
        label: Its class.
        predicted: The class that the run took it for.
        group: The group that it was split with.
    """

    path: str
    label: str
    predicted: str
    group: str


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A finished run's test photos; photos are known by the SHA-256 of their bytes.

    Attributes:
        run: The run folder as it was named.
        labels: Its classes.
        test: SHA-256 -> what it said of that test photo.
        trained_on: SHA-256 of the photos that it was trained on.
        groups_known: False where no rule grouped its photos: each is a group then, but bursts may be among them.
    """

    run: Path
    labels: tuple[str, ...]
    test: dict[str, Answer]
    trained_on: frozenset[str]
    groups_known: bool


def read_answers(run: Path) -> Answers:
    """The answers of the run in `run`.

    Raises:
        UsageError: It is no run folder, the run is not done, or a file of it is missing.
    """
    if not run.is_dir():
        raise UsageError(f"there is no folder {run}; name the folders of finished runs")
    finished_state(run)
    if (run / "study.json").exists():
        advice = f"name runs, such as those under {run / 'points'}"
        if not any(run.glob("points/*/state.json")):
            advice = "its points are no runs (--epochs 0); compare runs that `trainer run` made"
        raise UsageError(f"{run} is a study; {advice}")
    sha256 = {row["path"]: row["sha256"] for row in _rows(run / "scan.csv") if row["status"] == "ok"}
    split = {row["path"]: row for row in _rows(run / "split.csv")}
    test = {}
    for row in _rows(run / "predictions.csv"):
        if row["part"] == "test":
            path = row["path"]
            test[sha256[path]] = Answer(
                path=path, label=row["label"], predicted=row["predicted"], group=split[path]["group"]
            )
    metrics = read_json(run / "metrics.json")
    return Answers(
        run=run,
        labels=tuple(metrics["labels"]),
        test=test,
        trained_on=frozenset(sha256[path] for path, row in split.items() if row["part"] == "train"),
        groups_known=metrics["split"]["rule"] != "none",
    )


def shared_photos(runs: Sequence[Answers]) -> list[str]:
    """SHA-256 of the test photos that all runs have, sorted.

    Raises:
        UsageError: The runs cannot be compared: other classes, photos that one tested and another was trained on,
            photos whose class was changed in between, or none in common.
    """
    for number, first in enumerate(runs):
        for second in runs[number + 1 :]:
            _check_labels(first, second)
            _check_training(first, second)
            _check_training(second, first)
            _check_truth(first, second)
    common = sorted(set.intersection(*(set(run.test) for run in runs)))
    if not common:
        raise UsageError(f"{_listed(runs)} have no test photo in common; train them on the same photos with one split")
    return common


def _check_labels(first: Answers, second: Answers) -> None:
    if set(first.labels) != set(second.labels):
        raise UsageError(
            f"{first.run} and {second.run} tell other classes apart ({_classes(first)}; {_classes(second)}); only runs "
            "of the same classes can be compared"
        )


def _check_training(first: Answers, second: Answers) -> None:
    seen = [answer for sha256, answer in first.test.items() if sha256 in second.trained_on]
    if seen:
        raise UsageError(
            f"{len(seen)} of the {len(first.test)} test photos of {first.run} were trained on in {second.run}, e.g. "
            f"{shown(seen[0].path)}: it would know them by heart; give both runs the same --seed, shares and groups"
        )


def _check_truth(first: Answers, second: Answers) -> None:
    changed = [
        (answer, second.test[sha256])
        for sha256, answer in first.test.items()
        if sha256 in second.test and second.test[sha256].label != answer.label
    ]
    if changed:
        old, new = changed[0]
        raise UsageError(
            f"{len(changed)} test photos have another class in {second.run} than in {first.run}, e.g. "
            f"{shown(old.path)}: {shown(new.label)} instead of {shown(old.label)}; train both on the same labels"
        )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise UsageError(
            f"cannot read {path} ({error.strerror}); name the folder of a finished `trainer run`"
        ) from error


def _classes(run: Answers) -> str:
    return ", ".join(shown(label) for label in run.labels)


def _listed(runs: Sequence[Answers]) -> str:
    return " and ".join(str(run.run) for run in runs)
