"""Charts as geometry: axes with round ticks, points where their figures are, what is left out."""

import itertools
import math

import pytest

from trainer.report.charts import epoch_charts, reliability_chart, strength_chart


def row(epoch, *, train=None, loss=0.5, accuracy=0.9, rate=1e-4):
    return {
        "epoch": epoch,
        "train_loss": train,
        "validation_loss": loss,
        "validation_accuracy": accuracy,
        "learning_rate": rate,
    }


def value_at(chart, y):
    """The value that a place on the y axis stands for, by its first and last tick."""
    (low_y, low), (high_y, high) = (
        (place, float(text.rstrip("%")) / (100 if "%" in text else 1))
        for place, text in (chart.y_ticks[0], chart.y_ticks[-1])
    )
    return low + (y - low_y) / (high_y - low_y) * (high - low)


def test_points_lie_where_their_figures_are():
    """Read off the axis, a point's place is its figure; the line of the kept epoch goes through its points."""
    history = [row(0, loss=0.61), row(1, train=0.8, loss=0.43), row(2, train=0.3, loss=0.52)]
    loss, accuracy, rate = epoch_charts(history, chosen=1)
    training, validation = loss.lines
    assert [round(value_at(loss, y), 2) for _, y in validation.points] == [0.61, 0.43, 0.52]
    assert [round(value_at(loss, y), 2) for _, y in training.points] == [0.8, 0.3]
    assert loss.chosen == (validation.points[1][0], "kept: epoch 1")
    assert training.points[0][0] == validation.points[1][0]
    assert "validation 0.61, 0.43, 0.52" in loss.description
    assert {chart.name for chart in (loss, accuracy, rate)} == {"loss", "accuracy", "rate"}


@pytest.mark.parametrize("values", [(0.5, 0.5), (0, 0), (1e-6, 3e-4), (0.981, 0.983), (0.3, 1200), (2.5e-5, 1e-4)])
def test_ticks_are_round_and_hold_every_point(values):
    """Three to eight ticks, evenly apart, none written twice, around every value, also where all are alike."""
    chart = epoch_charts([row(epoch, loss=value) for epoch, value in enumerate(values)], chosen=None)[0]
    texts = [text for _, text in chart.y_ticks]
    assert 2 <= len(texts) <= 8
    assert len(set(texts)) == len(texts)
    places = [place for place, _ in chart.y_ticks]
    steps = {round(second - first) for first, second in itertools.pairwise(places)}
    assert max(steps) - min(steps) <= 1
    for _, y in chart.lines[1].points:
        assert min(places) - 0.1 <= y <= max(places) + 0.1
    assert chart.chosen is None
    assert float(texts[0]) >= 0


def test_a_share_has_no_tick_above_the_whole():
    """An axis of shares ends at 100 %, however near the values come."""
    accuracy = epoch_charts([row(0, accuracy=0.97), row(1, accuracy=1.0)], chosen=1)[1]
    assert accuracy.y_ticks[-1][1].startswith("100")
    assert all(float(text.rstrip("%")) <= 100 for _, text in accuracy.y_ticks)


def test_many_epochs_have_few_ticks():
    """A hundred epochs are a hundred points, and at most ten numbers below them."""
    loss = epoch_charts([row(epoch, train=0.5) for epoch in range(101)], chosen=3)[0]
    assert len(loss.lines[1].points) == 101
    assert len(loss.x_ticks) <= 10


def test_one_epoch_is_no_curve():
    """Nothing is drawn of fewer than two points."""
    assert epoch_charts([], chosen=None) == []
    assert epoch_charts([row(0)], chosen=0) == []
    assert strength_chart({}, chosen=None) is None
    assert strength_chart({"0.1": 0.5}, chosen=0.1) is None
    assert reliability_chart([], name="reliability", title="Reliability") is None


def test_strengths_are_in_order_and_logarithmic():
    """Strengths come as text from JSON; each tenfold one is as far from the next."""
    chart = strength_chart({"10.0": 0.7, "0.1": 0.9, "1.0": 0.6}, chosen=1.0)
    first, second, third = [x for x, _ in chart.lines[0].points]
    assert second - first == pytest.approx(third - second, abs=0.2)
    assert chart.chosen == (second, "chosen: 1")


def test_a_reliability_diagram_has_points_whiskers_and_counts():
    """Each bin is a point at score and share right, a whisker of its interval, a bar; an empty bin is none of them."""
    bins = [
        {"count": 20, "confidence": 0.5, "accuracy": 0.4, "low": 0.2, "high": 0.6},
        {"count": 0, "confidence": None, "accuracy": None, "low": None, "high": None},
        {"count": 21, "confidence": 0.9, "accuracy": 0.95, "low": 0.8, "high": 1.0},
    ]
    chart = reliability_chart(bins, name="reliability", title="Reliability")
    assert [round(value_at(chart, y), 2) for _, y in chart.lines[0].points] == [0.4, 0.95]
    assert [round(value_at(chart, low), 2) for _, low, _ in chart.whiskers] == [0.2, 0.8]
    assert [bar.count for bar in chart.bars] == [20, 21]
    assert chart.bars_label == "20 to 21 photos a bin"
    left, right = chart.bars
    assert left.x + left.width <= right.x
    assert all(math.isclose(bar.y + bar.height, chart.floor) for bar in chart.bars)
    assert right.x + right.width <= chart.right + 1
