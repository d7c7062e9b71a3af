import asyncio
import gc
import os
import shutil
import threading
import weakref
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from server.app import build, loader
from server.config import ServerConfig
from server.memory import give_back_freed_memory
from server.repository import Repository
from server.session import Session
from trapline.errors import ModelInvalid, from_rpc_error, from_status, reason_name
from trapline.v1 import classify_pb2, model_pb2

NAME = "models/colours"


async def refusal(call):
    """The Refusal that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return from_rpc_error(failed.value)


async def version(kit, stubs) -> str:
    return (await stubs.classify.Classify(kit.request(kit.picture()))).model_version


def reload(stubs, version: str = "", name: str = NAME):
    return stubs.models.ReloadModel(model_pb2.ReloadModelRequest(name=name, version=version))


def not_a_number(model: onnx.ModelProto) -> None:
    scale = next(item for item in model.graph.initializer if item.name == "scale")
    scale.CopyFrom(numpy_helper.from_array(np.asarray(np.nan, np.float32), "scale"))


def without_softmax(model: onnx.ModelProto) -> None:
    model.graph.node[-1].op_type = "Relu"
    del model.graph.node[-1].attribute[:]


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def renamed_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "logits2"


def no_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def bad_models(kit) -> dict[str, tuple[bytes, str]]:
    good = kit.model_bytes()
    return {
        "empty": (b"", "cannot load"),
        "garbage": (os.urandom(5000), "cannot load"),
        "cut off": (good[: len(good) // 2], "cannot load|no 'trapline"),
        "text": (b"hello, this is no model\n" * 100, "cannot load"),
        "no metadata": (kit.with_nodes(good, no_metadata), "has no 'trapline"),
        "not finite": (kit.with_nodes(good, not_a_number), "not finite"),
        "no softmax": (kit.with_nodes(good, without_softmax), "do not sum to 1"),
        "fixed batch": (kit.with_nodes(good, fixed_batch), "batch size is fixed"),
        "other output": (kit.with_nodes(good, renamed_output), "'probabilities'"),
        "long names": (kit.with_nodes(good, with_a_long_name), "x…$"),
        "other labels": (kit.model_bytes(labels=("a", "b")), "shape"),
        "external": (external(good), "external data"),
        "no UTF-8": (good.replace(b'"Green"', b'"Gr\xff\xfen"'), "not UTF-8"),
    }


def with_a_long_name(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "x" * 20_000


def external(good: bytes, name: str = "scale") -> bytes:
    model = onnx.load_from_string(good)
    weights = next(item for item in model.graph.initializer if item.name == name)
    entries = {"location": "weights.bin", "offset": "0", "length": str(len(weights.raw_data))}
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        weights.external_data.add(key=key, value=value)
    return model.SerializeToString()


async def test_a_model_tells_all_about_itself(kit, models):
    """GetModel gives version, labels, digest, providers, precision and every limit that a client needs."""
    async with kit.running(models, max_batch=4, max_message_mib=8, max_megapixels=10) as (_, stubs):
        model = await stubs.models.GetModel(model_pb2.GetModelRequest(name=NAME))
        assert (model.name, model.version, model.state) == (NAME, "1", model_pb2.Model.STATE_ACTIVE)
        assert [label.id for label in model.metadata.labels] == list(kit.LABELS)
        assert list(model.execution_providers) == ["CPUExecutionProvider"]
        assert (model.max_batch_image_count, model.max_request_image_count) == (4, 64)
        assert (model.max_image_bytes, model.max_image_pixels) == (8 * 1024**2 - 64 * 1024, 10_000_000)
        assert (len(model.digest), model.precision) == (64, "fp32")
        assert "MPO" in model.formats
        assert model.load_time.seconds > 0
        assert not model.HasField("last_error")
        error = await refusal(stubs.models.GetModel(model_pb2.GetModelRequest(name="models/absent")))
        assert (reason_name(error), error.metadata) == ("MODEL_NOT_FOUND", {"model": "models/absent"})
        error = await refusal(stubs.models.GetModel(model_pb2.GetModelRequest(name="colours")))
        assert list(error.violations) == ["name"]


async def test_models_are_listed_in_pages(kit, models):
    """Pages go by name to the end; a bad size or token is refused, an oversized page is cut."""
    for model_id in ("b", "a"):
        kit.publish(models, model_id, 1, kit.model_bytes())
    (models / "Not-A-Model").mkdir()
    async with kit.running(models) as (_, stubs):
        names, token = [], ""
        while True:
            page = await stubs.models.ListModels(model_pb2.ListModelsRequest(page_size=2, page_token=token))
            names += [model.name for model in page.models]
            token = page.next_page_token
            if not token:
                break
        assert names == ["models/a", "models/b", NAME]
        assert len((await stubs.models.ListModels(model_pb2.ListModelsRequest(page_size=9999))).models) == 3
        for field, value in {"page_size": -1, "page_token": "???"}.items():
            error = await refusal(stubs.models.ListModels(model_pb2.ListModelsRequest(**{field: value})))
            assert list(error.violations) == [field]


async def test_no_broken_version_displaces_a_good_one(kit, models):
    """Every kind of broken file: at start the older version serves, by reload too, and `last_error` says why."""
    bad = bad_models(kit)
    for model_id, (content, _) in zip("abcdefghijklm", bad.values(), strict=True):
        kit.publish(models, model_id, 1, kit.model_bytes())
        kit.publish(models, model_id, 2, content)
    async with kit.running(models, max_batch=2) as (_, stubs):
        for model_id, (kind, (_, sentence)) in zip("abcdefghijklm", bad.items(), strict=True):
            name = f"models/{model_id}"
            model = await stubs.models.GetModel(model_pb2.GetModelRequest(name=name))
            assert (kind, model.version, model.state) == (kind, "1", model_pb2.Model.STATE_ACTIVE)
            told = from_status(model.last_error)
            assert reason_name(told) == "MODEL_INVALID"
            assert told.metadata == {"model": name, "version": "2"}
            with pytest.raises(AssertionError, match=sentence):
                raise AssertionError(told.message)
            error = await refusal(reload(stubs, name=name))
            assert error.code is grpc.StatusCode.FAILED_PRECONDITION
            assert error.message == told.message
            answer = await stubs.classify.Classify(kit.request(kit.picture(), name))
            assert answer.model_version == "1"


@pytest.mark.parametrize("name", ["scale", "square"])
async def test_external_data_is_refused_even_where_it_lies_ready(kit, models, tmp_path, monkeypatch, name):
    """A model whose weights lie in another file is never read, not even by a hard link in the working folder."""
    (tmp_path / "outside.bin").write_bytes(bytes(512 * 512 * 4))
    path = kit.publish(models, "outside", 1, external(kit.model_bytes(work=1), name))
    (path.parent / "weights.bin").hardlink_to(tmp_path / "outside.bin")
    monkeypatch.chdir(path.parent)
    async with kit.running(models) as (_, stubs):
        model = await stubs.models.GetModel(model_pb2.GetModelRequest(name="models/outside"))
        assert model.state == model_pb2.Model.STATE_FAILED
        assert "external data" in model.last_error.message
        error = await refusal(stubs.classify.Classify(kit.request(kit.picture(), "models/outside")))
        assert reason_name(error) == "MODEL_INVALID"


async def test_a_loader_that_fails_by_itself_harms_no_other_model(kit, models, caplog):
    """A fault of ours while a version is loaded is told with an id; the server starts, and serves the rest."""
    load = loader(ServerConfig(models=models, device="cpu", threads=1), Repository(models), device="cpu")
    kit.publish(models, "faulty", 1, b"")

    def faulty(model_id: str, number: int) -> Session:
        if model_id == "faulty":
            raise RuntimeError("secret insides")
        return load(model_id, number)

    server = build(ServerConfig(models=models, listen="127.0.0.1:0", metrics="", device="cpu"), load=faulty)
    try:
        await server.models.load_all()
        assert server.models.serving("colours").version == 1
        with pytest.raises(ModelInvalid, match="version 1 cannot be served: internal error"):
            server.models.serving("faulty")
        assert "secret insides" in caplog.text
    finally:
        await server.stop()


async def test_a_version_that_could_not_be_read_is_tried_again(kit, models, monkeypatch):
    """At once where its rights change, which its time of writing does not tell; else after a while: faults pass."""
    load = loader(
        ServerConfig(models=models, device="cpu", threads=1, model_memory_mib=0), Repository(models), device="cpu"
    )
    tried = []
    faults = [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")] * 2

    def faulty(model_id: str, number: int) -> Session:
        tried.append(number)
        if number == 2 and faults:
            raise ModelInvalid("model.onnx cannot be read") from faults.pop()
        return load(model_id, number)

    file = kit.publish(models, "colours", 2, kit.model_bytes())
    server = build(ServerConfig(models=models, listen="127.0.0.1:0", metrics="", device="cpu"), load=faulty)
    try:
        await server.models.load_all()
        await server.models.refresh()
        assert tried == [2, 1]
        file.chmod(0o640)
        await server.models.refresh()
        await server.models.refresh()
        assert tried == [2, 1, 2]
        monkeypatch.setattr("server.models._RETRY_SECONDS", 0)
        file.chmod(0o644)
        for _ in range(2):
            await server.models.refresh()
        assert tried == [2, 1, 2, 2, 2]
        await server.models.refresh()
        assert server.models.serving("colours").version == 2
        assert server.models.slot("colours").error is None
    finally:
        await server.stop()


async def test_the_end_waits_for_whatever_model_is_read(kit, models):
    """Of two that are loaded at a time the one that ends first does not hide the other."""
    kit.publish(models, "others", 1, kit.model_bytes())
    load = loader(
        ServerConfig(models=models, device="cpu", threads=1, model_memory_mib=0), Repository(models), device="cpu"
    )
    begun, go = threading.Event(), threading.Event()

    def slow(model_id: str, number: int) -> Session:
        if model_id == "others":
            begun.set()
            go.wait()
        return load(model_id, number)

    server = build(ServerConfig(models=models, listen="127.0.0.1:0", metrics="", device="cpu"), load=slow)
    reloads = [asyncio.create_task(server.models.reload(name)) for name in ("colours", "others")]
    try:
        await reloads[0]
        await asyncio.to_thread(begun.wait)
        await server.models.close()
        assert not await server.models.has_let_go(0.01)
        go.set()
        assert await server.models.has_let_go(30)
    finally:
        go.set()
        await asyncio.gather(*reloads, return_exceptions=True)
        await server.stop()


async def test_a_broken_version_is_let_go_of(models):
    """The reason that is kept for a broken version does not keep the version's bytes or session in memory."""
    kept = []

    def broken(_model_id: str, _number: int) -> Session:
        session = Session.__new__(Session)
        kept.append(weakref.ref(session))
        raise ModelInvalid("it is broken")

    server = build(ServerConfig(models=models, listen="127.0.0.1:0", metrics="", device="cpu"), load=broken)
    try:
        await server.models.load_all()
        with pytest.raises(ModelInvalid):
            await server.models.reload("colours")
        gc.collect()
        assert server.models.slot("colours").error is not None
        assert [each() for each in kept] == [None, None]
    finally:
        await server.stop()


