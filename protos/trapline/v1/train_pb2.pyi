from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from trapline.v1 import metadata_pb2 as _metadata_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainJob(_message.Message):
    __slots__ = ("name", "config", "state", "progress", "create_time", "start_time", "end_time", "error", "model_path", "evaluation")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[TrainJob.State]
        STATE_PENDING: _ClassVar[TrainJob.State]
        STATE_RUNNING: _ClassVar[TrainJob.State]
        STATE_SUCCEEDED: _ClassVar[TrainJob.State]
        STATE_FAILED: _ClassVar[TrainJob.State]
        STATE_CANCELLED: _ClassVar[TrainJob.State]
    STATE_UNSPECIFIED: TrainJob.State
    STATE_PENDING: TrainJob.State
    STATE_RUNNING: TrainJob.State
    STATE_SUCCEEDED: TrainJob.State
    STATE_FAILED: TrainJob.State
    STATE_CANCELLED: TrainJob.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MODEL_PATH_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    config: TrainConfig
    state: TrainJob.State
    progress: TrainProgress
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    error: _status_pb2.Status
    model_path: str
    evaluation: _metadata_pb2.Evaluation
    def __init__(self, name: _Optional[str] = ..., config: _Optional[_Union[TrainConfig, _Mapping]] = ..., state: _Optional[_Union[TrainJob.State, str]] = ..., progress: _Optional[_Union[TrainProgress, _Mapping]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., model_path: _Optional[str] = ..., evaluation: _Optional[_Union[_metadata_pb2.Evaluation, _Mapping]] = ...) -> None: ...

class TrainConfig(_message.Message):
    __slots__ = ("dataset_path", "model_id", "backbone", "epoch_count", "batch_image_count", "learning_rate", "validation_share", "image_px", "seed")
    DATASET_PATH_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    BATCH_IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_SHARE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_PX_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    dataset_path: str
    model_id: str
    backbone: str
    epoch_count: int
    batch_image_count: int
    learning_rate: float
    validation_share: float
    image_px: int
    seed: int
    def __init__(self, dataset_path: _Optional[str] = ..., model_id: _Optional[str] = ..., backbone: _Optional[str] = ..., epoch_count: _Optional[int] = ..., batch_image_count: _Optional[int] = ..., learning_rate: _Optional[float] = ..., validation_share: _Optional[float] = ..., image_px: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class TrainProgress(_message.Message):
    __slots__ = ("epoch", "epoch_count", "step", "step_count", "train_loss", "images_per_second", "last_evaluation")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LAST_EVALUATION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    epoch_count: int
    step: int
    step_count: int
    train_loss: float
    images_per_second: float
    last_evaluation: _metadata_pb2.Evaluation
    def __init__(self, epoch: _Optional[int] = ..., epoch_count: _Optional[int] = ..., step: _Optional[int] = ..., step_count: _Optional[int] = ..., train_loss: _Optional[float] = ..., images_per_second: _Optional[float] = ..., last_evaluation: _Optional[_Union[_metadata_pb2.Evaluation, _Mapping]] = ...) -> None: ...

class CreateTrainJobRequest(_message.Message):
    __slots__ = ("train_job", "train_job_id", "request_id", "validate_only")
    TRAIN_JOB_FIELD_NUMBER: _ClassVar[int]
    TRAIN_JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    train_job: TrainJob
    train_job_id: str
    request_id: str
    validate_only: bool
    def __init__(self, train_job: _Optional[_Union[TrainJob, _Mapping]] = ..., train_job_id: _Optional[str] = ..., request_id: _Optional[str] = ..., validate_only: bool = ...) -> None: ...

class GetTrainJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListTrainJobsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTrainJobsResponse(_message.Message):
    __slots__ = ("train_jobs", "next_page_token")
    TRAIN_JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    train_jobs: _containers.RepeatedCompositeFieldContainer[TrainJob]
    next_page_token: str
    def __init__(self, train_jobs: _Optional[_Iterable[_Union[TrainJob, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelTrainJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteTrainJobRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchTrainJobRequest(_message.Message):
    __slots__ = ("name", "after_sequence")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_sequence: int
    def __init__(self, name: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class WatchTrainJobResponse(_message.Message):
    __slots__ = ("sequence", "event_time", "train_job", "progress")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    TRAIN_JOB_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    event_time: _timestamp_pb2.Timestamp
    train_job: TrainJob
    progress: TrainProgress
    def __init__(self, sequence: _Optional[int] = ..., event_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., train_job: _Optional[_Union[TrainJob, _Mapping]] = ..., progress: _Optional[_Union[TrainProgress, _Mapping]] = ...) -> None: ...
