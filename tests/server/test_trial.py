"""Models that want everything: refused in a process of their own, while the good version serves on."""

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from server.trial import try_out
from trapline.errors import ModelInvalid, ShuttingDown, from_rpc_error, reason_name
from trapline.v1 import model_pb2

NAME = "models/colours"
GIB16 = [1 << 20, 1 << 12]


def beside_the_scores(model: onnx.ModelProto, nodes: list[onnx.NodeProto], value: str) -> None:
    """Puts `nodes` before the others, and adds their `value`, a scalar, to the scores."""
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    softmax = model.graph.node[-1]
    name, softmax.output[0] = softmax.output[0], "scores"
    model.graph.node.append(helper.make_node("Add", ["scores", value], [name]))


def huge_constant(model: onnx.ModelProto) -> None:
    """16 GiB of zeros by a shape that stands in the file."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(GIB16, np.int64), "shape"))
    zeros = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], value=zeros),
        helper.make_node("ReduceMax", ["zeros"], ["top"], keepdims=0),
    ]
    beside_the_scores(model, nodes, "top")


def huge_by_its_input(model: onnx.ModelProto) -> None:
    """16 GiB by a shape that is worked out from the image's own, so that no look at the file tells of it."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "none"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(GIB16, np.int64), "shape"))
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    nodes = [
        helper.make_node("Shape", ["image"], ["size"]),
        helper.make_node("ReduceSum", ["size", "none"], ["sum"], keepdims=1),
        helper.make_node("Sub", ["sum", "sum"], ["nothing"]),
        helper.make_node("Add", ["shape", "nothing"], ["wanted"]),
        helper.make_node("ConstantOfShape", ["wanted"], ["zeros"], value=zero),
        helper.make_node("ReduceMax", ["zeros"], ["top"], keepdims=0),
    ]
    beside_the_scores(model, nodes, "top")


def huge_sparse(model: onnx.ModelProto) -> None:
    """A sparse weight of one value that is 16 GiB when it is laid out."""
    value = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [0.0])
    index = helper.make_tensor("index", TensorProto.INT64, [1], [5])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(value, index, GIB16))
    beside_the_scores(model, [helper.make_node("ReduceMax", ["sparse"], ["top"], keepdims=0)], "top")


def a_claim(model: onnx.ModelProto) -> None:
    """A weight that claims 16 GiB and brings four bytes."""
    scale = next(item for item in model.graph.initializer if item.name == "scale")
    scale.dims.extend(GIB16)


HUGE = (huge_constant, huge_by_its_input, huge_sparse, a_claim)


@pytest.mark.parametrize("change", HUGE)
async def test_a_tiny_model_with_a_huge_tensor_is_refused_and_the_good_one_serves_on(kit, models, change):
    """ReloadModel ends with MODEL_INVALID, version 1 answers as before, and the server's own memory did not grow."""
    bad = kit.with_nodes(kit.model_bytes(), change)
    assert len(bad) < 1500
    async with kit.running(models, model_memory_mib=1024, max_batch=2) as (_, stubs):
        kit.publish(models, "colours", 2, bad)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stubs.models.ReloadModel(model_pb2.ReloadModelRequest(name=NAME))
        refusal = from_rpc_error(failed.value)
        assert reason_name(refusal) == "MODEL_INVALID"
        if change in (huge_constant, huge_by_its_input):
            assert "needs more than the 1,024 MiB of --model-memory-mib" in refusal.message
        answer = await stubs.classify.Classify(kit.request(kit.picture()))
        assert answer.model_version == "1"
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak_kib < 4 * 2**20, "16 GiB were never had here"


def test_a_good_model_passes_its_trial(kit):
    """What fits is let through; the same file under a limit that is too small is not, and the sentence names it."""
    good = kit.model_bytes(work=1)
    try_out(good, max_batch=4, memory_mib=1024)
    with pytest.raises(ModelInvalid, match="--model-memory-mib"):
        try_out(good, max_batch=4, memory_mib=1)


