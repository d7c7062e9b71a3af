from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_IMAGE_UNREADABLE: _ClassVar[ErrorReason]
    ERROR_REASON_IMAGE_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_QUEUE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_SHUTTING_DOWN: _ClassVar[ErrorReason]
    ERROR_REASON_DATASET_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_TRAIN_JOB_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_TRAIN_JOB_WRONG_STATE: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_LOADING: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_OUTPUT_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_TOKEN_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_METHOD_NOT_ALLOWED: _ClassVar[ErrorReason]
    ERROR_REASON_TRAIN_JOB_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_TRAIN_CAPACITY: _ClassVar[ErrorReason]
    ERROR_REASON_ARTIFACT_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_TRAIN_RUN_FAILED: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_IMAGE_UNREADABLE: ErrorReason
ERROR_REASON_IMAGE_TOO_LARGE: ErrorReason
ERROR_REASON_MODEL_NOT_FOUND: ErrorReason
ERROR_REASON_MODEL_INVALID: ErrorReason
ERROR_REASON_QUEUE_FULL: ErrorReason
ERROR_REASON_SHUTTING_DOWN: ErrorReason
ERROR_REASON_DATASET_INVALID: ErrorReason
ERROR_REASON_TRAIN_JOB_NOT_FOUND: ErrorReason
ERROR_REASON_TRAIN_JOB_WRONG_STATE: ErrorReason
ERROR_REASON_REQUEST_INVALID: ErrorReason
ERROR_REASON_DEADLINE_EXCEEDED: ErrorReason
ERROR_REASON_MODEL_LOADING: ErrorReason
ERROR_REASON_MODEL_OUTPUT_INVALID: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_TOKEN_INVALID: ErrorReason
ERROR_REASON_METHOD_NOT_ALLOWED: ErrorReason
ERROR_REASON_TRAIN_JOB_EXISTS: ErrorReason
ERROR_REASON_TRAIN_CAPACITY: ErrorReason
ERROR_REASON_ARTIFACT_NOT_FOUND: ErrorReason
ERROR_REASON_TRAIN_RUN_FAILED: ErrorReason
