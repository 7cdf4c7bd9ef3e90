"""A line chart as an SVG file, for `celeray simulate --plot`. No dependency; colours that the colour-blind can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 55
"""Margins; the names of the lines stand in the right one."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, in an order of contrast; then again from the first."""
TICKS_MOST = 7
PADDING = 0.05
"""Of the range of the values, above and below."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """What is drawn."""

    title: str
    x_title: str
    y_title: str
    lines: Mapping[str, Sequence[Point]]
    """By name, in the order in which they are listed. Each has a point at least."""
    logarithmic: bool = False
    """Both axes. All values are above 0 then."""


def svg_of(chart: Chart) -> str:
    """The file's text."""
    lines = {name: _scaled(points, chart) for name, points in chart.lines.items()}
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    scale = _Logarithmic if chart.logarithmic else _Range
    frame = _Frame(scale.of(xs, 0.0), scale.of(ys, PADDING))
    body = [*frame.axes(), *_titles(chart)]
    for number, (name, points) in enumerate(lines.items()):
        body += frame.line(name, points, COLOURS[number % len(COLOURS)], number)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            *body,
            "</svg>\n",
        )
    )


@dataclass(frozen=True)
class _Range:
    """Of an axis."""

    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float], padding: float) -> _Range:
        least, most = min(values), max(values)
        room = (most - least or 1.0) * padding
        return cls(least - room, most + room if most + room > least - room else least + 1.0)

    def share(self, value: float) -> float:
        """0 at the least, 1 at the most."""
        return (value - self.least) / (self.most - self.least)

    def ticks(self) -> list[float]:
        """Round values in the range, at most `TICKS_MOST`."""
        rough = (self.most - self.least) / TICKS_MOST
        ten = 10.0 ** math.floor(math.log10(rough))
        step = next(ten * times for times in (1, 2, 5, 10) if ten * times >= rough)
        first, last = math.ceil(self.least / step), math.floor(self.most / step)
        return [number * step for number in range(first, last + 1)]

    def label(self, tick: float) -> str:
        return f"{tick:.4g}"


class _Logarithmic(_Range):
    """Of an axis whose values are logarithms to the base of ten."""

    def ticks(self) -> list[float]:
        """The powers of ten in the range, and twice and five times these where there is room for them."""
        tens = range(math.floor(self.least), math.ceil(self.most) + 1)
        for times in ((1, 2, 5), (1,)):
            found = [ten + math.log10(each) for ten in tens for each in times]
            inside = [value for value in found if self.least - _NEAR <= value <= self.most + _NEAR]
            if len(inside) <= TICKS_MOST:
                break
        return inside

    def label(self, tick: float) -> str:
        return f"{10**tick:.4g}"


_NEAR = 1e-9
"""Of a logarithm: what rounding makes of a power of ten that is the range's end."""


def _scaled(points: Sequence[Point], chart: Chart) -> Sequence[Point]:
    return [(math.log10(x), math.log10(y)) for x, y in points] if chart.logarithmic else points


@dataclass(frozen=True)
class _Frame:
    """The plot's area: from values to positions."""

    x: _Range
    y: _Range

    def at(self, point: Point) -> tuple[float, float]:
        x = LEFT + self.x.share(point[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - self.y.share(point[1]) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    def axes(self) -> list[str]:
        drawn = []
        for value in self.y.ticks():
            _, y = self.at((self.x.least, value))
            drawn.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#ddd"/>')
            drawn.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{self.y.label(value)}</text>')
        for value in self.x.ticks():
            x, _ = self.at((value, self.y.least))
            drawn.append(
                f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{self.x.label(value)}</text>'
            )
        return drawn

    def line(self, name: str, points: Sequence[Point], colour: str, number: int) -> list[str]:
        path = " ".join(f"{x},{y}" for x, y in map(self.at, points))
        x, y = WIDTH - RIGHT + 14, TOP + 10 + 20 * number
        return [
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<path d="M{x} {y}h18" stroke="{colour}" stroke-width="3"/>',
            f'<text x="{x + 24}" y="{y + 4}">{escape(name)}</text>',
        ]


def _titles(chart: Chart) -> list[str]:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return [
        f'<text x="{LEFT}" y="24" font-size="15">{escape(chart.title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(chart.x_title)}</text>',
        f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{escape(chart.y_title)}</text>',
    ]
