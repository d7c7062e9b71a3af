"""A stream's own rules, and an image's, seen without a connection."""

import asyncio

from server.stream import Stream
from trapline.service.gate import Gate


async def test_a_mark_is_free_once_its_answer_is_sent(kit, models):
    """A client that has an answer may give its mark again, while the server still waits for the write to return."""
    sent, taken, results = asyncio.Queue(), asyncio.Event(), []

    async def requests():
        for _ in range(3):
            yield await sent.get()
            taken.set()

    async def write(response):
        results.append(response.result.WhichOneof("result"))
        if len(results) < 3:
            taken.clear()
            sent.put_nowait(kit.marked("a", kit.request(kit.picture())))
            await taken.wait()

    async with kit.running(models) as (server, _):
        stream = Stream(server._images, Gate(), window=4, caller="", deadline=None)
        sent.put_nowait(kit.marked("a", kit.request(kit.picture())))
        await stream.serve(requests(), write)
    assert results == ["response"] * 3


async def test_an_image_that_is_cancelled_at_once_is_counted(kit, models):
    """A task that never began gives its place back, and its image is one of those cancelled."""
    async with kit.running(models) as (server, _):
        request = kit.request(kit.picture())
        task = server._images.answering(server._images.admit(request, caller="", deadline=None))
        task.cancel()
        await asyncio.wait([task])
        assert server.models.serving("colours").batcher.image_count == 0
        assert server.metrics.images.labels("colours", "CANCELLED")._value.get() == 1
        assert server.metrics.dropped.labels("colours", "cancelled")._value.get() == 1
        answered = server._images.answering(server._images.admit(request, caller="", deadline=None))
        assert (await answered).HasField("response")
        assert server.metrics.images.labels("colours", "CANCELLED")._value.get() == 1
