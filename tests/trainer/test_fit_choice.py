import numpy as np

from trainer import fit_choice


def seen(losses, spread=0.0, count=200, seed=0):
    chance = np.random.default_rng(seed)
    return {
        fit: np.stack([loss + spread * chance.normal(size=count), np.ones(count)], axis=1)
        for fit, loss in losses.items()
    }


GROUPS = np.arange(200)


def test_the_crop_needs_more_than_one_standard_error():
    """A centre crop that is ahead by chance is not taken; one that is clearly ahead is."""
    losses = {"stretch": 0.5, "letterbox": 0.6, "center_crop": 0.49}
    assert fit_choice.choose_fit(seen(losses, spread=0.5), GROUPS)[0] == "stretch"
    assert fit_choice.choose_fit(seen(losses, spread=0.01), GROUPS)[0] == "center_crop"


def test_between_stretch_and_letterbox_the_lower_loss_wins():
    """Both keep the whole photo, so no margin is asked for."""
    assert (
        fit_choice.choose_fit(seen({"stretch": 0.5, "letterbox": 0.49, "center_crop": 0.6}), GROUPS)[0] == "letterbox"
    )


def test_photos_of_one_group_are_not_independent():
    """With the same differences, fewer groups give a larger standard error."""
    losses = {"stretch": 0.5, "letterbox": 0.6, "center_crop": 0.45}
    rows = seen(losses)
    rows["center_crop"][:, 0] += np.repeat(np.random.default_rng(1).normal(0, 0.3, 10), 20)
    alone = fit_choice.choose_fit(rows, GROUPS)[1]["center_crop"].standard_error
    grouped = fit_choice.choose_fit(rows, GROUPS // 20)[1]["center_crop"].standard_error
    assert grouped > 2 * alone


def test_without_a_comparison_photos_are_stretched():
    """Where cross-validation had too few groups nothing is compared, and the table says so."""
    empty = {fit: np.full((4, 2), np.nan) for fit in fit_choice.FITS}
    chosen, scores = fit_choice.choose_fit(empty, np.arange(4))
    assert (chosen, scores) == ("stretch", {})
    assert "cannot be divided among folds" in fit_choice.table(chosen, scores)
