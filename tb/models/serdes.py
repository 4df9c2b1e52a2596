"""Testbench of hw/models/serdes.py."""

import cocotb
from amaranth.hdl import EnableInserter, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.lane import LaneReceiver, LaneSender
from tessera.hw.models.serdes import BitDeserializer, BitSerializer, Deserializer
from tessera.tb.bench import Bench, Dut
from tessera.tb.link.lane_model import DENSE

BITS = 257
MASK = (1 << BITS) - 1
DELAY = 3


class BitByBit(wiring.Component):
    """A lane from end to end on one wire, in the clock of the bits."""

    block: In(BITS)
    take: Out(1)
    locked: Out(1)
    give: Out(1)
    valid: Out(1)
    o: Out(BITS)

    def __init__(self, phase):
        self.phase = phase
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.serializer = serializer = BitSerializer()
        m.submodules.deserializer = deserializer = BitDeserializer(self.phase)
        sender, receiver = LaneSender(1), LaneReceiver(1)
        m.submodules.sender = EnableInserter(serializer.take)(sender)
        m.submodules.receiver = EnableInserter(deserializer.give)(receiver)
        left = Signal(range(DENSE))
        with m.If(serializer.take):
            m.d.sync += left.eq(left - 1)
        m.d.comb += [
            sender.block.as_value().eq(self.block),
            sender.marker.eq(left == 0),
            sender.fields.dense.eq(1),
            serializer.i.eq(sender.o),
            self.take.eq(serializer.take),
            deserializer.i.eq(serializer.o),
            receiver.i.eq(deserializer.o),
            deserializer.slip.eq(receiver.slip),
            self.locked.eq(receiver.locked),
            self.give.eq(deserializer.give),
            self.valid.eq(receiver.valid),
            self.o.eq(receiver.o.block),
        ]
        return m


DUTS = {
    "window": Dut(lambda: Deserializer(DELAY), tests="window"),
    **{f"bits{phase}": Dut(lambda phase=phase: BitByBit(phase), tests="bits") for phase in (0, 255)},
}


@cocotb.test()
async def window_moves_by_a_bit(dut):
    bench = Bench(dut, DUTS)
    random = bench.random
    dut.slip.value = dut.move.value = dut.phase.value = dut.i.value = 0
    await bench.reset()
    sent, slips, phase, before = [0], [], 0, 0
    for cycle in range(1200):
        sent.append(random.getrandbits(BITS))
        dut.i.value = sent[-1]
        slips.append(cycle > 300 or (cycle > 20 and random.random() < 0.3))
        dut.slip.value = int(slips[-1])
        move, to = random.random() < 0.01 and cycle < 300, random.randrange(BITS)
        dut.move.value, dut.phase.value = int(move), to
        await ReadOnly()
        if cycle:
            found = dut.o.value.to_unsigned()
            expected = (sent[-3] | sent[-2] << BITS) >> before & MASK
            assert found == expected, f"cycle {cycle}, phase {before}"
        before = phase
        if move:
            phase = to
        elif len(slips) >= DELAY - 1 and slips[1 - DELAY]:
            phase = (phase + 1) % BITS
        await RisingEdge(dut.clk)


@cocotb.test()
async def bits_become_blocks(dut):
    """A lane locks from any phase of the bits, in as many slips as it takes, and brings what was sent."""
    bench = Bench(dut, DUTS)
    random = bench.random
    blocks, came = [], []
    dut.block.value = 0
    await bench.reset()

    async def send():
        while True:
            blocks.append(random.getrandbits(BITS))
            dut.block.value = blocks[-1]
            await RisingEdge(dut.take)
            await RisingEdge(dut.clk)

    async def receive():
        while len(came) < 50:
            await RisingEdge(dut.give)
            await ReadOnly()
            if dut.valid.value:
                came.append(dut.o.value.to_unsigned())
            await RisingEdge(dut.clk)

    cocotb.start_soon(send())
    await bench.within(150 * BITS, receive(), "50 blocks")
    at = blocks.index(came[0])
    # The first block of all, a marker, was taken before these.
    expected = [block for n, block in enumerate(blocks) if n % DENSE != DENSE - 1 and n >= at]
    assert came == expected[: len(came)]
