"""Trains classifiers from Python, as jobs of a running training service.

from clients.train_jobs import TrainJobs

with TrainJobs("127.0.0.1:50052") as jobs:
    job = jobs.create("flowers", model_id="flowers", epochs=5)
    for event in jobs.watch(job):
        if event.sentence:
            print(event.sentence)
    job = jobs.wait(job)
    print(job.result or job.error.message)
"""

import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from trapline.errors import RequestInvalid, from_rpc_error
from trapline.train_config import to_message
from trapline.train_errors import TrainJobNotFound
from trapline.v1.train_pb2 import (
    CancelTrainJobRequest,
    CreateTrainJobRequest,
    DeleteTrainJobRequest,
    GetTrainJobRequest,
    ListTrainJobArtifactsRequest,
    ListTrainJobsRequest,
    ReadTrainJobArtifactRequest,
    TrainJob,
    TrainJobArtifact,
    WatchTrainJobRequest,
    WatchTrainJobResponse,
)

from .connection import START_SECONDS, Connection, call_metadata
from .security import Security
from .train_choices import checked
from .train_files import Show, chosen, fetch, places
from .train_names import State, has_ended, name_of, state_name
from .train_watch import watched

#: For one answer of the service, in seconds.
DEFAULT_TIMEOUT_SECONDS = 60.0
#: How long a service that was reached and is lost is waited for, in seconds: a restart, a night's update.
DEFAULT_LOST_SECONDS = 600.0


