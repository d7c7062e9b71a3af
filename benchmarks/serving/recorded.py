"""What a result file says of itself: where it lies, and the versions that were measured."""

import importlib.metadata
import json
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

from .environments import NotInstalled, python_of, versions
from .peer_starts import WORKERS

RESULTS = Path(__file__).resolve().parents[1] / "results"


def result_path(name: str, machine: dict[str, Any]) -> Path:
    """Where a result of this month on this machine lies."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']} {machine['cores']} cores".lower()).strip("-")
    return RESULTS / f"{name}_{slug}_{time.strftime('%Y-%m')}.json"


def write(result: dict[str, Any], page: str, path: Path) -> None:
    """Writes a result, its page beside it, and prints that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(page)
    print(page)


def own_versions() -> dict[str, str]:
    """What Trapline runs with."""
    names = ("trapline", "grpcio", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu")
    have = {each.metadata["Name"].lower() for each in importlib.metadata.distributions()}
    found = {name: importlib.metadata.version(name) for name in names if name in have}
    return {"python": platform.python_version(), **found}


def peer_versions(peers: list[str], work: Path) -> dict[str, dict[str, str]]:
    """Versions in each environment that could be made, the generator's with them; makes those that are missing."""
    found = {}
    for name in [*dict.fromkeys(peer.removesuffix(WORKERS) for peer in peers), "generator"]:
        try:
            python_of(name, work)
            found[name] = versions(name, work)
        except NotInstalled as failed:
            if name == "generator":
                raise SystemExit(str(failed)) from failed
            print(f"{failed}", file=sys.stderr, flush=True)
    return found
