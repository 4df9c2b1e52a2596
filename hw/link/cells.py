"""The cells of a link's end: packets kept by their numbers, and given again part by part."""

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import observe
from tessera.hw.link.packet import Head, Part

__all__ = ["KEPT", "Cells"]

KEPT = ("form", "source", "target", "tag", "first", "status", "epoch")
"""Fields of a head that are the packet's; the others are of one of its transmissions."""


class Cells(wiring.Component):
    """A cell for each number of each class: a line, and of the first cell of a packet its head and body.

    One part is put and one is given each cycle; a packet is given two cycles after it was asked for, without gaps, its
    last part in the cycle of ``i.ready`` plus two. What is put can be asked for in the next cycle. A packet that is
    overwritten while it is given is still of the form that its head tells.

    Parameters
    ----------
    parameters : :class:`RetryParameters`
    extra : shape-like
        Of what goes along from ``i`` to ``o``.

    Members
    -------
    put : :py:`In(1)`, cell : :py:`In(parameters.cell)`, part : :py:`In(Part)`
        A part and its cell. Of the first one's head, ``form`` tells how many cells the packet has: its lines, or 1.
    i : :py:`In(stream.Signature(asked))`
        A packet, by its first ``cell``, and ``extra``.
    cells : :py:`Out(4)`
        Beside ``i.ready``: how many cells the packet has.
    o : :py:`Out(stream.Signature(given))`
        Its ``part``, in whose head only the packet's own fields and ``kind`` have a meaning; the ``cell`` of the
        packet, and ``extra``.
    """

    def __init__(self, parameters, extra=0):
        self.parameters = p = parameters
        self.asked = data.StructLayout({"cell": p.cell, "extra": extra})
        self.given = data.StructLayout({"part": Part, "cell": p.cell, "extra": extra})
        super().__init__(
            {
                "put": In(1),
                "cell": In(p.cell),
                "part": In(Part),
                "i": In(stream.Signature(self.asked)),
                "cells": Out(range(p.longest + 1)),
                "o": Out(stream.Signature(self.given)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        kept = data.StructLayout({**{name: Head.as_shape()[name].shape for name in KEPT}, "body": 32})
        count = range(p.longest + 1)
        m.submodules.heads = heads = memory.Memory(shape=kept, depth=p.places, init=[])
        m.submodules.lines = lines = memory.Memory(shape=512, depth=p.places, init=[])
        m.submodules.counts = counts = memory.Memory(shape=count, depth=p.places, init=[])

        place, head = p.place(self.cell.kind, self.cell.cell), self.part.head
        heads_put, lines_put, counts_put = heads.write_port(), lines.write_port(), counts.write_port()
        number = head.form[: Shape.cast(count).width]
        for port in (heads_put, lines_put, counts_put):
            m.d.comb += [port.addr.eq(place), port.en.eq(self.put & (1 if port is lines_put else self.part.first))]
        m.d.comb += [
            *(heads_put.data[name].eq(head[name]) for name in KEPT),
            heads_put.data.body.eq(self.part.body),
            lines_put.data.eq(self.part.line),
            counts_put.data.eq(Mux(number == 0, 1, number)),
        ]

        # Where in the packet, then a register in the memories, then one behind them.
        index, length = Signal(range(p.longest)), Signal(count)
        asked, first, last = self.i.payload, index == 0, Signal()
        heads_get, lines_get, counts_get = heads.read_port(), lines.read_port(), counts.read_port(domain="comb")
        given_shape = data.StructLayout({"first": 1, "last": 1, "cell": p.cell, "extra": asked.extra.shape()})
        read, given = Signal(given_shape), self.o.payload
        read_valid, step_out, step_in = Signal(), Signal(), Signal()
        m.d.comb += [
            step_out.eq(~self.o.valid | self.o.ready),
            step_in.eq(~read_valid | step_out),
            self.i.ready.eq(step_in & last),
            counts_get.addr.eq(p.place(asked.cell.kind, asked.cell.cell)),
            self.cells.eq(Mux(first, counts_get.data, length)),
            last.eq(index + 1 == self.cells),
            heads_get.addr.eq(counts_get.addr),
            lines_get.addr.eq(p.place(asked.cell.kind, (asked.cell.cell + index)[: p.cell_bits])),
            heads_get.en.eq(step_in),
            lines_get.en.eq(step_in),
        ]
        with m.If(step_in):
            m.d.sync += [
                read_valid.eq(self.i.valid),
                read.first.eq(first),
                read.last.eq(last),
                read.cell.eq(asked.cell),
                read.extra.eq(asked.extra),
            ]
            with m.If(self.i.valid):
                m.d.sync += [index.eq(Mux(last, 0, index + 1)), length.eq(self.cells)]
        form = heads_get.data.form
        with m.If(step_out):
            m.d.sync += [
                self.o.valid.eq(read_valid),
                given.part.first.eq(read.first),
                given.part.last.eq(read.last),
                given.part.has_body.eq(form[4]),
                given.part.has_line.eq(~read.first | (form[:4] != 0)),
                *(given.part.head[name].eq(heads_get.data[name]) for name in KEPT),
                given.part.head.kind.eq(read.cell.kind),
                given.part.body.eq(heads_get.data.body),
                given.part.line.eq(lines_get.data),
                given.cell.eq(read.cell),
                given.extra.eq(read.extra),
            ]
        observe(m, self.o)
        return m
