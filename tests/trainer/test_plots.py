import numpy as np
import pytest
from PIL import Image

from trainer.recipe.history import Epoch
from trainer.report import epoch_matrices, plots

HISTORY = [
    Epoch(
        epoch=number,
        train_loss=1 / number if number else None,
        validation_loss=1.0 - 0.1 * number,
        validation_accuracy=0.5 + 0.1 * number,
        learning_rate=1e-3,
        standard_error=0.0,
    )
    for number in range(4)
]


@pytest.fixture(name="figures")
def _figures(monkeypatch):
    """The figures that are drawn, to be asked what they show."""
    made = []

    class Kept(plots.Figure):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            made.append(self)

    monkeypatch.setattr(plots, "Figure", Kept)
    return made


def curves(path, **more):
    plots.curves(HISTORY, path, chosen=3, epochs=6, peak_rate=1e-3, strengths={}, strength=None, **more)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_matrix_has_counts_or_shares(tmp_path, figures):
    """Counts as counted; shares of the true class in percent, where something is there never as 0."""
    confusion = [[996, 4, 0], [1, 1, 2], [0, 0, 0]]
    for shares in (False, True):
        plots.confusion_matrix(confusion, ["a", "b", "c"], tmp_path / "a.png", title="t", shares=shares)
    counts, percent = (texts(figure.axes[0]) for figure in figures)
    assert counts == ["996", "4", "1", "1", "2"]
    assert percent == ["100", "<1", "25", "25", "50"]


@pytest.mark.parametrize("count", [5, 300])
def test_any_number_of_classes_of_any_name_is_drawn(tmp_path, count):
    """Names that mean something to matplotlib, or have no letter in its font, are drawn as they are, without a word."""
    labels = [f"{name}{number}" for number, name in enumerate(["$x_{$", "狐狸", "\udc80", "a\nb", "y" * 300] * 60)][
        :count
    ]
    plots.confusion_matrix(np.eye(count, dtype=int).tolist(), labels, tmp_path / "a.png", title="t")
    with Image.open(tmp_path / "a.png") as image:
        assert max(image.size) < 4000


def test_matrices_side_by_side_are_bounded(tmp_path, monkeypatch):
    """Three of 300 classes would be 450 inches and gigabytes wide; names get smaller up to where there are none."""
    made = []
    monkeypatch.setattr(epoch_matrices, "save", lambda figure, _path: made.append(figure))
    for count in (5, 100, 300):
        labels = [f"class {number}" for number in range(count)]
        epoch_matrices.confusion_matrices([("t", np.eye(count, dtype=int))] * 3, labels, tmp_path / "a.png")
    few, many, most = made
    assert few.get_size_inches().tolist() == pytest.approx([3 * 4.1 + 1.6, 5.1])
    for figure in (many, most):
        assert figure.get_size_inches().tolist() == [61.6, 21]
    sizes = [{tick.get_fontsize() for tick in figure.axes[0].get_xticklabels()} for figure in (few, many)]
    assert sizes == [{10.0}, {10.0}]
    assert len(most.axes[0].get_xticks()) < 20


def test_the_rate_is_that_of_the_schedule(tmp_path, figures):
    """A constant rate is a level line, a one-cycle rate rises and falls; neither below zero."""
    for schedule in ("constant", "one_cycle"):
        curves(tmp_path / "a.png", schedule=schedule)
    level, cycle = (figure.axes[2].lines[0].get_ydata() for figure in figures)
    assert set(level) == {1e-3}
    assert max(cycle) == pytest.approx(1e-3, rel=1e-3)
    assert cycle[0] < 2e-4
    assert cycle[-1] < 1e-5


def test_the_accuracy_has_its_interval_where_photos_count_alike(tmp_path, figures):
    """Wilson's interval of each epoch's share of so many photos; none where the share is weighted."""
    curves(tmp_path / "a.png", validation_count=40)
    curves(tmp_path / "a.png")
    with_interval, without = (figure.axes[1] for figure in figures)
    (band,) = with_interval.collections
    bounds = band.get_paths()[0].vertices
    assert bounds[:, 1].min() == pytest.approx(0.352, abs=1e-3)
    assert not without.collections
    for axes in (with_interval, without):
        assert axes.lines[0].get_ydata().tolist() == [row.validation_accuracy for row in HISTORY]


def test_reliability_shows_each_bin_with_its_count(tmp_path, figures):
    """Empty bins are left out; counts stand below; what is said is wrapped and within the figure."""
    bins = [
        {"count": 20, "confidence": 0.6, "accuracy": 0.5, "low": 0.3, "high": 0.7},
        {"count": 0, "confidence": None, "accuracy": None, "low": None, "high": None},
        {"count": 21, "confidence": 0.9, "accuracy": 1.0, "low": 0.85, "high": 1.0},
    ]
    plots.reliability(bins, tmp_path / "a.png", title="t", sentences=["word " * 40, "too few: 41 images"])
    above, below = figures[-1].axes
    assert texts(below) == ["20", "21"]
    first, *wrapped, last = above.get_title().split("\n")
    assert (first, last) == ("t", "too few: 41 images")
    assert " ".join(wrapped) == " ".join(["word"] * 40)
    room = figures[-1].get_window_extent()
    drawn = above.title.get_window_extent()
    assert room.x0 <= drawn.x0 < drawn.x1 <= room.x1
    assert drawn.y1 <= room.y1


def test_reliability_has_whiskers_where_an_interval_is_honest(tmp_path, figures):
    """Bins without one are points alone, and without any the legend speaks of none."""
    without = [{"count": 20, "confidence": 0.6, "accuracy": 0.5, "low": None, "high": None}]
    bins = [*without, {"count": 21, "confidence": 0.9, "accuracy": 1.0, "low": 0.85, "high": 1.0}]
    for rows, legend in ((bins, ["test photos", "95 % interval"]), (without, ["test photos"])):
        plots.reliability(rows, tmp_path / "a.png", title="t", sentences=[])
        above = figures[-1].axes[0]
        assert above.get_legend_handles_labels()[1] == ["scores that can be trusted", *legend]
        assert above.lines[1].get_xdata().tolist() == [row["confidence"] for row in rows]
