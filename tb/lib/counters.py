"""Testbench of hw/lib/counters.py."""

from itertools import pairwise

import cocotb
from cocotb.triggers import ReadOnly

from tessera.hw.lib.counters import EventCounters
from tessera.tb.bench import Bench, Dut

DUTS = {"narrow": Dut(lambda: EventCounters(20, width=6)), "one": Dut(lambda: EventCounters(1, width=18))}


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


@cocotb.test()
async def shows_each_selected_one_two_cycles_later(dut):
    """A new selection in every cycle, without a pause; one beyond the last, however far, shows 0."""
    bench = Bench(dut, DUTS)
    dut.events.value = 0
    dut.clear.value = 0
    dut.select.value = 0
    await bench.reset()
    count = bench.component.count
    for n in range(count):
        dut.events.value = (1 << n + 1) - 1
        await bench.cycles(3)
    dut.events.value = 0
    await bench.cycles(2)
    expected = [3 * (count - n) for n in range(count)]
    selected = [*range(count + 1), *(1 << k for k in range(16)), *reversed(range(count))]
    for n, select in enumerate([*selected, 0, 0]):
        dut.select.value = select
        await ReadOnly()
        if n >= 2:
            before = selected[n - 2]
            assert bench.get("value") == (expected[before] if before < count else 0), (n, before)
        await bench.cycles(1)


@cocotb.test()
async def clear_beats_an_event(dut):
    """An event right before the clear is gone with all others, one right after it is the first."""
    bench = Bench(dut, DUTS)
    everything = (1 << bench.component.count) - 1
    dut.clear.value = 0
    await bench.reset()
    for after in (0, 1, 5):
        dut.events.value = everything
        await bench.cycles(7)
        dut.events.value = 0
        dut.clear.value = 1
        await bench.cycles(1)
        dut.clear.value = 0
        dut.events.value = everything if after else 0
        await bench.cycles(after or 1)
        dut.events.value = 0
        for n in range(bench.component.count):
            dut.select.value = n
            await bench.cycles(3)
            assert bench.get("value") == after, (after, n)


@cocotb.test()
async def reaches_its_highest_number_and_wraps(dut):
    bench = Bench(dut, DUTS)
    top = (1 << bench.component.width) - 1
    dut.clear.value = 0
    dut.select.value = bench.component.count - 1
    dut.events.value = 0
    await bench.reset()
    sooner = sorted(bench.random.sample(range(1, top), 20))
    for before, after in pairwise([0, *sooner, top, top + 1, top + 3]):
        dut.events.value = 1 << bench.component.count - 1
        await bench.cycles(after - before)
        dut.events.value = 0
        await bench.cycles(3)
        assert bench.get("value") == after & top
