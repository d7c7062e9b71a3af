"""A model of a few bytes, which tells red, green and blue pictures apart, and such pictures."""

import io
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from trapline import model_file, preprocessing
from trapline.v1.metadata_pb2 import Label, ModelMetadata

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def publish(models: Path) -> None:
    """Puts version 1 of the model `colours` into a repository."""
    nodes = [
        helper.make_node("Cast", [model_file.INPUT_NAME], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Softmax", ["mean"], [model_file.PROBABILITIES_NAME]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info(model_file.INPUT_NAME, TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info(model_file.PROBABILITIES_NAME, TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = ModelMetadata(
        labels=[Label(id=label, display_name=label) for label in COLOURS],
        preprocessing=preprocessing.rules(fit="stretch", image_px=8),
    )
    helper.set_model_props(model, model_file.to_properties(metadata))
    folder = models / "colours" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def picture(label: str) -> bytes:
    """A PNG file of the label's colour."""
    file = io.BytesIO()
    Image.new("RGB", (24, 16), COLOURS[label]).save(file, "PNG")
    return file.getvalue()
