"""Errors of the training service, which cross the wire as those of `trapline.errors` do.

    Refusal
    ├── DatasetInvalid          INVALID_ARGUMENT      DATASET_INVALID
    ├── TrainJobNotFound        NOT_FOUND             TRAIN_JOB_NOT_FOUND
    ├── TrainJobWrongState      FAILED_PRECONDITION   TRAIN_JOB_WRONG_STATE
    ├── TrainJobExists          ALREADY_EXISTS        TRAIN_JOB_EXISTS
    ├── TrainCapacity           RESOURCE_EXHAUSTED    TRAIN_CAPACITY
    ├── ArtifactNotFound        NOT_FOUND             ARTIFACT_NOT_FOUND
    └── TrainRunFailed          INTERNAL              TRAIN_RUN_FAILED

Who talks to a training service imports this module, so that `trapline.errors` makes these classes of what it sends.
"""

import grpc

from trapline.errors import Refusal
from trapline.v1.error_reason_pb2 import ErrorReason


class DatasetInvalid(Refusal):
    """The dataset's folder cannot be trained on; `violations` names the field and what is wrong."""

    code, reason = grpc.StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_DATASET_INVALID
    cause = "the dataset's folder is missing, too large, or no folder of classes; comes with `BadRequest`"
    remedy = "name another folder below the data root, or mend this one"


class TrainJobNotFound(Refusal):
    """No train job of that name."""

    code, reason = grpc.StatusCode.NOT_FOUND, ErrorReason.ERROR_REASON_TRAIN_JOB_NOT_FOUND
    cause = "no job of that name, or no more"
    remedy = "ask for one that `trapline train list` lists"
    variables = ("trainJob",)


class TrainJobWrongState(Refusal):
    """The job has ended already, or has not, for a method that needs the other."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_TRAIN_JOB_WRONG_STATE
    cause = "the job has ended already, or has not yet"
    remedy = "see how it stands with `trapline train show`"
    variables = ("trainJob", "state")


class TrainJobExists(Refusal):
    """A job of that id, or of that request id with another config, is there already."""

    code, reason = grpc.StatusCode.ALREADY_EXISTS, ErrorReason.ERROR_REASON_TRAIN_JOB_EXISTS
    cause = "a job of that id, or of that request id with another config, is there"
    remedy = "choose another id"
    variables = ("trainJob",)


class TrainCapacity(Refusal):
    """The service takes no more jobs now; `retry_seconds` says when to come back."""

    code, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, ErrorReason.ERROR_REASON_TRAIN_CAPACITY
    retry = True
    cause = "too many jobs are pending, or the service's disk is nearly full; comes with `RetryInfo`"
    remedy = "come back later; delete jobs that are not needed any more"
    variables = ("limit",)


class ArtifactNotFound(Refusal):
    """The job has no such file."""

    code, reason = grpc.StatusCode.NOT_FOUND, ErrorReason.ERROR_REASON_ARTIFACT_NOT_FOUND
    cause = "the job has no such file, or not yet"
    remedy = "ask for one that ListTrainJobArtifacts lists"
    variables = ("trainJob", "path")


class TrainRunFailed(Refusal):
    """The run ended with an error; only ever in `TrainJob.error`."""

    code, reason = grpc.StatusCode.INTERNAL, ErrorReason.ERROR_REASON_TRAIN_RUN_FAILED
    cause = "the run ended with an error, which the message tells; only in `TrainJob.error`"
    remedy = "do what the sentence says, and create the job again"
    variables = ("trainJob",)
