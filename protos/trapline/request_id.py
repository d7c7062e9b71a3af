"""The id of a call: the metadata that it travels in, one way and back."""

import itertools
import re
import secrets

#: Key of the metadata. A caller may send its own; the server returns it, or the one it made, when the call ends.
REQUEST_ID_KEY = "x-request-id"
# Printable, without what would break a log line in two, and short.
_FIT = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")


_FIRST = secrets.token_hex(8)  # of this process
_COUNT = itertools.count()


def new_request_id() -> str:
    """An id that no other call has: 16 hex digits of the process, 8 of the call."""
    return f"{_FIRST}{next(_COUNT) & 0xFFFFFFFF:08x}"


def is_request_id(value: object) -> bool:
    """Whether a value out of a call's metadata can be its id: 1 to 128 of `A-Z a-z 0-9 . _ ~ : / + = @ -`."""
    return isinstance(value, str) and _FIT.fullmatch(value) is not None
