"""What lies between gRPC and a method: messages that may be garbage, answers one by one, refusals as statuses."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from trapline.errors import Refusal, RequestInvalid, to_status

from .errors import as_refusal

#: What a call's task waits for: what a request and gRPC's context become.
Serve: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
#: What refuses a call, given gRPC's context: it raises the refusal. None where nothing does.
Find: TypeAlias = Callable[[Any], Callable[[], NoReturn] | None]
# How long the end of a call may follow its last message, in seconds.
_END_SECONDS = 0.25


class _Malformed:
    """Stands for a message that is no protobuf of the method's type, or that never came."""


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


def reading(find: Find, serve: Serve, turn_away: Serve) -> Serve:
    """A method of one request that may be refused before anything of it is read.

    To gRPC it is a method of many requests, which are handed over as they are asked for: of a call that ends before it
    throws away what is on its way. That is what a refusal costs least by.

    Args:
        find: What refuses a call, given its context; None where it is to be read.
        serve: Answers a call, given its request: from there on it counts as under way.
        turn_away: Answers a call, given what refuses it.
    """

    async def read_and_serve(_requests: AsyncIterator[Any], context: Any) -> Any:  # noqa: ANN401  # messages of any method
        refuse = find(context)
        if refuse is not None:
            return await turn_away(refuse, context)
        request = await context.read()
        if request is grpc.aio.EOF:
            # So begins also the end of a call that was cancelled, or ran out of time: that then ends this task.
            await asyncio.sleep(_END_SECONDS)
            request = _Malformed()
        return await serve(request, context)

    return read_and_serve


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
