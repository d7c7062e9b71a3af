"""The options of a run and the message that asks for one cannot drift apart."""

import typing

import pytest
from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import RunConfig
from trapline.run_choices import RunChoices
from trapline.train_config import NO_OPTIONS, option_names, options_of, prefix, to_message, word
from trapline.v1.train_pb2 import TrainConfig

FIELDS = TrainConfig.DESCRIPTOR.fields_by_name
#: Options of `trainer run` that are the service's own to give: its places, and how often it saves.
OF_THE_SERVICE = {"data", "out", "config", "publish", "cache_dir", "cache_gib", "checkpoint_minutes"}
KINDS = {Field.TYPE_INT32: int, Field.TYPE_INT64: int, Field.TYPE_DOUBLE: float, Field.TYPE_BOOL: bool}


def test_every_option_of_a_run_is_a_field_and_every_field_an_option():
    """Message, shared options and `trainer run` have the same names, but for what the service gives itself."""
    assert set(FIELDS) - NO_OPTIONS == option_names() == set(RunConfig.model_fields) - OF_THE_SERVICE


@pytest.mark.parametrize("name", sorted(option_names()))
def test_each_field_takes_what_its_option_takes(name):
    """Words are enums with the same words; numbers and switches are fields of that kind that can be absent."""
    field, annotation = FIELDS[name], RunChoices.model_fields[name].annotation
    inner = [kind for kind in typing.get_args(annotation) if kind is not type(None)] or [annotation]
    if typing.get_origin(annotation) is typing.Literal:
        words = {word(value.name, field.enum_type) for value in field.enum_type.values[1:]}
        assert words == set(typing.get_args(annotation))
        assert field.enum_type.values[0].number == 0
        assert all(value.name.startswith(prefix(field.enum_type)) for value in field.enum_type.values)
    elif field.type == Field.TYPE_STRING:
        assert field.has_presence or name == "model_id"
    else:
        assert field.has_presence
        assert KINDS[field.type] in inner


def _values(name: str) -> st.SearchStrategy:
    annotation = RunChoices.model_fields[name].annotation
    if typing.get_origin(annotation) is typing.Literal:
        return st.sampled_from(typing.get_args(annotation))
    if name == "learning_rate":
        return st.one_of(st.just("auto"), st.floats(1e-6, 0.9))
    if FIELDS[name].type == Field.TYPE_STRING:
        return st.text("abc-1", min_size=1, max_size=8)
    kind = KINDS[FIELDS[name].type]
    return {int: st.integers(0, 1000), float: st.floats(0, 1), bool: st.booleans()}[kind]


@given(st.fixed_dictionaries({}, optional={name: _values(name) for name in sorted(option_names())}))
def test_what_is_asked_for_arrives(options):
    """Any options, given or not, come through a message and its bytes as they were; nothing else appears."""
    message = TrainConfig.FromString(to_message("birds/2026", options, recipe="flowers").SerializeToString())
    assert options_of(message) == options
    assert (message.dataset, message.recipe) == ("birds/2026", "flowers")


def test_a_word_that_is_not_known_is_no_option():
    """A newer client's enum value is refused by the option's own check, and not taken for the default."""
    message = TrainConfig(dataset="birds")
    message.fit = 99
    assert options_of(message) == {"fit": "99"}


def test_a_rate_that_is_no_number_is_left_to_the_options_check():
    """`learning_rate` is text: what is neither `auto` nor a number comes through for its own refusal."""
    assert options_of(TrainConfig(learning_rate="fast")) == {"learning_rate": "fast"}
