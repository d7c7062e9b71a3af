"""The model file explains itself, or is refused with a sentence."""

import json

import pytest
from google.protobuf import json_format

from trapline import model_file, preprocessing
from trapline.errors import ModelInvalid
from trapline.v1.metadata_pb2 import Label, ModelMetadata, Preprocessing


def metadata(**changes) -> ModelMetadata:
    made = ModelMetadata(
        model_id="foxes",
        labels=[Label(id="fox", display_name="Red fox"), Label(id="owl", display_name="owl")],
        preprocessing=preprocessing.rules(fit="stretch", image_px=224),
        backbone="resnet18",
        stage="finetune",
        split_rule="folder",
    )
    made.evaluation.accuracy = 0.9375
    made.export_time.FromJsonString("2026-01-02T03:04:05Z")
    for name, value in changes.items():
        setattr(made.preprocessing, name, value)
    return made


def read(made: ModelMetadata) -> ModelMetadata:
    return model_file.from_properties(model_file.to_properties(made))


def properties(content: object) -> dict[str, str]:
    return {model_file.METADATA_KEY: json.dumps(content)}


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "center_crop"])
@pytest.mark.parametrize("bicubic", [False, True])
def test_metadata_survives_the_round_trip(fit, bicubic):
    """Every field comes back, for every rule that the trainer can write; other properties are left alone."""
    made = metadata()
    made.preprocessing.CopyFrom(preprocessing.rules(fit=fit, image_px=160, bicubic=bicubic))
    assert model_file.from_properties({"producer": "x"} | model_file.to_properties(made)) == made


def test_a_file_without_metadata_is_refused_with_what_to_do():
    """An ONNX file of another origin does not say what its outputs mean."""
    with pytest.raises(ModelInvalid, match="export it with `trainer run`"):
        model_file.from_properties({"other": "{}"})


@pytest.mark.parametrize(
    "text", ["", "{", "null", "3", '{"labels": 3}', '{"labels": [3]}', '{"exportTime": "x"}', "[" * 100_000]
)
def test_broken_json_is_refused(text):
    """Text that is no metadata at all is a refusal, never another exception."""
    with pytest.raises(ModelInvalid, match="not valid"):
        model_file.from_properties({model_file.METADATA_KEY: text})


def test_unknown_fields_and_enum_values_of_newer_trainers_are_ignored():
    """A newer file with the same rules stays readable."""
    content = json_format.MessageToDict(metadata()) | {"fieldOfTomorrow": 1.5, "stage": "finetune"}
    content["preprocessing"]["somethingNew"] = {"a": 1}
    assert model_file.from_properties(properties(content)) == metadata()


def test_thresholds_are_scores():
    """One that no score can be compared with is refused; an absent one means that no score is enough."""
    content = metadata()
    content.labels[0].threshold = 0.9
    assert not read(content).labels[1].HasField("threshold")
    content.labels[1].threshold = 1.5
    with pytest.raises(ModelInvalid, match="threshold"):
        read(content)


def test_newer_rules_are_refused():
    """Pixels of other rules than the file was trained with would be wrong in silence."""
    with pytest.raises(ModelInvalid, match="update Trapline"):
        read(metadata(rule_version=model_file.RULE_VERSION + 1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rule_version": 0}, "ruleVersion is missing"),
        ({"rule_version": -1}, "ruleVersion is missing"),
        ({"height_px": 0}, "224 × 0 px"),
        ({"width_px": -5}, "-5 × 224 px"),
        ({"width_px": 5000}, "5000 × 224 px"),
        ({"fit": Preprocessing.FIT_UNSPECIFIED}, "fit 0 is not known"),
        ({"fit": 9}, "fit 9 is not known"),
        ({"interpolation": Preprocessing.INTERPOLATION_UNSPECIFIED}, "interpolation 0 is not known"),
        ({"interpolation": 7}, "interpolation 7 is not known"),
        ({"fit": Preprocessing.FIT_CENTER_CROP, "resize_px": 223}, "resize of 223 px is smaller"),
        ({"decode_min_scale": -1.0}, "out of range"),
        ({"decode_min_scale": float("nan")}, "out of range"),
        ({"decode_min_scale": float("inf")}, "out of range"),
        ({"pad_rgb": 0x1000000}, "out of range"),
        ({"pad_rgb": -1}, "out of range"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(changes, words):
    """Each rule is checked, and the sentence names the one that is wrong."""
    with pytest.raises(ModelInvalid, match=words):
        read(metadata(**changes))


@pytest.mark.parametrize(
    ("ids", "words"),
    [([], "names 0 labels"), (["fox"], "names 1 labels"), (["fox", "fox"], "not unique"), (["fox", ""], "empty")],
)
def test_labels_that_cannot_tell_classes_apart_are_refused(ids, words):
    """A classifier has at least two labels, each with an id of its own."""
    made = metadata()
    del made.labels[:]
    made.labels.extend(Label(id=name) for name in ids)
    with pytest.raises(ModelInvalid, match=words):
        read(made)


def test_edges_of_the_ranges_are_taken():
    """The limits themselves are in."""
    assert read(metadata(height_px=1, width_px=4096, decode_min_scale=0.0, pad_rgb=0xFFFFFF)).preprocessing.width_px
    assert read(metadata(fit=Preprocessing.FIT_CENTER_CROP, resize_px=224)).preprocessing.resize_px == 224


@pytest.mark.parametrize("model_id", ["a", "0", "foxes-2_b", "a" * 63])
def test_model_ids_that_can_name_a_folder(model_id):
    """The id comes back where it is good."""
    assert model_file.check_model_id(model_id) == model_id


@pytest.mark.parametrize("model_id", ["", "-a", "_a", "A", "a b", "a/b", "..", "a\n", "é", "a" * 64])
def test_model_ids_that_cannot_name_a_folder(model_id):
    """A bad id gets a sentence that tells the rule."""
    with pytest.raises(ValueError, match="1 to 63 lower-case letters"):
        model_file.check_model_id(model_id)