async def test_a_broken_version_that_is_taken_away_is_forgotten(kit, models):
    """`last_error` tells of versions that are there: of the newest one that cannot be served, then of none."""
    kit.publish(models, "colours", 2, b"junk")
    kit.publish(models, "colours", 3, b"junk")
    kit.publish(models, "broken", 1, b"junk")
    kit.publish(models, "broken", 2, b"junk")
    async with kit.running(models) as (server, stubs):
        for number, told in (("3", "2"), ("2", None)):
            shutil.rmtree(models / "colours" / number)
            await server.models.refresh()
            error = server.models.slot("colours").error
            assert (error and error[1].metadata["version"]) == told
        shutil.rmtree(models / "broken" / "2")
        await server.models.refresh()
        error = await refusal(stubs.classify.Classify(kit.request(kit.picture(), "models/broken")))
        assert error.metadata["version"] == "1"
        kit.publish(models, "colours", 4, b"junk")
        await server.models.refresh()
        shutil.rmtree(models / "colours" / "4")
        assert not (await reload(stubs)).HasField("last_error")


async def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused(kit, models):
    """What is no regular file, or is missing, does not hold the loader up."""
    for number in (2, 3, 4):
        (models / "colours" / str(number)).mkdir()
    os.mkfifo(models / "colours" / "2" / "model.onnx")
    (models / "colours" / "3" / "model.onnx").mkdir()
    async with kit.running(models) as (_, stubs):
        assert await version(kit, stubs) == "1"
        for number, sentence in {"2": "no regular file", "3": "model.onnx", "4": "has no model.onnx"}.items():
            assert sentence in (await refusal(reload(stubs, number))).message


