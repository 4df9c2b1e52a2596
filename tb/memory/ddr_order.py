"""Testbench of hw/memory/ddr_order.py."""

import cocotb
from amaranth.hdl import Shape
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.memory.ddr_order import Opening, ReorderBuffer
from tessera.hw.memory.port import LineResponse, MemoryStatus, Op
from tessera.tb.bench import Bench, Dut, pack, unpack

DUTS = {"depth_8": Dut(lambda: ReorderBuffer(8)), "depth_128": Dut(lambda: ReorderBuffer(128))}


class Model:
    """Plays the controller around the buffer, cycle by cycle, and judges what comes out."""

    def __init__(self, bench):
        self.bench = bench
        self.depth = bench.component.depth
        self.open = {}  # entry -> [id, op, line, poison, filled]
        self.order = {}  # id -> entries
        self.responses = []  # (cycle, response)
        self.cycle = 0
        self.offered = None
        bench.port("fill").value = 0

    async def step(self, opening=None, fill=None, ready=True):
        """One cycle; `opening` is (op, id), `fill` an entry. The entry that was opened, if one was."""
        bench, entry = self.bench, None
        bench.port("entry.ready").value = opening is not None
        if opening is not None:
            bench.port("opening").value = pack(Opening, {"op": opening[0], "id": opening[1]})
        bench.port("fill").value = fill is not None
        if fill is not None:
            bench.port("fill_entry").value = fill
            bench.port("fill_data").value = self.open[fill][2]
            bench.port("fill_poison").value = self.open[fill][3]
        bench.port("response.ready").value = ready
        await ReadOnly()
        if opening is not None and bench.get("entry.valid"):
            entry = bench.get("entry.payload")
        # An entry is free again as soon as its response is offered.
        response = None
        if bench.get("response.valid"):
            bits = bench.get("response.payload")
            if self.offered is None:
                response = unpack(LineResponse, bits)
            assert self.offered in (None, bits), f"cycle {self.cycle}: the response changed before it was taken"
            self.offered = None if ready else bits
        else:
            assert self.offered is None, f"cycle {self.cycle}: the response was withdrawn"
        await RisingEdge(bench.dut.clk)
        if response is not None:
            self.take(response)
        if fill is not None:
            self.open[fill][4] = True
        if entry is not None:
            assert entry not in self.open, f"cycle {self.cycle}: entry {entry} offered while open"
            op, id = opening
            rng = bench.random
            self.open[entry] = [id, op, rng.getrandbits(512), rng.random() < 0.1, op == Op.Write]
            self.order.setdefault(id, []).append(entry)
        self.cycle += 1
        return entry

    def take(self, response):
        what = f"cycle {self.cycle}, response of id {response.id}"
        assert self.order.get(response.id), f"{what}: nothing is open"
        entry = self.order[response.id].pop(0)
        id, op, line, poison, filled = self.open.pop(entry)
        assert filled, f"{what}: entry {entry} is not complete"
        assert (response.op, response.id) == (op, id), what
        if op == Op.Read:
            assert response.data == line, f"{what}: {response.data:#x}, {line:#x} expected"
        status = MemoryStatus.Poison if poison and op == Op.Read else MemoryStatus.Ok
        assert response.status == status, f"{what}: {response.status}"
        self.responses.append((self.cycle, response))

    def unfilled(self):
        return [entry for entry, state in self.open.items() if not state[4]]


@cocotb.test()
@cocotb.parametrize(ready=[1.0, 0.5, 0.1], ids=[1, 3, 256])
async def order_within_an_id(dut, ready, ids):
    bench = Bench(dut, DUTS)
    rng = bench.random
    for _restart in range(2):
        model = Model(bench)
        await bench.reset()
        full = 0
        phases = ((0.9, 0.9), (1.0, 0.2), (0.3, 1.0))
        for opening_rate, fill_rate in phases:
            for _ in range(500):
                opening = (rng.choice((Op.Read, Op.Read, Op.Write)), rng.randrange(ids))
                waiting = model.unfilled()
                await model.step(
                    opening if rng.random() < opening_rate else None,
                    rng.choice(waiting) if waiting and rng.random() < fill_rate else None,
                    rng.random() < ready,
                )
                full += len(model.open) == model.depth
        assert full or ready == 1.0, "never full"
        # The second time, reset comes in the middle of it all.
    while model.open:
        waiting = model.unfilled()
        await model.step(None, waiting[0] if waiting else None)
        assert model.cycle < 5000, f"{len(model.open)} entries never left"


