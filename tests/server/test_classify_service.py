import asyncio
import logging
import os
import socket
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from trapline.errors import from_rpc_error, from_status, reason_name
from trapline.v1 import classify_pb2


async def refusal(call):
    """The Refusal that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return from_rpc_error(failed.value)


def items(kit, *marks: str, image: bytes | None = None):
    content = kit.picture() if image is None else image
    return [classify_pb2.StreamClassifyRequest(request_id=mark, request=kit.request(content)) for mark in marks]


async def test_an_image_gets_its_labels_scores_and_times(kit, models):
    """The answer names the labels best first, the version, and where the time went; `top_k` and `min_score` cut it."""
    async with kit.running(models) as (_, stubs):
        image = kit.picture((200, 30, 10))
        answer = await stubs.classify.Classify(kit.request(image))
        assert [item.label_id for item in answer.predictions] == ["red", "green", "blue"]
        assert [item.label_index for item in answer.predictions] == [0, 1, 2]
        scores = [item.score for item in answer.predictions]
        assert scores == pytest.approx(list(kit.expected_scores((200, 30, 10))), abs=1e-5)
        assert (answer.model, answer.model_version) == ("models/colours", "1")
        assert answer.timing.batch_image_count == 1
        assert answer.timing.preprocess_micros > 0
        assert answer.timing.inference_micros > 0
        two = await stubs.classify.Classify(kit.request(image, top_k=2))
        assert len(two.predictions) == 2
        strong = await stubs.classify.Classify(kit.request(image, top_k=99, min_score=0.5))
        assert [item.label_id for item in strong.predictions] == ["red"]


async def test_the_models_own_thresholds_leave_predictions_out(kit, models):
    """Each label has its own; one without any is left to a person; a model without thresholds says what to do."""
    async with kit.running(models) as (_, stubs):
        error = await refusal(stubs.classify.Classify(kit.request(kit.picture(), model_thresholds=True)))
        assert (reason_name(error), list(error.violations)) == ("REQUEST_INVALID", ["model_thresholds"])
        assert (await stubs.classify.Classify(kit.request(kit.picture(), model_thresholds=False))).predictions
    kit.publish(models, "colours", 2, kit.doubting_bytes((0.7, 0.9, None)))
    async with kit.running(models) as (_, stubs):

        async def left(colour):
            answer = await stubs.classify.Classify(kit.request(kit.picture(colour), model_thresholds=True))
            return [item.label_id for item in answer.predictions]

        # Scores of the best label: 0.79, 0.79, 0.99, 0.99.
        assert await left((200, 120, 10)) == ["red"]
        assert await left((120, 200, 10)) == []
        assert await left((0, 255, 0)) == ["green"]
        assert await left((0, 0, 255)) == []


async def test_an_image_of_no_class_is_told(kit, models):
    """The unknown score comes in calls, batches and streams beside the usual scores; other models have none."""
    kit.publish(models, "doubting", 1, kit.doubting_bytes())
    async with kit.running(models) as (_, stubs):
        plain = await stubs.classify.Classify(kit.request(kit.picture()))
        assert not plain.HasField("unknown_score")
        bright, dark = kit.picture((255, 0, 0)), kit.picture((20, 0, 0))
        requests = [kit.request(image, "models/doubting") for image in (bright, dark)]
        answers = [await stubs.classify.Classify(request) for request in requests]
        assert [answer.unknown_score for answer in answers] == pytest.approx([0, 2 - 20 / 127.5], abs=1e-5)
        scores = [item.score for item in answers[1].predictions]
        assert scores == pytest.approx(sorted(kit.expected_scores((20, 0, 0)), reverse=True), abs=1e-5)
        batch = await stubs.classify.BatchClassify(kit.batch(requests))
        assert [item.response.unknown_score for item in batch.results] == [item.unknown_score for item in answers]


async def test_sixty_four_callers_each_get_their_own_answer(kit, models):
    """64 different images at once, by calls and a stream together: nobody gets another one's scores."""
    colours = [(number * 4, 255 - number * 4, number * 37 % 256) for number in range(64)]
    # How long they wait is not asked here, and on a busy machine they would be refused for it.
    async with kit.running(models, max_queue_ms=60_000) as (_, stubs):

        async def stream():
            for number, colour in enumerate(colours):
                image = kit.request(kit.picture(colour))
                yield classify_pb2.StreamClassifyRequest(request_id=str(number), request=image)

        async def streamed():
            return {item.request_id: item.result.response async for item in stubs.classify.StreamClassify(stream())}

        calls = [stubs.classify.Classify(kit.request(kit.picture(colour))) for colour in colours]
        by_stream, *by_call = await asyncio.gather(streamed(), *calls)
        for number, colour in enumerate(colours):
            for answer in (by_call[number], by_stream[str(number)]):
                scores = np.zeros(3)
                for item in answer.predictions:
                    scores[item.label_index] = item.score
                assert scores == pytest.approx(kit.expected_scores(colour), abs=1e-5)
        assert max(answer.timing.batch_image_count for answer in by_call) > 1


