"""A program that is nothing but the shell around a TrainService whose streams do what a test says."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest

from trapline.service.authentication import TELLING, Access
from trapline.service.drain import drain
from trapline.service.gate import Gate
from trapline.service.health import NOT_SERVING, SERVING, HealthServicer
from trapline.service.metrics import ServiceMetrics
from trapline.service.options import ServiceOptions
from trapline.service.transport import Doors
from trapline.v1 import train_pb2, train_pb2_grpc

TRAIN_SERVICE = "trapline.v1.TrainService"
ACCESS = {
    **TELLING,
    f"/{TRAIN_SERVICE}/GetTrainJob": Access.CALLER,
    f"/{TRAIN_SERVICE}/WatchTrainJob": Access.CALLER,
    f"/{TRAIN_SERVICE}/ReadTrainJobArtifact": Access.CALLER,
    f"/{TRAIN_SERVICE}/CancelTrainJob": Access.ADMIN,
}


class Jobs(train_pb2_grpc.TrainServiceServicer):
    """Both streams tell `story`, an async generator of numbers: one is a generator itself, the other writes."""

    def __init__(self, story: Callable[[], AsyncIterator[int]]) -> None:
        self.story, self.began = story, asyncio.Event()

    async def GetTrainJob(self, request, context):  # noqa: N802, ARG002  # the method's name in the contract, and its form
        """The name that was asked for."""
        return train_pb2.TrainJob(name=request.name)

    async def CancelTrainJob(self, request, context):  # noqa: N802, ARG002  # as above
        """The same."""
        return train_pb2.TrainJob(name=request.name)

    async def WatchTrainJob(self, request, context):  # noqa: N802, ARG002  # as above
        """The story as events."""
        self.began.set()
        async with contextlib.aclosing(self.story()) as numbers:
            async for number in numbers:
                yield train_pb2.WatchTrainJobResponse(sequence=number)

    async def ReadTrainJobArtifact(self, request, context):  # noqa: N802, ARG002  # as above
        """The story as chunks."""
        self.began.set()
        async with contextlib.aclosing(self.story()) as numbers:
            async for number in numbers:
                await context.write(train_pb2.ReadTrainJobArtifactResponse(chunk=bytes([number])))


class Program:
    """The shell around `jobs`; `value` reads its metrics, `drain` ends it as a program does."""

    def __init__(self, jobs: Jobs, **options: object) -> None:
        self.options = ServiceOptions(**{"listen": "127.0.0.1:0", "metrics": "", **options})
        self.jobs, self.gate, self.metrics = jobs, Gate(), ServiceMetrics()
        self.health = HealthServicer()
        self.health.set("", SERVING)
        self.doors = Doors(
            self.options,
            access=ACCESS,
            admin_services=[TRAIN_SERVICE],
            max_message_bytes=65536,
            gate=self.gate,
            metrics=self.metrics,
        )
        self.doors.add(
            self.health,
            {TRAIN_SERVICE: lambda server: train_pb2_grpc.add_TrainServiceServicer_to_server(jobs, server)},
        )

    def value(self, name: str, **labels: str) -> float | None:
        """A metric's value; None where it has none yet."""
        return self.metrics.registry.get_sample_value(name, labels)

    async def drain(self, seconds: float = 0.4) -> int:
        """Ends it; the number of calls that were cut off."""
        return await drain(self.doors, self.gate, tell=lambda: self.health.set("", NOT_SERVING), seconds=seconds)


async def numbers() -> AsyncIterator[int]:
    """The plain story."""
    for number in (1, 2, 3):
        yield number


@contextlib.asynccontextmanager
async def running(
    story: Callable[[], AsyncIterator[int]] = numbers, **options: object
) -> AsyncIterator[tuple[Program, SimpleNamespace]]:
    """The program, open, and a client: `get`, and by its name each stream, of which `numbers` reads all."""
    program = Program(Jobs(story), **options)
    await program.doors.open()
    channel = grpc.aio.insecure_channel(program.doors.main.address)
    stub = train_pb2_grpc.TrainServiceStub(channel)

    def stream(name: str, **more: object) -> grpc.aio.UnaryStreamCall:
        request = getattr(train_pb2, f"{name}Request")
        return getattr(stub, name)(request(**({"name": "a"} if name == "WatchTrainJob" else {"parent": "a"})), **more)

    try:
        yield program, SimpleNamespace(channel=channel, stub=stub, stream=stream)
    finally:
        await channel.close()
        await program.doors.stop(None)


def number_of(response) -> int:
    """The number that an answer of either stream tells."""
    return response.sequence if isinstance(response, train_pb2.WatchTrainJobResponse) else response.chunk[0]


async def until(condition: Callable[[], bool]) -> None:
    """Waits for `condition`; the test's own time limit ends a vain wait."""
    while not condition():  # noqa: ASYNC110  # the program's own state has no event to wait for
        await asyncio.sleep(0.005)


@pytest.fixture
def kit() -> SimpleNamespace:
    """The helpers above: `tests` has no packages to import them from."""
    return SimpleNamespace(running=running, number_of=number_of, until=until, ACCESS=ACCESS)


@pytest.fixture
def call_lines(caplog) -> Callable[[], list[dict[str, str]]]:
    """The log lines of the calls that have ended, as words."""
    caplog.set_level(logging.INFO, "trapline.service")

    def lines() -> list[dict[str, str]]:
        found = [record.getMessage() for record in caplog.records if record.getMessage().startswith("event=call ")]
        return [dict(word.split("=", 1) for word in line.split()) for line in found]

    return lines
