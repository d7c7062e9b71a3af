"""Measures the scan and its cache: against decoding alone, a second run's way to training, and very many files.

- Rate: photos a second of a scan into an empty cache (list, read, hash, decode, EXIF, difference hash, store) against
  `load_image` of the same files by as many threads. The two alternate, and which goes first does too.
- Second run: `trainer run` twice on data/scenes with one cache; from the start of the process to the end of its imports
  and to its first batch of features.
- Growth: 10,000, 30,000 and 100,000 small files, each with bytes of its own: time and memory of every step before
  training, each count in a process of its own.

The first with photos made here and, where TRAPLINE_SHARED names the shared folder, data/large; the second only there.
Writes benchmarks/results/scan_<hardware>_<yyyy-mm>.json and .md.
"""

import argparse
import datetime as dt
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from preprocess import IMAGE_PX, RESULTS, RULES, hardware, interval, made_photo, ratio, versions

from trainer.dataset.cache import PixelCache
from trainer.dataset.fingerprint import fingerprint
from trainer.dataset.scan import Scan, scan
from trainer.dataset.split import Split, split
from trapline import preprocessing

SMALL_RULES = preprocessing.rules(fit="stretch", image_px=32)
# A run that prints when the last of its imports was done and when its features began (first batch's end, less a batch).
WATCHED_RUN = """
import sys, threading, time
from trainer import progress

times = []

def watch():
    while not hasattr(sys.modules.get("trainer.training"), "train"):
        time.sleep(0.01)
    print(f"imports done {time.time()}", flush=True)

def tell(self, event, before=progress.PlainReport.progress):
    if event.phase == "features" and len(times) < 2:
        times.append(time.time())
        if len(times) == 2:
            print(f"features began {times[0] - (times[1] - times[0])}", flush=True)
    before(self, event)

threading.Thread(target=watch, daemon=True).start()
progress.PlainReport.progress = tell
from trainer.cli import main
sys.exit(main())
"""


def shared() -> Path | None:
    """The shared folder, where there is one."""
    name = os.environ.get("TRAPLINE_SHARED")
    return Path(name) if name else None


def photo_folders(scratch: Path, images: int) -> dict[str, Path]:
    """Data folders of two classes to measure the rate with, by name."""
    folders = {"made 640 × 480": scratch / "made"}
    for number in range(images):
        folder = scratch / "made" / ("one" if number % 2 else "two")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(made_photo(640, 480, number))
    found = sorted((shared() / "data" / "large").glob("*.jpg")) if shared() else []
    for number, path in enumerate(found):
        folder = scratch / "large" / ("one" if number % 2 else "two")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.name)
    return folders | ({"data/large": scratch / "large"} if found else {})


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds since a moment, by the clock and by the processor."""

    wall: float
    cpu: float


@contextmanager
def clock() -> Iterator[Callable[[], Spent]]:
    """Gives a function that tells what was spent since."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield lambda: Spent(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def by_load_image(root: Path, threads: int) -> tuple[Spent, Spent]:
    """Reads, decodes and resizes every file."""
    paths = sorted(root.rglob("*.jpg"))
    with clock() as spent:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda path: preprocessing.load_image(path.read_bytes(), RULES), paths):
                pass
        return spent(), Spent(wall=0, cpu=0)


def by_scan(root: Path, threads: int) -> tuple[Spent, Spent]:
    """Scans into an empty cache, and closes it, which a run does after training."""
    with tempfile.TemporaryDirectory() as folder:
        with clock() as spent:
            cache = PixelCache.open(Path(folder), RULES)
            scan(root, preprocessing=RULES, cache=cache, threads=threads, report=lambda *_: None)
            scanned = spent()
        with clock() as spent:
            cache.close()
            return scanned, spent()


