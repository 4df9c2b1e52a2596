"""Testbench of hw/lib/streams.py."""

import cocotb
from amaranth.hdl import Module, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import Skid, Staller, connect
from tessera.tb.bench import Bench, Dut


class Chain(wiring.Component):
    """Two skids behind a staller: each part with real neighbours."""

    i: In(stream.Signature(16))
    o: Out(stream.Signature(16))

    def elaborate(self, platform):
        m = Module()
        m.submodules.first = first = Skid(unsigned(16))
        m.submodules.staller = staller = Staller(unsigned(16), seed=77)
        m.submodules.second = second = Skid(unsigned(16))
        for source, sink in ((self.i, first.i), (first.o, staller.i), (staller.o, second.i), (second.o, self.o)):
            connect(m, source, sink)
        return m


DUTS = {"chain": Dut(Chain, stalls=True, tests="keeps_order"), "skid": Dut(lambda: Skid(unsigned(16)))}


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.5])
async def keeps_order(dut, stall_in, stall_out):
    bench = Bench(dut, DUTS)
    await bench.reset()
    values = [bench.random.randrange(2**16) for _ in range(500)]
    cocotb.start_soon(bench.send("i", values, stall_in))
    got = await bench.within(50_000, bench.receive("o", len(values), stall_out))
    assert got == values


@cocotb.test()
async def one_item_per_cycle_after_one_cycle(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    began = bench.now()
    cocotb.start_soon(bench.send("i", range(100)))
    assert await bench.within(500, bench.receive("o", 100)) == list(range(100))
    assert bench.now() - began == 101
