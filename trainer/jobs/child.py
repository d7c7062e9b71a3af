"""`python -m trainer.jobs.child JOB_FOLDER`: what `trainer run` does, told to a file; one process of a job.

SIGTERM and Ctrl-C end it like `trainer run`: what it has done is kept, and the next process goes on from there. It
tells how it ended as its last event, and only that counts. Where a disk is full it tells no end, so that it is started
again once there is room; its last attempt does.
"""

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from google.protobuf import json_format

from trainer.config import RunConfig
from trainer.dataset.cache.folder import user_cache_folder
from trainer.preflight import finished_result
from trainer.progress import Report
from trainer.run_folder import RunFolder, open_run, read_json
from trainer.world import World
from trapline.errors import TraplineError
from trapline.v1 import train_pb2
from trapline.v1.metadata_pb2 import Evaluation

from .events import EventFile, Outcome
from .folders import EVENTS, ORDER

_FAULT = "the run ended by a fault of the trainer; the operator finds it in the job's child.log"


def main() -> int:
    """Works on the folder that the command line names; gives the exit code."""
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    order = read_json(folder / ORDER)
    if order["processors"] is not None:
        os.sched_setaffinity(0, order["processors"])
    places = {name: Path(order["options"][name]) for name in ("out", "publish", "cache_dir") if order["options"][name]}
    places["cache_dir"] = user_cache_folder(places.get("cache_dir"))
    told = EventFile(folder / EVENTS, shown=hiding([*places.values(), *map(Path, order["hidden"])]))
    try:
        config = RunConfig(**order["options"])
        outcome = _ran(config, told)
    except Exception as error:  # noqa: BLE001  # whatever it is ends the run, and is told
        goes_on = not order.get("last_attempt") and _found_no_room(error)  # a service before its upgrade says none
        if isinstance(error, TraplineError):
            sentence = str(error)
        else:
            traceback.print_exc()
            sentence = "a disk is full" if goes_on else _FAULT
        print(sentence, file=sys.stderr)
        (told.say if goes_on else told.failed)(sentence)
        return 1
    told.succeeded(outcome)
    return 0


def program() -> NoReturn:
    """The process; ends at once, where Python would take torch's modules apart for two seconds."""
    try:
        code = main()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _ran(config: RunConfig, report: Report) -> Outcome:
    with open_run(config.out, config.identity()) as opened:
        folder = _Published(path=opened.path, state=opened.state)
        if "publishing" in folder.state and config.publish is not None and config.model_id is not None:
            from trainer.promotion import published_before

            if published_before(folder, config.publish, config.model_id) is not None:
                _stop_no_more()
        result = finished_result(config, folder)
        if result is None:
            from trainer.run import run

            result = run(config, folder, report, World())
    _stop_no_more()
    metrics = read_json(config.out / "metrics.json")
    return Outcome(result=result, evaluation=_evaluation(metrics), publication=_publication(metrics))


@dataclass(frozen=True, kw_only=True)
class _Published(RunFolder):
    """The run's folder, where a run that has begun to publish is not stopped any more: a cancelled one never has."""

    def set_state(self, state: str, **facts: object) -> None:
        if "publishing" in facts:
            _stop_no_more()
        super().set_state(state, **facts)


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    # Once is enough: what it takes to stop is not stopped.
    _stop_no_more()
    raise SystemExit(128 + _signal)


def _stop_no_more() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _found_no_room(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def hiding(folders: Sequence[Path]) -> Callable[[str], str]:
    """Gives a function that names files below any of `folders` by their path below it, as a client may see them."""
    names = {str(path): path.name for folder in folders for path in (folder, folder.absolute(), folder.resolve())}
    # The longest first: folders may lie in each other.
    either = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf"(?P<folder>{either})(?:(?P<below>/(?=\S))|/?(?![\w.-]))")
    return lambda text: pattern.sub(lambda found: "" if found["below"] else names[found["folder"]], text)


def _evaluation(metrics: dict[str, Any]) -> Evaluation:
    test = metrics["test"]
    return Evaluation(
        epoch=metrics["epoch"],
        loss=test["loss"],
        accuracy=test["accuracy"],
        balanced_accuracy=test["balanced_accuracy"],
        image_count=test["image_count"],
    )


def _publication(metrics: dict[str, Any]) -> train_pb2.Publication | None:
    told = metrics.get("publication")
    if told is None:
        return None
    return json_format.ParseDict(told, train_pb2.Publication(), ignore_unknown_fields=True)


if __name__ == "__main__":
    program()
