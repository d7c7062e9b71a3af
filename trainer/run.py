"""One run, from options to a checked file, as one straight function: scan, split, train, evaluate, export, check.

Torch takes seconds to import, so it is imported in the background while the scan decodes photos.
"""

import csv
import functools
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib import metadata as distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trapline import preprocessing
from trapline.errors import TraplineError
from trapline.processors import thread_count
from trapline.v1.metadata_pb2 import Preprocessing

from .builders import builder_record
from .config import RunConfig
from .data import Data
from .dataset.cache import PixelCache
from .dataset.cache.folder import user_cache_folder
from .dataset.fingerprint import difference, fingerprint
from .dataset.scan import Scan, scan, write_scan_csv
from .division import divided
from .errors import TrainerError, UsageError
from .fit_choice import FITS
from .memory import keep_freed_memory
from .preflight import image_px
from .progress import Progress, Report
from .run_folder import RunFolder, write_atomically, write_json
from .torch_import import importing_torch
from .world import World

if TYPE_CHECKING:
    from .training import Trained

# What is imported while features are computed.
_BESIDE_FEATURES = ("sklearn.linear_model", "sklearn.model_selection", "trainer.results")
_PACKAGES = (
    "numpy",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "pillow",
    "scikit-learn",
    "torch",
    "torchvision",
    "trapline",
)


def run(config: RunConfig, folder: RunFolder, report: Report, world: World) -> str:
    """Trains, evaluates, exports and checks one model; gives the result as sentences.

    Args:
        config: What to do.
        folder: The opened run folder; what an unfinished run left there is gone on from.
        report: Where progress goes.
        world: The processes that train together; only the first one writes.

    Raises:
        UsageError: The options or the data folder are wrong, or another run's.
        TrainerError: The work failed; the folder's state says so.
    """
    began = time.monotonic()
    keep_freed_memory()
    # While one process of a machine scans, the others wait.
    was_done, scan_threads = world.told(folder.done), thread_count("auto")
    threads = max(1, scan_threads // world.local_size)
    with (
        recorded(folder, world),
        world.connected(),
        importing_torch("trainer.training", *_BESIDE_FEATURES) as imported,
        ExitStack() as caches,
    ):
        # Before the scan: what comes while it goes on has not been seen.
        mark = fingerprint(config.data)
        in_parts = scanned(config, folder, caches, threads=scan_threads, report=report, world=world)
        if was_done:
            # Only names or times of the files had changed: the photos are those that the run was made of.
            if not world.first:
                return ""
            folder.set_state("done", fingerprint=mark)
            return str(folder.state["result"])
        fits, choices = in_parts()
        imported()

        from .beginning import begun
        from .training import train

        setting, choices = begun(
            config, fits, folder.path, choices=choices, threads=threads, world=world, report=report
        )
        trained = train(setting, fits, choices)
        if not world.first:
            return ""
        result = _finished(config, folder, trained, report)
        folder.set_state("done", fingerprint=mark, result=result, seconds=round(time.monotonic() - began, 1))
        return result


def scanned(
    config: RunConfig, folder: RunFolder, caches: ExitStack, *, threads: int, report: Report, world: World
) -> Callable[[], tuple[Callable[[str], Data], dict[str, Any]]]:
    """Scans the photos; gives what splits them: their parts in any fit, and the choices so far, for `plan.json`.

    Args:
        config: What to do.
        folder: Where `scan.csv` and `split.csv` go.
        caches: Keeps the caches open.
        threads: Threads that decode.
        report: Where progress goes.
        world: The processes that train together; one of each machine scans.
    """
    if world.first:
        # Before anything can fail: the page leaves these out of what it tells of a failure.
        places = {"data": str(config.data.resolve()), "cache_dir": str(user_cache_folder(config.cache_dir).resolve())}
        places |= {"data_as_given": str(config.data), "run_as_given": str(folder.path)}
        folder.set_state("done" if folder.done else "running", places=places)
    rules = rules_of(config, FITS[0] if config.fit == "auto" else config.fit)
    cache = caches.enter_context(_cache(config, rules))
    photos = world.once_a_machine(
        lambda: _scanned(config, folder, cache=cache, rules=rules, threads=threads, report=report)
    )

    def in_parts() -> tuple[Callable[[str], Data], dict[str, Any]]:
        versions = _versions()
        data = divided(config, folder, photos, cache=cache, versions=versions, report=report, world=world)

        @functools.cache
        def fits(fit: str) -> Data:
            """The same photos in the same parts, with pixels in another fit."""
            other = rules_of(config, fit)
            if other == rules:
                return data
            opened = caches.enter_context(_cache(config, other))
            seen = world.once_a_machine(lambda: _scan(config, other, opened, threads, report))
            if world.unlike_first(seen.data_digest) is not None or seen.data_digest != photos.data_digest:
                raise UsageError("the photos changed while the run looked at them; run the same command again")
            return replace(data, scan=seen, cache=opened)

        return fits, {"image_px": rules.height_px, "split_rule": data.split.rule, "versions": versions}

    return in_parts


def _finished(config: RunConfig, folder: RunFolder, trained: "Trained", report: Report) -> str:
    """Evaluates, exports, checks, publishes; gives the result as sentences."""
    from .results import METRICS_FILE, sentences, write_results

    rules = rules_of(config, trained.plan["fit"])
    metrics = write_results(config, trained, folder.path, rules=rules, report=report)
    result = sentences(metrics, folder.path)
    if config.publish is not None and config.model_id is not None:
        from .promotion import publication
        from .report.html import write_report

        published, sentence = publication(config, folder, photos=trained.data.scan.root, report=report)
        write_json(folder.path / METRICS_FILE, metrics | {"publication": published})
        write_report(folder.path, images=config.images)
        result += f"\n{sentence}"
    return result


def _scan(config: RunConfig, rules: Preprocessing, cache: PixelCache, threads: int, report: Report) -> Scan:
    return scan(
        config.data,
        preprocessing=rules,
        cache=cache,
        threads=threads,
        report=lambda done, total: report.progress(Progress(phase="scan", done=done, total=total)),
        say=report.say,
    )


def _scanned(
    config: RunConfig, folder: RunFolder, *, cache: PixelCache, rules: Preprocessing, threads: int, report: Report
) -> Scan:
    photos = _scan(config, rules, cache, threads, report)
    before = folder.state.get("data_digest")
    if before is not None and before != photos.data_digest:
        now = {photo.path: photo.sha256 for photo in photos.photos}
        raise UsageError(
            f"--out: {folder.path} holds a run of other photos ({difference(_scanned_before(folder.path), now)}); "
            "name a new folder"
        )
    write_atomically(folder.path / "scan.csv", lambda temporary: write_scan_csv(photos, temporary))
    folder.set_state("done" if folder.done else "running", data_digest=photos.data_digest)
    left_out = Counter(row.status for row in photos.rejected)
    counts = Counter(photo.label for photo in photos.photos)
    report.say(
        f"{len(photos.photos)} photos of {len(photos.labels)} classes: "
        + ", ".join(f"{label} {counts[label]}" for label in photos.labels)
    )
    if left_out:
        listed = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(left_out.items()))
        report.say(f"left out: {listed}; {folder.path / 'scan.csv'} has each file's reason")
    return photos


