"""Testbench of hw/lib/turns.py."""

import cocotb
from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.lib.turns import Turns, one_of
from tessera.tb.bench import Bench, Dut


class Chosen(wiring.Component):
    """The number of the one whose turn it is, and its item: as chosen by that, and as told."""

    def __init__(self, count):
        self.count = count
        super().__init__(
            {
                "wants": In(count),
                "items": In(data.ArrayLayout(8, count)),
                "go": In(1),
                "chosen": Out(count),
                "item": Out(8),
                "told": Out(8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # For one there is nothing to remember; the clock is there all the same.
        m.d.sync += Signal(name="begun").eq(1)
        m.submodules.turns = turns = Turns(self.count, 8)
        m.d.comb += [
            turns.wants.eq(self.wants),
            turns.go.eq(self.go),
            turns.items.eq(self.items),
            self.told.eq(turns.item),
            self.chosen.eq(turns.chosen),
            self.item.eq(one_of(turns.chosen, [self.items[n] for n in range(self.count)])),
        ]
        return m


DUTS = {f"{n}": Dut(lambda n=n: Chosen(n)) for n in (1, 2, 5, 6)}


@cocotb.test()
@cocotb.parametrize(often=[0.2, 0.5, 0.9])
async def each_in_its_turn(dut, often):
    """The next that wants after the last that went; while none goes the choice may change."""
    bench = Bench(dut, DUTS)
    dut.go.value = 0
    await bench.reset()
    random, count = bench.random, bench.component.count
    last = count - 1
    for cycle in range(400):
        wants = [random.random() < often for _ in range(count)]
        items, go = [random.getrandbits(8) for _ in range(count)], random.random() < 0.7
        dut.wants.value = sum(want << n for n, want in enumerate(wants))
        dut.items.value = sum(item << 8 * n for n, item in enumerate(items))
        dut.go.value = go
        await ReadOnly()
        turn = next((n for n in (*range(last + 1, count), *range(last + 1)) if wants[n]), None)
        assert bench.get("chosen") == (0 if turn is None else 1 << turn), f"cycle {cycle}: {turn} expected"
        for item in ("item", "told"):
            assert bench.get(item) == (0 if turn is None else items[turn]), f"cycle {cycle}: {item} of {turn}"
        await RisingEdge(dut.clk)
        if turn is not None and go:
            last = turn


@cocotb.test()
async def nobody_waits_for_long(dut):
    """With all wanting always, each goes once in as many turns as there are."""
    bench = Bench(dut, DUTS)
    dut.go.value = 0
    await bench.reset()
    count = bench.component.count
    dut.wants.value, dut.go.value = (1 << count) - 1, 1
    seen = []
    for _ in range(4 * count):
        await ReadOnly()
        seen.append(bench.get("chosen"))
        await RisingEdge(dut.clk)
    assert seen == [1 << n for n in range(count)] * 4
