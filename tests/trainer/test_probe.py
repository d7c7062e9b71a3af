import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from trainer.recipe import probe


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


def test_cross_validation_sees_each_photo_once_as_it_is():
    """Every photo has a loss, and the mean is the chosen strength's."""
    inputs, targets = some_features(60, features=10, labels=3)
    best, losses, seen = probe.choose_strength(
        inputs[None], targets, np.arange(60), balance="none", seed=0, report=lambda *_event: None
    )
    assert not np.isnan(seen).any()
    assert seen[:, 0].mean() == pytest.approx(losses[best])
