"""Measures how many images a second become pixels: `trapline.preprocessing.load_image` against plain Pillow.

The baseline, measured in the same run: Pillow decodes the whole file, turns it upright, converts it to RGB and resizes
it to the same size with the same filter. Both start from bytes in memory. The two alternate, and which goes first does
too, so that a slow moment of the machine meets both. Photos are made here (640 × 480 and 2048 × 1536 JPEGs); where
TRAPLINE_SHARED names the shared folder, its trail-camera frames are measured as well.

Writes benchmarks/results/preprocess_<hardware>_<yyyy-mm>.json and .md.
"""

import argparse
import datetime as dt
import importlib.metadata
import io
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from trapline import preprocessing

IMAGE_PX = 224
RULES = preprocessing.rules(fit="stretch", image_px=IMAGE_PX)
RESULTS = Path(__file__).parent / "results"
THREADS = (1, 2)


def by_trapline(data: bytes) -> None:
    """Loads one image as the trainer's evaluation and the server do."""
    preprocessing.load_image(data, RULES)


def by_pillow(data: bytes) -> None:
    """The baseline: whole decode, upright, RGB, resize."""
    with Image.open(io.BytesIO(data)) as image:
        rgb = ImageOps.exif_transpose(image).convert("RGB")
    np.asarray(rgb.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BILINEAR))


def made_photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG with coarse and fine structure and sensor noise, about 0.25 bytes a pixel as camera traps write them."""
    generator = np.random.default_rng(seed)
    layers = []
    for step in (96, 12):
        grid = generator.integers(0, 256, (height // step + 1, width // step + 1, 3), dtype=np.uint8)
        layers.append(np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC), dtype=float))
    noisy = 0.7 * layers[0] + 0.3 * layers[1] + generator.normal(0, 4, (height, width, 1))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def image_sets(images: int) -> dict[str, list[bytes]]:
    """The files to measure with, by name."""
    sets = {
        "made 640 × 480": [made_photo(640, 480, seed) for seed in range(images)],
        "made 2048 × 1536": [made_photo(2048, 1536, seed) for seed in range(max(2, images // 4))],
    }
    if shared := os.environ.get("TRAPLINE_SHARED"):
        for name in ("large", "trailcam"):
            paths = sorted((Path(shared) / "data" / name).rglob("*.jpg"))
            # Evenly spread over the folder, so that every camera has its part.
            chosen = [paths[index * len(paths) // images] for index in range(images)] if len(paths) > images else paths
            if chosen:
                sets[f"data/{name}"] = [path.read_bytes() for path in chosen]
    return sets


def one_pass(
    load: Callable[[bytes], None], files: Sequence[bytes], pool: ThreadPoolExecutor | None
) -> tuple[float, float]:
    """Images a second, and milliseconds of processor time an image, of one pass in this thread or in the pool's."""
    started, used = time.perf_counter(), time.process_time()
    for _ in map(load, files) if pool is None else pool.map(load, files):
        pass
    seconds, used = time.perf_counter() - started, time.process_time() - used
    return len(files) / seconds, used * 1000 / len(files)


def measure(files: Sequence[bytes], *, threads: int, repetitions: int) -> dict[str, Any]:
    """Rates of both, repetition by repetition, and the ratios with their bootstrap intervals."""
    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    loads = {"trapline": by_trapline, "pillow": by_pillow}
    rates: dict[str, list[float]] = {name: [] for name in loads}
    cpu_ms: dict[str, list[float]] = {name: [] for name in loads}
    for load in loads.values():  # the first pass warms caches and threads
        one_pass(load, files, pool)
    for repetition in range(repetitions):
        for name in sorted(loads, reverse=repetition % 2 == 0):
            rate, milliseconds = one_pass(loads[name], files, pool)
            rates[name].append(rate)
            cpu_ms[name].append(milliseconds)
    if pool:
        pool.shutdown()
    return {
        "threads": threads,
        "trapline_images_per_second": round(float(np.median(rates["trapline"])), 1),
        "pillow_images_per_second": round(float(np.median(rates["pillow"])), 1),
        "trapline_cpu_ms": round(float(np.median(cpu_ms["trapline"])), 2),
        "pillow_cpu_ms": round(float(np.median(cpu_ms["pillow"])), 2),
        **ratio("ratio", rates["trapline"], rates["pillow"]),
        **ratio("cpu_ratio", cpu_ms["pillow"], cpu_ms["trapline"]),
        "rates": {name: [round(rate, 1) for rate in values] for name, values in rates.items()},
        "cpu_ms": {name: [round(value, 2) for value in values] for name, values in cpu_ms.items()},
    }


