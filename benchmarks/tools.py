"""The tools that `train.py` compares: how each is started, when its clock stops, where its answers are."""

import csv
import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from processes import Measured, measured
from rows import bits
from splits import TOP, Divided, read_once, shared_folder

BACKBONE = "mobilenet_v2"
FASTAI = ("fastai", "fastai-tuned")
TRAPLINE = ("trapline-head", "trapline")
#: Keeps freed memory in the heap instead of faulting it in again at each step; changes no arithmetic.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
_PEER = Path(__file__).resolve().parent / "peers" / "fastai_finetune.py"
_CEILINGS = Path(__file__).resolve().parent / "ceilings.py"
_OWN_PROGRAM = Path(sys.executable).parent / "trainer"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all runs of one call share.

    Attributes:
        fastai_python: The interpreter that has fastai, where fastai is to run.
        allocator: Give the documented fastai tool the allocator's variables too: sooner, same answers, not for timing.
        epochs: Most unfrozen epochs of `trapline`.
        trapline_options: Further options for `trainer run`.
    """

    fastai_python: Path | None = None
    allocator: bool = False
    epochs: int = 3
    trapline_options: tuple[str, ...] = ()


def run(tool: str, divided: Divided, out: Path, setting: Setting) -> dict[str, Any]:
    """One run of `tool` on one division, from cold; gives what its row holds besides the identity."""
    out.mkdir(parents=True)
    read_once(divided.folder)
    one_run = _fastai if tool in FASTAI else _trapline
    took, row = one_run(tool, divided, out, setting)
    kept = {name: round(value, 3) for name, value in asdict(took).items() if name not in ("began", "seconds")}
    accuracy = round(row["right"].count("1") / len(row["right"]), 4)
    return {"seconds_total": round(took.seconds, 2), "test_accuracy": accuracy, **kept, **row}


def _fastai(tool: str, divided: Divided, out: Path, setting: Setting) -> tuple[Measured, dict[str, Any]]:
    allocator = tool == "fastai-tuned" or setting.allocator
    batch_size = 32 if tool == "fastai-tuned" else 64
    command = [str(setting.fastai_python), str(_PEER), str(divided.folder), "--out", str(out / "fastai")]
    command += ["--weights", str(weights()), "--seed", str(divided.number), "--batch-size", str(batch_size)]
    stops = out / "fastai" / "exported.json"
    environment = _NO_GPU | (ALLOCATOR if allocator else {})
    took = measured(command, environment=environment, log=out / "log.txt", clock_stops=stops)
    exported = json.loads(stops.read_text())["monotonic"]
    answers = json.loads((out / "fastai" / "answers.json").read_text())
    right = bits(answers["right"], divided.test)
    row = {"right": right, "allocator": allocator, "batch_size": batch_size, "versions": answers["versions"]}
    return Measured(**{**asdict(took), "seconds": exported - took.began}), row


def _trapline(tool: str, divided: Divided, out: Path, setting: Setting) -> tuple[Measured, dict[str, Any]]:
    run_folder = out / "run"
    epochs = 0 if tool.startswith("trapline-head") else setting.epochs
    command = [str(_OWN_PROGRAM), "run", str(divided.folder), "--out", str(run_folder), "--backbone", BACKBONE]
    command += ["--weights", str(weights()), "--epochs", str(epochs), "--seed", str(divided.number)]
    command += ["--cache-dir", str(out / "cache"), *setting.trapline_options]
    took = measured(command, environment=_NO_GPU, log=out / "log.txt")
    metrics = json.loads((run_folder / "metrics.json").read_text())
    versions = {name: importlib.metadata.version(name) for name in ("trapline", "torch", "torchvision")}
    right = bits(right_by_path(run_folder), divided.test)
    return took, {"right": right, "stage": metrics["stage"], "epoch": metrics["epoch"], "versions": versions}


def right_by_path(run_folder: Path) -> dict[str, int]:
    """Right or wrong for each test photo of a run, by its path within the set."""
    with (run_folder / "predictions.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {
            row["path"].removeprefix("test/"): int(row["predicted"] == row["label"])
            for row in csv.DictReader(file)
            if row["part"] == "test"
        }


def weights() -> Path:
    """The initial weights of all tools."""
    return shared_folder() / "weights" / f"{BACKBONE}.pth"


def fastai_python(given: Path | None) -> Path:
    """An interpreter with fastai 2.8: the one given, or that of `.venv-fastai`, made where it is missing."""
    if given is not None:
        return given
    folder = TOP / ".venv-fastai"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        packages = ["fastai>=2.8,<2.9"]
        packages += [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in ("torch", "torchvision")]
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([*uv, "pip", "install", "--python", str(python), *packages], check=True)
        (folder / "complete").touch()
    return python


def start_once(setting: Setting, tools: list[str]) -> None:
    """Starts each program once, so that none is the first to read itself from the disk."""
    if setting.fastai_python is not None:
        subprocess.run([setting.fastai_python, _PEER, "--help"], check=True, capture_output=True)
    if any(tool not in FASTAI for tool in tools):
        subprocess.run([_OWN_PROGRAM.with_name("python"), "-c", "import torchvision, onnx, onnxruntime"], check=True)


def options_of(words: str | None) -> tuple[str, ...]:
    """`--trapline-options` as a list."""
    return tuple(shlex.split(words or ""))


def ceilings(name: str) -> dict[str, Any]:
    """What `ceilings.py` measures on the set `name`, with when it was."""
    load = round(os.getloadavg()[0], 2)
    command = [sys.executable, _CEILINGS, shared_folder() / "data" / name, weights()]
    environment = os.environ | ALLOCATOR | _NO_GPU
    said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {**json.loads(said.splitlines()[-1]), "set": name, "date": time.strftime("%Y-%m-%d %H:%M"), "load": load}
