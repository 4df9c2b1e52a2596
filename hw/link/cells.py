"""The cells of a link's end: packets kept by their numbers, and given again part by part."""

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.packet import Head, Part

__all__ = ["KEPT", "Cells"]

KEPT = ("form", "source", "target", "tag", "first", "status", "epoch")
"""Fields of a head that are the packet's; the others are of one of its transmissions."""


class Cells(wiring.Component):
    """A cell for each number of each class: a line, and of the first cell of a packet its head and body.

    One part is put and one is given each cycle, the first one a cycle after its packet was asked for. What is put can
    be asked for in the next cycle. A packet that is overwritten while it is given still has as many parts as it was
    asked for with; its lines may hold anything.

    Lines are most of it, and their memories lie apart: if they are `late`, who puts and who asks is not in a hurry.

    Parameters
    ----------
    parameters : :class:`RetryParameters`
    extra : shape-like
        Of what goes along from ``i`` to ``o``.
    late : bool
        Lines are given a cycle after the parts to which they belong.

    Members
    -------
    put : :py:`In(1)`, place : :py:`In(range(parameters.places))`, part : :py:`In(Part)`
        A part and its cell's place.
    i : :py:`In(stream.Signature(asked))`
        A packet: its first ``cell`` and that one's ``place``, how many ``cells`` it has, and ``extra``.
    go : :py:`In(1)`
        A part may be read. While it is not, ``i.ready`` is low too.
    busy : :py:`Out(1)`
        Parts of a packet that was asked for are still to be read.
    o : :py:`Out(stream.Signature(given))`
        A packet's ``part``, in whose head only the packet's own fields and ``kind`` have a meaning; the ``cell`` of the
        packet, how many it has, and ``extra``. Out of memories; has to be taken at once.
    """

    def __init__(self, parameters, extra=0, late=False):
        self.parameters, self.late = parameters, late
        p = parameters
        packet = {**p.packet.members, "extra": extra}
        self.asked = data.StructLayout({**packet, "place": range(p.places)})
        self.given = data.StructLayout({**packet, "part": Part})
        super().__init__(
            {
                "put": In(1),
                "place": In(range(p.places)),
                "part": In(Part),
                "i": In(stream.Signature(self.asked)),
                "go": In(1),
                "busy": Out(1),
                "o": Out(stream.Signature(self.given)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        kept = data.StructLayout({**{name: Head.as_shape()[name].shape for name in KEPT}, "body": 32})
        # What is written while it is read is not wanted any more.
        unchecked = {"no_rw_check": 1}
        m.submodules.heads = heads = memory.Memory(shape=kept, depth=p.places, init=[], attrs=unchecked)
        m.submodules.lines = lines = memory.Memory(shape=512, depth=p.places, init=[], attrs=unchecked)

        head = self.part.head
        heads_put, lines_put = heads.write_port(), lines.write_port()
        m.d.comb += [
            heads_put.addr.eq(self.place),
            heads_put.en.eq(self.put & self.part.first),
            *(heads_put.data[name].eq(head[name]) for name in KEPT),
            heads_put.data.body.eq(self.part.body),
        ]
        # If they are late, lines are written and read a cycle later than heads.
        later = m.d.sync if self.late else m.d.comb
        line_put, line_place, line_asked = Signal(), Signal(range(p.places)), Signal(range(p.places))
        line_new = Signal(512, reset_less=True)
        later += [line_put.eq(self.put), line_place.eq(self.place), line_new.eq(self.part.line)]
        m.d.comb += [lines_put.en.eq(line_put), lines_put.addr.eq(line_place), lines_put.data.eq(line_new)]

        # The next cell of the packet that is being given, and how many are left.
        cell, left = Signal(p.cell), Signal(range(p.longest))
        asked, given = self.i.payload, self.o.payload
        heads_get, lines_get = heads.read_port(domain="comb"), lines.read_port(domain="comb")
        given_head, line = Signal(kept, reset_less=True), Signal(512, reset_less=True)
        first, last = Signal(), Signal()
        m.d.comb += [
            self.busy.eq(left != 0),
            self.i.ready.eq(self.go & ~self.busy),
            heads_get.addr.eq(asked.place),
            lines_get.addr.eq(line_asked),
        ]
        later += line_asked.eq(Mux(self.busy, p.place(cell.kind, cell.cell), asked.place))
        m.d.sync += [self.o.valid.eq(self.go & (self.busy | self.i.valid)), line.eq(lines_get.data)]
        with m.If(self.busy):
            m.d.sync += [first.eq(0), last.eq(left == 1)]
            with m.If(self.go):
                m.d.sync += [left.eq(left - 1), cell.cell.eq(cell.cell + 1)]
        with m.Else():
            m.d.sync += [
                given_head.eq(heads_get.data),
                first.eq(1),
                last.eq(asked.cells == 1),
                cell.kind.eq(asked.kind),
                cell.cell.eq(asked.cell + 1),
                *(given[name].eq(asked[name]) for name in ("kind", "cell", "cells", "extra")),
            ]
            with m.If(self.go & self.i.valid):
                m.d.sync += left.eq(asked.cells - 1)
        form = given_head.form
        m.d.comb += [
            given.part.first.eq(first),
            given.part.last.eq(last),
            given.part.has_body.eq(form[4]),
            given.part.has_line.eq(~first | (form[:4] != 0)),
            *(given.part.head[name].eq(given_head[name]) for name in KEPT),
            given.part.head.kind.eq(given.kind),
            given.part.body.eq(given_head.body),
            given.part.line.eq(line),
        ]
        return m