async def test_a_reload_under_load_fails_no_call(kit, models):
    """While callers go on, versions are swapped: every call is answered, by the old version or the new, never mixed."""
    async with kit.running(models) as (server, stubs):
        # One list a caller: a call that began on the old version may end after another's on the new one.
        seen, stop = [[], [], []], asyncio.Event()
        image = kit.picture((90, 0, 0))

        async def caller(versions):
            while not stop.is_set():
                answer = await stubs.classify.Classify(kit.request(image))
                scale = 0.01 * int(answer.model_version) if answer.model_version != "1" else 0.02
                expected = kit.expected_scores((90, 0, 0), scale=scale)[0]
                assert answer.predictions[0].score == pytest.approx(expected, abs=1e-5)
                versions.append(answer.model_version)

        async def streamed():
            async def requests():
                number = 0
                while not stop.is_set():
                    number += 1
                    yield classify_pb2.StreamClassifyRequest(request_id=str(number), request=kit.request(image))

            async for item in stubs.classify.StreamClassify(requests()):
                assert item.result.HasField("response"), item.result.error

        callers = [asyncio.ensure_future(work) for work in (*map(caller, seen), streamed())]
        old = weakref.ref(server.models.slot("colours").serving.session)
        for number in (3, 4, 5):
            kit.publish(models, "colours", number, kit.model_bytes(scale=0.01 * number))
            model = await reload(stubs)
            assert model.version == str(number)
            await kit.until(lambda wanted=str(number): all(wanted in versions for versions in seen))
        stop.set()
        await asyncio.gather(*callers)
        for versions in seen:
            assert set(versions) <= {"1", "3", "4", "5"}
            assert sorted(versions) == versions
        await kit.until(lambda: gc.collect() >= 0 and old() is None)


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_replaced_version_is_let_go_at_once(kit, models, threads, monkeypatch):
    """Not when garbage is collected, which a server that only answers hardly needs: sessions would pile up.

    When it is gone, what it had used is given back to the system.
    """
    old, gone = [], []
    monkeypatch.setattr("server.slots.give_back_freed_memory", lambda: gone.append([each() for each in old]))
    async with kit.running(models, threads=threads, max_delay_ms=1.0) as (server, stubs):
        await asyncio.gather(*[version(kit, stubs) for _ in range(20)])
        gc.collect()
        gc.disable()
        try:
            for number in (2, 3, 4):
                old.append(weakref.ref(server.models.slot("colours").serving.session))
                kit.publish(models, "colours", number, kit.model_bytes(scale=0.01 * number))
                await reload(stubs)
                assert await version(kit, stubs) == str(number)
                await kit.until(lambda: len(gone) == len(old))
            assert gone == [[None], [None] * 2, [None] * 3]
        finally:
            gc.enable()