@pytest.mark.parametrize(
    ("fields", "reason", "bad"),
    [
        ({"model": "colours"}, "REQUEST_INVALID", "model"),
        ({"model": ""}, "REQUEST_INVALID", "model"),
        ({"model": "models/" + "x" * 3000}, "REQUEST_INVALID", "model"),
        ({"model": "models/absent"}, "MODEL_NOT_FOUND", None),
        ({"top_k": -1}, "REQUEST_INVALID", "top_k"),
        ({"min_score": float("nan")}, "REQUEST_INVALID", "min_score"),
        ({"min_score": 1.5}, "REQUEST_INVALID", "min_score"),
        ({"image": b""}, "IMAGE_UNREADABLE", None),
        ({"image": b"not an image"}, "IMAGE_UNREADABLE", None),
        ({"image": bytes(1024 * 1024 - 60_000)}, "IMAGE_TOO_LARGE", None),
    ],
)
async def test_bad_requests_are_refused_with_a_reason(kit, models, fields, reason, bad):
    """Each wrong field has its reason, and a violation that names it; nothing long or internal comes back."""
    async with kit.running(models, max_message_mib=1) as (_, stubs):
        values = {"image": kit.picture(), "model": "models/colours", **fields}
        error = await refusal(stubs.classify.Classify(classify_pb2.ClassifyRequest(**values)))
        assert reason_name(error) == reason
        assert len(error.message) < 300
        assert list(error.violations) == ([bad] if bad else [])
        if reason == "IMAGE_TOO_LARGE":
            assert error.metadata == {"limitBytes": str(1024 * 1024 - 64 * 1024)}


async def test_too_many_pixels_are_refused_unread(kit, models):
    """An image above `--max-megapixels` is refused by its header, with the limit."""
    async with kit.running(models, max_megapixels=1) as (_, stubs):
        error = await refusal(stubs.classify.Classify(kit.request(kit.picture(size=(2000, 1000)))))
        assert (reason_name(error), error.metadata) == ("IMAGE_TOO_LARGE", {"limitPixels": "1000000"})


async def test_a_batch_keeps_order_and_fails_image_by_image(kit, models):
    """Results come in the order of the requests; a bad image and an unknown model fail only their own."""
    async with kit.running(models) as (_, stubs):
        requests = [
            kit.request(kit.picture((255, 0, 0))),
            kit.request(b"junk"),
            kit.request(kit.picture((0, 0, 255))),
            kit.request(kit.picture(), "models/absent"),
        ]
        answer = await stubs.classify.BatchClassify(classify_pb2.BatchClassifyRequest(requests=requests))
        red, junk, blue, absent = answer.results
        assert red.response.predictions[0].label_id == "red"
        assert blue.response.predictions[0].label_id == "blue"
        assert [reason_name(from_status(item.error)) for item in (junk, absent)] == [
            "IMAGE_UNREADABLE",
            "MODEL_NOT_FOUND",
        ]


@pytest.mark.parametrize("count", [0, 65])
async def test_a_batch_of_a_wrong_size_is_refused(kit, models, count):
    """No image, or more than `max_request_image_count`, is refused whole."""
    async with kit.running(models) as (_, stubs):
        requests = [kit.request(kit.picture())] * count
        error = await refusal(stubs.classify.BatchClassify(classify_pb2.BatchClassifyRequest(requests=requests)))
        assert list(error.violations) == ["requests"]


async def test_a_batch_is_not_refused_for_its_own_length(kit, models):
    """64 images in one call are answered by an idle server that would let no caller wait a microsecond."""
    async with kit.running(models, max_queue_ms=0.001) as (_, stubs):
        requests = [kit.request(kit.picture())] * 64
        answer = await stubs.classify.BatchClassify(classify_pb2.BatchClassifyRequest(requests=requests))
        assert all(item.HasField("response") for item in answer.results)


