"""The models of a server: asking for them, reloading one, and a table to read."""

import contextlib
from collections.abc import Sequence

from trapline.v1 import model_pb2

from .connection import Connection
from .security import Security
from .table import columns

_HEADER = ("MODEL", "VERSION", "STATE", "LABELS", "INPUT", "ACCURACY", "LAST ERROR")
_LABELS_SHOWN = 4


def list_models(address: str, *, timeout_seconds: float, security: Security | None = None) -> list[model_pb2.Model]:
    """Every model of the server at `address`, by name.

    Args:
        address: `host:port` or a gRPC target.
        timeout_seconds: For each page of models, in seconds; a server out of reach is given up after 5 s at most.
        security: TLS and the token.

    Raises:
        Refusal: The server is not reached or refuses.
    """
    models: list[model_pb2.Model] = []
    request = model_pb2.ListModelsRequest()
    with contextlib.closing(Connection(address, security=security)) as connection:
        while True:
            page = connection.persist(
                lambda seconds_left: connection.model_stub.ListModels(request, timeout=seconds_left),
                timeout_seconds=timeout_seconds,
            )
            models.extend(page.models)
            if not page.next_page_token:
                return models
            request.page_token = page.next_page_token


def reload_model(
    address: str, *, model: str, version: str, timeout_seconds: float, security: Security | None = None
) -> model_pb2.Model:
    """The model as it is served after a reload.

    Args:
        address: `host:port` or a gRPC target.
        model: The model's id.
        version: The version to serve; empty for the newest.
        timeout_seconds: For reading and warming up, in seconds; a server out of reach is given up after 5 s at most.
        security: TLS and the token.

    Raises:
        Refusal: The server is not reached, or there is no such model or version, or it cannot be served.
    """
    request = model_pb2.ReloadModelRequest(name=f"models/{model}", version=version)
    with contextlib.closing(Connection(address, security=security)) as connection:
        reloaded: model_pb2.Model = connection.persist(
            lambda seconds_left: connection.model_stub.ReloadModel(request, timeout=seconds_left),
            timeout_seconds=timeout_seconds,
        )
        return reloaded


def table_of(models: Sequence[model_pb2.Model]) -> str:
    """The models as lines of columns."""
    return columns([_HEADER, *(_row(model) for model in models)])


def _row(model: model_pb2.Model) -> tuple[str, ...]:
    metadata = model.metadata
    labels = [label.id for label in metadata.labels]
    more = ", ..." if len(labels) > _LABELS_SHOWN else ""
    shape, evaluation = metadata.preprocessing, metadata.evaluation
    state = (
        model_pb2.Model.State.Name(model.state) if model.state in model_pb2.Model.State.values() else str(model.state)
    )
    return (
        model.name.removeprefix("models/"),
        model.version or "-",
        state.removeprefix("STATE_").lower(),
        f"{len(labels)}: {', '.join(labels[:_LABELS_SHOWN])}{more}" if labels else "-",
        f"{shape.width_px}×{shape.height_px} px" if shape.width_px else "-",
        f"{evaluation.accuracy:.1%} of {evaluation.image_count:,}" if evaluation.image_count else "-",
        " ".join(model.last_error.message.split()) or "-",
    )
