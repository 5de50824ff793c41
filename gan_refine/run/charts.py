"""Line charts as inline SVG: a page holds them without any other file."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 34
COLOURS = ("#1f5fa8", "#c0501f", "#2e8540", "#7d3c98", "#946c00", "#0f7c84", "#a3254f")


@dataclass(frozen=True)
class Series:
    """A named line through (x, y) points."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Lines over kimg. `levels` are horizontal lines with a name, such as the teacher's value; `note` says how to read it."""

    title: str
    note: str
    series: Sequence[Series]
    levels: Sequence[tuple[str, float]] = ()

    def svg(self, end: float = 0.0) -> str:
        """The chart as an SVG element, scaled to the width of its place; its x axis goes to `end` kimg at least."""
        xs = [x for line in self.series for x, _ in line.points]
        ys = [y for line in self.series for _, y in line.points] + [value for _, value in self.levels]
        frame = _Frame(0.0, max([*xs, end, 1e-9]), *_range(ys))
        parts = [*frame.axes()]
        for number, line in enumerate(self.series):
            parts += _line(frame, line, COLOURS[number % len(COLOURS)])
        for name, value in self.levels:
            y = frame.y(value)
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="level"/>')
            parts.append(f'<text x="{LEFT + 4}" y="{y - 4:.1f}" class="tick">{escape(name)} {value:.3g}</text>')
        label = escape(self.title, quote=True)
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Names and colours, if there are several lines."""
        if len(self.series) < 2:
            return []
        return [(line.name, COLOURS[number % len(COLOURS)]) for number, line in enumerate(self.series)]


@dataclass(frozen=True)
class _Frame:
    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> list[str]:
        bottom = HEIGHT - BOTTOM
        parts = []
        for step in range(5):
            value = self.low + (self.high - self.low) * step / 4
            y = self.y(value)
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" class="tick">{value:.3g}</text>')
        for share in (0.0, 0.5, 1.0):
            value = self.left + (self.right - self.left) * share
            anchor = "end" if share == 1 else "middle"
            parts.append(
                f'<text x="{self.x(value):.1f}" y="{bottom + 15}" text-anchor="{anchor}" class="tick">{value:.3g}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle" class="tick">kimg</text>')
        return parts


def _range(values: Sequence[float]) -> tuple[float, float]:
    """A little more than all values; from 0 where they are near enough."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if 0 <= low <= high / 2:
        low = 0.0
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return (low if low == 0 else low - margin), high + margin


def _line(frame: _Frame, line: Series, colour: str) -> list[str]:
    points = [(frame.x(x), frame.y(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for (x, y), (kimg, value) in zip(points, line.points, strict=True):
        title = escape(f"{line.name}: {value:.4g} at {kimg:g} kimg")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{title}</title></circle>')
    return parts
