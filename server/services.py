"""Which services each address has: all on `--listen`, no classifying on `--admin`, health alone on `--health`."""

from grpc_health.v1 import health as health_service
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from trapline.v1 import classify_pb2_grpc, model_pb2_grpc

from .authentication import CLASSIFY_SERVICE, HEALTH_SERVICE, MODEL_SERVICE, REFLECTION_SERVICE
from .classify_service import ClassifyService
from .model_service import ModelService
from .transport import Doors


def add_services(
    doors: Doors,
    *,
    classify: ClassifyService,
    models: ModelService,
    health: health_service.aio.HealthServicer,
    reflected: bool,
) -> None:
    """Gives each address its services; `reflected` lets them tell which."""
    for door in doors.all:
        health_pb2_grpc.add_HealthServicer_to_server(health, door.server)
        if door is doors.health:
            continue
        names = [HEALTH_SERVICE, REFLECTION_SERVICE, MODEL_SERVICE]
        model_pb2_grpc.add_ModelServiceServicer_to_server(models, door.server)
        if door is doors.main:
            names.append(CLASSIFY_SERVICE)
            classify_pb2_grpc.add_ClassifyServiceServicer_to_server(classify, door.server)
        if reflected:
            reflection.enable_server_reflection(names, door.server)
