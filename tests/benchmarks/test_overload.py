import pytest
from overload import judged, lines
from serving.load import OK, REFUSED
from serving.server_metrics import Counted, parsed

PAGE = """\
# TYPE trapline_batch_images histogram
trapline_batch_images_sum{model="bench"} 120.0
trapline_batch_images_count{model="bench"} 30.0
# TYPE trapline_dropped_images counter
trapline_dropped_images_total{cause="refused",model="bench"} 400.0
trapline_dropped_images_total{cause="deadline",model="bench"} 2.0
# TYPE trapline_calls counter
trapline_calls_total{code="OK",method="Classify"} 118.0
"""
NORMAL = {"calm": {"p99_ms": 20.0}, "peak": {"images_per_second": 50.0}}


def test_the_servers_counters_are_read_and_subtracted():
    """What the server counted before a flood is not the flood's."""
    after = parsed(PAGE)
    assert after == Counted(images_run=120, dropped={"refused": 400, "deadline": 2}, calls={"OK": 118})
    before = Counted(images_run=20, dropped={"deadline": 2}, calls={})
    assert after.since(before) == Counted(images_run=100, dropped={"refused": 400}, calls={"OK": 118})


def flood(monkeypatch, **changes):
    monkeypatch.setattr("overload.thread_count", lambda _: 2)
    row = {
        "images_per_second": 45.0,
        "p99_ms": 530.0,
        "outcomes": {OK: 450, REFUSED: 4500},
        "all_outcomes": {OK: 500, REFUSED: 4900},
        "refused_p99_ms": 12.0,
        "late_p99_ms": 1.0,
        "generator_cores": 0.2,
        "foreign_cores": 0.0,
        **changes,
    }
    recovery = [[number / 10, 0.01, OK] for number in range(1, 20)]
    judgement = judged(row, Counted(images_run=520, dropped={}, calls={}), recovery, NORMAL, seconds=10)
    return {"factor": 10.0, **row, **judgement, "memory_mib": [(0, 300.0), (1, 310.0), (2, 305.0)]}


def test_a_flood_is_judged_by_what_generator_and_refusals_leave(monkeypatch):
    """2 cores less 0.2 less 450 × 0.4 ms leave 0.81 of the peak; answers after the flood are work for the living."""
    row = flood(monkeypatch)
    assert row["budget_images_per_second"] == pytest.approx(50 * (2 - 0.2 - 0.18) / 2)
    assert row["share_of_budget"] == pytest.approx(45 / 40.5, abs=0.0001)
    assert row["dead_share"] == pytest.approx(1 / 520)
    assert row["seconds_until_normal"] == pytest.approx(0.1)


def test_each_line_says_whether_it_is_met(monkeypatch):
    """Slow refusals, slow answers and lost goodput are each called not met."""
    good = {**NORMAL, "max_queue_ms": 500.0, "floods": [flood(monkeypatch)]}
    assert not [line for line in lines(good) if "NOT met" in line]
    bad = flood(monkeypatch, refused_p99_ms=60.0, p99_ms=541.0, images_per_second=30.0)
    said = [line for line in lines(good | {"floods": [bad]}) if "NOT met" in line]
    assert len(said) == 3
    none = flood(monkeypatch, refused_p99_ms=None)
    assert [line for line in lines(good | {"floods": [none]}) if "NOT met, none" in line]


def test_a_generator_that_waited_is_told(monkeypatch):
    """Its waits for a processor are in the times, so the page says that it had some."""
    for first, said in ((True, 0), (False, 1)):
        result = {**NORMAL, "max_queue_ms": 500.0, "floods": [flood(monkeypatch, generator_first=first)]}
        assert sum("did not go first" in line for line in lines(result)) == said