class TrainJobs:
    """The jobs of one training service; a context manager. Threads may share it.

    Jobs are named by their id, by `trainJobs/{id}`, or by a `TrainJob`. Every call but those of `watch` and `fetch` has
    a deadline, and is tried again until `timeout_seconds` are over where that may help; a service that was never
    reached is given up within 5 s.

    Args:
        address: `host:port`, or a gRPC target such as `dns:///trapline.example:50052`.
        timeout_seconds: Longest wait for one answer, in seconds, more than 0.
        lost_seconds: How long `watch`, `wait` and `fetch` go on without any contact to a service that they had
            reached, in seconds, more than 0.
        security: TLS and the token; plain text where absent, with the token of TRAPLINE_TOKEN where there is one.

    Raises:
        RequestInvalid: A time is out of range.
        UsageError: A file of `security` cannot be used, or a token would leave this machine in plain text.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        lost_seconds: float = DEFAULT_LOST_SECONDS,
        security: Security | None = None,
    ) -> None:
        for name, seconds in (("timeout_seconds", timeout_seconds), ("lost_seconds", lost_seconds)):
            if not 0 < seconds < math.inf:
                raise RequestInvalid(f"{name} must be more than 0 and finite, not {seconds}")
        self._connection = Connection(address, security=security, starter="trainer serve")
        self._stub = self._connection.train_stub
        self._timeout_seconds, self._lost_seconds = timeout_seconds, lost_seconds
        self._reached = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call and the connection; jobs go on."""
        self._connection.close()

    def create(
        self,
        dataset: str,
        *,
        model_id: str = "",
        recipe: str = "",
        job_id: str = "",
        validate_only: bool = False,
        **options: object,
    ) -> TrainJob:
        """A new job, queued. However often it has to be asked for, there is one.

        Args:
            dataset: Name of a folder below the service's data root.
            model_id: Id to publish the model under; nothing is published without it.
            recipe: A recipe of the trainer, e.g. `flowers`: what it says holds where no option does.
            job_id: The job's id, lower-case letters, digits and `-`; the service picks one where it is empty.
            validate_only: Check everything and queue nothing.
            options: Options of a run as `trainer run` has them, e.g. `epochs=5`, `learning_rate="auto"`.

        Raises:
            RequestInvalid: An option, told in `violations`; most are found before anything is sent.
            Refusal: The service refuses, or is not reached; the class tells.
        """
        given = checked({**options, "model_id": model_id} if model_id else options, recipe=recipe)
        request = CreateTrainJobRequest(
            train_job=TrainJob(config=to_message(dataset, given, recipe=recipe)),
            train_job_id=job_id,
            request_id=str(uuid.uuid4()),
            validate_only=validate_only,
        )
        job: TrainJob = self._answer(self._stub.CreateTrainJob, request)
        return job

    def get(self, job: str | TrainJob) -> TrainJob:
        """The job as it stands."""
        found: TrainJob = self._answer(self._stub.GetTrainJob, GetTrainJobRequest(name=name_of(job)))
        return found

    def list(self, *, states: Iterable[State] = (), page_size: int = 0) -> Iterator[TrainJob]:
        """Every job, newest first, asked for page by page.

        Args:
            states: Only jobs in one of these; all where it is empty.
            page_size: Jobs in one answer, at most 200; 0 leaves it to the service.
        """
        request = ListTrainJobsRequest(page_size=page_size, states=[state_name(state) for state in states])
        while True:
            page = self._answer(self._stub.ListTrainJobs, request)
            yield from page.train_jobs
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(self, job: str | TrainJob, *, after_sequence: int = 0) -> Iterator[WatchTrainJobResponse]:
        """The job as it stands, then each of its events, once and in order, until it has ended.

        A service that restarts or is lost for a while is found again, and goes on after the last event. Leaving the
        iterator does not touch the job.

        Args:
            job: The job.
            after_sequence: `sequence` of the last event that the caller has; 0 for all.

        Raises:
            Refusal: There is no such job, or no contact for `lost_seconds`.
        """
        request = WatchTrainJobRequest(name=name_of(job), after_sequence=after_sequence)
        return watched(self._connection, request, lost_seconds=self._lost_seconds, reached=self._reached)

    def wait(self, job: str | TrainJob) -> TrainJob:
        """The job once it has ended, however it ended: `state` tells.

        Raises:
            Refusal: There is no such job, or no contact for `lost_seconds`.
        """
        last = self.get(job)
        if has_ended(last):
            return last
        for response in self.watch(last, after_sequence=last.last_sequence):
            if response.WhichOneof("event") == "train_job":
                last = response.train_job
        return last

    def cancel(self, job: str | TrainJob) -> TrainJob:
        """The job, asked to stop; a running one ends within seconds.

        Raises:
            TrainJobWrongState: It has ended in another way.
        """
        asked: TrainJob = self._answer(self._stub.CancelTrainJob, CancelTrainJobRequest(name=name_of(job)))
        return asked

    def delete(self, job: str | TrainJob) -> None:
        """Deletes a job that has ended, with its events and files; what it published stays.

        Raises:
            TrainJobWrongState: It has not ended yet.
        """
        asked_before = False

        def attempt(seconds_left: float) -> None:
            nonlocal asked_before
            request = DeleteTrainJobRequest(name=name_of(job))
            again, asked_before = asked_before, True
            try:
                self._stub.DeleteTrainJob(request, timeout=seconds_left, metadata=call_metadata())
            except grpc.RpcError as error:
                # The answer to the first request was lost, not the request.
                if not (again and isinstance(from_rpc_error(error), TrainJobNotFound)):
                    raise

        self._persist(attempt)

    def artifacts(self, job: str | TrainJob) -> Sequence[TrainJobArtifact]:
        """The files that the job has made so far, by path."""
        request = ListTrainJobArtifactsRequest(parent=name_of(job))
        files: Sequence[TrainJobArtifact] = self._answer(self._stub.ListTrainJobArtifacts, request).artifacts
        return files

    def fetch(
        self, job: str | TrainJob, out: Path, paths: Iterable[str] | None = None, *, show: Show | None = None
    ) -> Sequence[Path]:
        """Where the job's files are now, each whole and checked by its digest.

        A file that is there already is replaced. Before the first is written, the paths of all are checked: none
        leads out of `out`, by a link neither.

        Args:
            job: The job.
            out: The folder for them; made where it is not there.
            paths: Paths that `artifacts` lists, or folders of them; all where absent.
            show: Told of each chunk: its file, and how many bytes of it are here.

        Raises:
            FileNotFetched: A file arrives damaged, cannot be written, or leads elsewhere.
            Refusal: There is no such job or file, or no contact for `lost_seconds`.
        """
        artifacts = self.artifacts(job)
        wanted = artifacts if paths is None else chosen(artifacts, paths)
        found = places(wanted, out)
        for path, place in found.items():
            request = ReadTrainJobArtifactRequest(parent=name_of(job), path=path)
            fetch(self._connection, request, place, lost_seconds=self._lost_seconds, show=show or _nothing_shown)
        return tuple(found.values())

    def _answer(self, method: Callable[..., Any], request: Any) -> Any:  # noqa: ANN401  # of whichever method
        """The answer to one request, which may be sent more than once."""
        call_id = call_metadata()
        return self._persist(lambda seconds_left: method(request, timeout=seconds_left, metadata=call_id))

    def _persist(self, attempt: Callable[[float], Any]) -> Any:  # noqa: ANN401  # the same
        # Who answered once is there: what is asked next may wait through a restart.
        patience_seconds = self._timeout_seconds if self._reached else START_SECONDS
        answer = self._connection.persist(
            attempt, timeout_seconds=self._timeout_seconds, unreachable_seconds=patience_seconds
        )
        self._reached = True
        return answer


def _nothing_shown(_artifact: TrainJobArtifact, _byte_count: int) -> None:
    pass
