"""`RunChoices` <-> `TrainConfig`: the options of a run as a message, both ways.

The two have the same names. What was not given stays absent, so that the service's defaults hold.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from trapline.run_choices import RunChoices
from trapline.v1.train_pb2 import TrainConfig

#: Fields of the message that are no option of a run: what the run is of.
NO_OPTIONS = frozenset({"dataset", "recipe"})


def to_message(dataset: str, options: Mapping[str, object], *, recipe: str = "") -> TrainConfig:
    """The message that asks for a run of `options` (by name, those given alone) on `dataset`."""
    message = TrainConfig(dataset=dataset, recipe=recipe)
    for name, value in options.items():
        field = TrainConfig.DESCRIPTOR.fields_by_name[name]
        if value is None:
            continue
        if field.enum_type is not None:
            setattr(message, name, field.enum_type.values_by_name[f"{prefix(field.enum_type)}{value}".upper()].number)
        else:
            setattr(message, name, str(value) if field.type == FieldDescriptor.TYPE_STRING else value)
    return message


def options_of(message: TrainConfig) -> dict[str, Any]:
    """The options that `message` gives, by name, not checked yet: `RunChoices` and its kin do that.

    An enum's value that is not known here is given as its number, which no option takes.
    """
    options: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name in NO_OPTIONS:
            continue
        if field.enum_type is not None:
            known = field.enum_type.values_by_number.get(value)
            options[field.name] = word(known.name, field.enum_type) if known is not None else str(value)
        else:
            options[field.name] = value
    if message.HasField("learning_rate") and message.learning_rate != "auto":
        options["learning_rate"] = _number(message.learning_rate)
    return options


def option_names() -> frozenset[str]:
    """Names of the options of a run that a message can give."""
    return frozenset(RunChoices.model_fields)


def prefix(enum: Any) -> str:  # noqa: ANN401  # a descriptor, of which protobuf has two classes
    """What the values of an enum of `TrainConfig` begin with, e.g. `GROUP_BY_`."""
    return str(enum.values[0].name).removesuffix("UNSPECIFIED")


def word(name: str, enum: Any) -> str:  # noqa: ANN401  # as above
    """A value's name as the option has it, e.g. `if_better` for `PROMOTE_IF_BETTER`."""
    return name.removeprefix(prefix(enum)).lower()


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # which the option's check refuses, by its name