def rate(root: Path, *, threads: int, repetitions: int) -> dict[str, Any]:
    """Rates of both, and the ratios over the repetitions with their bootstrap intervals."""
    works = {"scan": by_scan, "load_image": by_load_image}
    count = len(list(root.rglob("*.jpg")))
    wall: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    closing = []
    for work in works.values():  # the first pass warms caches and threads
        work(root, threads)
    for repetition in range(repetitions):
        for name in sorted(works, reverse=repetition % 2 == 0):
            spent, closed = works[name](root, threads)
            wall[name].append(spent.wall)
            cpu[name].append(spent.cpu)
            closing += [closed.wall] if name == "scan" else []
    per_second = {name: round(count / float(np.median(values)), 1) for name, values in wall.items()}
    cpu_ms = {name: round(float(np.median(values)) * 1000 / count, 2) for name, values in cpu.items()}
    return {
        "image_count": count,
        "threads": threads,
        "images_per_second": per_second,
        "cpu_ms_an_image": cpu_ms,
        "closing_ms": round(float(np.median(closing)) * 1000, 1),
        **ratio("ratio", wall["load_image"], wall["scan"]),
        **ratio("cpu_ratio", cpu["load_image"], cpu["scan"]),
        "wall_seconds": {name: [round(value, 4) for value in values] for name, values in wall.items()},
        "cpu_seconds": {name: [round(value, 4) for value in values] for name, values in cpu.items()},
    }


def second_run(scratch: Path, folder: Path) -> dict[str, Any]:
    """Seconds from the start of a process to the end of its imports and to its first batch, for two runs."""
    weights = folder / "weights" / "mobilenet_v2.pth"
    options = ["--backbone", "mobilenet_v2", "--weights", weights, "--epochs", "0", "--cache-dir", scratch / "cache"]
    rows = []
    for number in range(2):
        words = ["run", folder / "data" / "scenes", "--out", scratch / f"run{number}", *options]
        command = [sys.executable, "-c", WATCHED_RUN, *map(str, words)]
        began = time.time()
        output = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        imports, features = (
            float(output.split(words)[1].split()[0]) - began for words in ("imports done ", "features began ")
        )
        rows.append({"imports_seconds": round(imports, 2), "features_seconds": round(features, 2)})
    return {"first": rows[0], "second": rows[1]}


def small_files(root: Path, count: int) -> None:
    """Small JPEGs of four classes: 300 pictures again and again, each with a comment of its own."""
    pictures = [made_photo(36, 32, seed) for seed in range(300)]
    for label in range(4):
        (root / f"class{label}").mkdir(parents=True)
    for number in range(count):
        data, comment = pictures[number % 300], str(number).encode()
        marker = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
        (root / f"class{number % 4}" / f"photo_{number:06}.jpg").write_bytes(data[:2] + marker + data[2:])


def growth(count: int) -> dict[str, Any]:
    """Seconds of processor time and MiB of memory of each step before training, on so many files."""
    with tempfile.TemporaryDirectory() as scratch:
        root, cache_folder = Path(scratch) / "data", Path(scratch) / "cache"
        small_files(root, count)
        time.sleep(2.5)  # files changed a moment ago would be read twice
        cpu: dict[str, float] = {}
        wall: dict[str, float] = {}
        before = resident_mib()

        @contextmanager
        def step(name: str) -> Iterator[None]:
            with clock() as spent:
                yield
            wall[name], cpu[name] = spent().wall, spent().cpu

        def scanned() -> Scan:
            with PixelCache.open(cache_folder, SMALL_RULES) as cache:
                return scan(root, preprocessing=SMALL_RULES, cache=cache, threads=2, report=lambda *_: None)

        with step("scan"):
            scanned()
        with step("second scan"):
            photos = scanned()
        with step("fingerprint"):  # all that a finished run needs to answer
            fingerprint(root)
        with step("split"):
            parts: Split = split(photos, val_share=0.15, test_share=0.15, seed=0, group_by="auto", groups_file=None)
        assert len(parts.parts) == count
        return {
            "files": count,
            "cpu_seconds": {name: round(value, 2) for name, value in cpu.items()},
            "wall_seconds": {name: round(value, 2) for name, value in wall.items()},
            "resident_mib_before": before,
            "resident_mib_after": resident_mib(),
            "peak_mib": int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024,  # type: ignore[index]
        }


def resident_mib() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def grown(counts: list[int]) -> list[dict[str, Any]]:
    """`growth` of each count, in processes of their own."""
    rows = []
    for count in counts:
        command = [sys.executable, __file__, "--growth-of", str(count)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"{count:,} files: {rows[-1]['cpu_seconds']}", file=sys.stderr)
    return rows


