"""The ends of the row stream."""

import cocotb
import numpy as np

from tessera.hw.compute.stream import RowsToTiles, TilesToRows
from tessera.tb.bench import Bench, Dut

DUTS = {"rows": Dut(TilesToRows, tests="to_rows"), "tiles": Dut(RowsToTiles, tests="to_tiles")}


def tiles_and_rows(count):
    """Random tiles and their rows, as items."""
    rng = np.random.default_rng(1)
    tiles, rows = [], []
    for _ in range(count):
        tile = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        tiles.append(int.from_bytes(tile.tobytes(), "little"))
        rows += [int.from_bytes(row.tobytes(), "little") for row in tile]
    return tiles, rows


async def check(bench, given, expected, stall_in, stall_out):
    await bench.reset()
    started = bench.now()
    sender = cocotb.start_soon(bench.send("i", given, stall_in))
    received = await bench.within(20000, bench.receive("o", len(expected), stall_out), f"{len(expected)} items")
    took = bench.now() - started
    await bench.within(2000, sender)
    for n, (item, wanted) in enumerate(zip(received, expected)):
        assert item.as_bits() == wanted, f"item {n}: {wanted:#x} expected, {item.as_bits():#x} found"
    return took


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5, 0.9], stall_out=[0.0, 0.5, 0.9])
async def to_rows(dut, stall_in, stall_out):
    tiles, rows = tiles_and_rows(40)
    took = await check(Bench(dut, DUTS), tiles, rows, stall_in, stall_out)
    if not stall_in and not stall_out:
        assert took == 1 + len(rows), f"{took} cycles for {len(rows)} rows"


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5, 0.9], stall_out=[0.0, 0.5, 0.9])
async def to_tiles(dut, stall_in, stall_out):
    tiles, rows = tiles_and_rows(40)
    took = await check(Bench(dut, DUTS), rows, tiles, stall_in, stall_out)
    if not stall_in and not stall_out:
        assert took == 1 + len(rows), f"{took} cycles for {len(rows)} rows"


@cocotb.test()
async def to_rows_waits_for_its_last_row(dut):
    """A tile's first row is offered unasked; the next tile is taken with the last row, not earlier."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    tiles, rows = tiles_and_rows(3)
    await bench.within(10, bench.send("i", tiles[:1]))
    second = cocotb.start_soon(bench.send("i", tiles[1:2]))
    await bench.cycles(20)
    assert bench.port("o.valid").value, "no row is offered before one is asked for"
    received = await bench.within(10, bench.receive("o", 7))
    await bench.cycles(20)
    assert not second.done(), "the second tile was taken before the first one's last row"
    received += await bench.within(10, bench.receive("o", 1))
    await bench.cycles(1)
    assert second.done(), "the second tile was not taken with the first one's last row"
    received += await bench.within(10, bench.receive("o", 8))
    assert [row.as_bits() for row in received] == rows[:16]
    await bench.cycles(10)
    assert not bench.port("o.valid").value, "a row of no tile"


@cocotb.test()
async def to_tiles_waits_for_its_tile(dut):
    """A tile is offered unasked; seven rows of the next one are taken meanwhile, not the eighth."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    tiles, rows = tiles_and_rows(3)
    await bench.within(9, bench.send("i", rows[:8]))
    await bench.within(8, bench.send("i", rows[8:15]))
    eighth = cocotb.start_soon(bench.send("i", rows[15:16]))
    await bench.cycles(20)
    assert bench.port("o.valid").value, "no tile is offered before one is asked for"
    assert not eighth.done(), "the second tile was taken over the first"
    received = await bench.within(10, bench.receive("o", 1))
    await bench.cycles(1)
    assert eighth.done(), "the last row was not taken with the tile before"
    received += await bench.within(10, bench.receive("o", 1))
    assert [tile.as_bits() for tile in received] == tiles[:2]
    await bench.cycles(10)
    assert not bench.port("o.valid").value, "a tile of no rows"
