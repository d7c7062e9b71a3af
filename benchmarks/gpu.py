"""Trapline on a CUDA device: sessions, serving and a training run, each against a named baseline in the same run.

Sessions: images a second of one model file by batch size. `runtime` is ONNX Runtime as its examples use it (default
options, arrays in and out); `session` has the server's options; `bound` is what the server runs, through memory that is
kept (`server.binding`); `graph` replays that as a CUDA graph. They take turns. In `... x 2` two threads, as the server
has, prepare and run batches in turn.

Serving: `server run` on the GPU and on all cores of the CPU, with closed loops of callers and a stream.

Training: `trainer run` of the same photos and seed on the GPU and on the CPU.

Writes benchmarks/results/gpu_<hardware>_<yyyy-mm>.json and .md. Without a CUDA device it says so and ends with 3.
"""

import argparse
import datetime as dt
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from preprocess import RESULTS, hardware, interval, ratio
from processes import stop_on_terminate
from rows import commit
from serving.assets import IMAGE_PX, Assets, assets, fp16_model, photos, random_model
from serving.levels import LevelFailed, level, load_of
from serving.recorded import own_versions
from serving.servers import TOP, Wanted, running

from server.device import CUDA_PROVIDER, cuda_problem
from server.session import Runtime, Session
from trapline.model_file import INPUT_NAME, PROBABILITIES_NAME

#: Of the three arithmetics: the file's precision, and whether convolutions may round to TF32.
ARITHMETICS = {"fp32": ("fp32", False), "tf32": ("fp32", True), "fp16": ("fp16", True)}
MAX_BATCH = 64
#: Batches of all sizes in turn, as callers make them.
MIXED = "mixed"
_MIXED_SIZES = [1, 7, 3, 16, 2, 5]
_NO_DEVICE = 3
_IN_FLIGHT = 64
# No call is refused: what is measured is the rate.
PATIENT = ("--max-queue-ms", "60000", "--max-queue-images", "1024")

Batch = NDArray[np.uint8]
Run = Callable[[Batch], Any]


def gpu() -> str:
    """The GPU's name and driver."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, check=True, text=True).stdout.splitlines()[0].strip()


def runtime_of(content: bytes) -> Run:
    """ONNX Runtime with CUDA and nothing else said."""
    import onnxruntime

    opened = onnxruntime.InferenceSession(content, providers=[CUDA_PROVIDER])
    return lambda pixels: opened.run([PROBABILITIES_NAME], {INPUT_NAME: pixels})[0]


def ways(content: bytes, *, tf32: bool) -> dict[str, Run]:
    """The ways to run a file, by name; those of `session` hold a lock, as they did before there were bindings."""
    served = Session(content, Runtime(device="cuda", threads=1, max_batch=MAX_BATCH, tf32=tf32))
    device, plain = threading.Lock(), served._session  # what the server had before

    def session(pixels: Batch) -> Any:  # noqa: ANN401  # onnxruntime publishes no type hints
        with device:
            return plain.run([PROBABILITIES_NAME], {INPUT_NAME: pixels})[0]

    found = {"session": session, "bound": served.run}
    return found | ({"runtime": runtime_of(content), "graph": graph_of(content)} if tf32 else {})


def graph_of(content: bytes) -> Run:
    """Bindings whose runs are captured once for each batch size, and replayed."""
    import onnxruntime

    options = {"cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": "1", "use_tf32": "1"}
    opened = onnxruntime.InferenceSession(content, providers=[(CUDA_PROVIDER, options)])
    return Graphs(opened).run


class Graphs:
    """A CUDA graph for each of the batch sizes that are measured."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401  # onnxruntime publishes no type hints
        self._session, self._of = session, {}  # type: ignore[var-annotated]

    def run(self, pixels: Batch) -> Batch:
        """Captures at the first batch of a size, replays at others."""
        import onnxruntime

        count = len(pixels)
        if count not in self._of:
            value = onnxruntime.OrtValue.ortvalue_from_numpy(pixels, "cuda", 0)
            shape = [count, self._session.get_outputs()[0].shape[1]]
            result = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(INPUT_NAME, value)
            binding.bind_ortvalue_output(PROBABILITIES_NAME, result)
            options = onnxruntime.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(count))
            self._of[count] = value, result, binding, options
        value, result, binding, options = self._of[count]
        value.update_inplace(pixels)
        self._session.run_with_iobinding(binding, options)
        return result.numpy()  # type: ignore[no-any-return]


