"""Train jobs in words: a line, a table, a page, JSON."""

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from trapline.train_config import options_of
from trapline.v1.train_pb2 import Publication, TrainJob, TrainProgress

from .table import columns
from .train_names import id_of, state_of

_HEADER = ("JOB", "STATE", "DATASET", "MODEL", "CREATED", "HOW FAR")
_MESSAGE_SHOWN = 60


def state_in_words(job: TrainJob) -> str:
    """How it stands, e.g. `pending, 2 before it`, `failed: the disk is full`."""
    state = state_of(job)
    if job.state == TrainJob.STATE_PENDING and job.queue_position:
        return f"{state}, {job.queue_position:,} before it"
    if job.state == TrainJob.STATE_RUNNING and job.HasField("cancel_time"):
        return f"{state}, asked to stop"
    if job.state == TrainJob.STATE_FAILED:
        return f"{state}: {job.error.message or 'see the log of the service'}"
    if job.state == TrainJob.STATE_SUCCEEDED and job.HasField("start_time"):
        return f"{state} after {job.end_time.ToSeconds() - job.start_time.ToSeconds():,} s"
    return state


def progress_in_words(progress: TrainProgress) -> str:
    """How far a phase is, e.g. `fine-tune 12/40, epoch 2 of 3, loss 0.41, 35.2/s, about 12 s left`."""
    parts = [f"{progress.phase} {progress.done:,}/{progress.total:,}"]
    return ", ".join([*parts, *filter(None, [progress.figures, rate(progress), time_left(progress)])])


def rate(progress: TrainProgress) -> str:
    """Units a second, or a minute where they are few; empty before that can be told."""
    if 0 < progress.per_second < 0.1:
        return f"{60 * progress.per_second:.1f}/min"
    return f"{progress.per_second:,.1f}/s" if progress.per_second else ""


def time_left(progress: TrainProgress) -> str:
    """How long the phase will take; empty where that cannot be told, or it is done."""
    if not progress.HasField("remaining") or progress.done >= progress.total:
        return ""
    seconds = progress.remaining.ToSeconds()
    return f"about {seconds} s left" if seconds < 600 else f"about {seconds // 60:,} min left"


def table_of(jobs: Iterable[TrainJob]) -> str:
    """The jobs as lines of columns."""
    return columns([_HEADER, *(_row(job) for job in jobs)])


def page_of(job: TrainJob) -> str:
    """One job in full, as lines."""
    return "\n".join(f"{name:<10} {value}" for name, value in _facts(job) if value)


def json_of(job: TrainJob) -> dict[str, Any]:
    """The job in protobuf JSON."""
    try:
        return MessageToDict(job)
    except TypeError:  # a detail of its error has a type that only newer clients know
        known = TrainJob()
        known.CopyFrom(job)
        known.error.ClearField("details")
        return MessageToDict(known)


def _row(job: TrainJob) -> tuple[str, ...]:
    far = ""
    if job.state == TrainJob.STATE_RUNNING and job.HasField("progress"):
        far = f"{job.progress.phase} {job.progress.done:,}/{job.progress.total:,}"
    elif job.state == TrainJob.STATE_PENDING:
        far = f"{job.queue_position:,} before it"
    elif job.state == TrainJob.STATE_SUCCEEDED:
        far = _figure(job)
    elif job.state == TrainJob.STATE_FAILED:
        message = " ".join(job.error.message.split())
        far = message if len(message) <= _MESSAGE_SHOWN else f"{message[:_MESSAGE_SHOWN]}..."
    config = job.config
    return id_of(job), state_of(job), config.dataset, config.model_id or "-", _time(job.create_time), far or "-"


def _facts(job: TrainJob) -> Iterator[tuple[str, str]]:
    given = [f"{name} {value}" for name, value in options_of(job.config).items()]
    yield "job", id_of(job)
    yield "state", state_in_words(job)
    yield "dataset", job.config.dataset
    yield "options", ", ".join([*([f"recipe {job.config.recipe}"] if job.config.recipe else []), *given])
    yield "created", _time(job.create_time)
    yield "started", _time(job.start_time) if job.HasField("start_time") else ""
    yield "ended", _time(job.end_time) if job.HasField("end_time") else ""
    yield "attempts", f"{job.attempt_count:,}" if job.attempt_count > 1 else ""
    yield "how far", progress_in_words(job.progress) if job.state == TrainJob.STATE_RUNNING else ""
    yield "test", _figure(job)
    yield "published", _published(job.publication) if job.HasField("publication") else ""
    if job.result:
        yield "result", job.result.replace("\n", f"\n{'':<10} ")


def _figure(job: TrainJob) -> str:
    evaluation = job.evaluation
    return f"{evaluation.accuracy:.1%} of {evaluation.image_count:,}" if evaluation.image_count else ""


def _published(publication: Publication) -> str:
    version = f"version {publication.version}" if publication.version else "not promoted"
    return f"{publication.model_id}, {version}" + (f": {publication.reason}" if publication.reason else "")


def _time(timestamp: Timestamp) -> str:
    from datetime import UTC

    return timestamp.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
