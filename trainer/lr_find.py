"""A learning rate for a folder of photos: a run as far as its range test, and no further."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from trapline.processors import thread_count

from .config import PLACES, LrFindConfig
from .errors import UsageError
from .memory import keep_freed_memory
from .progress import Report
from .run import scanned
from .run_folder import RunFolder, write_json
from .torch_import import importing_torch
from .world import World

_FILES = frozenset({"lr_find.png", "lr_find.csv", "lr_find.json", "scan.csv", "split.csv"})


class _PlainFolder(RunFolder):
    """A folder that is no run's: nothing goes on from it, so it has no state."""

    def set_state(self, state: str, **facts: object) -> None:
        """Keeps nothing."""


def check_folder(path: Path) -> None:
    """Refuses to write among files that are not those of an earlier `lr-find`.

    Raises:
        UsageError: `path` is a file, or a folder with other files.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out: {path} is a file; name a folder")
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in _FILES) if path.is_dir() else []
    if others:
        raise UsageError(f"--out: {path} has other files ({', '.join(others[:3])}); name a new folder")


def lr_find(config: LrFindConfig, report: Report, world: World) -> str:
    """Writes `lr_find.png`, `lr_find.csv` and `lr_find.json` into `--out`; gives the suggestion as a sentence.

    Raises:
        UsageError: The options or the data folder are wrong.
        TrainerError: The work failed.
    """
    keep_freed_memory()
    scan_threads = thread_count("auto")
    threads, run = max(1, scan_threads // world.local_size), config.as_run()
    with (
        tempfile.TemporaryDirectory() as scratch,
        world.connected(),
        importing_torch("trainer.training") as imported,
        ExitStack() as caches,
    ):
        folder = _PlainFolder(path=config.out if world.first else Path(scratch), state={})
        divided = scanned(run, folder, caches, threads=scan_threads, report=report, world=world)
        fits, choices = divided()

        imported()
        from .beginning import begun
        from .range_test import write_found
        from .training import found_rate

        setting, choices = begun(run, fits, Path(scratch), choices=choices, threads=threads, world=world, report=report)
        found = found_rate(setting, fits, choices)
    if world.first:
        write_found(found, config.out / "lr_find.csv", config.out / "lr_find.png")
        facts = {"suggestion": found.suggestion, "rises_from": found.rises_from, "sentence": found.sentence}
        options = config.model_dump(mode="json", exclude=set(PLACES))
        write_json(config.out / "lr_find.json", facts | {"options": options, "versions": choices["versions"]})
    return f"{found.sentence}\nthe curve: {config.out / 'lr_find.png'}"
