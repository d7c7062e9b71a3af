"""Methods with one request and many answers, written as a generator or by writing: the same shell around both."""

import asyncio
import gc

import grpc
import pytest

from trapline.errors import TraplineError, from_rpc_error, reason_name
from trapline.request_id import REQUEST_ID_KEY
from trapline.service.gate import shutting_down
from trapline.train_errors import TrainJobNotFound
from trapline.v1 import train_pb2

STREAMS = ("WatchTrainJob", "ReadTrainJobArtifact")
pytestmark = pytest.mark.parametrize("method", STREAMS)
#: The words of every call's line; a program's own come after them.
SHARED = ["event", "request_id", "method", "code", "reason", "seconds", "caller", "peer"]


async def heard(kit, call) -> tuple[list[int], object]:
    """The numbers that came, and the refusal that the stream ended with; None for OK."""
    numbers: list[int] = []
    try:
        while (response := await call.read()) is not grpc.aio.EOF:
            numbers.append(kit.number_of(response))
    except grpc.aio.AioRpcError as error:
        return numbers, from_rpc_error(error)
    return numbers, None


async def test_answers_come_in_order_and_leave_one_line(kit, method, call_lines):
    """OK, the caller's id back, one line without words of any program's, one count, and no time of a unary call."""
    async with kit.running() as (program, client):
        call = client.stream(method, metadata=((REQUEST_ID_KEY, "mine"),))
        assert await heard(kit, call) == ([1, 2, 3], None)
        assert dict(await call.trailing_metadata())[REQUEST_ID_KEY] == "mine"
        await kit.until(lambda: len(call_lines()) == 1)
        (line,) = call_lines()
        assert program.value("trapline_calls_total", method=method, code="OK") == 1
        assert program.value("trapline_call_seconds_count", method=method) is None
        assert program.gate.call_count == 0
    assert list(line) == SHARED
    assert (line["request_id"], line["method"], line["code"], line["reason"]) == ("mine", method, "OK", "-")


@pytest.mark.parametrize("before", [0, 2])
async def test_a_refusal_ends_the_stream_where_it_stands(kit, method, before, call_lines):
    """Before the first answer and in the middle: what came before it arrives, then the status with its reason."""

    async def story():
        for number in range(before):
            yield number
        raise TrainJobNotFound("there is no job trainJobs/a", trainJob="a")

    async with kit.running(story) as (program, client):
        call = client.stream(method)
        numbers, refusal = await heard(kit, call)
        assert numbers == list(range(before))
        assert (refusal.code, reason_name(refusal)) == (grpc.StatusCode.NOT_FOUND, "TRAIN_JOB_NOT_FOUND")
        assert refusal.metadata == {"trainJob": "a"}
        assert refusal.request_id
        await kit.until(lambda: len(call_lines()) == 1)
        assert (call_lines()[0]["code"], call_lines()[0]["reason"]) == ("NOT_FOUND", "TRAIN_JOB_NOT_FOUND")
        assert program.value("trapline_calls_total", method=method, code="NOT_FOUND") == 1


async def test_a_fault_in_the_middle_tells_an_id_and_nothing_else(kit, method, call_lines):
    """INTERNAL with the id that the log has; no text of the exception leaves the program."""

    async def story():
        yield 1
        raise RuntimeError("the disk is on fire")

    async with kit.running(story) as (_, client):
        numbers, refusal = await heard(kit, client.stream(method))
        await kit.until(lambda: len(call_lines()) == 1)
    assert (numbers, reason_name(refusal)) == ([1], "INTERNAL")
    assert "fire" not in refusal.message
    assert call_lines()[0]["error_id"] == refusal.metadata["errorId"]


