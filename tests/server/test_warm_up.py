from types import SimpleNamespace

import numpy as np
import pytest

from server import warm_up
from server.session import Runtime, Session
from trapline.errors import ModelInvalid


def session(kit, *, threads=2, lanes=True, run=None):
    """What is warmed up: by default a model that says a third for each of three labels."""
    return SimpleNamespace(
        metadata=kit.metadata(),
        max_batch=16,
        threads=threads,
        buckets=(),
        has_lanes=lanes,
        score_count=3,
        run=run or (lambda pixels, **_: np.full((len(pixels), 3), 1 / 3, np.float32)),
    )


def measured(monkeypatch, *, alone, shared):
    """Has batches take the seconds that these functions of their size give."""
    monkeypatch.setattr(warm_up, "_checked", lambda _session, count: alone(count))
    monkeypatch.setattr(warm_up, "_side_by_side", lambda _session, _lanes, count: shared(count))


def test_lanes_are_taken_where_they_are_faster(kit, monkeypatch):
    """Two lanes of 30 ms an image beat one run of 18 ms an image, in the smallest batches of an eighth of a second."""
    measured(monkeypatch, alone=lambda count: 0.018 * count, shared=lambda count: 0.03 * count)
    arrangement = warm_up.warm_up(session(kit))
    assert arrangement.lane_count == 2
    assert arrangement.shared.image_count == 8
    assert arrangement.alone.seconds(4) == pytest.approx(0.072)


def test_the_smallest_batch_near_the_best_is_taken(kit, monkeypatch):
    """A call that costs 20 ms whatever its size wants larger batches; past 3 % of the best it stops growing."""
    measured(monkeypatch, alone=lambda count: 1.0 * count, shared=lambda count: 0.020 + 0.04 * count)
    assert warm_up.warm_up(session(kit)).shared.image_count == 8
    # No size of a quick model takes that long: then the largest near the best.
    measured(monkeypatch, alone=lambda count: 1.0 * count, shared=lambda count: 0.001 * count)
    assert warm_up.warm_up(session(kit)).shared.image_count == 16


def test_a_burst_of_other_work_does_not_rule_out_lanes(kit, monkeypatch):
    """Lanes that lose the first two rounds are measured again, and taken when they then win."""
    times = []
    measured(
        monkeypatch,
        alone=lambda count: 0.018 * count,
        shared=lambda count: times.append(count) or (0.03 if times.count(count) > 2 else 0.06) * count,
    )
    arrangement = warm_up.warm_up(session(kit))
    assert arrangement.shared is not None
    assert arrangement.shared.seconds(1) == pytest.approx(0.03)
    assert times.count(1) == 3


def test_one_run_is_kept_where_lanes_are_slower(kit, monkeypatch):
    """Lanes that together give less than 0.95 of one run's rate are not used."""
    measured(monkeypatch, alone=lambda count: 0.010 * count, shared=lambda count: 0.022 * count)
    assert warm_up.warm_up(session(kit)).shared is None
    measured(monkeypatch, alone=lambda count: 0.010 * count, shared=lambda count: 0.0208 * count)
    assert warm_up.warm_up(session(kit)).lane_count == 2


def test_large_batches_of_a_slow_model_are_not_tried(kit, monkeypatch):
    """A batch of more than a quarter of a second is the last that is measured."""
    tried = []
    measured(monkeypatch, alone=lambda count: 1.0 * count, shared=lambda count: tried.append(count) or 0.2 * count)
    warm_up.warm_up(session(kit))
    assert sorted(set(tried)) == [1, 2]


def test_a_real_session_is_measured_with_its_lanes(kit):
    """With two threads both ways are run; whichever is chosen, the scores are the same."""
    found = Session(kit.model_bytes(), Runtime(device="cpu", threads=2, max_batch=4))
    assert found.arrangement.alone.image_count == 4
    assert found.has_lanes == (found.arrangement.shared is not None)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    assert np.allclose(found.run(pixels, alone=True), found.run(pixels, alone=False), atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (lambda count: np.full((count, 2), 0.5, np.float32), "has shape"),
        (lambda count: np.full((count, 3), np.nan, np.float32), "not finite"),
        (lambda count: np.full((count, 3), 2.0, np.float32), "no probabilities"),
    ],
    ids=["shape", "finite", "sum"],
)
def test_what_is_no_classifier_is_refused(kit, scores, said):
    """Scores of another shape, that are not finite, or do not sum to 1: a sentence, and nothing is served."""
    with pytest.raises(ModelInvalid, match=said):
        warm_up.warm_up(session(kit, run=lambda pixels, **_: scores(len(pixels))))
