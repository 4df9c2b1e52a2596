"""The receiving end: what came over the wires to packets of each class, each once, in order."""

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.turns import Turns, one_of
from tessera.hw.link.cells import KEPT, Cells
from tessera.hw.link.packet import CLASSES, LINES_MAX, CheckedPart, Head, Kind, Part, StatusHead
from tessera.hw.link.retry import RetryReceiver

__all__ = ["ROOM", "Delivery", "PacketReceiver"]

ROOM = LINES_MAX + 3
"""Parts that a class's taker has room for when it says that it has ``room``: a longest packet, and what is coming."""
_TOLD = data.StructLayout({name: Head.as_shape()[name].shape for name in ("kind", "frame", "counted", "count")})
"""Fields of a head that are looked at when its packet ends."""
_HEAD = data.StructLayout({name: Head.as_shape()[name].shape for name in ("kind", "cell", *KEPT)})
_STORED = data.StructLayout({"first": 1, "last": 1, "head": _HEAD, "body": 32, "line": 512})
"""What of a part goes into cells, or says into which."""
_STAGED = 2 * LINES_MAX
"""Parts that wait for the end of their packet, or to be put into cells."""


class Delivery(data.Struct):
    """A part of a packet, for the taker of its class."""

    kind: range(CLASSES)
    here: 1
    """The packet is for this node."""
    part: Part


