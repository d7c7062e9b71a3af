import numpy as np
from onnx import TensorProto, helper, numpy_helper

from trainer.evaluate.model import open_network
from trainer.precision.biases import channel_means, round_weights
from trapline import model_file


def network(*, shared=False):
    """A dense convolution, then a depthwise one; `shared` gives both one bias."""
    chance = np.random.default_rng(0)
    constants = {
        "dense": chance.normal(0, 1, (3, 3, 3, 3)).astype(np.float32),
        "dense_bias": chance.normal(0, 1, 3).astype(np.float32),
        "deep": chance.normal(0, 1, (3, 1, 1, 1)).astype(np.float32),
        "deep_bias": chance.normal(0, 1, 3).astype(np.float32),
    }
    # One weight for each channel has no rounding error; a second one beside it has.
    constants["deep"] = np.concatenate([constants["deep"], constants["deep"] * 0.3717], axis=3)
    biases = ("dense_bias", "dense_bias" if shared else "deep_bias")
    nodes = [
        helper.make_node("Cast", [model_file.INPUT_NAME], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["channels", "dense", biases[0]], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "deep", biases[1]], ["c"], group=3),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info(model_file.INPUT_NAME, TensorProto.UINT8, ["N", 24, 24, 3])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def pixels(count):
    """Photos without an edge: a mean over the whole of them is that of every place of the kernel."""
    colours = np.random.default_rng(1).integers(0, 256, (count, 1, 1, 3), np.uint8)
    return np.broadcast_to(colours, (count, 24, 24, 3)).copy()


def outputs(model, batch):
    """The mean of each channel of what the network gives, [channels]."""
    return (
        open_network(model.SerializeToString(), threads=1).run(["c"], {model_file.INPUT_NAME: batch})[0].mean((0, 2, 3))
    )


def tensors(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_the_means_are_those_of_the_photos():
    """Of what each convolution reads, over photos and places, however they come in batches."""
    batch = pixels(6)
    means = channel_means(network(), [batch[:4], batch[4:]], threads=1)
    assert means.keys() == {"channels", "b"}
    np.testing.assert_allclose(means["channels"], batch.mean((0, 1, 2)), rtol=1e-5)


def test_what_rounding_adds_is_taken_off_the_biases():
    """Rounded weights have at most 255 values a channel; with the new biases most of what that moves is back."""
    model, batch = network(), pixels(8)
    before, wanted = tensors(model), outputs(model, batch)
    means = channel_means(model, [batch], threads=1)
    only_rounded = network()
    round_weights(model, means)
    after = tensors(model)
    for name in ("dense", "deep"):
        steps = after[name] / (abs(after[name]).max(axis=(1, 2, 3), keepdims=True) / 127)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        assert not np.array_equal(after[name], before[name])
        (tensor,) = [tensor for tensor in only_rounded.graph.initializer if tensor.name == name]
        tensor.CopyFrom(numpy_helper.from_array(after[name], name))
    off, corrected = abs(outputs(only_rounded, batch) - wanted), abs(outputs(model, batch) - wanted)
    assert off.max() > 0.1
    assert corrected.max() < off.max() / 3


def test_a_bias_that_two_layers_share_is_left_alone():
    """Corrected for the one it would be wrong for the other; neither layer's tensors change."""
    model = network(shared=True)
    before = tensors(model)
    round_weights(model, channel_means(model, [pixels(4)], threads=1))
    after = tensors(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_network_without_convolutions_has_no_means():
    """There is nothing to round, and nothing fails."""
    model = network()
    del model.graph.node[2:]
    model.graph.output[0].name = "channels"
    assert channel_means(model, [pixels(1)], threads=1) == {}
    before = tensors(model)
    round_weights(model, {})
    assert all(np.array_equal(before[name], value) for name, value in tensors(model).items())
