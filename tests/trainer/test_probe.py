import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from trainer.recipe import augment, probe


def some_features(count, *, features, labels, seed=0):
    chance = np.random.default_rng(seed)
    centres = chance.normal(0, 1, (labels, features))
    targets = np.arange(count) % labels
    inputs = centres[targets] + chance.normal(0, 2, (count, features))
    return (inputs * 3 + 1).astype(np.float32), targets.astype(np.int64)


def fit(inputs, targets, groups=None, **options):
    groups = np.arange(len(targets)) if groups is None else groups
    options = {"balance": "none", "seed": 0, "report": lambda _done, _total: None} | options
    return probe.fit_head(inputs[None], targets, groups, **options)


@pytest.mark.parametrize(("count", "features", "labels"), [(60, 200, 4), (200, 20, 3), (80, 100, 2)])
def test_head_is_plain_logistic_regression(count, features, labels):
    """Folding and rotating change nothing: the layer answers as scikit-learn on standardised features does."""
    inputs, targets = some_features(count, features=features, labels=labels)
    inputs[:, 0] = 0.5  # a dead unit
    head = fit(inputs, targets)
    scaler = StandardScaler().fit(inputs.astype(np.float64))
    plain = LogisticRegression(C=head.strength, max_iter=5000, tol=1e-8)
    plain.fit(scaler.transform(inputs.astype(np.float64)), targets)
    expected = plain.predict_proba(scaler.transform(inputs.astype(np.float64)))
    scores = inputs @ head.weight.T + head.bias
    got = np.exp(scores - scores.max(axis=1, keepdims=True))
    got /= got.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got, expected, atol=0.02)
    assert head.strength == min(head.losses, key=head.losses.get)


def test_folds_keep_groups_together():
    """Copies of one photo in a group do not fool cross-validation into a weaker penalty than singles get."""
    inputs, targets = some_features(40, features=60, labels=2, seed=3)
    copies = np.repeat(inputs, 4, axis=0)
    grouped = fit(copies, np.repeat(targets, 4), np.repeat(np.arange(40), 4))
    leaked = fit(copies, np.repeat(targets, 4))
    assert min(leaked.losses.values()) < min(grouped.losses.values())


def test_a_class_with_one_group_is_fitted_without_a_choice():
    """Where no fold can be made the head is fitted at a fixed strength, and the losses are empty."""
    inputs, targets = some_features(12, features=8, labels=2)
    head = fit(inputs, targets, np.where(targets == 0, 0, np.arange(12)))
    assert head.losses == {}
    assert head.weight.shape == (2, 8)


@pytest.mark.parametrize("how", ["sampler", "loss"])
def test_balance_gives_the_rare_class_more_answers(how):
    """With either way of balancing more images are called the rare class."""
    inputs, targets = some_features(300, features=5, labels=2, seed=1)
    keep = (targets == 0) | (np.arange(300) < 40)
    inputs, targets = inputs[keep], targets[keep]
    rare = [
        int(((inputs @ head.weight.T + head.bias).argmax(axis=1) == 1).sum())
        for head in (fit(inputs, targets), fit(inputs, targets, balance=how))
    ]
    assert rare[1] > rare[0]


def test_views_of_one_photo_weigh_as_one():
    """The same features given as two views fit the very head of one view."""
    inputs, targets = some_features(80, features=10, labels=3)
    groups, options = np.arange(80), {"balance": "none", "seed": 0, "report": lambda *_event: None}
    one = probe.fit_head(inputs[None], targets, groups, **options)
    two = probe.fit_head(np.stack([inputs, inputs]), targets, groups, **options)
    np.testing.assert_allclose(two.weight, one.weight, atol=2e-3)
    assert two.losses == pytest.approx(one.losses, rel=1e-3)