async def test_a_full_queue_refuses_calls_while_a_stream_is_paused(kit, models):
    """Calls get QUEUE_FULL at once with RetryInfo and pushback, a batch gets it image by image; a stream waits."""
    async with kit.running(models, holds=True, max_queue_images=3, max_batch=1, max_queue_ms=60_000) as (server, stubs):
        serving = server.models.slot("colours").serving
        serving.session.held.clear()
        calls = [asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture()))) for _ in range(2)]
        await kit.until(lambda: serving.batcher.image_count == 2)
        batch = classify_pb2.BatchClassifyRequest(requests=[kit.request(kit.picture())] * 2)
        partly = asyncio.ensure_future(stubs.classify.BatchClassify(batch))
        await kit.until(lambda: serving.batcher.image_count == 3)
        stream = stubs.classify.StreamClassify(iter(items(kit, "a", "b", "c")))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stubs.classify.Classify(kit.request(kit.picture()))
        error = from_rpc_error(failed.value)
        assert (reason_name(error), error.code) == ("QUEUE_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert error.metadata == {"model": "models/colours", "queueCapacity": "3"}
        assert error.retry_seconds
        assert int(dict(failed.value.trailing_metadata())["grpc-retry-pushback-ms"]) >= 50
        serving.session.held.set()
        answers = {item.request_id: item.result async for item in stream}
        assert sorted(answers) == ["a", "b", "c"]
        assert all(item.HasField("response") for item in answers.values())
        await asyncio.gather(*calls)
        first, second = (await partly).results
        assert first.HasField("response")
        assert reason_name(from_status(second.error)) == "QUEUE_FULL"


async def test_a_full_queue_refuses_a_call_unread(kit, models, caplog):
    """What no image would get a place in answers even garbage with QUEUE_FULL, once, and has read none of it."""
    caplog.set_level(logging.INFO)
    async with kit.running(models, holds=True, max_queue_images=1, max_batch=1, max_queue_ms=60_000) as (server, stubs):
        serving = server.models.slot("colours").serving
        unary = stubs.channel.unary_unary("/trapline.v1.ClassifyService/Classify")
        serving.session.held.clear()
        first = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
        await kit.until(lambda: serving.batcher.image_count == 1)
        error = await refusal(unary(b"\xff" * 100_000))
        assert (reason_name(error), error.metadata["model"]) == ("QUEUE_FULL", "models/colours")
        assert serving.batcher.image_count == 1
        serving.session.held.set()
        await first
        assert reason_name(await refusal(unary(b"\xff\xff\xff"))) == "REQUEST_INVALID"
        value = server.metrics.registry.get_sample_value
        assert value("trapline_images_total", {"model": "colours", "outcome": "QUEUE_FULL"}) == 1
        assert value("trapline_dropped_images_total", {"model": "colours", "cause": "refused"}) == 1
    line = next(text for text in caplog.messages if text.startswith("event=call ") and "QUEUE_FULL" in text)
    assert " model=colours images=1 answered=0 refused=1 bytes=0" in line


async def test_who_comes_to_a_full_queue_at_the_end_is_sent_on_and_not_counted(kit, models):
    """A server that takes nothing new says so, whatever its queue says; no image was refused for want of room."""
    async with kit.running(models, holds=True, max_queue_images=1, max_batch=1, max_queue_ms=60_000) as (server, stubs):
        serving = server.models.slot("colours").serving
        serving.session.held.clear()
        first = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
        await kit.until(lambda: serving.batcher.image_count == 1)
        server._gate.close()
        assert reason_name(await refusal(stubs.classify.Classify(kit.request(kit.picture())))) == "SHUTTING_DOWN"
        value = server.metrics.registry.get_sample_value
        assert value("trapline_dropped_images_total", {"model": "colours", "cause": "refused"}) is None
        serving.session.held.set()
        await first


async def test_with_several_models_a_call_is_read_before_it_is_refused(kit, models):
    """One model's full queue says nothing of another's, nor of a name that is no model's."""
    kit.publish(models, "others", 1, kit.model_bytes())
    async with kit.running(models, holds=True, max_queue_images=1, max_batch=1, max_queue_ms=60_000) as (server, stubs):
        serving = server.models.slot("colours").serving
        serving.session.held.clear()
        first = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
        await kit.until(lambda: serving.batcher.image_count == 1)
        assert reason_name(await refusal(stubs.classify.Classify(kit.request(kit.picture())))) == "QUEUE_FULL"
        nobody = kit.request(kit.picture(), model="models/nobody")
        assert reason_name(await refusal(stubs.classify.Classify(nobody))) == "MODEL_NOT_FOUND"
        other = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture(), model="models/others")))
        await kit.until(lambda: server.models.slot("others").serving.batcher.image_count == 1)
        serving.session.held.set()
        await asyncio.gather(first, other)