def _scanned_before(folder: Path) -> dict[str, str]:
    """Path to SHA-256 of the photos that the run had, from its `scan.csv`."""
    with (folder / "scan.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["path"]: row["sha256"] for row in csv.DictReader(file) if row["status"] == "ok"}


def rules_of(config: RunConfig, fit: str) -> Preprocessing:
    """The preprocessing of a run in one fit."""
    bicubic = builder_record(config.backbone).bicubic
    return preprocessing.rules(fit=fit, image_px=image_px(config), bicubic=bicubic)


def _cache(config: RunConfig, rules: Preprocessing) -> PixelCache:
    folder = user_cache_folder(config.cache_dir)
    if folder.resolve().is_relative_to(config.data.resolve()):
        raise UsageError(f"--cache-dir: {folder} lies in the data folder and would be a class there; name another one")
    return PixelCache.open(folder, rules, most_bytes=int(config.cache_gib * 2**30))


@contextmanager
def recorded(folder: RunFolder, world: World) -> Iterator[None]:
    """Keeps `state.json` true however the work ends; a run that was done stays done. The first process alone writes."""
    was_done = folder.done or not world.first
    if not was_done:
        folder.set_state("running", error=None)
    try:
        with _memory_told():
            yield
    except BaseException as error:
        if not was_done:
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            sentence = str(error) if isinstance(error, TraplineError) else repr(error)
            # Where the disk is full this fails too, and what came first is what is told.
            with suppress(TrainerError):
                folder.set_state("interrupted" if stopped else "failed", error=None if stopped else sentence)
        raise


@contextmanager
def _memory_told() -> Iterator[None]:
    """Says that memory ran out where no smaller batch would help; steps that have one say which (`out_of_memory`)."""
    try:
        yield
    except MemoryError as error:
        raise TrainerError(
            "there is not enough memory left on this machine; end other programs, and run the same command again"
        ) from error


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            versions[name] = distributions.version(name)
        except distributions.PackageNotFoundError:
            continue
    return versions
