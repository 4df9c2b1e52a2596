"""Testbench of hw/codec/jpeg/idct.py."""

import cocotb
import numpy as np

from tessera.golden.jpeg import dct
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


def close_to_turns():
    """Blocks in which a sum of either pass lies within 4 of where its rounding turns, and which that shows on.

    For each pass, each of its eight outputs and each side of the turn there are some.
    """
    # The transform before it is rounded is linear as long as nothing wraps.
    units = (2 * np.eye(8, dtype=np.int32)).tolist()
    matrix = np.array([dct._inverse_pass(list(np.array(unit)), 1) for unit in units], float).T
    coefficients = np.random.default_rng(6).integers(-40, 41, (100_000, 8, 8))
    between = matrix @ coefficients
    first = np.floor((between + 1024) / 2048)
    sums = first @ matrix.T
    right = np.floor((sums + (1 << 17)) / (1 << 18))
    inside = (abs(right) < 127).all((1, 2))
    chosen = []
    for away in (-4, 4):
        moved = np.floor((between + 1024 + away) / 2048) != first
        for n in range(8):
            # Of the first pass but output n is moved; of the second it is the one that differs.
            turned = np.where((np.arange(8) == n)[:, None], first + np.sign(away) * moved, first)
            shown = (np.floor((turned @ matrix.T + (1 << 17)) / (1 << 18)) != right).any((1, 2))
            turns = (np.floor((sums[:, :, n] + (1 << 17) + away) / (1 << 18)) != right[:, :, n]).any(1)
            for hits in (shown, turns):
                (found,) = np.nonzero(hits & inside)
                assert len(found) >= 4
                chosen += found[:12].tolist()
    return coefficients[sorted(set(chosen))].astype(np.int16)


def place_of(n):
    """Of block `n`; every bit is some time set, and some time not."""
    return (n * 0x9E37 + 0x1234) & 0xFFFF


def columns(coefficients):
    return [
        {"column": block[:, c].tolist(), "place": place_of(n)} for n, block in enumerate(coefficients) for c in range(8)
    ]


def check(tiles, coefficients):
    expected = inverse(coefficients)
    assert len(tiles) == len(expected)
    for n, (tile, right) in enumerate(zip(tiles, expected)):
        got = np.frombuffer(tile.samples.as_bits().to_bytes(64, "little"), np.uint8).reshape(8, 8)
        assert tile.place == place_of(n), f"block {n}: place {place_of(n)} expected, {tile.place} found"
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
async def rounds_exactly(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    coefficients = close_to_turns()
    cocotb.start_soon(bench.send("i", columns(coefficients)))
    check(await bench.within(100_000, bench.receive("o", len(coefficients))), coefficients)


@cocotb.test()
async def rows_begin_as_a_tile_leaves(dut):
    """However long a tile waits, the next one is offered 14 cycles after it has left."""
    bench = Bench(dut, DUTS)
    for held in range(30, 40):
        await bench.reset()
        sender = cocotb.start_soon(bench.send("i", columns(blocks()[:2])))
        await bench.cycles(LATENCY + 1 + held)
        assert sender.done() and bench.port("o.valid").value
        await bench.receive("o", 1)
        began = bench.now()
        await bench.within(100, bench.receive("o", 1))
        assert bench.now() - began - 1 == BLOCK_CYCLES - 8 == 14, held


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
