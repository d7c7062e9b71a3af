"""Every option of `trainer serve`, once: flags, `TRAINER_...` variables, YAML keys and help come from these fields."""

import re
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from trapline.service.options import ServiceOptions

GIB = 1024**3
_GPU = re.compile(r"\d{1,3}|(GPU|MIG)-[A-Za-z0-9/-]+")


class ServeConfig(ServiceOptions):
    """Run training as jobs, over gRPC: queued, watched, cancelled, resumed, published."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_")

    config: Path | None = Field(default=None, description="YAML file of options; flags and environment win over it.")
    data_root: Path = Field(description="Folder of data sets; callers name what lies below it and nothing else.")
    runs_root: Path = Field(description="Folder of the jobs and their runs, for this service alone; made if missing.")
    models: Path | None = Field(
        default=None, description="Model repository that jobs publish into; without it none can have a model id."
    )
    listen: str = Field(default="127.0.0.1:50052", description="HOST:PORT to serve on; port 0 takes a free one")
    metrics: str = Field(default="127.0.0.1:9101", description="HOST:PORT of Prometheus metrics; empty is off")
    admin: str = Field(
        default="",
        description="HOST:PORT for creating, cancelling and deleting jobs, which --listen then refuses; empty serves "
        "that on --listen",
    )
    admin_token_file: Path | None = Field(
        default=None,
        description="admins' tokens, good for all methods; creating, cancelling and deleting jobs then take no other",
    )
    parallel: int = Field(default=1, ge=1, le=64, description="Most jobs at work at a time; no two share a GPU.")
    gpus: str = Field(
        default="auto", description="GPUs that jobs get, one each: auto (those found), none, or a list such as 0,2."
    )
    cache_dir: Path | None = Field(default=None, description="Folder for decoded pixels; default: the user's cache.")
    cache_gib: float = Field(
        default=20, gt=0, description="Most GiB that folder may take; what was unused longest leaves it."
    )
    checkpoint_minutes: float = Field(default=5, gt=0, description="Least time between checkpoints inside an epoch.")
    max_epochs: int = Field(default=1000, ge=0, le=10_000, description="Most epochs that a job may ask for.")
    max_photos: int = Field(default=1_000_000, ge=1, description="Most photos of a data set.")
    max_image_px: int = Field(default=1024, ge=16, le=2048, description="Largest side of a network's input, in px.")
    max_hours: float = Field(default=0, ge=0, description="Longest time that a job may be at work; 0 is no limit.")
    max_pending: int = Field(default=1000, ge=1, le=10_000, description="Most jobs that wait; more are refused.")
    min_free_gib: float = Field(
        default=2, ge=0, description="Room on the disk of --runs-root below which no job is taken or started, in GiB."
    )
    keep_runs: int = Field(
        default=0, ge=0, description="Ended jobs that are kept; older ones are deleted with their runs; 0 keeps all."
    )
    keep_days: float = Field(
        default=0, ge=0, description="Days after which an ended job is deleted with its run; 0 is never."
    )

    @field_validator("gpus")
    @classmethod
    def _gpus(cls, value: str) -> str:
        words = value.split(",")
        if value in ("auto", "none"):
            return value
        if len(set(words)) < len(words) or not all(_GPU.fullmatch(word) for word in words):
            raise ValueError("must be auto, none, or GPUs by number or UUID such as 0,2, each once")
        return value

    @model_validator(mode="after")
    def _folders(self) -> Self:
        from ..dataset.cache.folder import user_cache_folder  # it takes Pillow, which `--help` does without

        data, runs = self.data_root.resolve(), self.runs_root.resolve()
        if data == runs or data in runs.parents or runs in data.parents:
            raise ValueError("--data-root and --runs-root must not lie in each other; name two folders apart")
        # Its folders are those of jobs, by their ids: the deletion of a job of that name would take them.
        for option, folder in (("--models", self.models), ("--cache-dir", user_cache_folder(self.cache_dir))):
            if folder is not None and folder.resolve().is_relative_to(runs):
                raise ValueError(f"{option} must not lie in --runs-root, whose folders are jobs; name one outside")
        return self

    @property
    def min_free_bytes(self) -> int:
        """`min_free_gib` in bytes."""
        return round(self.min_free_gib * GIB)
