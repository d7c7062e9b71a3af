"""What a run can be told: every option once. Flags, environment (`TRAINER_...`), YAML and the docs come from here."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from trapline.command_line import Options
from trapline.model_file import check_model_id

#: Options that say where things are and not what the run is: they may differ when a run is asked for again.
PLACES = frozenset({"data", "out", "config", "cache_dir"})


class RunConfig(Options):
    """Train on a folder of photos, evaluate, export a checked ONNX file."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_")

    data: CliPositionalArg[Path] = Field(
        description="Folder with one folder a class, or with train/ and optional val/ and test/ of such folders."
    )
    out: Path = Field(description="Run folder to write; an unfinished run of the same options resumes.")
    config: Path | None = Field(None, description="YAML file of options; flags and environment win over it.")
    backbone: str = Field("resnet18", description="Any classification builder of torchvision, e.g. mobilenet_v2.")
    weights: str = Field("auto", description="auto (torchvision's, cached or downloaded), none, or a state-dict file.")
    epochs: int = Field(3, ge=0, le=10_000, description="Unfrozen epochs at most; 0 trains the head only.")
    image_px: int | None = Field(
        None, ge=16, le=2048, description="Side of the square input in px; default: the backbone's own, mostly 224."
    )
    fit: Literal["stretch", "letterbox", "center_crop"] = Field(
        "stretch", description="How a photo is made square; center_crop loses animals at the frame's edge."
    )
    batch_size: int | None = Field(
        None, ge=2, le=4096, description="Images in one optimiser step; default: 32 on CPU, 64 on CUDA."
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of every random choice, the split's too.")
    val_share: float = Field(0.15, gt=0, lt=0.9, description="Share of each class held out for validation.")
    test_share: float = Field(0.15, gt=0, lt=0.9, description="Share of each class held out for the test figure.")
    groups: Path | None = Field(None, description="CSV of path,group: photos of one group never straddle a split.")
    group_by: Literal["auto", "none", "folder", "exif", "name"] = Field(
        "auto", description="What makes a group: subfolders, EXIF camera and time, or numbered file names."
    )
    balance: Literal["none", "sampler", "loss", "auto"] = Field(
        "none", description="Give rare classes more weight; auto does where one class is over 3 times another."
    )
    learning_rate: float | None = Field(
        None, gt=0, lt=1, description="Peak rate of the last layers; default 5e-5, 1e-3 without weights."
    )
    cache_dir: Path | None = Field(None, description="Folder for decoded pixels; default: the user's cache folder.")
    publish: Path | None = Field(None, description="Model repository to publish the file into; needs --model-id.")
    model_id: str | None = Field(None, description="Id that the model is to be served under.")

    @field_validator("model_id")
    @classmethod
    def _valid_id(cls, model_id: str | None) -> str | None:
        return None if model_id is None else check_model_id(model_id)

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.publish is not None and self.model_id is None:
            raise ValueError("--publish needs --model-id, the name that the model is served under")
        if self.val_share + self.test_share >= 0.95:
            raise ValueError("--val-share and --test-share leave too little to train on; make them smaller")
        if self.groups is not None and self.group_by != "auto":
            raise ValueError("--groups and --group-by contradict each other; give one of them")
        return self

    def identity(self) -> dict[str, Any]:
        """The options that make this run another run when they change, as JSON values."""
        return self.model_dump(mode="json", exclude=set(PLACES))


class EvaluateConfig(Options):
    """Evaluate an exported model on labelled folders, by the file alone."""

    # "all": the prefix stands before an alias too, else a variable called JSON would be read.
    model_config = SettingsConfigDict(env_prefix="TRAINER_", env_prefix_target="all")

    model: CliPositionalArg[Path] = Field(description="An exported .onnx file, or a run folder.")
    data: CliPositionalArg[Path] = Field(description="Folder with one folder a class.")
    json_file: Path | None = Field(None, alias="json", description="File to write the figures to, as JSON.")


class PublishConfig(Options):
    """Publish an exported model into a model repository, as its next version."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_")

    model: CliPositionalArg[Path] = Field(description="A finished run folder, or an exported .onnx file.")
    models: CliPositionalArg[Path] = Field(description="The model repository; made where it is missing.")
    model_id: str | None = Field(None, description="Id to publish under; default: the id in the file.")

    @field_validator("model_id")
    @classmethod
    def _valid_id(cls, model_id: str | None) -> str | None:
        return None if model_id is None else check_model_id(model_id)


class SampleConfig(Options):
    """Draw the embedded data set: camera-trap-like frames of three animals and `empty`."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_")

    out: CliPositionalArg[Path] = Field(description="Folder to write; must not exist or be empty.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of every random choice.")
