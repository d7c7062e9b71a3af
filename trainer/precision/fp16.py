"""The fp16 file: half the bytes and, on a GPU, faster; input, output, normalisation and softmax stay as they are."""

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from .aside import nodes_aside

# What has weights: everything before the first of them is normalisation.
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")


def to_fp16(path: Path) -> onnx.ModelProto:
    """The network of the fp32 file at `path` in float16, without metadata."""
    model = onnx.load(path)
    _without_aliases(model)
    first = next(index for index, node in enumerate(model.graph.node) if node.op_type in _WITH_WEIGHTS)
    kept = [node.name for node in model.graph.node[:first]]
    kept += [node.name for node in model.graph.node if node.op_type == "Softmax" and node.output[0] in _outputs(model)]
    kept += nodes_aside(model)
    converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True, node_block_list=kept)
    _shorten(converted)
    return converted


def _without_aliases(model: onnx.ModelProto) -> None:
    """Lets nodes read a weight itself that they read through an Identity, which stays in float32 beside them.

    The exporter writes equal weights once, and such a node for each other place; of a weight that both precisions read
    the converter makes two nodes of one name.
    """
    weights = {weight.name for weight in model.graph.initializer}
    kept: list[onnx.NodeProto] = []
    aliases: dict[str, str] = {}
    for node in model.graph.node:  # nodes come after what they read
        source = aliases.get(node.input[0], node.input[0]) if node.input else ""
        if node.op_type == "Identity" and source in weights and node.output[0] not in _outputs(model):
            aliases[node.output[0]] = source
        else:
            kept.append(node)
    for node in kept:
        node.input[:] = [aliases.get(name, name) for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _shorten(model: onnx.ModelProto) -> None:
    """Takes out the way over float16 between nodes that stay in float32, on which large values and digits are lost."""
    typed = onnx.shape_inference.infer_shapes(model).graph.value_info
    floats = {value.name for value in typed if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    halves = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if _casts_to(node, onnx.TensorProto.FLOAT16) and node.input[0] in floats
    }
    for node in model.graph.node:
        if _casts_to(node, onnx.TensorProto.FLOAT) and node.input[0] in halves:
            node.op_type, node.input[0] = "Identity", halves[node.input[0]]
            del node.attribute[:]


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(attribute.i == kind for attribute in node.attribute)


def _outputs(model: onnx.ModelProto) -> set[str]:
    return {output.name for output in model.graph.output}
