from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from trainer import backbone, export
from trainer.errors import ParityError
from trainer.evaluate.model import load
from trapline import model_file, preprocessing
from trapline.v1.metadata_pb2 import Label, ModelMetadata

RULES = preprocessing.rules(fit="letterbox", image_px=32)
QUIET = SimpleNamespace(say=lambda _sentence: None, progress=lambda _event: None)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A random network, exported: the network and the file's path."""
    torch.manual_seed(0)
    network = backbone.build("mobilenet_v3_small", label_count=3, image_px=32, weights="none")
    labels = [Label(id=name) for name in ("deer", "fox", "hog")]
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export.to_onnx(network, ModelMetadata(model_id="x", labels=labels, preprocessing=RULES), path)
    return network, path


def test_the_file_explains_itself(exported):
    """One uint8 NHWC input with a free batch, one output of probabilities, weights inside, metadata readable."""
    model = onnx.load(exported[1], load_external_data=False)
    (image,), (probabilities,) = model.graph.input, model.graph.output
    shape = [dimension.dim_param or dimension.dim_value for dimension in image.type.tensor_type.shape.dim]
    assert (image.name, image.type.tensor_type.elem_type) == (model_file.INPUT_NAME, onnx.TensorProto.UINT8)
    assert shape[1:] == [32, 32, 3]
    assert isinstance(shape[0], str)
    assert probabilities.name == model_file.PROBABILITIES_NAME
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert load(exported[1], threads=1).labels == ["deer", "fox", "hog"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_batch_gives_the_networks_answers(exported, count):
    """Normalisation and softmax are in the graph: pixels in, the checkpoint's probabilities out."""
    network, path = exported
    pixels = np.random.default_rng(count).integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = network.network(network.normalised(torch.from_numpy(pixels))).softmax(dim=1).numpy()
    np.testing.assert_allclose(load(path, threads=1).probabilities(pixels), expected, atol=1e-5)


def photos(folder, count):
    chance = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(chance.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
    return paths


def test_parity_counts_what_it_compared(exported, tmp_path):
    """Photos through the file against the network's own answers: all agree."""
    network, path = exported
    paths = photos(tmp_path, 20)
    pixels = np.stack([preprocessing.load_image(item.read_bytes(), RULES) for item in paths])
    with torch.no_grad():
        expected = network.network(network.normalised(torch.from_numpy(pixels))).softmax(dim=1).numpy()
    parity = export.check_parity(path, paths, expected, threads=2, report=QUIET)
    assert (parity.image_count, parity.top1_agreement) == (20, 1.0)
    assert parity.largest_difference < 1e-5


def test_a_disagreement_fails_and_names_the_photo(exported, tmp_path):
    """One photo whose answer is not the checkpoint's ends the run with its name and both answers."""
    paths = photos(tmp_path, 3)
    wrong = np.full((3, 3), 1 / 3, dtype=np.float32)
    with pytest.raises(ParityError, match=r"disagree on .*0\.png: \w+ 0\.\d+ against deer 0\.3333"):
        export.check_parity(exported[1], paths, wrong, threads=1, report=QUIET)


def test_a_photo_that_vanished_fails_the_check(exported, tmp_path):
    """A test photo that cannot be read any more is named; it is not silently left out."""
    with pytest.raises(ParityError, match=r"gone\.png could be read for training"):
        export.check_parity(
            exported[1], [tmp_path / "gone.png"], np.ones((1, 3), dtype=np.float32), threads=1, report=QUIET
        )
