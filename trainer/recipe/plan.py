"""What the unfrozen stage was told: values only, no torch."""

from dataclasses import dataclass
from typing import Literal

from .augment import Preset


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the unfrozen stage was told.

    Attributes:
        epochs: Most epochs.
        batch_size: Images in a step, over all processes, at least: what is left of an epoch is spread over its steps.
        learning_rate: Peak rate of the last layers.
        patience: Epochs without a better one, after the rate's peak, before it stops.
        seed: Seed of every random choice.
        balance: What is done for rare classes: `sampler` draws images by the inverse of their class's count, `loss`
            adds the logarithm of each class's share to its score in the loss (logit adjustment, Menon et al. 2021).
            With either, validation counts classes alike.
        optimizer: `adamw`, or `adam` with the classic L2 penalty.
        schedule: `one_cycle`, or `constant`.
        weight_decay: Of the matrices; vectors (biases, norms) never decay.
        earliest_rate: Share of the rate that the first layer gets; in between it grows geometrically with depth.
        label_smoothing: Share of each target spread over all classes.
        ema_decay: Most of the averaged weights that a step keeps; 0 for no averaging.
        augment: Preset of random changes.
        rotation_degrees: Largest random turn, beside the preset.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of cutmix; 0 for none.
        checkpoint_seconds: Least time between checkpoints inside an epoch.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    seed: int
    balance: Literal["none", "sampler", "loss"] = "none"
    optimizer: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    weight_decay: float = 0.01
    earliest_rate: float = 0.1
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    augment: Preset = "mild"
    rotation_degrees: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    checkpoint_seconds: float = 300.0
