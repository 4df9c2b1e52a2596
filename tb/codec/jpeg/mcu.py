"""Testbench of hw/codec/jpeg/mcu.py."""

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.golden.frames import ChromaFormat
from tessera.hw.codec.jpeg.mcu import McuWalk
from tessera.tb.bench import Bench, Dut

DUTS = {"walk": Dut(McuWalk, stalls=True)}


def scan_of(chroma, width, height, factors, planes, interval, random):
    """A scan's fields, and the blocks it must list, by T.81 A.2."""
    sizes = [chroma.plane_size(plane, width, height) for plane in range(chroma.planes)]
    tiles = [(-(-w // 8), -(-h // 8)) for w, h in sizes]
    components = []
    for plane in planes:
        h, v = factors[plane]
        tables = {name: random.randrange(4) for name in ("td", "ta", "tq")}
        components.append({"plane": plane, "h": h, "v": v, **tables})
    h_max, v_max = factors[0]
    fields = {
        "count": len(planes),
        "components": components + [{}] * (3 - len(planes)),
        "interval": interval,
        "h_max": h_max,
        "v_max": v_max,
        "tiles_x": [tiles[0][0], tiles[-1][0]],
        "tiles_y": [tiles[0][1], tiles[-1][1]],
    }
    if len(planes) == 1:
        wide, high = tiles[planes[0]]
    else:
        wide, high = -(-width // (8 * h_max)), -(-height // (8 * v_max))
    blocks = []
    for mcu in range(wide * high):
        row, column = divmod(mcu, wide)
        items = []
        for c in components:
            h, v = (c["h"], c["v"]) if len(planes) > 1 else (1, 1)
            for y in range(v):
                for x in range(h):
                    place = c["plane"], column * h + x, row * v + y
                    inside = place[1] < tiles[c["plane"]][0] and place[2] < tiles[c["plane"]][1]
                    items.append([*place, inside, c["td"], c["ta"], c["tq"], False, False])
        items[-1][-2] = True
        items[-1][-1] = mcu == wide * high - 1 or (bool(interval) and (mcu + 1) % interval == 0)
        blocks += items
    return fields, [tuple(b) for b in blocks]


CASES = [
    (ChromaFormat.C420, 37, 41, ((2, 2), (1, 1), (1, 1)), (0, 1, 2), 0),
    (ChromaFormat.C420, 37, 41, ((2, 2), (1, 1), (1, 1)), (0, 1, 2), 2),
    (ChromaFormat.C420, 8, 8, ((2, 2), (1, 1), (1, 1)), (0, 1, 2), 1),
    (ChromaFormat.C420, 100, 20, ((4, 4), (2, 2), (2, 2)), (1, 2), 3),
    (ChromaFormat.C420, 17, 33, ((2, 2), (1, 1), (1, 1)), (0,), 0),
    (ChromaFormat.C420, 17, 33, ((2, 2), (1, 1), (1, 1)), (2,), 1),
    (ChromaFormat.C422, 65, 9, ((2, 1), (1, 1), (1, 1)), (0, 1, 2), 4),
    (ChromaFormat.C422, 65, 9, ((4, 1), (2, 1), (2, 1)), (0, 2), 0),
    (ChromaFormat.C444, 33, 16, ((1, 3), (1, 3), (1, 3)), (0, 1, 2), 0),
    (ChromaFormat.C444, 64, 50, ((3, 1), (3, 1), (3, 1)), (0, 1, 2), 2),
    (ChromaFormat.C444, 9, 9, ((2, 2), (2, 2), (2, 2)), (1,), 0),
    (ChromaFormat.C444, 9, 70, ((1, 4), (1, 4), (1, 4)), (0, 1), 2),
    (ChromaFormat.C444, 70, 9, ((4, 1), (4, 1), (4, 1)), (1, 2), 2),
    (ChromaFormat.Gray, 50, 20, ((4, 3),), (0,), 5),
    (ChromaFormat.Gray, 1, 1, ((1, 1),), (0,), 0),
]


async def scan_last_rises_at_the_end(bench, count):
    """Look at ``scan_last`` after each of `count` blocks."""
    valid, ready, last = (bench.port(name) for name in ("o.valid", "o.ready", "scan_last"))
    taken, moved = 0, False
    while taken < count or moved:
        await ReadOnly()
        assert not moved or last.value == (taken == count), f"scan_last is {last.value} behind block {taken} of {count}"
        moved = valid.value and ready.value
        taken += bool(moved)
        await RisingEdge(bench.dut.clk)


async def check(bench, case, stall=0.0):
    fields, expected = scan_of(*case, bench.random)
    began = bench.now()
    await bench.send("start", [fields])
    watching = cocotb.start_soon(scan_last_rises_at_the_end(bench, len(expected)))
    got = await bench.within(20 * len(expected) + 5000, bench.receive("o", len(expected), stall))
    if not stall and not bench.stalled:
        assert bench.now() - began == 3 + len(expected), case
    for n, (block, right) in enumerate(zip(got, expected)):
        flags = bool(block.inside), block.td, block.ta, block.tq, bool(block.mcu_last), bool(block.segment_last)
        found = block.place.plane, block.place.x, block.place.y, *flags
        names = "plane, x, y, inside, td, ta, tq, mcu_last, segment_last"
        assert found == right, f"{case}, block {n}: ({names}) {right} expected, {found} found"
    await watching


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def lists_blocks_in_order(dut, stall):
    bench = Bench(dut, DUTS)
    await bench.reset()
    for case in CASES * 2:
        await check(bench, case, stall)


@cocotb.test()
async def intervals_of_each_length(dut):
    """All bits of an interval are looked at: a few MCUs behind the start or the end of a long one nothing ends."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    for n in range(16):
        for more in (1, 2, 3):
            await check(bench, (ChromaFormat.Gray, 41, 1, ((1, 1),), (0,), (1 << n) + more))


@cocotb.test()
async def the_largest_picture(dut):
    """Its first row of MCUs, and no end before."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    tiles = {"tiles_x": [8192, 4096], "tiles_y": [8192, 4096]}
    components = [{"plane": 0, "h": 2, "v": 2}, {"plane": 1, "h": 1, "v": 1}, {"plane": 2, "h": 1, "v": 1}]
    await bench.send("start", [{"count": 3, "components": components, "h_max": 2, "v_max": 2, "interval": 0, **tiles}])
    blocks = await bench.within(40_000, bench.receive("o", 4096 * 6 + 6))
    last, first = blocks[4096 * 6 - 1], blocks[4096 * 6]
    assert (last.place.plane, last.place.x, last.place.y, last.mcu_last, last.segment_last) == (2, 4095, 0, 1, 0)
    assert (first.place.plane, first.place.x, first.place.y) == (0, 0, 2) and all(b.inside for b in blocks)
    for mcu in range(4096):
        places = [(block.place.plane, block.place.x, block.place.y) for block in blocks[6 * mcu : 6 * mcu + 6]]
        luma = [(0, 2 * mcu + x, y) for y in range(2) for x in range(2)]
        assert places == [*luma, (1, mcu, 0), (2, mcu, 0)], f"MCU {mcu}: {places}"


@cocotb.test()
async def the_widest_and_the_tallest_picture(dut):
    """All blocks, of one row and of one column of MCUs."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    await check(bench, (ChromaFormat.C420, 1, 65535, ((2, 2), (1, 1), (1, 1)), (0, 1, 2), 0))
    await check(bench, (ChromaFormat.Gray, 65535, 1, ((1, 1),), (0,), 8000))
    # Numbers of tiles with more than one bit.
    await check(bench, (ChromaFormat.C444, 21717, 1, ((1, 1), (1, 1), (1, 1)), (0, 1, 2), 1000))
    await check(bench, (ChromaFormat.C422, 8, 43689, ((2, 1), (1, 1), (1, 1)), (2,), 5000))