def test_views_are_drawn_in_full_precision():
    """Where features are computed in bfloat16, changed photos are those of float32."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (4, 224, 224, 3)).astype(np.uint8))
    view = augment.strengths("camera_trap", 10)
    plain = probe._changed(images, view, range(4), 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(probe._changed(images, view, range(4), 2), plain)


def choose(inputs, targets, groups=None, **options):
    groups = np.arange(len(targets)) if groups is None else groups
    options = {"balance": "none", "seed": 0, "report": lambda *_event: None} | options
    return probe.choose_strength(inputs[None], targets, groups, **options)


@pytest.mark.parametrize("balance", ["none", "loss"])
def test_cross_validation_sees_each_photo_once_as_it_is(balance):
    """Every photo has probabilities, a loss and a verdict that belong together; the mean is the chosen strength's."""
    inputs, targets = some_features(60, features=10, labels=3)
    choice = choose(inputs, targets, balance=balance)
    assert choice.seen[:, 0].mean() == pytest.approx(choice.losses[choice.strength])
    assert choice.held_out.dtype == np.float32
    np.testing.assert_allclose(choice.held_out.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(-np.log(choice.held_out[np.arange(60), targets]), choice.seen[:, 0], rtol=1e-5)
    assert ((choice.held_out.argmax(axis=1) == targets) == choice.seen[:, 1]).all()


def test_held_out_answers_are_of_heads_that_did_not_see_the_group():
    """A photo with a wrong label is answered by its class, though a copy of it in its group has the wrong one too."""
    inputs, targets = some_features(80, features=60, labels=2, seed=3)
    inputs += 40 * targets[:, None].astype(np.float32)
    wrong = targets.copy()
    wrong[:2] = 1 - wrong[:2]
    inputs[1], targets[1], wrong[1] = inputs[0], targets[0], wrong[0]
    groups = np.arange(80)
    groups[1] = 0
    head = fit(inputs, wrong, groups)
    assert (head.held_out[:2].argmax(axis=1) == targets[:2]).all()


def test_photos_that_are_not_asked_have_no_answers(monkeypatch):
    """Of more photos than cross-validation takes, the others' answers are NaN, and the chosen strength is found."""
    monkeypatch.setattr(probe, "_LARGEST_CROSS_VALIDATION", 40)
    inputs, targets = some_features(60, features=10, labels=3)
    choice = choose(inputs, targets)
    asked = ~np.isnan(choice.held_out).any(axis=1)
    assert asked.sum() == 40
    assert np.isnan(choice.held_out[~asked]).all()
    assert (np.isnan(choice.seen[:, 0]) == ~asked).all()
    assert choice.losses[choice.strength] == pytest.approx(choice.seen[asked, 0].mean())


def test_without_folds_there_are_no_held_out_answers():
    """A class with one group leaves nothing to hold out."""
    inputs, targets = some_features(12, features=8, labels=2)
    assert fit(inputs, targets, np.where(targets == 0, 0, np.arange(12))).held_out is None


def test_a_fold_that_would_leave_one_class_is_no_choice():
    """All groups of a class fall into one fold: a fixed strength, and no error of scikit-learn's."""
    targets = np.array([1] * 100 + [0] * 51 + [1] * 40)
    groups = np.array([0] * 100 + [1] * 50 + [2] * 41)
    inputs = np.random.default_rng(0).normal(size=(191, 8)).astype(np.float32)
    head = fit(inputs, targets, groups)
    assert head.losses == {}
    assert head.held_out is None
    assert np.isfinite(head.weight).all()


@pytest.mark.parametrize("balance", ["none", "sampler", "loss"])
def test_a_fold_without_one_of_three_classes_is_a_choice(balance):
    """Heads of such a fold know two classes; photos of the third count as wrong, and a strength is chosen."""
    targets = np.array([1] * 100 + [0] * 51 + [1] * 40 + [2] * 60)
    groups = np.array([0] * 100 + [1] * 50 + [2] * 41 + list(range(3, 63)))
    inputs = np.random.default_rng(0).normal(size=(251, 8)).astype(np.float32)
    pairs = probe._folds(targets, groups, np.arange(251), seed=0)
    assert 2 in {len(np.unique(targets[train])) for train, _ in pairs}
    head = fit(inputs, targets, groups, balance=balance)
    assert len(head.losses) == len(probe.STRENGTHS)
    assert np.isfinite(list(head.losses.values())).all()
