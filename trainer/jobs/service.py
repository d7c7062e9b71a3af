"""TrainService: the eight methods of the contract, over the store, the runner and the runs' files."""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, suppress
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.empty_pb2 import Empty

from trapline.service.errors import shown
from trapline.service.gate import Gate, shutting_down
from trapline.train_errors import ArtifactNotFound, TrainCapacity, TrainJobExists, TrainJobNotFound
from trapline.v1 import train_pb2, train_pb2_grpc

from . import requests
from .artifacts import Artifact, Artifacts
from .calls import note_job
from .changes import Changes
from .changing import RETRY_SECONDS, exists, queue_full
from .checks import CONFIG_FIELD, JobConfig, checked
from .config import ServeConfig
from .folders import run_folder
from .job import Job, message, name
from .metrics import TrainMetrics
from .names import NameRefused, check_name
from .runner import Runner
from .store import Store
from .watch import watch

Value = TypeVar("Value")
_Context = grpc.aio.ServicerContext[Any, Any]
# Most clients take messages of 4 MiB.
_PAGE_BYTES = 2 * 1024 * 1024


class TrainService(train_pb2_grpc.TrainServiceServicer):
    """Takes jobs, tells of them, and gives what they made.

    Args:
        config: The service's options.
        store: The jobs.
        changes: Wakes watchers.
        runner: Runs the jobs.
        gate: Tells that the service drains.
        metrics: Where to count.
        threads: For work that blocks on the disk.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        store: Store,
        changes: Changes,
        runner: Runner,
        gate: Gate,
        metrics: TrainMetrics,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._config, self._store, self._changes, self._runner = config, store, changes, runner
        self._gate, self._metrics, self._threads = gate, metrics, threads
        self._artifacts = Artifacts(config.runs_root)

    async def CreateTrainJob(  # noqa: N802  # the method's name in the contract
        self,
        request: train_pb2.CreateTrainJobRequest,
        context: _Context,  # noqa: ARG002  # gRPC passes it
    ) -> train_pb2.TrainJob:
        """Queues a job, or gives the one that the same request made before."""
        asked_id = requests.new_job_id(request.train_job_id)
        request_id = requests.request_id_of(request.request_id)
        if not request.train_job.HasField("config"):
            requests.invalid(CONFIG_FIELD, "is required: what to train")
        config = request.train_job.config
        if request_id and (earlier := await self._store.made_by(request_id, config)) is not None:
            return message(_same(earlier, asked_id))
        job_id = asked_id or f"job-{secrets.token_hex(6)}"
        note_job(job_id)
        options = await self._blocking(self._checked, config, job_id)
        await self._check_room()
        if request.validate_only:
            with suppress(TrainJobNotFound):
                await self._store.get(job_id)
                raise exists(job_id)
            pending = train_pb2.TrainJob.STATE_PENDING
            return train_pb2.TrainJob(name=asked_id and name(asked_id), config=config, state=pending)
        written = options.model_dump(mode="json")
        job = await self._store.create(job_id, config, written, request_id, self._config.max_pending)
        self._runner.wake()
        note_job(job.id)
        return message(_same(job, asked_id))

    async def GetTrainJob(  # noqa: N802  # the method's name in the contract
        self,
        request: train_pb2.GetTrainJobRequest,
        context: _Context,  # noqa: ARG002  # gRPC passes it
    ) -> train_pb2.TrainJob:
        """One job."""
        return message(await self._store.get(_named(request.name, "name")))

    async def ListTrainJobs(  # noqa: N802  # the method's name in the contract
        self,
        request: train_pb2.ListTrainJobsRequest,
        context: _Context,  # noqa: ARG002  # gRPC passes it
    ) -> train_pb2.ListTrainJobsResponse:
        """One page of jobs, newest first; shorter than asked for where it would be too large to send."""
        size = requests.page_size_of(request.page_size)
        states = requests.states_of(request.states)
        before = requests.key_of(request.page_token, states)
        jobs = await self._store.page(states, before, size + 1)
        response, byte_count = train_pb2.ListTrainJobsResponse(), 0
        for job in jobs[:size]:
            listed = message(job)
            byte_count += listed.ByteSize()
            if response.train_jobs and byte_count > _PAGE_BYTES:
                break
            response.train_jobs.append(listed)
        if len(response.train_jobs) < len(jobs):
            response.next_page_token = requests.page_token(jobs[len(response.train_jobs) - 1].key, states)
        return response

    async def CancelTrainJob(  # noqa: N802  # the method's name in the contract
        self,
        request: train_pb2.CancelTrainJobRequest,
        context: _Context,  # noqa: ARG002  # gRPC passes it
    ) -> train_pb2.TrainJob:
        """Asks the job to stop; gives it as it then is."""
        return message(await self._runner.cancel(_named(request.name, "name")))

    async def DeleteTrainJob(  # noqa: N802  # the method's name in the contract
        self,
        request: train_pb2.DeleteTrainJobRequest,
        context: _Context,  # noqa: ARG002  # gRPC passes it
    ) -> Empty:
        """Deletes a job that has ended, with its folder."""
        await self._runner.delete(_named(request.name, "name"))
        return Empty()

    async def WatchTrainJob(  # noqa: N802  # the method's name in the contract
        self,
        request: train_pb2.WatchTrainJobRequest,
        context: _Context,  # noqa: ARG002  # gRPC passes it
    ) -> AsyncIterator[train_pb2.WatchTrainJobResponse]:
        """The job and its events, until it ends."""
        job_id = _named(request.name, "name")
        events = watch(job_id, request.after_sequence, store=self._store, changes=self._changes, gate=self._gate)
        with self._metrics.watchers.track_inprogress():
            async with aclosing(events):
                async for event in events:
                    yield event

    async def ListTrainJobArtifacts(  # noqa: N802  # the method's name in the contract
        self,
        request: train_pb2.ListTrainJobArtifactsRequest,
        context: _Context,  # noqa: ARG002  # gRPC passes it
    ) -> train_pb2.ListTrainJobArtifactsResponse:
        """The files that the job has made so far."""
        job = await self._store.get(_named(request.parent, "parent"))
        artifacts = await self._blocking(self._artifacts.list, job.id)
        return train_pb2.ListTrainJobArtifactsResponse(artifacts=[_message(artifact) for artifact in artifacts])

    async def ReadTrainJobArtifact(  # noqa: N802  # the method's name in the contract
        self,
        request: train_pb2.ReadTrainJobArtifactRequest,
        context: _Context,  # noqa: ARG002  # gRPC passes it
    ) -> AsyncIterator[train_pb2.ReadTrainJobArtifactResponse]:
        """One file: what it is, then its bytes."""
        job_id, offset = _named(request.parent, "parent"), request.offset
        try:
            check_name(request.path)
        except NameRefused as error:
            requests.invalid("path", str(error))
        if offset < 0:
            requests.invalid("offset", f"must be 0 or more, not {offset}")
        await self._store.get(job_id)
        response = train_pb2.ReadTrainJobArtifactResponse
        with ExitStack() as stack:
            try:
                opened = await self._blocking(stack.enter_context, self._artifacts.open(job_id, request.path))
                if offset > opened.artifact.byte_count:
                    requests.invalid("offset", f"must be at most {opened.artifact.byte_count}, the file's size")
                yield response(artifact=_message(opened.artifact))
                while chunk := await self._blocking(opened.chunk, offset):
                    if self._gate.winding_down.is_set():
                        raise shutting_down()
                    yield response(chunk=chunk)
                    offset += len(chunk)
            except NameRefused as error:
                what = f"{name(job_id)}: the artifact {shown(request.path)} {error}"
                raise ArtifactNotFound(what, trainJob=name(job_id), path=request.path[:80]) from error

    def _checked(self, config: train_pb2.TrainConfig, job_id: str) -> JobConfig:
        return checked(config, self._config, out=run_folder(self._config.runs_root, job_id))

    async def _check_room(self) -> None:
        """Refuses a job that the service has no room for."""
        if await self._store.pending_count() >= self._config.max_pending:
            raise queue_full(self._config.max_pending)
        free_bytes = (await self._blocking(shutil.disk_usage, self._config.runs_root)).free
        if free_bytes < self._config.min_free_bytes:
            raise TrainCapacity(
                "the disk of the service's runs is nearly full; delete jobs that are not needed, or come back later",
                retry_seconds=RETRY_SECONDS,
                limit="min_free_gib",
            )

    async def _blocking(self, work: Callable[..., Value], *arguments: object) -> Value:
        """What `work` gives, on a thread. A caller that leaves is let go when the thread has ended, and not before.

        So nothing is closed that is still read.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise


def _named(resource: str, field: str) -> str:
    """The id of the job that a request names, which the call's log line then has."""
    job_id = requests.job_id_of(resource, field)
    note_job(job_id)
    return job_id


def _same(job: Job, asked_id: str) -> Job:
    """The job that a request made before, where the id asked for now is its."""
    if asked_id and job.id != asked_id:
        raise TrainJobExists(
            f"the request_id has made {name(job.id)}; choose a new one to make {name(asked_id)}", trainJob=name(job.id)
        )
    return job


def _message(artifact: Artifact) -> train_pb2.TrainJobArtifact:
    return train_pb2.TrainJobArtifact(path=artifact.path, byte_count=artifact.byte_count, digest=artifact.digest)
