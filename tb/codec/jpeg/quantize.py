"""Testbench of quantization: the tables' scaling and the division."""

import cocotb
import numpy as np

from tessera.golden.jpeg.dct import forward, quantize
from tessera.golden.jpeg.encoder import quantizers
from tessera.golden.jpeg.tables import ZIGZAG_TO_NATURAL
from tessera.hw.codec.jpeg.quantize import Quantizer, QuantizerTables
from tessera.tb.bench import Bench, Dut

DUTS = {
    "tables": Dut(QuantizerTables, tests="tables_"),
    "quantizer": Dut(Quantizer, tests="quantizer_"),
}


def entries(luma, chroma):
    """Both tables (of 64, natural order) as the stream of entries."""
    return [
        {"place": place, "chroma": n, "q": int(np.ravel(table)[place])}
        for n, table in enumerate((luma, chroma))
        for place in ZIGZAG_TO_NATURAL
    ]


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.5])
async def tables_equal_golden(dut, stall_in, stall_out):
    """Every quality, back to back."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    qualities = list(range(1, 101))
    bench.random.shuffle(qualities)
    if stall_out:
        qualities = qualities[:12]
    cocotb.start_soon(bench.send("i", qualities, stall_in))
    found = await bench.within(60_000, bench.receive("o", 128 * len(qualities), stall_out))
    for n, quality in enumerate(qualities):
        for entry, expected in zip(found[128 * n :], entries(*quantizers(quality))):
            actual = {"place": entry.place, "chroma": entry.chroma, "q": entry.q}
            assert actual == expected, f"quality {quality}: {expected} expected, {actual} found"


@cocotb.test()
async def tables_cycles(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    start = bench.now()
    sender = cocotb.start_soon(bench.send("i", [75]))
    await bench.within(100, bench.receive("o", 1))
    assert bench.now() - start - 1 == 4
    await bench.within(200, bench.receive("o", 127))
    assert bench.now() - start - 1 == 4 + 127
    assert await sender == bench.now()


async def load(bench, luma, chroma, stall=0.0):
    await bench.reset()
    await bench.send("i_entry", entries(luma, chroma), stall)


def same(found, expected, tables, chroma):
    if not np.array_equal(found, expected):
        block, row, column = np.argwhere(found != expected)[0]
        q = tables[chroma[block]].reshape(8, 8)[row, column]
        raise AssertionError(
            f"block {block} (chroma {chroma[block]}), row {row}, column {column}, quantizer {q}: "
            f"{expected[block, row, column]} expected, {found[block, row, column]} found"
        )


async def quantize_blocks(bench, blocks, chroma, tables, stalls=(0.0, 0.0, 0.0)):
    """Send blocks (n, 8, 8) of coefficients and compare with the golden."""
    pairs = blocks.transpose(0, 2, 1).reshape(-1, 2).tolist()
    cocotb.start_soon(bench.send("i", pairs, stalls[0]))
    cocotb.start_soon(bench.send("i_chroma", chroma, stalls[1]))
    found = await bench.within(400 * len(blocks) + 1000, bench.receive("o", len(pairs), stalls[2]))
    found = np.array([[pair[0], pair[1]] for pair in found]).reshape(-1, 8, 8).transpose(0, 2, 1)
    expected = np.stack([quantize(block, tables[n].reshape(8, 8)) for block, n in zip(blocks, chroma)])
    same(found, expected, tables, chroma)


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_chroma=[0.0, 0.9], stall_out=[0.0, 0.5])
async def quantizer_equals_golden(dut, stall_in, stall_chroma, stall_out):
    """Blocks of real transforms, every place with a quantizer of its own."""
    bench = Bench(dut, DUTS)
    random = np.random.default_rng(1)
    tables = random.permutation(np.arange(1, 256, dtype=np.uint16))[:128].reshape(2, 64)
    await load(bench, *tables, stall_in)
    blocks = forward(random.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), (12, 8, 8)))
    chroma = random.integers(0, 2, 12).tolist()
    await quantize_blocks(bench, blocks, chroma, tables, (stall_in, stall_chroma, stall_out))


def edges(q):
    """All coefficients at which the quotient changes, and their neighbours, both signs."""
    turns = np.arange(4 * q, 8193, 8 * q)
    values = np.concatenate([turns, turns - 1, [0, 1, 8191, 8192]])
    values = values[values <= 8192]
    return np.unique(np.concatenate([-values, values[values <= 8160]]))


def blocks_of(columns):
    """Blocks whose place n runs through the list `columns[n]`, over and over."""
    count = max(len(column) for column in columns)
    return np.stack([np.resize(column, count) for column in columns], 1).reshape(count, 8, 8).astype(np.int16)


@cocotb.test()
async def quantizer_divides_exactly(dut):
    """Every quantizer with every coefficient at which its quotient changes."""
    bench = Bench(dut, DUTS)
    seen = set()
    # The small ones, with many such coefficients, share these among the places of a table.
    for q in range(1, 17, 2):
        tables = np.repeat(np.array([[q], [q + 1]], np.uint16), 64, 1)
        await load(bench, *tables)
        for n in range(2):
            blocks = blocks_of(np.array_split(edges(q + n), 64))
            await quantize_blocks(bench, blocks, [n] * len(blocks), tables)
            seen.add(q + n)
    for first in (17, 128):
        tables = np.minimum(np.arange(first, first + 128, dtype=np.uint16), 255).reshape(2, 64)
        await load(bench, *tables)
        for n in range(2):
            blocks = blocks_of([edges(int(q)) for q in tables[n]])
            await quantize_blocks(bench, blocks, [n] * len(blocks), tables)
            seen |= set(tables[n].tolist())
    assert seen == set(range(1, 256))


@cocotb.test()
async def quantizer_awaits_tables(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    tables = np.full((2, 64), 3, np.uint16)
    await bench.send("i_entry", entries(*tables)[:127])
    blocks = forward(np.random.default_rng(5).integers(0, 256, (2, 8, 8), np.uint8))
    run = cocotb.start_soon(quantize_blocks(bench, blocks, [0, 1], tables))
    await bench.cycles(100)
    assert not bench.port("i.ready").value, "coefficients are taken before the tables are there"
    assert not bench.port("o.valid").value
    # More entries than the tables have are dropped.
    await bench.send("i_entry", [entries(*tables)[127], {"place": 0, "chroma": 0, "q": 77}])
    await run


@cocotb.test()
async def quantizer_cycles(dut):
    bench = Bench(dut, DUTS)
    await load(bench, np.full(64, 9), np.full(64, 200))
    start = bench.now()
    cocotb.start_soon(bench.send("i", [[100, -100]] * 320))
    cocotb.start_soon(bench.send("i_chroma", [0, 1] * 5))
    await bench.within(100, bench.receive("o", 1))
    assert bench.now() - start - 1 == 4
    await bench.within(400, bench.receive("o", 319))
    assert bench.now() - start - 1 == 4 + 319
