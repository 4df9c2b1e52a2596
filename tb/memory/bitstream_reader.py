"""Testbench of hw/memory/bitstream_reader.py."""

import cocotb
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import connect
from tessera.hw.memory.bitstream_reader import Bitstream, BitstreamReader, ByteGroup
from tessera.hw.models.memory import IdealMemory, Knobs
from tessera.hw.models.storage import Backdoor
from tessera.tb.bench import Dut
from tessera.tb.engine import EngineBench


class Harness(wiring.Component):
    """A reader in front of an ideal memory."""

    def __init__(self, depth):
        self.reader = BitstreamReader(id=2, depth=depth)
        self.memory = IdealMemory()
        super().__init__(
            {
                "start": In(stream.Signature(Bitstream)),
                "o": Out(stream.Signature(ByteGroup)),
                "knobs": In(Knobs),
                "backdoor": In(Backdoor()),
                "abort": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader = reader = self.reader
        m.submodules.memory = memory = self.memory
        m.d.comb += memory.knobs.eq(self.knobs)
        wiring.connect(m, wiring.flipped(self.backdoor), memory.backdoor)
        connect(m, self.start, reader.start)
        connect(m, reader.o, self.o)
        connect(m, reader.request, memory.port.request)
        connect(m, memory.port.response, reader.response)
        return m


DUTS = {"deep": Dut(lambda: Harness(8), stalls=True), "shallow": Dut(lambda: Harness(2), tests="gives")}


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5], memory_stall=[0, 8])
async def gives_all_bytes(dut, stall, memory_stall):
    bench = EngineBench(dut, DUTS)
    await bench.reset(stall=memory_stall)
    for size in (0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 1000, 2047):
        data = bench.random.randbytes(size)
        line = bench.random.randrange(1000)
        await bench.write_lines(3, line, data)
        await bench.send("start", [{"window": 3, "body": line, "bytes": size}])
        got = await bench.within(30_000, bench.receive("o", None, stall, until=lambda group: group.last))
        assert len(got) == max(1, -(-size // 8)), f"{size} bytes: {len(got)} groups"
        assert all(group.count == 8 for group in got[:-1])
        found = b"".join(group.data.to_bytes(8, "little")[: group.count] for group in got)
        assert found == data, f"{size} bytes at line {line}"


@cocotb.test()
async def one_group_per_cycle(dut):
    bench = EngineBench(dut, DUTS)
    if bench.stalled:
        return
    for latency in (4, 20):
        await bench.reset(latency=latency)
        await bench.write_lines(0, 0, bytes(range(256)) * 8)
        began = bench.now()
        await bench.send("start", [{"window": 0, "body": 0, "bytes": 2048}])
        await bench.within(1000, bench.receive("o", 1))
        assert bench.now() - began == 5 + latency
        await bench.within(1000, bench.receive("o", 255))
        assert bench.now() - began == 5 + latency + 255
