import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trainer.precision.aside import nodes_aside
from trainer.precision.fp16 import to_fp16
from trapline.model_file import INPUT_NAME, PROBABILITIES_NAME, UNKNOWN_SCORE_NAME


def network():
    """Features, a head on them, and beside it the root of a sum of squares that half precision could not hold."""
    names = ("weights", "far")
    values = (np.eye(3, dtype=np.float32), np.full(3, 1000, np.float32))
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["pixels"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["features"], name="mean", axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["features", "weights"], ["logits"], name="head"),
        helper.make_node("Softmax", ["logits"], [PROBABILITIES_NAME], name="softmax", axis=1),
        helper.make_node("Sub", ["features", "far"], ["apart"], name="apart"),
        helper.make_node("ReduceSumSquare", ["apart"], ["square"], name="squares", axes=[1], keepdims=0),
        helper.make_node("Sqrt", ["square"], [UNKNOWN_SCORE_NAME], name="root"),
    ]
    outputs = [(PROBABILITIES_NAME, ["N", 3]), (UNKNOWN_SCORE_NAME, ["N"])]
    graph = helper.make_graph(
        nodes,
        "unknowns",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", 4, 4, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in zip(names, values, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_what_the_probabilities_do_not_need_is_aside():
    """The unknown score's own nodes, and none that the head reads."""
    assert set(nodes_aside(network())) == {"apart", "squares", "root"}


def test_the_unknown_score_stays_in_float32(tmp_path):
    """In the fp16 file its squares do not overflow, as they would in half precision."""
    import onnxruntime

    onnx.save(network(), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(
        to_fp16(tmp_path / "model.onnx").SerializeToString(), providers=["CPUExecutionProvider"]
    )
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    score = session.run([UNKNOWN_SCORE_NAME], {INPUT_NAME: pixels})[0]
    np.testing.assert_allclose(score, [3e6**0.5] * 2, rtol=1e-3)