async def test_garbage_is_refused(kit, method):
    """A message of another type is REQUEST_INVALID, and the method never sees it."""
    async with kit.running() as (program, client):
        call = client.channel.unary_stream(f"/trapline.v1.TrainService/{method}")(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        assert reason_name(from_rpc_error(failed.value)) == "REQUEST_INVALID"
        assert not program.jobs.began.is_set()


@pytest.mark.parametrize(("seconds", "code"), [(None, "CANCELLED"), (0.2, "DEADLINE_EXCEEDED")])
async def test_a_caller_that_leaves_ends_the_work(kit, method, seconds, code, call_lines):
    """Cancelled or too late: what the method holds is let go at once, and the call is counted for what it was."""
    ended = asyncio.Event()

    async def story():
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with kit.running(story) as (program, client):
        call = client.stream(method, timeout=seconds)
        assert kit.number_of(await call.read()) == 1
        if seconds is None:
            call.cancel()
        await asyncio.wait_for(ended.wait(), 10)
        await kit.until(lambda: program.gate.call_count == 0)
        assert program.value("trapline_calls_total", method=method, code=code) == 1
        assert [(line["code"], line["reason"]) for line in call_lines()] == [(code, "-")]


async def test_a_caller_that_does_not_read_is_let_go_when_it_leaves(kit, method):
    """A method that is held up while it sends, because nobody reads, ends with its caller."""
    ended = asyncio.Event()

    async def story():
        try:
            while True:
                yield 1
        finally:
            ended.set()

    async with kit.running(story) as (program, client):
        call = client.stream(method)
        assert kit.number_of(await call.read()) == 1
        call.cancel()
        await asyncio.wait_for(ended.wait(), 10)
        await kit.until(lambda: program.gate.call_count == 0)


async def test_a_drain_refuses_new_streams_and_ends_those_that_heed_it(kit, method):
    """A stream that follows the gate ends in our words, a new one is refused, a unary call is still answered."""
    holder = []

    async def story():
        yield 1
        await holder[0].gate.winding_down.wait()
        raise shutting_down()

    async with kit.running(story) as (program, client):
        holder.append(program)
        call = client.stream(method)
        assert kit.number_of(await call.read()) == 1
        program.gate.winding_down.set()
        numbers, refusal = await heard(kit, call)
        assert (numbers, reason_name(refusal)) == ([], "SHUTTING_DOWN")
        program.jobs.began.clear()
        assert reason_name((await heard(kit, client.stream(method)))[1]) == "SHUTTING_DOWN"
        assert not program.jobs.began.is_set()
        assert (await client.stub.GetTrainJob(train_pb2.GetTrainJobRequest(name="a"))).name == "a"
        assert await program.drain() == 0


async def test_a_drain_waits_for_a_stream_that_ends(kit, method):
    """What is under way is answered to its end, and nothing is cut off."""
    go = asyncio.Event()

    async def story():
        yield 1
        await go.wait()
        yield 2

    async with kit.running(story) as (program, client):
        call = client.stream(method)
        assert kit.number_of(await call.read()) == 1
        drained = asyncio.create_task(program.drain(20))
        await program.gate.winding_down.wait()
        go.set()
        assert await heard(kit, call) == ([2], None)
        assert await drained == 0


async def test_a_drain_cuts_off_a_stream_that_does_not_end(kit, method):
    """When its time is over, and counts it."""
    ended = asyncio.Event()

    async def story():
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with kit.running(story) as (program, client):
        call = client.stream(method)
        assert kit.number_of(await call.read()) == 1
        assert await program.drain() == 1
        assert ended.is_set()
        assert (await heard(kit, call))[1].code is grpc.StatusCode.UNAVAILABLE


async def test_a_stranger_is_refused_unread(kit, method, tmp_path, call_lines):
    """Without a good token a stream that never sends its request is refused, logged and counted."""
    (tmp_path / "tokens").write_text("hills:caller-token-0123456789\n")
    async with kit.running(token_file=tmp_path / "tokens") as (program, client):
        silent = client.channel.stream_stream(f"/trapline.v1.TrainService/{method}")()
        assert await silent.code() is grpc.StatusCode.UNAUTHENTICATED
        await kit.until(lambda: len(call_lines()) == 1)
        assert program.value("trapline_calls_total", method=method, code="UNAUTHENTICATED") == 1
        assert program.value("trapline_call_seconds_count", method=method) is None
        good = client.stream(method, metadata=(("authorization", "Bearer caller-token-0123456789"),))
        assert await heard(kit, good) == ([1, 2, 3], None)
        await kit.until(lambda: len(call_lines()) == 2)
    assert [line["caller"] for line in call_lines()] == ["-", "hills"]


async def test_a_failed_stream_leaves_no_garbage(kit, method, tmp_path):
    """Refused in the middle, by a fault, by a cancellation or for its token: reference counts alone free all of it."""
    (tmp_path / "tokens").write_text("hills:caller-token-0123456789\n")
    metadata = (("authorization", "Bearer caller-token-0123456789"),)
    faults = [TrainJobNotFound("there is no job"), RuntimeError("fire")]

    async def story():
        yield 1
        if faults:
            raise faults.pop()
        await asyncio.Event().wait()

    gc.collect()
    gc.disable()
    try:
        async with kit.running(story, token_file=tmp_path / "tokens") as (program, client):
            for _ in range(2):
                await heard(kit, client.stream(method, metadata=metadata))
            await heard(kit, client.stream(method))
            call = client.stream(method, metadata=metadata)
            await call.read()
            call.cancel()
            await kit.until(lambda: program.gate.call_count == 0)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        requests = (train_pb2.WatchTrainJobRequest, train_pb2.ReadTrainJobArtifactRequest)
        left = [type(each).__name__ for each in gc.garbage if isinstance(each, (TraplineError, *requests))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []
