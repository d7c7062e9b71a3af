"""Builds the train service from its config, starts it, drains it, stops it. Nothing is global: tests call `build`."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from trapline.errors import UsageError
from trapline.service.drain import drain
from trapline.service.gate import Gate
from trapline.service.health import NOT_SERVING, SERVING, HealthServicer
from trapline.service.metrics import MetricsPage
from trapline.service.tracing import Tracing, exporter_to
from trapline.service.transport import Doors
from trapline.v1 import train_pb2_grpc

from ..dataset.cache.folder import user_cache_folder
from .access import ACCESS, TRAIN_SERVICE
from .calls import Call
from .changes import Changes
from .config import ServeConfig
from .devices import devices, find_gpus
from .folders import STORE, locked_root
from .job import ENDED
from .metrics import TrainMetrics
from .prune import prune_for_ever
from .runner import Runner
from .service import TrainService
from .setting import Setting
from .store import Store

#: Health services that say whether calls are answered, and the one that says whether the process is well.
READINESS, LIVENESS = ("", TRAIN_SERVICE), "liveness"
# A config is a page of text, a create a few hundred bytes.
_LARGEST_MESSAGE_BYTES = 256 * 1024
_THREADS = 8


class TrainServer:
    """A train service: `start` binds and answers health, `load` goes on with the jobs, `drain` or `stop` ends it.

    Attributes:
        listen: HOST:PORT that is served on, with the real port; empty before `start`.
        metrics_listen: HOST:PORT of the metrics page; empty where it is off.
        doors: Every address of its gRPC.
        store: The jobs.
        runner: What runs them.
        metrics: What is counted.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        store: Store,
        changes: Changes,
        runner: Runner,
        metrics: TrainMetrics,
        held: ExitStack,
    ) -> None:
        self.config, self.store, self.runner, self.metrics = config, store, runner, metrics
        self.listen = self.metrics_listen = ""
        self._held, self._gate, self._health = held, Gate(), HealthServicer()
        self._tracing = (
            Tracing(exporter_to(config.trace_endpoint), "trapline-trainer") if config.trace_endpoint else None
        )
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="files")
        self._page: MetricsPage | None = None
        self._pruning: asyncio.Task[None] | None = None
        self._loaded = self._stopped = False
        self._service = TrainService(
            config,
            store=store,
            changes=changes,
            runner=runner,
            gate=self._gate,
            metrics=metrics,
            threads=self._threads,
        )
        self.doors = Doors(
            config,
            access=ACCESS,
            admin_services=(TRAIN_SERVICE,),
            max_message_bytes=_LARGEST_MESSAGE_BYTES,
            gate=self._gate,
            metrics=metrics,
            tracing=self._tracing,
            call_kind=Call,
        )

    async def start(self) -> None:
        """Binds, and answers health with NOT_SERVING.

        Raises:
            UsageError: An address cannot be listened on.
        """
        self._health.set(LIVENESS, SERVING)
        self._tell()
        add = partial(train_pb2_grpc.add_TrainServiceServicer_to_server, self._service)
        self.doors.add(self._health, {TRAIN_SERVICE: add})
        if self.config.metrics:
            self._page = MetricsPage(self.config.metrics, self.metrics)
            self.metrics_listen = self._page.address
        await self.doors.open()
        self.listen = self.doors.main.address

    async def load(self) -> int:
        """Goes on with the jobs that an earlier service left; gives how many have not ended."""
        await self.runner.start()
        self._loaded = True
        self._tell()
        if self.config.keep_runs or self.config.keep_days:
            self._pruning = asyncio.create_task(prune_for_ever(self.config, self.store, self.runner))
        return sum(count for state, count in self.store.counts().items() if state not in ENDED)

    async def drain(self) -> int:
        """Ends in order, within `drain_seconds`; gives the number of calls that it had to cut off.

        Jobs' processes are asked to stop meanwhile, and killed at the end of that time: the jobs go on from their last
        checkpoint when a service starts again.
        """
        seconds = self.config.drain_seconds
        cut_off, _ = await asyncio.gather(
            drain(self.doors, self._gate, tell=self._tell, seconds=seconds), self.runner.stop(seconds)
        )
        await self.stop()
        return cut_off

    async def stop(self) -> None:
        """Ends at once: calls under way are cancelled, jobs' processes killed. A second time does nothing."""
        self._gate.close()
        await self.doors.stop(None)
        pruning, self._pruning = self._pruning, None
        if pruning is not None:
            pruning.cancel()
            await asyncio.gather(pruning, return_exceptions=True)
        page, self._page = self._page, None
        if page is not None:
            await asyncio.to_thread(page.close)
        tracing, self._tracing = self._tracing, None
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
        stopped, self._stopped = self._stopped, True
        if not stopped:
            await self.runner.stop(0)
            await asyncio.to_thread(self._threads.shutdown)
            await self.store.close()
            self._held.close()

    def _tell(self) -> None:
        ready = self._loaded and not self._gate.winding_down.is_set()
        self.metrics.ready.set(ready)
        for service in READINESS:
            self._health.set(service, SERVING if ready else NOT_SERVING)


def build(
    config: ServeConfig, *, program: Sequence[str] | None = None, poll_seconds: float | None = None
) -> TrainServer:
    """The train service that `config` describes; call it inside a running event loop.

    Args:
        config: What to serve, and how.
        program: What a job's process is, in place of the trainer's own; it gets the job's folder as its last argument.
        poll_seconds: How often what processes tell is looked at, in place of the usual.

    Raises:
        UsageError: The data root is missing, or another service has the runs root.
    """
    config = _absolute(config)
    if not config.data_root.is_dir():
        raise UsageError(f"--data-root: there is no folder {config.data_root}; name the one that data sets lie in")
    places = (config.data_root, config.runs_root, config.models, user_cache_folder(config.cache_dir))
    setting = Setting(
        runs_root=config.runs_root,
        hidden=[path for path in places if path is not None],
        min_free_bytes=config.min_free_bytes,
        max_seconds=config.max_hours * 3600 or None,
    )
    if program is not None:
        setting = replace(setting, program=program)
    if poll_seconds is not None:
        setting = replace(setting, poll_seconds=poll_seconds)
    with ExitStack() as held:
        held.enter_context(locked_root(config.runs_root))
        changes, metrics = Changes(), TrainMetrics()
        metrics.show_room(config.runs_root, config.min_free_bytes)
        store = Store(config.runs_root / STORE, changes, metrics.count)
        metrics.take_over(store.counts(), store.running())
        runner = Runner(store, devices=devices(config.parallel, find_gpus(config.gpus)), setting=setting)
        return TrainServer(config, store=store, changes=changes, runner=runner, metrics=metrics, held=held.pop_all())


def _absolute(config: ServeConfig) -> ServeConfig:
    """The same folders, also from a job's own folder, in which its process runs."""
    given = {name: getattr(config, name) for name in ("data_root", "runs_root", "models", "cache_dir")}
    return config.model_copy(update={name: path.absolute() for name, path in given.items() if path is not None})