async def test_a_call_without_a_message_is_refused_as_invalid(kit, models):
    """One that half-closes at once is told what it lacks, and not left waiting."""
    async with kit.running(models) as (_, stubs):
        call = stubs.channel.stream_unary("/trapline.v1.ClassifyService/Classify")
        assert reason_name(await refusal(call(iter([]), timeout=20))) == "REQUEST_INVALID"


async def test_a_callers_cancel_and_deadline_free_the_queue(kit, models):
    """Images of a caller that left, or whose deadline passed, are not run, for calls, batches and streams alike."""
    async with kit.running(models, holds=True, max_batch=8) as (server, stubs):
        serving = server.models.slot("colours").serving
        session, batcher = serving.session, serving.batcher
        session.held.clear()
        first = asyncio.ensure_future(stubs.classify.Classify(kit.request(kit.picture())))
        await asyncio.to_thread(session.began.wait)
        batch = classify_pb2.BatchClassifyRequest(requests=[kit.request(kit.picture())] * 2)
        leaving = [
            stubs.classify.Classify(kit.request(kit.picture())),
            stubs.classify.BatchClassify(batch),
            stubs.classify.StreamClassify(iter(items(kit, "a", "b"))),
        ]
        late = stubs.classify.Classify(kit.request(kit.picture()), timeout=0.3)
        await kit.until(lambda: batcher.image_count == 7)
        for call in leaving:
            call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await late
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await kit.until(lambda: batcher.image_count == 1)
        session.held.set()
        await first
        await stubs.classify.Classify(kit.request(kit.picture()))
        assert session.sizes == [1, 1]


async def test_each_request_of_a_stream_gets_one_response(kit, models):
    """Empty and repeated marks and bad images are refused in their own results, and the stream goes on to OK."""
    async with kit.running(models, holds=True) as (server, stubs):
        session = server.models.slot("colours").serving.session
        session.held.clear()
        call = stubs.classify.StreamClassify()
        for item in [*items(kit, "a", "a", ""), *items(kit, "junk", image=b"junk")]:
            await call.write(item)
        refused = [await call.read() for _ in range(3)]
        reasons = sorted((item.request_id, reason_name(from_status(item.result.error))) for item in refused)
        assert reasons == [("", "REQUEST_INVALID"), ("a", "REQUEST_INVALID"), ("junk", "IMAGE_UNREADABLE")]
        session.held.set()
        good = await call.read()
        assert (good.request_id, good.result.response.predictions[0].label_id) == ("a", "red")
        await call.write(items(kit, "a")[0])
        assert (await call.read()).result.HasField("response")
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_reads_no_more_than_it_can_hold(kit, models):
    """With the device held, a stream takes its share of the queue and then pauses its client; all get answers."""
    async with kit.running(models, holds=True, max_queue_images=8, max_batch=2) as (server, stubs):
        serving = server.models.slot("colours").serving
        serving.session.held.clear()
        marks = [str(number) for number in range(200)]
        call = stubs.classify.StreamClassify(iter(items(kit, *marks)))
        await kit.until(lambda: serving.batcher.image_count == 4)
        await asyncio.to_thread(serving.session.began.wait)
        assert serving.batcher.image_count == 4
        serving.session.held.set()
        assert sorted([item.request_id async for item in call]) == sorted(marks)


async def test_garbage_messages_are_refused_as_invalid(kit, models):
    """Bytes that are no message get REQUEST_INVALID, by a call and within a stream, after the answers before them."""
    async with kit.running(models) as (_, stubs):
        unary = stubs.channel.unary_unary("/trapline.v1.ClassifyService/Classify")
        assert reason_name(await refusal(unary(b"\xff\xff\xff"))) == "REQUEST_INVALID"
        stream = stubs.channel.stream_stream("/trapline.v1.ClassifyService/StreamClassify")
        call = stream(iter([items(kit, "a")[0].SerializeToString(), b"\xff\xff\xff"]))
        answered = classify_pb2.StreamClassifyResponse.FromString(await call.read())
        assert answered.request_id == "a"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        assert reason_name(from_rpc_error(failed.value)) == "REQUEST_INVALID"


