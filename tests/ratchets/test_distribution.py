"""What is installed: the wheel's content, the extras, the pins, and what an import loads."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(line.split("==") for line in (TOP / "constraints.txt").read_text(encoding="utf-8").split())
HEAVY = {"torch", "torchvision", "onnxruntime", "onnx", "numpy", "PIL"}
#: What uv says when an index can't be reached.
NO_INDEX = ("Failed to fetch", "error sending request", "dns error", "timed out")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def resolved(*extras: str) -> set[str]:
    """Names of the distributions that an install with `extras` takes, held to constraints.txt."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "-c", "constraints.txt", "--quiet"]
    command += ["--no-annotate", "--no-header", "--python", sys.executable]
    command += [word for extra in extras for word in ("--extra", extra)]
    done = subprocess.run(command, check=False, cwd=TOP, capture_output=True, text=True)
    if done.returncode and any(words in done.stderr for words in NO_INDEX):
        pytest.skip(f"the package index can't be reached: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return {canonical(re.split(r"[=<> ;\[]", line)[0]) for line in done.stdout.splitlines() if "==" in line}


@pytest.fixture(name="wheel", scope="module")
def _wheel(tmp_path_factory) -> set[str]:
    """Names of the files in the built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=TOP, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_has_these_top_level_names_only(wheel):
    """No tests, no benchmarks, nothing of a generic name but the two programs and the clients."""
    info = f"trapline-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in wheel} == {"trainer", "server", "clients", "trapline", info}


def test_the_wheel_has_types_stubs_and_protos(wheel):
    """Users of the contract get its type marker, its stubs and the .proto files; a report gets its templates."""
    for package in ("trainer", "server", "clients", "trapline"):
        assert f"{package}/py.typed" in wheel
    for path in (TOP / "trainer" / "report" / "templates").iterdir():
        assert f"trainer/report/templates/{path.name}" in wheel
    for path in (TOP / "protos" / "trapline" / "v1").iterdir():
        if path.suffix in (".proto", ".py", ".pyi"):
            assert f"trapline/v1/{path.name}" in wheel
    assert not [name for name in wheel if "__pycache__" in name or name.endswith(".pyc")]


def test_one_distribution_owns_onnx_runtime():
    """Two distributions install the folder `onnxruntime`; an environment has one of them."""
    owners = set(importlib.metadata.packages_distributions()["onnxruntime"])
    assert len(owners) == 1


def test_trainer_and_server_name_the_identical_onnx_runtime():
    """A difference of one character could put both distributions into one environment."""
    named = {
        extra: [text for text in PROJECT["optional-dependencies"][extra] if text.startswith("onnxruntime")]
        for extra in ("trainer", "server")
    }
    assert named["trainer"] == named["server"]
    assert len(named["server"]) == 2


def test_a_bare_install_has_no_pixels_and_no_runtime():
    """`pip install .` is the contract and the clients."""
    names = resolved()
    assert not names & {"torch", "torchvision", "onnxruntime", "onnxruntime-gpu", "onnx", "numpy", "pillow"}
    assert not names & {"prometheus-client", "grpcio-reflection"}


def test_trainer_and_server_both_bring_what_a_service_needs():
    """`trapline.service` imports with either extra."""
    for extra in ("trainer", "server"):
        named = {re.split(r"[>=;]", text)[0] for text in PROJECT["optional-dependencies"][extra]}
        assert named >= {"prometheus-client", "grpcio-reflection"}


def test_a_server_installs_without_torch():
    """The server's extra, also with CUDA's libraries, has ONNX Runtime and never torch."""
    for extras in (("server",), ("server", "cuda")):
        names = resolved(*extras)
        assert not names & {"torch", "torchvision", "triton"}
        assert "numpy" in names
        assert len(names & {"onnxruntime", "onnxruntime-gpu"}) == 1
        assert ("nvidia-cudnn-cu13" in names) == ("cuda" in extras and sys.platform == "linux")


def test_constraints_pin_everything_that_dev_installs():
    """Every distribution of the development environment has its version in constraints.txt."""
    needed, waiting = set(), {"trapline[dev]"}
    while waiting:
        name, _, extra = waiting.pop().removesuffix("]").partition("[")
        needed.add((canonical(name), extra))
        for text in importlib.metadata.requires(name) or []:
            requirement = _requirement(text, extra)
            if requirement and not requirement & {f"{known}[{of}]" if of else known for known, of in needed}:
                waiting |= requirement
    installed = {name for name, _ in needed} - {"trapline"}
    assert installed <= {canonical(name) for name in PINS}, sorted(installed - {canonical(name) for name in PINS})


def _requirement(text: str, extra: str) -> set[str]:
    """What `text` asks for in this environment, as `name` or `name[extra]`; empty where it does not apply."""
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
        return set()
    name = canonical(requirement.name)
    return {name} | {f"{name}[{part}]" for part in requirement.extras}


def test_constraints_name_versions_and_no_place():
    """A pin says what, never where from."""
    for line in (TOP / "constraints.txt").read_text(encoding="utf-8").split("\n")[:-1]:
        assert re.fullmatch(r"[a-z0-9-]+==([0-9]+!)?[0-9][0-9a-z.]*", line), line


def loaded_by(*modules: str) -> set[str]:
    """Top-level names that are loaded after importing `modules` in a fresh process."""
    script = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, *modules], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def modules_of(folder: str, package: str) -> list[str]:
    root = TOP / folder
    names = [".".join((package, *path.relative_to(root).with_suffix("").parts)) for path in root.rglob("*.py")]
    return sorted(name.removesuffix(".__init__") for name in names if not name.endswith("__main__"))


def test_clients_and_contract_load_nothing_heavy():
    """What a bare install offers imports without Pillow, NumPy and Prometheus's client.

    `preprocessing` and `service` alone need them; the service's shell loads nothing heavy either.
    """
    modules = [name for name in modules_of("protos/trapline", "trapline") if name != "trapline.preprocessing"]
    service = [name for name in modules if name.startswith("trapline.service")]
    contract = [name for name in modules if name not in service]
    assert not loaded_by(*contract, *modules_of("clients", "clients")) & {*HEAVY, "prometheus_client"}
    assert not loaded_by(*service) & HEAVY
    # A program declares its options by it, and its `--help` waits for them.
    assert not loaded_by("trapline.service.options") & {*HEAVY, "prometheus_client"}


def test_the_server_never_loads_torch():
    """Every module of the server, imported together, leaves torch alone."""
    assert not loaded_by(*modules_of("server", "server")) & {"torch", "torchvision", "trainer"}
