"""The photos of a finished run again: as it divided them, with the pixels that it saw, from the cache."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trapline.processors import thread_count
from trapline.v1.metadata_pb2 import ModelMetadata

from .data import Data
from .dataset.cache import PixelCache
from .dataset.cache.folder import user_cache_folder
from .dataset.scan import scan
from .dataset.split import Split
from .errors import UsageError
from .progress import Progress, Report


@contextmanager
def run_data(
    run: Path, metadata: ModelMetadata, *, data: Path, cache_dir: Path | None, cache_gib: float, report: Report
) -> Iterator[Data]:
    """The photos of the run in `run`, with their parts and groups.

    Args:
        run: The run folder.
        metadata: Of its model file.
        data: Where the photos are.
        cache_dir: Where their decoded pixels are, or will be; the user's cache folder where absent.
        cache_gib: Most that all of `cache_dir` may take.
        report: Where progress goes.

    Raises:
        UsageError: `data` is missing, or has other photos than the run.
        TrainerError: The cache has no room.
    """
    if not data.is_dir():
        raise UsageError(f"--data: there is no folder {data}; name the folder that the run's photos are in now")
    with PixelCache.open(
        user_cache_folder(cache_dir), metadata.preprocessing, most_bytes=int(cache_gib * 2**30)
    ) as cache:
        seen = scan(
            data,
            preprocessing=metadata.preprocessing,
            cache=cache,
            threads=thread_count("auto"),
            report=lambda done, total: report.progress(Progress(phase="scan", done=done, total=total)),
        )
        if seen.data_digest != metadata.data_digest:
            raise UsageError(f"--data: {data} has other photos than the run in {run}; name the folder that it saw")
        yield Data(scan=seen, split=_split(run, metadata), cache=cache)


def _split(run: Path, metadata: ModelMetadata) -> Split:
    with (run / "split.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    return Split(
        parts={row["path"]: row["part"] for row in rows},
        groups={row["path"]: row["group"] for row in rows},
        rule=metadata.split_rule,
        # Of given parts nobody wrote it down; figures are not made from this.
        grouping=metadata.split_rule,
        notes=(),
    )
