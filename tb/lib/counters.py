"""Testbench of hw/lib/counters.py."""

import cocotb

from tessera.hw.lib.counters import EventCounters
from tessera.tb.bench import Bench, Dut

DUTS = {"narrow": Dut(lambda: EventCounters(5, width=6)), "one": Dut(lambda: EventCounters(1))}


@cocotb.test()
async def counts_wraps_and_clears(dut):
    bench = Bench(dut, DUTS)
    dut.events.value = 0
    dut.clear.value = 0
    dut.select.value = 0
    await bench.reset()
    count, width = bench.component.count, bench.component.width
    for trial in range(3):
        expected = [0] * count
        for _ in range(150):
            events = bench.random.getrandbits(count)
            dut.events.value = events
            await bench.cycles(1)
            expected = [value + (events >> n & 1) for n, value in enumerate(expected)]
        dut.events.value = 0
        await bench.cycles(1)
        for n in range(count + 2):
            dut.select.value = n
            await bench.cycles(3)
            assert bench.get("value") == (expected[n] % (1 << width) if n < count else 0), (trial, n)
        dut.clear.value = 1
        await bench.cycles(1)
        dut.clear.value = 0
