"""Trapline while its servers come and go under load: every image must be answered, by one version, and rightly.

The shipped client sends calls and a stream to two servers: rolling restarts by SIGTERM, then `kill -9` of one. Then one
server swaps two versions of its model again and again. Counts are what must be shown (no failed image, no answer of
mixed versions) and decide the exit code; times are printed and recorded, no more.
"""

import argparse
import datetime as dt
import functools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import grpc
from overload import made_assets
from preprocess import hardware
from processes import stop_on_terminate
from rows import commit
from serving.assets import Assets, label_ids, second_version
from serving.fleet import Fleet, NotReady
from serving.levels import LevelFailed, level, load_of
from serving.recorded import own_versions, result_path, write
from serving.servers import Wanted, repository
from serving.traffic import Traffic

from trapline.processors import thread_count
from trapline.v1 import model_pb2, model_pb2_grpc

#: The right label's id of each photo, by model version.
Expected: TypeAlias = dict[str, list[str]]
_PEAK_CALLERS = 8
_RELOAD_SECONDS = 120.0


def peak(fleet: Fleet, arguments: argparse.Namespace) -> float:
    """Images a second that one of the servers answers at most; all share the same cores."""
    load = load_of(fleet.servers[0], callers=_PEAK_CALLERS, seconds=arguments.peak_seconds, warm_seconds=2)
    return float(level(load, Path(sys.executable))["images_per_second"])


