"""Testbench of hw/link/cells.py against a dictionary of packets."""

import itertools

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.cells import Cells
from tessera.hw.link.retry import RetryParameters
from tessera.tb.bench import Bench, Dut, pack
from tessera.tb.link.model import Packet

CLASSES = (32, 32, 128, 32, 16, 16)
KEPT = ("source", "target", "tag", "first", "status", "epoch")

DUTS = {"cells": Dut(lambda: Cells(RetryParameters(CLASSES), extra=10), watched=True)}


def packet_of(random):
    lines = random.choice((0, 0, 1, 1, 2, 4, 8))
    return Packet.random(random, lines, random.random() < 0.5)


class CellsBench(Bench):
    """Puts and asks for packets."""

    async def put(self, kind, cell, packet):
        """A part a cycle."""
        for n, part in enumerate(packet.parts()):
            self.dut.put.value = 1
            self.dut.cell.value = pack(self.component.parameters.cell, {"kind": kind, "cell": (cell + n) % 256})
            self.dut.part.value = pack(self.component.signature.members["part"].shape, part["part"])
            await RisingEdge(self.dut.clk)
        self.dut.put.value = 0

    async def noise(self):
        """Without ``put``, first parts for any cell, which mean nothing."""
        cell, part = (self.component.signature.members[name].shape for name in ("cell", "part"))
        while True:
            number = self.random.randrange(256)
            self.dut.cell.value = pack(cell, {"kind": self.random.randrange(6), "cell": number})
            self.dut.part.value = pack(part, packet_of(self.random).parts()[0]["part"])
            await RisingEdge(self.dut.clk)

    def check(self, values, kind, cell, packet, extra):
        """`values` are the parts of `packet`."""
        parts = packet.parts()
        assert len(values) == len(parts), f"{len(parts)} parts expected, {len(values)} found"
        for n, (value, expected) in enumerate(zip(values, parts)):
            found, what = value.part, f"{kind} {cell}, part {n}"
            assert (value.cell.kind, value.cell.cell, value.extra) == (kind, cell, extra), what
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
@cocotb.parametrize(stall=[0.0, 0.6])
async def gives_what_was_put(dut, stall):
    """In all classes, at numbers around the end of their cells; given in another order, and more than once."""
    bench = CellsBench(dut, DUTS)
    dut.put.value = 0
    await bench.reset()
    random, kept = bench.random, {}
    for kind in range(6):
        cell = random.randrange(256)
        for _ in range(CLASSES[kind] // 8):
            packet = packet_of(random)
            await bench.put(kind, cell, packet)
            kept[kind, cell] = packet
            cell = (cell + max(1, len(packet.lines))) % 256
    order = random.sample(list(kept.items()) * 2, 2 * len(kept))
    asked = [
        {"cell": {"kind": kind, "cell": cell}, "extra": n} for n, ((kind, cell), _) in enumerate(order)
    ]  # fmt: skip
    sending = cocotb.start_soon(bench.send("i", asked, stall))
    cocotb.start_soon(bench.noise())
    for n, ((kind, cell), packet) in enumerate(order):
        values = await bench.within(1000, bench.receive("o", stall=stall, until=lambda value: value.part.last))
        bench.check(values, kind, cell, packet, n)
    await sending


@cocotb.test()
async def one_part_per_cycle(dut):
    """Two cycles from a question to the first part, which may have been put in the cycle before; then no gaps."""
    bench = CellsBench(dut, DUTS)
    dut.put.value = 0
    await bench.reset()
    packets = [Packet.random(bench.random, lines, True) for lines in (1, 0, 8, 3, 1, 1, 2, 5, 4, 7, 6)]
    counts = [max(1, len(packet.lines)) for packet in packets]
    cells = [0, *itertools.accumulate(counts[:-1])]
    for cell, packet in zip(cells, packets):
        await bench.put(2, cell, packet)
    shape, given = bench.shape("i"), []
    dut.o__ready.value = 1
    taken, cycle, places = [], 0, iter(cells)
    dut.i__valid.value = 1
    dut.i__payload.value = pack(shape, {"cell": {"kind": 2, "cell": next(places)}, "extra": 5})
    left = len(cells)
    while len(given) < sum(counts):
        await ReadOnly()
        ready, valid, count = (int(signal.value) for signal in (dut.i__ready, dut.o__valid, dut.cells))
        if left and ready:
            assert count == counts[len(taken)], f"packet {len(taken)}: {count} cells, not {counts[len(taken)]}"
            taken.append(cycle)
        if valid:
            given.append(cycle)
        await RisingEdge(dut.clk)
        if left and ready:
            left -= 1
            dut.i__valid.value = int(left > 0)
            if left:
                dut.i__payload.value = pack(shape, {"cell": {"kind": 2, "cell": next(places)}, "extra": 5})
        cycle += 1
        assert cycle < 100
    assert given == list(range(2, 2 + len(given))), f"parts in cycles {given}"
    lasts = [given[n - 1] for n in itertools.accumulate(counts)]
    assert [n + 2 for n in taken] == lasts, f"taken in {taken}, last parts in {lasts}"


@cocotb.test()
async def offers_without_being_asked_for_it(dut):
    """Two parts go on towards ``o`` while nothing is taken there, so two short packets' questions are."""
    bench = CellsBench(dut, DUTS)
    dut.put.value = 0
    await bench.reset()
    packets = [Packet.random(bench.random, lines, True) for lines in (1, 0, 1)]
    for cell, packet in enumerate(packets):
        await bench.put(1, cell, packet)
    asked = [{"cell": {"kind": 1, "cell": cell}, "extra": cell} for cell in range(len(packets))]
    sending = cocotb.start_soon(bench.send("i", asked))
    for cycle in range(6):
        await ReadOnly()
        assert bench.get("o.valid") == (cycle >= 2), f"cycle {cycle}: offered or not"
        assert bench.get("i.ready") == (cycle < 2), f"cycle {cycle}: asked or not"
        await RisingEdge(dut.clk)
    for cell, packet in enumerate(packets):
        bench.check(await bench.within(10, bench.receive("o", 1)), 1, cell, packet, cell)
    await bench.within(10, sending)


@cocotb.test()
async def keeps_its_form_when_it_is_overwritten(dut):
    """A packet of one line is put into the cells of one of eight while that is given: still eight parts."""
    bench = CellsBench(dut, DUTS)
    dut.put.value = 0
    await bench.reset()
    long, short = (Packet.random(bench.random, lines, True) for lines in (8, 1))
    for delay in range(8):
        await bench.put(0, 0, long)
        sending = cocotb.start_soon(bench.send("i", [{"cell": {"kind": 0, "cell": 0}, "extra": 0}]))
        receiving = cocotb.start_soon(bench.receive("o", until=lambda value: value.part.last))
        for _ in range(delay):
            await RisingEdge(dut.clk)
        for cell in range(8):
            await bench.put(0, cell, short)
        await sending
        values = await receiving
        assert len(values) == max(1, values[0].part.head.form & 15), f"after {delay} cycles: {len(values)} parts"
        assert all(value.part.line in (*long.lines, *short.lines) for value in values)
