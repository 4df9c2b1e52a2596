"""Testbench of hw/lib/repeated.py."""

import cocotb
from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.repeated import RepeatedModules, repeated
from tessera.hw.lib.streams import Skid, connect
from tessera.tb.bench import Bench, Dut


class Adder(wiring.Component):
    """Shows, in a clock domain of its own, what two parts add up."""

    def __init__(self, step):
        self.step = step
        super().__init__({"go": In(1), "sums": Out(data.ArrayLayout(8, 2)), "stages": In(1).array(2)})

    def elaborate(self, platform):
        m = Module()
        for n in range(2):
            one = repeated(m, f"one{n}", "counter", Counter, key=None, domains={"other": "sync"})
            m.d.comb += [one.go.eq(self.go & self.stages[n]), one.step.eq(self.step + n)]
            m.d.other += self.sums[n].eq(one.sum)
        return m


class Counter(wiring.Component):
    go: In(1)
    step: In(4)
    sum: Out(8)

    def elaborate(self, platform):
        m = Module()
        with m.If(self.go):
            m.d.other += self.sum.eq(self.sum + self.step)
        return m


class Design(wiring.Component):
    """Three adders, and a stream through two modules."""

    def __init__(self):
        sums = data.ArrayLayout(data.ArrayLayout(8, 2), 3)
        stream_of = stream.Signature(8)
        super().__init__(
            {"go": In(3), "stages": In(1).array(2), "sums": Out(sums), "i": In(stream_of), "o": Out(stream_of)}
        )

    def elaborate(self, platform):
        m = Module()
        for n in range(3):
            adder = repeated(m, f"adder{n}", "adder", lambda: Adder(3), key=3, domains={"other": "sync"})
            m.d.comb += [adder.go.eq(self.go[n]), self.sums[n].eq(adder.sums)]
            m.d.comb += [adder.stages[k].eq(self.stages[k]) for k in range(2)]
        first, second = (repeated(m, f"skid{n}", "skid", lambda: Skid(8), key=8) for n in range(2))
        connect(m, self.i, first.i)
        connect(m, first.o, second.i)
        connect(m, second.o, self.o)
        return m


DUTS = {"design": Dut(Design, stalls=True)}


@cocotb.test()
async def each_instance_is_one_of_its_own(dut):
    """Modules within modules, with ports of all sorts, in the clock domain that they were renamed to."""
    bench = Bench(dut, DUTS)
    dut.go.value = dut.stages__0.value = dut.stages__1.value = 0
    await bench.reset()
    sums = [[0, 0] for _ in range(3)]
    for _ in range(100):
        go, stages = bench.random.getrandbits(3), bench.random.getrandbits(2)
        dut.go.value, dut.stages__0.value, dut.stages__1.value = go, stages & 1, stages >> 1
        await bench.cycles(1)
        dut.go.value = 0
        await bench.cycles(3)
        for n in range(3):
            for k in range(2):
                sums[n][k] += (3 + k) * (go >> n & stages >> k & 1)
                assert bench.get("sums") >> 16 * n + 8 * k & 255 == sums[n][k] % 256
    sender = cocotb.start_soon(bench.send("i", range(50), 0.3))
    assert await bench.within(2000, bench.receive("o", 50, 0.3)) == list(range(50))
    await sender


@cocotb.test()
async def a_module_is_of_one_component(dut):
    modules = RepeatedModules()
    with modules.entered():
        m = Module()
        first = repeated(m, "a", "skid", lambda: Skid(8), key=8)
        second = repeated(m, "b", "skid", lambda: Skid(8), key=8)
        assert first is not second
        try:
            repeated(m, "c", "skid", lambda: Skid(9), key=9)
        except ValueError as error:
            assert "module skid is made of 8; the same expected, 9 found" in str(error)
        else:
            raise AssertionError("two components in one module")
    ((name, component),) = modules.pending()
    assert name == "skid" and isinstance(component, Skid)
    assert not [*modules.pending()]
    Fragment.get(component, None)
    alone = Module()
    assert isinstance(repeated(alone, "a", "skid", lambda: Skid(8), key=8), Skid)
    Fragment.get(alone, None)
