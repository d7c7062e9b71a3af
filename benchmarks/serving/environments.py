"""The peers' environments, one each, made on the first call; and that of the load generator."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

#: What each peer is: its own package, pinned, and what its documentation has one install beside it.
PEERS = {
    "litserve": ("litserve==0.2.19", "python-multipart==0.0.34"),
    "bentoml": ("bentoml==1.4.39",),
    # Its worker processes ask for the current event loop, which newer ones of uvloop no longer make.
    "mlserver": ("mlserver==1.7.1", "uvloop==0.21.0"),
    "mosec": ("mosec==0.9.8",),
    "pytriton": ("nvidia-pytriton==0.7.0",),
    "ray": ("ray[serve]==2.60.0",),
    "kserve": ("kserve==0.21.0",),
}
#: For the HTTP peers; gRPC and the contract's packages are those of Trapline's own environment.
GENERATOR = ("aiohttp==3.14.5",)
# Decoders and runtime are those of Trapline's environment: a peer must not win or lose by another version of them.
_SAME_IN_ALL = {"onnxruntime-gpu": "onnxruntime", "pillow": "pillow"}
# `trapline.preprocessing` and `trapline.errors` need these; each peer gets the versions that it can have.
_CONTRACT = ("googleapis-common-protos", "grpcio", "grpcio-status", "numpy", "protobuf")


class NotInstalled(Exception):
    """An environment could not be made; the text says why."""


def python_of(name: str, work: Path) -> Path:
    """The interpreter of the peer `name`, or of `generator`, in an environment below `work` that has everything.

    Raises:
        NotInstalled: A package cannot be had.
    """
    packages = [*PEERS[name], *_same(), *_CONTRACT] if name in PEERS else [*GENERATOR, *_generator()]
    folder = work / "environments" / name
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists() or complete.read_text().split() != packages:
        uv = [sys.executable, "-m", "uv", "--quiet"]
        for command in (
            [*uv, "venv", "--clear", "--python", sys.executable, folder],
            [*uv, "pip", "install", "--compile-bytecode", "--python", python, *packages],
        ):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise NotInstalled(f"{name} cannot be installed: {done.stderr.strip()[-600:]}")
        complete.write_text("\n".join(packages))
    return python


def versions(name: str, work: Path) -> dict[str, str]:
    """Versions in the environment of `name` of what the comparison turns on."""
    packages = [package.partition("==")[0].partition("[")[0] for package in PEERS.get(name, GENERATOR)]
    wanted = [*packages, "onnxruntime", "pillow", "numpy", "grpcio"]
    code = (
        "import importlib.metadata as m, json, sys\n"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: have[n] for n in sys.argv[1:] if n in have}))"
    )
    import json

    said = subprocess.run([python_of(name, work), "-c", code, *wanted], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(said.stdout)
    return found


def clean_environment() -> dict[str, str]:
    """This process's variables, without those that would lead a peer's interpreter here."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # With a GPU in the machine, too, the comparison is of processors.
    return kept | {"CUDA_VISIBLE_DEVICES": ""}


def _same() -> list[str]:
    found = []
    for here, there in _SAME_IN_ALL.items():
        name = here if _has(here) else there
        found.append(f"{there}=={importlib.metadata.version(name)}")
    return found


def _has(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _generator() -> list[str]:
    names = ("grpcio", "grpcio-status", "googleapis-common-protos", "protobuf")
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in names]
    return [*pinned, f"grpcio-tools=={importlib.metadata.version('grpcio')}"]