def page(result: dict[str, Any]) -> str:
    """The result as a page that stands alone."""
    lines = [
        "# Scan and cache",
        "",
        "| images | count | threads | scan, images/s | load_image, images/s | ratio (95 % interval) "
        "| scan, CPU ms/image | load_image, CPU ms/image | ratio of CPU time (95 % interval) | closing, ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rates"]:
        per_second, cpu = row["images_per_second"], row["cpu_ms_an_image"]
        lines.append(
            f"| {row['images']} | {row['image_count']} | {row['threads']} | {per_second['scan']} "
            f"| {per_second['load_image']} | {interval(row, 'ratio')} | {cpu['scan']} | {cpu['load_image']} "
            f"| {interval(row, 'cpu_ratio')} | {row['closing_ms']} |"
        )
    if result["growth"]:
        steps = list(result["growth"][0]["cpu_seconds"])
        lines += ["", f"| files | {' | '.join(f'{name}, CPU s' for name in steps)} | resident, MiB | peak, MiB |"]
        lines.append("|---" * (len(steps) + 3) + "|")
        lines += [
            f"| {row['files']:,} | {' | '.join(str(row['cpu_seconds'][name]) for name in steps)} "
            f"| {row['resident_mib_before']} to {row['resident_mib_after']} | {row['peak_mib']} |"
            for row in result["growth"]
        ]
    if second := result["second_run"]:
        lines += [
            "",
            f"On data/scenes (1,200 photos, mobilenet_v2) a second run's imports, beside which it scans, are done "
            f"after {second['second']['imports_seconds']} s, and its features begin after "
            f"{second['second']['features_seconds']} s; {second['first']['imports_seconds']} s and "
            f"{second['first']['features_seconds']} s in the first run.",
        ]
    machine = result["hardware"]
    said = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        "",
        f"- Command: `{result['command']}`",
        f"- Date: {result['date']}",
        f"- Hardware: {machine['cpu']}, {machine['cores']} cores",
        f"- Load of the machine (1 minute): {machine['load_before']} before the run, {machine['load_after']} after it",
        f"- Versions: {said}",
        f"- Config: {result['repetitions']} alternating repetitions, stretch to {IMAGE_PX} × {IMAGE_PX}, bilinear, an "
        "empty cache each time; rates are medians, the ratio is the median over repetitions, its interval a bootstrap "
        "over repetitions; closing (bringing the pixels to the disk, after training) is in neither",
        "- Baseline: the same files read, decoded and resized by `load_image` in as many threads, nothing kept",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the measurements that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=21, help="passes of each kind over each set (default: 21)")
    parser.add_argument("--images", type=int, default=200, help="images made (default: 200)")
    parser.add_argument("--files", type=int, nargs="*", default=[10_000, 30_000, 100_000], help="counts of small files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there, and no page")
    parser.add_argument("--growth-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.growth_of:
        print(json.dumps(growth(arguments.growth_of)))
        return
    machine, rates, second = hardware(), [], None
    with tempfile.TemporaryDirectory() as name:
        for images, root in photo_folders(Path(name), arguments.images).items():
            rates.append({"images": images, **rate(root, threads=2, repetitions=arguments.repetitions)})
            print(f"{images}: ratio {rates[-1]['ratio']}, of CPU time {rates[-1]['cpu_ratio']}", file=sys.stderr)
        if folder := shared():
            second = second_run(Path(name), folder)
            print(second, file=sys.stderr)
    rows = grown(arguments.files)
    machine["load_after"] = round(os.getloadavg()[0], 2)
    now = dt.datetime.now(tz=dt.UTC)
    words = ["TRAPLINE_SHARED=<the shared folder>"] if shared() else []
    result = {
        "command": " ".join([*words, "python benchmarks/scan.py", *sys.argv[1:]]),
        "date": now.date().isoformat(),
        "hardware": machine,
        "versions": versions(),
        "repetitions": arguments.repetitions,
        "rates": rates,
        "second_run": second,
        "growth": rows,
    }
    print(page(result))
    slug = re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']} {machine['cores']} cores".lower()).strip("-")
    path = arguments.json or RESULTS / f"scan_{slug}_{now:%Y-%m}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.json is None:
        path.with_suffix(".md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
