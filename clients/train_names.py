"""What train jobs and their states are called."""

from typing import Literal

from trapline.v1.train_pb2 import TrainJob

#: A job's state in a word.
State = Literal["pending", "running", "succeeded", "failed", "cancelled"]

_COLLECTION = "trainJobs/"
_STATE = "STATE_"
_ENDED = (TrainJob.STATE_SUCCEEDED, TrainJob.STATE_FAILED, TrainJob.STATE_CANCELLED)


def name_of(job: str | TrainJob) -> str:
    """The resource name `trainJobs/{id}` of a job given by its id, its name, or itself."""
    name = job if isinstance(job, str) else job.name
    return name if name.startswith(_COLLECTION) else f"{_COLLECTION}{name}"


def id_of(job: str | TrainJob) -> str:
    """The job's id alone."""
    return name_of(job).removeprefix(_COLLECTION)


def state_of(job: TrainJob) -> str:
    """Its state in a word; a number where only newer clients know it."""
    known = TrainJob.State.values()
    return TrainJob.State.Name(job.state).removeprefix(_STATE).lower() if job.state in known else str(job.state)


def state_name(state: State) -> str:
    """The state's name in the message."""
    return f"{_STATE}{state.upper()}"


def has_ended(job: TrainJob) -> bool:
    """Whether its state is one that stays."""
    return job.state in _ENDED
