"""Testbench of hw/models/traffic.py: what it asks for."""

from itertools import groupby

import cocotb

from tessera.golden.frames import ChromaFormat
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.memory.port import LineRequest, MemoryStatus, Op
from tessera.hw.models.traffic import Pattern, Traffic, TrafficCounts
from tessera.tb.bench import Bench, Dut, unpack

DUTS = {"four_ids": Dut(lambda: Traffic(ids=4))}


async def requests(bench, pattern, count, stall=0.0):
    bench.port("go").value = 0
    bench.port("pattern").value = pattern.value
    await bench.reset()
    bench.port("go").value = 1
    return await bench.within(40 * count + 100, bench.receive("port.request", count, stall))


@cocotb.test()
async def fetches_cover_21x21_samples(dut):
    bench = Bench(dut, DUTS)
    layout = SurfaceLayout(ChromaFormat.Gray, 1920, 1088)
    tiles = {int(layout.line(0, x, y)): (x, y) for y in range(136) for x in range(240)}
    got = await requests(bench, Pattern.Fetches, 8000, stall=0.2)
    fetches = [[tiles[r.address] for r in group] for _, group in groupby(got, key=lambda r: r.id)][:-1]
    ids = [id for id, _ in groupby(got, key=lambda r: r.id)]
    assert ids == [n % 4 for n in range(len(ids))]
    sizes = set()
    for n, fetch in enumerate(fetches):
        (left, top), (right, bottom) = fetch[0], fetch[-1]
        across, down = right - left + 1, bottom - top + 1
        assert fetch == [(x, y) for y in range(top, bottom + 1) for x in range(left, right + 1)], f"fetch {n}: {fetch}"
        sizes.add((across, down))
    # 21 samples touch 3 or 4 tiles.
    assert sizes == {(3, 3), (3, 4), (4, 3), (4, 4)}
    # 3.5 of them on average, each way.
    mean = sum(map(len, fetches)) / len(fetches)
    assert abs(mean - 3.5**2) < 0.3, mean
    lefts = {fetch[0][0] for fetch in fetches}
    assert min(lefts) < 10 and max(lefts) > 225


@cocotb.test()
async def other_patterns(dut):
    bench = Bench(dut, DUTS)
    got = await requests(bench, Pattern.Linear, 100, stall=0.3)
    assert [(r.op, r.id, r.address) for r in got] == [(Op.Read, n % 4, n) for n in range(100)]
    got = await requests(bench, Pattern.LinearWrites, 100)
    assert [(r.op, r.id, r.address) for r in got] == [(Op.Write, n % 4, n) for n in range(100)]
    assert len({r.data for r in got}) == 100
    got = await requests(bench, Pattern.Copy, 100)
    expected = [(Op.Write, n % 4, 2**16 + n // 2) if n % 2 else (Op.Read, n % 4, n // 2) for n in range(100)]
    assert [(r.op, r.id, r.address) for r in got] == expected
    got = await requests(bench, Pattern.Random, 400)
    assert len({r.address for r in got}) > 390 and len({r.address >> 27 for r in got}) == 8
    got = await requests(bench, Pattern.FetchesWrites, 400)
    assert [r.op for r in got] == [Op.Write if n % 4 == 3 else Op.Read for n in range(400)]
    assert [r.address for r in got if r.op == Op.Write] == [2**16 + n for n in range(100)]


@cocotb.test()
async def counts(dut):
    bench = Bench(dut, DUTS)
    bench.port("pattern").value = Pattern.Linear.value
    bench.port("go").value = 0
    await bench.reset()
    bench.port("go").value = 1
    await bench.within(1000, bench.receive("port.request", 50))
    answers = [
        {"op": Op.Read, "id": n % 4, "status": MemoryStatus.Poison if n % 5 == 0 else MemoryStatus.Ok, "data": 0}
        for n in range(40)
    ]
    await bench.within(1000, bench.send("port.response", answers, 0.3))
    await bench.cycles(2)
    got = unpack(TrafficCounts, bench.get("counts"))
    assert (got.sent, got.received, got.failed) == (50, 40, 8)
    assert bench.shape("port.request") is LineRequest
