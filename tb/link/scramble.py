"""Testbench of hw/link/scramble.py."""

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.scramble import Scrambler
from tessera.tb.bench import Bench, Dut
from tessera.tb.link.lane_model import sequence

DUTS = {"scrambler": Dut(Scrambler)}


@cocotb.test()
async def follows_each_lanes_sequence(dut):
    bench = Bench(dut, DUTS)
    dut.begin.value = 0
    await bench.reset()
    for length in (1, 2, 15, 40, 1):
        for lane in (0, 1, 2, 3, 0, 2, 1, 3):
            dut.begin.value, dut.lane.value = 1, lane
            await RisingEdge(dut.clk)
            keys = sequence(lane)
            dut.begin.value = 0
            for number in range(length):
                dut.lane.value = bench.random.randrange(4)
                await ReadOnly()
                found, expected = dut.key.value.to_unsigned(), next(keys)
                wrong = found ^ expected
                assert not wrong, f"lane {lane}, block {number}: bit {(wrong & -wrong).bit_length() - 1} is wrong"
                await RisingEdge(dut.clk)


@cocotb.test()
async def begins_as_lane_0(dut):
    """A reset begins a sequence, so that it never stays all zeros."""
    bench = Bench(dut, DUTS)
    dut.begin.value = 0
    await bench.reset()
    keys = sequence(0)
    next(keys)
    await ReadOnly()
    assert dut.key.value.to_unsigned() == next(keys)