def test_freed_memory_is_given_back():
    """Forty MB of small pieces, freed below one that is kept, leave the process."""
    pieces = [bytearray(20_000) for _ in range(2000)]
    kept = bytearray(20_000)
    del pieces[:]
    before = _resident_mib()
    give_back_freed_memory()
    assert _resident_mib() < before - 30
    assert len(kept) == 20_000


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def test_calls_finish_on_the_version_that_they_began_with(kit, models):
    """A call in flight across a swap is answered by the old version; the next one by the new."""
    async with kit.running(models, holds=True) as (server, stubs):
        session = server.models.slot("colours").serving.session
        session.held.clear()
        call = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
        await asyncio.to_thread(session.began.wait)
        kit.publish(models, "colours", 2, kit.model_bytes())
        await reload(stubs)
        # It waits its turn on the device, which the old version still has.
        after = asyncio.ensure_future(version(kit, stubs))
        await kit.until(lambda: server.models.slot("colours").serving.batcher.image_count == 1)
        session.held.set()
        assert (await call).model_version == "1"
        assert await after == "2"


async def test_a_version_can_be_pinned_and_let_go(kit, models):
    """`version` rolls back and stays; a reload without one goes to the newest; an unknown one is NOT_FOUND."""
    for number in (2, 3):
        kit.publish(models, "colours", number, kit.model_bytes())
    async with kit.running(models) as (server, stubs):
        assert await version(kit, stubs) == "3"
        assert (await reload(stubs, "2")).version == "2"
        await server.models.refresh()
        assert await version(kit, stubs) == "2"
        for unknown in ("9", "x", "02"):
            error = await refusal(reload(stubs, unknown))
            assert (reason_name(error), error.metadata["version"]) == ("MODEL_NOT_FOUND", unknown)
        assert (await reload(stubs)).version == "3"