@cocotb.test()
async def cycles(dut):
    """The latencies and the throughput of the docstring."""
    bench = Bench(dut, DUTS)
    model = Model(bench)
    await bench.reset()
    entry = await model.step((Op.Read, 5))
    await model.step()
    filled = model.cycle
    await model.step(fill=entry)
    for _ in range(4):
        await model.step()
    assert [cycle for cycle, _ in model.responses] == [filled + 2]
    opened = model.cycle
    await model.step((Op.Write, 5))
    for _ in range(6):
        await model.step()
    assert model.responses[-1][0] == opened + 3

    # A chain of one id, complete but for its first, leaves without a gap; another id does not wait for it.
    entries = [await model.step((Op.Read, 7)) for _ in range(6)]
    for other in entries[1:]:
        await model.step(fill=other)
    entries.append(await model.step((Op.Read, 8)))
    before = len(model.responses)
    await model.step(fill=entries[6])
    for _ in range(4):
        await model.step()
    assert [response.id for _, response in model.responses[before:]] == [8]
    filled = model.cycle
    await model.step(fill=entries[0])
    for _ in range(10):
        await model.step()
    assert [cycle for cycle, _ in model.responses[before + 1 :]] == [filled + 2 + n for n in range(6)]

    # One opening, fill and response in every cycle.
    waiting, start = [], len(model.responses)
    for n in range(200):
        fill = waiting.pop(0) if n >= 2 else None
        waiting.append(await model.step((Op.Read, 3), fill))
        assert waiting[-1] is not None, f"no entry in cycle {n}"
    assert len(model.responses) - start >= 200 - 5
    assert Shape.cast(Opening).width == 9


@cocotb.test()
async def capacity(dut):
    bench = Bench(dut, DUTS)
    model = Model(bench)
    await bench.reset()
    for _ in range(3):
        opened = [await model.step((Op.Read, n % 4), ready=False) for n in range(model.depth + 3)]
        assert [entry is not None for entry in opened] == [True] * model.depth + [False] * 3
        for entry in opened[: model.depth]:
            await model.step(fill=entry)
        for _ in range(model.depth + 5):
            await model.step()
        assert not model.open


@cocotb.test()
async def ready_ones_leave_in_turn(dut):
    """Whatever is complete, each of its own id, leaves by the number of its entry, onwards from the last that left."""
    bench = Bench(dut, DUTS)
    model = Model(bench)
    await bench.reset()
    depth, rng = model.depth, bench.random
    for first in rng.sample(range(depth), depth):
        while len(model.open) < depth:
            ids = [id for id in range(256) if not model.order.get(id)]
            await model.step((Op.Read, rng.choice(ids)))
        near = {(first + away) % depth for away in (-4, -3, -2, -1, 1, 2, 3, 4) if rng.random() < 0.5}
        complete = [first, *sorted((near | set(rng.sample(range(depth), rng.choice((2, 4, depth // 2))))) - {first})]
        ids = {entry: model.open[entry][0] for entry in complete}
        before = len(model.responses)
        # The first goes to the response register at once, where it waits for the others.
        for entry in complete:
            await model.step(fill=entry, ready=False)
        for _ in range(len(complete) + 2):
            await model.step()
        expected = [ids[entry] for entry in sorted(complete, key=lambda entry: (entry - first) % depth)]
        left = [response.id for _, response in model.responses[before:]]
        assert left == expected, f"after entry {first}: ids {left}, {expected} expected"


@cocotb.test()
async def an_old_successor_stays(dut):
    """An entry that leaves without a successor lets nobody go that succeeded it when it was open before."""
    bench = Bench(dut, DUTS)
    model = Model(bench)
    await bench.reset()
    depth, chained = model.depth, 200

    async def fill(entries):
        for entry in entries:
            await model.step(fill=entry)
        for _ in range(depth + 4):
            await model.step()

    for _ in range(2):
        entries = [await model.step((Op.Read, n % (depth // 2))) for n in range(depth)]
        firsts, seconds = entries[: depth // 2], entries[depth // 2 :]
        await fill(entries)
        # Now each of the first ones is alone in its id, and all of the second ones are in one.
        for _ in range(depth):
            await model.step()
            entry = bench.get("entry.payload")
            await model.step((Op.Read, chained if entry in seconds else entry))
        chain = list(model.order[chained])
        assert sorted(chain) == sorted(seconds)
        await fill([*chain[1:], *firsts])
        assert sorted(model.open) == sorted(chain)
        await fill(chain[:1])
        # The next time they change places: entries are offered as they left.
        entries = [await model.step((Op.Read, n)) for n in range(depth)]
        await fill([*seconds, *firsts])
        assert not model.open


@cocotb.test()
async def chains_end_and_begin(dut):
    """Ids with two or so open requests each: most chains end, and their entries go to other ids."""
    bench = Bench(dut, DUTS)
    model = Model(bench)
    await bench.reset()
    full = 0
    for _ in range(20 * model.depth):
        waiting = model.unfilled()
        opening = Op.Read, bench.random.randrange(model.depth // 2)
        fill = bench.random.choice(waiting) if waiting and bench.random.random() < 0.9 else None
        full += await model.step(opening, fill) is None
    assert full, "never full"
    while model.open:
        waiting = model.unfilled()
        await model.step(None, waiting[0] if waiting else None)
        assert model.cycle < 30 * model.depth, f"{len(model.open)} entries never left"
