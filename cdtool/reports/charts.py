"""Charts for pages, as SVG inside the page: alignments against each other, against training steps, and intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cdtool.reports.html import Markup, joined, tag

WIDTH, HEIGHT = 460, 340  # of a chart's own units; narrow, so that its letters stay legible on a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 16, 14, 46
_ROOM = 0.08  # of the data's range, left free beside it


@dataclass(frozen=True)
class Mark:
    """A point: what it is called when pointed at, and its series; a mean is drawn larger."""

    label: str
    x: float
    y: float
    first: bool  # of the first series, else of the second
    is_mean: bool = False


@dataclass(frozen=True)
class Axis:
    """A linear axis: what it measures, its range of values, and where that lies in the chart."""

    label: str
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def scatter(marks: Sequence[Mark], moves: Sequence[tuple[Mark, Mark]], across: str, up: str, told: str) -> Markup:
    """Marks in the plane, with a line for each move from one to another; `told` says in words what is seen."""
    x, y = _axes(across, [mark.x for mark in marks], up, [mark.y for mark in marks])
    lines = [
        tag("line", x1=x.at(a.x), y1=y.at(a.y), x2=x.at(b.x), y2=y.at(b.y), class_="mean move" if a.is_mean else "move")
        for a, b in moves
    ]
    dots = [_dot(mark, x, y) for mark in sorted(marks, key=lambda mark: mark.is_mean)]
    return _chart(told, *_grid(x, y), *lines, *dots)


def curve(points: Sequence[tuple[float, float]], across: str, up: str, told: str, *, first: bool = True) -> Markup:
    """A line through points in the order of x, each with its values when pointed at."""
    ordered = sorted(points)
    x, y = _axes(across, [px for px, _ in ordered], up, [py for _, py in ordered], height=HEIGHT * 0.72)
    path = " ".join(f"{'L' if place else 'M'}{x.at(px)} {y.at(py)}" for place, (px, py) in enumerate(ordered))
    look = "first" if first else "second"
    dots = [_dot(Mark(f"{across} {px:g}: {py:.3f}", px, py, first), x, y) for px, py in ordered]
    return _chart(told, *_grid(x, y), tag("path", d=path, class_=f"curve {look}"), *dots, height=HEIGHT * 0.72)


def interval(mean: float, low: float, high: float, reach: float) -> Markup:
    """A mean with its interval on a line from -reach to reach, zero marked in the middle."""
    axis = Axis("", -reach, reach, 4, 156)
    return tag(
        "svg",
        tag("line", x1=4, y1=12, x2=156, y2=12, class_="rule"),
        tag("line", x1=80, y1=3, x2=80, y2=21, class_="zero"),
        tag("line", x1=axis.at(low), y1=12, x2=axis.at(high), y2=12, class_="reach"),
        tag("circle", cx=axis.at(mean), cy=12, r=5, class_="first dot"),
        viewBox="0 0 160 24", class_="interval", aria_hidden="true",
    )  # fmt: skip


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values from low to high, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _axes(across: str, xs: Sequence[float], up: str, ys: Sequence[float], height: float = HEIGHT) -> tuple[Axis, Axis]:
    return (
        Axis(across, *_range(xs), _LEFT, WIDTH - _RIGHT),
        Axis(up, *_range(ys), height - _BOTTOM, _TOP),
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    room = _ROOM * (max(values) - min(values)) or 0.05
    return min(values) - room, max(values) + room


def _grid(x: Axis, y: Axis) -> list[Markup]:
    parts = []
    for value, words in _labelled(x):
        parts.append(tag("line", x1=x.at(value), x2=x.at(value), y1=y.start, y2=y.end, class_="rule"))
        parts.append(tag("text", words, x=x.at(value), y=y.start + 17, text_anchor="middle"))
    for value, words in _labelled(y):
        parts.append(tag("line", x1=x.start, x2=x.end, y1=y.at(value), y2=y.at(value), class_="rule"))
        parts.append(tag("text", words, x=x.start - 7, y=y.at(value) + 4, text_anchor="end"))
    middle, side = (x.start + x.end) / 2, (y.start + y.end) / 2
    parts.append(tag("text", x.label, x=middle, y=y.start + 37, text_anchor="middle", class_="axis"))
    turned = f"rotate(-90 13 {side})"
    parts.append(tag("text", y.label, x=13, y=side, text_anchor="middle", transform=turned, class_="axis"))
    return parts


def _labelled(axis: Axis) -> list[tuple[float, str]]:
    """The ticks of an axis, all with as many decimals as the longest needs, and with a true minus."""
    values = ticks(axis.low, axis.high)
    decimals = max(len(f"{value:g}".partition(".")[2]) for value in values)
    return [(value, f"{value:.{decimals}f}".replace("-", "\u2212")) for value in values]


def _dot(mark: Mark, x: Axis, y: Axis) -> Markup:
    title, px, py = tag("title", mark.label), x.at(mark.x), y.at(mark.y)
    size = 8 if mark.is_mean else 4.5
    look = f"{'first' if mark.first else 'second'} {'mean ' if mark.is_mean else ''}dot"
    if mark.first:
        return tag("g", title, tag("circle", cx=px, cy=py, r=size), class_=look)
    place = f"rotate(45 {px} {py})"  # another shape as well as another colour
    square = tag("rect", x=px - size, y=py - size, width=2 * size, height=2 * size, transform=place)
    return tag("g", title, square, class_=look)


def _chart(told: str, *parts: Markup, height: float = HEIGHT) -> Markup:
    return tag("svg", joined(*parts), viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=told, class_="chart")
