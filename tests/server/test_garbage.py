"""Calls that fail leave nothing for the garbage collector: it would hold their images, and versions long replaced."""

import asyncio
import gc

import grpc
import pytest

from server.decoding import Encoded
from server.session import Session
from trapline.errors import TraplineError
from trapline.v1 import classify_pb2


@pytest.fixture
def garbage():
    """Gives what has become garbage since that only the collector would free, of the types that matter."""
    gc.collect()
    gc.disable()
    try:
        yield _found
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _found() -> list[str]:
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    kinds = (TraplineError, Encoded, Session, classify_pb2.ClassifyRequest)
    return sorted({type(each).__name__ for each in gc.garbage if isinstance(each, kinds)})


async def fails(call) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await call


async def _unreadable(kit, _server, stubs) -> None:
    await fails(stubs.classify.Classify(kit.request(b"junk")))


async def _invalid(kit, _server, stubs) -> None:
    await fails(stubs.classify.Classify(kit.request(kit.picture(), top_k=-1)))


async def _no_such_model(kit, _server, stubs) -> None:
    await fails(stubs.classify.Classify(kit.request(kit.picture(), "models/absent")))


async def _batch(kit, _server, stubs) -> None:
    answer = await stubs.classify.BatchClassify(kit.batch([kit.request(b"junk"), kit.request(kit.picture())]))
    assert answer.results[0].HasField("error")


async def _stream(kit, _server, stubs) -> None:
    async def requests():
        for number, image in enumerate((b"junk", kit.picture(), b"")):
            yield kit.marked(str(number), kit.request(image))

    answers = [item.result async for item in stubs.classify.StreamClassify(requests())]
    assert sum(item.HasField("error") for item in answers) == 2


async def _late(kit, server, stubs) -> None:
    session = server.models.slot("colours").serving.session
    session.held.clear()
    first = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
    await asyncio.to_thread(session.began.wait)
    await fails(stubs.classify.Classify(kit.request(kit.picture()), timeout=0.05))
    session.held.set()
    await first
    await kit.until(lambda: server.models.slot("colours").serving.batcher.image_count == 0)


async def _full(kit, server, stubs) -> None:
    session = server.models.slot("colours").serving.session
    session.held.clear()
    first = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
    await asyncio.to_thread(session.began.wait)
    second = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
    await kit.until(lambda: server.models.slot("colours").serving.batcher.image_count == 2)
    await fails(stubs.classify.Classify(kit.request(kit.picture())))
    session.held.set()
    await asyncio.gather(first, second)


async def _fault(kit, server, stubs) -> None:
    session = server.models.slot("colours").serving.session
    session.failure = RuntimeError("the device hiccuped")
    await fails(stubs.classify.Classify(kit.request(kit.picture())))
    session.failure.__traceback__ = None  # which refers to the session


@pytest.mark.parametrize("story", [_unreadable, _invalid, _no_such_model, _batch, _stream, _late, _full, _fault])
async def test_a_failed_call_leaves_no_garbage(kit, models, garbage, story):
    """Whatever went wrong, reference counts alone free the call, its image and its error."""
    async with kit.running(models, holds=True, max_queue_images=2, max_batch=1) as (server, stubs):
        for _ in range(2):
            await story(kit, server, stubs)
    # The server has stopped, and what it consists of is still referred to: by `server`.
    assert garbage() == []
    del server
