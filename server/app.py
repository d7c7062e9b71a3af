"""Builds the server from its config, starts it, drains it, stops it. Nothing is global: tests call the same `build`."""

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from trapline.errors import TraplineError
from trapline.processors import thread_count
from trapline.service.drain import drain
from trapline.service.gate import Gate
from trapline.service.metrics import MetricsPage
from trapline.service.tracing import Tracing, exporter_to
from trapline.service.transport import Doors
from trapline.v1 import classify_pb2_grpc, model_pb2_grpc

from .access import ACCESS, ADMIN_SERVICES, CLASSIFY_SERVICE, MODEL_SERVICE
from .batcher import Batcher
from .calls import Call
from .classify_service import ClassifyService
from .config import MIB, ModelOptions, ServerConfig
from .decoding import Decoding
from .device import choose_device, device_works
from .health import Health
from .images import Images
from .lanes import Lanes
from .metrics import Metrics
from .model_service import ModelService
from .models import Models
from .pace import Pace
from .places import QueueLimits
from .precision import choose
from .repository import Repository
from .session import Runtime, Session, read_file
from .trial import try_out

_log = logging.getLogger(__name__)

#: How often `--watch` looks into the repository.
WATCH_SECONDS = 2.0


class Server:
    """A server: `start` binds and answers health, `load` loads the models, `drain` or `stop` ends it.

    Attributes:
        models: The models served.
        listen: HOST:PORT that is served on, with the real port; empty before `start`.
        metrics_listen: HOST:PORT of the metrics page; empty where it is off.
        doors: Every address of its gRPC.
        health: What it says of itself.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        models: Models,
        images: Images,
        decoding: Decoding,
        lanes: Lanes,
        metrics: Metrics,
        gate: Gate,
        health: Health,
        stopping: threading.Event,
        tracing: Tracing | None = None,
    ) -> None:
        self.config, self.models, self.metrics = config, models, metrics
        self.listen = self.metrics_listen = ""
        self._images, self._decoding, self._lanes, self._gate, self.health = images, decoding, lanes, gate, health
        self._stopping, self._tracing = stopping, tracing
        self._page: MetricsPage | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.doors = Doors(
            config,
            access=ACCESS,
            admin_services=ADMIN_SERVICES,
            max_message_bytes=config.max_message_mib * MIB,
            gate=gate,
            metrics=metrics,
            tracing=tracing,
            call_kind=Call,
            before_reading={f"/{CLASSIFY_SERVICE}/Classify": images.refusal_unread},
        )

    async def start(self) -> None:
        """Binds, and answers health with NOT_SERVING; calls get MODEL_LOADING until `load` is done.

        Raises:
            UsageError: An address cannot be listened on.
        """
        self.health.begin()
        window = max(32, 4 * self.config.max_batch)
        classify = ClassifyService(self._images, self._gate, stream_window=window)
        models = ModelService(self.models, self.config)
        services = {
            CLASSIFY_SERVICE: partial(classify_pb2_grpc.add_ClassifyServiceServicer_to_server, classify),
            MODEL_SERVICE: partial(model_pb2_grpc.add_ModelServiceServicer_to_server, models),
        }
        self.doors.add(self.health.servicer, services)
        if self.config.metrics:
            self._page = MetricsPage(self.config.metrics, self.metrics)
            self.metrics_listen = self._page.address
        await self.doors.open()
        self.listen = self.doors.main.address
        self._tasks += [asyncio.create_task(work) for work in (self.health.follow(), self.health.watch())]

    async def load(self) -> None:
        """Loads the models, then lets health say SERVING.

        Raises:
            TraplineError: No model can be served, and the config does not allow that.
        """
        await self.models.load_all()
        if not self.models.ready and not self.config.allow_empty:
            raise TraplineError(_none_served(self.config, self.models))
        self.health.tell()
        if self.config.watch:
            self._tasks.append(asyncio.create_task(self._watch()))

    async def drain(self) -> int:
        """Ends in order, within `drain_seconds`; gives the number of calls that it had to cut off."""
        cut_off = await drain(self.doors, self._gate, tell=self.health.tell, seconds=self.config.drain_seconds)
        await self.stop()
        return cut_off

    async def stop(self) -> None:
        """Ends at once: calls under way are cancelled. A second time does nothing."""
        self._gate.close()
        await self.doors.stop(None)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._stopping.set()
        await self.models.close()
        self._decoding.close()
        self._lanes.close()
        page, self._page = self._page, None
        if page is not None:
            await asyncio.to_thread(page.close)
        tracing, self._tracing = self._tracing, None
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    async def has_let_go(self, seconds: float) -> bool:
        """Whether, within so many seconds for each, no thread reads a model, runs a batch, decodes or asks the device.

        To be called after `stop`: a thread that hangs would hold the process for ever.
        """
        if self.health.is_asking or not await self.models.has_let_go(seconds):
            return False
        return self._lanes.have_ended(seconds) and self._decoding.have_ended(seconds)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self.models.refresh()
            except Exception:  # noqa: BLE001  # a folder that is away for a moment must not end the watch
                _log.exception("event=watch_failed")


def build(
    config: ServerConfig,
    *,
    load: Callable[[str, int], Session] | None = None,
    works: Callable[[], bool] | None = None,
) -> Server:
    """The server that `config` describes; call it inside a running event loop.

    Args:
        config: What to serve, and how.
        load: Reads and warms up a version (id, version); `loader`'s where absent.
        works: Whether the device does anything at all; `device.device_works` where absent and on CUDA.

    Raises:
        UsageError: The models' folder is missing.
        TraplineError: The folder is empty and that is not allowed, or CUDA is wanted and does not work.
    """
    repository = Repository(config.models)
    if not repository.model_ids() and not config.allow_empty:
        raise TraplineError(
            f"--models: {config.models} has no models; publish one with `trainer publish`, or start with --allow-empty"
        )
    device, threads, stopping = choose_device(config.device), thread_count(config.threads), threading.Event()
    load = load or loader(config, repository, device=device, stopping=stopping)
    works = works or (device_works if device == "cuda" else None)
    metrics, health_changed, gate = Metrics(), asyncio.Event(), Gate()
    limits = _limits(config)
    metrics.queue_limit.set(limits.max_wait_seconds)
    # On a GPU one batch is prepared while another one runs; on the CPU each thread may run one.
    lanes = Lanes(2, one_device=True) if device == "cuda" else Lanes(threads)

    decoding = Decoding(threads)

    def serve(model_id: str, session: Session) -> Batcher:
        # Lanes side by side keep every core busy, so they decode what they run: an image is then handed over once.
        lanes_decode = session.arrangement.shared is not None
        return Batcher(
            session.run,
            score_count=session.score_count,
            limits=limits,
            pace=Pace(session.arrangement, decode_threads=0 if lanes_decode else threads),
            lanes=lanes,
            decoding=None if lanes_decode else decoding,
            model_id=model_id,
            metrics=metrics,
            on_broken=health_changed.set,
        )

    models = Models(repository, load=load, serve=serve, metrics=metrics, on_change=health_changed.set)
    images = Images(
        models,
        max_image_bytes=config.max_image_bytes,
        max_image_pixels=config.max_image_pixels,
        metrics=metrics,
    )
    return Server(
        config,
        models=models,
        images=images,
        decoding=decoding,
        lanes=lanes,
        metrics=metrics,
        gate=gate,
        health=Health(models, lanes, gate, metrics=metrics, changed=health_changed, device_works=works),
        stopping=stopping,
        tracing=Tracing(exporter_to(config.trace_endpoint), "trapline-server") if config.trace_endpoint else None,
    )


def loader(
    config: ModelOptions,
    repository: Repository,
    *,
    device: Literal["cpu", "cuda"],
    stopping: threading.Event | None = None,
) -> Callable[[str, int], Session]:
    """What tries out, reads and warms up one version (id, version) on `device`; `stopping` ends a trial."""
    runtime = Runtime(
        device=device,
        threads=thread_count(config.threads),
        max_batch=config.max_batch,
        tf32=config.tf32,
        gpu_memory_bytes=config.gpu_memory_mib * MIB,
    )

    def opened(path: Path) -> Session:
        content = read_file(path)
        if config.model_memory_mib:
            try_out(content, max_batch=config.max_batch, memory_mib=config.model_memory_mib, stopping=stopping)
        return Session(content, runtime)

    def load(model_id: str, version: int) -> Session:
        folder = repository.file(model_id, version).parent
        return choose(folder, runtime, wanted=config.precision, open_session=opened)

    return load


def _limits(config: ServerConfig) -> QueueLimits:
    return QueueLimits(
        max_batch=config.max_batch,
        max_delay_seconds=config.max_delay_ms / 1000,
        max_wait_seconds=config.max_queue_ms / 1000,
        max_images=config.max_queue_images,
        max_bytes=config.max_queue_mib * MIB,
    )


def _none_served(config: ServerConfig, models: Models) -> str:
    lines = [str(slot.error[1]) for slot in models.slots() if slot.error is not None]
    return f"none of the models in {config.models} can be served: " + "; ".join(lines)