class PacketReceiver(wiring.Component):
    """Puts packets that are right into cells, passes them on in order, and says what has to be told to the other side.

    Every part is taken at once. A packet of one part is given on ``o`` four cycles after it came, one of more two
    cycles later, or behind others; parts come one per cycle, each packet's without a part of another class in between.

    Parameters
    ----------
    parameters : :class:`RetryParameters`
        Of six classes.

    Members
    -------
    i : :py:`In(stream.Signature(CheckedPart))`
        Always ready. ``crc`` beside a packet's last part is 0 if it is right. A packet without a last part is dropped.
    coming : :py:`In(Part)`
        The part that comes in the next cycle, if one does.
    o : :py:`Out(stream.Signature(Delivery))`
        Must be taken at once.
    node : :py:`In(4)`
        Of this end.
    room : :py:`In(6)`
        Of each class: its taker has room for :data:`ROOM` parts. Else the class waits, and no other.
    report : :py:`Out(parameters.report)`
        For :class:`RetrySender`.
    counts, last, lost, tell : Out, told : In
        As of :class:`RetryReceiver`.
    right, wrong, double : :py:`Out(1)`
        A packet or ``Status`` came whose CRC is right, or not; a right packet is one that came before.
    """

    def __init__(self, parameters):
        if len(parameters.cells) != CLASSES:
            raise ValueError(f"cells are {parameters.cells}; {CLASSES} classes expected")
        self.parameters = p = parameters
        self._retry = RetryReceiver(p)
        told = self._retry.signature.members
        super().__init__(
            {
                "i": In(stream.Signature(CheckedPart)),
                "coming": In(Part),
                "o": Out(stream.Signature(Delivery)),
                "node": In(4),
                "room": In(CLASSES),
                "report": Out(p.report),
                **{name: told[name] for name in ("counts", "last", "lost", "tell", "told")},
                "right": Out(1),
                "wrong": Out(1),
                "double": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.retry = retry = self._retry
        m.submodules.cells = cells = Cells(p, late=True)
        for name in ("counts", "last", "lost", "tell"):
            m.d.comb += getattr(self, name).eq(getattr(retry, name))
        m.d.comb += [retry.told.eq(self.told), self.i.ready.eq(1)]

        # The end of a packet, and what its head says.
        came = self.i.payload
        head, kept = Signal(_TOLD), Signal(_TOLD)
        for name in _TOLD.members:
            m.d.comb += head[name].eq(Mux(came.part.first, came.part.head[name], kept[name]))
        with m.If(self.i.valid):
            m.d.sync += kept.eq(head)
        ended, right, is_status = Signal(), Signal(), Signal()
        m.d.comb += [
            ended.eq(self.i.valid & came.part.last),
            right.eq(ended & (came.crc == 0)),
            is_status.eq(head.kind == Kind.Status),
        ]
        self._tell(m, retry, head, right, is_status)
        m.d.sync += [self.right.eq(right), self.wrong.eq(ended & ~right)]

        # Parts wait until their packet is known to be right. One that is alone need not, if none is before it.
        m.submodules.staged = staged = memory.Memory(shape=_STORED, depth=_STAGED, init=[])
        put, get = staged.write_port(), staged.read_port(domain="comb")
        bits = range(_STAGED)
        begun, written, read = (Signal(bits, name=name) for name in ("begun", "written", "read"))
        # Of one meaning; the second is for what is wide.
        out_valid, out_none, may_be_alone, alone = Signal(), Signal(init=1), Signal(), Signal()
        out, new = Signal(_STORED, reset_less=True), Signal(_STORED)
        keep = right & ~is_status
        m.d.comb += [
            put.addr.eq(Mux(came.part.first, begun, written)),
            *(new[name].eq(came.part[name]) for name in ("first", "last", "body", "line")),
            *(new.head[name].eq(came.part.head[name]) for name in _HEAD.members),
            put.data.eq(new),
            put.en.eq(self.i.valid),
            # Whether its CRC is right is known late, all else a cycle before.
            alone.eq(may_be_alone & self.i.valid & (came.crc == 0)),
            get.addr.eq(read),
        ]
        with m.If(self.i.valid):
            m.d.sync += written.eq(put.addr + 1)
        with m.If(keep & ~alone):
            m.d.sync += begun.eq(put.addr + 1)
        waits, coming = begun != read, self.coming
        m.d.sync += may_be_alone.eq(
            coming.first & coming.last & (coming.head.kind != Kind.Status) & ~waits & ~(keep & ~alone)
        )
        m.d.sync += [out_valid.eq(waits), out_none.eq(~waits), out.eq(get.data), read.eq(read + waits)]

        # Into cells, if it is new; the later parts behind the first one.
        part, there = Signal(_STORED), Signal()
        asked, lines = Signal(p.packet), part.head.form[:4]
        offset, cell = Signal(range(p.longest)), Signal(p.cell_bits)
        came_last = Signal(p.cell)
        m.d.comb += [
            there.eq(out_valid | alone),
            Cat(part.body, part.line).eq(Mux(out_none, Cat(new.body, new.line), Cat(out.body, out.line))),
            *(part[name].eq(Mux(out_valid, out[name], new[name])) for name in ("first", "last")),
            part.head.eq(Mux(out_valid, out.head.as_value(), new.head.as_value())),
            *(
                retry.coming[name].eq(
                    Mux(waits, Mux(get.data.first, get.data.head[name], came_last[name]), coming.head[name])
                )
                for name in ("kind", "cell")
            ),
            retry.asked.eq(asked),
            cell.eq(asked.cell + offset),
            retry.store.eq(Mux(out_valid, out.last, alone)),
            cells.put.eq(there & retry.accept),
            cells.place.eq(p.place(retry.asked.kind, cell)),
            *(cells.part[name].eq(part[name]) for name in ("first", "last", "body", "line")),
            *(cells.part.head[name].eq(part.head[name]) for name in KEPT),
        ]
        with m.If(part.first):
            m.d.comb += [
                retry.asked.kind.eq(part.head.kind),
                retry.asked.cell.eq(part.head.cell),
                retry.asked.cells.eq(Mux(lines == 0, 1, lines)),
                cell.eq(part.head.cell),
            ]
        m.d.sync += [self.double.eq(retry.double), came_last.eq(retry.coming)]
        with m.If(there):
            m.d.sync += [asked.eq(retry.asked), offset.eq(Mux(part.first, 1, offset + 1))]

        # In order, out of them, the classes in turns.
        m.submodules.turns = turns = Turns(CLASSES, range(p.places))
        nexts = [retry.next[n] for n in range(CLASSES)]
        asked = cells.i.payload
        m.d.comb += [
            turns.wants.eq(retry.ready & self.room),
            turns.go.eq(cells.i.ready),
            retry.take.eq(Mux(cells.i.ready, turns.chosen, 0)),
            cells.go.eq(1),
            cells.i.valid.eq(turns.wants.any()),
            Cat(asked[name] for name in p.packet.members).eq(one_of(turns.chosen, nexts)),
            asked.place.eq(turns.item),
            *(turns.items[n].eq(p.place(n, next_.cell)) for n, next_ in enumerate(nexts)),
        ]

        # When all of it is read, it is passed on; and given from registers, but for lines.
        given, kept = cells.o.payload, Signal(Delivery, reset_less=True)
        m.d.comb += [
            self.o.payload.eq(kept),
            self.o.payload.part.line.eq(given.part.line),
            retry.pass_.eq(cells.o.valid & given.part.last),
            retry.passed.kind.eq(given.kind),
            retry.passed.cells.eq(given.cells),
            cells.o.ready.eq(1),
        ]
        m.d.sync += [self.o.valid.eq(cells.o.valid), kept.kind.eq(given.kind), kept.part.eq(given.part)]
        with m.If(given.part.first):
            m.d.sync += kept.here.eq(given.part.head.target == self.node)
        return m

    def _tell(self, m, retry, head, right, is_status):
        """What a right head tells, a cycle later: to our sender of the other side's receiver, and to our receiver."""
        report = self.report
        status = Signal(StatusHead)
        m.d.comb += Value.cast(status).eq(Cat(self.i.payload.part.head, self.i.payload.part.body))
        m.d.sync += [
            retry.framed.eq(right),
            retry.frame.eq(head.frame - is_status),
            retry.behind.eq(is_status),
            report.classes.eq(0),
            report.frames.eq(0),
            report.losses.eq(right & is_status),
            report.lost.eq(status.lost),
            report.last.eq(Mux(is_status, status.last_frame, head.count)),
        ]
        for n in range(CLASSES):
            named = head.counted == n
            m.d.sync += report.passed[n].eq(Mux(is_status & (n > 0), status.counts[max(n - 1, 0)], head.count))
            with m.If(right & (named | is_status)):
                m.d.sync += report.classes[n].eq(1)
        with m.If(right & ((head.counted == 7) | is_status)):
            m.d.sync += report.frames.eq(1)
