from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from trainer import backbone, export
from trainer.errors import ParityError
from trainer.evaluate.calibrate import softmax
from trainer.evaluate.model import load
from trainer.evaluate.unknowns import Unknowns, class_means
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


def test_temperature_and_unknown_score_are_in_the_graph(tmp_path):
    """By either measure the file gives what the network's logits and features give, and the network keeps its head."""
    torch.manual_seed(1)
    network = backbone.build("mobilenet_v3_small", label_count=3, image_px=32, weights="none")
    pixels = np.random.default_rng(1).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        features = network.features(torch.from_numpy(pixels))
        logits = network.head(features).numpy()
    probabilities = softmax(logits, 1.7)
    means = class_means(features.numpy(), np.arange(12) % 3, label_count=3)
    described = ModelMetadata(model_id="x", labels=[Label(id=name) for name in "abc"], preprocessing=RULES)
    for method, used in (("nearest_class_mean", means), ("max_softmax", None)):
        unknowns = Unknowns(method=method, unit=0.8, means=used, auroc={}, test_auroc={})
        described.unknowns.method = method
        path = tmp_path / f"{method}.onnx"
        export.to_onnx(network, described, path, temperature=1.7, unknowns=unknowns)
        model = load(path, threads=1)
        for count in (1, 5, 12):
            scores = model.scores(pixels[:count])
            assert scores.shape == (count, 4)
            np.testing.assert_allclose(scores[:, :3], probabilities[:count], atol=1e-5)
            expected = unknowns.scores(probabilities[:count], features.numpy()[:count])
            np.testing.assert_allclose(scores[:, 3], expected, rtol=1e-3, atol=1e-5)
    assert isinstance(network.head, torch.nn.Linear)


#: One builder of each family of torchvision's, and a small input that it takes.
FAMILIES = {
    "alexnet": 96,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 96,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_large": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11_bn": 64,
    "vit_b_32": 64,
    "wide_resnet50_2": 64,
}


@pytest.mark.full
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_its_answers_in_any_batch(name, tmp_path):
    """The file of a random network answers as the network does for batches of one, two and five unlike images."""
    image_px = FAMILIES[name]
    torch.manual_seed(0)
    network = backbone.build(name, label_count=3, image_px=image_px, weights="none")
    pixels = np.random.default_rng(0).integers(0, 255, (5, image_px, image_px, 3), dtype=np.uint8)
    pixels[1::2] //= 4
    images = torch.from_numpy(pixels)
    with torch.no_grad():
        # Statistics of these images and scores as large as a trained head's, or a random network answers all alike.
        for module in network.network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = None
        network.network.train()
        network.network(network.normalised(images))
        network.network.eval()
        seen = network.features(images)
        scale = network.head.weight.std() * (seen - seen.mean(dim=0)).norm(dim=1).mean()
        network.head.weight.div_(scale)
        network.head.bias.copy_(-network.head.weight @ seen.mean(dim=0))
        expected = network.network(network.normalised(images)).softmax(dim=1).numpy()
    assert expected.std(axis=0).max() > 1e-2
    rules = preprocessing.rules(fit="stretch", image_px=image_px)
    labels = [Label(id=label) for label in ("deer", "fox", "hog")]
    means = class_means(seen.numpy(), np.arange(len(seen)) % 3, label_count=3)
    unknowns = Unknowns(method="nearest_class_mean", unit=1.0, means=means, auroc={}, test_auroc={})
    described = ModelMetadata(model_id="x", labels=labels, preprocessing=rules)
    described.unknowns.method = unknowns.method
    export.to_onnx(network, described, tmp_path / "model.onnx", unknowns=unknowns)
    model = load(tmp_path / "model.onnx", threads=1)
    for count in (1, 2, 5):
        np.testing.assert_allclose(model.probabilities(pixels[:count]), expected[:count], atol=1e-3)
    rows = unknowns.scores(expected, network.features(images).detach().numpy())
    np.testing.assert_allclose(model.scores(pixels)[:, 3], rows, rtol=5e-3, atol=1e-3)


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