def test_the_trial_says_what_loading_would(kit):
    """A broken file is refused by its trial in the words of the session; no traceback, no exit of ours."""
    for content, sentence in ((b"junk", "cannot load the file"), (kit.model_bytes(labels=("a", "b")), "has shape")):
        with pytest.raises(ModelInvalid, match=sentence):
            try_out(content, max_batch=2, memory_mib=1024)


def test_a_trial_that_does_not_end_is_ended(kit, monkeypatch):
    """A model that runs for ever is refused when the time is over."""
    monkeypatch.setattr("server.trial.TRIAL_SECONDS", 0.01)
    with pytest.raises(ModelInvalid, match=r"took over 0\.01 s"):
        try_out(kit.model_bytes(), max_batch=2, memory_mib=1024)


def test_a_trial_ends_with_its_server(kit):
    """A server that stops does not wait for a trial, and leaves no process of it behind."""
    stopping, before = threading.Event(), children()
    stopping.set()
    with pytest.raises(ShuttingDown):
        try_out(kit.model_bytes(work=200), max_batch=64, memory_mib=4096, stopping=stopping)
    assert children() <= before


def children():
    """The processes that this one started and has not buried."""
    return {int(each) for path in Path("/proc/self/task").glob("*/children") for each in path.read_text().split()}


def test_a_trial_that_the_kernel_ends_is_a_refusal(kit, monkeypatch):
    """A process that dies of a signal is told as the model's fault, with the signal."""
    monkeypatch.setattr("server.trial._PROGRAM", "import os; os.abort()")
    with pytest.raises(ModelInvalid, match="ended by signal 6"):
        try_out(kit.model_bytes(), max_batch=2, memory_mib=1024)


def test_a_trial_imports_nothing_of_the_working_folder(kit, tmp_path, monkeypatch):
    """A file `server.py`, or `onnxruntime.py`, that lies about is not run."""
    for name in ("server", "onnxruntime", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    try_out(kit.model_bytes(), max_batch=2, memory_mib=1024)


def external(good: bytes, location: str) -> bytes:
    """The model with its weight `scale` in another file."""
    model = onnx.load_from_string(good)
    weight = next(item for item in model.graph.initializer if item.name == "scale")
    size = len(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(size)}.items():
        weight.external_data.add(key=key, value=value)
    return model.SerializeToString()


@pytest.mark.parametrize("kind", ["parent", "absolute", "symlink", "hard link", "beside"])
async def test_weights_in_another_file_are_refused(kit, models, tmp_path, monkeypatch, kind):
    """`..`, an absolute path, a symbolic or a hard link, the very folder: refused, and the good version serves on."""
    outside = tmp_path / "outside.bin"
    outside.write_bytes(np.float32(0.02).tobytes())
    location = {"parent": "../outside.bin", "absolute": str(outside)}.get(kind, "weights.bin")
    folder = models / "colours" / "2"
    kit.publish(models, "colours", 2, external(kit.model_bytes(), location))
    if kind == "symlink":
        (folder / "weights.bin").symlink_to(outside)
    elif kind == "hard link":
        os.link(outside, folder / "weights.bin")
    elif kind == "beside":
        (folder / "weights.bin").write_bytes(outside.read_bytes())
    (models / "colours" / "outside.bin").write_bytes(outside.read_bytes())
    monkeypatch.chdir(folder)
    with pytest.raises(ModelInvalid, match="external data"):
        try_out((folder / "model.onnx").read_bytes(), max_batch=2, memory_mib=1024)
    async with kit.running(models) as (_, stubs):
        model = await stubs.models.GetModel(model_pb2.GetModelRequest(name=NAME))
        assert (model.version, "external data" in model.last_error.message) == ("1", True)
        assert (await stubs.classify.Classify(kit.request(kit.picture()))).model_version == "1"


def test_check_tries_out_too(kit, models):
    """`server check` refuses what `server run` would, with the same sentence and exit 1."""
    kit.publish(models, "colours", 2, kit.with_nodes(kit.model_bytes(), huge_constant))
    script = Path(sys.executable).with_name("server")
    command = [script, "check", "--models", models, "--device", "cpu", "--model-memory-mib", "512"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "colours version 1: ok" in ended.stdout
    assert "needs more than the 512 MiB of --model-memory-mib" in ended.stdout
