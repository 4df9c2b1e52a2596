"""Testbench of hw/codec/jpeg/idct.py."""

import cocotb
import numpy as np

from tessera.golden.jpeg.dct import inverse
from tessera.hw.codec.jpeg.idct import BLOCK_CYCLES, LATENCY, Idct, IdctParameters
from tessera.tb.bench import Bench, Dut

DUTS = {"idct": Dut(lambda: Idct(IdctParameters(place=16)), stalls=True)}


def blocks():
    """Blocks as pictures have them, and as only damaged data has."""
    random = np.random.default_rng(5)
    ordinary = random.normal(0, 40, (60, 8, 8)) * 1000 ** -(np.add.outer(np.arange(8), np.arange(8)) / 14)
    ordinary[:, 0, 0] += random.integers(-1024, 1024, 60)
    sparse = np.zeros((30, 8, 8))
    for n, block in enumerate(sparse):
        block[n % 8, n // 8] = random.choice([-32768, -1024, -1, 1, 5, 1023, 32767])
    wild = random.integers(-(2**15), 2**15, (40, 8, 8))
    extreme = random.choice([-(2**15), 2**15 - 1], (20, 8, 8))
    big = random.integers(-2048, 2048, (30, 8, 8))
    fixed = [np.full((8, 8), -(2**15)), np.full((8, 8), 2**15 - 1), np.zeros((8, 8))]
    return np.concatenate([np.rint(ordinary), sparse, wild, extreme, big, fixed]).astype(np.int16)


def columns(coefficients):
    return [
        {"column": block[:, c].tolist(), "place": n & 0xFFFF} for n, block in enumerate(coefficients) for c in range(8)
    ]


def check(tiles, coefficients):
    expected = inverse(coefficients)
    assert len(tiles) == len(expected)
    for n, (tile, right) in enumerate(zip(tiles, expected)):
        got = np.frombuffer(tile.samples.as_bits().to_bytes(64, "little"), np.uint8).reshape(8, 8)
        assert tile.place == n, f"block {n} came with the place of {tile.place}"
        if not np.array_equal(got, right):
            row, column = np.argwhere(got != right)[0]
            raise AssertionError(
                f"block {n}, row {row}, column {column}: {right[row, column]} expected, {got[row, column]} found;\n"
                f"coefficients\n{coefficients[n]}"
            )


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.3], stall_out=[0.0, 0.9])
async def equals_golden(dut, stall_in, stall_out):
    bench = Bench(dut, DUTS)
    await bench.reset()
    coefficients = blocks()
    cocotb.start_soon(bench.send("i", columns(coefficients), stall_in))
    tiles = await bench.within(100_000, bench.receive("o", len(coefficients), stall_out))
    check(tiles, coefficients)


@cocotb.test()
async def one_block_every_so_many_cycles(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    coefficients = blocks()[:20]
    began = bench.now()
    cocotb.start_soon(bench.send("i", columns(coefficients)))
    check(await bench.within(10_000, bench.receive("o", 1)), coefficients[:1])
    assert bench.now() - began == LATENCY + 1 == 29
    await bench.within(10_000, bench.receive("o", 19))
    assert bench.now() - began == LATENCY + 1 + 19 * BLOCK_CYCLES
    assert BLOCK_CYCLES == 22


@cocotb.test()
async def restarts_dirty(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    coefficients = blocks()
    sender = cocotb.start_soon(bench.send("i", columns(coefficients[:9])))
    await bench.cycles(100)
    sender.cancel()
    await bench.reset()
    cocotb.start_soon(bench.send("i", columns(coefficients[90:100])))
    tiles = await bench.within(10_000, bench.receive("o", 10))
    check(tiles, coefficients[90:100])
