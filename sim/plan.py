"""From what shall be done to what the chip is given: slots in its memory, rings and bytes in the host's.

The host plans everything before the chip starts: descriptors with what they wait for, so that after one doorbell the
chip is on its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tessera.hw.engine import EngineKind, Status
from tessera.hw.host.descriptor import RECORD_BYTES, TaskEntry, record_of
from tessera.hw.memory.port import LINE_BYTES
from tessera.sim.memory import Pool

__all__ = ["Plan", "PlannedTask", "Record"]


@dataclass(frozen=True)
class PlannedTask:
    """One task: its descriptor, whose it is, and which tasks' ends it waits for.

    `stream` is the number of a stream, or of a composition: these count on behind the streams. `source` filled what it
    reads, None where it waits for nothing; `frees` used the slot that it fills. `output` is None for what all outputs
    of a stream share. `layer`, of what is done for one layer alone, is the composition, from 0, and the layer in it.
    """

    tag: int
    entry: TaskEntry
    stream: int
    output: int | None
    frame: int
    source: int | None = None
    frees: tuple[int, ...] = ()
    layer: tuple[int, int] | None = None

    @property
    def lists(self) -> bool:
        """It tells the engine a layer of what comes after it, and makes nothing itself."""
        return self.engine is EngineKind.Compose and self.layer is not None

    @property
    def engine(self) -> EngineKind:
        """Which engine does it."""
        return EngineKind(self.entry.engine)


@dataclass(frozen=True)
class Record:
    """How a task ended, from the completion ring. `status` is the name of a :class:`Status`."""

    tag: int
    status: str
    where: int
    bytes: int
    start: int
    cycles: int
    stalled: int
    width: int
    height: int
    chroma_format: int

    @property
    def end(self) -> int:
        """Cycle in which it was over."""
        return self.start + self.cycles

    @classmethod
    def parse(cls, line: bytes) -> Record:
        """A record as it lies in memory."""
        fields = record_of(line)
        try:
            status = Status(fields["status"]).name
        except ValueError:
            status = f"status {fields['status']:#x}"
        own = {name: fields[name] for name in cls.__dataclass_fields__ if name != "status"}
        return cls(status=status, **own)


@dataclass(frozen=True)
class Plan:
    """All that the chip is given, and what to read back.

    Parameters
    ----------
    results
        For each task with bytes for the host: where they go, as (address, room).
    limit
        Cycles after which something hangs.
    surfaces
        For each stream or composition that has a slot for every frame, the pool of its surfaces.
    loads
        What the chip's memory holds before: (first line, bytes).
    """

    tasks: tuple[PlannedTask, ...]
    pools: tuple[Pool, ...]
    image: bytes
    submission: tuple[int, int]
    completion: tuple[int, int]
    results: dict[int, tuple[int, int]]
    limit: int
    surfaces: Mapping[int, Pool] = field(default_factory=dict)
    loads: tuple[tuple[int, bytes], ...] = ()
    names: tuple[str, ...] = ()

    def source(self, number: int) -> str:
        """A stream or a composition in words."""
        return self.names[number] if number < len(self.names) else f"stream {number}"

    def name(self, tag: int) -> str:
        """A task in words."""
        task = self.tasks[tag]
        output = "" if task.output is None else f" for output {task.output}"
        layer = "" if task.layer is None else f" for layer {task.layer[1]} of composition {task.layer[0]}"
        return f"{task.engine.name} of {self.source(task.stream)} frame {task.frame}{output}{layer}"

    def results_range(self) -> tuple[int, int]:
        """First line, and number of lines, of what goes to the host; (0, 0) if nothing does."""
        if not self.results:
            return 0, 0
        first = min(address for address, _ in self.results.values()) // LINE_BYTES
        last = max(-(-(address + room) // LINE_BYTES) for address, room in self.results.values())
        return first, last - first

    def surfaces_range(self) -> tuple[int, int]:
        """First line, and number of lines, of the pools `surfaces` in the chip's memory."""
        if not self.surfaces:
            return 0, 0
        first = min(pool.window.base for pool in self.surfaces.values())
        return first, max(pool.window.base + pool.window.length for pool in self.surfaces.values()) - first

    def write(self, folder: Path, *, dump_surfaces: bool = False, knobs: Mapping[str, int] | None = None) -> Path:
        """Write what ``tessera.tb.system`` reads: ``plan.json`` and the memories' contents."""
        (folder / "host.image").write_bytes(self.image)
        loads = [{"memory": "host", "file": "host.image", "start": 0, "count": len(self.image) // LINE_BYTES}]
        for n, (line, data) in enumerate(self.loads):
            (folder / f"dram{n}.image").write_bytes(data)
            entry = {"memory": "dram0", "file": f"dram{n}.image", "start": line, "count": len(data) // LINE_BYTES}
            loads.append(entry)
        ring = self.completion[0] // LINE_BYTES
        dumps = [_dump("host", "completions", ring, len(self.tasks) * RECORD_BYTES // LINE_BYTES)]
        start, count = self.results_range()
        if count:
            dumps.append(_dump("host", "results", start, count))
        start, count = self.surfaces_range()
        if count and dump_surfaces:
            dumps.append(_dump("dram0", "surfaces", start, count))
        content = {
            "loads": loads,
            "registers": self.registers(),
            "tasks": len(self.tasks),
            "limit_cycles": self.limit,
            "dumps": dumps,
            "knobs": dict(knobs or {}),
        }
        path = folder / "plan.json"
        path.write_text(json.dumps(content))
        return path

    def registers(self) -> list[tuple[str, int]]:
        """Registers to write before the doorbell, in order, by their names."""
        writes: list[tuple[str, int]] = []
        for pool in self.pools:
            window = pool.window
            writes += [
                ("WINDOW_INDEX", window.index),
                ("WINDOW_RIGHTS", window.read | window.write << 1),
                ("WINDOW_BASE", window.base),
                ("WINDOW_LENGTH", window.length),
            ]
        for name, (address, size) in (("SUBMIT", self.submission), ("COMPLETE", self.completion)):
            writes += [
                (f"{name}_BASE_LOW", address & 0xFFFFFFFF),
                (f"{name}_BASE_HIGH", address >> 32),
                (f"{name}_SIZE", size),
            ]
        return writes


def _dump(memory: str, what: str, start: int, count: int) -> dict[str, Any]:
    return {"memory": memory, "file": f"{what}.bin", "start": start, "count": count}
