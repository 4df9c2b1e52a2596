"""What passes through the rings in host memory: task descriptors in, done records out. Both are 64 bytes."""

from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, enum

from tessera.hw.engine import EngineKind, Format, SlotRef, Status, Task
from tessera.hw.memory.port import NODES

__all__ = [
    "COUNTERS",
    "RECORD_BYTES",
    "Descriptor",
    "DoneRecord",
    "Entry",
    "Slot",
    "TaskEntry",
    "Wait",
    "descriptor_bytes",
    "record_of",
]

RECORD_BYTES = 64
COUNTERS = 64
"""Counters that tasks wait for and signal; counter 0 stands for none."""


class Wait(data.Struct):
    """A task starts only when all numbers below ``value`` of counter ``counter`` are done. Counter 0: no wait."""

    counter: 6
    value: 20


class Entry(enum.Enum, shape=2):
    """What an entry of the submission ring is."""

    Task = 0
    """A :class:`Descriptor`: a task for this chip."""
    Window = 1
    """A window of a chip (see ``hw/master/master.py``, as for the others)."""
    Stage = 2
    """A stage of the job that this chip is the master of."""
    Start = 3
    """The job begins."""


class Descriptor(data.Struct):
    """A task as the host submits it, or as a master gives it out."""

    task: Task
    engine: EngineKind
    waits: data.ArrayLayout(Wait, 2)
    signal: 6
    """Counter of which ``number`` is done when the task is over, however it ended. 0: none."""
    number: 20
    tell: NODES
    """Nodes whose tasks wait for that."""
    entry: Entry
    managed: 1
    """A master gave it out: chip ``owner``, which gets the record. Else it is this chip's host's."""
    owner: 4
    reserved: 21


class DoneRecord(data.Struct):
    """How a task ended, as the host finds it in the completion ring. Every field starts on a byte."""

    sequence: 32
    """Number of the record, from 0 since the ring was set; the completion ring fills it in."""
    tag: 16
    engine: EngineKind
    reserved_0: 4
    status: Status
    where: 32
    bytes: 32
    start: 64
    """Chip's cycle counter when the engine took the task."""
    cycles: 32
    stalled: 32
    """Cycles in which the engine's memory port was held back."""
    width: 16
    height: 16
    chroma_format: Format
    reserved_1: 6
    last: 1
    reserved_2: 7
    node: 4
    """Whose engine did it."""
    owner: 4
    managed: 1
    """As in the task's descriptor."""
    reserved_3: 7
    reserved_4: 192


for _record in (Descriptor, DoneRecord):
    assert _record.as_shape().size == 8 * RECORD_BYTES


@dataclass(frozen=True)
class Slot:
    """A :class:`SlotRef` in Python."""

    window: int = 0
    head: int = 0
    body: int = 0
    lines: int = 0


@dataclass(frozen=True)
class TaskEntry:
    """A :class:`Descriptor` in Python.

    Parameters
    ----------
    engine
        An :class:`EngineKind`; a plain number reaches the chip as it is.
    waits
        Up to two pairs (counter, value).
    number
        What is done of counter `signal`: of the tasks that signal it, how many come before this one.
    tell
        A bit for each node.
    params
        The engine's own parameters, as a number of 128 bits.
    """

    engine: EngineKind | int
    tag: int = 0
    context: int = 0
    source: Slot = Slot()
    target: Slot = Slot()
    timestamp: int = 0
    params: int = 0
    waits: tuple[tuple[int, int], ...] = ()
    signal: int = 0
    number: int = 0
    tell: int = 0

    def __post_init__(self):
        if len(self.waits) > 2:
            raise ValueError(f"waits are {self.waits}; two at most expected")
        if any(not 0 < counter < COUNTERS for counter, _ in self.waits) or not 0 <= self.signal < COUNTERS:
            raise ValueError(f"waits are {self.waits} and signal {self.signal}; counters 1 to {COUNTERS - 1} expected")


def _bits(layout, values):
    """`values` of a layout's fields as a number; ValueError where one does not fit."""
    number = 0
    for name, value in values.items():
        field = layout[name]
        width = Shape.cast(field.shape).width
        if not 0 <= value < 1 << width:
            raise ValueError(f"{name} is {value}; 0 to {(1 << width) - 1} expected")
        number |= value << field.offset
    return number


def descriptor_bytes(entry):
    """The 64 bytes of a descriptor, little endian.

    Raises
    ------
    ValueError
        A number does not fit its field.
    """
    slots = {
        name: _bits(
            SlotRef.as_shape(), {part: getattr(slot, part) for part in ("window", "head", "body", "lines")}
        )
        for name, slot in (("source", entry.source), ("target", entry.target))
    }
    own = {name: getattr(entry, name) for name in ("tag", "context", "timestamp", "params")}
    waits = 0
    for n, (counter, value) in enumerate(entry.waits):
        waits |= _bits(Wait.as_shape(), {"counter": counter, "value": value}) << n * Wait.as_shape().size
    engine = entry.engine.value if isinstance(entry.engine, EngineKind) else entry.engine
    fields = {
        "task": _bits(Task.as_shape(), slots | own),
        "engine": engine,
        "waits": waits,
        "signal": entry.signal,
        "number": entry.number,
        "tell": entry.tell,
    }
    return _bits(Descriptor.as_shape(), fields).to_bytes(RECORD_BYTES, "little")


def record_of(line):
    """The fields of a done record's 64 bytes, as a dict of numbers."""
    if len(line) != RECORD_BYTES:
        raise ValueError(f"a record of {len(line)} bytes; {RECORD_BYTES} expected")
    number = int.from_bytes(line, "little")
    return {
        name: number >> field.offset & (1 << Shape.cast(field.shape).width) - 1
        for name, field in DoneRecord.as_shape()
        if not name.startswith("reserved")
    }
