"""Testbench of hw/master/frame_sync.py."""

import cocotb
from amaranth.hdl import *
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.host.descriptor import COUNTERS
from tessera.hw.lib.arbiter import RoundRobin
from tessera.hw.master.frame_sync import AHEAD, FrameSync, SyncMessage, SyncSignal
from tessera.tb.bench import Bench, Dut

CHIPS = 3
MODULO = 1 << 20


class Mesh(wiring.Component):
    """Three of them, each of which hears the others late, out of order between chips, and not at all while ``deaf``."""

    def __init__(self):
        members = {f"signal{n}": In(stream.Signature(SyncSignal)) for n in range(CHIPS)}
        members |= {f"count{n}": Out(20) for n in range(CHIPS)}
        super().__init__({**members, "read": In(6), "deaf": In(CHIPS * CHIPS), "again": In(1)})

    def elaborate(self, platform):
        m = Module()
        syncs = [FrameSync(repeat_bits=9) for _ in range(CHIPS)]
        queues = {}
        for n, sync in enumerate(syncs):
            m.submodules[f"sync{n}"] = sync
            wiring.connect(m, wiring.flipped(getattr(self, f"signal{n}")), sync.signal)
            count = getattr(self, f"count{n}")
            m.d.comb += [sync.read0.eq(self.read), count.eq(sync.count0), sync.again.eq(self.again)]
            into = []
            for other in range(CHIPS):
                if other != n:
                    depth = 64
                    m.submodules[f"queue{other}_{n}"] = queue = fifo.SyncFIFO(
                        width=SyncMessage.as_shape().size, depth=depth
                    )
                    queues[other, n] = queue
                    into.append(queue)
            m.submodules[f"turns{n}"] = turns = RoundRobin(SyncMessage, CHIPS - 1)
            wiring.connect(m, turns.o, sync.come)
            for k, queue in enumerate(into):
                i = getattr(turns, f"i{k}")
                m.d.comb += [i.valid.eq(queue.r_rdy), i.payload.eq(queue.r_data), queue.r_en.eq(i.ready)]
        for n, sync in enumerate(syncs):
            mine = {other: queues[n, other] for other in range(CHIPS) if other != n}
            wants = {other: sync.cast.payload.nodes[other] & ~self.deaf[CHIPS * n + other] for other in mine}
            m.d.comb += sync.cast.ready.eq(Cat(queue.w_rdy for queue in mine.values()).all())
            for other, queue in mine.items():
                m.d.comb += [
                    queue.w_data.eq(sync.cast.payload.message),
                    queue.w_en.eq(sync.cast.valid & sync.cast.ready & wants[other]),
                ]
        return m


ALONE = "signals|what_comes|too_far|session|late|takes|repeats|constructor"
DUTS = {
    "alone": Dut(lambda: FrameSync(repeat_bits=10), tests=ALONE, watched=True),
    "mesh": Dut(Mesh, tests="all_know"),
}


class Known:
    """A counter as a set."""

    def __init__(self, start=0):
        self.start, self.numbers = start, set()

    @property
    def count(self):
        n = self.start
        while n in self.numbers:
            n += 1
        return n

    @property
    def ahead(self):
        return sum(1 << k for k in range(AHEAD) if self.count + 1 + k in self.numbers)


class SyncBench(Bench):
    """One chip's; messages that it casts are written down."""

    async def start(self, session=5):
        dut = self.dut
        dut.session.value, dut.clear.value, dut.again.value, dut.read0.value = session, 0, 0, 0
        await self.reset()
        self.casts = []
        self.ready = 1.0
        cocotb.start_soon(self._take())
        await self.cycles(70)

    async def _take(self):
        while True:
            if not self.ready:
                await self.cycles(1)
                continue
            (cast,) = await self.receive("cast", 1, 1 - self.ready)
            self.casts.append((cast.nodes, cast.message.counter, cast.message.session, cast.message.count,
                               cast.message.ahead, self.now()))

    async def count(self, counter):
        self.dut.read0.value = counter
        await self.cycles(2)
        return self.get("count0")

    async def signal(self, counter, number, tell=0b10):
        payload = {"counter": counter, "number": number % MODULO, "tell": tell}
        return await self.within(2000, self.send("signal", [payload]), f"signal {payload}")

    async def hears(self, counter, count, ahead=0, session=5):
        payload = {"counter": counter, "session": session, "count": count % MODULO, "ahead": ahead}
        return await self.within(200, self.send("come", [payload]), f"message {payload}")


