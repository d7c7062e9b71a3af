"""Makes the Python stubs beside the .proto files, and lints the .proto files.

`python protos/generate.py` writes the stubs; `--out DIR` writes them elsewhere (the test compares them with the
committed ones); `--lint` runs `buf lint`, `buf format` and, against the released descriptor, `buf breaking`;
`--release` makes the descriptor of the files as they are the released one, which a new version of Trapline does.

Generated code refuses a protobuf or grpcio runtime older than its compiler, so the stubs are made with the OLDEST
toolchain that Trapline supports, in an environment of its own. These pins are the lower bounds in pyproject.toml.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLCHAIN = ("grpcio-tools==1.66.2", "mypy-protobuf==3.6.0", "protobuf==5.29.6", "setuptools<80")
ROOT = Path(__file__).parent
#: What was released last, as a serialised FileDescriptorSet: new .proto files may only add to it.
RELEASED = ROOT / "released.binpb"
PROTO_FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("trapline/v1/*.proto"))


def common_protos() -> Path:
    """The folder that holds `google/rpc/status.proto`, from googleapis-common-protos."""
    spec = importlib.util.find_spec("google.rpc")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("googleapis-common-protos is not installed; run `make protos`, which uses .venv")
    return Path(next(iter(spec.submodule_search_locations))).parents[1]


def generate(out: Path) -> None:
    """Writes `*_pb2.py`, `*_pb2.pyi`, `*_pb2_grpc.py` and `*_pb2_grpc.pyi` under `out`."""
    with tempfile.TemporaryDirectory() as folder:
        # Only google/rpc: the rest of site-packages must not leak into the import path of another toolchain.
        shutil.copytree(common_protos() / "google" / "rpc", Path(folder) / "google" / "rpc")
        withs = [argument for pin in TOOLCHAIN for argument in ("--with", pin)]
        command = [sys.executable, "-m", "uv", "run", "--no-project", "--isolated", "--quiet", "--python"]
        command += [sys.executable, *withs, "python", "-m", "grpc_tools.protoc", f"-I{ROOT}", f"-I{folder}"]
        command += [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
        command += [f"--mypy_grpc_out=quiet:{out}", *PROTO_FILES]
        subprocess.run(command, check=True, cwd=folder)
    for path in out.glob("trapline/v1/error_reason_pb2_grpc.py*"):
        path.unlink()
    for path in out.glob("trapline/v1/metadata_pb2_grpc.py*"):
        path.unlink()


def buf(*arguments: str | Path) -> None:
    """Runs buf where a copy of the .proto files has the imported google/rpc files beside it, on ours alone."""
    program = Path(sys.executable).parent / "buf"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "protos"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("*.py*", "__pycache__"))
        shutil.copytree(common_protos() / "google" / "rpc", copy / "google" / "rpc")
        # Relative, as the paths in a descriptor are.
        subprocess.run([program, *arguments, "--path", "trapline"], check=True, cwd=copy)


def lint() -> None:
    """Lints the .proto files, and refuses what would break who speaks the released ones."""
    buf("lint")
    buf("format", "--diff", "--exit-code")
    buf("breaking", "--against", RELEASED)


def release() -> None:
    """Writes the released descriptor."""
    buf("build", "--exclude-source-info", "-o", RELEASED)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT, help="folder to write the stubs under")
    parser.add_argument("--lint", action="store_true", help="lint the .proto files instead")
    parser.add_argument("--release", action="store_true", help="release the .proto files as they are instead")
    arguments = parser.parse_args()
    if arguments.lint:
        lint()
    elif arguments.release:
        release()
    else:
        arguments.out.mkdir(parents=True, exist_ok=True)
        generate(arguments.out.resolve())


if __name__ == "__main__":
    main()