async def test_a_pin_outlives_the_server(kit, models):
    """A server that is started again, and another one that watches, serve the pinned version until it is let go."""
    for number in (2, 3):
        kit.publish(models, "colours", number, kit.model_bytes())
    async with kit.running(models) as (other, _):
        async with kit.running(models) as (_, stubs):
            assert (await reload(stubs, "2")).version == "2"
        assert other.models.slot("colours").serving.version == 3
        await other.models.refresh()
        assert other.models.slot("colours").serving.version == 2
    async with kit.running(models) as (again, stubs):
        assert await version(kit, stubs) == "2"
        kit.publish(models, "colours", 4, kit.model_bytes())
        await again.models.refresh()
        assert await version(kit, stubs) == "2"
        assert (await reload(stubs)).version == "4"
    async with kit.running(models) as (_, stubs):
        assert await version(kit, stubs) == "4"


async def test_a_pinned_version_that_is_gone_or_broken_stops_nothing(kit, models):
    """The newest that can be served is; what is wrong with the pinned one is told."""
    (models / "colours" / "pinned").write_text("7\n")
    async with kit.running(models) as (_, stubs):
        assert await version(kit, stubs) == "1"
    kit.publish(models, "colours", 7, b"broken")
    async with kit.running(models) as (server, stubs):
        assert await version(kit, stubs) == "1"
        assert "version 7" in str(server.models.slot("colours").error[1])


@pytest.mark.parametrize("pin", [b"", b"v2\n", b"\xff\n", None])
async def test_a_pin_that_cannot_be_understood_changes_nothing(kit, models, pin):
    """While its pin file is half written or unreadable a model stays with its version, and says why."""
    kit.publish(models, "colours", 2, kit.model_bytes())
    path = models / "colours" / "pinned"
    async with kit.running(models) as (server, stubs):
        await reload(stubs, "1")
        path.unlink()
        if pin is None:
            path.mkdir()
        else:
            path.write_bytes(pin)
        for _ in range(2):
            await server.models.refresh()
            assert await version(kit, stubs) == "1"
            model = await stubs.models.GetModel(model_pb2.GetModelRequest(name=NAME))
            assert "pinned" in model.last_error.message
            assert (model.state, reason_name(from_status(model.last_error))) == (
                model_pb2.Model.STATE_ACTIVE,
                "MODEL_INVALID",
            )
        async with kit.running(models) as (_, fresh):
            assert await version(kit, fresh) == "2"
            model = await fresh.models.GetModel(model_pb2.GetModelRequest(name=NAME))
            assert "pinned" in model.last_error.message
        path.rmdir() if pin is None else path.unlink()
        path.write_text("1\n")
        await server.models.refresh()
        model = await stubs.models.GetModel(model_pb2.GetModelRequest(name=NAME))
        assert (model.version, model.HasField("last_error")) == ("1", False)


async def test_a_pin_that_cannot_be_written_down_holds_in_this_server(kit, models, monkeypatch, caplog):
    """With a repository that is read only, the log says that the pin is not kept, and a watch leaves it alone."""
    kit.publish(models, "colours", 2, kit.model_bytes())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    async with kit.running(models) as (server, stubs):
        monkeypatch.setattr(Path, "write_text", refuse)
        assert (await reload(stubs, "1")).version == "1"
        await server.models.refresh()
        assert await version(kit, stubs) == "1"
    assert "event=pin_not_kept" in caplog.text
    assert not (models / "colours" / "pinned").exists()


