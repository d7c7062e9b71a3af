"""Trapline under more calls than it can answer: what it still answers, how it refuses, and how soon it is well again.

First one caller and then many, in closed loops, say what is normal and what the peak is. Then an open loop sends 2 and
10 times the peak, each call with a deadline, and one caller goes on when that ends. What must be shown is in
PROTOCOL.md; the page says of each line whether it is met. Server and generator share the cores, so the generator's
part is counted.
"""

import argparse
import datetime as dt
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from preprocess import hardware
from processes import stop_on_terminate
from rows import commit
from serving.assets import Assets, assets, null_model, null_photos, photos, random_model
from serving.figures import REFUSAL_SECONDS, dead_share, overload_budget, seconds_until_normal
from serving.levels import LevelFailed, level, load_of
from serving.load import OK, REFUSED
from serving.recorded import own_versions, result_path, write
from serving.server_metrics import Counted, counted
from serving.servers import TOP, Running, Wanted, running

from trapline.processors import thread_count

#: Callers of the closed loop that the peak is taken with, and of the one that says what is normal. More would be
#: refused, come back at once, and the time that their refusals take would make the peak look low.
PEAK_CALLERS, CALM_CALLERS = 12, 1
_SAMPLE_SECONDS = 1.0


class Memory:
    """The server's resident memory while a block runs, once a second: `samples` are seconds and MiB."""

    def __init__(self, server: Running) -> None:
        self.samples: list[tuple[float, float]] = []
        self._server, self._over = server, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        began = time.monotonic()
        while True:
            self.samples.append((round(time.monotonic() - began, 1), round(self._server.resident_mib(), 1)))
            if self._over.wait(_SAMPLE_SECONDS):
                return


def calm_and_peak(server: Running, arguments: argparse.Namespace) -> dict[str, Any]:
    """One caller, then many, in closed loops."""
    python = Path(sys.executable)
    both = {}
    for name, callers in (("calm", CALM_CALLERS), ("peak", PEAK_CALLERS)):
        load = load_of(server, callers=callers, seconds=arguments.calm_seconds, warm_seconds=arguments.warm_seconds)
        both[name] = level(load, python)
        del both[name]["recovery"]
    return both


