"""A training service whose jobs, events, files and failures are scripted; it trains nothing."""

import hashlib
import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest
from google.protobuf import empty_pb2
from grpc_status import rpc_status

from trapline.errors import Refusal, to_status
from trapline.train_errors import ArtifactNotFound, TrainJobExists, TrainJobNotFound, TrainJobWrongState
from trapline.v1 import train_pb2 as messages
from trapline.v1 import train_pb2_grpc

State = messages.TrainJob.State
ENDED = (State.STATE_SUCCEEDED, State.STATE_FAILED, State.STATE_CANCELLED)


@dataclass
class Run:
    """One job of the service."""

    job: messages.TrainJob
    events: list[messages.WatchTrainJobResponse] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    listed: list[str] | None = None  # paths that are said to be there, whatever is
    digests: dict[str, str] = field(default_factory=dict)  # said instead of the true ones


class Service(train_pb2_grpc.TrainServiceServicer):
    """All methods; `refusals`, `lost` and `drops` are what goes wrong, in turn."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.created: dict[str, str] = {}  # jobs by the request id that they were created with
        self.requests: dict[str, list] = defaultdict(list)
        self.refusals: dict[str, list[Refusal]] = defaultdict(list)  # instead of an answer
        self.lost: Counter[str] = Counter()  # answers that never arrive, of work that was done
        self.drops: list[int] = []  # messages after which each stream breaks
        self.changed = threading.Condition()
        self.chunk_bytes = 4

    def add(self, job_id: str, state: State = State.STATE_PENDING, **fields: object) -> Run:
        """A job, with its first event."""
        job = messages.TrainJob(name=f"trainJobs/{job_id}", state=state, **fields)
        job.create_time.GetCurrentTime()
        self.runs[job.name] = Run(job)
        self.tell(job_id, train_job=job)
        return self.runs[job.name]

    def tell(self, job_id: str, **event: object) -> None:
        """One more event."""
        run = self.runs[f"trainJobs/{job_id}"]
        with self.changed:
            run.job.last_sequence = len(run.events) + 1
            run.events.append(messages.WatchTrainJobResponse(sequence=run.job.last_sequence, **event))
            self.changed.notify_all()

    def move(self, job_id: str, state: State, **fields: object) -> None:
        """The job in another state, which is an event."""
        job = self.runs[f"trainJobs/{job_id}"].job
        job.MergeFrom(messages.TrainJob(state=state, **fields))
        self.tell(job_id, train_job=job)

    def finished(self, job_id: str, sentences: int = 4) -> Run:
        """A job that succeeded, with all that happened to it."""
        run = self.add(job_id)
        run.job.config.dataset = "foxes"
        self.move(job_id, State.STATE_RUNNING)
        for number in range(sentences):
            self.tell(job_id, sentence=f"fact {number}")
            self.tell(job_id, progress=messages.TrainProgress(phase="scan", done=number + 1, total=sentences))
        run.job.evaluation.accuracy, run.job.evaluation.image_count = 0.931, 400
        self.move(job_id, State.STATE_SUCCEEDED, result="right on 93.1%")
        return run

    def wait_for(self, method: str) -> None:
        """Returns once the method was called."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.requests[method], timeout=20)

    def _begin(self, method: str, request, context) -> None:
        with self.changed:
            self.requests[method].append(type(request).FromString(request.SerializeToString()))
            self.changed.notify_all()
        if self.refusals[method]:
            self._refuse(context, self.refusals[method].pop(0))

    def _end(self, method: str, context) -> None:
        if self.lost[method]:
            self.lost[method] -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def _refuse(self, context, refusal: Refusal) -> None:
        context.abort_with_status(rpc_status.to_status(to_status(refusal)))

    def _run(self, name: str, context) -> Run:
        if name not in self.runs:
            self._refuse(context, TrainJobNotFound(f"there is no job {name}", trainJob=name))
        return self.runs[name]

    def _dropping(self, stream, context):
        """The same messages, until the stream is to break."""
        left = self.drops.pop(0) if self.drops else None
        for message in stream:
            if left == 0:
                break
            left = None if left is None else left - 1
            yield message
        if left is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def CreateTrainJob(self, request, context):  # noqa: N802  # gRPC's name
        """One job a request id."""
        self._begin("create", request, context)
        name = f"trainJobs/{request.train_job_id or f'picked-{len(self.created)}'}"
        if request.validate_only:
            return messages.TrainJob(config=request.train_job.config)
        if request.request_id in self.created:
            name = self.created[request.request_id]
        elif name in self.runs:
            self._refuse(context, TrainJobExists(f"{name} is there; choose another id", trainJob=name))
        else:
            run = self.add(name.removeprefix("trainJobs/"))
            run.job.config.CopyFrom(request.train_job.config)
            self.created[request.request_id] = name
        self._end("create", context)
        return self.runs[name].job

    def GetTrainJob(self, request, context):  # noqa: N802  # gRPC's name
        """The job."""
        self._begin("get", request, context)
        return self._run(request.name, context).job

    def ListTrainJobs(self, request, context):  # noqa: N802  # gRPC's name
        """Pages, of two jobs where nothing else is asked for."""
        self._begin("list", request, context)
        jobs = [run.job for run in reversed(self.runs.values())]
        jobs = [job for job in jobs if not request.states or job.state in request.states]
        first, size = int(request.page_token or 0), request.page_size or 2
        token = str(first + size) if first + size < len(jobs) else ""
        return messages.ListTrainJobsResponse(train_jobs=jobs[first : first + size], next_page_token=token)

    def CancelTrainJob(self, request, context):  # noqa: N802  # gRPC's name
        """A pending job ends, a running one is asked to."""
        self._begin("cancel", request, context)
        job, job_id = self._run(request.name, context).job, request.name.removeprefix("trainJobs/")
        if job.state in (State.STATE_SUCCEEDED, State.STATE_FAILED):
            self._refuse(context, TrainJobWrongState(f"{job_id} has ended", trainJob=job_id))
        job.cancel_time.GetCurrentTime()
        self.move(job_id, State.STATE_CANCELLED if job.state == State.STATE_PENDING else job.state)
        return job

    def DeleteTrainJob(self, request, context):  # noqa: N802  # gRPC's name
        """A job that has ended is gone."""
        self._begin("delete", request, context)
        if self._run(request.name, context).job.state not in ENDED:
            self._refuse(context, TrainJobWrongState(f"{request.name} has not ended; cancel it first"))
        del self.runs[request.name]
        self._end("delete", context)
        return empty_pb2.Empty()

    def WatchTrainJob(self, request, context):  # noqa: N802  # gRPC's name
        """The job, then its events to its end."""
        self._begin("watch", request, context)
        yield from self._dropping(self._watched(self._run(request.name, context), request, context), context)

    def _watched(self, run: Run, request, context):
        last = request.after_sequence
        yield messages.WatchTrainJobResponse(sequence=last, train_job=run.job)
        while context.is_active():
            with self.changed:
                events = run.events[last:]
                if not events and run.job.state not in ENDED:
                    self.changed.wait(0.1)
            yield from events
            last += len(events)
            if run.job.state in ENDED and last >= len(run.events):
                return

    def ListTrainJobArtifacts(self, request, context):  # noqa: N802  # gRPC's name
        """The files, or what is said to be there."""
        self._begin("artifacts", request, context)
        run = self._run(request.parent, context)
        paths = run.listed if run.listed is not None else sorted(run.files)
        return messages.ListTrainJobArtifactsResponse(artifacts=[self._described(run, path) for path in paths])

    def ReadTrainJobArtifact(self, request, context):  # noqa: N802  # gRPC's name
        """A file from the offset on."""
        self._begin("read", request, context)
        run = self._run(request.parent, context)
        if request.path not in run.files:
            self._refuse(context, ArtifactNotFound(f"there is no file {request.path}"))
        yield from self._dropping(self._pieces(run, request), context)

    def _pieces(self, run: Run, request):
        yield messages.ReadTrainJobArtifactResponse(artifact=self._described(run, request.path))
        content = run.files[request.path]
        for begin in range(request.offset, len(content), self.chunk_bytes):
            yield messages.ReadTrainJobArtifactResponse(chunk=content[begin : begin + self.chunk_bytes])

    def _described(self, run: Run, path: str) -> messages.TrainJobArtifact:
        content = run.files.get(path, b"")
        digest = run.digests.get(path, hashlib.sha256(content).hexdigest())
        return messages.TrainJobArtifact(path=path, byte_count=len(content), digest=digest)


def start(service: Service, address: str = "127.0.0.1:0") -> tuple[grpc.Server, str]:
    """A server of it, and its address."""
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    train_pb2_grpc.add_TrainServiceServicer_to_server(service, server)
    port = server.add_insecure_port(address)
    server.start()
    return server, f"127.0.0.1:{port}"


@pytest.fixture(name="service")
def _service() -> Service:
    return Service()


@pytest.fixture(name="address")
def _address(service):
    """Where the service is."""
    server, address = start(service)
    yield address
    server.stop(0).wait()


@pytest.fixture(name="serve")
def _serve():
    """Starts a service, where it was before or anywhere."""
    return start


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    """Waits between attempts begin at a millisecond."""
    monkeypatch.setattr("clients.connection._FIRST_BACKOFF_SECONDS", 0.001)
