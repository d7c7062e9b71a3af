"""The servers of a comparison: how each is started and reached, and how it is stopped with all that it started."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from trapline.model_file import file_name

from .accounts import MARK, members, resident_mib
from .assets import Assets, metadata_of
from .environments import clean_environment, python_of
from .peer_starts import ROOM, STARTS, WORKERS, Place, mlserver_settings

TOP = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A server to start.

    Attributes:
        name: `trapline`, or a peer's name, with `-workers` after it for many processes of one thread.
        decode: `documented` or `scaled`; Trapline's is always `scaled`.
        assets: Model and photos.
        cores: Processors for it.
        options: Further options of `server run`, for Trapline only.
        device: What Trapline runs models on.
    """

    name: str
    decode: str
    assets: Assets
    cores: int
    options: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(kw_only=True)
class Running:
    """A server that was started.

    Attributes:
        wanted: What was asked for.
        process: Its first process.
        mark: What all its processes carry.
        protocol: How it is asked, see `callers.caller`.
        target: Where.
        metrics: Address of Trapline's metrics page.
        log: File of its output.
    """

    wanted: Wanted
    process: subprocess.Popen[bytes]
    mark: str
    protocol: str
    target: str
    log: Path
    metrics: str = ""

    def resident_mib(self) -> float:
        """Memory of all its processes."""
        return resident_mib(members(self.process.pid, self.mark))

    def said(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-1500:]


@contextmanager
def running(wanted: Wanted, work: Path) -> Iterator[Running]:
    """The server while it runs. It may not answer yet: the load generator waits for the first right answer.

    Raises:
        NotInstalled: Its environment cannot be made.
    """
    mark = uuid.uuid4().hex
    folder = work / "servers" / mark
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        start = _trapline if wanted.name == "trapline" else _peer
        server = start(wanted, folder, mark, work)
        stack.callback(stop, server)
        yield server


def stop(server: Running, *, seconds: float = _STOP_SECONDS) -> None:
    """Ends the server in order, then whatever is left of it."""
    before = members(server.process.pid, server.mark)
    if server.process.poll() is None:
        server.process.terminate()
    end = time.monotonic() + seconds
    while time.monotonic() < end and (server.process.poll() is None):
        time.sleep(0.05)
    for process in {*before, *members(server.process.pid, server.mark)} - {os.getpid()}:
        if _carries(process, server):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
    server.process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def repository(folder: Path, *models: Path) -> Path:
    """A model repository with `models` as the versions 1, 2 ... of one model."""
    for number, model in enumerate(models, start=1):
        version = folder / "bench" / str(number)
        version.mkdir(parents=True)
        shutil.copyfile(model, version / "model.onnx")
    return folder


def _trapline(wanted: Wanted, folder: Path, mark: str, work: Path) -> Running:  # noqa: ARG001  # no environment to make
    grpc_port, metrics_port = free_ports(2)
    fp32 = wanted.assets.made_from
    models = repository(folder / "models", fp32 or wanted.assets.model)
    if fp32 is not None:
        # The server measures both, and serves the faster one.
        cheaper = file_name(metadata_of(wanted.assets.model).precision)
        shutil.copyfile(wanted.assets.model, models / "bench" / "1" / cheaper)
    return start_trapline(wanted, models, mark, listen=grpc_port, metrics=metrics_port, log=folder / "log.txt")


def start_trapline(wanted: Wanted, models: Path, mark: str, *, listen: int, metrics: int, log: Path) -> Running:
    """Starts `server run` of this checkout on the repository `models`."""
    addresses = ["--listen", f"127.0.0.1:{listen}", "--metrics", f"127.0.0.1:{metrics}"]
    settings = ["--device", wanted.device, "--threads", str(wanted.cores)]
    program = [sys.executable, "-c", "import sys; from server.cli import main; sys.exit(main())", "run"]
    command = [*program, "--models", str(models), *addresses, *settings, *wanted.options]
    path = os.pathsep.join([str(TOP), str(TOP / "protos")])
    environment = clean_environment() | {"PYTHONPATH": path, MARK: mark}
    if wanted.device == "cuda":
        del environment["CUDA_VISIBLE_DEVICES"]  # those of the caller were taken away
        environment |= {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
    process = _started(command, environment, log)
    return Running(
        wanted=wanted,
        process=process,
        mark=mark,
        protocol="trapline",
        target=f"127.0.0.1:{listen}",
        metrics=f"http://127.0.0.1:{metrics}/metrics",
        log=log,
    )


def _peer(wanted: Wanted, folder: Path, mark: str, work: Path) -> Running:
    name, many = wanted.name.removesuffix(WORKERS), wanted.name.endswith(WORKERS)
    http, grpc, metrics = free_ports(3)
    place = Place(python=python_of(name, work), folder=folder, http=http, grpc=grpc, metrics=metrics)
    start = STARTS[name](place)
    environment = clean_environment() | {
        MARK: mark,
        "PYTHONPATH": os.pathsep.join([str(ROOM), str(TOP / "protos")]),
        "PYTHONWARNINGS": "ignore",
        "BENCH_MODEL": str(wanted.assets.model.resolve()),
        "BENCH_IMAGE_PX": str(wanted.assets.image_px),
        "BENCH_DECODE": wanted.decode,
        "BENCH_WORKERS": str(wanted.cores if many else 1),
        "BENCH_THREADS": str(1 if many else wanted.cores),
        "BENCH_HTTP_PORT": str(http),
        "BENCH_GRPC_PORT": str(grpc),
        "BENCH_METRICS_PORT": str(metrics),
    }
    if name == "mlserver":
        mlserver_settings(place, workers=wanted.cores if many else 1)
    log = folder / "log.txt"
    process = _started(start.command, environment | start.environment, log, folder)
    return Running(wanted=wanted, process=process, mark=mark, protocol=start.protocol, target=start.target, log=log)


def _started(
    command: list[str | Path] | list[str], environment: dict[str, str], log: Path, folder: Path | None = None
) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder or log.parent,
            start_new_session=True,
        )


def _carries(process: int, server: Running) -> bool:
    """Whether a process is still one of the server's: its number may be another's by now."""
    try:
        return f"{MARK}={server.mark}".encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
