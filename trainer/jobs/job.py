"""A job as the store keeps it, and the message that it is sent as."""

from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from trapline.v1 import train_pb2
from trapline.v1.metadata_pb2 import Evaluation

State = train_pb2.TrainJob

#: States that a job never leaves.
ENDED = frozenset({State.STATE_SUCCEEDED, State.STATE_FAILED, State.STATE_CANCELLED})
#: One event of a job, as it is stored and sent.
Event = train_pb2.WatchTrainJobResponse


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job.

    Attributes:
        key: Its place among all jobs in the order in which they were created; never used again.
        id: The last part of its resource name.
        config: What was asked for.
        options: The checked `RunConfig` that the child runs, as JSON values.
        state: A value of `TrainJob.State`.
        create_time: When it was created, in seconds since 1970, as all times.
        start_time: When it first began to run.
        end_time: When it ended.
        cancel_time: When it was first asked to stop.
        error: Set where it failed.
        progress: Its last progress.
        evaluation: Set where it succeeded.
        publication: Set where it succeeded and has a model id.
        result: Set where it succeeded, else empty.
        attempt_count: How often its process was started.
        last_sequence: `sequence` of its last event; 0 where there is none.
        queue_position: Pending jobs before it; 0 where it is not pending.
        offset: Bytes of its child's events that are in the store.
        attempts_in_vain: Starts of its process since it last came further than ever before.
        run_seconds: How long its processes ran, up to `counted_time`.
        counted_time: Up to when `run_seconds` counts.
        device: What it was given to run on, by the name in `trainer.jobs.devices`; empty before it runs, and where
            the service has ended its process to go on later.
    """

    key: int
    id: str
    config: train_pb2.TrainConfig
    options: dict[str, Any]
    state: train_pb2.TrainJob.State
    create_time: float
    start_time: float | None = None
    end_time: float | None = None
    cancel_time: float | None = None
    error: status_pb2.Status | None = None
    progress: train_pb2.TrainProgress | None = None
    evaluation: Evaluation | None = None
    publication: train_pb2.Publication | None = None
    result: str = ""
    attempt_count: int = 0
    last_sequence: int = 0
    queue_position: int = 0
    offset: int = 0
    attempts_in_vain: int = 0
    run_seconds: float = 0.0
    counted_time: float = 0.0
    device: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in ENDED


def name(job_id: str) -> str:
    """The resource name of a job."""
    return f"trainJobs/{job_id}"


def timestamp(seconds: float) -> Timestamp:
    """A time in seconds since 1970 as a message, to the microsecond."""
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def message(job: Job) -> train_pb2.TrainJob:
    """The job as it is sent."""
    times = {
        name: timestamp(seconds)
        for name in ("create_time", "start_time", "end_time", "cancel_time")
        if (seconds := getattr(job, name)) is not None
    }
    return train_pb2.TrainJob(
        name=name(job.id),
        config=job.config,
        state=job.state,
        progress=job.progress,
        error=job.error,
        evaluation=job.evaluation,
        publication=job.publication,
        result=job.result,
        attempt_count=job.attempt_count,
        queue_position=job.queue_position,
        last_sequence=job.last_sequence,
        **times,
    )
