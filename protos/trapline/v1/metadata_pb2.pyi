from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelMetadata(_message.Message):
    __slots__ = ("model_id", "labels", "preprocessing", "backbone", "evaluation", "export_time", "trainer_version", "data_digest", "split_digest", "split_rule", "temperature", "target_precision", "unknowns", "stage", "refit", "precision", "fp32_digest")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    EXPORT_TIME_FIELD_NUMBER: _ClassVar[int]
    TRAINER_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SPLIT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SPLIT_RULE_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TARGET_PRECISION_FIELD_NUMBER: _ClassVar[int]
    UNKNOWNS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REFIT_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    FP32_DIGEST_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    preprocessing: Preprocessing
    backbone: str
    evaluation: Evaluation
    export_time: _timestamp_pb2.Timestamp
    trainer_version: str
    data_digest: str
    split_digest: str
    split_rule: str
    temperature: float
    target_precision: float
    unknowns: Unknowns
    stage: str
    refit: str
    precision: str
    fp32_digest: str
    def __init__(self, model_id: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., preprocessing: _Optional[_Union[Preprocessing, _Mapping]] = ..., backbone: _Optional[str] = ..., evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., export_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., trainer_version: _Optional[str] = ..., data_digest: _Optional[str] = ..., split_digest: _Optional[str] = ..., split_rule: _Optional[str] = ..., temperature: _Optional[float] = ..., target_precision: _Optional[float] = ..., unknowns: _Optional[_Union[Unknowns, _Mapping]] = ..., stage: _Optional[str] = ..., refit: _Optional[str] = ..., precision: _Optional[str] = ..., fp32_digest: _Optional[str] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("id", "display_name", "threshold")
    ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    id: str
    display_name: str
    threshold: float
    def __init__(self, id: _Optional[str] = ..., display_name: _Optional[str] = ..., threshold: _Optional[float] = ...) -> None: ...

class Unknowns(_message.Message):
    __slots__ = ("method", "kept_share", "auroc")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    KEPT_SHARE_FIELD_NUMBER: _ClassVar[int]
    AUROC_FIELD_NUMBER: _ClassVar[int]
    method: str
    kept_share: float
    auroc: float
    def __init__(self, method: _Optional[str] = ..., kept_share: _Optional[float] = ..., auroc: _Optional[float] = ...) -> None: ...

class Preprocessing(_message.Message):
    __slots__ = ("height_px", "width_px", "fit", "resize_px", "interpolation", "decode_min_scale", "pad_rgb", "rule_version")
    class Fit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FIT_UNSPECIFIED: _ClassVar[Preprocessing.Fit]
        FIT_CENTER_CROP: _ClassVar[Preprocessing.Fit]
        FIT_STRETCH: _ClassVar[Preprocessing.Fit]
        FIT_LETTERBOX: _ClassVar[Preprocessing.Fit]
    FIT_UNSPECIFIED: Preprocessing.Fit
    FIT_CENTER_CROP: Preprocessing.Fit
    FIT_STRETCH: Preprocessing.Fit
    FIT_LETTERBOX: Preprocessing.Fit
    class Interpolation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INTERPOLATION_UNSPECIFIED: _ClassVar[Preprocessing.Interpolation]
        INTERPOLATION_BILINEAR: _ClassVar[Preprocessing.Interpolation]
        INTERPOLATION_BICUBIC: _ClassVar[Preprocessing.Interpolation]
    INTERPOLATION_UNSPECIFIED: Preprocessing.Interpolation
    INTERPOLATION_BILINEAR: Preprocessing.Interpolation
    INTERPOLATION_BICUBIC: Preprocessing.Interpolation
    HEIGHT_PX_FIELD_NUMBER: _ClassVar[int]
    WIDTH_PX_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    RESIZE_PX_FIELD_NUMBER: _ClassVar[int]
    INTERPOLATION_FIELD_NUMBER: _ClassVar[int]
    DECODE_MIN_SCALE_FIELD_NUMBER: _ClassVar[int]
    PAD_RGB_FIELD_NUMBER: _ClassVar[int]
    RULE_VERSION_FIELD_NUMBER: _ClassVar[int]
    height_px: int
    width_px: int
    fit: Preprocessing.Fit
    resize_px: int
    interpolation: Preprocessing.Interpolation
    decode_min_scale: float
    pad_rgb: int
    rule_version: int
    def __init__(self, height_px: _Optional[int] = ..., width_px: _Optional[int] = ..., fit: _Optional[_Union[Preprocessing.Fit, str]] = ..., resize_px: _Optional[int] = ..., interpolation: _Optional[_Union[Preprocessing.Interpolation, str]] = ..., decode_min_scale: _Optional[float] = ..., pad_rgb: _Optional[int] = ..., rule_version: _Optional[int] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("epoch", "loss", "accuracy", "balanced_accuracy", "image_count")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    BALANCED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    loss: float
    accuracy: float
    balanced_accuracy: float
    image_count: int
    def __init__(self, epoch: _Optional[int] = ..., loss: _Optional[float] = ..., accuracy: _Optional[float] = ..., balanced_accuracy: _Optional[float] = ..., image_count: _Optional[int] = ...) -> None: ...