def rolling(fleet: Fleet, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Stops and starts one server after the other."""
    found = []
    for turn in range(arguments.restarts):
        time.sleep(arguments.pause_seconds)
        number = turn % len(fleet.servers)
        ended = fleet.end(number, signal.SIGTERM)
        found.append({"server": number, **asdict(ended), "start_seconds": fleet.start_again(number)})
        print(f"restart {turn + 1}: exit {ended.code} after {ended.seconds} s", file=sys.stderr, flush=True)
    time.sleep(arguments.pause_seconds)
    return found


def killed(fleet: Fleet, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Kills each server once, without a word."""
    found = []
    for number in range(len(fleet.servers)):
        time.sleep(arguments.pause_seconds)
        ended = fleet.end(number, signal.SIGKILL)
        time.sleep(arguments.pause_seconds)
        found.append({"server": number, **asdict(ended), "start_seconds": fleet.start_again(number)})
    time.sleep(arguments.pause_seconds)
    return found


def reloads(fleet: Fleet, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Swaps versions 1 and 2; seconds and the server's memory after each."""
    server, found = fleet.servers[0], []
    with closing(grpc.insecure_channel(server.target)) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)
        for turn in range(arguments.reloads):
            version = str(1 + turn % 2)
            began = time.monotonic()
            model = stub.ReloadModel(
                model_pb2.ReloadModelRequest(name="models/bench", version=version), timeout=_RELOAD_SECONDS
            )
            seconds = round(time.monotonic() - began, 3)
            found.append(
                {"seconds": seconds, "served": model.version == version, "memory_mib": round(server.resident_mib(), 1)}
            )
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All parts, in turn."""
    machine = hardware()
    result: dict[str, Any] = {
        "command": " ".join(["benchmarks/restarts.py", *sys.argv[1:]]),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "commit": commit(),
        "hardware": machine,
        "versions": own_versions(),
        "model": "null-model" if arguments.null_model else arguments.backbone,
        "image": arguments.image,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = made_assets(arguments, folder)
        wanted = Wanted(name="trapline", decode="scaled", assets=made, cores=thread_count("auto"))
        second_version(made.model, folder / "second.onnx")
        one = repository(folder / "one", made.model)
        two = repository(folder / "two", made.model, folder / "second.onnx")
        expected = expected_ids(made, folder / "second.onnx")
        sent = [photo.read_bytes() for photo in made.photos]
        with Fleet(wanted, one, folder, count=2) as fleet:
            rate = arguments.per_second or arguments.load_share * peak(fleet, arguments)
            result["per_second"] = round(rate, 2)
            for part, work in (("rolling", rolling), ("killed", killed)):
                done = functools.partial(work, fleet, arguments)
                result[part] = under_load(fleet, done, sent, expected, per_second=rate)
        with Fleet(wanted, two, folder, count=1) as fleet:
            done = functools.partial(reloads, fleet, arguments)
            result["reloads"] = under_load(fleet, done, sent, expected, per_second=rate)
    machine["load_after"] = round(os.getloadavg()[0], 2)
    return result


def under_load(
    fleet: Fleet,
    work: Callable[[], list[dict[str, Any]]],
    photos: list[bytes],
    expected: Expected,
    *,
    per_second: float,
) -> dict[str, Any]:
    """What `work` did, and what became of the images meanwhile."""
    with Traffic(fleet.target, photos, expected, per_second=per_second) as traffic:
        events = work()
    return {"events": events, "unary": traffic.unary.told(), "stream": traffic.stream.told()}


def expected_ids(made: Assets, second: Path) -> Expected:
    """The right label's id of each photo, by version."""
    ids = label_ids(made.model)
    first = [ids[index] for index in made.expected["scaled"]]
    assert {f"{name}-v2" for name in first} <= set(label_ids(second))
    return {"1": first, "2": [f"{name}-v2" for name in first]}


def problems(result: dict[str, Any]) -> list[str]:
    """What must not be: failed or mixed images, parts without images, bad exits, reloads that did not serve."""
    found = []
    for part in ("rolling", "killed", "reloads"):
        for way in ("unary", "stream"):
            told = result[part][way]
            if told["failed"] or told["mixed"] or not told["right"]:
                found.append(
                    f"{part}, {way}: {told['right']} right, {told['failed']} failed ({told['failures']}), "
                    f"{told['mixed']} mixed"
                )
    bad = [event["code"] for event in result["rolling"]["events"] if event["code"] != 0]
    if bad:
        found.append(f"rolling: servers ended with {bad}, a drain ends with 0")
    if not all(event["served"] for event in result["reloads"]["events"]):
        found.append("reloads: a version that was asked for is not the one that is served")
    return found


def page(result: dict[str, Any]) -> str:
    """The result as a page that stands alone."""
    found = problems(result)
    said = {
        "rolling": f"{len(result['rolling']['events'])} rolling restarts of two servers by SIGTERM",
        "killed": f"kill -9 of one of two, {len(result['killed']['events'])} times",
        "reloads": f"{len(result['reloads']['events'])} reloads of one server, two versions in turn",
    }
    rows = [
        f"| {said[part]} | {way} | {told['right']} | {told['failed']} | {told['mixed']} | {told['p50_ms']} "
        f"| {told['p99_ms']} | {told['longest_ms']} |"
        for part in said
        for way, told in result[part].items()
        if way != "events"
    ]
    sizes = [event["memory_mib"] for event in result["reloads"]["events"]]
    third = max(1, len(sizes) // 3)
    machine = result["hardware"]
    lines = [
        "# Serving while servers come and go",
        "",
        *([f"- NOT met: {line}" for line in found] or ["- met: no image failed, no answer was of mixed versions"]),
        "",
        "| what | way | right | failed | mixed | p50, ms | p99, ms | longest, ms |",
        "|---" * 8 + "|",
        *rows,
        "",
        "- Of a stream the times are gaps between answers",
        f"- Memory after a reload, MiB: at most {max(sizes)}; median "
        f"{median(sizes[:third])} in the first third of them, {median(sizes[third:-third])} in the second, "
        f"{median(sizes[-third:])} in the last",
        f"- {result['per_second']} images a second, half as calls, half over a stream, by the shipped client",
        f"- Model {result['model']}, photos {result['image']}",
        f"- Command: `{result['command']}`, {result['date']}, commit {result['commit']}",
        f"- Hardware: {machine['cpu']}, {machine['cores']} cores, shared with the client; load "
        f"{machine['load_before']} before, {machine['load_after']} after",
        "- Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    ]
    return "\n".join(lines) + "\n"


def options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=10, help="rolling restarts (default: 10)")
    parser.add_argument("--reloads", type=int, default=100, help="swaps of the model (default: 100)")
    parser.add_argument("--load-share", type=float, default=0.5, help="of the peak (default: 0.5)")
    parser.add_argument("--per-second", type=float, help="images a second instead of a share of the peak")
    parser.add_argument("--peak-seconds", type=float, default=15, help="of the closed loop that finds the peak")
    parser.add_argument("--pause-seconds", type=float, default=2, help="between two events")
    parser.add_argument("--backbone", default="resnet18", help="torchvision builder, with random weights")
    parser.add_argument("--image", default="640x480", metavar="WxH", help="size of the photos")
    parser.add_argument("--null-model", action="store_true", help="a model and pictures that cost next to nothing")
    parser.add_argument(
        "--json", type=Path, help="file for the result; default: under results/; the page lies beside it"
    )
    arguments = parser.parse_args()
    if arguments.restarts < 1 or arguments.reloads < 1:
        parser.error("--restarts and --reloads must be at least 1")
    return arguments


def main() -> None:
    """Measures what the command line asks for; exit 1 where an image failed or versions mixed."""
    arguments = options()
    stop_on_terminate()
    try:
        result = measure(arguments)
    except (LevelFailed, NotReady) as failed:
        raise SystemExit(str(failed)) from failed
    path = arguments.json or result_path(f"restarts_{result['model']}", result["hardware"])
    write(result, page(result), path)
    sys.exit(1 if problems(result) else 0)


if __name__ == "__main__":
    main()
