"""What a network computes beside its probabilities: the unknown score, which stays in float32."""

import onnx

from trapline import model_file


def nodes_aside(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that the probabilities do not depend on."""
    needed = {model_file.PROBABILITIES_NAME}
    aside = []
    # Nodes come after what they read.
    for node in reversed(model.graph.node):
        if needed.isdisjoint(node.output):
            aside.append(node.name)
        else:
            needed.update(node.input)
    return aside
