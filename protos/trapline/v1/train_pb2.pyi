from google.protobuf import duration_pb2 as _duration_pb2
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
    __slots__ = ("name", "config", "state", "progress", "create_time", "start_time", "end_time", "error", "cancel_time", "evaluation", "publication", "result", "attempt_count", "queue_position", "last_sequence")
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
    CANCEL_TIME_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    PUBLICATION_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    config: TrainConfig
    state: TrainJob.State
    progress: TrainProgress
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    error: _status_pb2.Status
    cancel_time: _timestamp_pb2.Timestamp
    evaluation: _metadata_pb2.Evaluation
    publication: Publication
    result: str
    attempt_count: int
    queue_position: int
    last_sequence: int
    def __init__(self, name: _Optional[str] = ..., config: _Optional[_Union[TrainConfig, _Mapping]] = ..., state: _Optional[_Union[TrainJob.State, str]] = ..., progress: _Optional[_Union[TrainProgress, _Mapping]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., cancel_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., evaluation: _Optional[_Union[_metadata_pb2.Evaluation, _Mapping]] = ..., publication: _Optional[_Union[Publication, _Mapping]] = ..., result: _Optional[str] = ..., attempt_count: _Optional[int] = ..., queue_position: _Optional[int] = ..., last_sequence: _Optional[int] = ...) -> None: ...

class TrainConfig(_message.Message):
    __slots__ = ("dataset", "model_id", "recipe", "backbone", "weights", "image_px", "fit", "batch_size", "seed", "val_share", "test_share", "groups", "group_by", "balance", "optimizer", "weight_decay", "earliest_rate", "label_smoothing", "augment", "rotation_degrees", "mixup", "cutmix", "views", "epochs", "learning_rate", "schedule", "ema", "patience", "target_precision", "refit", "images", "promote")
    class Fit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FIT_UNSPECIFIED: _ClassVar[TrainConfig.Fit]
        FIT_STRETCH: _ClassVar[TrainConfig.Fit]
        FIT_LETTERBOX: _ClassVar[TrainConfig.Fit]
        FIT_CENTER_CROP: _ClassVar[TrainConfig.Fit]
        FIT_AUTO: _ClassVar[TrainConfig.Fit]
    FIT_UNSPECIFIED: TrainConfig.Fit
    FIT_STRETCH: TrainConfig.Fit
    FIT_LETTERBOX: TrainConfig.Fit
    FIT_CENTER_CROP: TrainConfig.Fit
    FIT_AUTO: TrainConfig.Fit
    class GroupBy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        GROUP_BY_UNSPECIFIED: _ClassVar[TrainConfig.GroupBy]
        GROUP_BY_AUTO: _ClassVar[TrainConfig.GroupBy]
        GROUP_BY_NONE: _ClassVar[TrainConfig.GroupBy]
        GROUP_BY_FOLDER: _ClassVar[TrainConfig.GroupBy]
        GROUP_BY_EXIF: _ClassVar[TrainConfig.GroupBy]
        GROUP_BY_NAME: _ClassVar[TrainConfig.GroupBy]
    GROUP_BY_UNSPECIFIED: TrainConfig.GroupBy
    GROUP_BY_AUTO: TrainConfig.GroupBy
    GROUP_BY_NONE: TrainConfig.GroupBy
    GROUP_BY_FOLDER: TrainConfig.GroupBy
    GROUP_BY_EXIF: TrainConfig.GroupBy
    GROUP_BY_NAME: TrainConfig.GroupBy
    class Balance(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BALANCE_UNSPECIFIED: _ClassVar[TrainConfig.Balance]
        BALANCE_NONE: _ClassVar[TrainConfig.Balance]
        BALANCE_SAMPLER: _ClassVar[TrainConfig.Balance]
        BALANCE_LOSS: _ClassVar[TrainConfig.Balance]
        BALANCE_AUTO: _ClassVar[TrainConfig.Balance]
    BALANCE_UNSPECIFIED: TrainConfig.Balance
    BALANCE_NONE: TrainConfig.Balance
    BALANCE_SAMPLER: TrainConfig.Balance
    BALANCE_LOSS: TrainConfig.Balance
    BALANCE_AUTO: TrainConfig.Balance
    class Optimizer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPTIMIZER_UNSPECIFIED: _ClassVar[TrainConfig.Optimizer]
        OPTIMIZER_ADAMW: _ClassVar[TrainConfig.Optimizer]
        OPTIMIZER_ADAM: _ClassVar[TrainConfig.Optimizer]
    OPTIMIZER_UNSPECIFIED: TrainConfig.Optimizer
    OPTIMIZER_ADAMW: TrainConfig.Optimizer
    OPTIMIZER_ADAM: TrainConfig.Optimizer
    class Augment(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        AUGMENT_UNSPECIFIED: _ClassVar[TrainConfig.Augment]
        AUGMENT_NONE: _ClassVar[TrainConfig.Augment]
        AUGMENT_FLIP: _ClassVar[TrainConfig.Augment]
        AUGMENT_MILD: _ClassVar[TrainConfig.Augment]
        AUGMENT_CAMERA_TRAP: _ClassVar[TrainConfig.Augment]
    AUGMENT_UNSPECIFIED: TrainConfig.Augment
    AUGMENT_NONE: TrainConfig.Augment
    AUGMENT_FLIP: TrainConfig.Augment
    AUGMENT_MILD: TrainConfig.Augment
    AUGMENT_CAMERA_TRAP: TrainConfig.Augment
    class Schedule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SCHEDULE_UNSPECIFIED: _ClassVar[TrainConfig.Schedule]
        SCHEDULE_ONE_CYCLE: _ClassVar[TrainConfig.Schedule]
        SCHEDULE_CONSTANT: _ClassVar[TrainConfig.Schedule]
    SCHEDULE_UNSPECIFIED: TrainConfig.Schedule
    SCHEDULE_ONE_CYCLE: TrainConfig.Schedule
    SCHEDULE_CONSTANT: TrainConfig.Schedule
    class Refit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REFIT_UNSPECIFIED: _ClassVar[TrainConfig.Refit]
        REFIT_NONE: _ClassVar[TrainConfig.Refit]
        REFIT_ALL: _ClassVar[TrainConfig.Refit]
    REFIT_UNSPECIFIED: TrainConfig.Refit
    REFIT_NONE: TrainConfig.Refit
    REFIT_ALL: TrainConfig.Refit
    class Promote(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PROMOTE_UNSPECIFIED: _ClassVar[TrainConfig.Promote]
        PROMOTE_IF_BETTER: _ClassVar[TrainConfig.Promote]
        PROMOTE_ALWAYS: _ClassVar[TrainConfig.Promote]
        PROMOTE_NEVER: _ClassVar[TrainConfig.Promote]
    PROMOTE_UNSPECIFIED: TrainConfig.Promote
    PROMOTE_IF_BETTER: TrainConfig.Promote
    PROMOTE_ALWAYS: TrainConfig.Promote
    PROMOTE_NEVER: TrainConfig.Promote
    DATASET_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_PX_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    VAL_SHARE_FIELD_NUMBER: _ClassVar[int]
    TEST_SHARE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    EARLIEST_RATE_FIELD_NUMBER: _ClassVar[int]
    LABEL_SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    AUGMENT_FIELD_NUMBER: _ClassVar[int]
    ROTATION_DEGREES_FIELD_NUMBER: _ClassVar[int]
    MIXUP_FIELD_NUMBER: _ClassVar[int]
    CUTMIX_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    EMA_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_PRECISION_FIELD_NUMBER: _ClassVar[int]
    REFIT_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    model_id: str
    recipe: str
    backbone: str
    weights: str
    image_px: int
    fit: TrainConfig.Fit
    batch_size: int
    seed: int
    val_share: float
    test_share: float
    groups: str
    group_by: TrainConfig.GroupBy
    balance: TrainConfig.Balance
    optimizer: TrainConfig.Optimizer
    weight_decay: float
    earliest_rate: float
    label_smoothing: float
    augment: TrainConfig.Augment
    rotation_degrees: float
    mixup: float
    cutmix: float
    views: int
    epochs: int
    learning_rate: str
    schedule: TrainConfig.Schedule
    ema: bool
    patience: int
    target_precision: float
    refit: TrainConfig.Refit
    images: bool
    promote: TrainConfig.Promote
    def __init__(self, dataset: _Optional[str] = ..., model_id: _Optional[str] = ..., recipe: _Optional[str] = ..., backbone: _Optional[str] = ..., weights: _Optional[str] = ..., image_px: _Optional[int] = ..., fit: _Optional[_Union[TrainConfig.Fit, str]] = ..., batch_size: _Optional[int] = ..., seed: _Optional[int] = ..., val_share: _Optional[float] = ..., test_share: _Optional[float] = ..., groups: _Optional[str] = ..., group_by: _Optional[_Union[TrainConfig.GroupBy, str]] = ..., balance: _Optional[_Union[TrainConfig.Balance, str]] = ..., optimizer: _Optional[_Union[TrainConfig.Optimizer, str]] = ..., weight_decay: _Optional[float] = ..., earliest_rate: _Optional[float] = ..., label_smoothing: _Optional[float] = ..., augment: _Optional[_Union[TrainConfig.Augment, str]] = ..., rotation_degrees: _Optional[float] = ..., mixup: _Optional[float] = ..., cutmix: _Optional[float] = ..., views: _Optional[int] = ..., epochs: _Optional[int] = ..., learning_rate: _Optional[str] = ..., schedule: _Optional[_Union[TrainConfig.Schedule, str]] = ..., ema: bool = ..., patience: _Optional[int] = ..., target_precision: _Optional[float] = ..., refit: _Optional[_Union[TrainConfig.Refit, str]] = ..., images: bool = ..., promote: _Optional[_Union[TrainConfig.Promote, str]] = ...) -> None: ...

class TrainProgress(_message.Message):
    __slots__ = ("phase", "done", "total", "remaining", "per_second", "figures", "epoch", "epoch_count", "train_loss", "validation")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    phase: str
    done: int
    total: int
    remaining: _duration_pb2.Duration
    per_second: float
    figures: str
    epoch: int
    epoch_count: int
    train_loss: float
    validation: _metadata_pb2.Evaluation
    def __init__(self, phase: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., remaining: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., per_second: _Optional[float] = ..., figures: _Optional[str] = ..., epoch: _Optional[int] = ..., epoch_count: _Optional[int] = ..., train_loss: _Optional[float] = ..., validation: _Optional[_Union[_metadata_pb2.Evaluation, _Mapping]] = ...) -> None: ...

class Publication(_message.Message):
    __slots__ = ("model_id", "version", "reason", "comparison")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    version: str
    reason: str
    comparison: Comparison
    def __init__(self, model_id: _Optional[str] = ..., version: _Optional[str] = ..., reason: _Optional[str] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("version", "image_count", "accuracy", "other_accuracy", "only_new_right_count", "only_other_right_count", "p_value", "same_split")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    OTHER_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    ONLY_NEW_RIGHT_COUNT_FIELD_NUMBER: _ClassVar[int]
    ONLY_OTHER_RIGHT_COUNT_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    SAME_SPLIT_FIELD_NUMBER: _ClassVar[int]
    version: str
    image_count: int
    accuracy: float
    other_accuracy: float
    only_new_right_count: int
    only_other_right_count: int
    p_value: float
    same_split: bool
    def __init__(self, version: _Optional[str] = ..., image_count: _Optional[int] = ..., accuracy: _Optional[float] = ..., other_accuracy: _Optional[float] = ..., only_new_right_count: _Optional[int] = ..., only_other_right_count: _Optional[int] = ..., p_value: _Optional[float] = ..., same_split: bool = ...) -> None: ...

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
    __slots__ = ("page_size", "page_token", "states")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[TrainJob.State]
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[TrainJob.State, str]]] = ...) -> None: ...

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
    __slots__ = ("sequence", "event_time", "train_job", "progress", "sentence")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    TRAIN_JOB_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    event_time: _timestamp_pb2.Timestamp
    train_job: TrainJob
    progress: TrainProgress
    sentence: str
    def __init__(self, sequence: _Optional[int] = ..., event_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., train_job: _Optional[_Union[TrainJob, _Mapping]] = ..., progress: _Optional[_Union[TrainProgress, _Mapping]] = ..., sentence: _Optional[str] = ...) -> None: ...

class TrainJobArtifact(_message.Message):
    __slots__ = ("path", "byte_count", "digest")
    PATH_FIELD_NUMBER: _ClassVar[int]
    BYTE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    path: str
    byte_count: int
    digest: str
    def __init__(self, path: _Optional[str] = ..., byte_count: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class ListTrainJobArtifactsRequest(_message.Message):
    __slots__ = ("parent",)
    PARENT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    def __init__(self, parent: _Optional[str] = ...) -> None: ...

class ListTrainJobArtifactsResponse(_message.Message):
    __slots__ = ("artifacts",)
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    artifacts: _containers.RepeatedCompositeFieldContainer[TrainJobArtifact]
    def __init__(self, artifacts: _Optional[_Iterable[_Union[TrainJobArtifact, _Mapping]]] = ...) -> None: ...

class ReadTrainJobArtifactRequest(_message.Message):
    __slots__ = ("parent", "path", "offset")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    parent: str
    path: str
    offset: int
    def __init__(self, parent: _Optional[str] = ..., path: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class ReadTrainJobArtifactResponse(_message.Message):
    __slots__ = ("artifact", "chunk")
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    artifact: TrainJobArtifact
    chunk: bytes
    def __init__(self, artifact: _Optional[_Union[TrainJobArtifact, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...
