"""Turned tiles, and pictures from tiles and back."""

import cocotb
import numpy as np

from tessera.hw.compute.reorder import Ring, Turn
from tessera.tb.bench import Bench, Dut
from tessera.tb.compute.passes import groups_of, items_of

DUTS = {
    "columns": Dut(lambda: Turn("columns"), tests="turn.*"),
    "rows": Dut(lambda: Turn("rows"), tests="turn.*"),
    "ring_rows": Dut(lambda: Ring("rows", 4), tests="ring.*"),
    "ring_tiles": Dut(lambda: Ring("tiles", 4), tests="ring.*"),
}


def tiled(plane):
    """(rows of tiles, tiles, 8, 8) of a plane, padded with -1."""
    height, width = plane.shape
    padded = np.full((-(-height // 8) * 8, -(-width // 8) * 8), -1)
    padded[:height, :width] = plane
    return padded.reshape(padded.shape[0] // 8, 8, -1, 8).transpose(0, 2, 1, 3)


async def pass_on(bench, items, count, stalls):
    started = bench.now()
    sender = cocotb.start_soon(bench.send("i", items, stalls[0]))
    received = await bench.within(60 * len(items) + 500, bench.receive("o", count, stalls[1]))
    sent = await bench.within(60 * len(items) + 500, sender, f"{len(items)} items")
    return groups_of(received), sent - started, bench.now() - started


STALLS = [(0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (0.9, 0.3), (0.3, 0.9)]


@cocotb.test()
@cocotb.parametrize(stalls=STALLS)
async def turn_tiles(dut, stalls):
    bench = Bench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(1)
    for width in [*range(1, 19), 23, 24]:
        bench.port("width").value = width
        plane = rng.integers(0, 4000, (32, width))
        tiles = tiled(plane)
        rows = tiles.reshape(-1, 8)
        columns = np.concatenate([plane[y : y + 8].T for y in range(0, 32, 8)])
        given, expected = (rows, columns) if bench.name == "columns" else (columns, rows)
        found, _, took = await pass_on(bench, items_of(given), len(expected), stalls)
        keep = expected >= 0
        np.testing.assert_array_equal(np.where(keep, found, -1), expected, err_msg=f"width {width}")
        if stalls == (0.0, 0.0) and width % 8 == 0:
            assert took == len(given) + 8, f"width {width}: {took} cycles for {len(given)} groups"


def ends_of(name, plane):
    """What goes into a ring, and what comes out, for a plane."""
    rows = plane.reshape(-1, 8)
    below = np.concatenate([plane, np.repeat(plane[-1:], -len(plane) % 8, axis=0)])
    tiles = tiled(below).reshape(-1, 8)
    if name == "ring_rows":
        return np.where(tiled(plane).reshape(-1, 8) < 0, 7, tiles), rows
    return rows, tiles


@cocotb.test()
@cocotb.parametrize(stalls=STALLS)
async def ring_planes(dut, stalls):
    """Planes of all shapes one after the other; rings are used round and round."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(2)
    shapes = [(1, 1), (1, 7), (1, 9), (2, 16), (3, 23), (4, 65), (4, 8), (1, 80), (4, 33), (2, 40)]
    for tiles_x, height in shapes:
        bench.port("tiles").value = tiles_x
        bench.port("rows").value = height
        given, expected = ends_of(bench.name, rng.integers(0, 4000, (height, 8 * tiles_x)))
        found, sent, took = await pass_on(bench, items_of(given), len(expected), stalls)
        np.testing.assert_array_equal(found, expected, err_msg=f"{tiles_x} tiles across, {height} rows")
        if stalls == (0.0, 0.0):
            # A row of tiles to fill, then both ends are busy; rows below the plane have no partner.
            bound = max(len(given), len(expected)) + 16 * tiles_x + 4
            assert took <= bound, f"{tiles_x} tiles across, {height} rows: {took} cycles, {bound} expected"
            assert sent <= bound


@cocotb.test()
async def ring_latency(dut):
    """The first group out, two cycles after the last one that it needs came in."""
    bench = Bench(dut, DUTS)
    for tiles_x in (1, 3):
        await bench.reset()
        bench.port("tiles").value = tiles_x
        bench.port("rows").value = 16
        needed = 8 if bench.name == "ring_rows" else 7 * tiles_x + 1
        sent = await bench.within(50, bench.send("i", items_of(np.zeros((needed, 8), int))))
        await bench.within(50, bench.receive("o", 1))
        assert bench.now() - sent == 2, f"{tiles_x} tiles across: {bench.now() - sent} cycles"


@cocotb.test()
async def ring_highest_plane(dut):
    """65501 rows: a group is taken in each cycle, the last ones are right, and so is the next plane."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    zeros, rows = 65_472, 65_501
    bench.port("tiles").value = 1
    bench.port("rows").value = rows
    bench.port("i.payload").value = 0
    bench.port("i.valid").value = 1
    bench.port("o.ready").value = 1
    await bench.cycles(zeros)
    bench.port("i.valid").value = 0
    await bench.cycles(20)
    bench.port("o.ready").value = 0
    rng = np.random.default_rng(6)
    for tiles_x, height in [(1, rows - zeros), (3, 10)]:
        given, expected = ends_of(bench.name, rng.integers(0, 4000, (height, 8 * tiles_x)))
        found, _, _ = await pass_on(bench, items_of(given), len(expected), (0.0, 0.0))
        np.testing.assert_array_equal(found, expected, err_msg=f"the last {height} rows, {tiles_x} tiles across")
        bench.port("tiles").value = 3
        bench.port("rows").value = 10
