"""One run, from options to a checked file, as one straight function: scan, split, train, evaluate, export, check.

Torch takes more than ten seconds to import, so it is imported in the background while the scan decodes photos.
"""

import csv
import ctypes
import hashlib
import importlib
import platform
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata as distributions
from pathlib import Path

import platformdirs

from trapline import preprocessing
from trapline.errors import TraplineError
from trapline.processors import thread_count
from trapline.v1.metadata_pb2 import Preprocessing

from .builders import builder_record
from .config import RunConfig
from .data import Data
from .dataset.cache import PixelCache
from .dataset.fingerprint import difference, fingerprint
from .dataset.scan import Scan, scan, write_scan_csv
from .dataset.split import split, write_split_csv
from .errors import UsageError
from .preflight import image_px
from .progress import Progress, Report
from .publish import publish
from .run_folder import RunFolder

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
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


def run(config: RunConfig, folder: RunFolder, report: Report) -> str:
    """Trains, evaluates, exports and checks one model; gives the result as sentences.

    Args:
        config: What to do.
        folder: The opened run folder; what an unfinished run left there is gone on from.
        report: Where progress goes.

    Raises:
        UsageError: The options or the data folder are wrong, or another run's.
        TrainerError: The work failed; the folder's state says so.
    """
    began = time.monotonic()
    _keep_freed_memory()
    was_done, threads, rules = folder.done, thread_count("auto"), _rules(config)
    with _recorded(folder), _importing_torch(), _cache(config, rules) as cache:
        photos = _scanned(config, folder, cache=cache, rules=rules, threads=threads, report=report)
        mark = fingerprint(config.data)
        if was_done:
            # Only names or times of the files had changed: the photos are those that the run was made of.
            folder.set_state("done", fingerprint=mark)
            return str(folder.state["result"])
        data = _divided(config, folder, photos, cache=cache, report=report)
        from .results import MODEL_FILE, sentences, write_results
        from .training import train

        choices = {"image_px": rules.height_px, "split_rule": data.split.rule, "versions": _versions()}
        trained = train(config, data, folder.path, choices=choices, threads=threads, report=report)
        metrics = write_results(config, data, trained, folder.path, rules=rules, report=report)
        result = sentences(metrics, folder.path)
        if config.publish is not None and config.model_id is not None:
            version = _published(folder, folder.path / MODEL_FILE, config.publish, config.model_id)
            result += f"\npublished {config.model_id} version {version.name}: {version}"
        folder.set_state("done", fingerprint=mark, result=result, seconds=round(time.monotonic() - began, 1))
        return result


def _scanned(
    config: RunConfig, folder: RunFolder, *, cache: PixelCache, rules: Preprocessing, threads: int, report: Report
) -> Scan:
    photos = scan(
        config.data,
        preprocessing=rules,
        cache=cache,
        threads=threads,
        report=lambda done, total: report.progress(Progress(phase="scan", done=done, total=total)),
    )
    before = folder.state.get("data_digest")
    if before is not None and before != photos.data_digest:
        now = {photo.path: photo.sha256 for photo in photos.photos}
        raise UsageError(
            f"--out: {folder.path} holds a run of other photos ({difference(_scanned_before(folder.path), now)}); "
            "name a new folder"
        )
    write_scan_csv(photos, folder.path / "scan.csv")
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


def _divided(config: RunConfig, folder: RunFolder, photos: Scan, *, cache: PixelCache, report: Report) -> Data:
    parts = split(
        photos,
        val_share=config.val_share,
        test_share=config.test_share,
        seed=config.seed,
        group_by=config.group_by,
        groups_file=config.groups,
    )
    write_split_csv(photos, parts, folder.path / "split.csv")
    counts = Counter(parts.parts.values())
    report.say(
        f"split by {parts.rule}: {counts['train']} to train on, {counts['val']} to choose by, "
        f"{counts['test']} to test on, {len(set(parts.groups.values()))} groups"
    )
    for note in parts.notes:
        report.say(note)
    return Data(scan=photos, split=parts, cache=cache)


def _published(folder: RunFolder, model: Path, models: Path, model_id: str) -> Path:
    """Publishes once, also where an earlier process was killed between publishing and saying so."""
    earlier = folder.state.get("publishing")
    for version in models.glob(f"{model_id}/[0-9]*/{model.name}") if earlier else ():
        if hashlib.sha256(version.read_bytes()).hexdigest() == earlier:
            return version.parent
    folder.set_state("running", publishing=hashlib.sha256(model.read_bytes()).hexdigest())
    return publish(model, models, model_id)


def _scanned_before(folder: Path) -> dict[str, str]:
    """Path to SHA-256 of the photos that the run had, from its `scan.csv`."""
    with (folder / "scan.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["path"]: row["sha256"] for row in csv.DictReader(file) if row["status"] == "ok"}


def _rules(config: RunConfig) -> Preprocessing:
    bicubic = builder_record(config.backbone).bicubic
    return preprocessing.rules(fit=config.fit, image_px=image_px(config), bicubic=bicubic)


def _cache(config: RunConfig, rules: Preprocessing) -> PixelCache:
    return PixelCache.open(config.cache_dir or Path(platformdirs.user_cache_dir("trapline")), rules)


@contextmanager
def _recorded(folder: RunFolder) -> Iterator[None]:
    """Keeps `state.json` true however the work ends; a run that was done stays done."""
    was_done = folder.done
    if not was_done:
        folder.set_state("running", error=None)
    try:
        yield
    except BaseException as error:
        if not was_done:
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            sentence = str(error) if isinstance(error, TraplineError) else repr(error)
            folder.set_state("interrupted" if stopped else "failed", error=None if stopped else sentence)
        raise


@contextmanager
def _importing_torch() -> Iterator[None]:
    """Imports torch beside the work inside; whoever imports it in there waits for this one to end."""
    thread = threading.Thread(target=importlib.import_module, args=("torchvision",), daemon=True)
    thread.start()
    yield


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            versions[name] = distributions.version(name)
        except distributions.PackageNotFoundError:
            continue
    return versions


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory in the heap for the next step instead of giving it back to the kernel.

    A training step frees and takes hundreds of megabytes; faulting them in again each time costs as much as the
    arithmetic (docs/design/0004). Elsewhere than glibc nothing happens. Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28)):
        mallopt(option, value)
