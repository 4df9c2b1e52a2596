"""Testbench of the forward DCT."""

import cocotb
import numpy as np

from tessera.golden.jpeg.dct import forward
from tessera.hw.codec.jpeg.fdct import Fdct
from tessera.tb.bench import Bench, Dut

DUTS = {"fdct": Dut(Fdct)}


def extremes():
    """Blocks that drive each coefficient to its largest and smallest value, and some of the simplest."""
    x = np.arange(8)
    basis = np.cos((2 * x[None, :] + 1) * x[:, None] * np.pi / 16)
    waves = np.einsum("ur,vc->uvrc", basis, basis).reshape(64, 8, 8)
    corner = np.zeros((8, 8), np.uint8)
    corner[7, 7] = 255
    return np.concatenate(
        [
            np.where(waves > 0, 255, 0).astype(np.uint8),
            np.where(waves > 0, 0, 255).astype(np.uint8),
            np.stack([corner, np.full((8, 8), 127, np.uint8), np.full((8, 8), 128, np.uint8)]),
        ]
    )


def tiles(blocks):
    return [int.from_bytes(block.tobytes(), "little") for block in blocks]


def natural(pairs):
    """Blocks (n, 8, 8) of the pairs in the order of the output."""
    columns = np.array([[pair[0], pair[1]] for pair in pairs], np.int16).reshape(-1, 8, 8)
    return columns.transpose(0, 2, 1)


def same(found, expected):
    different = np.argwhere(found != expected)
    if len(different):
        block, row, column = different[0]
        raise AssertionError(
            f"block {block}, row {row}, column {column}: {expected[block, row, column]} expected, "
            f"{found[block, row, column]} found ({len(different)} coefficients differ)"
        )


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.4])
async def equals_golden(dut, stall_in, stall_out):
    bench = Bench(dut, DUTS)
    await bench.reset()
    blocks = np.concatenate([extremes(), np.random.default_rng(1).integers(0, 256, (60, 8, 8), np.uint8)])
    cocotb.start_soon(bench.send("i", tiles(blocks), stall_in))
    pairs = await bench.within(40_000, bench.receive("o", 32 * len(blocks), stall_out))
    same(natural(pairs), forward(blocks))


@cocotb.test()
async def output_held_back_for_long(dut):
    """Four blocks wait inside, no more and no fewer, and none is lost."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    blocks = np.random.default_rng(2).integers(0, 256, (12, 8, 8), np.uint8)
    await bench.within(4 * 32 + 1, bench.send("i", tiles(blocks[:4])), "the taking of four tiles")
    fifth = cocotb.start_soon(bench.send("i", tiles(blocks[4:5])))
    await bench.cycles(300)
    assert not fifth.done(), "five tiles were taken"
    assert bench.port("o.valid").value

    async def rest():
        await fifth
        await bench.send("i", tiles(blocks[5:]))

    cocotb.start_soon(rest())
    pairs = await bench.within(2000, bench.receive("o", 32 * len(blocks)))
    same(natural(pairs), forward(blocks))


@cocotb.test()
async def cycles(dut):
    """The figures of the docstring."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    blocks = np.random.default_rng(3).integers(0, 256, (10, 8, 8), np.uint8)
    start = bench.now()
    sender = cocotb.start_soon(bench.send("i", tiles(blocks)))
    await bench.within(1000, bench.receive("o", 1))
    # A value offered n cycles after its cause is received n + 1 cycles after the cause was set.
    assert bench.now() - start - 1 == 48, bench.now() - start - 1
    await bench.within(1000, bench.receive("o", 31))
    assert bench.now() - start - 1 == 48 + 31, bench.now() - start - 1
    await bench.within(1000, bench.receive("o", 32 * 9))
    assert bench.now() - start - 1 == 48 + 31 + 9 * 32, bench.now() - start - 1
    assert await sender - start == 10 * 32
