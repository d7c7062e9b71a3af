import csv
import hashlib
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from trainer.config import ExportConfig
from trainer.dataset.cache import PixelCache
from trainer.dataset.scan import scan
from trainer.errors import PrecisionError, UsageError
from trainer.evaluate.model import load
from trainer.precision.export import export
from trainer.precision.fp16 import to_fp16
from trainer.publish import publish, publish_beside
from trapline import model_file, preprocessing
from trapline.v1.metadata_pb2 import Label, ModelMetadata

RULES = preprocessing.rules(fit="stretch", image_px=16)
LABELS = ("blue", "green", "red")
QUIET = SimpleNamespace(say=lambda _sentence: None, progress=lambda _event: None)


def network(*, outlier=1.0):
    """Which of blue, green and red a photo is, by two convolutions.

    A channel that nobody reads always has the value `outlier`: a large one leaves eight bits no room for the others.
    """
    chance = np.random.default_rng(0)
    first = np.zeros((7, 3, 3, 3), np.float32)
    for channel in range(6):
        first[channel, channel % 3] = 1 / 9 + chance.normal(0, 0.01, (3, 3))
    second = np.zeros((3, 7, 1, 1), np.float32)
    for label in range(3):
        second[label, [2 - label, 5 - label]] = 0.5
    constants = {
        "scale": np.array(255, np.float32),
        "first": first,
        "first_bias": np.array([0.01] * 6 + [outlier], np.float32),
        "second": second,
        "second_bias": np.zeros(3, np.float32),
        "head": np.eye(3, dtype=np.float32) * 50,
        "head_bias": np.zeros(3, np.float32),
    }
    nodes = [
        helper.make_node("Cast", [model_file.INPUT_NAME], ["float"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["scaled"], name="scale"),
        helper.make_node("Transpose", ["scaled"], ["channels"], name="transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["channels", "first", "first_bias"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "second", "second_bias"], ["c"], name="second"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], name="pool"),
        helper.make_node("Flatten", ["d"], ["e"], name="flatten"),
        helper.make_node("Gemm", ["e", "head", "head_bias"], ["f"], name="head", transB=1),
        helper.make_node("Softmax", ["f"], [model_file.PROBABILITIES_NAME], name="softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info(model_file.INPUT_NAME, TensorProto.UINT8, ["N", 16, 16, 3])],
        [helper.make_tensor_value_info(model_file.PROBABILITIES_NAME, TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def finished_run(folder, *, count=90, outlier=1.0):
    """A run folder as `trainer run` leaves it, of `count` photos a class and their `network`."""
    chance = np.random.default_rng(0)
    for channel, label in enumerate(reversed(LABELS)):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(count):
            colour = np.full(3, 120.0)
            colour[channel] += 60
            pixels = np.clip(colour + chance.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / label / f"{number:03}.png")
    with PixelCache.open(folder / "cache", RULES) as cache:
        seen = scan(folder / "photos", preprocessing=RULES, cache=cache, threads=1, report=lambda *_: None)
    labels = [Label(id=label, display_name=label) for label in LABELS]
    metadata = ModelMetadata(
        model_id="colours", labels=labels, preprocessing=RULES, data_digest=seen.data_digest, backbone="drawn"
    )
    run = folder / "run"
    run.mkdir()
    model = network(outlier=outlier)
    helper.set_model_props(model, model_file.to_properties(metadata))
    (run / "model.onnx").write_bytes(model.SerializeToString())
    places = {"data": str(folder / "photos"), "cache_dir": str(folder / "cache")}
    (run / "state.json").write_text(json.dumps({"state": "done", "places": places}))
    with (run / "split.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "part", "group"))
        parts = ["train"] * 7 + ["val", "test", "test"]
        writer.writerows((photo.path, photo.label, parts[index % 10], index) for index, photo in enumerate(seen.photos))
    return run


def test_half_precision_of_a_weight_that_the_exporter_wrote_once(tmp_path):
    """Equal weights are one in the file, read through an Identity elsewhere: the fp16 network loads and agrees."""
    model = network()
    graph = model.graph
    (bias,) = [weight for weight in graph.initializer if weight.name == "second_bias"]
    graph.initializer.remove(bias)
    for name, source in (("same", "head_bias"), ("second_bias", "same")):
        graph.node.insert(0 if name == "same" else 1, helper.make_node("Identity", [source], [name], name=name))
    (tmp_path / "fp32.onnx").write_bytes(model.SerializeToString())
    half = to_fp16(tmp_path / "fp32.onnx")
    assert "Identity" not in {node.op_type for node in half.graph.node if node.name in ("same", "second_bias")}
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    answers = [
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, {model_file.INPUT_NAME: pixels})[0]
        for each in (model, half)
    ]
    assert np.allclose(*answers, atol=5e-3)


def exported(run, precision="int8", **options):
    return export(ExportConfig(run=run, precision=precision, **options), QUIET)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run whose classes lie far apart: what int8 changes is too small to matter."""
    return finished_run(tmp_path_factory.mktemp("plain"))


@pytest.fixture
def fragile(tmp_path):
    """A run whose network eight bits destroy."""
    return finished_run(tmp_path, outlier=3000.0)


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(("precision", "sign"), [("int8", "QuantizeLinear"), ("fp16", "Cast")])
def test_a_cheaper_file_is_what_the_checked_one_is(plain, precision, sign):
    """Same input, output and metadata, but for the precision and the digest of the file that it was made from."""
    said = exported(plain, precision)
    assert said.startswith(f"{precision}: ")
    path = plain / f"model.{precision}.onnx"
    assert operators(path).count(sign) > operators(plain / "model.onnx").count(sign)
    before, after = load(plain / "model.onnx", threads=1), load(path, threads=1)
    for side in ("get_inputs", "get_outputs"):
        (old,), (new,) = getattr(before.session, side)(), getattr(after.session, side)()
        assert (old.name, old.type, old.shape) == (new.name, new.type, new.shape)
    assert after.metadata.precision == precision
    assert after.metadata.fp32_digest == hashlib.sha256((plain / "model.onnx").read_bytes()).hexdigest()
    after.metadata.ClearField("precision")
    after.metadata.ClearField("fp32_digest")
    assert after.metadata == before.metadata
    pixels = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), np.uint8)
    rows = after.probabilities(pixels)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(rows, before.probabilities(pixels), atol=0.2)


def test_normalisation_and_softmax_stay_in_float(plain):
    """Nothing is quantised before the first layer's input or after the last layer's output."""
    exported(plain)
    graph = onnx.load(plain / "model.int8.onnx").graph
    reads = {node.op_type: node.input[0] for node in graph.node if node.op_type in ("Cast", "Div", "Transpose")}
    assert reads == {"Cast": model_file.INPUT_NAME, "Div": "float", "Transpose": "scaled"}
    (softmax,) = [node for node in graph.node if node.op_type == "Softmax"]
    assert softmax.output[0] == model_file.PROBABILITIES_NAME
    weights = {tensor.name: tensor for tensor in graph.initializer}
    steps = [tensor for name, tensor in weights.items() if name == "first_scale"]
    assert numpy_helper.to_array(steps[0]).shape == (7,), "one step for each output channel"


def test_no_photo_that_was_calibrated_with_is_judged(plain):
    """The record lists the calibration photos, all of the training part and alike of each class; the rest is judged."""
    exported(plain)
    record = json.loads((plain / "precision_int8.json").read_text())
    with (plain / "split.csv").open(newline="") as file:
        parts = {row["path"]: row["part"] for row in csv.DictReader(file)}
    used = record["calibration_images"]
    assert len(used) == record["calibration_image_count"] == 189 // 4
    assert {parts[path] for path in used} == {"train"}
    assert {sum(path.startswith(label) for path in used) for label in LABELS} <= {15, 16}
    assert record["image_count"] == 270 - len(used)
    assert record["passed"]
    assert (plain / "precision_int8_flips.csv").read_text().startswith("path,label,fp32,int8,fp32_score,int8_score\n")


def test_a_refusal_leaves_nothing_behind(fragile):
    """The error says what would be lost; an int8 file of an earlier export is gone, every flip is listed."""
    (fragile / "model.int8.onnx").write_bytes(b"of an earlier export")
    with pytest.raises(PrecisionError, match="int8 is refused and fp32 stays") as refused:
        exported(fragile)
    assert sorted(path.name for path in fragile.glob("*.onnx")) == ["model.onnx"]
    assert not list(fragile.glob(".*.tmp"))
    record = json.loads((fragile / "precision_int8.json").read_text())
    with (fragile / "precision_int8_flips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert not record["passed"]
    assert len(rows) == record["flips"] > 0
    assert all(row["fp32"] != row["int8"] and float(row["fp32_score"]) > 0 for row in rows)
    assert f"{270 - 47 - len(rows)} of {270 - 47} photos get the same class" in str(refused.value)
    assert " to " in str(refused.value)


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_what_is_refused_is_taken_out_of_the_repository(fragile, tmp_path, precision):
    """A file that passed once, with other libraries, is not served on; other runs' versions stay as they are."""
    models = tmp_path / "models"
    old, other = publish(fragile / "model.onnx", models, "mine"), models / "mine" / "2"
    other.mkdir()
    for version in (old, other):
        (version / "model.int8.onnx").write_bytes(b"of an earlier export")
    (other / "model.onnx").write_bytes(b"another run's")
    if precision == "auto":
        said = exported(fragile, precision, publish=models, model_id="mine")
        assert (old / "model.fp16.onnx").exists()
    else:
        with pytest.raises(PrecisionError) as refused:
            exported(fragile, precision, publish=models, model_id="mine")
        said = str(refused.value)
    assert f"deleted: {old / 'model.int8.onnx'}; `trapline reload mine` takes it out of service" in said
    assert not (old / "model.int8.onnx").exists()
    assert (old / "model.onnx").exists()
    assert (other / "model.int8.onnx").exists()


def test_auto_keeps_what_passes(fragile):
    """Where int8 fails and fp16 passes, fp16 is kept and the refusal is told; one good file is a success."""
    said = exported(fragile, "auto")
    assert "int8 is refused" in said
    assert "fp16: " in said
    assert sorted(path.name for path in fragile.glob("*.onnx")) == ["model.fp16.onnx", "model.onnx"]


def test_too_few_photos_say_how_many_are_needed(tmp_path):
    """A small set cannot show that the answers are the same, and is told what could."""
    run = finished_run(tmp_path, count=40)
    with pytest.raises(PrecisionError, match="189 photos would be needed"):
        exported(run)
    assert not (run / "model.int8.onnx").exists()


def test_other_photos_and_other_folders_are_refused(plain, tmp_path):
    """The photos must be those of the run; the run must be done; a run that names no place needs --data."""
    (tmp_path / "photos" / "red").mkdir(parents=True)
    (tmp_path / "photos" / "blue").mkdir()
    for label in ("red", "blue"):
        Image.new("RGB", (16, 16), label).save(tmp_path / "photos" / label / "1.png")
    with pytest.raises(UsageError, match="has other photos than the run"):
        exported(plain, data=tmp_path / "photos", cache_dir=tmp_path / "cache")
    with pytest.raises(UsageError, match="there is no folder"):
        exported(plain, data=tmp_path / "absent")
    with pytest.raises(UsageError, match=r"is .* a run folder\?"):
        exported(tmp_path)
    (tmp_path / "state.json").write_text('{"state": "running"}')
    with pytest.raises(UsageError, match="is running, not done"):
        exported(tmp_path)
    (tmp_path / "state.json").write_text('{"state": "done"}')
    (tmp_path / "model.onnx").write_bytes((plain / "model.onnx").read_bytes())
    with pytest.raises(UsageError, match="--data is required"):
        exported(tmp_path)


def test_publishing_puts_the_file_beside_its_own(plain, tmp_path):
    """Into the newest version with the same model.onnx; where there is none, all files are a new version."""
    models = tmp_path / "models"
    other = tmp_path / "other.onnx"
    other.write_bytes(b"another model")
    publish(plain / "model.onnx", models, "mine")
    for extra in (models / "mine" / "1").glob("model.?*.onnx"):
        extra.unlink()
    publish(other, models, "mine")
    assert "version 1" in exported(plain, publish=models, model_id="mine")
    assert (models / "mine" / "1" / "model.int8.onnx").read_bytes() == (plain / "model.int8.onnx").read_bytes()
    assert [path.name for path in (models / "mine" / "2").iterdir()] == ["model.onnx"]
    assert "version 1" in exported(plain, publish=models)
    assert {"model.onnx", "model.int8.onnx"} <= {path.name for path in (models / "colours" / "1").iterdir()}


def publish_by_command(model, models, *more):
    command = [sys.executable, "-c", "from trainer.cli import main; raise SystemExit(main())"]
    command += ["publish", str(model), str(models), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_cheaper_file_is_not_published_alone(plain, tmp_path):
    """No server serves int8 as a version's model.onnx: exit 2, with the file to name, and nothing is written."""
    exported(plain)
    copy = tmp_path / "any.onnx"
    copy.write_bytes((plain / "model.int8.onnx").read_bytes())
    for path in (plain / "model.int8.onnx", copy):
        done = publish_by_command(path, tmp_path / "models")
        assert done.returncode == 2
        assert f"{path} is an int8 file" in done.stderr
        assert "name the run folder, or its model.onnx" in done.stderr
    assert not (tmp_path / "models").exists()
    assert publish_by_command(plain / "model.onnx", tmp_path / "models").returncode == 0


def renamed(run, folder, model_id):
    """A copy of the run whose file has that id."""
    shutil.copytree(run, folder)
    model = onnx.load(folder / "model.onnx")
    metadata = model_file.from_properties({prop.key: prop.value for prop in model.metadata_props})
    metadata.model_id = model_id
    helper.set_model_props(model, model_file.to_properties(metadata))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.mark.parametrize("model_id", ["../escaped", "a/b", "..", "Deer", ""])
def test_an_id_in_a_file_is_no_path(plain, tmp_path, model_id):
    """A file may name anything: what can't be a model's folder is refused, at once, and --model-id helps."""
    run, models = renamed(plain, tmp_path / "run", model_id), tmp_path / "models"
    models.mkdir()
    with pytest.raises(UsageError, match=r"--model-id"):
        export(
            ExportConfig(run=run, precision="int8", publish=models),
            SimpleNamespace(say=pytest.fail, progress=pytest.fail),
        )
    for way in (publish, publish_beside):
        with pytest.raises(UsageError, match="must have 1 to 63 lower-case letters"):
            way(run / "model.onnx", models, model_id)
    done = publish_by_command(run / "model.onnx", models)
    assert (done.returncode, done.stderr.count("--model-id")) == (2, 1), done.stderr
    assert {path.name for path in (*tmp_path.iterdir(), *models.iterdir())} == {"models", "run"}
    assert publish_by_command(run / "model.onnx", models, "--model-id", "deer").returncode == 0


def test_it_needs_no_torch_and_ctrl_c_leaves_the_fp32_file(fragile):
    """`trainer export` never imports torch; interrupted, it ends with 130 and leaves no file of its own."""
    code = (
        "import os, signal, sys\n"
        "import trainer.precision.export as export\n"
        "assert 'torch' not in sys.modules\n"
        "real = export.judge\n"
        "def judge(*given, **named):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(*given, **named)\n"
        "export.judge = judge\n"
        "from trainer.cli import main\n"
        f"sys.argv = ['trainer', 'export', {str(fragile)!r}, '--precision', 'fp16']\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in fragile.glob("*.onnx")) == ["model.onnx"]
    assert not list(fragile.glob(".*.tmp"))
