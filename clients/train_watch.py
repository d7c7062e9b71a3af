"""Events of train jobs, each once and in order, over however many connections that takes."""

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from trapline.errors import Refusal
from trapline.v1.train_pb2 import TrainJob, WatchTrainJobRequest, WatchTrainJobResponse

from .connection import Connection, call_metadata
from .resuming import resumed
from .train_names import has_ended


def watched(
    connection: Connection, request: WatchTrainJobRequest, *, lost_seconds: float, reached: bool
) -> Iterator[WatchTrainJobResponse]:
    """The job as it stands, then its events after `request.after_sequence`, until it has ended.

    Args:
        connection: The way to the service.
        request: Which job, and the last event that the caller has; moved on with each event.
        lost_seconds: Time without contact after which it gives up, in seconds.
        reached: Whether the service has answered before.

    Raises:
        Refusal: There is no such job, or no contact for `lost_seconds`.
    """
    ended = False

    def open_stream() -> Any:  # noqa: ANN401  # gRPC's own
        return connection.train_stub.WatchTrainJob(request, metadata=call_metadata())

    stands: TrainJob | None = None
    messages = resumed(connection, open_stream, has_all=lambda: ended, lost_seconds=lost_seconds, reached=reached)
    with contextlib.closing(messages):
        for response in messages:
            kind = response.WhichOneof("event")
            if response.sequence > request.after_sequence:
                request.after_sequence = response.sequence
                ended = kind == "train_job" and has_ended(response.train_job)
                if kind is not None:  # else of one that only newer clients know
                    yield response
            elif kind == "train_job":
                # How it stood when the stream began: told once. Where no event is left it ended before.
                if stands is None:
                    yield response
                stands = response.train_job
                ended = has_ended(stands) and stands.last_sequence <= request.after_sequence
            if ended:
                return


def together(
    watches: Mapping[str, Iterator[WatchTrainJobResponse]],
) -> Iterator[tuple[str, WatchTrainJobResponse | Refusal]]:
    """What comes from several watches, each under its key, as it comes; a refusal is the last of its watch."""
    arrived: queue.SimpleQueue[tuple[str, WatchTrainJobResponse | Refusal | None]] = queue.SimpleQueue()

    def follow(key: str, events: Iterator[WatchTrainJobResponse]) -> None:
        try:
            for event in events:
                arrived.put((key, event))
            arrived.put((key, None))
        except Refusal as refusal:
            arrived.put((key, refusal))
        except ValueError:
            arrived.put((key, None))  # the connection was closed meanwhile, and nobody listens any more

    for key, events in watches.items():
        threading.Thread(target=follow, args=(key, events), daemon=True).start()
    left = set(watches)
    while left:
        key, event = arrived.get()
        if event is None or isinstance(event, Refusal):
            left.discard(key)
        if event is not None:
            yield key, event
