"""Errors that cross the wire: `ErrorReason` <-> `google.rpc.Status`, both ways.

    TraplineError              a sentence for the person who can do something about it; exit code 1
    ├── UsageError             the command line or a file named on it is wrong; exit code 2
    └── Refusal                an answer other than OK, with a gRPC code and an ErrorReason
        ├── RequestInvalid          INVALID_ARGUMENT      REQUEST_INVALID
        ├── ImageUnreadable         INVALID_ARGUMENT      IMAGE_UNREADABLE
        ├── ImageTooLarge           INVALID_ARGUMENT      IMAGE_TOO_LARGE
        ├── ModelNotFound           NOT_FOUND             MODEL_NOT_FOUND
        ├── ModelInvalid            FAILED_PRECONDITION   MODEL_INVALID
        ├── ModelLoading            UNAVAILABLE           MODEL_LOADING
        ├── ModelOutputInvalid      INTERNAL              MODEL_OUTPUT_INVALID
        ├── QueueFull               RESOURCE_EXHAUSTED    QUEUE_FULL
        ├── DeadlineExceeded        DEADLINE_EXCEEDED     DEADLINE_EXCEEDED
        ├── ShuttingDown            UNAVAILABLE           SHUTTING_DOWN
        ├── TokenInvalid            UNAUTHENTICATED       TOKEN_INVALID
        ├── MethodNotAllowed        PERMISSION_DENIED     METHOD_NOT_ALLOWED
        ├── InternalError           INTERNAL              INTERNAL
        └── those of the training service, in `trapline.train_errors`

Raise the class where the problem is found, with a sentence that says what to do and, as keywords, every variable of
the sentence (AIP-193). Only a server's interceptor turns it into a status. Each class also says what its page,
`docs/errors.md`, tells; `python docs/errors.py` writes that.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from trapline.request_id import REQUEST_ID_KEY, is_request_id
from trapline.v1.error_reason_pb2 import ErrorReason

DOMAIN = "trapline.v1"
_PREFIX = "ERROR_REASON_"


class TraplineError(Exception):
    """A sentence that names the thing and says what to do; programs print it without a traceback."""

    exit_code: ClassVar[int] = 1


class UsageError(TraplineError):
    """The command line, or a file or folder that it names, is wrong."""

    exit_code: ClassVar[int] = 2


class Refusal(TraplineError):
    """An answer other than OK.

    Attributes:
        code: The gRPC code.
        reason: The `ErrorReason`, which clients branch on.
        message: The sentence.
        metadata: Variables of the sentence, keys in lower camel case.
        retry_seconds: When to come back, in seconds; None where coming back does not help.
        violations: Bad fields, path to description.
        request_id: The call's id, by which the server's log tells it; empty where it is not known.
        retry: Whether the very same request may succeed later.
        cause: What is wrong, for the page of errors.
        remedy: What the caller should do, for the page of errors.
        variables: Keys that `metadata` may have.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    reason: int = ErrorReason.ERROR_REASON_UNSPECIFIED
    retry: ClassVar[bool] = False
    cause: ClassVar[str] = ""
    remedy: ClassVar[str] = ""
    variables: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        message: str,
        *,
        retry_seconds: float | None = None,
        violations: Mapping[str, str] | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {key: str(value) for key, value in metadata.items()}
        self.retry_seconds = retry_seconds
        self.violations = dict(violations or {})
        self.request_id = ""


class RequestInvalid(Refusal):
    """A field of the request is missing or out of range; `violations` names each."""

    code, reason = grpc.StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_REQUEST_INVALID
    cause = "a field is missing or out of range; comes with `BadRequest` where a field is to blame"
    remedy = "correct the field"


class ImageUnreadable(Refusal):
    """The bytes are not a readable image of a known format."""

    code, reason = grpc.StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_IMAGE_UNREADABLE
    cause = "empty, cut off, no known format, or 32-bit pixels"
    remedy = "leave the image out or convert it"


class ImageTooLarge(Refusal):
    """The image has more pixels or bytes than is taken."""

    code, reason = grpc.StatusCode.INVALID_ARGUMENT, ErrorReason.ERROR_REASON_IMAGE_TOO_LARGE
    cause = "more bytes or pixels than are taken"
    remedy = "send a smaller one"
    variables = ("limitBytes", "limitPixels")


class ModelNotFound(Refusal):
    """No model, or no version of it, of that name."""

    code, reason = grpc.StatusCode.NOT_FOUND, ErrorReason.ERROR_REASON_MODEL_NOT_FOUND
    cause = "no model, or no version, of that name"
    remedy = "ask for one that `trapline models` lists"
    variables = ("model", "version")


