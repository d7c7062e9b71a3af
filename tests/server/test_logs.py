import json
import logging
import re

import grpc
import pytest

from trapline.request_id import REQUEST_ID_KEY

TOKEN = "bearer-of-good-news"


@pytest.fixture(autouse=True)
def _info_is_kept(caplog):
    caplog.set_level(logging.INFO)


def words(line: str) -> dict[str, str]:
    """The words of a line of text."""
    return dict(word.split("=", 1) for word in line.split())


async def lines_of(caplog, count: int, kit) -> list[dict[str, str]]:
    """The log lines of that many calls: a call's line may follow its answer."""

    def found() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.getMessage().startswith("event=call ")]

    await kit.until(lambda: len(found()) >= count)
    return [words(line) for line in found()]


async def test_a_callers_id_comes_back_and_is_logged(kit, models, caplog):
    """In the trailing metadata of an answer and of an error, never in the initial; one that is unfit is replaced."""
    async with kit.running(models) as (_, stubs):
        for image, given in ((kit.picture(), "mine-1"), (b"junk", "mine-2"), (kit.picture(), "not mine")):
            call = stubs.classify.Classify(kit.request(image), metadata=((REQUEST_ID_KEY, given),))
            code = await call.code()
            got = dict(await call.trailing_metadata())[REQUEST_ID_KEY]
            assert (got == given) is given.startswith("mine")
            assert REQUEST_ID_KEY not in dict(await call.initial_metadata())
            assert code is (grpc.StatusCode.INVALID_ARGUMENT if image == b"junk" else grpc.StatusCode.OK)
        lines = await lines_of(caplog, 3, kit)
    assert [line["request_id"] for line in lines] == ["mine-1", "mine-2", got]
    assert re.fullmatch(r"[0-9a-f]{24}", got)


async def test_a_refused_call_gets_no_initial_metadata(kit, models):
    """A call with headers is never retried by gRPC: a server that turns away sends nothing before the status."""
    async with kit.running(models) as (server, _):
        config = {
            "methodConfig": [
                {
                    "name": [{}],
                    "retryPolicy": {
                        "maxAttempts": 5,
                        "initialBackoff": "0.01s",
                        "maxBackoff": "0.05s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["INVALID_ARGUMENT"],
                    },
                }
            ]
        }
        options = [("grpc.service_config", json.dumps(config)), ("grpc.enable_retries", 1)]
        async with grpc.aio.insecure_channel(server.listen, options=options) as channel:
            classify = kit.stubs_of(channel).classify.Classify
            with pytest.raises(grpc.aio.AioRpcError):
                await classify(kit.request(b"junk"))
        count = server.metrics.registry.get_sample_value(
            "trapline_calls_total", {"method": "Classify", "code": "INVALID_ARGUMENT"}
        )
    assert count == 5


async def test_one_line_tells_all_of_a_call(kit, models, caplog):
    """Method, code, reason, model, images, bytes and times where they are known; in a batch who was refused."""
    image = kit.picture()
    async with kit.running(models) as (_, stubs):
        await stubs.classify.Classify(kit.request(image))
        requests = [kit.request(image), kit.request(b"junk"), kit.request(image, "models/other")]
        await stubs.classify.BatchClassify(kit.batch(requests))
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.classify.Classify(kit.request(image, "not even a name"))
        one, batch, unnamed = await lines_of(caplog, 3, kit)
    shared = ["event", "request_id", "method", "code", "reason", "seconds", "caller", "peer"]
    images = ["images", "answered", "refused", "bytes"]
    times = ["preprocess_seconds", "queue_seconds", "inference_seconds", "batch_images"]
    assert list(one) == [*shared, "model", *images, *times]
    assert (one["method"], one["code"], one["reason"], one["model"]) == ("Classify", "OK", "-", "colours")
    assert [one[key] for key in images] == ["1", "1", "0", str(len(image))]
    assert one["batch_images"] == "1.0"
    assert float(one["seconds"]) >= sum(float(one[key]) for key in times[:3]) > 0
    assert (batch["code"], batch["model"]) == ("OK", "several")
    assert [batch[key] for key in images] == ["3", "1", "2", str(2 * len(image) + 4)]
    assert list(unnamed) == [*shared, *images]
    assert unnamed["reason"] == "REQUEST_INVALID"


async def test_a_stream_is_one_line(kit, models, caplog):
    """However many images it had: their count, and how many were refused."""
    async with kit.running(models) as (_, stubs):
        contents = [kit.picture(), b"junk", kit.picture()]
        requests = [kit.marked(str(number), kit.request(each)) for number, each in enumerate(contents)]
        answers = [answer async for answer in stubs.classify.StreamClassify(iter(requests))]
        (line,) = await lines_of(caplog, 1, kit)
    assert len(answers) == 3
    assert [line[key] for key in ("method", "images", "answered", "refused")] == ["StreamClassify", "3", "2", "1"]


async def test_a_fault_has_one_id_in_all_places(kit, models, caplog):
    """The caller's error, the call's line and the line with the traceback carry the same id."""
    async with kit.running(models, holds=True) as (server, stubs):
        server.models.slot("colours").serving.session.failure = RuntimeError("CUDA error")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stubs.classify.Classify(kit.request(kit.picture()))
        (line,) = await lines_of(caplog, 1, kit)
    (trouble,) = [each for each in caplog.records if each.getMessage().startswith("event=internal_error")]
    assert (line["code"], line["reason"]) == ("INTERNAL", "INTERNAL")
    assert line["error_id"] in failed.value.details()
    assert f"error_id={line['error_id']} error='RuntimeError: CUDA error'" in trouble.getMessage()
    assert trouble.exc_info is not None


async def test_nothing_of_the_caller_is_logged(kit, models, caplog):
    """No byte of an image, no token, and no name that the server does not know, in any line of any level."""
    caplog.set_level(logging.DEBUG)
    secret = b"GPS 47.11 N"
    async with kit.running(models) as (_, stubs):
        for request in (
            kit.request(kit.picture() + secret),
            kit.request(secret),
            kit.request(kit.picture(), "models/poachers-are-here"),
            kit.request(kit.picture(), "/etc/passwd"),
        ):
            metadata = (("authorization", f"Bearer {TOKEN}"), ("x-request-id", "shown"))
            call = stubs.classify.Classify(request, metadata=metadata)
            await call.code()
        await lines_of(caplog, 4, kit)
    text = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    assert text.count("request_id=shown") == 4
    for hidden in (TOKEN, "GPS", "/etc/passwd"):
        assert hidden not in text
