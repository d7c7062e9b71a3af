"""What health says: readiness, liveness, and whether the device is lost, which only another process can mend."""

import asyncio
import logging
from collections.abc import Callable

from grpc_health.v1 import health, health_pb2

from .authentication import CLASSIFY_SERVICE
from .gate import Gate
from .models import Models

_log = logging.getLogger(__name__)

#: Health services that say whether work can be taken, and the one that says whether the process is well.
READINESS, LIVENESS = ("", CLASSIFY_SERVICE), "liveness"
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Keeps `grpc.health.v1` in step with the models and the gate.

    Args:
        models: Those served.
        gate: Tells that the server drains.
        changed: Set by whoever changes what is told here.
        device_works: Whether the device does anything at all; slow, called on a thread when every batch of a model
            fails. None where there is no device to lose.

    Attributes:
        servicer: What answers `grpc.health.v1`.
        lost: Set once the device is lost.
    """

    def __init__(
        self, models: Models, gate: Gate, *, changed: asyncio.Event, device_works: Callable[[], bool] | None
    ) -> None:
        self._models, self._gate, self._changed, self._device_works = models, gate, changed, device_works
        self.servicer, self.lost = health.aio.HealthServicer(), asyncio.Event()

    async def begin(self) -> None:
        """Says that the process is well and takes no work yet."""
        for service in READINESS:
            await self.servicer.set(service, _NOT_SERVING)
        await self.servicer.set(LIVENESS, _SERVING)

    async def tell(self) -> None:
        """Says what is the case now."""
        ready = self._models.ready and not self._gate.winding_down.is_set()
        for service in READINESS:
            await self.servicer.set(service, _SERVING if ready else _NOT_SERVING)
        await self.servicer.set(LIVENESS, _NOT_SERVING if self._models.broken else _SERVING)

    async def follow(self) -> None:
        """Tells every change, and looks at the device where a model's batches all fail; never ends by itself."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.tell()
            works = self._device_works
            if self._models.broken and works is not None and not await asyncio.to_thread(works):
                _log.error("event=device_lost")
                self.lost.set()
