"""How each peer is started: its command, variables and address. What runs then is in the folder `peers`."""

import json
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .environments import PEERS

#: A peer of this name has as many processes with one thread each as there are cores; alone, one with all threads.
WORKERS = "-workers"
#: These know no such processes that are reached over gRPC.
ONE_PROCESS_ONLY = ("kserve",)
#: The folder of what runs in the peers' environments.
ROOM = Path(__file__).resolve().parent / "peers"


@dataclass(kw_only=True)
class Start:
    """A peer's command, variables and address, made by one of `STARTS`."""

    command: list[str | Path]
    protocol: str
    target: str
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a peer runs: its interpreter, its ports, a folder of its own."""

    python: Path
    folder: Path
    http: int
    grpc: int
    metrics: int

    @property
    def url(self) -> str:
        """What its HTTP paths follow."""
        return f"http://127.0.0.1:{self.http}"


def _litserve(place: Place) -> Start:
    command = [place.python, ROOM / "litserve_server.py"]
    return Start(command=command, protocol="http-multipart:image", target=f"{place.url}/predict")


def _bentoml(place: Place) -> Start:
    return Start(
        command=[
            *(place.python, "-m", "bentoml", "serve", "bentoml_server:Classifier", "--working-dir", ROOM),
            *("--host", "127.0.0.1", "--port", str(place.http)),
        ],
        protocol="http-multipart:images",
        target=f"{place.url}/classify",
        environment={"BENTOML_DO_NOT_TRACK": "1", "BENTOML_HOME": str(place.folder / "bentoml")},
    )


def _mosec(place: Place) -> Start:
    options = ("--address", "127.0.0.1", "--port", str(place.http), "--timeout", "60000", "--log-level", "warning")
    command = [place.python, ROOM / "mosec_server.py", *options]
    return Start(command=command, protocol="http-raw", target=f"{place.url}/inference")


def _ray(place: Place) -> Start:
    return Start(
        command=[place.python, ROOM / "ray_server.py"],
        protocol="http-raw",
        target=f"{place.url}/",
        environment={"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"},
    )


def _pytriton(place: Place) -> Start:
    # Triton's stub loads libpython by itself, and only that of the interpreter's own patch level will do.
    return Start(
        command=[place.python, ROOM / "pytriton_server.py"],
        protocol="oip",
        target=f"127.0.0.1:{place.grpc}",
        environment={
            "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR") or "",
            "PYTRITON_HOME": str(place.folder / "pytriton"),
        },
    )


def _kserve(place: Place) -> Start:
    command = [place.python, ROOM / "kserve_server.py"]
    return Start(command=command, protocol="oip", target=f"127.0.0.1:{place.grpc}")


def _mlserver(place: Place) -> Start:
    command = [place.python.with_name("mlserver"), "start", place.folder / "mlserver"]
    return Start(command=command, protocol="oip", target=f"127.0.0.1:{place.grpc}")


def mlserver_settings(place: Place, *, workers: int) -> None:
    """MLServer reads its settings from files."""
    folder = place.folder / "mlserver"
    folder.mkdir()
    server = {
        "debug": False,
        "http_port": place.http,
        "grpc_port": place.grpc,
        "metrics_port": place.metrics,
        "parallel_workers": workers,
        "host": "127.0.0.1",
        "grpc_max_message_length": 64 * 2**20,
    }
    model = {
        "name": "bench",
        "implementation": "mlserver_server.Classifier",
        "max_batch_size": 16,
        "max_batch_time": 0.002,
    }
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))


#: By the peer's name, without `-workers`.
STARTS: dict[str, Callable[[Place], Start]] = {
    "litserve": _litserve,
    "bentoml": _bentoml,
    "mlserver": _mlserver,
    "mosec": _mosec,
    "pytriton": _pytriton,
    "ray": _ray,
    "kserve": _kserve,
}
#: Every name that `--peers` takes.
NAMES = (*PEERS, *(f"{name}{WORKERS}" for name in PEERS if name not in ONE_PROCESS_ONLY))
