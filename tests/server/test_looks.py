"""Looks into a repository that is away, or that may not be written to."""

import asyncio
import threading
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.repository import Repository
from trapline.v1 import model_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING


async def health(stubs, service: str = "") -> int:
    check = health_pb2_grpc.HealthStub(stubs.channel).Check
    return (await check(health_pb2.HealthCheckRequest(service=service), timeout=10)).status


def reload(stubs, version: str = ""):
    return stubs.models.ReloadModel(model_pb2.ReloadModelRequest(name="models/colours", version=version))


@pytest.fixture
def away(monkeypatch):
    """Makes storage hang until `back` is set, when it is called; it gives an event that is set once somebody looks."""
    back, looked, names = threading.Event(), threading.Event(), Repository._names

    def hang() -> threading.Event:
        def waits(folder: Path) -> list[str]:
            looked.set()
            back.wait(20)
            return names(folder)

        monkeypatch.setattr(Repository, "_names", staticmethod(waits))
        return looked

    hang.back = back
    yield hang
    back.set()


@pytest.mark.parametrize("asked", ["refresh", "reload"])
async def test_storage_that_is_away_holds_up_no_call(kit, models, away, asked):
    """While a look into the repository hangs, calls and health are answered, and the server can be stopped."""
    async with kit.running(models) as (server, stubs):
        looked = away()
        work = server.models.refresh() if asked == "refresh" else server.models.reload("colours")
        looking = asyncio.create_task(work)
        await asyncio.to_thread(looked.wait)
        assert (await stubs.classify.Classify(kit.request(kit.picture()))).model_version == "1"
        assert [await health(stubs), await health(stubs, "liveness")] == [SERVING, SERVING]
        assert not looking.done(), "the look was to hang"
        async with asyncio.timeout(5):
            await server.stop()
        looking.cancel()


async def test_a_look_that_was_given_up_holds_up_no_other(kit, models, away):
    """Callers who left while storage was away cost nothing once it is back: the next look finds what is new."""
    async with kit.running(models) as (server, _):
        looked = away()
        given_up = [asyncio.create_task(server.models.refresh()) for _ in range(3)]
        await asyncio.to_thread(looked.wait)
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        kit.publish(models, "colours", 2, kit.model_bytes())
        next_look = asyncio.create_task(server.models.refresh())
        await asyncio.sleep(0)
        away.back.set()
        await next_look
        assert server.models.serving("colours").version == 2


@pytest.fixture
def read_only(monkeypatch):
    """Makes pin files such as on storage that is read only."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    def begin() -> None:
        monkeypatch.setattr(Path, "unlink", refuse)
        monkeypatch.setattr(Path, "write_text", refuse)

    return begin


@pytest.mark.parametrize(("asked", "served"), [("", "3"), ("2", "2")])
async def test_a_reload_overrules_a_pin_that_it_cannot_take_away(kit, models, read_only, asked, served):
    """What a reload asked for stays in this server, whatever its watch finds, until somebody changes the pin file."""
    for number in (2, 3):
        kit.publish(models, "colours", number, kit.model_bytes())
    pin = models / "colours" / "pinned"
    pin.write_bytes(b"1\n")
    async with kit.running(models) as (server, stubs):
        read_only()
        slot = server.models.slot("colours")
        assert slot.serving.version == 1
        assert (await reload(stubs, asked)).version == served
        await server.models.refresh()
        assert str(slot.serving.version) == served
        pin.rename(models / "colours" / "unpinned")
        await server.models.refresh()
        assert slot.serving.version == 3
        pin.write_bytes(b"1\n")
        await server.models.refresh()
        assert slot.serving.version == 1


async def test_a_folder_that_cannot_be_read_changes_nothing(kit, models, monkeypatch, caplog):
    """What is served stays, and what is wrong is told once; a reload says so, and not that there is no such version."""
    kit.publish(models, "colours", 2, kit.model_bytes())
    names = Repository._names

    def stale(folder: Path) -> list[str]:
        if folder.name == "colours":
            raise OSError(116, "Stale file handle")
        return names(folder)

    async with kit.running(models) as (server, stubs):
        with monkeypatch.context() as patched:
            patched.setattr(Repository, "_names", staticmethod(stale))
            for _ in range(3):
                await server.models.refresh()
            assert caplog.text.count("Stale file handle") == 1
            for version in ("", "1"):
                with pytest.raises(grpc.aio.AioRpcError, match="Stale file handle"):
                    await reload(stubs, version)
            slot = server.models.slot("colours")
            assert (slot.serving.version, "Stale file handle" in str(slot.error[1])) == (2, True)
        await server.models.refresh()
        assert (slot.serving.version, slot.error) == (2, None)


async def test_a_look_that_fails_keeps_what_a_reload_asked_for(kit, models, read_only, monkeypatch):
    """One pin file that cannot be read for a moment is nobody's change of it."""
    for number in (2, 3):
        kit.publish(models, "colours", number, kit.model_bytes())
    (models / "colours" / "pinned").write_bytes(b"1\n")
    async with kit.running(models) as (server, stubs):
        read_only()
        assert (await reload(stubs, "2")).version == "2"

        def fails(*_: object, **__: object) -> str:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_text", fails)
            await server.models.refresh()
        for _ in range(2):
            assert server.models.slot("colours").serving.version == 2
            await server.models.refresh()
