"""GetModel, ListModels, ReloadModel."""

import base64
import binascii
from typing import Any

import grpc.aio

from trapline.errors import ModelInvalid, RequestInvalid, to_status
from trapline.formats import IMAGE_FORMATS
from trapline.v1 import model_pb2, model_pb2_grpc

from .calls import current
from .config import ServerConfig
from .images import model_id_of
from .models import Models
from .precision import problems
from .session import Candidate
from .slots import ModelSlot, Serving

#: Most images in one `BatchClassify` call.
MAX_REQUEST_IMAGES = 64
_DEFAULT_PAGE, _LARGEST_PAGE = 50, 200

_Context = grpc.aio.ServicerContext[Any, Any]


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """Tells what models are served, and picks up new files for them."""

    def __init__(self, models: Models, config: ServerConfig) -> None:
        self._models, self._config = models, config

    async def GetModel(  # noqa: N802  # the method's name in the contract
        self,
        request: model_pb2.GetModelRequest,
        context: _Context,  # noqa: ARG002  # gRPC passes it
    ) -> model_pb2.Model:
        """One model."""
        model_id = model_id_of(request.name, "name")
        current().note_model(model_id)
        return self._message(self._models.slot(model_id))

    async def ListModels(  # noqa: N802  # the method's name in the contract
        self,
        request: model_pb2.ListModelsRequest,
        context: _Context,  # noqa: ARG002  # gRPC passes it
    ) -> model_pb2.ListModelsResponse:
        """One page of the models, by name."""
        if request.page_size < 0:
            description = f"must be 0 (for {_DEFAULT_PAGE}) or more, not {request.page_size}"
            raise RequestInvalid(f"page_size {description}", violations={"page_size": description})
        size = min(request.page_size or _DEFAULT_PAGE, _LARGEST_PAGE)
        after = _last_of(request.page_token)
        slots = [slot for slot in self._models.slots() if slot.model_id > after]
        more = len(slots) > size
        return model_pb2.ListModelsResponse(
            models=[self._message(slot) for slot in slots[:size]],
            next_page_token=_token(slots[size - 1].model_id) if more else "",
        )

    async def ReloadModel(  # noqa: N802  # the method's name in the contract
        self,
        request: model_pb2.ReloadModelRequest,
        context: _Context,  # noqa: ARG002  # gRPC passes it
    ) -> model_pb2.Model:
        """The model after its files were read again; see `Models.reload`."""
        model_id = model_id_of(request.name, "name")
        current().note_model(model_id)
        return self._message(await self._models.reload(model_id, request.version))

    def _message(self, slot: ModelSlot) -> model_pb2.Model:
        config = self._config
        message = model_pb2.Model(
            name=f"models/{slot.model_id}",
            state=model_pb2.Model.STATE_FAILED if slot.tried else model_pb2.Model.STATE_LOADING,
            max_batch_image_count=config.max_batch,
            max_request_image_count=MAX_REQUEST_IMAGES,
            formats=IMAGE_FORMATS,
            max_image_bytes=config.max_image_bytes,
            max_image_pixels=config.max_image_pixels,
        )
        if slot.error is not None:
            message.last_error.CopyFrom(to_status(slot.error[1]))
        if slot.serving is not None:
            message.state = model_pb2.Model.STATE_ACTIVE
            message.version = str(slot.serving.version)
            message.metadata.CopyFrom(slot.serving.session.metadata)
            message.execution_providers.extend(slot.serving.session.providers)
            message.load_time.CopyFrom(slot.serving.load_time)
            message.digest = slot.serving.session.digest
            session = slot.serving.session
            message.precision = session.precision
            message.candidates.extend(_candidate(each, slot.serving) for each in session.candidates)
            if slot.error is None and problems(session):
                message.last_error.CopyFrom(to_status(_invalid(slot.serving, problems(session))))
        return message


def _candidate(candidate: Candidate, serving: Serving) -> model_pb2.Model.Candidate:
    message = model_pb2.Model.Candidate(
        precision=candidate.precision, digest=candidate.digest, images_per_second=candidate.images_per_second
    )
    if candidate.problem:
        message.error.CopyFrom(to_status(_invalid(serving, candidate.problem)))
    return message


def _invalid(serving: Serving, reason: str) -> ModelInvalid:
    name = f"models/{serving.model_id}"
    return ModelInvalid(f"{name} version {serving.version}: {reason}", model=name, version=serving.version)


def _token(model_id: str) -> str:
    return base64.urlsafe_b64encode(model_id.encode()).decode()


def _last_of(token: str) -> str:
    """The id that the page before ended with; empty for the first page."""
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        description = "is not one that ListModels gave; leave it empty to start again"
        raise RequestInvalid(f"page_token {description}", violations={"page_token": description}) from error
