import json

import pytest

from trainer.report import figures


@pytest.fixture(name="metrics")
def _metrics(draw_run, tmp_path):
    return json.loads((draw_run(tmp_path / "run", count=40) / "metrics.json").read_text())


@pytest.fixture(name="drawn")
def _drawn(monkeypatch):
    """What the curves were drawn of."""
    given = []
    monkeypatch.setattr(figures.plots, "curves", lambda history, _path, **more: given.append((history, more)))
    return given


PLAN = {"learning_rate": 1e-3, "schedule": "one_cycle", "balance": "none"}


def test_the_accuracy_band_is_of_single_photos_alone(metrics, drawn, tmp_path):
    """Photos in groups, known or not, have none, since Wilson's would be too narrow; weighted classes have none."""
    for method, balance in (("wilson", "none"), ("group_jackknife", "none"), (None, "none"), ("wilson", "loss")):
        metrics["validation"]["interval_method"] = method
        figures.draw(metrics, PLAN | {"balance": balance}, tmp_path, epochs=4)
    metrics["validation"] |= {"interval_method": "wilson", "group_count": None}
    figures.draw(metrics, PLAN, tmp_path, epochs=4)
    assert [more["validation_count"] for _, more in drawn] == [40, None, None, None, None]


def test_a_history_of_another_version_is_drawn(metrics, drawn, tmp_path):
    """Columns that this version does not know are passed over."""
    for row in metrics["history"]:
        row["gradient_norm"] = 1.0
    figures.draw(metrics, PLAN, tmp_path, epochs=4)
    assert [row.epoch for row in drawn[0][0]] == [row["epoch"] for row in metrics["history"]]


def test_the_reliability_diagram_says_why_it_lacks_figures(metrics, monkeypatch, tmp_path):
    """The run's own sentence on the error, and why bins have no interval where none has one."""
    told = []
    monkeypatch.setattr(
        figures.plots, "reliability", lambda _bins, _path, *, sentences, **_more: told.append(sentences)
    )
    test = metrics["test"] | {
        "ece_sentence": "too few: 40 images",
        "reliability_sentence": "where a bin has none: few groups",
    }
    figures.draw(metrics | {"test": test}, PLAN, tmp_path, epochs=4)
    test["reliability"] = [row | {"low": None, "high": None} for row in test["reliability"]]
    figures.draw(metrics | {"test": test}, PLAN, tmp_path, epochs=4)
    assert told == [["calibration: too few: 40 images"], ["calibration: too few: 40 images", "few groups"]]
