"""Figures of the report, as SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

__all__ = ["PARTS", "gantt", "line_chart", "stacked_bars"]

PARTS = {
    "busy": "working",
    "stalled": "held up by memory",
    "waits_input": "waiting for input",
    "waits_slot": "waiting for an output slot",
    "between": "handing over",
    "idle": "nothing to do",
}
"""Parts of an engine's time, in the order in which they are drawn, and what they are called."""

_WIDTH = 1000
_LEFT = 110
_ROW = 34


def _ticks(highest: float, count: int = 6) -> list[float]:
    """Round numbers from 0 to `highest`."""
    if highest <= 0:
        return [0]
    raw = highest / count
    power = 1.0
    while power * 10 <= raw:
        power *= 10
    while power > raw:
        power /= 10
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    return [step * n for n in range(int(highest / step) + 1)]


def _number(value: float) -> str:
    for bound, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{value / bound:.4g}{unit}"
    return f"{value:.4g}"


def _svg(height: float, body: Sequence[str], label: str) -> Markup:
    head = f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(body) + "</svg>")


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _axis(cycles: float, scale: float, height: float) -> list[str]:
    body = []
    for tick in _ticks(cycles):
        x = _LEFT + tick * scale
        body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height:.0f}" class="grid"/>')
        body.append(_text(x, height + 14, _number(tick), "tick", "middle"))
    return body


def gantt(tasks: Sequence[Mapping[str, Any]], cycles: int, labels: bool = False) -> Markup:
    """Which engine worked on which frame when; `labels` writes the frames' numbers into the bars."""
    engines = list(dict.fromkeys(task["engine"] for task in tasks))
    scale = (_WIDTH - _LEFT - 20) / max(cycles, 1)
    height = len(engines) * _ROW
    body = _axis(cycles, scale, height)
    for row, engine in enumerate(engines):
        body.append(_text(_LEFT - 8, row * _ROW + 21, engine, "label", "end"))
    for task in tasks:
        row = engines.index(task["engine"])
        x, width = _LEFT + task["start"] * scale, max(task["cycles"] * scale, 0.6)
        good = task["status"] == "Ok"
        kind = f"f{task['frame'] % 2}" if good else "bad"
        output = "" if task["output"] is None else f", output {task['output']}"
        layer = "" if task["layer"] is None else f", layer {task['layer']}"
        words = (
            f"{task['engine']}, {task['name']}, frame {task['frame']}{output}{layer}: cycles {task['start']:,} to "
            f"{task['start'] + task['cycles']:,}, {task['cycles']:,} in all, {task['stalled']:,} held up by memory, "
            f"{task['status']}"
        )
        body.append(
            f'<rect x="{x:.2f}" y="{row * _ROW + 6}" width="{width:.2f}" height="{_ROW - 12}" rx="2" '
            f'class="bar {kind}">'
            f"<title>{escape(words)}</title></rect>"
        )
        if labels and width > 16:
            body.append(_text(x + width / 2, row * _ROW + 21, str(task["frame"]), "inside", "middle"))
    return _svg(height + 22, body, "Engines over time")


def stacked_bars(engines: Sequence[Mapping[str, Any]], cycles: int) -> Markup:
    """For each engine, the parts of its time."""
    scale = (_WIDTH - _LEFT - 20) / max(cycles, 1)
    height = len(engines) * _ROW
    body = _axis(cycles, scale, height)
    for row, engine in enumerate(engines):
        body.append(_text(_LEFT - 8, row * _ROW + 21, engine["name"], "label", "end"))
        x = float(_LEFT)
        for part, words in PARTS.items():
            value = engine[part] - (engine["stalled"] if part == "busy" else 0)
            width = max(value, 0) * scale
            if width > 0:
                title = f"{engine['name']}, {words}: {value:,} cycles, {value / max(cycles, 1):.1%}"
                body.append(
                    f'<rect x="{x:.2f}" y="{row * _ROW + 6}" width="{width:.2f}" height="{_ROW - 12}" '
                    f'class="part {part}"><title>{escape(title)}</title></rect>'
                )
            x += width
        share = f"{engine['busy'] / max(cycles, 1):.0%}"
        if engine["busy"] * scale > 40:
            body.append(_text(_LEFT + 8, row * _ROW + 21, share, "inside"))
    return _svg(height + 22, body, "Engines' time by what they did")


def line_chart(curves: Mapping[str, Sequence[float | None]], unit: str, floor: bool = True) -> Markup:
    """Values by frame; gaps where there is none. With `floor` the axis begins at 0."""
    height, bottom = 190.0, 22
    values = [value for curve in curves.values() for value in curve if value is not None]
    low, high = (0.0 if floor else min(values)), max(values)
    if not floor:
        low, high = math.floor(2 * low) / 2, math.ceil(2 * high + 0.01) / 2
    span = (high - low) or 1.0
    frames = max(len(curve) for curve in curves.values())
    right = _WIDTH - 150

    def place(n: int, value: float) -> tuple[float, float]:
        x = 60 + (right - 60) * (n / max(frames - 1, 1))
        return x, 8 + (height - 8) * (1 - (value - low) / span)

    body = []
    for tick in _ticks(span, 4):
        y = place(0, low + tick)[1]
        body.append(f'<line x1="60" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        body.append(_text(54, y + 4, _number(low + tick), "tick", "end"))
    for tick in _ticks(frames - 1, 10):
        if tick == int(tick):
            body.append(_text(place(int(tick), low)[0], height + 16, str(int(tick)), "tick", "middle"))
    body.append(_text(right, height + bottom + 10, f"frame; {unit}", "tick", "end"))
    ends: list[tuple[float, int, str]] = []
    for index, (name, curve) in enumerate(curves.items()):
        pieces: list[list[str]] = [[]]
        last = 0.0
        for n, value in enumerate(curve):
            if value is None:
                pieces.append([])
                continue
            x, last = place(n, value)
            pieces[-1].append(f"{x:.1f},{last:.1f}")
        for piece in pieces:
            if len(piece) == 1:
                x, y = piece[0].split(",")
                body.append(f'<circle cx="{x}" cy="{y}" r="2.5" class="dot c{index % 6}"/>')
            elif piece:
                body.append(f'<polyline points="{" ".join(piece)}" class="curve c{index % 6}"/>')
        ends.append((last, index, name))
    free = 0.0
    for y, index, name in sorted(ends):
        free = max(y + 4, free + 14)
        body.append(_text(right + 10, free, name, f"name n{index % 6}"))
    return _svg(height + bottom + 14, body, f"{unit} by frame")
