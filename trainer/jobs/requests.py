"""The fields of requests, checked: ids, resource names, sizes, page tokens."""

import base64
import binascii
import re
from collections.abc import Iterable
from typing import NoReturn

from trapline.errors import RequestInvalid
from trapline.service.errors import shown
from trapline.v1.train_pb2 import TrainJob

DEFAULT_PAGE, LARGEST_PAGE = 50, 200
_COLLECTION = "trainJobs/"
_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_KEY = re.compile(r"([1-9][0-9]{0,17}):([0-9,]*)")


def invalid(field: str, description: str) -> NoReturn:
    """Refuses a field.

    Raises:
        RequestInvalid: Always.
    """
    raise RequestInvalid(f"{field} {description}", violations={field: description})


def job_id_of(name: str, field: str) -> str:
    """The id in the resource name that `field` has.

    Raises:
        RequestInvalid: It is no job's name.
    """
    job_id = name.removeprefix(_COLLECTION)
    if not name.startswith(_COLLECTION) or not _ID.fullmatch(job_id):
        invalid(field, f"must be trainJobs/ID as CreateTrainJob gave it, not {shown(name)}")
    return job_id


def new_job_id(job_id: str) -> str:
    """The id that a caller chose for a job; empty where it chose none.

    Raises:
        RequestInvalid: It cannot be one.
    """
    if job_id and not _ID.fullmatch(job_id):
        what = "must be at most 63 lower-case letters, digits and '-', the first a letter"
        invalid("train_job_id", f"{what}, not {shown(job_id)}")
    return job_id


def request_id_of(request_id: str) -> str:
    """The caller's id of a create, in lower case; empty where it gave none.

    Raises:
        RequestInvalid: It is no UUID.
    """
    if request_id and not _UUID.fullmatch(request_id.lower()):
        invalid("request_id", f"must be a UUID such as 123e4567-e89b-42d3-a456-426614174000, not {shown(request_id)}")
    return request_id.lower()


def page_size_of(page_size: int) -> int:
    """Most jobs of the page asked for.

    Raises:
        RequestInvalid: It is negative.
    """
    if page_size < 0:
        invalid("page_size", f"must be 0 (for {DEFAULT_PAGE}) or more, not {page_size}")
    return min(page_size or DEFAULT_PAGE, LARGEST_PAGE)


def states_of(states: Iterable[int]) -> frozenset[int]:
    """The states asked for.

    Raises:
        RequestInvalid: One is none.
    """
    wanted = frozenset(states)
    for state in sorted(wanted):
        if state not in TrainJob.State.values() or state == TrainJob.STATE_UNSPECIFIED:
            invalid("states", f"must be states of a job, and {state} is none")
    return wanted


def page_token(key: int, states: frozenset[int]) -> str:
    """What asks for the page of jobs older than the one of `key`."""
    text = f"{key}:{','.join(str(int(state)) for state in sorted(states))}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def key_of(token: str, states: frozenset[int]) -> int | None:
    """The key that the page before ended with; None for the first page.

    Raises:
        RequestInvalid: The token is none, or one of a list of other states.
    """
    if not token:
        return None
    try:
        found = _KEY.fullmatch(base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode())
    except (binascii.Error, ValueError):
        found = None
    if found is None:
        invalid("page_token", "is not one that ListTrainJobs gave; leave it empty to start again")
    key = int(found[1])
    if token != page_token(key, states):
        invalid("page_token", "is of a list of other states; ask for the same ones, or leave it empty to start again")
    return key
