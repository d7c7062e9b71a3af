"""`trapline train`: jobs of a training service, from a shell."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trapline.command_line import Verb, tell
from trapline.errors import Refusal, UsageError

from .train_choices import JobChoices
from .train_names import has_ended, id_of
from .train_options import (
    DEFAULT_SERVER,
    CancelOptions,
    DeleteOptions,
    FetchOptions,
    ListOptions,
    ServiceOptions,
    ShowOptions,
    SubmitOptions,
    WatchOptions,
)

if TYPE_CHECKING:
    from trapline.v1.train_pb2 import TrainJob

    from .train_jobs import TrainJobs


def _submit(options: SubmitOptions) -> int:
    from trapline.train_config import option_names

    given = {name: getattr(options, name) for name in options.model_fields_set & option_names()}
    given["model_id"] = options.model_id or ""
    with _jobs(options, lost_seconds=options.lost_seconds) as jobs:
        try:
            job = jobs.create(
                options.dataset,
                recipe=options.recipe,
                job_id=options.job_id,
                validate_only=options.validate_only,
                **given,
            )
        except Refusal as refusal:
            if not refusal.violations:
                raise
            raise UsageError(_as_flags(refusal)) from refusal
        if options.validate_only:
            tell(f"{options.dataset} can be trained on so; nothing was queued")
            return 0
        print(id_of(job), flush=True)
        if options.watch:
            return _followed(jobs, [id_of(job)], server=options.server)
    tell(f"follow it with `{_way_back([id_of(job)], options.server)}`")
    return 0


def _list(options: ListOptions) -> int:
    from .train_words import json_of, table_of

    with _jobs(options) as jobs:
        found = list(jobs.list(states=options.state))
    if options.as_json:
        print(json.dumps([json_of(job) for job in found], indent=2))
    elif found:
        print(table_of(found))
    else:
        tell("no such jobs" if options.state else "no jobs; create one with `trapline train submit DATASET`")
    return 0


def _show(options: ShowOptions) -> int:
    from .train_words import json_of, page_of

    with _jobs(options) as jobs:
        job = jobs.get(options.job)
    print(json.dumps(json_of(job), indent=2) if options.as_json else page_of(job))
    return 0


def _watch(options: WatchOptions) -> int:
    with _jobs(options, lost_seconds=options.lost_seconds) as jobs:
        job_ids = list(dict.fromkeys(options.jobs))
        for job_id in job_ids:
            jobs.get(job_id)  # a typing error is told before anything is drawn
        return _followed(jobs, job_ids, server=options.server)


def _cancel(options: CancelOptions) -> int:
    with _jobs(options) as jobs:
        job = jobs.cancel(options.job)
    way_back = _way_back([options.job], options.server)
    tell(f"{options.job}: " + ("cancelled" if has_ended(job) else f"asked to stop; see it end with `{way_back}`"))
    return 0


def _delete(options: DeleteOptions) -> int:
    with _jobs(options) as jobs:
        jobs.delete(options.job)
    tell(f"{options.job}: deleted")
    return 0


def _fetch(options: FetchOptions) -> int:
    with _jobs(options, lost_seconds=options.lost_seconds) as jobs:
        for place in jobs.fetch(options.job, options.out, options.path or None):
            print(place)
    return 0


def _jobs(options: ServiceOptions, *, lost_seconds: float = 1.0) -> "TrainJobs":
    from .train_jobs import TrainJobs

    return TrainJobs(
        options.server,
        timeout_seconds=options.timeout_seconds,
        lost_seconds=lost_seconds,
        security=options.security,
    )


def _followed(jobs: "TrainJobs", job_ids: Sequence[str], *, server: str) -> int:
    """The exit code once all of them have ended; what came of them is printed."""
    from .train_progress import shown
    from .train_watch import together

    ended: dict[str, TrainJob] = {}
    try:
        with shown(job_ids) as show:
            for job_id, event in together({job_id: jobs.watch(job_id) for job_id in job_ids}):
                if isinstance(event, Refusal):
                    show(job_id, f"error: {event}")
                    continue
                if not event.sequence and event.train_job.last_sequence:
                    continue  # how it stands; what follows tells that too, from the beginning
                show(job_id, event)
                if event.WhichOneof("event") == "train_job" and has_ended(event.train_job):
                    ended[job_id] = event.train_job
    except KeyboardInterrupt:
        tell(f"{', '.join(job_ids)}: left to go on; come back with `{_way_back(job_ids, server)}`")
        raise
    for job_id in job_ids:
        if job_id in ended and ended[job_id].result:
            print(f"{job_id}:\n{ended[job_id].result}" if len(job_ids) > 1 else ended[job_id].result)
    return 0 if all(job_id in ended and _succeeded(ended[job_id]) for job_id in job_ids) else 1


def _succeeded(job: "TrainJob") -> bool:
    return job.state == type(job).STATE_SUCCEEDED


def _way_back(job_ids: Sequence[str], server: str) -> str:
    """What to type to follow the jobs again."""
    there = "" if server == DEFAULT_SERVER else f" --server {server}"
    return f"trapline train watch {' '.join(job_ids)}{there}"


def _as_flags(refusal: Refusal) -> str:
    """What is wrong with each field, under the name of its option."""
    names = {"dataset": "DATASET", "train_job_id": "--job-id"}
    flags = names | {name: f"--{name.replace('_', '-')}" for name in JobChoices.model_fields}
    told = []
    for path, description in refusal.violations.items():
        flag = flags.get(path.rpartition(".")[2])
        told.append(f"{flag}: {description}" if flag and not description.startswith("--") else description)
    return "; ".join(told)


VERBS = (
    Verb(name="train submit", options=SubmitOptions, run=_submit),
    Verb(name="train list", options=ListOptions, run=_list),
    Verb(name="train show", options=ShowOptions, run=_show),
    Verb(name="train watch", options=WatchOptions, run=_watch),
    Verb(name="train cancel", options=CancelOptions, run=_cancel),
    Verb(name="train delete", options=DeleteOptions, run=_delete),
    Verb(name="train fetch", options=FetchOptions, run=_fetch),
)
