"""Testbench of the order of blocks."""

import cocotb

from tessera.golden.frames import ChromaFormat
from tessera.hw.codec.jpeg.block_order import BlockOrder
from tessera.tb.bench import Bench, Dut

DUTS = {"order": Dut(BlockOrder)}


def expected_blocks(chroma_format, width, height, interval):
    """(component, x, y, dummy, restart, last), x and y None for dummies."""
    shift_x, shift_y = chroma_format.shifts
    h, v = 1 << shift_x, 1 << shift_y
    across, down = -(-width // (8 * h)), -(-height // (8 * v))
    tiles_x, tiles_y = -(-width // 8), -(-height // 8)
    for number in range(across * down):
        mcu_y, mcu_x = divmod(number, across)
        mcu = [(0, mcu_x * h + x, mcu_y * v + y) for y in range(v) for x in range(h)]
        mcu += [(component, mcu_x, mcu_y) for component in range(1, chroma_format.planes)]
        for n, (component, x, y) in enumerate(mcu):
            dummy = component == 0 and (x >= tiles_x or y >= tiles_y)
            restart = n == 0 and number > 0 and interval > 0 and number % interval == 0
            last = number == across * down - 1 and n == len(mcu) - 1
            yield component, None if dummy else x, None if dummy else y, int(dummy), int(restart), int(last)


def fields(chroma_format, width, height, interval):
    return {"chroma_format": chroma_format.value, "width": width, "height": height, "restart_interval": interval}


async def check(bench, job, stall=0.0):
    expected = list(expected_blocks(*job))
    sender = cocotb.start_soon(bench.send("i", [fields(*job)]))
    found = await bench.within(20 * len(expected) + 100, bench.receive("o", len(expected), stall))
    await bench.within(10, sender)
    for n, (block, want) in enumerate(zip(found, expected)):
        info, place = block.info, block.place
        actual = info.component, place.x, place.y, info.dummy, info.restart, info.last
        actual = tuple(None if e is None else a for a, e in zip(actual, want))
        fields_named = "component, x, y, dummy, restart, last"
        assert actual == want, f"{job}: block {n} ({fields_named}): {want} expected, {actual} found"
        assert place.plane == info.component or info.dummy, f"{job}: block {n}: plane {place.plane}"


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def all_formats(dut, stall):
    bench = Bench(dut, DUTS)
    await bench.reset()
    n = 0
    for chroma_format in ChromaFormat:
        for width, height in [(1, 1), (8, 8), (9, 16), (16, 9), (17, 17), (24, 25), (49, 40), (33, 7), (64, 64)]:
            await check(bench, (chroma_format, width, height, [0, 1, 2, 3, 5, 65535][n % 6]), stall)
            n += 1
    await bench.cycles(20)
    assert not bench.port("o.valid").value, "a block without a picture"


@cocotb.test()
async def largest(dut):
    """The counters' ends."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    for width, height in ((65535, 1), (1, 65535)):
        await check(bench, (ChromaFormat.Gray, width, height, 4095))
    await check(bench, (ChromaFormat.C420, 8177, 1, 0))
    await check(bench, (ChromaFormat.C420, 1, 8177, 511))
    # An odd number of tiles, so the last column is of dummies.
    await check(bench, (ChromaFormat.C422, 40968, 1, 0))
    await check(bench, (ChromaFormat.Gray, 65535, 16, 10241))


@cocotb.test()
async def waits_for_nobody(dut):
    """The first block is offered though nobody asks for it, and stays until it is taken."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    cocotb.start_soon(bench.send("i", [fields(ChromaFormat.C422, 16, 8, 0)]))
    await bench.cycles(4)
    for _ in range(20):
        assert bench.port("o.valid").value
        await bench.cycles(1)
    assert [block.info.component for block in await bench.within(20, bench.receive("o", 4))] == [0, 0, 1, 2]


@cocotb.test()
async def cycles(dut):
    """The figures of the docstring."""
    bench = Bench(dut, DUTS)
    await bench.reset()
    start = bench.now()
    cocotb.start_soon(bench.send("i", [fields(ChromaFormat.C420, 64, 64, 0)]))
    await bench.within(100, bench.receive("o", 1))
    assert bench.now() - start - 1 == 3, bench.now() - start - 1
    await bench.within(100, bench.receive("o", 95))
    assert bench.now() - start - 1 == 3 + 95, bench.now() - start - 1
