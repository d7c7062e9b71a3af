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
    options = {"balanced": False, "seed": 0, "report": lambda _done, _total: None} | options
    return probe.fit_head(inputs, targets, groups, label_count=int(targets.max()) + 1, **options)


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


def test_balanced_gives_the_rare_class_more_answers():
    """With class weights more images are called the rare class."""
    inputs, targets = some_features(300, features=5, labels=2, seed=1)
    keep = (targets == 0) | (np.arange(300) < 40)
    inputs, targets = inputs[keep], targets[keep]
    rare = [
        int(((inputs @ head.weight.T + head.bias).argmax(axis=1) == 1).sum())
        for head in (fit(inputs, targets), fit(inputs, targets, balanced=True))
    ]
    assert rare[1] > rare[0]
