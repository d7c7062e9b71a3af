"""What health says: readiness, liveness, and whether only another process can mend what is wrong."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trapline.service.gate import Gate
from trapline.service.health import NOT_SERVING, SERVING, HealthServicer

from .access import CLASSIFY_SERVICE
from .lanes import Lanes
from .metrics import Metrics
from .models import Models

_log = logging.getLogger(__name__)

#: Health services that say whether work can be taken, and the one that says whether the process is well.
READINESS, LIVENESS = ("", CLASSIFY_SERVICE), "liveness"
# A device that does not answer within this is lost.
_PROBE_SECONDS = 60.0
# How often it is looked whether batches come back, and after how many looks in a row without any it is given up. Looks
# are counted, not seconds: a process that was stopped for an hour has missed one.
_LOOK_SECONDS, _STUCK_LOOKS = 5.0, 24


@contextmanager
def _faults_logged() -> Iterator[None]:
    """Logs what should not happen: whoever tells of a broken device must not be ended by a fault of its own."""
    try:
        yield
    except Exception:  # noqa: BLE001  # the next look is made all the same
        _log.exception("event=health_failed")


class Health:
    """Keeps `grpc.health.v1` in step with the models and the gate.

    Args:
        models: Those served.
        lanes: Where their batches run.
        gate: Tells that the server drains.
        metrics: Where readiness is shown, too.
        changed: Set by whoever changes what is told here.
        device_works: Whether the device does anything at all; slow, called on a thread when every batch of a model
            fails. None where there is no device to lose.

    Attributes:
        servicer: What answers `grpc.health.v1`.
        lost: Done once only another process can go on; says why.
        is_asking: Whether a thread waits for the device to show that it works.
    """

    def __init__(
        self,
        models: Models,
        lanes: Lanes,
        gate: Gate,
        *,
        metrics: Metrics,
        changed: asyncio.Event,
        device_works: Callable[[], bool] | None,
    ) -> None:
        self._models, self._lanes, self._gate, self._ready = models, lanes, gate, metrics.ready
        self._changed, self._device_works = changed, device_works
        self.servicer = HealthServicer()
        self.is_asking = False
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        """Says that the process is well and takes no work yet."""
        for service in READINESS:
            self.servicer.set(service, NOT_SERVING)
        self.servicer.set(LIVENESS, SERVING)

    def tell(self) -> None:
        """Says what is the case now."""
        ready = self._models.ready and not self._gate.winding_down.is_set()
        self._ready.set(ready)
        for service in READINESS:
            self.servicer.set(service, SERVING if ready else NOT_SERVING)
        self.servicer.set(LIVENESS, NOT_SERVING if self._models.broken or self.lost.done() else SERVING)

    async def follow(self) -> None:
        """Tells every change, and looks at the device where a model's batches all fail; never ends by itself."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            with _faults_logged():
                self.tell()
                if self._models.broken and not await self._works():
                    self._lose("the GPU answers no more")

    async def watch(self) -> None:
        """Looks whether batches come back; never ends by itself.

        A driver or a runtime that hangs raises nothing: calls would be refused for a full queue for ever.
        """
        looks, ended = 0, 0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            with _faults_logged():
                comes_back = self._lanes.ended_count != ended or not self._lanes.overdue
                looks, ended = 0 if comes_back else looks + 1, self._lanes.ended_count
                if looks == _STUCK_LOOKS:
                    self._lose("a batch does not come back")

    async def _works(self) -> bool:
        if self._device_works is None:
            return True
        asking = asyncio.get_running_loop().run_in_executor(None, self._device_works)
        self.is_asking = True
        asking.add_done_callback(self._asked)
        try:
            return await asyncio.wait_for(asyncio.shield(asking), _PROBE_SECONDS)
        except TimeoutError:
            return False

    def _asked(self, _: "asyncio.Future[bool]") -> None:
        self.is_asking = False

    def _lose(self, why: str) -> None:
        if not self.lost.done():
            _log.error("event=device_lost why=%r", why)
            self.lost.set_result(why)
            self.tell()