async def test_a_watch_that_waited_for_a_reload_leaves_its_pin_alone(kit, models):
    """A look for new versions that began while an older one was being pinned does not serve the newest again."""
    kit.publish(models, "colours", 2, kit.model_bytes())
    async with kit.running(models) as (server, _):
        slot = server.models.slot("colours")
        async with slot.lock:
            pinning = asyncio.create_task(server.models.reload("colours", "1"))
            await asyncio.sleep(0)
            watching = asyncio.create_task(server.models.refresh())
            await asyncio.sleep(0)
        await asyncio.gather(pinning, watching)
        assert slot.serving.version == 1


async def test_reloads_of_one_model_go_one_after_another(kit, models):
    """Many reloads at once all succeed, and the model is then what the last of them made it."""
    kit.publish(models, "colours", 2, kit.model_bytes())
    async with kit.running(models) as (_, stubs):
        answers = await asyncio.gather(*[reload(stubs, number) for number in "121212"])
        assert {answer.state for answer in answers} == {model_pb2.Model.STATE_ACTIVE}
        assert (await reload(stubs)).version == await version(kit, stubs) == "2"


async def test_a_reload_brings_in_a_model_that_was_not_there(kit, models):
    """A folder that appeared after the start is loaded by ReloadModel, and by the watch without being asked."""
    async with kit.running(models) as (server, stubs):
        error = await refusal(reload(stubs, name="models/fresh"))
        assert reason_name(error) == "MODEL_NOT_FOUND"
        kit.publish(models, "fresh", 1, kit.model_bytes())
        assert (await reload(stubs, name="models/fresh")).state == model_pb2.Model.STATE_ACTIVE
        kit.publish(models, "later", 1, kit.model_bytes())
        kit.publish(models, "fresh", 2, b"junk")
        await server.models.refresh()
        later = await stubs.models.GetModel(model_pb2.GetModelRequest(name="models/later"))
        assert later.version == "1"
        fresh = await stubs.models.GetModel(model_pb2.GetModelRequest(name="models/fresh"))
        assert (fresh.version, reason_name(from_status(fresh.last_error))) == ("1", "MODEL_INVALID")
        kit.publish(models, "fresh", 3, kit.model_bytes())
        await server.models.refresh()
        fresh = await stubs.models.GetModel(model_pb2.GetModelRequest(name="models/fresh"))
        assert (fresh.version, fresh.HasField("last_error")) == ("3", False)


async def test_a_reload_of_an_unknown_version_brings_no_model_in(kit, models):
    """A model that was not seen before stays unknown: nothing would ever load it, and callers would wait for that."""
    async with kit.running(models) as (_, stubs):
        kit.publish(models, "fresh", 1, kit.model_bytes())
        for unknown in ("7", "x"):
            assert reason_name(await refusal(reload(stubs, unknown, name="models/fresh"))) == "MODEL_NOT_FOUND"
            request = model_pb2.GetModelRequest(name="models/fresh")
            assert reason_name(await refusal(stubs.models.GetModel(request))) == "MODEL_NOT_FOUND"
        assert (await reload(stubs, "1", name="models/fresh")).version == "1"


async def test_a_model_without_versions_is_told_as_failed(kit, models):
    """A folder with no version is FAILED with a reason, and a publisher's temporary folder is no version."""
    (models / "empty" / ".incoming-1").mkdir(parents=True)
    async with kit.running(models) as (_, stubs):
        model = await stubs.models.GetModel(model_pb2.GetModelRequest(name="models/empty"))
        assert model.state == model_pb2.Model.STATE_FAILED
        assert "no version folder" in model.last_error.message


async def test_a_model_that_loads_says_so(kit, models):
    """Before its first load ends a model is LOADING, and asking it is UNAVAILABLE with a time to come back."""
    server = build(ServerConfig(models=models, listen="127.0.0.1:0", metrics="", device="cpu"))
    await server.start()
    stubs = kit.client(server.listen)
    try:
        model = await stubs.models.GetModel(model_pb2.GetModelRequest(name=NAME))
        assert (model.state, model.HasField("metadata")) == (model_pb2.Model.STATE_LOADING, False)
        error = await refusal(stubs.classify.Classify(kit.request(kit.picture())))
        assert (reason_name(error), error.retry_seconds) == ("MODEL_LOADING", 1.0)
    finally:
        await stubs.channel.close()
        await server.stop()
