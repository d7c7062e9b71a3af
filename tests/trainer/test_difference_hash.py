import numpy as np
from PIL import Image

from trainer.dataset.difference_hash import difference_hash


def scene(seed):
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((224, 224), Image.Resampling.BICUBIC))


def bits_apart(one, other):
    return (one ^ other).bit_count()


def test_frames_of_a_burst_are_near_and_scenes_are_far():
    """Noise, brightness and a small animal change few bits; another scene changes many."""
    generator = np.random.default_rng(0)
    for seed in range(20):
        still = scene(seed)
        burst = np.clip(still * 0.9 + generator.normal(0, 8, still.shape), 0, 255).astype(np.uint8)
        burst[100:115, 60:80] = 30
        assert bits_apart(difference_hash(still), difference_hash(burst)) <= 5
        assert bits_apart(difference_hash(still), difference_hash(scene(seed + 100))) > 10


def test_flat_photos_are_not_compared():
    """Black, grey and white frames with sensor noise get 0."""
    generator = np.random.default_rng(0)
    for level in (0, 12, 128, 255):
        frame = np.clip(level + generator.normal(0, 6, (224, 224, 3)), 0, 255).astype(np.uint8)
        assert difference_hash(frame) == 0


def test_letterbox_bars_do_not_count():
    """The hash of a photo is the same with and without bars; a photo of bars only gets 0."""
    content = scene(3)[:126]
    boxed = np.zeros((224, 224, 3), np.uint8)
    boxed[49:175] = content
    assert difference_hash(boxed, pad_rgb=0) == difference_hash(content)
    assert difference_hash(np.zeros((224, 224, 3), np.uint8), pad_rgb=0) == 0


def test_a_ramp_that_only_darkens_is_not_taken_for_flat():
    """0 means "not comparable" and nothing else."""
    ramp = np.repeat(np.linspace(255, 0, 224).astype(np.uint8)[None, :, None], 224, axis=0).repeat(3, axis=2)
    assert difference_hash(ramp) != 0


def test_a_picture_smaller_than_the_grid_gets_0():
    """Fewer than 8 × 9 pixels hold no such hash."""
    assert difference_hash(scene(1)[:7, :8]) == 0
