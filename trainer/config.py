"""What the trainer's verbs can be told. Flags, environment (`TRAINER_...`), YAML and the docs come from here.

What a run does lies in `trapline.run_choices`, which `trapline train submit` has too; where it reads and writes, here.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from trapline.command_line import Options
from trapline.model_file import check_model_id
from trapline.run_choices import RecipeChoices, RunChoices, TrainingChoices

#: Options that say where things are, or what is shown, and not what the run is: they may differ when it is asked for
#: again.
PLACES = frozenset({"data", "out", "config", "cache_dir", "cache_gib", "checkpoint_minutes", "images"})


def _digest(file: Path | None) -> str | None:
    """SHA-256, in hex, of a file's bytes; None where there is none to read, which whoever needs it will say."""
    try:
        return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


class _Places(Options):
    """Where a verb that trains reads and writes."""

    recipes = Path(__file__).parent / "recipe" / "named"

    model_config = SettingsConfigDict(env_prefix="TRAINER_")

    data: CliPositionalArg[Path] = Field(
        description="Folder with one folder a class, or with train/ and optional val/ and test/ of such folders."
    )
    out: Path = Field(description="Folder to write.")
    config: Path | None = Field(
        None, description="YAML file of options, or recipe:NAME; flags and environment win over it."
    )
    cache_dir: Path | None = Field(None, description="Folder for decoded pixels; default: the user's cache folder.")
    cache_gib: float = Field(20, gt=0, description="Most GiB that folder may take; what was unused longest leaves it.")


class RecipeOptions(RecipeChoices, _Places):
    """The photos and what a training step does with them: what every verb that trains can be told."""


class TrainingOptions(TrainingChoices, RecipeOptions):
    """How a network is trained once its head is fitted: what every verb that fine-tunes can be told."""

    checkpoint_minutes: float = Field(5, gt=0, description="Least time between checkpoints inside an epoch.")


class RunConfig(RunChoices, TrainingOptions):
    """Train on a folder of photos, evaluate, export a checked ONNX file."""

    out: Path = Field(description="Run folder to write; an unfinished run of the same options resumes.")
    publish: Path | None = Field(None, description="Model repository to publish the file into; needs --model-id.")

    @model_validator(mode="after")
    def _publishing_has_a_name(self) -> Self:
        if self.publish is not None and self.model_id is None:
            raise ValueError("--publish needs --model-id, the name that the model is served under")
        return self

    def identity(self) -> dict[str, Any]:
        """The options that make this run another run when they change, as JSON values, and what `--groups` holds."""
        return self.model_dump(mode="json", exclude=set(PLACES)) | {"groups_digest": _digest(self.groups)}


class LrFindConfig(RecipeOptions):
    """Find a learning rate: a range test on the photos, drawn and written, with nothing trained."""

    # A run's file of options serves here too.
    others_in_file = frozenset(RunConfig.model_fields) - frozenset(RecipeOptions.model_fields)

    out: Path = Field(description="Folder to write lr_find.png, lr_find.csv and lr_find.json into.")

    def as_run(self) -> RunConfig:
        """The run whose learning rate is looked for."""
        return RunConfig.model_construct(**dict(self))


