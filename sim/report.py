"""The report of a job: what came out, whether it is right, and where the cycles went; as JSON and as a page."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from tessera.hw.engine import EngineKind
from tessera.hw.memory.port import LINE_BYTES
from tessera.sim.figures import gantt, line_chart, stacked_bars
from tessera.sim.plan import PlannedTask, Record
from tessera.sim.simulation import Outcome

__all__ = [
    "CompositionReport",
    "EngineReport",
    "LayerReport",
    "OutputReport",
    "Pictures",
    "Report",
    "StreamReport",
    "engine_reports",
    "write_report",
]

NOMINAL_MHZ = 400
"""Of the core clock; what makes a line a cycle of DDR4-3200."""


@dataclass(frozen=True)
class EngineReport:
    """Where the cycles of an engine went, from the doorbell to the last interrupt.

    ``busy`` counts cycles with a task, ``stalled`` those of them in which the memory held a request back. Between
    tasks it waited for what it reads (``waits_input``), for room to write (``waits_slot``), or for its next task to be
    handed over (``between``); before its first task, after its last one and while it has none it is ``idle``. The tasks
    that only list a layer are in ``busy``, but not in ``tasks`` and what is said of each.
    """

    name: str
    tasks: int
    busy: int
    stalled: int
    waits_input: int
    waits_slot: int
    between: int
    idle: int
    per_task_mean: float
    per_task_min: int
    per_task_max: int
    bytes_moved: int


@dataclass(frozen=True)
class StreamReport:
    """A stream as it went in."""

    name: str
    clip: str
    frames: int
    width: int
    height: int
    bytes: int
    file: str


@dataclass(frozen=True)
class LayerReport:
    """A layer of a composition, and in how many of its frames it was left out."""

    stream: str
    x: int
    y: int
    width: int
    height: int
    alpha: int
    left_out: int


@dataclass(frozen=True)
class CompositionReport:
    """A composition, the lowest layer first."""

    name: str
    width: int
    height: int
    frames: int
    frames_per_second: str
    layers: tuple[LayerReport, ...]


@dataclass(frozen=True)
class OutputReport:
    """An output as it came out. PSNR is luma's against the ideally scaled source, in dB, frame by frame."""

    stream: str
    file: str
    frames: int
    width: int
    height: int
    quality: int
    bytes: int
    psnr: tuple[float | None, ...]

    @property
    def psnr_mean(self) -> float | None:
        """Mean over the frames that there are."""
        there = [value for value in self.psnr if value is not None]
        return float(np.mean(there)) if there else None


@dataclass(frozen=True)
class Pictures:
    """Pictures of an output: caption and file (PNG or JPEG bytes) of each."""

    output: str
    shown: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Report:
    """All that a report says. `outcome` is None for the golden alone."""

    name: str
    job_file: str
    on: str
    seed: int
    mismatches: Sequence[str]
    failed: Sequence[str]
    streams: Sequence[StreamReport]
    outputs: Sequence[OutputReport]
    pictures: Sequence[Pictures]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    compositions: Sequence[CompositionReport] = ()
    outcome: Outcome | None = None
    waves: str | None = None

    @property
    def engines(self) -> list[EngineReport]:
        """Of each engine, in the order of the data."""
        return engine_reports(self.outcome) if self.outcome else []


def _of_engine(outcome: Outcome, kind: EngineKind) -> list[tuple[PlannedTask, Record]]:
    pairs = [(task, outcome.records[task.tag]) for task in outcome.plan.tasks if task.engine is kind]
    return sorted(pairs, key=lambda pair: pair[1].start)


def first_cycle(outcome: Outcome) -> int:
    """The chip's cycle in which the first task began."""
    return min(record.start for record in outcome.records.values())


def engine_reports(outcome: Outcome) -> list[EngineReport]:
    """Where the cycles of each engine went."""
    reports: list[EngineReport] = []
    for kind in EngineKind:
        pairs = _of_engine(outcome, kind)
        if not pairs:
            continue
        spent = {"waits_input": 0, "waits_slot": 0, "between": 0}
        free = first_cycle(outcome)
        for task, record in pairs:
            needs = {"waits_input": () if task.source is None else (task.source,), "waits_slot": task.frees}
            ready = {what: max((outcome.records[tag].end for tag in tags), default=0) for what, tags in needs.items()}
            # What was met last is what the engine waited for last; up to then it waited for the other one.
            for what in sorted(ready, key=lambda what: ready[what]):
                until = min(max(ready[what], free), record.start)
                spent[what] += until - free
                free = until
            spent["between"] += max(0, record.start - free)
            free = max(free, record.end)
        busy = sum(record.cycles for _, record in pairs)
        cycles = [record.cycles for task, record in pairs if not task.lists]
        counters = outcome.counters
        reports.append(
            EngineReport(
                name=kind.name,
                tasks=len(cycles),
                busy=busy,
                stalled=sum(record.stalled for _, record in pairs),
                idle=max(0, outcome.cycles - busy - sum(spent.values())),
                per_task_mean=float(np.mean(cycles)),
                per_task_min=min(cycles),
                per_task_max=max(cycles),
                bytes_moved=counters.get(f"{kind.name}.lines", 0) * LINE_BYTES,
                **spent,
            )
        )
    return reports


