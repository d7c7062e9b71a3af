"""What a training run can be told, wherever it is asked for: by `trainer run`, by `trapline train submit`, by message.

Each option is declared here once. `trapline.train_config` turns these into `TrainConfig` and back; where photos are
read and a run is written is not among them, since that is each machine's own.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from trapline.command_line import Options
from trapline.model_file import check_model_id


class RecipeChoices(Options):
    """What a training step does with the photos."""

    backbone: str = Field("resnet18", description="Any classification builder of torchvision, e.g. mobilenet_v2.")
    weights: str = Field("auto", description="auto (torchvision's, cached or downloaded), none, or a state-dict file.")
    image_px: int | None = Field(
        None, ge=16, le=2048, description="Side of the square input in px; default: the backbone's own, mostly 224."
    )
    fit: Literal["stretch", "letterbox", "center_crop", "auto"] = Field(
        "stretch", description="How a photo is made square; auto compares the three by cross-validation."
    )
    batch_size: int | None = Field(
        None,
        ge=2,
        le=4096,
        description="Least images in an optimiser step; what is left of an epoch is spread over its steps, which have "
        "up to nearly twice as many; default: 32 on CPU, 64 on CUDA.",
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
    optimizer: Literal["adamw", "adam"] = Field("adamw", description="adam is the classic one, with an L2 penalty.")
    weight_decay: float = Field(0.01, ge=0, lt=1, description="Of matrices; biases and norms never decay.")
    earliest_rate: float = Field(
        0.01,
        gt=0,
        le=1,
        description="Share of the rate for the first layer; it grows with depth; 1 for one rate.",
    )
    label_smoothing: float = Field(0, ge=0, lt=0.5, description="Share of each target spread over all classes.")
    augment: Literal["none", "flip", "mild", "camera_trap"] = Field(
        "flip", description="Random changes of training photos; camera_trap adds infra-red, night, blur, hidden parts."
    )
    rotation_degrees: float = Field(0, ge=0, le=180, description="Largest random turn of training photos.")
    mixup: float = Field(0, ge=0, le=10, description="Alpha of mixup, blends of two photos; 0 for none.")
    cutmix: float = Field(0, ge=0, le=10, description="Alpha of cutmix, one photo's piece in another; 0 for none.")
    views: int = Field(2, ge=1, le=16, description="Views of each photo that the head is fitted on; 2 is it mirrored.")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.val_share + self.test_share >= 0.95:
            raise ValueError("--val-share and --test-share leave too little to train on; make them smaller")
        if self.fit == "auto" and self.weights == "none":
            raise ValueError("--fit auto compares features of a pretrained backbone; give --weights, or name a fit")
        if self.groups is not None and self.group_by != "auto":
            raise ValueError("--groups and --group-by contradict each other; give one of them")
        return self


class TrainingChoices(RecipeChoices):
    """How a network is trained once its head is fitted."""

    epochs: int = Field(3, ge=0, le=10_000, description="Unfrozen epochs at most; 0 trains the head only.")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] | None = Field(
        None, description="Peak rate of the last layers; auto finds one; default 1e-4, 1e-3 without weights."
    )
    schedule: Literal["one_cycle", "constant"] = Field(
        "one_cycle", description="The rate rises and falls once, or stays."
    )
    ema: bool = Field(True, description="Evaluate and keep weights averaged over the last half of the steps.")
    patience: int | None = Field(
        None, ge=1, le=10_000, description="Epochs without a better one before it stops; default: half, at least 3."
    )

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        if self.weights == "none" and not self.epochs:
            raise ValueError("--weights none with --epochs 0 trains nothing; give --epochs, or weights")
        return self


class RunChoices(TrainingChoices):
    """All of a run."""

    target_precision: float = Field(
        0.95, gt=0, lt=1, description="Share right that each class's threshold is chosen for, on validation."
    )
    refit: Literal["none", "all"] = Field(
        "none", description="all: after the test figure, fit the head again on every photo."
    )
    images: bool = Field(True, description="Show photos and name files in the report; without, it has neither.")
    model_id: str | None = Field(None, description="Id that the model is to be served under.")
    promote: Literal["if_better", "always", "never"] = Field(
        "if_better", description="When a published file becomes the next version; if_better: than the newest one."
    )

    @field_validator("model_id")
    @classmethod
    def _valid_id(cls, model_id: str | None) -> str | None:
        return None if model_id is None else check_model_id(model_id)
