import numpy as np
import pytest
import torch

from trainer.recipe import augment


def some_images(count=6, side_px=32):
    pixels = np.random.default_rng(0).integers(0, 256, (count, side_px, side_px, 3)).astype(np.uint8)
    return torch.from_numpy(pixels)


def changed(images, preset, *, seed=3, rotation_degrees=0.0):
    strengths = augment.strengths(preset, rotation_degrees)
    return augment.apply(images, augment.draw(len(images), strengths, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("preset", ["flip", "mild", "camera_trap"])
def test_changes_keep_shape_and_repeat_from_a_seed(preset):
    """Same generator state, same changes; uint8 in, uint8 out, and something does change."""
    images = some_images()
    one, two = changed(images, preset), changed(images, preset)
    assert one.dtype == torch.uint8
    assert one.shape == images.shape
    assert torch.equal(one, two)
    assert not torch.equal(one, images)


def test_none_changes_nothing():
    """The preset `none` gives the very pixels back."""
    assert torch.equal(changed(some_images(), "none"), some_images())


def test_flip_gives_the_photo_or_its_mirror_image():
    """No pixel is interpolated: each result is the photo or exactly its mirror image, and both occur."""
    images = some_images(16)
    mirrored = [torch.equal(one, image.flip(1)) for one, image in zip(changed(images, "flip"), images, strict=True)]
    plain = [torch.equal(one, image) for one, image in zip(changed(images, "flip"), images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert any(mirrored)
    assert any(plain)


def test_a_share_of_a_batch_is_changed_as_in_the_whole():
    """Several processes, each with its share, make the changes that one makes."""
    images, strengths = some_images(8), augment.strengths("camera_trap", 15)
    changes = augment.draw(8, strengths, torch.Generator().manual_seed(1))
    whole = augment.apply(images, changes)
    for chosen in (torch.arange(3), torch.arange(3, 8), torch.tensor([7, 0])):
        assert torch.equal(augment.apply(images[chosen], changes.of(chosen)), whole[chosen])


@pytest.mark.parametrize(
    ("strengths", "what"),
    [
        (augment.Strengths(grey=1.0), lambda _old, new: (new[..., 0] == new[..., 2]).all()),
        (augment.Strengths(low_light=1.0), lambda _old, new: (new.float().mean((1, 2, 3)) < 60).all()),
        (
            augment.Strengths(blurred=1.0),
            lambda old, new: (new.float().std((1, 2, 3)) < old.float().std((1, 2, 3))).all(),
        ),
        (augment.Strengths(strip=1.0), lambda _old, new: ((new == new[:, :1, :1]).all(3).all(2).sum(1) > 0).sum() >= 1),
        (augment.Strengths(erased=1.0), lambda old, new: ((old != new).any(3).float().mean((1, 2)) > 0.005).all()),
        (augment.Strengths(rotation_degrees=45.0), lambda old, new: (old != new).any()),
    ],
    ids=["grey", "low-light", "blurred", "strip", "erased", "turned"],
)
def test_each_strength_does_what_it_says(strengths, what):
    """Asked for on every image, each kind of change is seen on it."""
    images = some_images(8, side_px=224)
    new = augment.apply(images, augment.draw(8, strengths, torch.Generator().manual_seed(2)))
    assert what(images, new)


def test_a_half_turn_is_the_picture_upside_down():
    """Turned by 180 degrees the corners change places."""
    image = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    image[0, :8, :8] = 255
    changes = augment.draw(1, augment.Strengths(), torch.Generator())
    turned = augment.Changes(
        **{name: getattr(changes, name) for name in changes.__dataclass_fields__ if name != "affine"},
        affine=torch.tensor([[[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]]),
    )
    result = augment.apply(image, turned)
    assert result[0, -4:, -4:].float().mean() > 250
    assert result[0, :8, :8].float().mean() < 5
