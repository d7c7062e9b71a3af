import pytest
from serving.figures import (
    combined_ceiling,
    dead_share,
    foreign_cores,
    milliseconds,
    overload_budget,
    percentile,
    seconds_until_normal,
)


def test_a_percentile_is_a_value_that_was_measured():
    """Nearest rank: no value between two is made up, one slow call in a hundred is not the p99, two are."""
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(value) for value in range(1, 101)], 0.99) == 99.0
    assert percentile([1.0] * 99 + [9.0], 0.99) == 1.0
    assert percentile([1.0] * 98 + [9.0] * 2, 0.99) == 9.0
    assert percentile([5.0], 0.99) == 5.0
    assert percentile([], 0.99) is None


def test_milliseconds_of_nothing_are_nothing():
    """A level without an answer has no latency, not one of 0."""
    assert milliseconds(0.123456) == 123.46
    assert milliseconds(None) is None


def test_foreign_cores_are_what_neither_side_used():
    """Three processor seconds in two, two of them ours: half a core is somebody else's; never less than none."""
    assert foreign_cores(busy_seconds=3.0, own_seconds=2.0, seconds=2.0) == 0.5
    assert foreign_cores(busy_seconds=1.99, own_seconds=2.0, seconds=2.0) == 0.0


def test_the_combined_ceiling_spends_the_cores_on_decoding_and_the_model():
    """2 cores, 2.8 + 34.2 ms: 54 images a second, the figure of the lanes' table."""
    assert combined_ceiling(cores=2, decode_seconds=0.0028, model_seconds=0.0342) == pytest.approx(54.05, abs=0.01)


def test_overload_leaves_what_generator_and_refusals_do_not_use():
    """Of 2 cores the generator uses 0.3, and 500 refusals at 0.4 ms use 0.2: three quarters of the peak are left."""
    budget = overload_budget(peak=48.0, cores=2, generator_cores=0.3, refusals_per_second=500)
    assert budget == pytest.approx(36.0)
    assert overload_budget(peak=48.0, cores=2, generator_cores=1.5, refusals_per_second=5000) == 0.0


def test_dead_work_is_run_and_not_answered():
    """98 of 100 images that were run reached their callers."""
    assert dead_share(images_run=100, images_answered=98) == pytest.approx(0.02)
    assert dead_share(images_run=0, images_answered=0) is None
    assert dead_share(images_run=10, images_answered=11) == 0.0


def test_normal_is_a_row_of_fast_right_answers():
    """The first of ten in a row counts; a slow one, a refused one and a wrong one each begin the row anew."""
    calls = [(0.1, 0.02, "OK"), (0.2, 0.5, "OK"), (0.3, 0.02, "RESOURCE_EXHAUSTED QUEUE_FULL"), (0.4, 0.02, "WRONG")]
    calm = [(1.0 + number / 10, 0.02, "OK") for number in range(10)]
    assert seconds_until_normal([*calls, *calm], normal_seconds=0.05) == 1.0
    assert seconds_until_normal([*calls, *calm[:9]], normal_seconds=0.05) is None
    assert seconds_until_normal([], normal_seconds=0.05) is None
