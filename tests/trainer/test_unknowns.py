import json

import numpy as np
import pytest

from trainer.evaluate import unknowns
from trainer.evaluate.unknowns import KEPT_SHARE, class_means, find_unknowns
from trainer.recipe.part import Seen


def seen(random, centres, *, each, spread=1.0):
    """Features around centres, and logits that know how far each centre is."""
    targets = np.repeat(np.arange(len(centres)), each)
    features = (centres[targets] + random.normal(0, spread, (len(targets), centres.shape[1]))).astype(np.float32)
    logits = -((features[:, None] - centres) ** 2).sum(axis=2).astype(np.float32)
    return Seen(features=features, logits=logits, targets=targets)


def parts(centres, *, seed=0):
    random = np.random.default_rng(seed)
    return [seen(random, centres, each=each) for each in (40, 30, 30)]


def probabilities_of(part):
    shifted = part.logits - part.logits.max(axis=1, keepdims=True)
    return (np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)).astype(np.float32)


def test_distances_are_worked_by_hand():
    """One less the cosine with each class's mean, after standardising."""
    features = np.array([[0, 0], [0, 2], [4, 0], [4, 2]], np.float32)
    means = class_means(features, np.array([0, 0, 1, 1]), label_count=2)
    # Mean (2, 1), deviation (2, 1): class means lie at (-1, 0) and (1, 0).
    asked = np.array([[0, 1], [2, 3], [4, 3]], np.float32)
    expected = [[0, 2], [1, 1], [1 + 1 / np.sqrt(5), 1 - 1 / np.sqrt(5)]]
    assert means.distances(asked) == pytest.approx(np.array(expected), abs=1e-6)


def test_a_feature_that_never_changes_says_nothing():
    """A dead unit does not blow distances up when it moves by its own rounding later."""
    features = np.array([[0, 5], [1, 5], [4, 5], [5, 5]], np.float32)
    means = class_means(features, np.array([0, 0, 1, 1]), label_count=2)
    moved = means.distances(np.array([[0.5, 5.001]], np.float32))
    assert moved[0, 0] == pytest.approx(0, abs=1e-3)
    assert np.isfinite(means.distances(means.centre[None])).all()


def test_a_class_far_from_the_others_is_told_by_its_distance():
    """Classes in directions of their own: distance finds the left-out one nearly always, and is what ships."""
    centres = 12 * np.eye(6)[:5]
    training, validation, test = parts(centres)
    found = find_unknowns(training, validation, test, probabilities_of(validation), label_count=5)
    assert found.method == "nearest_class_mean"
    facts = found.facts(["a", "b", "c", "d", "e"], fine_tuned=False)
    assert facts["auroc"]["nearest_class_mean"] > 0.95
    assert set(facts["classes"]) == {"a", "b", "c", "d", "e"}
    json.dumps(facts, allow_nan=False)
    known = found.scores(probabilities_of(validation), validation.features)
    assert (known <= 1).mean() == pytest.approx(KEPT_SHARE, abs=0.01)
    far = np.full((1, 6), -30, np.float32)
    assert found.scores(np.array([[1.0, 0, 0, 0, 0]], np.float32), far)[0] > 2


def test_classes_between_others_are_told_by_an_unsure_head():
    """Left-out classes in the middle of the others lie near means but leave the head unsure: max softmax ships."""
    centres = np.array([[-6.0, 0], [6, 0], [0, 6], [0, -6], [0, 0], [3, 3], [-3, -3]])
    random = np.random.default_rng(5)
    training, validation, test = (seen(random, centres, each=each, spread=0.7) for each in (40, 30, 30))
    found = find_unknowns(training, validation, test, probabilities_of(validation), label_count=7)
    best = max(("nearest_class_mean", "max_softmax"), key=lambda method: np.mean(found.auroc[method]))
    assert found.method == best
    assert (found.means is None) == (best == "max_softmax")


def test_the_rounding_of_a_sure_head_is_no_score():
    """Where every validation image is sure to the last digit, a probability rounded otherwise stays far below 1."""
    training, validation, test = parts(np.array([[0.0, 0, 0], [9, 0, 0]]))
    sure = np.full((len(validation.targets), 2), 2e-7, np.float32)
    sure[np.arange(len(sure)), validation.targets] = 1 - 2e-7
    found = find_unknowns(training, validation, test, sure, label_count=2)
    rounded = np.array([[1, 0], [1 - 2.4e-7, 2.4e-7]], np.float32)
    assert found.scores(rounded, validation.features[:2]) == pytest.approx(np.zeros(2), abs=5e-3)


def test_two_classes_leave_nothing_to_be_unsure_between():
    """With one class left neither measure can tell anything: nothing is claimed, and no figure is NaN."""
    centres = np.array([[0.0, 0, 0], [9, 0, 0]])
    training, validation, test = parts(centres)
    found = find_unknowns(training, validation, test, probabilities_of(validation), label_count=2)
    facts = found.facts(["a", "b"], fine_tuned=True)
    assert facts["auroc"] == {"nearest_class_mean": None, "max_softmax": None}
    assert facts["sentence"] == (
        "the file tells unknowns by one less the best score; of two classes none can be left out, so nothing was "
        "measured and nothing chosen; above 1 lie 5% of the known validation images"
    )
    assert (found.scores(probabilities_of(validation), validation.features) <= 1).mean() >= KEPT_SHARE
    json.dumps(facts, allow_nan=False)


def test_of_many_classes_some_are_left_out(monkeypatch):
    """As many as cost little, spread evenly, the others have no figure, and the sentence and the progress say so."""
    monkeypatch.setattr(unknowns, "MOST_LEFT_OUT", 3)
    training, validation, test = parts(12 * np.eye(7))
    told = []
    found = find_unknowns(
        training,
        validation,
        test,
        probabilities_of(validation),
        label_count=7,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    for auroc in (found.auroc, found.test_auroc):
        for values in auroc.values():
            assert [index for index, value in enumerate(values) if value is not None] == [0, 3, 6]
    said = found.facts(list("abcdefg"), fine_tuned=False)["sentence"]
    assert "with each of 3 of the 7 classes left out in turn" in said


def test_a_head_that_starts_from_another_ends_where_one_from_nothing_does(monkeypatch):
    """Starting from the head of all classes saves steps and leaves the figures."""
    training, validation, test = parts(1.5 * np.eye(9)[:6])
    warm = find_unknowns(training, validation, test, probabilities_of(validation), label_count=6)
    fit = unknowns._head
    monkeypatch.setattr(unknowns, "_head", lambda features, targets, _start=None: fit(features, targets))
    cold = find_unknowns(training, validation, test, probabilities_of(validation), label_count=6)
    assert warm.auroc["max_softmax"] == pytest.approx(cold.auroc["max_softmax"], abs=0.01)
    assert warm.auroc["nearest_class_mean"] == cold.auroc["nearest_class_mean"]


def test_a_class_without_test_images_has_no_figure():
    """It is null, and the mean is over the others."""
    centres = 9 * np.eye(4)[:3]
    training, validation, test = parts(centres)
    kept = test.targets != 2
    test = Seen(features=test.features[kept], logits=test.logits[kept], targets=test.targets[kept])
    found = find_unknowns(training, validation, test, probabilities_of(validation), label_count=3)
    facts = found.facts(["a", "b", "c"], fine_tuned=True)
    assert facts["classes"]["c"] == {"nearest_class_mean": None, "max_softmax": None}
    assert facts["auroc"]["nearest_class_mean"] is not None
