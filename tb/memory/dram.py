"""Testbench of hw/memory/dram.py: where lines lie."""

import random

import cocotb
from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import Timer

from tessera.hw.memory.dram import Place, line_of, place_of
from tessera.tb.bench import Bench, Dut, unpack


class Mapping(wiring.Component):
    """Address to place and back."""

    address: In(30)
    place: Out(Place)
    line: Out(29)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.place.eq(place_of(self.address)),
            self.line.eq(line_of(self.place.bank, self.place.row, self.place.column)),
        ]
        return m


DUTS = {"mapping": Dut(Mapping)}


async def places(bench, addresses):
    """(bank, column, row) of each, after checking that the way back leads to it."""
    result = []
    for address in addresses:
        bench.port("address").value = address
        await Timer(1, "ns")
        place = unpack(Place, bench.get("place"))
        assert bench.get("line") == address & 2**29 - 1, f"{address:#x} -> {place} -> {bench.get('line'):#x}"
        result.append((place.bank, place.column, place.row))
    return result


@cocotb.test()
async def one_to_one(dut):
    bench = Bench(dut, DUTS)
    rng = random.Random(1)
    await places(bench, [1 << n for n in range(30)] + [rng.getrandbits(30) for _ in range(2000)])


@cocotb.test()
async def a_block_is_one_page_in_each_group(dut):
    bench = Bench(dut, DUTS)
    for block in (0, 1, 13, 2**20 - 1):
        got = await places(bench, range(512 * block, 512 * block + 512))
        assert len(set(got)) == 512
        assert len({row for _, _, row in got}) == 1
        assert len({bank >> 2 for bank, _, _ in got}) == 1
        for first in range(0, 512, 4):
            assert {bank & 3 for bank, _, _ in got[first : first + 4]} == {0, 1, 2, 3}


@cocotb.test()
async def neighbouring_blocks_lie_in_different_banks(dut):
    bench = Bench(dut, DUTS)
    banks = [bank >> 2 for bank, _, _ in await places(bench, range(0, 512 * 256, 512))]
    for apart in (1, 7, 8, 9, 15):
        for block in range(256 - apart):
            assert banks[block] != banks[block + apart], f"blocks {block} and {block + apart}"
    for block in range(256 - 9):
        if block % 8 != 7:
            assert {banks[block + n] for n in (0, 1, 8, 9)} == {0, 1, 2, 3}, f"2x2 blocks from {block}"
