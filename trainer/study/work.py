"""A study from options to figures: one scan, one split, every point, and what they say together.

Torch is imported in the background while the scan decodes photos, as in `trainer.run`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from trapline.processors import thread_count

from ..config import StudyConfig
from ..data import Data
from ..dataset.fingerprint import fingerprint
from ..errors import UsageError
from ..memory import keep_freed_memory
from ..progress import Progress, Report
from ..run import recorded, scanned
from ..run_folder import PLAN_FILE, RunFolder, read_json, write_json
from ..torch_import import importing_torch
from ..world import World
from .points import Point, Task, read_point, tasks, write_point
from .summary import HeldOut, summarised
from .tables import result, write_csv, write_epochs

_STATE = "state.json"


def check_folder(path: Path) -> None:
    """Refuses the folder of a run.

    Raises:
        UsageError: `path` is one.
    """
    options = read_json(path / _STATE).get("config") if (path / _STATE).is_file() else {"verb": "study"}
    # What is no folder of either is told when it is opened.
    if isinstance(options, dict) and options.get("verb") != "study":
        raise UsageError(f"--out: {path} holds a run and no study; name a new folder")


def finished_study(config: StudyConfig, folder: RunFolder) -> str | None:
    """The result of a study that is done, of the same points and photos; None where there is work to do."""
    same = folder.state.get("points") == [config.sizes, config.repeats]
    if not folder.done or not same or folder.state.get("fingerprint") != fingerprint(config.data):
        return None
    return str(folder.state["result"])


def study(config: StudyConfig, folder: RunFolder, report: Report) -> str:
    """Trains every point that is not there yet, and says what they show; gives the result as lines.

    Args:
        config: What to do.
        folder: The opened folder; points that an earlier command finished are kept.
        report: Where progress goes.

    Raises:
        UsageError: The options or the data folder are wrong, a class has too few photos for a size, or the folder is
            another study's.
        TrainerError: The work failed; the folder's state says so.
    """
    keep_freed_memory()
    run, alone, threads = config.as_run(), World(), thread_count("auto")
    if folder.done:
        # More points, or other times of the files: until it is through it is not done.
        folder.set_state("running")
    with recorded(folder, alone), importing_torch("trainer.study.training") as imported, ExitStack() as caches:
        # Before the scan: what comes while it goes on has not been seen.
        mark = fingerprint(config.data)
        divided = scanned(run, folder, caches, threads=threads, report=report, world=alone)
        fits, choices = divided()
        data = fits(run.fit)
        wanted = tasks(config, data, folder.path)
        tested = HeldOut.of(data)
        _tell(wanted, tested, report)
        imported()

        from ..beginning import begun
        from ..planning import by_device, earlier_plan
        from .training import point_trainer

        setting, choices = begun(run, fits, folder.path, choices=choices, threads=threads, world=alone, report=report)
        earlier = earlier_plan(folder.path / PLAN_FILE, run, choices=choices, report=report) or {}
        # Points made on another device before were trained by these: all are of one curve.
        fixed = {name: earlier[name] for name in ("batch_size", "features_in_bfloat16") if name in earlier}
        choices |= {"fit": run.fit} | (fixed or by_device(run, choices["device"]))
        write_json(folder.path / PLAN_FILE, choices)
        points = _points(wanted, lambda: point_trainer(setting, data, choices), tested, folder.path, report)
        facts = {"options": config.identity(), "versions": choices["versions"]}
        text = _finished(points, tested, folder.path, data=data, facts=facts)
        folder.set_state("done", fingerprint=mark, points=[config.sizes, config.repeats], result=text)
        return text


def _points(
    wanted: Sequence[Task],
    trainer: Callable[[], Callable[[Task], Point]],
    tested: HeldOut,
    folder: Path,
    report: Report,
) -> list[Point]:
    """Every point, trained where an earlier process did not; `study.csv` has each as soon as it is done."""
    train: Callable[[Task], Point] | None = None
    points: list[Point] = []
    for task in wanted:
        point = read_point(task)
        if point is None:
            train = train or trainer()
            point = train(task)
            write_point(task, point)
        points.append(point)
        write_csv(points, tested, folder / "study.csv")
        figures = f"{task.size}-{task.repeat}: {point.figures['accuracy']:.1%}"
        event = Progress(phase="study", done=len(points), total=len(wanted), unit="points", figures=figures)
        report.progress(event)
    return points


def _tell(wanted: Sequence[Task], tested: HeldOut, report: Report) -> None:
    """How the sizes are met, and what they are tested on."""
    for task in wanted:
        if task.repeat == 1:
            report.say(
                f"size {task.size}: {len(task.subset.paths)} photos to train on, of {task.subset.group_count} groups, "
                f"{task.subset.cut_group_count} of them cut to meet the size"
            )
    there = sum(read_point(task) is not None for task in wanted)
    done = f"; {there} are there already" if there else ""
    report.say(f"{len(wanted)} points, each tested on the same {len(tested.targets)} photos{done}")


def _finished(points: Sequence[Point], tested: HeldOut, folder: Path, *, data: Data, facts: Mapping[str, Any]) -> str:
    """Writes figures and pictures; gives the result as lines."""
    from .plots import confusion_matrices, epoch_curves, learning_curve

    summary = summarised(points, tested)
    counts = Counter(data.split.parts.values())
    split = {
        "rule": data.split.rule,
        "image_counts": {part: counts[part] for part in ("train", "val", "test")},
        "digest": data.split.split_digest,
        "notes": list(data.split.notes),
    }
    write_json(folder / "study.json", summary | {"split": split, "data_digest": data.scan.data_digest, **facts})
    write_epochs(points, folder / "epochs.csv")
    learning_curve(summary, points, folder / "study.png")
    confusion_matrices(summary, folder / "plots")
    epoch_curves(points, folder / "plots" / "epochs.png")
    return result(summary, folder)
