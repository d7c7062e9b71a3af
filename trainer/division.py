"""The photos of a run, divided into parts; a run that goes on has them divided as they were when it began."""

from pathlib import Path

from .config import RunConfig
from .data import Data
from .dataset.cache import PixelCache
from .dataset.scan import Scan
from .dataset.split import Split, split, write_split_csv
from .errors import UsageError
from .progress import Report
from .run_folder import PLAN_FILE, RunFolder, read_json, write_atomically
from .world import World


def divided(
    config: RunConfig,
    folder: RunFolder,
    photos: Scan,
    *,
    cache: PixelCache,
    versions: dict[str, str],
    report: Report,
    world: World,
) -> Data:
    """The photos with their parts, as `split.csv` lists them and `split_digest` of the folder's state has them.

    Args:
        config: What to do.
        folder: Where `split.csv` goes.
        photos: What the scan found.
        cache: Where their pixels are.
        versions: Of the programs that divide them.
        report: Where progress goes.
        world: The processes that train together.

    Raises:
        UsageError: The run began with other parts, or the processes see different photos; in every process alike.
    """
    parts = split(
        photos,
        val_share=config.val_share,
        test_share=config.test_share,
        seed=config.seed,
        group_by=config.group_by,
        groups_file=config.groups,
    )
    problem = world.told(_divided_otherwise(config, folder, parts, versions) if world.first else None)
    if problem is not None:
        raise UsageError(problem)
    write_atomically(folder.path / "split.csv", lambda temporary: write_split_csv(photos, parts, temporary))
    folder.set_state("running", split_digest=parts.split_digest)
    report.say(_sentence(parts))
    for note in parts.notes:
        report.say(note)
    data = Data(scan=photos, split=parts, cache=cache)
    _same_everywhere(data, world)
    return data


def _divided_otherwise(config: RunConfig, folder: RunFolder, parts: Split, versions: dict[str, str]) -> str | None:
    """That the run began with other parts, as a sentence; None where it did not, or nobody wrote them down."""
    before = folder.state.get("split_digest")
    if before is None or before == parts.split_digest:
        return None
    if config.groups is not None:
        return (
            f"--groups: {config.groups} divides the photos otherwise than when the run in {folder.path} began; bring "
            "the old file back or name a new --out folder"
        )
    changed = _changed_versions(folder.path / PLAN_FILE, versions)
    return (
        f"--out: the photos of the run in {folder.path} were divided otherwise when it began"
        + (f" ({changed})" if changed else "")
        + "; name a new folder, or run the same command with the programs that it began with"
    )


def _changed_versions(plan: Path, versions: dict[str, str]) -> str:
    """Which programs are others than those of the plan, in words."""
    before = read_json(plan).get("versions", {}) if plan.is_file() else {}
    names = sorted(name for name in before.keys() | versions.keys() if before.get(name) != versions.get(name))
    return ", ".join(f"{name} was {before.get(name)}, now {versions.get(name)}" for name in names) if before else ""


def _sentence(parts: Split) -> str:
    of_part = list(parts.parts.values())
    return (
        f"split by {parts.rule}: {of_part.count('train')} to train on, {of_part.count('val')} to choose by, "
        f"{of_part.count('test')} to test on, {len(set(parts.groups.values()))} groups"
    )


def _same_everywhere(data: Data, world: World) -> None:
    """Refuses, in every process alike, to train together on different photos."""
    other = world.unlike_first(data.scan.data_digest + data.split.split_digest)
    if other is not None:
        raise UsageError(
            f"process {other} of this run finds other photos in {data.scan.root} than process 0; give every machine "
            "the same folder"
        )
