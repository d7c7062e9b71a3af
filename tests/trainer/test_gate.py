import numpy as np
import pytest

from trainer.precision.gate import judge, most_flips, photos_needed

LABELS = ("deer", "fox", "hog")


def answers(classes):
    """Probabilities whose best class is that of each photo."""
    rows = np.full((len(classes), len(LABELS)), 0.1, np.float32)
    rows[np.arange(len(classes)), classes] = 0.8
    return rows


def judged(before, after, targets):
    paths = [f"photo/{number}.jpg" for number in range(len(targets))]
    return judge(answers(before), answers(after), targets=np.array(targets), labels=LABELS, paths=paths)


def changed(classes, *positions, to=2):
    found = np.array(classes)
    found[list(positions)] = to
    return found


def test_the_same_answers_pass():
    """Without a flip agreement is whole, nothing is lost, and the lower end is Wilson's."""
    gate = judged([0, 1] * 200, [0, 1] * 200, [0, 1] * 200)
    assert (gate.passed, gate.agreement, gate.flips, gate.p_value) == (True, 1.0, (), 1.0)
    # n / (n + z²), for no flip among n photos.
    assert gate.interval == pytest.approx((400 / (400 + 1.959964**2), 1.0), abs=1e-6)


def test_every_flip_is_listed():
    """Path, true class, and both answers with their probabilities; and how many of which class became which."""
    before = [0, 1] * 300
    gate = judged(before, changed(before, 3, 4, 7), [0] * 600)
    assert [(flip.path, flip.label) for flip in gate.flips] == [(f"photo/{index}.jpg", "deer") for index in (3, 4, 7)]
    assert [(flip.before[0], flip.after[0]) for flip in gate.flips] == [("fox", "hog"), ("deer", "hog"), ("fox", "hog")]
    assert gate.flips[0].before[1] == pytest.approx(0.8)
    assert gate.flipped_classes() == "fox to hog 2, deer to hog 1"
    assert (gate.lost, gate.won) == (1, 0)
    assert gate.passed


def test_too_little_agreement_is_refused():
    """Below 99 % the file is refused however many photos were looked at, and the sentence has the figure."""
    before = [0] * 2000
    gate = judged(before, changed(before, *range(21)), [1] * 2000)
    assert gate.agreement == pytest.approx(0.9895)
    assert gate.problems == ["98.95% of the photos get the same class, and at least 99% must"]
    assert judged(before, changed(before, *range(20)), [1] * 2000).passed


def test_too_few_photos_are_refused_and_the_number_is_told():
    """Where the interval reaches below 98 % the sentence says how many photos would be needed."""
    gate = judged([0] * 100, [0] * 100, [0] * 100)
    assert gate.problems == [
        "100 photos say only that at least 96.30% get the same class, and 98% are asked for: with such answers "
        "189 photos would be needed"
    ]
    assert judged([0] * 189, [0] * 189, [0] * 189).passed
    gate = judged([0] * 317, changed([0] * 317, 5, 6), [1] * 317)
    assert "437 photos would be needed" in gate.problems[0]


def test_a_loss_of_right_answers_that_is_no_chance_is_refused():
    """McNemar's exact test: five lost and none won has a chance of 1 in 32; four, or as many won, might be chance."""
    right = [0] * 2000
    gate = judged(right, changed(right, *range(5)), right)
    assert (gate.lost, gate.won, gate.p_value) == (5, 0, pytest.approx(1 / 32))
    assert gate.problems == ["5 right answers are lost and 0 won, which is no chance (p = 0.031)"]
    assert judged(right, changed(right, *range(4)), right).passed
    half = judged(changed(right, *range(5)), changed(right, *range(5, 10)), right)
    assert (half.lost, half.won, half.passed) == (5, 5, True)


def test_the_record_has_every_figure():
    """What is written as JSON: counts, figures, limits, the verdict with its reasons."""
    values = judged([0] * 100, changed([0] * 100, 1), [0] * 100).to_json()
    assert (values["flips"], values["passed"], values["lost"], values["accuracy_after"]) == (1, False, 1, 0.99)
    assert values["problems"]
    assert (values["least_agreement"], values["least_lower_end"]) == (0.99, 0.98)


@pytest.mark.parametrize(("count", "flips"), [(188, -1), (189, 0), (317, 1), (1136, 11)])
def test_the_most_flips_are_those_of_the_gate(count, flips):
    """One flip more than `most_flips` says does not pass, that many does."""
    assert most_flips(count) == flips
    for number in (flips, flips + 1):
        if number >= 0:
            wrong = [1] * count
            assert judged(wrong, changed(wrong, *range(number)), [0] * count).passed is (number <= flips)


def test_the_photos_needed_are_the_fewest():
    """One photo fewer would not do."""
    assert photos_needed(0, 50) == 189
    assert photos_needed(2, 317) == 437
    assert photos_needed(1, 100) > photos_needed(1, 200)


def test_answers_that_are_no_numbers_are_refused():
    """However few, though argmax names the first class for them, and that is the right one: the server refuses them."""
    before = answers([0] * 1200)
    after = before.copy()
    after[:2] = np.nan
    gate = judge(before, after, targets=np.zeros(1200, int), labels=LABELS, paths=[str(n) for n in range(1200)])
    assert gate.problems == ["2 photos get answers that are no numbers"]
    assert (gate.passed, gate.to_json()["broken"]) == (False, 2)
