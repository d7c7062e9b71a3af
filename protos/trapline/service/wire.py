"""What lies between gRPC and a method: messages that may be garbage, answers one by one, refusals as statuses."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from trapline.errors import Refusal, RequestInvalid, to_status

from .errors import as_refusal


class _Malformed:
    """Stands for a message that is no protobuf of the method's type."""


def quiet(handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":  # noqa: ANN401  # its behaviours are of any type
    """A handler of health or reflection whose faults leave in our words: gRPC would send the exception's own text."""
    parse, serialize = tolerant(handler.request_deserializer), handler.response_serializer

    async def answer(request: Any, context: Any) -> Any:  # noqa: ANN401  # messages of any method
        async with _refusing_faults(context):
            return await (handler.unary_stream or handler.unary_unary)(whole(request), context)

    async def answers(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: ANN401  # the same
        async with _refusing_faults(context):
            async for response in handler.stream_stream(parsed(requests), context):
                yield response

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(answers, parse, serialize)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(answer, parse, serialize)
    return grpc.unary_unary_rpc_method_handler(answer, parse, serialize)


@contextlib.asynccontextmanager
async def _refusing_faults(context: Any) -> AsyncIterator[None]:  # noqa: ANN401  # gRPC's context of any method
    try:
        yield
    except grpc.aio.AbortError:
        raise  # answered already
    except Exception as error:  # noqa: BLE001  # whatever it was, the caller gets a status and the log the rest
        await abort(context, as_refusal(error))


async def abort(context: Any, refusal: Refusal, *more: tuple[str, str]) -> None:  # noqa: ANN401  # gRPC's context of any method
    """Ends the call with `refusal`'s status; `more` is trailing metadata."""
    status = rpc_status.to_status(to_status(refusal))
    trailers = (*status.trailing_metadata, *more)
    if refusal.retry_seconds is not None:
        # gRPC's own retries wait for this long instead of their back-off.
        trailers += (("grpc-retry-pushback-ms", str(round(refusal.retry_seconds * 1000))),)
    try:
        await context.abort(status.code, status.details, trailers)
    except grpc.aio.AbortError as aborted:
        # gRPC keeps it with the call's context and raises it again at the end. With its traceback, or the error that
        # it was raised in place of, it would keep the request, too, until the garbage collector comes.
        aborted.__traceback__ = aborted.__context__ = None


def tolerant(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """`parse` that marks garbage instead of raising: gRPC would answer UNKNOWN, and log a traceback a message."""

    def parse_or_mark(data: bytes) -> Any:  # noqa: ANN401  # messages of any method
        try:
            return parse(data)
        except DecodeError:
            return _Malformed()

    return parse_or_mark


def whole(request: Any) -> Any:  # noqa: ANN401  # messages of any method
    """The request.

    Raises:
        RequestInvalid: It is garbage.
    """
    if isinstance(request, _Malformed):
        raise RequestInvalid("the message is not one of this method's type; build it from trapline.v1")
    return request


def reading(
    check: Callable[[Any], None], work: Callable[[Any, Any], Awaitable[Any]]
) -> Callable[[Any, Any], Awaitable[Any]]:
    """`work` on a call's one request, which is read once `check`, given the context, has let the call in.

    To gRPC it is a method of many requests: those it hands over as they are asked for, and of a call that ends before
    it throws away what is on its way. That is what a refusal costs least by.
    """

    async def read_and_work(_requests: AsyncIterator[Any], context: Any) -> Any:  # noqa: ANN401  # messages of any method
        check(context)
        request = await context.read()
        if request is grpc.aio.EOF:
            raise RequestInvalid("the call has no message; send one")
        return await work(whole(request), context)

    return read_and_work


async def parsed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """A stream's requests.

    Raises:
        RequestInvalid: One is garbage.
    """
    async for request in requests:
        yield whole(request)


def writing(generate: Callable[[Any, Any], AsyncGenerator[Any, None]]) -> Callable[[Any, Any], Awaitable[None]]:
    """An async generator of answers as a coroutine that writes them."""

    async def write_all(request: Any, context: Any) -> None:  # noqa: ANN401  # messages of any method
        # Closed at once when the caller leaves, not when the collector finds it.
        async with contextlib.aclosing(generate(request, context)) as answers:
            async for answer in answers:
                await context.write(answer)

    return write_all
