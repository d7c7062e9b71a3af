"""What a service makes of an exception that is not one of its own answers."""

import logging
import secrets

from trapline.errors import InternalError, Refusal

_log = logging.getLogger(__name__)
_LONGEST_NAME = 80
_LONGEST_ERROR = 500


def as_refusal(error: BaseException) -> Refusal:
    """`error` itself where it is a Refusal; else an InternalError, and the log has the whole of `error`.

    The caller learns an id, which the log line carries too, and nothing of the service's insides.
    """
    if isinstance(error, Refusal):
        return error
    error_id = secrets.token_hex(8)
    # Not its repr: that of some exceptions holds the bytes they were raised about.
    told = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
    _log.error("event=internal_error error_id=%s error=%r", error_id, told, exc_info=error)
    return InternalError(f"internal error; the server's log tells it under the id {error_id}", errorId=error_id)


def shown(name: str) -> str:
    """A name out of a request as a sentence may repeat it: quoted, and cut where it is long.

    An error travels in HTTP/2 headers, which hold a few KiB.
    """
    return repr(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…")
