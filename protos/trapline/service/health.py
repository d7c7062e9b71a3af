"""`grpc.health.v1`: how each service of a program is, and each change of it."""

import asyncio
from typing import Any, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
# One of the enum's values, which are numbers.
_Status: TypeAlias = int


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Answers with what was set last, which takes effect at once whoever watches.

    grpcio-health-checking's own holds a lock while it writes to a watcher, and takes it to set anything: one watcher
    that takes in nothing would hold up every change, and the end of the program.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, _Status] = {}
        # Another one after each change: who waits for it has seen all before.
        self._changed = asyncio.Event()

    def set(self, service: str, status: _Status) -> None:
        """Says from now on that `service` has `status`; watchers are told as they take it in."""
        if self._statuses.get(service) != status:
            self._statuses[service] = status
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: ANN401, N802  # gRPC's
        """How a service is; NOT_FOUND where nothing was ever said of it."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: ANN401, N802  # gRPC's
        """How a service is, and each change until the caller leaves; of several that came meanwhile, the last."""
        told: _Status | None = None
        while True:
            changed, status = self._changed, self._statuses.get(request.service, _UNKNOWN)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            else:
                await changed.wait()
