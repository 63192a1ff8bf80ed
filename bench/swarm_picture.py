"""Line charts as SVG, written by hand: small files, no library. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 48, 44
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")
POINTS_MAX = 200

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """``lines`` by name; ``marks`` are upright lines at an x. Both axes begin at 0 unless
    ``logarithmic``; then all values must be above 0."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Points]
    marks: Mapping[str, float] = field(default_factory=dict)
    logarithmic: bool = False


class _Axis:
    """Values to places on the picture, and what is written beside it."""

    def __init__(self, values: Sequence[float], low: float, high: float, *, log: bool) -> None:
        self._log, self._low, self._high = log, low, high
        least, most = (min(values), max(values)) if values else (0.0, 1.0)
        self._from = math.floor(math.log10(least)) if log else 0.0
        self._to = math.log10(most) if log else (most or 1.0)
        if self._to <= self._from:
            self._to = self._from + 1.0

    def place(self, value: float) -> float:
        value = math.log10(value) if self._log else value
        part = (value - self._from) / (self._to - self._from)
        return self._low + part * (self._high - self._low)

    def ticks(self) -> list[float]:
        if self._log:
            return [10.0**power for power in range(int(self._from), math.floor(self._to) + 1)]
        step = 10.0 ** math.floor(math.log10(self._to))
        while self._to / step < 3:
            step /= 2
        return [step * number for number in range(int(self._to / step) + 1)]


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most about ``POINTS_MAX`` of them, the last one among them."""
    step = max(len(points) // POINTS_MAX, 1)
    kept = list(points[::step])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def svg(chart: Chart) -> str:
    """The picture."""
    xs = [x for points in chart.lines.values() for x, _ in points] + list(chart.marks.values())
    ys = [y for points in chart.lines.values() for _, y in points]
    x = _Axis(xs, LEFT, WIDTH - RIGHT, log=chart.logarithmic)
    y = _Axis(ys, HEIGHT - BOTTOM, TOP, log=chart.logarithmic)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="#57606a">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(14, 18, chart.title, size=13),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, chart.x, anchor="middle"),
        _text(14, TOP - 10, chart.y),
    ]
    parts += [_grid(x.place(tick), None, _number(tick)) for tick in x.ticks()]
    parts += [_grid(None, y.place(tick), _number(tick)) for tick in y.ticks()]
    for number, (name, points) in enumerate(chart.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = " ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b in thinned(points))
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(_legend(number, name, colour))
    for number, (name, at) in enumerate(chart.marks.items(), len(chart.lines)):
        colour, place = COLOURS[number % len(COLOURS)], x.place(at)
        parts.append(
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
            f'stroke="{colour}" stroke-width="1.5" stroke-dasharray="5 3"/>'
        )
        parts.append(_legend(number, name, colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _grid(x: float | None, y: float | None, label: str) -> str:
    x1, x2, y1, y2 = float(LEFT), float(WIDTH - RIGHT), float(TOP), float(HEIGHT - BOTTOM)
    if x is not None:
        x1 = x2 = x
        text = _text(x, y2 + 15, label, anchor="middle")
    else:
        y1 = y2 = y or 0.0
        text = _text(x1 - 6, y1 + 4, label, anchor="end")
    place = f'x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="#d0d7de"/>{text}'


def _legend(number: int, name: str, colour: str) -> str:
    x, y = WIDTH - RIGHT + 10, TOP + 12 + number * 17
    return f'<rect x="{x}" y="{y - 8}" width="10" height="10" fill="{colour}"/>' + _text(
        x + 15, y + 1, name
    )
