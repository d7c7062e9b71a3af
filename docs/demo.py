"""`make demo`: the whole of Trapline on the embedded data set, in a few minutes, without a network.

Draws photos, trains from random weights, publishes, serves on a free port, classifies frames that training never saw,
prints what came out and where it lies, and stops its server.
"""

import csv
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

PROGRAMS = Path(sys.executable).parent
FOLDER = Path("demo")


def main() -> int:
    """Runs the demo; gives the exit code."""
    began = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    data, models, answers = FOLDER / "data", FOLDER / "models", FOLDER / "answers.csv"
    call("trainer", "sample", data)
    call(
        *("trainer", "run", data / "photos", "--out", FOLDER / "run", "--backbone", "resnet18", "--weights", "none"),
        *("--image-px", "64", "--epochs", "20", "--publish", models, "--model-id", "demo"),
    )
    command = [PROGRAMS / "server", "run", "--models", models, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    say(command)
    log = (FOLDER / "server.log").open("w")
    with log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        try:
            call("trapline", "models", "--server", (address := wait_until_ready(server)))
            call("trapline", "classify", data / "unseen", "--server", address, "--model", "demo", "--out", answers)
        finally:
            server.terminate()
            server.communicate(timeout=30)
    show(answers, data / "unseen.csv", data)
    print(f"\nserver stopped with exit code {server.returncode}; the demo took {time.monotonic() - began:.0f} s")
    for what, path in (
        ("photos", data),
        ("run", FOLDER / "run"),
        ("models", models),
        ("answers", answers),
        ("log", FOLDER / "server.log"),
    ):
        print(f"  {what:<8} {path}")
    print(f"  look at  {FOLDER / 'run' / 'report.html'}")
    return server.returncode


def call(program: str, *arguments: object) -> None:
    """Runs one of Trapline's programs and shows its command; ends the demo where it fails."""
    command = [PROGRAMS / program, *map(str, arguments)]
    say(command)
    subprocess.run(command, check=True)


def say(command: list[object]) -> None:
    """Shows a command as a person would type it."""
    first, *rest = command
    print("\n$", Path(str(first)).name, *rest, flush=True)


def wait_until_ready(server: "subprocess.Popen[str]") -> str:
    """The address that the server says it listens on, once its model is warm."""
    assert server.stdout is not None
    for line in server.stdout:
        print(line, end="", flush=True)
        if line.startswith("server ready") and (found := re.search(r"listen=(\S+)", line)):
            return found[1]
    raise SystemExit(f"the server ended before it was ready; {FOLDER / 'server.log'} says why")


def show(answers: Path, truth: Path, data: Path) -> None:
    """Prints each answer beside the true label, and the share that is right."""
    with truth.open(newline="") as file:
        labels = {(data / row["path"]).resolve(): row["label"] for row in csv.DictReader(file)}
    with answers.open(newline="") as file:
        rows = list(csv.DictReader(file))
    print(f"\n{'photo':<34} {'true':<8} {'answer':<8} score")
    outcomes: Counter[bool] = Counter()
    for row in rows:
        label = labels[Path(row["path"]).resolve()]
        right = row["label_1"] == label
        outcomes[right] += 1
        mark = "" if right else "  <- wrong"
        print(f"{Path(row['path']).name:<34} {label:<8} {row['label_1']:<8} {float(row['score_1']):.2f}{mark}")
    print(f"\n{outcomes[True]} of {len(rows)} unseen photos right ({outcomes[True] / len(rows):.0%})")


if __name__ == "__main__":
    sys.exit(main())
