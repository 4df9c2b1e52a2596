"""Testbench of hw/lib/arbiter.py."""

import cocotb
from amaranth.hdl import unsigned
from cocotb.triggers import ReadOnly

from tessera.hw.lib.arbiter import RoundRobin
from tessera.tb.bench import Bench, Dut

DUTS = {
    **{f"{n}": Dut(lambda n=n: RoundRobin(unsigned(16), n), watched=True) for n in (1, 2, 5)},
    **{f"{n}_ahead": Dut(lambda n=n: RoundRobin(unsigned(16), n, ahead=True), watched=True) for n in (2, 5)},
}


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


@cocotb.test()
async def offers_at_once_and_stands_by_it(dut):
    """Whoever comes first after an idle time is offered in that cycle, or in the next if the choice is made ahead,
    before `o` is ready; later ones wait for it."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    inputs = bench.component.inputs
    for first in [*range(inputs), *reversed(range(inputs))]:
        await bench.cycles(2)
        senders = [cocotb.start_soon(bench.send(f"i{first}", [first]))]
        if bench.component.ahead:
            await bench.cycles(1)
        for _ in range(3):
            await ReadOnly()
            assert (bench.get("o.valid"), bench.get("o.payload")) == (1, first)
            await bench.cycles(1)
            if len(senders) == 1:
                senders += [cocotb.start_soon(bench.send(f"i{n}", [n])) for n in range(inputs) if n != first]
        expected = [(first + k) % inputs for k in range(inputs)]
        assert await bench.within(100, bench.receive("o", inputs)) == expected
        assert all(sender.done() for sender in senders)
