"""Weights rounded to eight bits, and the mean of what that does taken off the biases, before anything is quantised.

The inputs of a layer are mostly positive, so that rounding errors of its weights move all outputs of a channel the same
way. After Nagel et al. (2019), "Data-Free Quantization Through Weight Equalization and Bias Correction", with the means
of photos in place of those of batch norms.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from trapline import model_file

from ..evaluate.model import open_network

_LARGEST_INT8 = 127


def channel_means(
    model: onnx.ModelProto, batches: Iterable[NDArray[np.uint8]], *, threads: int
) -> dict[str, NDArray[np.float64]]:
    """The mean of each channel of what each convolution reads, float64 [channels], by the tensor's name."""
    names = sorted({node.input[0] for node in model.graph.node if node.op_type == "Conv"})
    if not names:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    means = [f"{name}/mean" for name in names]
    # Pooled in the graph: the tensors themselves, of all layers at once, are hundreds of megabytes.
    nodes = zip(names, means, strict=True)
    watched.graph.node.extend(onnx.helper.make_node("GlobalAveragePool", [name], [mean]) for name, mean in nodes)
    watched.graph.output.extend(onnx.ValueInfoProto(name=mean) for mean in means)
    session = open_network(watched.SerializeToString(), threads=threads)
    rows = [session.run(means, {model_file.INPUT_NAME: batch}) for batch in batches]
    return {
        name: np.concatenate(values).astype(np.float64).mean(axis=0).reshape(-1)
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }


def round_weights(model: onnx.ModelProto, means: dict[str, NDArray[np.float64]]) -> None:
    """Rounds convolutions' weights to their int8 steps, and takes what that adds on average off the biases.

    Args:
        model: A network whose batch norms are folded into its convolutions; changed in place.
        means: What `channel_means` gave of it.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        # A bias that several layers share cannot take off what each of them adds.
        own = all(name in tensors and readers[name] == 1 for name in node.input[1:])
        if node.op_type != "Conv" or len(node.input) < 3 or not own:
            continue
        kernel, bias = (numpy_helper.to_array(tensors[name]) for name in node.input[1:])
        largest = abs(kernel).max(axis=tuple(range(1, kernel.ndim)), keepdims=True)
        step = np.where(largest > 0, largest / _LARGEST_INT8, 1).astype(np.float32)
        rounded = (np.rint(kernel / step) * step).astype(np.float32)
        group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        inputs = means[node.input[0]].reshape(group, -1)
        error = (kernel.astype(np.float64) - rounded).sum(axis=(2, 3)).reshape(group, len(kernel) // group, -1)
        missing = np.einsum("goi,gi->go", error, inputs).reshape(-1)
        for name, value in ((node.input[1], rounded), (node.input[2], (bias + missing).astype(np.float32))):
            tensors[name].CopyFrom(numpy_helper.from_array(value, name))
