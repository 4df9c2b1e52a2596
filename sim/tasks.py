"""Tasks while a plan is made: what each waits for, which counter it signals, and whose turn a slot is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from amaranth.hdl import Const

from tessera.hw.codec.jpeg.encoder import JpegEncodeParams
from tessera.hw.compute.compose import ComposeTask
from tessera.hw.compute.engine import ComputeTask
from tessera.hw.engine import EngineKind
from tessera.hw.host.descriptor import COUNTERS, RECORD_BYTES, Slot, TaskEntry, descriptor_bytes
from tessera.hw.host.egress import EgressParams
from tessera.hw.host.ingest import IngestParams
from tessera.hw.memory.port import LINE_BYTES
from tessera.sim.memory import ChipMemory, HostMemory, PlanError, Pool
from tessera.sim.plan import Plan, PlannedTask

__all__ = ["MAX_TASKS", "Builder", "End", "Held", "Site", "Turns", "Whose", "params_of"]

MAX_TASKS = 1 << 16
"""Of one plan: as many as a ring or a task's tag can tell apart."""
_RING_ALIGNMENT = 4096
_WAITS = 2
"""Of a task."""

_PARAMS: dict[EngineKind, Any] = {
    EngineKind.Ingest: IngestParams,
    EngineKind.Compute: ComputeTask,
    EngineKind.JpegEncode: JpegEncodeParams,
    EngineKind.Egress: EgressParams,
    EngineKind.Compose: ComposeTask,
}


def params_of(kind: EngineKind, **values: Any) -> int:
    """The engine's own parameters as the number that a descriptor carries."""
    return Const.cast(_PARAMS[kind].const(values)).value


@dataclass(frozen=True)
class End:
    """A task's end, as others wait for it: its counter has reached `value`."""

    tag: int
    counter: int
    value: int


@dataclass
class Held:
    """What a slot holds for a while: what fills it, and of each engine the last one that reads it.

    An engine does its tasks in their order, so who waits for the last of them waits for all.
    """

    slot: Slot
    filled: End | None = None
    readers: dict[EngineKind, End] = field(default_factory=dict)


class Turns:
    """A pool's slots in turn."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._held: list[Held] = []

    def next(self) -> tuple[Held, tuple[End, ...]]:
        """The next slot, and who has to be over before it may be filled."""
        n, slots = len(self._held), len(self.pool.slots)
        before = self._held[n - slots] if n >= slots else None
        held = Held(self.pool.turn(n))
        self._held.append(held)
        return held, () if before is None else tuple(before.readers.values())

    def holds(self, held: Held) -> bool:
        """Its slot was not given to another."""
        return any(held is other for other in self._held[-len(self.pool.slots) :])


@dataclass(frozen=True)
class Whose:
    """Whose a task is: the fields of :class:`PlannedTask` by the same names."""

    stream: int
    frame: int
    output: int | None = None
    layer: tuple[int, int] | None = None


class Builder:
    """Tasks in the order of their descriptors, and the counters that they signal."""

    def __init__(self) -> None:
        self.tasks: list[PlannedTask] = []
        self._signals = [0]

    def counter(self) -> int:
        """A counter that nobody has yet."""
        if len(self._signals) >= COUNTERS:
            raise PlanError(f"more than {COUNTERS - 1} counters needed: fewer streams, layers or outputs expected")
        self._signals.append(0)
        return len(self._signals) - 1

    def add(
        self,
        kind: EngineKind,
        whose: Whose,
        signal: int,
        *,
        reads: Held | None = None,
        fills: Turns | None = None,
        reader: bool = True,
        **entry: Any,
    ) -> tuple[Held | None, End]:
        """(what the task fills, its end). It waits for what fills `reads`, and for a slot of `fills`.

        Unless it is a `reader`, someone else tells when `reads` has been read.
        """
        tag = len(self.tasks)
        made, frees = (None, ()) if fills is None else fills.next()
        source = reads.filled if reads else None
        waits = [end for end in (source, *frees) if end is not None]
        if len(waits) > _WAITS:
            raise PlanError(f"{kind.name} would have {len(waits)} waits: what it fills is read by {len(frees)} engines")
        number = self._signals[signal]
        self._signals[signal] += 1
        end = End(tag, signal, number + 1)
        if made is not None:
            made.filled = end
            entry["target"] = made.slot
        if reads is not None:
            entry["source"] = reads.slot
            if reader:
                reads.readers[kind] = end
        task = TaskEntry(
            engine=kind,
            tag=tag,
            waits=tuple((wait.counter, wait.value) for wait in waits),
            signal=signal,
            number=number,
            **entry,
        )
        self.tasks.append(
            PlannedTask(
                tag=tag,
                entry=task,
                stream=whose.stream,
                output=whose.output,
                frame=whose.frame,
                source=source.tag if source else None,
                frees=tuple(wait.tag for wait in frees),
                layer=whose.layer,
            )
        )
        return made, end


class Site:
    """Where a plan is being made: the memories, the tasks so far, and where bytes for the host go."""

    def __init__(self, dram_lines: int, host_bytes: int) -> None:
        self.chip, self.host = ChipMemory(dram_lines), HostMemory(host_bytes)
        self.builder = Builder()
        self.results: dict[int, tuple[int, int]] = {}

    def surfaces(self, name: str, count: int, lines: int) -> Turns:
        """`count` slots for surfaces of `lines` lines."""
        return Turns(self.chip.surfaces(name, count, lines))

    def bitstreams(self, name: str, count: int, lines: int) -> Turns:
        """`count` slots for bitstreams of `lines` lines."""
        return Turns(self.chip.bitstreams(name, count, lines))

    def egress(self, whose: Whose, signal: int, coded: Held) -> None:
        """Plan that a bitstream goes to the host."""
        room = coded.slot.lines * LINE_BYTES
        address = self.host.reserve(room, "the results")
        params = params_of(EngineKind.Egress, address=address, capacity=room)
        _, end = self.builder.add(EngineKind.Egress, whose, signal, reads=coded, params=params)
        self.results[end.tag] = (address, room)

    def rings(self, tasks: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Address and entries of the submission and the completion ring for so many tasks."""
        if tasks > MAX_TASKS:
            raise PlanError(f"{tasks} tasks, {MAX_TASKS} at most expected: fewer frames")
        size = 1 << max(1, (tasks - 1).bit_length())
        submission = self.host.place(size * RECORD_BYTES, "the submission ring", _RING_ALIGNMENT)
        completion = self.host.place(size * RECORD_BYTES, "the completion ring", _RING_ALIGNMENT)
        return (submission, size), (completion, size)

    def finish(self, rings: tuple[tuple[int, int], tuple[int, int]], **more: Any) -> Plan:
        """The plan of all tasks, whose descriptors go into the submission ring."""
        (submission, size), (completion, _) = rings
        assert len(self.builder.tasks) <= size
        self.host.patch(submission, b"".join(descriptor_bytes(task.entry) for task in self.builder.tasks))
        return Plan(
            tasks=tuple(self.builder.tasks),
            pools=tuple(self.chip.pools),
            image=self.host.image,
            submission=(submission, size),
            completion=(completion, size),
            results=self.results,
            **more,
        )
