import urllib.error

import pytest
import safetensors.torch
import torch
from torchvision import models

from trainer import backbone
from trainer.errors import UsageError, WeightsError


@pytest.mark.parametrize(
    ("name", "image_px"),
    [
        ("resnet18", 64),
        ("mobilenet_v2", 64),
        ("mobilenet_v3_small", 64),
        ("squeezenet1_1", 64),
        ("shufflenet_v2_x0_5", 64),
        ("densenet121", 64),
        ("googlenet", 64),
        ("efficientnet_b0", 64),
        ("regnet_x_400mf", 64),
        ("swin_t", 64),
        ("vit_b_32", 64),
        ("mnasnet0_5", 64),
    ],
)
def test_head_is_linear_on_the_features(name, image_px):
    """For any builder the logits are the new linear head's of what `features` gives."""
    torch.manual_seed(0)
    built = backbone.build(name, label_count=3, image_px=image_px, weights="none")
    images = torch.randint(0, 255, (2, image_px, image_px, 3), dtype=torch.uint8)
    with torch.no_grad():
        features = built.features(images)
        logits = built.network(built.normalised(images))
    assert features.shape == (2, built.head.in_features)
    assert logits.shape == (2, 3)
    torch.testing.assert_close(built.head(features), logits)


def test_normalisation_is_that_of_the_weights():
    """Pixels reach the network as torchvision's own transform of these weights would give them."""
    built = backbone.build("mobilenet_v3_small", label_count=2, image_px=32, weights="none")
    image = torch.randint(0, 255, (32, 32, 3), dtype=torch.uint8)
    transforms = models.MobileNet_V3_Small_Weights.DEFAULT.transforms(crop_size=32, resize_size=32)
    expected = transforms(image.permute(2, 0, 1))
    torch.testing.assert_close(built.normalised(image[None])[0], expected, atol=1e-5, rtol=1e-5)


def test_weights_file_may_lack_only_the_head(tmp_path):
    """A state dict without its classifier loads, whichever of the two file kinds it is in."""
    torch.manual_seed(1)
    source = models.mobilenet_v3_small(weights=None).state_dict()
    features = {name: value for name, value in source.items() if not name.startswith("classifier.3.")}
    torch.save(features, tmp_path / "weights.pth")
    safetensors.torch.save_file(features, tmp_path / "weights.safetensors")
    for name in ("weights.pth", "weights.safetensors"):
        built = backbone.build("mobilenet_v3_small", label_count=2, image_px=32, weights=str(tmp_path / name))
        assert built.pretrained
        loaded = built.network.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in features.items())


def test_wrong_weights_are_named(tmp_path):
    """Another network's weights, text, and a pickle that runs code are each refused with a sentence."""
    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"x": print}, tmp_path / "code.pth")
    for name, sentence in (
        ("other.pth", "does not fit mobilenet_v3_small: it lacks"),
        ("text.pth", "no file of tensors that can be read safely"),
        ("code.pth", "no file of tensors that can be read safely"),
        ("none.pth", "there is no file"),
    ):
        with pytest.raises(WeightsError, match=sentence):
            backbone.build("mobilenet_v3_small", label_count=2, image_px=32, weights=str(tmp_path / name))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    """A tensor that the network would not have as finite numbers is named; the head's, which is left out, may be so."""
    torch.manual_seed(1)
    state = models.mobilenet_v3_small(weights=None).state_dict()
    state["classifier.3.bias"][0] = float("nan")
    torch.save(state, tmp_path / "weights.pth")
    backbone.build("mobilenet_v3_small", label_count=2, image_px=32, weights=str(tmp_path / "weights.pth"))
    state["features.0.1.running_var"] = state["features.0.1.running_var"].double()
    state["features.0.1.running_var"][3] = value
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(
        WeightsError, match=r"weights\.pth has values in features\.0\.1\.running_var that are no finite"
    ):
        backbone.build("mobilenet_v3_small", label_count=2, image_px=32, weights=str(tmp_path / "weights.pth"))


def test_weights_that_cannot_be_downloaded_say_what_to_do(tmp_path, monkeypatch):
    """Offline, `auto` names the file, the folder it belongs in, and the two other ways."""

    def refuse(*_arguments, **_options):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(WeightsError, match=r"resnet18-\w+\.pth is not in .*--weights FILE.*--weights none"):
        backbone.build("resnet18", label_count=2, image_px=32, weights="auto")


def test_cached_weights_are_used(tmp_path, monkeypatch):
    """`auto` takes a file from torch's cache and loads nothing."""
    torch.manual_seed(2)
    state = models.squeezenet1_1(weights=None).state_dict()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    name = models.SqueezeNet1_1_Weights.DEFAULT.url.rsplit("/", 1)[1]
    torch.save(state, tmp_path / "hub" / "checkpoints" / name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    built = backbone.build("squeezenet1_1", label_count=2, image_px=64, weights="auto")
    torch.testing.assert_close(built.network.state_dict()["features.0.weight"], state["features.0.weight"])


def test_images_too_small_for_a_builder_are_refused():
    """A size that only the forward pass finds too small is a sentence, not a traceback."""
    with pytest.raises(UsageError, match=r"--image-px: inception_v3 cannot take images of 32 px"):
        backbone.build("inception_v3", label_count=2, image_px=32, weights="none")


def test_depth_grows_from_the_first_layer_to_the_head():
    """Layer-wise rates follow the order in which the layers run."""
    built = backbone.build("resnet18", label_count=2, image_px=32, weights="none")
    depths = built.depths()
    assert depths["conv1.weight"] == 0
    assert depths["fc.weight"] == depths["fc.bias"] == 1
    assert depths["layer1.0.conv1.weight"] < depths["layer4.1.conv2.weight"]
