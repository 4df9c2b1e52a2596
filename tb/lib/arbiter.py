"""Testbench of hw/lib/arbiter.py."""

import cocotb
from amaranth.hdl import unsigned

from tessera.hw.lib.arbiter import RoundRobin
from tessera.tb.bench import Bench, Dut

DUTS = {f"{n}": Dut(lambda n=n: RoundRobin(unsigned(16), n), watched=True) for n in (1, 2, 5)}


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.5])
async def each_item_once_in_its_order(dut, stall_in, stall_out):
    bench = Bench(dut, DUTS)
    await bench.reset()
    inputs, count = bench.component.inputs, 100
    for n in range(inputs):
        cocotb.start_soon(bench.send(f"i{n}", [n << 12 | k for k in range(count)], stall_in))
    got = await bench.within(20_000, bench.receive("o", count * inputs, stall_out))
    for n in range(inputs):
        assert [value & 0xFFF for value in got if value >> 12 == n] == list(range(count))


@cocotb.test()
async def waiting_inputs_take_turns_without_gaps(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    inputs, count = bench.component.inputs, 50
    for n in range(inputs):
        cocotb.start_soon(bench.send(f"i{n}", [n] * count))
    await bench.cycles(1)
    began = bench.now()
    got = await bench.within(5_000, bench.receive("o", count * inputs))
    assert bench.now() - began == count * inputs
    for k in range(0, len(got), inputs):
        assert sorted(got[k : k + inputs]) == list(range(inputs)), f"turn {k // inputs}: {got[k : k + inputs]}"