def ratio(name: str, above: list[float], below: list[float]) -> dict[str, Any]:
    """The median over repetitions of `above` / `below`, and its bootstrap 95 % interval."""
    logarithms = np.log(np.array(above) / np.array(below))
    picks = np.random.default_rng(0).integers(0, len(above), (10_000, len(above)))
    low, high = np.exp(np.percentile(np.median(logarithms[picks], axis=1), [2.5, 97.5]))
    middle = float(np.exp(np.median(logarithms)))
    return {name: round(middle, 3), f"{name}_interval": [round(float(low), 3), round(float(high), 3)]}


def hardware() -> dict[str, Any]:
    """The processor and what this process may use of it."""
    cpu_info = Path("/proc/cpuinfo")
    model = platform.processor() or platform.machine()
    if cpu_info.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", cpu_info.read_text(), re.MULTILINE)):
        model = found[1].strip()
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "load_before": round(os.getloadavg()[0], 2)}


def versions() -> dict[str, str]:
    """What was measured."""
    names = ("trapline", "pillow", "numpy")
    libraries = {name: importlib.metadata.version(name) for name in names}
    from PIL import features

    return {"python": platform.python_version(), **libraries, "libjpeg_turbo": str(features.version("libjpeg_turbo"))}


def interval(row: dict[str, Any], name: str) -> str:
    """A ratio and its interval, as a table's cell."""
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.2f} ({low:.2f} to {high:.2f})"


def table(result: dict[str, Any]) -> str:
    """The rows of `result` as a Markdown table."""
    lines = [
        "| images | count | mean size, KiB | threads | trapline, images/s | Pillow, images/s | ratio (95 % interval) "
        "| trapline, CPU ms/image | Pillow, CPU ms/image | ratio of CPU time (95 % interval) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['images']} | {row['image_count']} | {row['mean_kib']} | {row['threads']} "
        f"| {row['trapline_images_per_second']} | {row['pillow_images_per_second']} | {interval(row, 'ratio')} "
        f"| {row['trapline_cpu_ms']} | {row['pillow_cpu_ms']} | {interval(row, 'cpu_ratio')} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def page(result: dict[str, Any]) -> str:
    """The result as a page that stands alone."""
    machine = result["hardware"]
    said = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"# Preprocessing: load_image against plain Pillow\n\n{table(result)}\n\n"
        f"- Command: `{result['command']}`\n"
        f"- Date: {result['date']}\n"
        f"- Hardware: {machine['cpu']}, {machine['cores']} cores\n"
        f"- Load of the machine (1 minute): {machine['load_before']} before the run, {machine['load_after']} after it\n"
        f"- Versions: {said}\n"
        f"- Config: {result['repetitions']} alternating repetitions, stretch to {IMAGE_PX} × {IMAGE_PX}, bilinear; "
        "rates are medians, the ratio is the median over repetitions, its interval a bootstrap over repetitions\n"
        "- Baseline: Pillow decodes the whole file, applies EXIF orientation, converts to RGB, resizes (no draft)\n"
    )


def main() -> None:
    """Runs the measurement that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=11, help="passes of each kind over each set (default: 11)")
    parser.add_argument("--images", type=int, default=24, help="most images in a set (default: 24)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there, and no page")
    arguments = parser.parse_args()
    if arguments.repetitions < 1 or arguments.images < 1:
        parser.error("--repetitions and --images must be at least 1")
    machine, rows = hardware(), []
    for name, files in image_sets(arguments.images).items():
        mean_kib = round(sum(map(len, files)) / len(files) / 1024)
        for threads in THREADS:
            measured = measure(files, threads=threads, repetitions=arguments.repetitions)
            rows.append({"images": name, "image_count": len(files), "mean_kib": mean_kib, **measured})
            print(f"{name}, {threads} threads: ratio {measured['ratio']}", file=sys.stderr)
    machine["load_after"] = round(os.getloadavg()[0], 2)
    now = dt.datetime.now(tz=dt.UTC)
    shared = ["TRAPLINE_SHARED=<the shared folder>"] if os.environ.get("TRAPLINE_SHARED") else []
    result = {
        "command": " ".join([*shared, "python benchmarks/preprocess.py", *sys.argv[1:]]),
        "date": now.date().isoformat(),
        "hardware": machine,
        "versions": versions(),
        "repetitions": arguments.repetitions,
        "rows": rows,
    }
    print(table(result))
    slug = re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']} {machine['cores']} cores".lower()).strip("-")
    path = arguments.json or RESULTS / f"preprocess_{slug}_{now:%Y-%m}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.json is None:
        path.with_suffix(".md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
