"""Several servers of one repository on fixed ports, that are stopped, killed and started again."""

import signal
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .servers import Running, Wanted, free_ports, start_trapline, stop

_START_SECONDS = 120.0
_POLL_SECONDS = 0.1


class NotReady(Exception):
    """A server did not become ready; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a server ended: seconds it took, and its exit code."""

    seconds: float
    code: int


class Fleet:
    """`count` servers; a context manager.

    Args:
        wanted: What each is; its cores are those of all together.
        models: The repository.
        folder: For their logs.
        count: How many.
    """

    def __init__(self, wanted: Wanted, models: Path, folder: Path, *, count: int) -> None:
        self._wanted, self._models, self._folder = wanted, models, folder
        ports = free_ports(2 * count)
        self._ports = list(zip(ports[:count], ports[count:], strict=True))
        self.servers: list[Running] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for number in range(len(self._ports)):
                self.servers.append(self._started(number))
                stack.callback(stop, self.servers[-1])
            for server in self.servers:
                wait_ready(server)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            stop(server)

    @property
    def target(self) -> str:
        """What gRPC takes for all of them."""
        return "ipv4:" + ",".join(f"127.0.0.1:{listen}" for listen, _ in self._ports)

    def end(self, number: int, kind: signal.Signals) -> Ended:
        """Sends the server a signal, and waits for its end."""
        process = self.servers[number].process
        began = time.monotonic()
        process.send_signal(kind)
        code = process.wait()
        return Ended(seconds=round(time.monotonic() - began, 3), code=code)

    def start_again(self, number: int) -> float:
        """Starts a server that ended, on the same port; gives the seconds until it is ready."""
        began = time.monotonic()
        self.servers[number] = self._started(number)
        wait_ready(self.servers[number])
        return round(time.monotonic() - began, 3)

    def _started(self, number: int) -> Running:
        listen, metrics = self._ports[number]
        log = self._folder / f"server-{number}.txt"
        return start_trapline(self._wanted, self._models, uuid.uuid4().hex, listen=listen, metrics=metrics, log=log)


def wait_ready(server: Running) -> None:
    """Waits until the server's health is SERVING.

    Raises:
        NotReady: It ended, or is not ready in time.
    """
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and server.process.poll() is None:
        with grpc.insecure_channel(server.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.RpcError:
                answer = None
        if answer is not None and answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
        time.sleep(_POLL_SECONDS)
    raise NotReady(f"a server is not ready; its last words: {server.said()}")
