import functools
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def draw_photos(folder, *, count=12, seed=0, side_px=48):
    """Writes `count` noisy PNGs a class; classes differ in colour, so a few steps learn them."""
    chance = np.random.default_rng(seed)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            noise = chance.integers(-60, 60, (side_px, side_px, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:03}.png")
    return folder


@pytest.fixture(scope="session")
def draw():
    """The function that draws a data set."""
    return draw_photos


class Service:
    """A train service in this process and a client of it; `hold` keeps its jobs at work until `release`."""

    def __init__(self, folder, **options):
        from trainer.jobs.config import ServeConfig

        self.data, self.runs = folder / "data", folder / "runs"
        given = {"listen": "127.0.0.1:0", "metrics": "", "gpus": "none", "min_free_gib": 0, **options}
        self.config = ServeConfig(data_root=self.data, runs_root=self.runs, **given)
        self.server = self.channel = self.stub = None

    async def __aenter__(self):
        import grpc

        from trainer.jobs.app import build
        from trapline.v1 import train_pb2_grpc

        program = (sys.executable, "-S", "-E", str(Path(__file__).parent / "fake_job.py"))
        self.server = build(self.config, program=program, poll_seconds=0.02)
        try:
            await self.server.start()
            await self.server.load()
        except BaseException:
            await self.server.stop()
            raise
        self.channel = grpc.aio.insecure_channel(self.server.listen)
        self.stub = train_pb2_grpc.TrainServiceStub(self.channel)
        return self

    async def __aexit__(self, *_):
        await self.channel.close()
        await self.server.stop()

    def hold(self):
        """Jobs wait before their end."""
        (self.runs / "hold").touch()

    def release(self):
        """Jobs end."""
        (self.runs / "hold").unlink()

    async def create(self, *, job_id="", request_id="", validate_only=False, **config):
        """A new job of the dataset `hills`, unless the config says otherwise."""
        from trapline.v1 import train_pb2

        job = train_pb2.TrainJob(config=train_pb2.TrainConfig(**{"dataset": "hills", **config}))
        return await self.stub.CreateTrainJob(
            train_pb2.CreateTrainJobRequest(
                train_job=job, train_job_id=job_id, request_id=request_id, validate_only=validate_only
            )
        )

    async def get(self, name):
        """The job of that name."""
        from trapline.v1 import train_pb2

        return await self.stub.GetTrainJob(train_pb2.GetTrainJobRequest(name=name))

    async def watched(self, name, after_sequence=0):
        """All that a watcher gets until the job ends."""
        from trapline.v1 import train_pb2

        request = train_pb2.WatchTrainJobRequest(name=name, after_sequence=after_sequence)
        return [event async for event in self.stub.WatchTrainJob(request)]

    async def until_state(self, name, state):
        """The job once it is in that state."""
        from trapline.v1 import train_pb2

        call = self.stub.WatchTrainJob(train_pb2.WatchTrainJobRequest(name=name))
        async for event in call:
            if event.HasField("train_job") and event.train_job.state == state:
                call.cancel()
                return event.train_job
        raise AssertionError(f"{name} ended without having been {state}")


@pytest.fixture
def service(tmp_path):
    """The function that makes a train service, of a data root with the data set `hills`; see `Service`."""
    for label in ("deer", "fox"):
        (tmp_path / "data" / "hills" / label).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "data" / "hills" / label / f"{number}.jpg").write_bytes(b"never opened")
    return functools.partial(Service, tmp_path)