class StudyConfig(TrainingOptions):
    """Train on growing parts of the photos, and tell whether more photos would help."""

    # A run's file of options serves here too.
    others_in_file = frozenset(RunConfig.model_fields) - frozenset(TrainingOptions.model_fields)

    out: Path = Field(description="Folder of the study; what an earlier command of the same options did is kept.")
    sizes: str = Field(description="Training photos a class of each point, e.g. 10,30,60,120,all.")
    repeats: int = Field(3, ge=3, le=100, description="Times that each size is trained, every time on other photos.")
    epochs: int = Field(
        0, ge=0, le=10_000, description="Unfrozen epochs at most; 0 trains the head only, in seconds a point."
    )

    @field_validator("sizes", mode="before")
    @classmethod
    def _a_list(cls, sizes: object) -> str:
        words = [str(size) for size in sizes] if isinstance(sizes, list) else str(sizes).split(",")
        words = [word.strip() for word in words]
        if any(word != "all" and not (word.isdecimal() and int(word) > 0) for word in words):
            raise ValueError("each size is a number of photos a class, or all; write them like 10,30,all")
        numbers = sorted({int(word) for word in words if word != "all"})
        return ",".join([*map(str, numbers), *(["all"] if "all" in words else [])])

    @model_validator(mode="after")
    def _can_be_studied(self) -> Self:
        if self.fit == "auto":
            raise ValueError("--fit auto would choose by photos that small sizes lack; name a fit")
        return self

    def as_run(self) -> RunConfig:
        """The run that a point of the study is: one of many, without photos on its pages."""
        options = {name: getattr(self, name) for name in TrainingOptions.model_fields}
        return RunConfig.model_construct(images=False, **options)

    def identity(self) -> dict[str, Any]:
        """The options that make this another study when they change, as JSON values; sizes and repeats do not."""
        options = self.model_dump(mode="json", exclude=set(PLACES) | {"sizes", "repeats"})
        return {"verb": "study"} | options | {"groups_digest": _digest(self.groups)}


class CompareConfig(Options):
    """Tell which of several finished runs is better on the test photos that they share."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_", env_prefix_target="all")

    runs: CliPositionalArg[list[Path]] = Field(min_length=1, description="Finished run folders, two or more.")
    json_file: Path | None = Field(None, alias="json", description="File to write the figures to, as JSON.")


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


class ReportConfig(Options):
    """Make the report of a run again from its folder: one HTML file, of whatever is there."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_")

    run: CliPositionalArg[Path] = Field(description="A run folder; the run may have ended in any way, or not yet.")
    images: bool = Field(True, description="Show photos and name files; without, the page has neither.")
    pictures: bool = Field(False, description="Draw plots and pictures again first, from a finished run's photos.")
    data: Path | None = Field(None, description="The run's photos; default: where the run found them.")
    cache_dir: Path | None = Field(None, description="Folder for decoded pixels; default: the run's.")
    cache_gib: float = Field(20, gt=0, description="Most GiB that folder may take; what was unused longest leaves it.")


class ExportConfig(Options):
    """Make a cheaper file of a finished run, int8 or fp16, where it answers as the checked one does."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_")

    run: CliPositionalArg[Path] = Field(description="A finished run folder.")
    precision: Literal["int8", "fp16", "auto"] = Field(
        "auto", description="int8 is for processors, fp16 for GPUs; auto makes of the two what passes the check."
    )
    data: Path | None = Field(None, description="The run's photos; default: where the run found them.")
    cache_dir: Path | None = Field(None, description="Folder for decoded pixels; default: the run's.")
    cache_gib: float = Field(20, gt=0, description="Most GiB that folder may take; what was unused longest leaves it.")
    publish: Path | None = Field(None, description="Model repository to put the file into, beside the same model.onnx.")
    model_id: str | None = Field(None, description="Id that the model is served under; default: the id in the file.")

    @field_validator("model_id")
    @classmethod
    def _valid_id(cls, model_id: str | None) -> str | None:
        return None if model_id is None else check_model_id(model_id)

    @model_validator(mode="after")
    def _an_id_is_for_publishing(self) -> Self:
        if self.model_id is not None and self.publish is None:
            raise ValueError("--model-id is the name to publish under; give --publish too, or leave it out")
        return self


class SampleConfig(Options):
    """Draw the embedded data set: camera-trap-like frames of three animals and `empty`."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_")

    out: CliPositionalArg[Path] = Field(description="Folder to write; must not exist or be empty.")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of every random choice.")


class CacheListConfig(Options):
    """List the decoded photos that runs keep on disk."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_")

    cache_dir: Path | None = Field(None, description="Folder for decoded pixels; default: the user's cache folder.")


class CacheClearConfig(Options):
    """Delete decoded photos from the disk; the next run decodes them again."""

    model_config = SettingsConfigDict(env_prefix="TRAINER_")

    cache_dir: Path | None = Field(None, description="Folder for decoded pixels; default: the user's cache folder.")
    older_than_days: int | None = Field(
        None, ge=0, le=36_500, description="Delete only what no run has used for so many days."
    )
