"""Testbench of hw/link/cells.py against a dictionary of packets."""

import itertools

import cocotb
from amaranth.hdl import *
from amaranth.lib import wiring
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.cells import Cells
from tessera.hw.link.retry import RetryParameters
from tessera.tb.bench import Bench, Dut, pack
from tessera.tb.link.model import Packet

CLASSES = (32, 32, 128, 32, 16, 16)
KEPT = ("source", "target", "tag", "first", "status", "epoch")



class Late(wiring.Component):
    """Cells whose lines are late, and registers that make all else that is given as late as these."""

    def __init__(self, parameters, extra):
        self.parameters, self.cells = parameters, Cells(parameters, extra, late=True)
        super().__init__(self.cells.signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.cells = cells = self.cells
        given = Signal.like(cells.o.payload)
        m.d.sync += [given.eq(cells.o.payload), self.o.valid.eq(cells.o.valid)]
        m.d.comb += [
            *(getattr(cells, name).eq(getattr(self, name)) for name in ("put", "place", "part", "go")),
            cells.i.valid.eq(self.i.valid),
            cells.i.payload.eq(self.i.payload),
            self.i.ready.eq(cells.i.ready),
            self.busy.eq(cells.busy),
            cells.o.ready.eq(self.o.ready),
            self.o.payload.eq(given),
            self.o.payload.part.line.eq(cells.o.payload.part.line),
        ]
        return m


DUTS = {
    "cells": Dut(lambda: Cells(RetryParameters(CLASSES), extra=10)),
    "late": Dut(lambda: Late(RetryParameters(CLASSES), extra=10)),
}


def packet_of(random):
    lines = random.choice((0, 0, 1, 1, 2, 4, 8))
    return Packet.random(random, lines, random.random() < 0.5)


class CellsBench(Bench):
    """Puts and asks for packets."""

    async def start(self, go=1.0):
        """Parts may be read in `go` of all cycles."""
        self.dut.put.value = 0
        self.dut.go.value = 1
        await self.reset()

        async def go_on():
            while True:
                self.dut.go.value = self.random.random() < go
                await RisingEdge(self.dut.clk)

        if go < 1:
            cocotb.start_soon(go_on())

    @property
    def late(self):
        """Cycles."""
        return int(isinstance(self.component, Late))

    def place(self, kind, cell):
        return self.component.parameters.base(kind) + cell % CLASSES[kind]

    def asked(self, kind, cell, packet, extra):
        """The question for a packet, or for one of so many cells."""
        cells = packet if isinstance(packet, int) else max(1, len(packet.lines))
        return {"kind": kind, "cell": cell, "cells": cells, "place": self.place(kind, cell), "extra": extra}

    async def put(self, kind, cell, packet):
        """A part a cycle."""
        for n, part in enumerate(packet.parts()):
            self.dut.put.value = 1
            self.dut.place.value = self.place(kind, cell + n)
            self.dut.part.value = pack(self.component.signature.members["part"].shape, part["part"])
            await RisingEdge(self.dut.clk)
        self.dut.put.value = 0

    async def noise(self):
        """Without ``put``, first parts for any cell, which mean nothing."""
        part = self.component.signature.members["part"].shape
        while True:
            self.dut.place.value = self.random.randrange(256)
            self.dut.part.value = pack(part, packet_of(self.random).parts()[0]["part"])
            await RisingEdge(self.dut.clk)

    def check(self, values, kind, cell, packet, extra):
        """`values` are the parts of `packet`."""
        parts = packet.parts()
        assert len(values) == len(parts), f"{len(parts)} parts expected, {len(values)} found"
        for n, (value, expected) in enumerate(zip(values, parts)):
            found, what = value.part, f"{kind} {cell}, part {n}"
            asked = (kind, cell, len(parts), extra)
            assert (value.kind, value.cell, value.cells, value.extra) == asked, what
            assert (found.first, found.last) == (n == 0, n == len(parts) - 1), what
            assert found.has_line == bool(packet.lines), what
            if packet.lines:
                assert found.line == packet.lines[n], what
            if n == 0:
                head = expected["part"]["head"]
                assert found.head.form == head.form and found.head.kind.value == kind, what
                for name in KEPT:
                    assert getattr(found.head, name) == getattr(head, name), f"{what}: {name}"
                assert found.has_body == (packet.body is not None), what
                assert packet.body is None or found.body == packet.body, what


@cocotb.test()
@cocotb.parametrize(go=[1.0, 0.4])
async def gives_what_was_put(dut, go):
    """In all classes, at numbers around the end of their cells; given in another order, and more than once."""
    bench = CellsBench(dut, DUTS)
    await bench.start(go)
    random, kept = bench.random, {}
    for kind in range(6):
        cell = random.randrange(256)
        for _ in range(CLASSES[kind] // 8):
            packet = packet_of(random)
            await bench.put(kind, cell, packet)
            kept[kind, cell] = packet
            cell = (cell + max(1, len(packet.lines))) % 256
    order = random.sample(list(kept.items()) * 2, 2 * len(kept))
    asked = [bench.asked(kind, cell, packet, n) for n, ((kind, cell), packet) in enumerate(order)]
    sending = cocotb.start_soon(bench.send("i", asked, 1 - go))
    cocotb.start_soon(bench.noise())
    for n, ((kind, cell), packet) in enumerate(order):
        values = await bench.within(1000, bench.receive("o", until=lambda value: value.part.last))
        bench.check(values, kind, cell, packet, n)
    await sending


@cocotb.test()
async def one_part_per_cycle(dut):
    """A cycle from a question to the first part, which may have been put in the cycle before; then no gaps."""
    bench = CellsBench(dut, DUTS)
    await bench.start()
    packets = [Packet.random(bench.random, lines, True) for lines in (1, 0, 8, 3, 1, 1, 2, 5, 4, 7, 6)]
    counts = [max(1, len(packet.lines)) for packet in packets]
    cells = [0, *itertools.accumulate(counts[:-1])]
    for cell, packet in zip(cells, packets):
        await bench.put(2, cell, packet)
    shape = bench.shape("i")
    questions = iter(zip(cells, counts))
    dut.i__valid.value = 1
    dut.i__payload.value = pack(shape, bench.asked(2, *next(questions), 5))
    expected = [n == 0 for count in counts for n in range(count)]
    for cycle, first in enumerate(expected):
        await ReadOnly()
        ready, valid = bool(dut.i__ready.value), bool(dut.o__valid.value)
        assert (ready, bench.get("busy")) == (first, not first), f"cycle {cycle}: asked for a packet or not"
        assert valid == (cycle > bench.late), f"cycle {cycle}: a part or none"
        await RisingEdge(dut.clk)
        if ready:
            question = next(questions, None)
            dut.i__valid.value = question is not None
            if question:
                dut.i__payload.value = pack(shape, bench.asked(2, *question, 5))
    await ReadOnly()
    assert bench.get("o.valid") and not bench.get("busy")


@cocotb.test()
async def reads_when_it_may(dut):
    """No part a cycle after one in which it may not, and no question is taken in that."""
    bench = CellsBench(dut, DUTS)
    await bench.start(0.5)
    packets = [Packet.random(bench.random, lines, True) for lines in (1, 0, 3, 8, 1)]
    cells = [0, *itertools.accumulate(max(1, len(packet.lines)) for packet in packets)]
    for cell, packet in zip(cells, packets):
        await bench.put(1, cell, packet)
    sending = cocotb.start_soon(
        bench.send("i", [bench.asked(1, cell, packet, cell) for cell, packet in zip(cells, packets)])
    )
    went, parts = [False] * (1 + bench.late), 0
    for cycle in range(100):
        await ReadOnly()
        assert not bench.get("o.valid") or went[0], f"cycle {cycle}: a part that may not be"
        parts += bench.get("o.valid")
        went = [*went[1:], bench.get("go")]
        assert bench.get("i.ready") == (went[-1] and not bench.get("busy"))
        await RisingEdge(dut.clk)
    await sending
    assert parts == cells[-1], f"{parts} parts"


@cocotb.test()
async def keeps_its_length_when_it_is_overwritten(dut):
    """A packet of one line is put into the cells of one of eight while that is given: still eight parts, same head."""
    bench = CellsBench(dut, DUTS)
    await bench.start()
    long, short = (Packet.random(bench.random, lines, True) for lines in (8, 1))
    for delay in range(1, 8):
        await bench.put(0, 0, long)
        sending = cocotb.start_soon(bench.send("i", [bench.asked(0, 0, long, 0)]))
        receiving = cocotb.start_soon(bench.receive("o", until=lambda value: value.part.last))
        for _ in range(delay):
            await RisingEdge(dut.clk)
        for cell in range(8):
            await bench.put(0, cell, short)
        await sending
        values = await receiving
        assert len(values) == 8, f"after {delay} cycles: {len(values)} parts"
        assert all(value.part.head.form & 15 == 8 for value in values)
        assert all(value.part.line in (*long.lines, *short.lines) for value in values)
