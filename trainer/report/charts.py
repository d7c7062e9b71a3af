"""Charts of the report as geometry: what the page's template draws as SVG, in the page's own colours.

A chart has the size of its view box; lengths in it are in those units, with y growing downwards as in SVG.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH, _HEIGHT = 420.0, 274.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 406.0, 30.0, 232.0
_FACTORS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: its name, which of the page's series colours and marks it has, and its points."""

    name: str
    series: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar of counts: its box, and the count."""

    x: float
    y: float
    width: float
    height: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What is drawn.

    Attributes:
        name: Short and without spaces, unique on the page.
        title: What the chart shows.
        description: Its figures in words, for those who do not see it.
        x_label: Below the x axis.
        y_label: Above the y axis.
        x_ticks: Place and text of each.
        y_ticks: Likewise.
        lines: Drawn with a mark at each point.
        chosen: Place of the vertical line that marks what was kept, and its name.
        diagonal: Whether the line of equal values is drawn.
        whiskers: x, y of the lower and y of the upper end of intervals.
        bars: Counts, standing on `floor`.
        bars_label: What the bars are.
    """

    name: str
    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    chosen: tuple[float, str] | None = None
    diagonal: bool = False
    whiskers: tuple[tuple[float, float, float], ...] = ()
    bars: tuple[Bar, ...] = ()
    bars_label: str = ""
    floor: float = 0.0
    width: float = _WIDTH
    height: float = _HEIGHT
    left: float = _LEFT
    right: float = _RIGHT
    top: float = _TOP
    bottom: float = _BOTTOM


def epoch_charts(history: Sequence[Mapping[str, Any]], *, chosen: int | None) -> list[Chart]:
    """Loss, accuracy and learning rate by epoch; none of fewer than two epochs.

    Args:
        history: Rows as `trainer.recipe.history.Epoch` has them, in order.
        chosen: The epoch whose weights were kept; None while that is open.
    """
    if len(history) < 2:
        return []
    shown = (
        ("loss", "Loss", "cross-entropy (nats)", {"training": "train_loss", "validation": "validation_loss"}, False),
        ("accuracy", "Validation accuracy", "share right", {"validation": "validation_accuracy"}, True),
        ("rate", "Learning rate of the last layers, at each epoch's end", "rate", {"rate": "learning_rate"}, False),
    )
    return [
        _epoch_chart(history, name=name, title=title, y_label=label, columns=columns, share=share, chosen=chosen)
        for name, title, label, columns, share in shown
    ]


def strength_chart(losses: Mapping[str, float], *, chosen: float | None) -> Chart | None:
    """Cross-validated loss of each head strength that was tried; None of fewer than two."""
    points = sorted((float(strength), loss) for strength, loss in losses.items())
    if len(points) < 2 or points[0][0] <= 0:
        return None
    across = _scale(math.log10(points[0][0]), math.log10(points[-1][0]), begin=_LEFT + 12, end=_RIGHT - 12)
    y_ticks, up = _axis([loss for _, loss in points])
    text = ", ".join(f"{strength:g}: {loss:.3f}" for strength, loss in points)
    return Chart(
        name="strength",
        title="Regularisation of the head",
        description=f"Cross-validated loss by inverse strength C. {text}.",
        x_label="inverse strength C",
        y_label="cross-validated loss (nats)",
        x_ticks=tuple((across(math.log10(strength)), f"{strength:g}") for strength, _ in points[:: _every(points)]),
        y_ticks=y_ticks,
        lines=(
            Line(
                name="cross-validated loss",
                series=0,
                points=tuple((across(math.log10(strength)), up(loss)) for strength, loss in points),
            ),
        ),
        chosen=(across(math.log10(chosen)), f"chosen: {chosen:g}") if chosen else None,
    )


