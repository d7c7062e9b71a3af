import pytest
import torch

from trainer.recipe import mixing


def pairs_of(**options):
    return mixing.draw_pairs(8, **({"mixup": 0.0, "cutmix": 0.0} | options), chance=torch.Generator().manual_seed(5))


def test_nothing_asked_for_gives_no_pairs():
    """Without an alpha a batch stays as it is."""
    assert pairs_of() is None


def test_mixup_blends_by_the_weight_in_the_loss():
    """Black and white photos become the grey of their share."""
    pairs = pairs_of(mixup=1.0)
    result = mixing.mixed(torch.ones(8, 3, 4, 4), torch.zeros(8, 3, 4, 4), pairs)
    assert pairs.box is None
    assert torch.allclose(result, torch.full_like(result, pairs.own))


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_weighs_by_the_area_that_is_left(seed):
    """The share of the photo's own pixels is its weight in the loss."""
    pairs = mixing.draw_pairs(8, mixup=0.0, cutmix=1.0, chance=torch.Generator().manual_seed(seed))
    result = mixing.mixed(torch.ones(8, 3, 200, 200), torch.zeros(8, 3, 200, 200), pairs)
    assert float(result.mean()) == pytest.approx(pairs.own, abs=0.01)


def test_both_take_turns():
    """Asked for both, some batches are blended and some are cut."""
    chance = torch.Generator().manual_seed(0)
    boxes = [mixing.draw_pairs(4, mixup=0.2, cutmix=1.0, chance=chance).box for _ in range(20)]
    assert None in boxes
    assert any(boxes)