class ModelInvalid(Refusal):
    """The model's file cannot be served."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_MODEL_INVALID
    cause = "the file cannot be served"
    remedy = "publish a good version and reload"
    variables = ("model", "version")


class ModelLoading(Refusal):
    """The model is being read for the first time."""

    code, reason = grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_MODEL_LOADING
    retry = True
    cause = "the model is read for the first time; comes with `RetryInfo`"
    remedy = "ask again when `RetryInfo` says"
    variables = ("model",)


class ModelOutputInvalid(Refusal):
    """The model gave scores that are not finite, or not one for each label."""

    code, reason = grpc.StatusCode.INTERNAL, ErrorReason.ERROR_REASON_MODEL_OUTPUT_INVALID
    cause = "scores not finite, or not one for each label"
    remedy = "train or export again"
    variables = ("model",)


class QueueFull(Refusal):
    """The model's queue is full; comes with `retry_seconds`."""

    code, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, ErrorReason.ERROR_REASON_QUEUE_FULL
    retry = True
    cause = "no room, or too long a wait; comes with `RetryInfo`"
    remedy = "come back when `RetryInfo` says, or use `StreamClassify`, which waits"
    variables = ("model", "queueCapacity")


class DeadlineExceeded(Refusal):
    """The caller's deadline passed before its image was run."""

    code, reason = grpc.StatusCode.DEADLINE_EXCEEDED, ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED
    retry = True
    cause = "the caller's deadline passed before the image was run"
    remedy = "allow more time, or send less at once"


class ShuttingDown(Refusal):
    """The server is draining before it stops; another one may answer."""

    code, reason = grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_SHUTTING_DOWN
    retry = True
    cause = "the server drains before it stops"
    remedy = "ask another server, or this one later"


class TokenInvalid(Refusal):
    """The call has no bearer token that the server knows; nothing of the request was read."""

    code, reason = grpc.StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_TOKEN_INVALID
    cause = "no bearer token, or none that the server knows"
    remedy = "send one that is good"


class MethodNotAllowed(Refusal):
    """The caller may not call this method, or not at this address."""

    code, reason = grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_METHOD_NOT_ALLOWED
    cause = "the token is not good for this method, or another address serves it"
    remedy = "use an admin's token, or the admin address"
    variables = ("method",)


class InternalError(Refusal):
    """A fault of the server's own; its log line carries the `errorId` too."""

    code, reason = grpc.StatusCode.INTERNAL, ErrorReason.ERROR_REASON_INTERNAL
    cause = "a fault of the server"
    remedy = "look for the log line with that id, which has the whole of it"
    variables = ("errorId",)


_CODES = {int(code.value[0]): code for code in grpc.StatusCode}


def _classes() -> dict[int, type[Refusal]]:
    """The class of each reason: those here, and those of `trapline.train_errors` where that is imported."""
    return {int(kind.reason): kind for kind in Refusal.__subclasses__() if kind.__module__.startswith("trapline.")}


def reason_name(refusal: Refusal) -> str:
    """The reason as ErrorInfo writes it, e.g. `QUEUE_FULL`."""
    return ErrorReason.Name(refusal.reason).removeprefix(_PREFIX)


def to_status(refusal: Refusal) -> status_pb2.Status:
    """The `google.rpc.Status` of `refusal`: one ErrorInfo, and RetryInfo or BadRequest where they apply."""
    reason = reason_name(refusal)
    details = [_pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=refusal.metadata))]
    if refusal.retry_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(refusal.retry_seconds * 1e9))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    if refusal.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            for field, description in refusal.violations.items()
        ]
        details.append(_pack(error_details_pb2.BadRequest(field_violations=fields)))
    return status_pb2.Status(code=refusal.code.value[0], message=refusal.message, details=details)


def from_status(status: status_pb2.Status) -> Refusal:
    """The `Refusal` that `status` stands for; one of the plain class where its reason is not known here."""
    info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    retry_seconds: float | None = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        if detail.Unpack(retry):
            retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    known = info.domain == DOMAIN and _PREFIX + info.reason in ErrorReason.keys()  # noqa: SIM118  # an enum wrapper, not a dict
    number = ErrorReason.Value(_PREFIX + info.reason) if known else ErrorReason.ERROR_REASON_UNSPECIFIED
    refusal = _classes().get(int(number), Refusal)(status.message, retry_seconds=retry_seconds)
    refusal.metadata = dict(info.metadata)
    refusal.violations = {violation.field: violation.description for violation in bad.field_violations}
    refusal.code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    refusal.reason = int(number)
    return refusal


def from_rpc_error(error: grpc.RpcError) -> Refusal:
    """The `Refusal` that a failed call stands for, also where it carries no details (a refused connection, say)."""
    call: Any = error  # every RpcError that a call raises is a grpc.Call too
    plain = status_pb2.Status(code=call.code().value[0], message=call.details() or "")
    refusal = _from_details(call) or from_status(plain)
    found = [value for key, value in call.trailing_metadata() or () if key == REQUEST_ID_KEY]
    refusal.request_id = str(found[0]) if found and is_request_id(found[0]) else ""
    return refusal


def _from_details(call: grpc.Call) -> Refusal | None:
    try:
        status = rpc_status.from_call(call)
        return None if status is None else from_status(status)
    except (ValueError, DecodeError):
        return None  # details that are not ours: a proxy changed the code or the bytes, so code and text must do


def _pack(
    message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo | error_details_pb2.BadRequest,
) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail
