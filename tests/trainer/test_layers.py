"""Grad-CAM, activations and the table of layers: by hand on a tiny network, then on torchvision's own."""

import numpy as np
import pytest
import torch
from torch import nn

from trainer import backbone
from trainer.backbone import Backbone
from trainer.builders import BUILDERS
from trainer.errors import TrainerError
from trainer.evaluate.layers import feature_maps, grad_cam, model_summary
from trainer.evaluate.maps import as_map, depth_places, grid, heat_place, outputs

SIDE = 32


def wrapped(network, head_path):
    return Backbone(name="tiny", network=network, head_path=head_path, mean=(0, 0, 0), std=(1, 1, 1), pretrained=False)


def red_or_blue(*, threshold=0.5):
    """Channel 0 is how much redder than `threshold` a place is, channel 1 how much bluer; each is one class's score."""
    look = nn.Conv2d(3, 2, 1)
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        look.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])[:, :, None, None])
        look.bias.fill_(-threshold)
        head.weight.copy_(torch.eye(2))
    layers = nn.Sequential(look, nn.ReLU(inplace=True), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return wrapped(layers, "5")


def red_above_blue():
    """A red square in the upper left corner, a blue one in the lower right corner, black between them."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[:8, :8, 0] = 255
    image[-16:, -16:, 2] = 255
    return image


def test_the_heat_lies_where_the_evidence_is():
    """What is red speaks for red and what is blue for blue; nothing else does; the strongest place has 1."""
    images = np.stack([red_above_blue()] * 2)
    red, blue = grad_cam(red_or_blue(), images, np.array([0, 1]))
    assert red.shape == (SIDE, SIDE)
    assert red.dtype == np.float32
    assert (red[:8, :8] == 1).all()
    assert (blue[-16:, -16:] == 1).all()
    assert red.sum() == pytest.approx(8 * 8)
    assert blue.sum() == pytest.approx(16 * 16)


def test_no_evidence_is_no_heat():
    """A photo in which nothing speaks for the class has zeros, not the division of nothing by nothing."""
    heat = grad_cam(red_or_blue(), np.zeros((1, SIDE, SIDE, 3), np.uint8), np.array([0]))
    assert (heat == 0).all()


def test_grad_cam_is_the_papers_sum_on_a_real_network():
    """Each channel times its mean slope, the positive part, made large: as by autograd on the whole graph."""
    torch.manual_seed(0)
    built = backbone.build("resnet18", label_count=3, image_px=64, weights="none")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    kept = []
    handle = built.network.layer4.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    built.network.eval()
    scores = built.network(built.normalised(torch.from_numpy(images)))
    handle.remove()
    got = grad_cam(built, images, np.array([2, 0, 1]))
    for row, label in enumerate([2, 0, 1]):
        (slope,) = torch.autograd.grad(scores[row, label], kept[0], retain_graph=True)
        heat = (slope[row].mean(dim=(1, 2))[:, None, None] * kept[0][row]).sum(dim=0).relu()
        # Places look at pixels 0 and 32; beyond them there is nothing to go to.
        pixels, coarse = np.arange(64), heat.detach().numpy()
        tall = np.array([np.interp(pixels, [0, 32], column) for column in coarse.T]).T
        large = np.array([np.interp(pixels, [0, 32], line) for line in tall])
        assert large.max() > 0
        np.testing.assert_allclose(got[row], large / large.max(), atol=1e-5)


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (2, 0), (5, 2), (4, 0)])
def test_the_heat_is_not_shifted(kernel, padding):
    """However windows lie, the heat's middle is that of what is seen; laid on evenly some would be half a place off."""
    small = [layer for _ in range(3) for layer in (nn.Conv2d(1, 1, kernel, stride=2, padding=padding), nn.ReLU())]
    grey = nn.Conv2d(3, 1, 1)
    network = nn.Sequential(grey, *small, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1, bias=False))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.0 if parameter.dim() == 1 else 1 / parameter[0].numel())
    offsets = []
    for begin in range(40, 70):
        image = np.zeros((1, 128, 128, 3), np.uint8)
        image[:, begin : begin + 16, 50:66] = 255
        (heat,) = grad_cam(wrapped(network, "9"), image, np.array([0]))
        offsets.append((heat.sum(axis=1) * np.arange(128)).sum() / heat.sum() - (begin + 7.5))
    assert abs(np.mean(offsets)) < 0.5
    assert np.abs(offsets).max() < 4


@pytest.mark.parametrize(
    ("name", "image_px", "first", "step"),
    [
        ("resnet18", 64, 0, 32),
        ("mobilenet_v3_small", 96, 0, 32),
        ("squeezenet1_1", 95, 15, 16),
        ("swin_t", 64, 15.5, 32),  # four patches merged, three times
        pytest.param("vgg11_bn", 64, 7.5, 16, marks=pytest.mark.full),
        pytest.param("vit_b_32", 64, 15.5, 32, marks=pytest.mark.full),  # a patch as it was cut
    ],
)
def test_places_look_where_the_arithmetic_says(name, image_px, first, step):
    """The first place's pixel and the distance between places, worked out by hand from windows, strides, paddings."""
    network = backbone.build(name, label_count=2, image_px=image_px, weights="none").network
    found = outputs(network, image_px=image_px)
    assert grid(found, heat_place(network, found), image_px=image_px) == (first, step)


def test_looking_changes_nothing():
    """No hook stays, what can be trained still can be, no gradient is left, and the answers are as before."""
    built = red_or_blue()
    built.network[0].bias.requires_grad_(False)
    wanting = [parameter.requires_grad for parameter in built.network.parameters()]
    images = np.stack([red_above_blue()])
    before = built.network(built.normalised(torch.from_numpy(images)))
    grad_cam(built, images, np.array([0]))
    feature_maps(built, images)
    model_summary(built, image_px=SIDE)
    assert torch.equal(before, built.network(built.normalised(torch.from_numpy(images))))
    assert [parameter.requires_grad for parameter in built.network.parameters()] == wanting
    assert all(parameter.grad is None for parameter in built.network.parameters())
    assert not any(module._forward_hooks for module in built.network.modules())


def test_a_network_without_maps_says_so():
    """Where no layer sees more than one place there is no Grad-CAM, with a sentence, and no depth."""
    flat = wrapped(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 4), nn.ReLU(), nn.Linear(4, 2)), "3")
    images = np.stack([red_above_blue()])
    with pytest.raises(TrainerError, match="no Grad-CAM: tiny sees pictures of 32 px in no layer as more than one"):
        grad_cam(flat, images, np.array([0]))
    assert feature_maps(flat, images) == []


def test_activations_are_counted_by_hand():
    """Of 20 photos, more than go through at once: 64 red and 256 blue places of 1024 in two channels are not zero."""
    images = np.stack([red_above_blue()] * 20)
    (depth,) = feature_maps(red_or_blue(), images, shown=18)
    assert depth.share == pytest.approx((64 + 256) / (2 * 1024))
    assert (depth.name, depth.channel_count, depth.side) == ("1", 2, SIDE)
    assert depth.maps.shape == (18, 2, SIDE, SIDE)
    assert np.count_nonzero(depth.maps[17, 0]) == 64
    assert np.count_nonzero(depth.maps[17, 1]) == 256
    (all_on,) = feature_maps(red_or_blue(threshold=-0.5), images[:1], shown=0)
    assert all_on.share == 1
    assert len(all_on.maps) == 0


def test_the_liveliest_channels_are_kept():
    """Of many channels the 16 that differ most over the photo, in the network's order; a flat one is not among them."""
    look = nn.Conv2d(3, 20, 1)
    with torch.no_grad():
        look.weight.zero_()
        look.weight[:, 0, 0, 0] = torch.tensor([0.0] * 4 + list(range(16, 0, -1)))
        look.bias.fill_(1)
    network = nn.Sequential(look, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 2))
    (depth,) = feature_maps(wrapped(network, "4"), np.stack([red_above_blue()]))
    assert depth.channel_count == 20
    assert depth.maps[0, :, 0, 0].tolist() == list(range(17, 1, -1))


def test_five_depths_are_the_stages():
    """A network that halves the picture five times shows each stage's last activations; shares are those of a hook."""
    torch.manual_seed(0)
    built = backbone.build("resnet18", label_count=3, image_px=64, weights="none")
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    depths = feature_maps(built, images)
    assert [depth.name for depth in depths] == ["relu", "layer1", "layer2", "layer3", "layer4"]
    assert [depth.side for depth in depths] == [32, 16, 8, 4, 2]
    kept = []
    handle = built.network.layer3.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with torch.no_grad():
        built.network(built.normalised(torch.from_numpy(images)))
    handle.remove()
    assert depths[3].share == pytest.approx(np.count_nonzero(kept[0]) / kept[0].numel())
    assert 0 < depths[3].share < 1


def test_tokens_lie_as_the_patches_do():
    """A transformer's tokens become rows and columns of patches, without the class token."""
    tokens = torch.arange(10.0).reshape(1, 10, 1)
    assert as_map(tokens, "tokens")[0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_summary_has_every_parameter_once():
    """Counts are the network's own; shapes are those of the tensors; a run of the head alone trained the head alone."""
    built = red_or_blue()
    rows = {row.path: row for row in model_summary(built, image_px=SIDE)}
    assert rows["0"].kind == "Conv2d"
    assert rows["0"].output_shape == (2, SIDE, SIDE)
    assert rows["0"].parameters == rows["0"].trainable == 8
    assert rows["2"].output_shape == (2, SIDE // 2, SIDE // 2)
    assert rows["5"].output_shape == (2,)
    head_only = model_summary(built, image_px=SIDE, head_only=True)
    assert {row.path: row.trainable for row in head_only if row.trainable} == {"5": 4}


#: Where Grad-CAM looks, and the depths, of one network of each family.
FAMILIES = {
    "alexnet": ("features.11", 5),
    "convnext_tiny": ("features", 5),
    "densenet121": ("features", 5),
    "efficientnet_b0": ("features", 5),
    "efficientnet_v2_s": ("features", 5),
    "googlenet": ("inception5b", 5),
    "inception_v3": ("Mixed_7c", 5),
    "maxvit_t": ("blocks.3", 5),
    "mnasnet0_5": ("layers", 5),
    "mobilenet_v2": ("features", 5),
    "mobilenet_v3_small": ("features", 5),
    "regnet_x_400mf": ("trunk_output", 5),
    "regnet_y_400mf": ("trunk_output", 5),
    "resnet18": ("layer4", 5),
    "resnext50_32x4d": ("layer4", 5),
    "shufflenet_v2_x0_5": ("conv5", 5),
    "squeezenet1_1": ("features", 5),
    "swin_t": ("permute", 5),
    "swin_v2_t": ("permute", 5),
    "vgg11_bn": ("features.27", 5),
    "vit_b_32": ("encoder.layers.encoder_layer_11.ln_1", 5),
    "wide_resnet50_2": ("layer4", 5),
}
QUICK = ("mobilenet_v3_small", "squeezenet1_1")


def alive(built, images):
    """Gives BatchNorm the photos' own statistics: a fresh network's activations die out with depth."""
    for module in built.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    built.network.train()
    with torch.no_grad():
        built.network(built.normalised(torch.from_numpy(images)))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in FAMILIES]
)
def test_every_family_has_heat_depths_and_a_summary(name):
    """For any builder: heat in [0, 1] at the last map, five depths from large to small, every parameter counted."""
    torch.manual_seed(0)
    image_px = BUILDERS[name].image_px if name not in QUICK else 96
    built = backbone.build(name, label_count=4, image_px=image_px, weights="none")
    images = np.random.default_rng(0).integers(0, 256, (4, image_px, image_px, 3), dtype=np.uint8)
    alive(built, images)
    place, depths = FAMILIES[name]
    found = outputs(built.network, image_px=image_px)
    assert heat_place(built.network, found).path == place
    heat = grad_cam(built, images, np.arange(4))
    assert heat.shape == images.shape[:3]
    assert np.isfinite(heat).all()
    assert heat.min() >= 0
    # Where nothing speaks for a class all is zero; not for every class at once.
    assert heat.max() == pytest.approx(1, abs=1e-5)
    assert heat.std() > 0
    seen = feature_maps(built, images, shown=2)
    assert len(seen) == depths
    assert [depth.side for depth in seen] == sorted((depth.side for depth in seen), reverse=True)
    for depth in seen:
        assert depth.maps.shape == (2, min(16, depth.channel_count), depth.side, depth.side)
        assert 0 < depth.share <= 1
    rows = model_summary(built, image_px=image_px)
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in built.network.parameters())
    # Attention uses the weights of its parts without calling them.
    assert all(row.output_shape for row in rows if row.kind == "Conv2d")


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in BUILDERS if not name.startswith("regnet_")])
def test_every_builder_has_places(name):
    """Each of torchvision's builders has a place for Grad-CAM and five depths, told without computing anything.

    RegNets cannot be built without numbers; two of them are above, and the others differ in size alone.
    """
    image_px = BUILDERS[name].image_px
    with torch.device("meta"):
        network = backbone._construct(name, image_px, pretrained=False)
    found = outputs(network, image_px=image_px)
    assert heat_place(network, found) is not None
    assert len(depth_places(found, depths=5)) == 5