@cocotb.test()
@cocotb.parametrize(ready=[1.0, 0.1])
async def signals_are_counted_and_told(dut, ready):
    """In any order within 16, each number once or more; every message is all that is known, or was when it was made."""
    bench = SyncBench(dut, DUTS)
    await bench.start()
    bench.ready = ready
    known = {counter: Known() for counter in range(1, COUNTERS)}
    history = {counter: {(0, 0)} for counter in known}
    for _ in range(800):
        counter = bench.random.choice([1, 2, 3, 40, 63])
        entry = known[counter]
        number = max(0, entry.count + bench.random.choice([0, 0, 0, 1, 2, 5, AHEAD, -1, -3]))
        await bench.signal(counter, number, 1 << counter % 16)
        entry.numbers.add(number)
        history[counter].add((entry.count, entry.ahead))
        if bench.random.random() < 0.2:
            await bench.cycles(6)
            assert await bench.count(counter) == entry.count
    bench.ready = 1.0
    await bench.cycles(1200)
    for counter, entry in known.items():
        assert await bench.count(counter) == entry.count
        said = [cast for cast in bench.casts if cast[1] == counter]
        assert all(cast[0] == 1 << counter % 16 and cast[2] == 5 for cast in said)
        assert {cast[3:5] for cast in said} <= history[counter]
        assert not entry.numbers or said[-1][3:5] == (entry.count, entry.ahead)


