"""What the machine gives at most, in a process of its own: `python -m serving.bare MODEL SECONDS PHOTO...`.

Prints JSON: images a second of the bare runtime with all cores (the best of three batch sizes), processor time of the
model for one image with one thread, and of decoding one photo by each decode.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trapline.processors import thread_count

from .assets import rules_of, session
from .peers.pixels import DECODES

_BATCHES, _SINGLE_BATCHES = (1, 8, 16), (1, 4)


def timed(work: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Median wall seconds, and mean processor seconds, of a call; at least three calls after one that warms up."""
    work()
    wall: list[float] = []
    began, used = time.perf_counter(), time.process_time()
    while len(wall) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        wall.append(time.perf_counter() - start)
    return statistics.median(wall), (time.process_time() - used) / len(wall)


def bare(model: Path, photos: list[Path], *, seconds: float) -> dict[str, Any]:
    """The figures, each measured for about `seconds`."""
    cores, image_px = thread_count("auto"), rules_of(model).width_px
    blank = np.random.default_rng(0).integers(0, 256, (max(_BATCHES), image_px, image_px, 3), np.uint8)
    run, single = session(model, threads=cores), session(model, threads=1)
    rates = {count: count / timed(lambda count=count: run(blank[:count]), seconds)[0] for count in _BATCHES}
    model_seconds = min(
        timed(lambda count=count: single(blank[:count]), seconds)[1] / count for count in _SINGLE_BATCHES
    )
    files = [photo.read_bytes() for photo in photos]
    decode_seconds = {
        name: timed(lambda decode=decode: [decode(file, image_px) for file in files], seconds)[1] / len(files)
        for name, decode in DECODES.items()
    }
    return {
        "cores": cores,
        "bare_images_per_second": round(max(rates.values()), 2),
        "bare_by_batch": {str(count): round(rate, 2) for count, rate in rates.items()},
        "model_cpu_ms": round(1000 * model_seconds, 4),
        "decode_cpu_ms": {name: round(1000 * value, 4) for name, value in decode_seconds.items()},
    }


if __name__ == "__main__":
    print(json.dumps(bare(Path(sys.argv[1]), [Path(word) for word in sys.argv[3:]], seconds=float(sys.argv[2]))))
