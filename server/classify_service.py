"""Classify, BatchClassify, StreamClassify: three ways into the same queues."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc.aio

from trapline.errors import RequestInvalid
from trapline.service.caller import turns_of
from trapline.service.gate import Gate
from trapline.v1 import classify_pb2, classify_pb2_grpc

from .images import Admitted, Images, error_result
from .model_service import MAX_REQUEST_IMAGES
from .stream import Stream

_Context = grpc.aio.ServicerContext[Any, Any]


class ClassifyService(classify_pb2_grpc.ClassifyServiceServicer):
    """Classifies images.

    Args:
        images: Classifies one.
        gate: Tells streams when to wind down.
        stream_window: Most images of one stream that are read and not answered.
    """

    def __init__(self, images: Images, gate: Gate, *, stream_window: int) -> None:
        self._images, self._gate, self._stream_window = images, gate, stream_window

    async def Classify(  # noqa: N802  # the method's name in the contract
        self, request: classify_pb2.ClassifyRequest, context: _Context
    ) -> classify_pb2.ClassifyResponse:
        """One image's answer, or a Refusal; QUEUE_FULL at once where there is no room."""
        return await self._images.answer(
            self._images.admit(request, caller=turns_of(context), deadline=_deadline(context))
        )

    async def BatchClassify(  # noqa: N802  # the method's name in the contract
        self, request: classify_pb2.BatchClassifyRequest, context: _Context
    ) -> classify_pb2.BatchClassifyResponse:
        """Each image's answer or error, in order.

        Images are admitted one by one, in order: those that find no room get QUEUE_FULL in their own results and the
        others are answered. The expected wait is what lay ahead of the call: it is not refused for its own length.
        """
        count = len(request.requests)
        if not 1 <= count <= MAX_REQUEST_IMAGES:
            description = f"must be 1 to {MAX_REQUEST_IMAGES} images, not {count}; send several calls, or a stream"
            raise RequestInvalid(f"requests {description}", violations={"requests": description})
        admit = partial(self._images.admit, caller=turns_of(context), deadline=_deadline(context), waits={})
        results = await asyncio.gather(*[self._started(admit, item) for item in request.requests])
        return classify_pb2.BatchClassifyResponse(results=results)

    async def StreamClassify(  # type: ignore[override]  # noqa: N802  # writes by itself: answers come out of order
        self,
        request_iterator: AsyncIterator[classify_pb2.StreamClassifyRequest],
        context: _Context,
    ) -> None:
        """Answers images as they are ready, until the client half-closes or the server drains."""
        stream = Stream(
            self._images, self._gate, window=self._stream_window, caller=turns_of(context), deadline=_deadline(context)
        )
        await stream.serve(request_iterator, context.write)

    def _started(
        self, admit: Callable[[classify_pb2.ClassifyRequest], Admitted], request: classify_pb2.ClassifyRequest
    ) -> "asyncio.Future[classify_pb2.ClassifyResult]":
        """Admits one image of a call now, so that places are given in order, and answers it as a task."""
        try:
            return self._images.answering(admit(request))
        except Exception as error:  # noqa: BLE001  # becomes this image's result
            refused = asyncio.get_running_loop().create_future()
            refused.set_result(error_result(error))
            return refused


def _deadline(context: _Context) -> float | None:
    """When the caller gives up, in `time.monotonic` seconds; None where it never does."""
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left