@cocotb.test()
async def what_comes_is_united(dut):
    """Messages of any age, in any order, also around 2**20; they are told to nobody."""
    bench = SyncBench(dut, DUTS)
    await bench.start()
    for counter, start in ((1, 0), (2, MODULO - 40), (3, MODULO // 2 - 10)):
        if start:
            # Half of all numbers at most lie between what two know.
            for k in range(1, 4):
                await bench.hears(counter, start * k // 3)
        mine = Known(start)
        for _ in range(300):
            other = Known(mine.count - bench.random.randrange(0, 40))
            other.start = max(start, mine.count + bench.random.choice([-30, -17, -16, -3, -1, 0, 1, 2, 3, 16, 17, 18]))
            ahead = bench.random.getrandbits(AHEAD) & bench.random.getrandbits(AHEAD)
            await bench.hears(counter, other.start, ahead)
            mine.numbers |= set(range(start, other.start))
            mine.numbers |= {other.start + 1 + k for k in range(AHEAD) if ahead >> k & 1}
            # What lies further ahead is not kept: who knows it tells it again.
            mine.numbers = {n for n in mine.numbers if n <= mine.count + AHEAD}
            await bench.cycles(24)
            assert await bench.count(counter) == mine.count % MODULO, (counter, other.start, mine.count)
    assert not bench.casts


@cocotb.test()
async def too_far_ahead_waits(dut):
    """A number 17 beyond the count waits, and what comes meanwhile is heard, until the count has grown."""
    bench = SyncBench(dut, DUTS)
    await bench.start()
    waiting = cocotb.start_soon(bench.signal(7, AHEAD + 1))
    await bench.cycles(100)
    assert not waiting.done()
    await bench.hears(8, 3)
    await bench.cycles(10)
    assert await bench.count(8) == 3 and not waiting.done()
    await bench.hears(7, 1)
    await waiting
    await bench.cycles(10)
    assert await bench.count(7) == 1
    await bench.hears(7, AHEAD + 1)
    await bench.cycles(10)
    assert await bench.count(7) == AHEAD + 2


@cocotb.test()
async def a_session_begins_with_nothing(dut):
    """After a clear all counts are 0, nobody is told of before, and messages of before are dropped."""
    bench = SyncBench(dut, DUTS)
    await bench.start()
    for counter in range(1, COUNTERS):
        await bench.signal(counter, 0)
    await bench.signal(0, 3)
    await bench.cycles(10)
    assert await bench.count(0) == 0
    assert [await bench.count(counter) for counter in range(1, COUNTERS)] == [1] * (COUNTERS - 1)
    dut.session.value, dut.clear.value = 6, 1
    await bench.cycles(1)
    dut.clear.value = 0
    await bench.cycles(70)
    bench.casts.clear()
    assert [await bench.count(counter) for counter in range(COUNTERS)] == [0] * COUNTERS
    await bench.hears(9, 4, session=5)
    await bench.cycles(10)
    assert await bench.count(9) == 0
    await bench.hears(9, 4, session=6)
    await bench.cycles(10)
    assert await bench.count(9) == 4
    await bench.cycles(2200)
    assert not bench.casts


@cocotb.test()
async def repeats_what_was_told(dut):
    """Every 1024 cycles, and when it is asked to; each counter that was signalled here, as it is known then."""
    bench = SyncBench(dut, DUTS)
    await bench.start()
    for counter in (3, 9, 60):
        await bench.signal(counter, 0, 0b110)
    await bench.hears(9, 5)
    await bench.hears(11, 5)
    await bench.cycles(10)
    bench.casts.clear()
    wanted = {(0b110, 3, 5, 1, 0), (0b110, 9, 5, 5, 0), (0b110, 60, 5, 1, 0)}
    await bench.cycles(4096)
    assert 9 <= len(bench.casts) <= 15 and {cast[:5] for cast in bench.casts} == wanted
    while bench.casts:
        bench.casts.clear()
        await bench.cycles(150)
    dut.again.value = 1
    await bench.cycles(1)
    dut.again.value = 0
    await bench.cycles(140)
    assert {cast[:5] for cast in bench.casts} == wanted


@cocotb.test()
async def it_takes_three_cycles(dut):
    """From a signal to its message and its count, and from a message to its count."""
    bench = SyncBench(dut, DUTS)
    await bench.start()
    await bench.cycles(1 + bench.random.randrange(30))
    dut.read0.value = 17
    for n in range(10):
        began = bench.now()
        sender = cocotb.start_soon(bench.signal(17, n))
        while bench.get("count0") != n + 1:
            await RisingEdge(dut.clk)
            await ReadOnly()
        assert bench.now() - began <= 4, f"{bench.now() - began} cycles to the count"
        await RisingEdge(dut.clk)
        await sender
        await bench.cycles(2)
        assert bench.casts[-1][5] - began <= 4, f"{bench.casts[-1][5] - began} cycles to the message"
        await bench.cycles(1 + bench.random.randrange(5))
    for n in range(10, 20):
        began = bench.now()
        sender = cocotb.start_soon(bench.hears(17, n + 1))
        while bench.get("count0") != n + 1:
            await RisingEdge(dut.clk)
            await ReadOnly()
        assert bench.now() - began <= 4, f"{bench.now() - began} cycles to the count"
        await RisingEdge(dut.clk)
        await sender


@cocotb.test()
async def late_takers_hear_the_latest(dut):
    """While nobody takes messages, numbers are counted all the same; then each counter is told once, as it is."""
    bench = SyncBench(dut, DUTS)
    await bench.start()
    bench.ready = 0.0
    await bench.cycles(10)
    await bench.signal(1, 0)
    await bench.cycles(10)
    # Who takes it has asked for one already.
    await bench.signal(1, 1)
    await bench.cycles(10)
    bench.casts.clear()
    for number in range(49):
        for counter in (2, 3):
            await bench.signal(counter, number)
    await bench.cycles(10)
    assert [await bench.count(counter) for counter in (1, 2, 3)] == [2, 49, 49]
    bench.ready = 1.0
    await bench.cycles(2500)
    assert {cast[1:5] for cast in bench.casts if cast[1] > 1} == {(2, 5, 49, 0), (3, 5, 49, 0)}


@cocotb.test()
async def constructor_says_what_is_wrong(dut):
    for bits in (7, 25):
        try:
            FrameSync(bits)
        except ValueError as error:
            assert f"repeat_bits is {bits}" in str(error)
        else:
            raise AssertionError(f"{bits} repeat_bits were taken")


@cocotb.test()
async def all_know_what_any_did(dut):
    """Three chips do frames of a few counters in any order; messages are lost at random, for a while all of some."""
    bench = Bench(dut, DUTS)
    dut.deaf.value = dut.again.value = dut.read.value = 0
    await bench.reset()
    await bench.cycles(80)
    random, everyone = bench.random, (1 << CHIPS) - 1
    counters = {1: 0, 2: 0, 33: 0}

    async def noise():
        while True:
            dut.deaf.value = random.choice([0, random.getrandbits(9), random.getrandbits(9), 0x1FF])
            await bench.cycles(random.randrange(1, 400))

    running = cocotb.start_soon(noise())
    for _ in range(30):
        for counter in counters:
            numbers = [counters[counter] + k for k in range(random.randrange(1, 8))]
            counters[counter] += len(numbers)
            random.shuffle(numbers)
            signals = [{"counter": counter, "number": k, "tell": everyone} for k in numbers]
            tasks = [cocotb.start_soon(bench.send(f"signal{n}", signals[n::CHIPS])) for n in range(CHIPS)]
            for task in tasks:
                await bench.within(20_000, task, "signals")
        await bench.cycles(random.randrange(300))
    running.cancel()
    dut.deaf.value = 0
    await bench.cycles(1500)
    for counter, wanted in counters.items():
        dut.read.value = counter
        await bench.cycles(3)
        assert [bench.get(f"count{n}") for n in range(CHIPS)] == [wanted] * CHIPS, counter
