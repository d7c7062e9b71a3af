"""Every option of `server`, once: flags, `SERVER_...` variables, YAML keys and help come from these fields."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from trapline.command_line import Options
from trapline.service.options import ServiceOptions

MIB = 1024 * 1024
#: Above this Pillow refuses an image by itself, whatever the server allows, in megapixels.
LARGEST_MEGAPIXELS = 178


class ModelOptions(Options):
    """What both verbs need to load models as `run` would."""

    model_config = SettingsConfigDict(env_prefix="SERVER_")

    config: Path | None = Field(default=None, description="YAML file of options; flags and environment win over it")
    models: Path = Field(description="model repository: MODELS/ID/VERSION/model.onnx")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where models run; auto takes CUDA where it works, cuda never falls back"
    )
    precision: Literal["auto", "fp32", "int8", "fp16"] = Field(
        default="auto",
        description="which of a version's files is served; auto takes the fastest at warm-up",
    )
    max_batch: int = Field(default=16, ge=1, le=1024, description="most images in one batch")
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        default="auto", description="threads that run a model and that decode; auto follows CPU quota and affinity"
    )
    model_memory_mib: int = Field(
        default=4096,
        ge=0,
        description="most memory for a model to load and to run its largest batch, tried out in a process of its own, "
        "in MiB; 0 tries nothing",
    )
    gpu_memory_mib: int = Field(default=0, ge=0, description="most GPU memory for one model, in MiB; 0 is no limit")
    tf32: bool = Field(
        default=True,
        description="let CUDA round to TF32 in convolutions: faster, scores differ from the CPU's in the third digit",
    )


class ServerConfig(ServiceOptions, ModelOptions):
    """Serves the models of a repository over gRPC."""

    model_config = SettingsConfigDict(env_prefix="SERVER_")

    admin: str = Field(
        default="", description="HOST:PORT for ReloadModel, which --listen then refuses; empty serves it on --listen"
    )
    admin_token_file: Path | None = Field(
        default=None, description="admins' tokens, good for all methods; ReloadModel then takes no other"
    )
    max_delay_ms: float = Field(
        default=0, ge=0, le=10_000, description="longest wait for a batch to fill while the device is free, in ms"
    )
    max_queue_ms: float = Field(
        default=500, gt=0, description="refuse calls whose answers load would delay by more than this, in ms"
    )
    max_queue_images: int = Field(default=256, ge=1, description="most images of one model accepted at a time")
    max_queue_mib: int = Field(default=256, ge=1, description="most bytes of one model's accepted images, in MiB")
    max_message_mib: int = Field(default=32, ge=1, le=1024, description="largest request, in MiB")
    max_megapixels: int = Field(
        default=64,
        ge=1,
        le=LARGEST_MEGAPIXELS,
        description=f"largest image that is decoded, in million pixels, {LARGEST_MEGAPIXELS} at most",
    )
    allow_empty: bool = Field(default=False, description="start without a model that can be served")
    watch: bool = Field(default=False, description="look for new versions and models every few seconds")

    @model_validator(mode="after")
    def _images_fit(self) -> Self:
        if self.max_queue_mib < self.max_message_mib:
            raise ValueError(
                f"--max-queue-mib {self.max_queue_mib} is less than --max-message-mib {self.max_message_mib}: "
                "an image of the largest size would never fit; raise the one or lower the other"
            )
        return self

    @property
    def max_image_bytes(self) -> int:
        """Most bytes of one image: a message of the largest size, less room for the request's other fields."""
        return self.max_message_mib * MIB - 64 * 1024

    @property
    def max_image_pixels(self) -> int:
        """Most pixels, width × height, of an image that is decoded."""
        return self.max_megapixels * 1_000_000


class CheckConfig(ModelOptions):
    """Loads every model as `server run` would, and says of each whether it can be served."""

    # `run` and `check` may share one file.
    others_in_file: ClassVar[frozenset[str]] = frozenset(ServerConfig.model_fields)
