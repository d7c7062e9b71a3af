"""What the verbs of `trapline train` can be told."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import CliPositionalArg, NoDecode, SettingsConfigDict

from .options import Address, SecurityOptions, split
from .train_choices import JobChoices
from .train_names import State, id_of

#: Where a training service listens that was told nothing else.
DEFAULT_SERVER = "127.0.0.1:50052"


def _job_id(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,63}", id_of(text)):
        raise ValueError("must be a job's id, as `trapline train list` lists it")
    return id_of(text)


_JobId = Annotated[str, AfterValidator(_job_id)]


class ServiceOptions(SecurityOptions):
    """Where the training service is."""

    model_config = SettingsConfigDict(env_prefix="TRAPLINE_", env_prefix_target="all")

    server: Address = Field(DEFAULT_SERVER, description="the training service's address, HOST:PORT or a gRPC target")
    timeout_seconds: float = Field(60.0, gt=0, le=86_400, description="longest wait for one answer, in seconds")


class _FollowOptions(ServiceOptions):
    """How long a service is waited for that is lost."""

    lost_seconds: float = Field(
        600.0, gt=0, le=86_400, description="how long a service that was reached and is lost is waited for, in seconds"
    )


class SubmitOptions(JobChoices, _FollowOptions):
    """Train on a folder below the service's data root, as a job that goes on without you."""

    model_config = SettingsConfigDict(env_prefix="TRAPLINE_", env_prefix_target="all")

    dataset: CliPositionalArg[str] = Field(description="name of a folder below the service's data root")
    config: Path | None = Field(None, description="YAML file of options; flags and environment win over it")
    job_id: str = Field("", description="the job's id: lower-case letters, digits and -; picked where it is empty")
    watch: bool = Field(False, description="follow the job until it ends, as `trapline train watch` does")
    validate_only: bool = Field(False, description="check everything and queue nothing")


class ListOptions(ServiceOptions):
    """List the jobs of a training service, newest first."""

    state: Annotated[tuple[State, ...], NoDecode, BeforeValidator(split)] = Field(
        (), description="only jobs that are pending, running, succeeded, failed or cancelled: A,B or the option twice"
    )
    # The name `json` would hide a method of pydantic's.
    as_json: bool = Field(False, alias="json", description="print an array of TrainJob in protobuf JSON")


class ShowOptions(ServiceOptions):
    """Show one job in full."""

    job: CliPositionalArg[_JobId] = Field(description="the job's id")
    as_json: bool = Field(False, alias="json", description="print the TrainJob in protobuf JSON")


class WatchOptions(_FollowOptions):
    """Follow jobs until all have ended."""

    jobs: CliPositionalArg[list[_JobId]] = Field(min_length=1, description="the jobs' ids")


class CancelOptions(ServiceOptions):
    """Ask a job to stop."""

    job: CliPositionalArg[_JobId] = Field(description="the job's id")


class DeleteOptions(ServiceOptions):
    """Delete a job that has ended, with its events and files; what it published stays."""

    job: CliPositionalArg[_JobId] = Field(description="the job's id")


class FetchOptions(_FollowOptions):
    """Copy the files of a job to this machine."""

    job: CliPositionalArg[_JobId] = Field(description="the job's id")
    out: Path = Field(description="folder for the files; those that are there already are replaced")
    path: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = Field(
        (), description="only this file, or this folder of files: A,B or the option twice; all without it"
    )