def summary(report: Report) -> dict[str, Any]:
    """The whole report as plain values: what ``report.json`` holds."""
    content: dict[str, Any] = {
        "name": report.name,
        "job_file": report.job_file,
        "on": report.on,
        "seed": report.seed,
        "mismatch_count": len(report.mismatches),
        "mismatches": list(report.mismatches),
        "failed_tasks": list(report.failed),
        "streams": [dataclasses.asdict(stream) for stream in report.streams],
        "compositions": [dataclasses.asdict(composition) for composition in report.compositions],
        "outputs": [{**dataclasses.asdict(output), "psnr_mean": output.psnr_mean} for output in report.outputs],
        "settings": dict(report.settings),
        "versions": dict(report.versions),
        "waves": report.waves,
    }
    outcome = report.outcome
    if outcome is None:
        return content
    engines = report.engines
    busiest = max(engines, key=lambda engine: engine.busy)
    frames = sum(output.frames for output in report.outputs) or 1
    lines = outcome.counters["memory.read"] + outcome.counters["memory.write"]
    active = outcome.counters["memory.held"]
    content |= {
        "cycles": outcome.cycles,
        "cycles_per_output_frame": outcome.cycles / frames,
        "milliseconds_at_400_mhz": outcome.cycles / NOMINAL_MHZ / 1000,
        "busiest_engine": busiest.name,
        "overlap": outcome.cycles / busiest.busy,
        "engines": [dataclasses.asdict(engine) for engine in engines],
        "memory": {
            "bytes_read": outcome.counters["memory.read"] * LINE_BYTES,
            "bytes_written": outcome.counters["memory.write"] * LINE_BYTES,
            "bus_use": lines / outcome.cycles,
            "bus_use_while_active": lines / active if active else 0.0,
            "refresh": outcome.counters["memory.refresh"] / outcome.cycles,
            "timing_violations": outcome.violations,
        },
        "simulation": {"seconds": outcome.seconds, "cycles_per_second": outcome.cycles / max(outcome.seconds, 1e-9)},
        "counters": dict(outcome.counters),
        "errors": dict(outcome.errors),
        "tasks": [_task(outcome, task) for task in outcome.plan.tasks],
    }
    return content


def _task(outcome: Outcome, task: PlannedTask) -> dict[str, Any]:
    record = outcome.records[task.tag]
    return {
        "engine": task.engine.name,
        "stream": task.stream,
        "name": outcome.plan.source(task.stream),
        "output": task.output,
        "layer": None if task.layer is None else task.layer[1],
        "frame": task.frame,
        "status": record.status,
        "where": record.where,
        "start": record.start - first_cycle(outcome),
        "cycles": record.cycles,
        "stalled": record.stalled,
        "bytes": record.bytes,
    }


def png(samples: npt.NDArray[np.uint8]) -> bytes:
    """A gray picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(samples).save(file, "PNG")
    return file.getvalue()


def _data_url(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _grouped(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\u202f")


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def page(report: Report) -> str:
    """The whole report as a page that needs no other file."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"grouped": _grouped, "size": _size, "data_url": _data_url}
    content = summary(report)
    figures = {"first": "", "psnr": ""}
    if report.outcome is not None:
        frames = 1 + max(task["frame"] for task in content["tasks"])
        figures["whole"] = gantt(content["tasks"], content["cycles"])
        first = [task for task in content["tasks"] if task["frame"] < 8]
        if frames > 8:
            figures["first"] = gantt(first, max(task["start"] + task["cycles"] for task in first), labels=True)
        figures["cycles"] = stacked_bars(content["engines"], content["cycles"])
        figures["frames"] = line_chart(_cycles_by_frame(content["tasks"]), "cycles")
    curves = {output.file: list(output.psnr) for output in report.outputs}
    if any(value is not None for curve in curves.values() for value in curve):
        figures["psnr"] = line_chart(curves, "dB", floor=False)
    template = environment.get_template("report.html.j2")
    return template.render(r=content, figures=figures, pictures=report.pictures)


def _cycles_by_frame(tasks: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """For each engine, the cycles that it spent on each frame."""
    frames = 1 + max(task["frame"] for task in tasks)
    curves: dict[str, list[float | None]] = {}
    for task in tasks:
        curve = curves.setdefault(task["engine"], [None] * frames)
        curve[task["frame"]] = (curve[task["frame"]] or 0) + task["cycles"]
    return curves


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` into a folder; their paths."""
    as_json, as_page = folder / "report.json", folder / "report.html"
    as_json.write_text(json.dumps(summary(report), indent=1) + "\n")
    as_page.write_text(page(report))
    return as_json, as_page
