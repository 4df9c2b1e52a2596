"""Testbench of hw/lib/streams.py."""

from itertools import groupby

import cocotb
from amaranth.hdl import Module, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly

from tessera.hw.lib.streams import Skid, Staller, connect
from tessera.tb.bench import Bench, Dut

SEED = 77


class Chain(wiring.Component):
    """Two skids behind a staller: each part with real neighbours."""

    i: In(stream.Signature(16))
    o: Out(stream.Signature(16))

    def elaborate(self, platform):
        m = Module()
        m.submodules.first = first = Skid(unsigned(16))
        m.submodules.staller = staller = Staller(unsigned(16), seed=SEED)
        m.submodules.second = second = Skid(unsigned(16))
        for source, sink in ((self.i, first.i), (first.o, staller.i), (staller.o, second.i), (second.o, self.o)):
            connect(m, source, sink)
        return m


DUTS = {
    "chain": Dut(Chain, stalls=True, tests="keeps_order|staller"),
    "skid": Dut(lambda: Skid(unsigned(16)), tests="^(?!.*staller)"),
}


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


@cocotb.test()
async def holds_two_items(dut):
    """While nothing is taken, the first item is offered after one cycle and a second one is taken in, but no third."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    for _ in range(3):
        sender = cocotb.start_soon(bench.send("i", [1, 2, 3]))
        for n in range(6):
            await ReadOnly()
            assert (bench.get("o.valid"), bench.get("i.ready")) == (n >= 1, n < 2), n
            assert not n or bench.get("o.payload") == 1
            await bench.cycles(1)
        assert await bench.within(20, bench.receive("o", 3)) == [1, 2, 3]
        assert sender.done()


def passes(seed, cycles):
    """Whether a staller of `seed` lets an item by, in each cycle after reset, if none waits behind it."""
    lfsr, left, go = seed, 0, 0
    for _ in range(cycles):
        yield bool(go)
        left, go = (lfsr & lfsr >> 3 & 7, lfsr >> 8 & 1) if left == 0 else (left - 1, go)
        lfsr = lfsr >> 1 | ((lfsr ^ lfsr >> 2 ^ lfsr >> 3 ^ lfsr >> 5) & 1) << 15


@cocotb.test()
async def staller_follows_its_seed(dut):
    """The same stalls after each reset: about half of the cycles, runs of all lengths."""
    bench = Bench(dut, DUTS)
    if bench.stalled:
        return
    expected = list(passes(SEED, 3000))
    assert 0.45 < sum(expected) / len(expected) < 0.55
    runs = [len(list(run)) for _, run in groupby(expected)]
    assert set(runs) >= set(range(1, 9))
    for _ in range(2):
        await bench.reset(1)
        dut.i__valid.value = 1
        dut.o__ready.value = 1
        # One cycle has gone by; the items reach the staller after one and leave it for another skid.
        await bench.cycles(2)
        for n, passed in enumerate(expected[2:]):
            await ReadOnly()
            assert bench.get("o.valid") == passed, f"cycle {n + 2}"
            await bench.cycles(1)
