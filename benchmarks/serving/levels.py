"""One level: the load generator as a process of its own against a running server."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .assets import Assets
from .environments import clean_environment, python_of
from .load import Load
from .servers import TOP, Running

#: A level disturbed by others is taken again so many times.
RETRIES = 2


class LevelFailed(Exception):
    """The generator ended without figures; the text says why."""


def generator(work: Path, *, peers: bool) -> Path:
    """The generator's interpreter: this one for Trapline alone, an environment of its own with peers."""
    return python_of("generator", work) if peers else Path(sys.executable)


def bare_rates(assets: Assets, *, seconds: float) -> dict[str, Any]:
    """What `bare` measures, in a process of its own."""
    command = [sys.executable, "-m", "serving.bare", assets.model, str(seconds), *assets.photos]
    done = subprocess.run(command, env=_environment(), check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def load_of(server: Running, **changes: Any) -> Load:  # noqa: ANN401  # the fields of `Load`
    """A load on `server`: its photos and right answers, and whose processor time to count."""
    assets = server.wanted.assets
    settings = {
        "protocol": server.protocol,
        "target": server.target,
        "photos": [str(photo) for photo in assets.photos],
        "expected": assets.expected[server.wanted.decode],
        "root": server.process.pid,
        "mark": server.mark,
        "supervisor": os.getpid(),
    }
    return Load(**(settings | changes))


def level(load: Load, python: Path) -> dict[str, Any]:
    """What the generator measured.

    Raises:
        LevelFailed: It ended without figures.
    """
    # Of its own accord it ends sooner: this is for one that hangs.
    longest = load.ready_seconds + load.warm_seconds + load.seconds + load.recovery_seconds + 3 * load.timeout_seconds
    try:
        # `run` kills it when this process is told to stop.
        done = subprocess.run(
            [python, "-m", "serving.load"],
            env=_environment(),
            input=json.dumps(asdict(load)),
            capture_output=True,
            check=False,
            text=True,
            timeout=longest,
        )
    except subprocess.TimeoutExpired as error:
        raise LevelFailed(f"the load generator hung for {longest:.0f} s") from error
    if done.returncode:
        raise LevelFailed(done.stderr.strip()[-600:] or f"the load generator ended with {done.returncode}")
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(TOP / "benchmarks"), str(TOP), str(TOP / "protos")])
    return clean_environment() | {"PYTHONPATH": path}
