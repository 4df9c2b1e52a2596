"""The master role: a job's windows and stages come from the host, its tasks go to all chips, and records come back."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.host.descriptor import RECORD_BYTES, Descriptor, DoneRecord, Entry
from tessera.hw.lib.arbiter import RoundRobin
from tessera.hw.lib.streams import connect, observe
from tessera.hw.master.allocation import Allocation, Move, StageWrite
from tessera.hw.master.messenger import Letter, LetterKind
from tessera.hw.memory.port import NODES, WindowWrite

__all__ = ["Master", "StageEntry", "StartEntry", "WindowEntry", "entry_bytes"]

_ENTRY = Descriptor.as_shape()["entry"].offset


class WindowEntry(data.Struct):
    """A window of a chip, that or another one."""

    write: WindowWrite
    node: 4
    reserved_0: _ENTRY - WindowWrite.as_shape().size - 4
    entry: Entry
    reserved_1: 8 * RECORD_BYTES - _ENTRY - 2


class StageEntry(data.Struct):
    """A stage of the job."""

    write: StageWrite
    reserved_0: _ENTRY - StageWrite.as_shape().size
    entry: Entry
    reserved_1: 8 * RECORD_BYTES - _ENTRY - 2


class StartEntry(data.Struct):
    """The job begins."""

    threshold: 24
    """Load over which a chip's waiting tasks move away, in the unit of the stages' cost."""
    moves: 1
    """Tasks may be moved at all."""
    tell: NODES
    """Nodes that work together."""
    reserved_0: _ENTRY - 24 - 1 - NODES
    entry: Entry
    reserved_1: 8 * RECORD_BYTES - _ENTRY - 2


_KINDS = {WindowEntry: Entry.Window, StageEntry: Entry.Stage, StartEntry: Entry.Start}


def entry_bytes(shape, **fields):
    """The 64 bytes of a :class:`WindowEntry`, :class:`StageEntry` or :class:`StartEntry`, little endian."""
    return shape.const({"entry": _KINDS[shape], **fields}).as_bits().to_bytes(RECORD_BYTES, "little")


class Master(wiring.Component):
    """What stands between the host's rings and the dispatcher of a chip, whether that is a master or not.

    Every chip is the same: the one whose submission ring has a job is its master. It gets windows, stages and the start
    of the job as entries of that ring, in that order; windows go to the chips that own them, and tasks to those that
    shall do them. The records of all its tasks go to its own completion ring, with the node that did each. A chip does
    what any master gives it; the record goes to that one. A task that a chip's own host gives to it is its own.

    A master takes one job: stages and starts that come while it runs are dropped. Setting the submission ring again
    (``clear``) forgets it.

    What comes is given on in the same cycle, unless something else comes for the same place.

    Members
    -------
    entry : :py:`In(stream.Signature(Descriptor))`
        Of the submission ring; ``entry`` says of which kind it is.
    records : :py:`Out(stream.Signature(DoneRecord))`
        For the completion ring.
    task : :py:`Out(stream.Signature(Descriptor))`
        For this chip's dispatcher.
    record : :py:`In(stream.Signature(DoneRecord))`
        From there.
    window : :py:`Out(stream.Signature(WindowWrite))`
        For this chip's window table.
    letter : :py:`Out(stream.Signature(Letter))`, came : :py:`In(stream.Signature(Letter))`
        To and from other chips.
    node : :py:`In(4)`
        This chip's number.
    clear : :py:`In(1)`
    read : :py:`Out(6)`, count : :py:`In(20)`, hold : :py:`In(1)`
        As of :class:`Allocation`.
    move : :py:`Out(Move)`
        A pulse for each task that is moved.
    """

    def __init__(self):
        super().__init__(
            {
                "entry": In(stream.Signature(Descriptor)),
                "records": Out(stream.Signature(DoneRecord)),
                "task": Out(stream.Signature(Descriptor)),
                "record": In(stream.Signature(DoneRecord)),
                "window": Out(stream.Signature(WindowWrite)),
                "letter": Out(stream.Signature(Letter)),
                "came": In(stream.Signature(Letter)),
                "node": In(4),
                "clear": In(1),
                "read": Out(6),
                "count": In(20),
                "hold": In(1),
                "move": Out(Move),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.allocation = allocation = Allocation()
        m.submodules.tasks = tasks = RoundRobin(Descriptor, 3)
        m.submodules.windows = windows = RoundRobin(WindowWrite, 2)
        m.submodules.letters = letters = RoundRobin(Letter, 3)
        m.submodules.ends = ends = RoundRobin(DoneRecord, 2)
        connect(m, tasks.o, self.task)
        connect(m, windows.o, self.window)
        connect(m, letters.o, self.letter)

        # Entries of the ring.
        entry, bits = self.entry, self.entry.payload.as_value()
        window, start = data.View(WindowEntry, bits), data.View(StartEntry, bits)
        here = window.node == self.node
        m.d.comb += [
            tasks.i0.payload.eq(entry.payload),
            tasks.i0.payload.managed.eq(0),
            tasks.i0.payload.owner.eq(self.node),
            windows.i0.payload.eq(window.write),
            letters.i0.payload.node.eq(window.node),
            letters.i0.payload.kind.eq(LetterKind.Window),
            letters.i0.payload.line.eq(window.write.as_value()),
            allocation.stage.payload.eq(data.View(StageEntry, bits).write),
        ]
        with m.Switch(entry.payload.entry):
            with m.Case(Entry.Task):
                m.d.comb += [tasks.i0.valid.eq(entry.valid), entry.ready.eq(tasks.i0.ready)]
            with m.Case(Entry.Window):
                with m.If(here):
                    m.d.comb += [windows.i0.valid.eq(entry.valid), entry.ready.eq(windows.i0.ready)]
                with m.Else():
                    m.d.comb += [letters.i0.valid.eq(entry.valid), entry.ready.eq(letters.i0.ready)]
            with m.Case(Entry.Stage):
                m.d.comb += [
                    allocation.stage.valid.eq(entry.valid & ~allocation.run),
                    entry.ready.eq(allocation.stage.ready | allocation.run),
                ]
            with m.Case(Entry.Start):
                # Not before it is known that all stages are in the table.
                m.d.comb += entry.ready.eq(~allocation.busy | allocation.run)
                with m.If(entry.valid & ~allocation.busy & ~allocation.run):
                    m.d.sync += [
                        allocation.run.eq(1),
                        allocation.threshold.eq(start.threshold),
                        allocation.moves.eq(start.moves),
                        allocation.tell.eq(start.tell),
                    ]
        with m.If(self.clear):
            m.d.sync += allocation.run.eq(0)

        # Tasks that are given out, to this chip or to another one.
        given = allocation.task
        for line in (tasks.i1.payload, data.View(Descriptor, letters.i1.payload.line)):
            m.d.comb += [line.eq(given.payload.descriptor), line.managed.eq(1), line.owner.eq(self.node)]
        m.d.comb += [letters.i1.payload.node.eq(given.payload.node), letters.i1.payload.kind.eq(LetterKind.Task)]
        with m.If(given.payload.node == self.node):
            m.d.comb += [tasks.i1.valid.eq(given.valid), given.ready.eq(tasks.i1.ready)]
        with m.Else():
            m.d.comb += [letters.i1.valid.eq(given.valid), given.ready.eq(letters.i1.ready)]

        # Letters from other chips.
        came = self.came
        m.d.comb += [
            tasks.i2.payload.eq(came.payload.line),
            windows.i1.payload.eq(came.payload.line),
            ends.i1.payload.eq(came.payload.line),
        ]
        with m.Switch(came.payload.kind):
            sinks = {LetterKind.Task: tasks.i2, LetterKind.Record: ends.i1, LetterKind.Window: windows.i1}
            for kind, sink in sinks.items():
                with m.Case(kind):
                    m.d.comb += [sink.valid.eq(came.valid), came.ready.eq(sink.ready)]
            with m.Default():
                m.d.comb += came.ready.eq(1)

        # Records: to the master that gave the task, or to this chip's host; what its master gave out is over then.
        record = self.record
        m.d.comb += [
            ends.i0.payload.eq(record.payload),
            letters.i2.payload.node.eq(record.payload.owner),
            letters.i2.payload.kind.eq(LetterKind.Record),
            letters.i2.payload.line.eq(record.payload.as_value()),
        ]
        with m.If(record.payload.managed & (record.payload.owner != self.node)):
            m.d.comb += [letters.i2.valid.eq(record.valid), record.ready.eq(letters.i2.ready)]
        with m.Else():
            m.d.comb += [ends.i0.valid.eq(record.valid), record.ready.eq(ends.i0.ready)]
        said, counted = Signal(), Signal()
        over, records, ended = ends.o, self.records, allocation.ended
        counts = over.payload.managed & over.payload.last
        m.d.comb += [
            records.payload.eq(over.payload),
            records.valid.eq(over.valid & ~said),
            ended.payload.node.eq(over.payload.node),
            ended.payload.stage.eq(over.payload.tag[: len(ended.payload.stage)]),
            ended.valid.eq(over.valid & counts & ~counted),
            over.ready.eq((said | records.ready) & (counted | ended.ready | ~counts)),
        ]
        m.d.sync += [
            said.eq(over.valid & ~over.ready & (said | records.ready)),
            counted.eq(over.valid & ~over.ready & (counted | (ended.valid & ended.ready))),
        ]

        m.d.comb += [
            allocation.clear.eq(self.clear),
            allocation.count.eq(self.count),
            allocation.hold.eq(self.hold),
            self.read.eq(allocation.read),
            self.move.eq(allocation.move),
        ]
        for interface in (self.entry, self.came, self.record, self.records):
            observe(m, interface)
        return m
