"""Measured figures: what was measured, what ``baseline.json`` holds, and what the design wants.

A figure is a name and a number. A testbench writes its figures to ``figures.json`` in the folder that it runs in, as an
object of numbers, or of such objects; its full name is then ``<testbench>-<build>/<name>``. Every figure but a speed
of the simulation itself repeats exactly, so the tests hold it to the baseline in both directions: better is also
different, and is accepted with ``make bench ACCEPT=1``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "BASELINE",
    "FIGURES",
    "TARGETS",
    "Target",
    "baseline",
    "check",
    "differences",
    "figures_of_run",
    "missed",
    "read_figures",
    "repeats",
    "target",
    "unit",
]

BASELINE = Path(__file__).resolve().parent.parent / "baseline.json"
FIGURES = "figures.json"
_ACCEPT = "if that is right: make bench ACCEPT=1"


@dataclass(frozen=True)
class Target:
    """What the design wants of the figures whose full name matches `pattern`."""

    pattern: str
    bound: float
    at_most: bool
    unit: str

    def met(self, value: float) -> bool:
        """Whether `value` is on the right side of the bound."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:.4g}"


_REFRESH_LEAVES = 1 - 350 / 7800

TARGETS = (
    Target(r"^codec\.jpeg\.(decoder|encoder).*cycles[ _]per[ _]pixel", 1.5, True, "cycles/pixel"),
    Target(r"^compute\.engine.*cycles[ _]per[ _]pixel", 0.5, True, "cycles/pixel"),
    Target(r"^memory\..*linear_read$", 0.99 * _REFRESH_LEAVES, False, "lines/cycle"),
    Target(r"^memory\..*fetch_21x21$", 0.90, False, "lines/cycle"),
    Target(r"slowdown", 1.05, True, "x"),
    Target(r"overlap$", 1.1, True, "x"),
    Target(r"violations$", 0, True, ""),
    Target(r"^synth/link-.*/fmax$", 100, False, "MHz"),
    Target(r"^synth/.*/fmax$", 60, False, "MHz"),
    Target(r"^(link\.port-.*|models\.load-figures)/256-byte responses, one side", 95, False, "%"),
    Target(r"^(link\.port-.*|models\.load-figures)/256-byte responses, both sides", 89, False, "%"),
    Target(r"^(link\.port-.*|models\.load-figures)/64-byte responses, one side", 83, False, "%"),
    Target(r"^(link\.port-.*|models\.load-figures)/64-byte responses, both sides", 68, False, "%"),
    Target(r"^link\..*remote minus local", 48, True, "cycles"),
    Target(r"^models\.load-figures/goodput at 1e-06", 96, False, "%"),
    Target(r"^models\.load-figures/goodput at 1e-05", 90, False, "%"),
    Target(r"^models\.load-figures/goodput at 0.0001", 75, False, "%"),
)

_UNITS = (
    (r"cycles[ _]per[ _]pixel", "cycles/pixel"),
    (r"cycles[ _]per[ _]second", "cycles/s"),
    (r"^synth/", ""),
    (r"^memory\.ddr", "lines/cycle"),
    (r"% of the raw line$", "%"),
    (r"bytes", "bytes"),
    (r"cycles", "cycles"),
)


def target(name: str) -> Target | None:
    """What the design wants of the figure `name`, if anything."""
    return next((target for target in TARGETS if re.search(target.pattern, name)), None)


def unit(name: str) -> str:
    """The unit of the figure `name`."""
    wanted = target(name)
    if wanted:
        return wanted.unit
    return next((unit for pattern, unit in _UNITS if re.search(pattern, name)), "")


def repeats(name: str) -> bool:
    """Whether the figure is the same on every run and every machine: all are, but the simulation's own speed."""
    return "second" not in name


def _flat(content: Mapping[str, Any], before: str) -> Iterator[tuple[str, float]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}, ")
        elif isinstance(value, (int, float)):
            yield before + name, value
        else:
            raise ValueError(f"figure {before}{name} is {value!r}; a number expected")


def read_figures(folder: Path, run: str) -> dict[str, float]:
    """What the run `run` left in `folder`, by full name; nothing if it measures nothing."""
    file = folder / FIGURES
    content = json.loads(file.read_text()) if file.exists() else {}
    return {f"{run}/{name}": value for name, value in _flat(content, "")}


def figures_of_run(report: Mapping[str, Any], job: str) -> dict[str, float]:
    """The figures in the ``report.json`` of a run of the whole system."""
    figures = {
        "cycles": report["cycles"],
        "overlap": report["overlap"],
        "timing violations": report["memory"]["timing_violations"],
        "memory bytes": report["memory"]["bytes_read"] + report["memory"]["bytes_written"],
        "simulation, cycles per second": report["simulation"]["cycles_per_second"],
        **{f"{engine['name']} busy cycles": engine["busy"] for engine in report["engines"]},
    }
    return {f"run {job}/{name}": value for name, value in figures.items()}


def baseline() -> dict[str, Any]:
    """What was accepted: ``figures`` by name, and ``synth`` by block."""
    return json.loads(BASELINE.read_text())


def differences(figures: Mapping[str, float]) -> list[str]:
    """A line for each of `figures` that is not what the baseline says, better or worse."""
    accepted = baseline()["figures"]
    lines: list[str] = []
    for name, value in figures.items():
        if not repeats(name):
            continue
        if name not in accepted:
            lines.append(f"{name} is {value:.6g} and not in {BASELINE.name}; {_ACCEPT}")
        elif value != accepted[name]:
            lines.append(f"{name} is {value:.6g}, not {accepted[name]:.6g} as in {BASELINE.name}; {_ACCEPT}")
    return lines


def missed(figures: Mapping[str, float]) -> list[str]:
    """A line for each of `figures` on the wrong side of its target."""
    wanted = {name: target(name) for name in figures}
    return [
        f"{name} is {value:.4g}; {bound} wanted"
        for name, value in figures.items()
        if (bound := wanted[name]) and not bound.met(value)
    ]


def check(name: str, value: float) -> None:
    """AssertionError unless the figure `name` is what the baseline says and meets its target."""
    lines = differences({name: value}) + missed({name: value})
    assert not lines, "; ".join(lines)
