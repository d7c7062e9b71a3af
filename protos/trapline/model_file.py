"""`ModelMetadata` <-> the ONNX file's own properties: the model file explains itself.

The metadata is protobuf JSON under one key of the ONNX file's `metadata_props`. Unknown fields are ignored, so files
of newer trainers stay readable, but a file whose preprocessing rules are newer than this code's is refused: it would
be fed pixels that it was not trained on.
"""

import re
from collections.abc import Mapping

from google.protobuf import json_format

from trapline.errors import ModelInvalid
from trapline.v1.metadata_pb2 import ModelMetadata, Preprocessing

#: The key of `metadata_props` that the JSON is kept under.
METADATA_KEY = "trapline.v1.ModelMetadata"
#: Name of the graph's one input: uint8 [N, height_px, width_px, 3], RGB.
INPUT_NAME = "image"
#: Name of the output with softmax probabilities: float32 [N, labels].
PROBABILITIES_NAME = "probabilities"
#: Name of the output with how unlike every class an image is, float32 [N]; there where `ModelMetadata.unknowns` is.
UNKNOWN_SCORE_NAME = "unknown_score"
#: Arithmetic that the files of one version may have; fp32 is always there.
PRECISIONS = ("fp32", "int8", "fp16")
#: The newest `Preprocessing.rule_version` that this code follows.
RULE_VERSION = 1

MODEL_ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_LARGEST_SIDE_PX = 4096


def check_model_id(model_id: str) -> str:
    """`model_id` itself, or ValueError with a sentence where it can't name a model's folder."""
    if not MODEL_ID_PATTERN.fullmatch(model_id):
        raise ValueError(
            f"the model id {model_id!r} must have 1 to 63 lower-case letters, digits, '-' or '_', "
            "the first a letter or digit"
        )
    return model_id


def file_name(precision: str = PRECISIONS[0]) -> str:
    """The name of a version's file of that precision, in a run folder and in a model repository."""
    return "model.onnx" if precision == PRECISIONS[0] else f"model.{precision}.onnx"


def to_properties(metadata: ModelMetadata) -> dict[str, str]:
    """The entries of `metadata_props` that carry `metadata`."""
    return {METADATA_KEY: json_format.MessageToJson(metadata, indent=None)}


def from_properties(properties: Mapping[str, str]) -> ModelMetadata:
    """The metadata that an ONNX file's properties carry, checked.

    Args:
        properties: The file's `metadata_props` as a mapping (`InferenceSession.get_modelmeta().custom_metadata_map`).

    Raises:
        ModelInvalid: The file has no Trapline metadata, broken metadata, or rules newer than this code's.
    """
    text = properties.get(METADATA_KEY)
    if text is None:
        raise ModelInvalid(
            f"the file has no {METADATA_KEY!r} among its properties, so it does not say what its outputs mean; "
            "export it with `trainer run`"
        )
    metadata = ModelMetadata()
    try:
        json_format.Parse(text, metadata, ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise ModelInvalid(f"the metadata in the file is not valid ({error}); export it again") from error
    _check(metadata)
    return metadata


def _check(metadata: ModelMetadata) -> None:
    rules = metadata.preprocessing
    if rules.rule_version > RULE_VERSION:
        raise ModelInvalid(
            f"the file follows preprocessing rules of version {rules.rule_version}, this program knows up to "
            f"{RULE_VERSION}; update Trapline"
        )
    ids = [label.id for label in metadata.labels]
    problem = ""
    if rules.rule_version < 1:
        problem = "preprocessing.ruleVersion is missing"
    elif len(ids) < 2:
        problem = f"it names {len(ids)} labels, and a classifier has at least 2"
    elif len(set(ids)) < len(ids) or "" in ids:
        problem = "its labels' ids are empty or not unique"
    elif not (0 < rules.height_px <= _LARGEST_SIDE_PX and 0 < rules.width_px <= _LARGEST_SIDE_PX):
        problem = f"its input of {rules.width_px} × {rules.height_px} px is not within 1 to {_LARGEST_SIDE_PX}"
    elif rules.fit not in (Preprocessing.FIT_STRETCH, Preprocessing.FIT_LETTERBOX, Preprocessing.FIT_CENTER_CROP):
        problem = f"its fit {rules.fit} is not known here"
    elif rules.interpolation not in (Preprocessing.INTERPOLATION_BILINEAR, Preprocessing.INTERPOLATION_BICUBIC):
        problem = f"its interpolation {rules.interpolation} is not known here"
    elif rules.fit == Preprocessing.FIT_CENTER_CROP and rules.resize_px < max(rules.height_px, rules.width_px):
        problem = f"its resize of {rules.resize_px} px is smaller than what is cut out of it"
    elif not 0 <= rules.decode_min_scale <= 64 or not 0 <= rules.pad_rgb <= 0xFFFFFF:
        problem = "its decode scale or padding colour is out of range"
    elif any(label.HasField("threshold") and not 0 <= label.threshold <= 1 for label in metadata.labels):
        problem = "a label's threshold is not within 0 to 1"
    if problem:
        raise ModelInvalid(f"the metadata in the file is not usable: {problem}; export it again")
