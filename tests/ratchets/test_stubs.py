"""The committed stubs are what the oldest supported toolchain makes of the .proto files."""

import importlib.util
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
#: What uv says when an index or a wheel can't be had, and not because of our files.
NO_TOOLCHAIN = ("Failed to fetch", "error sending request", "dns error", "No solution found", "Failed to build")


def _module():
    spec = importlib.util.spec_from_file_location("generate", TOP / "protos" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stubs_equal_regenerated_ones(tmp_path):
    """`make protos` changes nothing: same files, same bytes."""
    command = [sys.executable, "protos/generate.py", "--out", str(tmp_path)]
    done = subprocess.run(command, check=False, cwd=TOP, capture_output=True, text=True)
    if done.returncode and any(words in done.stderr for words in NO_TOOLCHAIN):
        pytest.skip(f"the toolchain can't be installed here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    made = {path.name: path.read_text() for path in (tmp_path / "trapline" / "v1").iterdir()}
    committed = {path.name: path.read_text() for path in (TOP / "protos" / "trapline" / "v1").glob("*_pb2*.py*")}
    assert set(made) == set(committed)
    for name in sorted(made):
        assert made[name] == committed[name], f"{name} is not what its .proto says; run `make protos`"


def test_the_toolchain_is_the_lower_bound_of_the_dependencies():
    """Stubs refuse runtimes older than their compiler, so bounds and pins move together."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = dict(pin.split("==") for pin in _module().TOOLCHAIN if "==" in pin)
    assert f"grpcio>={pins['grpcio-tools']}" in project["dependencies"]
    assert f"grpcio-status>={pins['grpcio-tools']}" in project["dependencies"]
    assert f"protobuf>={pins['protobuf']}" in project["dependencies"]


def test_what_breaks_the_released_contract_is_refused(tmp_path, monkeypatch):
    """A field renamed in a copy of the .proto files fails `--lint`, which the copy as it is passes."""
    module = _module()
    copy = tmp_path / "protos"
    shutil.copytree(module.ROOT, copy, ignore=shutil.ignore_patterns("*.py*", "__pycache__"))
    monkeypatch.setattr(module, "ROOT", copy)
    module.lint()
    proto = copy / "trapline" / "v1" / "classify.proto"
    proto.write_text(proto.read_text(encoding="utf-8").replace("int32 top_k = 3;", "int32 top_n = 3;"))
    with pytest.raises(subprocess.CalledProcessError) as failed:
        module.lint()
    assert "breaking" in failed.value.cmd
