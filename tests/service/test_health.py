"""Health as callers see it: the last that was set, at once, whatever others who watch it do."""

import asyncio
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trapline.service.health import NOT_SERVING, SERVING, HealthServicer

NAMES = health_pb2.HealthCheckResponse.ServingStatus.Name


async def test_watchers_hear_each_change(kit):
    """How it stands first, then the changes; a service that nobody spoke of is unknown, and to a check not found."""
    async with kit.running() as (program, client):
        stub = health_pb2_grpc.HealthStub(client.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="late"))
        assert NAMES((await watch.read()).status) == "SERVICE_UNKNOWN"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Check(health_pb2.HealthCheckRequest(service="late"))
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND
        for status in (SERVING, NOT_SERVING):
            program.health.set("late", status)
            program.health.set("another", status)
            assert (await watch.read()).status == status
            assert (await stub.Check(health_pb2.HealthCheckRequest(service="late"))).status == status
        watch.cancel()


async def test_a_watcher_that_takes_in_nothing_holds_up_nobody(kit):
    """One whose connection has no room for an answer, ever: others and what is set go on without it."""
    servicer = HealthServicer()
    servicer.set("", SERVING)
    heard, stuck = [], asyncio.Event()

    async def never(_response):
        stuck.set()
        await asyncio.Event().wait()

    async def hear(response):
        heard.append(NAMES(response.status))

    request = health_pb2.HealthCheckRequest()
    watches = [asyncio.create_task(servicer.Watch(request, SimpleNamespace(write=write))) for write in (never, hear)]
    await stuck.wait()
    servicer.set("", NOT_SERVING)
    assert (await servicer.Check(request, None)).status == NOT_SERVING
    await kit.until(lambda: len(heard) == 2)
    assert heard == ["SERVING", "NOT_SERVING"]
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
