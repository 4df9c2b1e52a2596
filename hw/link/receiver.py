"""The receiving end: what came over the wires to packets of each class, each once, in order."""

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import observe
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
    o : :py:`Out(stream.Signature(Delivery))`
        Must be taken at once.
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
                "o": Out(stream.Signature(Delivery)),
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
        m.submodules.cells = cells = Cells(p)
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
        put, get = staged.write_port(), staged.read_port()
        bits = range(_STAGED)
        begun, written, read = (Signal(bits, name=name) for name in ("begun", "written", "read"))
        out_valid, alone = Signal(), Signal()
        new = Signal(_STORED)
        keep = right & ~is_status
        m.d.comb += [
            put.addr.eq(Mux(came.part.first, begun, written)),
            *(new[name].eq(came.part[name]) for name in ("first", "last", "body", "line")),
            *(new.head[name].eq(came.part.head[name]) for name in _HEAD.members),
            put.data.eq(new),
            put.en.eq(self.i.valid),
            alone.eq(keep & came.part.first & (begun == read) & ~out_valid),
            get.addr.eq(read),
        ]
        with m.If(self.i.valid):
            m.d.sync += written.eq(put.addr + 1)
        with m.If(keep & ~alone):
            m.d.sync += begun.eq(put.addr + 1)
        m.d.sync += [out_valid.eq(begun != read), read.eq(read + (begun != read))]

        # Into cells.
        part, there = Signal(_STORED), Signal()
        asked, lines = Signal(p.cell), part.head.form[:4]
        accepted, accept, offset = Signal(), Signal(), Signal(range(p.longest))
        m.d.comb += [
            there.eq(out_valid | alone),
            part.eq(Mux(out_valid, get.data.as_value(), new.as_value())),
            retry.asked.kind.eq(Mux(part.first, part.head.kind.as_value(), asked.kind)),
            retry.asked.cell.eq(Mux(part.first, part.head.cell, asked.cell)),
            retry.asked.cells.eq(Mux(lines == 0, 1, lines)),
            accept.eq(Mux(part.first, retry.accept, accepted)),
            retry.store.eq(there & part.last & accept),
            cells.put.eq(there & accept),
            cells.cell.kind.eq(retry.asked.kind),
            cells.cell.cell.eq(retry.asked.cell + Mux(part.first, 0, offset)),
            *(cells.part[name].eq(part[name]) for name in ("first", "last", "body", "line")),
            *(cells.part.head[name].eq(part.head[name]) for name in KEPT),
        ]
        m.d.sync += self.double.eq(there & part.first & ~accept)
        with m.If(there):
            m.d.sync += [asked.kind.eq(retry.asked.kind), asked.cell.eq(retry.asked.cell)]
            m.d.sync += [accepted.eq(accept), offset.eq(Mux(part.first, 1, offset + 1))]

        # In order, out of them: once a packet is begun, it is given to its end.
        may, turn, kind = Signal(CLASSES), Signal(range(CLASSES)), Signal(range(CLASSES))
        holding, chosen = Signal(), Signal(range(CLASSES))
        m.d.comb += [may.eq(retry.ready & self.room), chosen.eq(turn)]
        for n in reversed(range(2 * CLASSES)):
            with m.If(may[n % CLASSES] & ((n % CLASSES > turn) if n < CLASSES else 1)):
                m.d.comb += chosen.eq(n % CLASSES)
        m.d.comb += [
            kind.eq(Mux(holding, turn, chosen)),
            cells.i.valid.eq(holding | may.any()),
            cells.i.payload.cell.kind.eq(kind),
            cells.i.payload.cell.cell.eq(Array(retry.counts)[kind]),
            retry.pass_.eq(cells.i.valid & cells.i.ready),
            retry.passed.kind.eq(kind),
            retry.passed.cells.eq(cells.cells),
            cells.o.ready.eq(1),
            self.o.valid.eq(cells.o.valid),
            self.o.payload.kind.eq(cells.o.payload.cell.kind),
            self.o.payload.part.eq(cells.o.payload.part),
        ]
        m.d.sync += [holding.eq(cells.i.valid & ~cells.i.ready), turn.eq(kind)]
        observe(m, cells.i)
        return m

    def _tell(self, m, retry, head, right, is_status):
        """What a right head tells, a cycle later: to our sender of the other side's receiver, and to our receiver."""
        report = self.report
        status = Signal(StatusHead)
        m.d.comb += Value.cast(status).eq(Cat(self.i.payload.part.head, self.i.payload.part.body))
        m.d.sync += [
            retry.framed.eq(right),
            retry.frame.eq(head.frame),
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