def flood(server: Running, factor: float, normal: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """`factor` times the peak, and what came of it."""
    peak = normal["peak"]["images_per_second"]
    load = load_of(
        server,
        callers=1,
        per_second=factor * peak,
        seconds=arguments.seconds,
        warm_seconds=arguments.warm_seconds,
        timeout_seconds=arguments.deadline_ms / 1000,
        recovery_seconds=arguments.recovery_seconds,
    )
    before = counted(server.metrics)
    with Memory(server) as memory:
        row = level(load, Path(sys.executable))
    recovery = row.pop("recovery")
    return {
        "factor": factor,
        "sent_per_second": round(factor * peak, 1),
        **row,
        **judged(row, counted(server.metrics).since(before), recovery, normal, seconds=arguments.seconds),
        "memory_mib": memory.samples,
    }


def judged(
    row: dict[str, Any],
    server: Counted,
    recovery: list[tuple[float, float, str]],
    normal: dict[str, Any],
    *,
    seconds: float,
) -> dict[str, Any]:
    """What the figures of a flood of `seconds` come to; `recovery` are the calls of the one caller after it."""
    refusals = row["outcomes"].get(REFUSED, 0) / seconds
    budget = overload_budget(
        peak=normal["peak"]["images_per_second"],
        cores=thread_count("auto"),
        generator_cores=row["generator_cores"],
        refusals_per_second=refusals,
    )
    answered = row["all_outcomes"].get(OK, 0) + sum(outcome == OK for _, _, outcome in recovery)
    # Twice the calm p99: with one caller at a time there is nothing else to wait for.
    normal_seconds = 2 * normal["calm"]["p99_ms"] / 1000
    return {
        "share_of_peak": round(row["images_per_second"] / normal["peak"]["images_per_second"], 4),
        "refusals_per_second": round(refusals, 1),
        "budget_images_per_second": round(budget, 2),
        "share_of_budget": round(row["images_per_second"] / budget, 4) if budget else None,
        "images_run": server.images_run,
        "images_answered": answered,
        "dead_share": dead_share(images_run=server.images_run, images_answered=answered),
        "dropped": server.dropped,
        "seconds_until_normal": seconds_until_normal(recovery, normal_seconds=normal_seconds),
    }


def lines(result: dict[str, Any]) -> list[str]:
    """What must be shown, a sentence each."""
    calm_p99, queue_ms = result["calm"]["p99_ms"], result["max_queue_ms"]
    found = []
    for row in result["floods"]:
        factor, most_ms = row["factor"], queue_ms + 2 * calm_p99
        share = row["share_of_peak"] if factor <= 2 else row["share_of_budget"]
        said = "the peak" if factor <= 2 else "what generator and refusals leave"
        found += [
            _line(f"{factor:g}x: goodput at least 0.90 of {said}", share, met=share is not None and share >= 0.9),
            _at_most(f"{factor:g}x: refusals' p99, ms", row["refused_p99_ms"], 50),
            _at_most(f"{factor:g}x: p99 of the answered, ms (--max-queue-ms + 2 x calm p99)", row["p99_ms"], most_ms),
            _at_most(f"{factor:g}x: seconds until normal", row["seconds_until_normal"], 5),
            _at_most(f"{factor:g}x: share of work for dead calls", row["dead_share"], 0.01),
            f"{factor:g}x: memory of the server, MiB: {_memory(row['memory_mib'])}",
            f"{factor:g}x: generator {row['generator_cores']:.2f} cores{_behind(row)}, "
            f"{row['refusals_per_second']:g} refusals a second at {1000 * REFUSAL_SECONDS:g} ms, "
            f"calls sent late by {row['late_p99_ms']} ms (p99), foreign cores {row['foreign_cores']}, "
            f"outcomes {row['all_outcomes']}",
        ]
    return found


def _behind(row: dict[str, Any]) -> str:
    return "" if row.get("generator_first") else " (it did not go first: its own waits are in the times)"


def _line(said: str, value: float | None, *, met: bool) -> str:
    return f"{said}: {'met' if met else 'NOT met'}, {'none' if value is None else f'{value:.3g}'}"


def _at_most(said: str, value: float | None, most: float) -> str:
    return _line(f"{said}, at most {most:.4g}", value, met=value is not None and value <= most)


def _memory(samples: list[tuple[float, float]]) -> str:
    sizes = [size for _, size in samples]
    third = max(1, len(sizes) // 3)
    return (
        f"at most {max(sizes):.0f}; {max(sizes[:third]):.0f} in the first third, {max(sizes[-third:]):.0f} in the last"
    )


def page(result: dict[str, Any]) -> str:
    """The result as a page that stands alone."""
    machine = result["hardware"]
    parts = [
        "# Serving under overload\n",
        "\n".join(f"- {line}" for line in lines(result)) + "\n",
        f"- Calm: p50 {result['calm']['p50_ms']} ms, p99 {result['calm']['p99_ms']} ms with {CALM_CALLERS} caller; "
        f"peak: {result['peak']['images_per_second']} images/s with {PEAK_CALLERS} callers",
        f"- Model {result['model']}, photos {result['image']}; deadline of a call {result['deadline_ms']} ms; each "
        f"flood {result['seconds']:g} s",
        f"- Command: `{result['command']}`, {result['date']}, commit {result['commit']}",
        f"- Hardware: {machine['cpu']}, {machine['cores']} cores, shared with the generator",
        "- Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    ]
    return "\n".join(parts) + "\n"


def made_assets(arguments: argparse.Namespace, folder: Path) -> Assets:
    """The model and the photos."""
    if arguments.null_model:
        null_model(folder / "null.onnx")
        return assets(folder / "null.onnx", null_photos(folder / "photos"), "made")
    files, said = photos(arguments.image, folder / "photos")
    random_model(arguments.backbone, files, folder / "model.onnx")
    return assets(folder / "model.onnx", files, said)


def options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overload", default="2,10", metavar="FACTORS", help="times the peak (default: 2,10)")
    parser.add_argument("--seconds", type=float, default=60, help="of each flood")
    parser.add_argument("--calm-seconds", type=float, default=20, help="of each closed loop before")
    parser.add_argument("--warm-seconds", type=float, default=4, help="before each, that do not count")
    parser.add_argument("--recovery-seconds", type=float, default=10, help="of the one caller after each flood")
    parser.add_argument("--deadline-ms", type=float, default=2000, help="of each call of a flood")
    parser.add_argument("--max-queue-ms", type=float, default=500, help="of the server")
    parser.add_argument("--backbone", default="resnet18", help="torchvision builder, with random weights")
    parser.add_argument("--image", default="640x480", metavar="WxH", help="size of the photos")
    parser.add_argument("--null-model", action="store_true", help="a model and pictures that cost next to nothing")
    parser.add_argument(
        "--json", type=Path, help="file for the result; default: under results/; the page lies beside it"
    )
    parser.add_argument("--work", type=Path, default=TOP / ".cache" / "benchmarks", help="folder for the server")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole measurement."""
    machine = hardware()
    with tempfile.TemporaryDirectory() as folder:
        wanted = Wanted(
            name="trapline",
            decode="scaled",
            assets=made_assets(arguments, Path(folder)),
            cores=thread_count("auto"),
            options=("--max-queue-ms", str(arguments.max_queue_ms)),
        )
        with running(wanted, arguments.work) as server:
            normal = calm_and_peak(server, arguments)
            floods = [flood(server, float(word), normal, arguments) for word in arguments.overload.split(",")]
    machine["load_after"] = round(os.getloadavg()[0], 2)
    return {
        "command": " ".join(["benchmarks/overload.py", *sys.argv[1:]]),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "commit": commit(),
        "hardware": machine,
        "versions": own_versions(),
        "model": "null-model" if arguments.null_model else arguments.backbone,
        "image": arguments.image,
        "seconds": arguments.seconds,
        "deadline_ms": arguments.deadline_ms,
        "max_queue_ms": arguments.max_queue_ms,
        **normal,
        "floods": floods,
    }


def main() -> None:
    """Measures what the command line asks for."""
    arguments = options()
    stop_on_terminate()
    try:
        result = measure(arguments)
    except LevelFailed as failed:
        raise SystemExit(str(failed)) from failed
    path = arguments.json or result_path(f"overload_{result['model']}", result["hardware"])
    write(result, page(result), path)


if __name__ == "__main__":
    main()