async def test_a_fault_of_ours_is_internal_with_an_id_and_no_insides(kit, models, caplog):
    """A runtime error leaves as INTERNAL with an id that the log has too, and its text stays here."""
    async with kit.running(models, holds=True) as (server, stubs):
        server.models.slot("colours").serving.session.failure = RuntimeError("secret insides")
        error = await refusal(stubs.classify.Classify(kit.request(kit.picture())))
        assert (reason_name(error), error.code) == ("INTERNAL", grpc.StatusCode.INTERNAL)
        assert "secret" not in str(error.message)
        assert error.metadata["errorId"] in caplog.text


async def test_awkward_files_never_hurt_the_server(kit, models):
    """Odd and broken real files get an answer or INVALID_ARGUMENT, never INTERNAL, and the server stays SERVING."""
    shared = os.environ.get("TRAPLINE_SHARED")
    if not shared:
        pytest.skip("TRAPLINE_SHARED does not name the folder of shared data")
    files = sorted(path for path in (Path(shared) / "data" / "awkward").iterdir() if path.suffix != ".md")
    assert files
    async with kit.running(models) as (server, stubs):
        ended = {}
        for path in files:
            try:
                await stubs.classify.Classify(kit.request(path.read_bytes()))
                ended[path.name] = "OK"
            except grpc.aio.AioRpcError as error:
                ended[path.name] = reason_name(from_rpc_error(error))
        assert set(ended.values()) <= {"OK", "IMAGE_UNREADABLE", "IMAGE_TOO_LARGE"}
        assert ended["hopper.jpg"] == "OK"
        assert ended["truncated_jpeg.jpg"] == "IMAGE_UNREADABLE"
        health = health_pb2_grpc.HealthStub(stubs.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert server.models.slot("colours").serving.batcher.image_count == 0


def raw_call(address: str, fields: bytes = b"") -> socket.socket:
    """A call of which only the headers went: nobody sends its message."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def field(name: bytes, value: bytes) -> bytes:
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    path = b"/trapline.v1.ClassifyService/Classify"
    pairs = {b":path": path, b":authority": b"x", b"content-type": b"application/grpc", b"te": b"trailers"}
    headers = bytes.fromhex("8386") + b"".join(field(*pair) for pair in pairs.items()) + fields
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, headers))
    return connection


def told(caplog):
    """The log's lines of calls."""
    return [text for text in caplog.messages if text.startswith("event=call ")]


@pytest.mark.parametrize("ended_by", ["the caller", "its deadline"])
async def test_a_call_that_ends_before_its_photo_came_is_not_told_as_wrong(kit, models, caplog, ended_by):
    """Nothing is logged or counted of it, as of any call that never came to be one."""
    caplog.set_level(logging.INFO)
    timeout = b"\0\x0cgrpc-timeout\x04100m" if ended_by == "its deadline" else b""
    async with kit.running(models) as (server, stubs):
        idle = len(asyncio.all_tasks())
        connection = await asyncio.to_thread(raw_call, server.listen, fields=timeout)
        await kit.until(lambda: len(asyncio.all_tasks()) > idle)
        if ended_by == "the caller":
            connection.close()
        await kit.until(lambda: len(asyncio.all_tasks()) == idle)
        connection.close()
        assert (await stubs.classify.Classify(kit.request(kit.picture()))).model_version == "1"
        await kit.until(lambda: told(caplog))
        assert ["code=OK" in line for line in told(caplog)] == [True]
        value = server.metrics.registry.get_sample_value
        assert value("trapline_calls_total", {"method": "Classify", "code": "INVALID_ARGUMENT"}) is None


async def test_a_photo_above_the_limit_of_messages_is_grpcs_to_refuse(kit, models):
    """RESOURCE_EXHAUSTED without a reason of ours, as docs/errors.md says."""
    async with kit.running(models, max_message_mib=1) as (_, stubs):
        error = await refusal(stubs.classify.Classify(kit.request(bytes(2**21)), timeout=20))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_name(error) == "UNSPECIFIED"


async def test_a_call_whose_photo_never_comes_holds_up_no_end(kit, models):
    """It is not under way before it is there: an orderly end cuts nothing off."""
    async with kit.running(models) as (server, stubs):
        connection = await asyncio.to_thread(raw_call, server.listen)
        assert (await stubs.classify.Classify(kit.request(kit.picture()))).model_version == "1"
        assert await server.drain() == 0
        connection.close()
