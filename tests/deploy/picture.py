"""Draws the dashboard's panels as SVG, from what Prometheus answers to their queries. A stand-in for Grafana."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tests.deploy.prometheus import Series

#: pixels of a 24th of the width, and of Grafana's unit of height
_WIDTH, _HEIGHT, _GAP = 50, 24, 4
_COLOURS = (
    *("#3f7fbf", "#d9822b", "#4c9f4c", "#b5484f", "#7f62b3"),
    *("#8a6d5a", "#c965a8", "#6f6f6f", "#a3a32e", "#2ba6b5"),
)

_FORMATS: dict[str, Callable[[float], str]] = {
    "s": lambda value: f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s",
    "bytes": lambda value: f"{value / 2**20:,.4g} MiB",
    "percentunit": lambda value: f"{100 * value:.3g} %",
    "reqps": lambda value: f"{value:,.4g}/s",
    "cps": lambda value: f"{value:,.4g}/s",
}


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Drawn:
    """A panel of the dashboard's JSON, with its series in the order of its queries."""

    panel: dict[str, Any]
    lines: Sequence[Line]


def line(series: Series, legend: str) -> Line:
    """Name a series as Grafana does; leave out what is not a number."""
    for label, value in series.labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return Line(legend, [point for point in series.points if math.isfinite(point[1])])


def picture(drawn: Sequence[Drawn], start: float, end: float) -> str:
    """Return an SVG of the panels where the dashboard has them, from `start` to `end` in seconds since the epoch."""
    height = max(_y(each.panel["gridPos"]["y"] + each.panel["gridPos"]["h"]) for each in drawn)
    parts = [part for each in drawn for part in _panel(each, start, end)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * _WIDTH} {height}"'
            ' font-family="Helvetica, Arial, sans-serif" font-size="11" fill="#333">',
            f'<rect width="100%" height="{height}" fill="#f0f1f3"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _y(units: int) -> int:
    return units * _HEIGHT


def _panel(drawn: Drawn, start: float, end: float) -> Iterator[str]:
    at, kind = drawn.panel["gridPos"], drawn.panel["type"]
    x, y, width, height = at["x"] * _WIDTH, _y(at["y"]), at["w"] * _WIDTH - _GAP, _y(at["h"]) - _GAP
    title = escape(drawn.panel["title"])
    if kind == "row":
        yield f'<text x="{x + 4}" y="{y + 16}" font-size="14" font-weight="bold">{title}</text>'
        return
    yield f'<g transform="translate({x} {y})"><rect width="{width}" height="{height}" rx="3" fill="#fff"/>'
    yield f'<text x="8" y="15" font-weight="bold">{title}</text>'
    if not any(each.points for each in drawn.lines):
        text = "no card on this machine" if "GPU" in title else "no data"
        yield f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle" fill="#999">{text}</text>'
    elif kind == "stat":
        value = _format(drawn)(drawn.lines[0].points[-1][1])
        yield f'<text x="{width / 2}" y="{height / 2 + 18}" text-anchor="middle" font-size="24">{value}</text>'
    else:
        yield from _graph(drawn, width, height, start, end)
    yield "</g>"


def _format(drawn: Drawn) -> Callable[[float], str]:
    unit = drawn.panel["fieldConfig"]["defaults"]["unit"]
    return _FORMATS.get(unit, lambda value: f"{value:,.4g}")


def _graph(drawn: Drawn, width: int, height: int, start: float, end: float) -> Iterator[str]:
    defaults, written = drawn.panel["fieldConfig"]["defaults"], _format(drawn)
    stacked = "stacking" in defaults["custom"]
    lines = _stacked(drawn.lines) if stacked else drawn.lines
    most = defaults.get("max") or max((value for each in lines for _, value in each.points), default=0) or 1
    left, right, top, bottom = 62, width - 10, 26, height - 34
    for share in (0, 0.5, 1):
        y = bottom - share * (bottom - top)
        yield f'<path d="M{left} {y:.0f}H{right}" stroke="#e3e3e3"/>'
        yield f'<text x="{left - 5}" y="{y + 4:.0f}" text-anchor="end" fill="#777">{written(most * share)}</text>'
    yield f'<text x="{left}" y="{bottom + 13}" fill="#777">0 s</text>'
    yield f'<text x="{right}" y="{bottom + 13}" text-anchor="end" fill="#777">{end - start:.0f} s</text>'
    for number, each in enumerate(lines):
        places = [
            f"{left + (time - start) / (end - start) * (right - left):.0f} {bottom - value / most * (bottom - top):.1f}"
            for time, value in each.points
        ]
        yield f'<path d="M{"L".join(places)}" fill="none" stroke="{_colour(number)}" stroke-width="1.4"/>' * bool(
            places
        )
    yield from _legend(lines, width, height - 6)


def _stacked(lines: Sequence[Line]) -> list[Line]:
    """Return each line on top of those before it."""
    below: dict[float, float] = {}
    found = []
    for each in lines:
        below |= {time: below.get(time, 0) + value for time, value in each.points}
        found.append(Line(each.name, [(time, below[time]) for time, _ in each.points]))
    return found


def _legend(lines: Sequence[Line], width: int, y: int) -> Iterator[str]:
    x = 8.0
    for number, each in enumerate(lines):
        # a letter is about 5.4 pixels wide
        needed = 16 + 5.4 * len(each.name)
        if x + needed > width:
            yield f'<text x="{x}" y="{y}">...</text>'
            return
        yield f'<rect x="{x:.0f}" y="{y - 5}" width="8" height="3" fill="{_colour(number)}"/>'
        yield f'<text x="{x + 11:.0f}" y="{y}" font-size="10">{escape(each.name)}</text>'
        x += needed + 6


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