def rate(run: Run, batches: list[Batch], *, seconds: float, threads: int = 1) -> float:
    """Images a second of so many threads that run batches in turn."""
    end, done = time.perf_counter() + seconds, [0] * threads

    def work(number: int) -> None:
        turn = number
        while time.perf_counter() < end:
            done[number] += len(run(batches[turn % len(batches)]))
            turn += 1

    began = time.perf_counter()
    if threads == 1:
        work(0)
    else:
        several = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for one in several:
            one.start()
        for one in several:
            one.join()
    return sum(done) / (time.perf_counter() - began)


def sessions(files: dict[str, Path], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rates of every way, arithmetic and batch size, each repetition in turn."""
    chance, rows = np.random.default_rng(0), []
    for arithmetic, (precision, tf32) in ARITHMETICS.items():
        found = ways(files[precision].read_bytes(), tf32=tf32)
        wide = {f"{name} x 2": found[name] for name in ("session", "bound")}
        for size in [*arguments.batches, MIXED]:
            counts = _MIXED_SIZES if size == MIXED else [size] * 4
            batches = [chance.integers(0, 256, (count, IMAGE_PX, IMAGE_PX, 3), np.uint8) for count in counts]
            answers = {name: run(batches[0]) for name, run in found.items()}
            unlike = {name: round(float(abs(got - answers["bound"]).max()), 6) for name, got in answers.items()}
            rates: dict[str, list[float]] = {name: [] for name in (*found, *wide)}
            for repetition in range(arguments.repetitions + 1):  # the first one warms up
                for name, run in (found | wide).items():
                    got = rate(run, batches, seconds=arguments.bare_seconds, threads=2 if name in wide else 1)
                    if repetition:
                        rates[name].append(round(got, 1))
            rows.append({"arithmetic": arithmetic, "batch": size, "rates": rates, "unlike_bound": unlike})
            medians = {name: round(statistics.median(each)) for name, each in rates.items()}
            print(f"{arithmetic} batch {size}: {medians} unlike {unlike}", flush=True)
    return rows


def serving(contenders: dict[str, Wanted], arguments: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Levels of each server; the contenders take turns."""
    rows = []
    for repetition in range(arguments.serve_repetitions):
        for name, wanted in contenders.items():
            with running(wanted, work) as server:
                levels = [("unary", count) for count in arguments.callers] + [("stream", _IN_FLIGHT)]
                for method, count in levels:
                    protocol = "trapline-stream" if method == "stream" else "trapline"
                    asked = load_of(server, protocol=protocol, callers=count, seconds=arguments.seconds, warm_seconds=2)
                    try:
                        got = level(asked, Path(sys.executable))
                    except LevelFailed as failed:
                        raise SystemExit(f"{name}: {failed}; the server said: {server.said()}") from failed
                    row = {"server": name, "method": method, "callers": count, "repetition": repetition}
                    kept = ("images_per_second", "p50_ms", "p99_ms", "server_cpu_ms_per_image", "outcomes")
                    rows.append(row | {key: got[key] for key in kept})
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def training(arguments: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Seconds of `trainer run` on each device, from the start of the process to its end."""
    program = [sys.executable, "-c", "from trainer.cli import program; program()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TOP), str(TOP / "protos")])}
    subprocess.run([*program, "sample", str(work / "photos")], env=environment, check=True, capture_output=True)
    rows = []
    for repetition in range(arguments.train_repetitions):
        for device in ("cuda", "cpu"):
            out = work / f"run-{device}-{repetition}"
            options = ["--out", out, "--weights", "none", "--epochs", "6", "--seed", repetition, "--group-by", "folder"]
            options += ["--backbone", arguments.backbone, "--cache-dir", work / f"cache-{device}-{repetition}"]
            own = environment | ({} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""})
            began = time.monotonic()
            command = [*program, "run", work / "photos", *options]
            done = subprocess.run(
                [str(word) for word in command], env=own, check=False, stderr=subprocess.PIPE, text=True
            )
            if done.returncode:
                raise SystemExit(f"trainer run on {device}: {done.stderr[-2000:]}")
            rows.append({"device": device, "repetition": repetition, "seconds": round(time.monotonic() - began, 2)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def page(result: dict[str, Any]) -> str:
    """The result as a page."""
    machine = result["hardware"]
    lines = ["# On a CUDA device", ""]
    lines += [f"- {part}: `{command}`" for part, command in result["commands"].items()]
    lines += ["", *([result["note"], ""] if "note" in result else [])]
    lines += [f"{result['gpu']}; {machine['cpu']}, {machine['cores']} cores, {result['date']}. "]
    lines[-1] += ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    if rows := result.get("sessions"):
        lines += [
            "",
            "## Sessions, images a second",
            "",
            f"{result['backbone']}, {IMAGE_PX} px. Medians; in brackets",
            "",
        ]
        lines[-2] += " the ratio to `runtime` (to `session` without it; of `x 2` to `session x 2`), with its interval."
        names = ["runtime", "session", "bound", "graph", "session x 2", "bound x 2"]
        lines += [f"| arithmetic | batch | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
        lines += [_session_line(row, names) for row in rows]
    if rows := result.get("serving"):
        lines += [
            "",
            "## Serving",
            "",
            "| server | method | callers | # | images/s | p50, ms | p99, ms | CPU, ms/image |",
        ]
        lines += ["|---" * 8 + "|"]
        columns = ["server", "method", "callers", "repetition"]
        columns += ["images_per_second", "p50_ms", "p99_ms", "server_cpu_ms_per_image"]
        lines += [f"| {' | '.join(str(row[name]) for name in columns)} |" for row in rows]
    if rows := result.get("training"):
        lines += ["", "## A training run, seconds", "", "| device | # | seconds |", "|---|---|---|"]
        lines += [f"| {row['device']} | {row['repetition']} | {row['seconds']} |" for row in rows]
    return "\n".join([*lines, ""])


def _session_line(row: dict[str, Any], names: list[str]) -> str:
    rates, cells = row["rates"], []
    for name in names:
        if name not in rates:
            cells.append("")
            continue
        base = "session x 2" if name.endswith("x 2") else "runtime" if "runtime" in rates else "session"
        said = "" if name == base else f" ({interval(ratio('r', rates[name], rates[base]), 'r')})"
        cells.append(f"{statistics.median(rates[name]):.0f}{said}")
    return f"| {row['arithmetic']} | {row['batch']} | {' | '.join(cells)} |"


def options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="sessions,serving,training", help="what to measure, with commas")
    parser.add_argument("--backbone", default="resnet18", help="torchvision builder, with random weights")
    parser.add_argument("--batches", type=lambda text: [int(word) for word in text.split(",")], default=[1, 8, 32, 64])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--bare-seconds", type=float, default=0.2, help="of one rate of a session")
    parser.add_argument("--callers", type=lambda text: [int(word) for word in text.split(",")], default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=6, help="of a level of serving")
    parser.add_argument("--serve-repetitions", type=int, default=3)
    parser.add_argument("--train-repetitions", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the result; parts that it has are kept")
    return parser.parse_args()


def made(arguments: argparse.Namespace, work: Path) -> tuple[dict[str, Path], list[Path]]:
    """The model's files by precision, and the photos."""
    found, _ = photos("640x480", work / "photos-640")
    files = {name: work / f"{name}.onnx" for name in ("fp32", "fp16")}
    random_model(arguments.backbone, found, files["fp32"])
    fp16_model(files["fp32"], files["fp16"])
    return files, found


def contenders(files: dict[str, Path], found: list[Path]) -> dict[str, Wanted]:
    """The servers by name."""
    fp32: Assets = assets(files["fp32"], found, "made")
    fp16 = replace(fp32, model=files["fp16"], made_from=files["fp32"])
    cores = len(os.sched_getaffinity(0))
    common = Wanted(name="trapline", decode="scaled", assets=fp32, cores=cores, options=PATIENT)
    return {
        "GPU fp32": replace(common, device="cuda", options=("--no-tf32", *PATIENT)),
        "GPU auto": replace(common, assets=fp16, device="cuda"),
        "CPU fp32": common,
    }


def main() -> None:
    """Measures what the command line asks for."""
    arguments = options()
    stop_on_terminate()
    if problem := cuda_problem():
        print(f"SKIPPED: no CUDA device works here: {problem}", file=sys.stderr)
        raise SystemExit(_NO_DEVICE)
    machine, now = hardware(), dt.datetime.now(dt.UTC)
    slug = re.sub(r"[^a-z0-9]+", "-", gpu().partition(",")[0].lower()).strip("-")
    path = arguments.json or RESULTS / f"gpu_{arguments.backbone}_{slug}_{now:%Y-%m}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    result |= {
        "date": now.date().isoformat(),
        "hardware": machine,
        "gpu": gpu(),
        "backbone": arguments.backbone,
        "commit": commit(),
    }
    result |= {"versions": own_versions()}
    with tempfile.TemporaryDirectory(prefix="trapline-gpu-") as folder:
        work = Path(folder)
        files, found = made(arguments, work)
        parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "sessions": lambda: sessions(files, arguments),
            "serving": lambda: serving(contenders(files, found), arguments, work),
            "training": lambda: training(arguments, work),
        }
        for part in arguments.parts.split(","):
            result[part] = parts[part]()
            words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
            result.setdefault("commands", {})[part] = " ".join(["benchmarks/gpu.py", *words])
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            path.with_suffix(".md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
