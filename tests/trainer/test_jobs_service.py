import asyncio
import hashlib
import uuid

import grpc
import pytest

from trainer.jobs import watch
from trainer.jobs.changes import Changes
from trapline.errors import from_rpc_error, reason_name
from trapline.service.gate import Gate
from trapline.train_errors import TrainJobNotFound
from trapline.v1 import train_pb2
from trapline.v1.train_pb2 import TrainJob

PENDING, RUNNING = TrainJob.STATE_PENDING, TrainJob.STATE_RUNNING
SUCCEEDED, FAILED, CANCELLED = TrainJob.STATE_SUCCEEDED, TrainJob.STATE_FAILED, TrainJob.STATE_CANCELLED


async def refused(call):
    """The refusal that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def artifacts(one, name):
    request = train_pb2.ListTrainJobArtifactsRequest(parent=name)
    return list((await one.stub.ListTrainJobArtifacts(request)).artifacts)


async def read(one, name, path, offset=0):
    request = train_pb2.ReadTrainJobArtifactRequest(parent=name, path=path, offset=offset)
    return [piece async for piece in one.stub.ReadTrainJobArtifact(request)]


async def listed(one, size=0, states=()):
    """The names of all pages, and how many pages there were."""
    names, token, pages = [], "", 0
    while True:
        request = train_pb2.ListTrainJobsRequest(page_size=size, page_token=token, states=states)
        page = await one.stub.ListTrainJobs(request)
        names, token, pages = names + [job.name for job in page.train_jobs], page.next_page_token, pages + 1
        if not token:
            return names, pages


async def test_a_job_from_its_creation_to_its_artifacts(service):
    """Queued, run, watched, described; its files listed and read with their digests."""
    async with service() as one:
        created = await one.create(job_id="first", epochs=1)
        assert (created.name, created.state, created.config.epochs) == ("trainJobs/first", PENDING, 1)
        assert created.HasField("create_time")
        events = await one.watched(created.name)
        job = await one.get(created.name)
        assert (job.state, job.attempt_count, job.result) == (SUCCEEDED, 1, "test accuracy 98 %")
        assert job.evaluation.accuracy == pytest.approx(0.98)
        assert events[0].sequence == 0
        assert [event.sequence for event in events[1:]] == list(range(1, job.last_sequence + 1))
        assert events[-1].train_job == job
        assert [event.sentence for event in events if event.HasField("sentence")] == ["3 photos to train on"]
        assert [event.progress.done for event in events if event.HasField("progress")] == [0, 1, 2]
        files = await artifacts(one, job.name)
        assert [(file.path, file.byte_count) for file in files] == [("model.onnx", 2_000_000), ("plots/curves.png", 6)]
        first, *chunks = await read(one, job.name, "model.onnx")
        assert first.artifact == files[0]
        content = b"".join(chunk.chunk for chunk in chunks)
        assert hashlib.sha256(content).hexdigest() == files[0].digest
        assert max(len(chunk.chunk) for chunk in chunks) <= 1024 * 1024
        _, *rest = await read(one, job.name, "model.onnx", offset=1_999_990)
        assert b"".join(chunk.chunk for chunk in rest) == content[-10:]
        assert len(await read(one, job.name, "model.onnx", offset=2_000_000)) == 1


async def test_a_job_that_fails_says_why(service):
    """The child's sentence is the job's error."""
    async with service() as one:
        created = await one.create(seed=13)
        job = (await one.watched(created.name))[-1].train_job
        assert (job.state, job.error.message) == (FAILED, "the photos are all alike")
        assert not job.result


async def test_a_create_may_be_retried(service):
    """The same request id gives the same job, though its dataset has gone; another config is refused, an id too."""
    async with service() as one:
        mine = str(uuid.uuid4())
        first = await one.create(request_id=mine)
        (one.data / "hills").rename(one.data / "elsewhere")
        again = await one.create(request_id=mine.upper())
        assert again.name == first.name
        for other in ({"epochs": 9}, {"job_id": "other"}):
            refusal = await refused(one.create(request_id=mine, **other))
            assert (refusal.code, reason_name(refusal)) == (grpc.StatusCode.ALREADY_EXISTS, "TRAIN_JOB_EXISTS")
            assert refusal.metadata == {"trainJob": first.name}
        assert (await listed(one))[0] == [first.name]


async def test_a_create_that_is_raced_makes_one_job(service):
    """However many at the same time."""
    async with service() as one:
        mine = str(uuid.uuid4())
        jobs = await asyncio.gather(*[one.create(request_id=mine) for _ in range(20)])
        assert len({job.name for job in jobs}) == 1
        assert (await listed(one))[0] == [jobs[0].name]


async def test_an_id_is_taken_once(service):
    """A second job of that id is refused, also where it is only validated."""
    async with service() as one:
        await one.create(job_id="mine")
        for only in (False, True):
            refusal = await refused(one.create(job_id="mine", validate_only=only))
            assert reason_name(refusal) == "TRAIN_JOB_EXISTS"


async def test_validating_queues_nothing(service):
    """The job that would be, without a name where the service would pick it; a bad one is refused as ever."""
    async with service() as one:
        assert (await one.create(validate_only=True)).name == ""
        job = await one.create(validate_only=True, job_id="mine", epochs=4)
        assert (job.name, job.state, job.config.epochs) == ("trainJobs/mine", PENDING, 4)
        assert reason_name(await refused(one.create(validate_only=True, dataset="none"))) == "DATASET_INVALID"
        assert await listed(one) == ([], 1)
        assert not (one.runs / "mine").exists()


async def test_jobs_wait_for_their_turn(service):
    """One at a time; positions count those before; a full queue refuses and says when to come back."""
    async with service(max_pending=2) as one:
        one.hold()
        first = await one.create()
        await one.until_state(first.name, RUNNING)
        second, third = await one.create(), await one.create()
        assert [(await one.get(job.name)).queue_position for job in (first, second, third)] == [0, 0, 1]
        refusal = await refused(one.create())
        assert (refusal.code, reason_name(refusal)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TRAIN_CAPACITY")
        assert refusal.metadata == {"limit": "max_pending"}
        assert refusal.retry_seconds
        one.release()
        assert (await one.watched(third.name))[-1].train_job.state == SUCCEEDED


async def test_creates_at_the_same_time_take_no_more_than_may_wait(service):
    """The last place is one caller's, however many ask for it."""
    async with service(max_pending=3) as one:
        one.hold()
        first = await one.create()
        await one.until_state(first.name, RUNNING)
        answers = await asyncio.gather(*[one.create() for _ in range(20)], return_exceptions=True)
        refusals = [from_rpc_error(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert len(refusals) == 17
        assert {refusal.metadata["limit"] for refusal in refusals} == {"max_pending"}
        one.release()


async def test_a_disk_without_room_takes_no_job(service):
    """Below --min-free-gib a create is refused."""
    async with service(min_free_gib=10**9) as one:
        refusal = await refused(one.create())
        assert (reason_name(refusal), refusal.metadata) == ("TRAIN_CAPACITY", {"limit": "min_free_gib"})


async def test_pages_have_every_job_once(service):
    """Newest first, by any size, by state; a token holds for the states that it was given for."""
    async with service() as one:
        one.hold()
        names = [(await one.create()).name for _ in range(7)]
        await one.until_state(names[0], RUNNING)
        assert await listed(one) == (names[::-1], 1)
        for size, pages in ((1, 7), (2, 4), (7, 1), (10_000, 1)):
            assert await listed(one, size) == (names[::-1], pages)
        assert (await listed(one, 2, [PENDING]))[0] == names[:0:-1]
        assert (await listed(one, 2, [RUNNING, RUNNING]))[0] == names[:1]
        assert (await listed(one, 2, [SUCCEEDED]))[0] == []
        page = await one.stub.ListTrainJobs(train_pb2.ListTrainJobsRequest(page_size=2))
        other = train_pb2.ListTrainJobsRequest(page_token=page.next_page_token, states=[PENDING])
        assert set((await refused(one.stub.ListTrainJobs(other))).violations) == {"page_token"}


async def test_cancelling(service):
    """A pending job at once, a running one within seconds; again changes nothing; one that has ended otherwise not."""
    async with service() as one:
        one.hold()
        running, pending = await one.create(), await one.create()
        await one.until_state(running.name, RUNNING)
        cancel = one.stub.CancelTrainJob
        job = await cancel(train_pb2.CancelTrainJobRequest(name=pending.name))
        assert job.state == CANCELLED
        assert job.HasField("cancel_time")
        assert await cancel(train_pb2.CancelTrainJobRequest(name=pending.name)) == job
        assert (await cancel(train_pb2.CancelTrainJobRequest(name=running.name))).HasField("cancel_time")
        assert (await one.watched(running.name))[-1].train_job.state == CANCELLED
        one.release()
        done = await one.create()
        await one.watched(done.name)
        refusal = await refused(cancel(train_pb2.CancelTrainJobRequest(name=done.name)))
        assert (refusal.code, reason_name(refusal)) == (grpc.StatusCode.FAILED_PRECONDITION, "TRAIN_JOB_WRONG_STATE")


async def test_deleting(service):
    """Only a job that has ended; then it, its events and its files are gone."""
    async with service() as one:
        one.hold()
        name = (await one.create(job_id="mine")).name
        await one.until_state(name, RUNNING)
        delete = train_pb2.DeleteTrainJobRequest(name=name)
        assert reason_name(await refused(one.stub.DeleteTrainJob(delete))) == "TRAIN_JOB_WRONG_STATE"
        one.release()
        await one.watched(name)
        assert (one.runs / "mine" / "run" / "model.onnx").exists()
        await one.stub.DeleteTrainJob(delete)
        assert not (one.runs / "mine").exists()
        gone = [one.get(name), one.watched(name), artifacts(one, name), read(one, name, "model.onnx")]
        for call in (*gone, one.stub.DeleteTrainJob(delete)):
            assert reason_name(await refused(call)) == "TRAIN_JOB_NOT_FOUND"
        assert (await one.create(job_id="mine")).last_sequence == 0


async def test_a_watch_goes_on_where_it_was(service):
    """From any event on, during the job and after it: no gap, nothing twice; beyond the last one is refused."""
    async with service() as one:
        name = (await one.create(seed=17)).name
        whole = await one.watched(name)
        assert len(whole) > 500 > 2 * watch.PAGE
        last = whole[-1].sequence
        for after in (1, 63, 64, 65, 300, last - 1, last):
            first, *others = await one.watched(name, after)
            assert (first.sequence, first.train_job.state) == (after, SUCCEEDED)
            assert others == whole[after + 1 :]
        for after in (-1, last + 1, 2**62):
            assert set((await refused(one.watched(name, after))).violations) == {"after_sequence"}


@pytest.mark.parametrize("after_sequence", [0, 1])
async def test_a_watch_is_of_one_job(service, after_sequence):
    """Where the job is deleted and another is made of its id, the watch ends, and tells nothing of the other."""
    async with service() as one:
        name = (await one.create(job_id="mine")).name
        await one.watched(name)
        parts = {"store": one.server.store, "changes": Changes(), "gate": Gate()}
        events = watch.watch("mine", after_sequence, **parts)
        assert (await anext(events)).train_job.state == SUCCEEDED
        await one.stub.DeleteTrainJob(train_pb2.DeleteTrainJobRequest(name=name))
        await one.create(job_id="mine")
        await one.watched(name)
        with pytest.raises(TrainJobNotFound):
            await anext(events)


async def test_a_watcher_of_a_pending_job_sees_it_begin(service):
    """Events come as they happen, and a watcher that leaves is forgotten."""
    async with service() as one:
        one.hold()
        first, second = await one.create(), await one.create()
        call = one.stub.WatchTrainJob(train_pb2.WatchTrainJobRequest(name=second.name))
        assert (await call.read()).train_job.state == PENDING
        gauge = one.server.metrics.registry
        assert gauge.get_sample_value("trapline_train_watchers") == 1
        one.release()
        assert (await call.read()).train_job.state == RUNNING
        call.cancel()
        await one.watched(second.name)
        while gauge.get_sample_value("trapline_train_watchers"):  # noqa: ASYNC110  # its end has no event
            await asyncio.sleep(0.005)
        assert (await one.get(first.name)).state == SUCCEEDED


async def test_a_slow_watcher_slows_nobody(service):
    """Who reads nothing holds up neither the job nor another watcher, and gets everything later."""
    async with service() as one:
        one.hold()
        name = (await one.create(seed=17)).name
        slow = one.stub.WatchTrainJob(train_pb2.WatchTrainJobRequest(name=name))
        one.release()
        whole = await one.watched(name)
        assert whole[-1].train_job.state == SUCCEEDED
        assert [event.sequence async for event in slow][1:] == [event.sequence for event in whole[1:]]