def reliability_chart(bins: Sequence[Mapping[str, Any]], *, name: str, title: str) -> Chart | None:
    """The share right over the score, by bins of equal count, with intervals and counts; None without a bin."""
    drawn = [row for row in bins if row["count"] and row["accuracy"] is not None]
    if not drawn:
        return None
    left, right, top, bottom = 58.0, 358.0, 30.0, 330.0
    across, up = _scale(0, 1, begin=left, end=right), _scale(0, 1, begin=bottom, end=top)
    counts = [row["count"] for row in drawn]
    least, most, strip, floor = min(counts), max(counts), 44.0, 426.0
    ticks = [step / 5 for step in range(6)]
    edges = _edges([row["confidence"] for row in drawn])
    bars = tuple(
        Bar(
            x=across(low) + 0.75,
            y=floor - strip * row["count"] / most,
            width=max(2.0, across(high) - across(low) - 1.5),
            height=strip * row["count"] / most,
            count=row["count"],
        )
        for row, low, high in zip(drawn, edges, edges[1:], strict=False)
    )
    whiskers = tuple(
        (across(row["confidence"]), up(row["low"]), up(row["high"]))
        for row in drawn
        if row.get("low") is not None and row.get("high") is not None
    )
    text = "; ".join(f"score {row['confidence']:.2f}: {row['accuracy']:.0%} of {row['count']} right" for row in drawn)
    return Chart(
        name=name,
        title=title,
        description=f"{text}.",
        x_label="mean score of the bin",
        y_label="share right",
        x_ticks=tuple((across(value), f"{value:.1f}") for value in ticks),
        y_ticks=tuple((up(value), f"{value:.0%}") for value in ticks),
        lines=(
            Line(
                name="share right, with its 95 % interval" if whiskers else "share right",
                series=0,
                points=tuple((across(row["confidence"]), up(row["accuracy"])) for row in drawn),
            ),
        ),
        diagonal=True,
        whiskers=whiskers,
        bars=bars,
        bars_label=f"{least} photos a bin" if least == most else f"{least} to {most} photos a bin",
        floor=floor,
        width=372.0,
        height=432.0,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
    )


def _epoch_chart(
    history: Sequence[Mapping[str, Any]],
    *,
    name: str,
    title: str,
    y_label: str,
    columns: Mapping[str, str],
    share: bool,
    chosen: int | None,
) -> Chart:
    epochs = [int(row["epoch"]) for row in history]
    across = _scale(epochs[0], epochs[-1], begin=_LEFT + 12, end=_RIGHT - 12)
    known = {
        line: [(row["epoch"], row[column]) for row in history if row[column] is not None]
        for line, column in columns.items()
    }
    y_ticks, up = _axis([value for points in known.values() for _, value in points], share=share)
    text = "; ".join(f"{line} {', '.join(f'{value:.3g}' for _, value in points)}" for line, points in known.items())
    # The validation line has the same colour and mark in each chart.
    series = {"training": 1}
    return Chart(
        name=name,
        title=title,
        description=f"From epoch {epochs[0]} to {epochs[-1]}: {text}.",
        x_label="epoch",
        y_label=y_label,
        x_ticks=tuple((across(epoch), str(epoch)) for epoch in epochs[:: _every(epochs)]),
        y_ticks=y_ticks,
        lines=tuple(
            Line(name=line, series=series.get(line, 0), points=tuple((across(x), up(y)) for x, y in points))
            for line, points in known.items()
        ),
        chosen=None if chosen is None else (across(chosen), f"kept: epoch {chosen}"),
    )


def _axis(
    values: Sequence[float], *, share: bool = False
) -> tuple[tuple[tuple[float, str], ...], Callable[[float], float]]:
    """Round ticks around the values, and what turns a value into its place."""
    low, high = min(values), max(values)
    room = (high - low) or abs(high) or 1.0
    step, digits = _round_step(room / 4)
    first, last = math.floor(low / step - 0.05), math.ceil(high / step + 0.05)
    if low >= 0:
        first = max(0, first)
    if share:
        last = min(last, math.floor(1 / step + 1e-9))
    ticks = [number * step for number in range(first, last + 1)]
    up = _scale(min(ticks[0], low), max(ticks[-1], high), begin=_BOTTOM, end=_TOP)
    if share:
        written = [f"{tick:.{max(0, digits - 2)}%}" for tick in ticks]
    else:
        written = [f"{tick:g}" if digits > 4 else f"{tick:.{digits}f}" for tick in ticks]
    return tuple(zip(map(up, ticks), written, strict=True)), up


def _round_step(least: float) -> tuple[float, int]:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `least`; the decimals that it needs."""
    exponent = math.floor(math.log10(least))
    factor = next(factor for factor in _FACTORS if factor * 10.0**exponent >= least * (1 - 1e-9))
    return factor * 10.0**exponent, max(0, -exponent + (factor == 2.5) - (factor == 10.0))


def _every(items: Sequence[object]) -> int:
    """Of how many neighbouring ticks one is written."""
    return max(1, math.ceil(len(items) / 9))


def _edges(middles: Sequence[float]) -> list[float]:
    """Where bins of these means meet, from 0 to 1."""
    between = [(low + high) / 2 for low, high in itertools.pairwise(middles)]
    first = max(0.0, middles[0] - (between[0] - middles[0] if between else 0.05))
    last = min(1.0, middles[-1] + (middles[-1] - between[-1] if between else 0.05))
    return [first, *between, last]


def _scale(low: float, high: float, *, begin: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: round(begin + (end - begin) * (value - low) / span, 1)
