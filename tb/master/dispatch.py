"""Testbench of hw/master/dispatch.py, with the frame sync that it needs."""

from collections import Counter

import cocotb
from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In
from cocotb.triggers import RisingEdge

from tessera.hw.engine import EngineKind, Format, Status, Task
from tessera.hw.host.descriptor import COUNTERS, Descriptor, DoneRecord
from tessera.hw.lib.streams import connect
from tessera.hw.master.dispatch import Dispatch
from tessera.hw.master.frame_sync import AHEAD, FrameSync
from tessera.tb.bench import Bench, Dut, pack

KINDS = (EngineKind.Ingest, EngineKind.JpegDecode, EngineKind.Compute)


class Synced(wiring.Component):
    """A dispatcher and the frame sync that has its counters."""

    def __init__(self, kinds):
        self.kinds = kinds
        self.dispatch, self.sync = Dispatch(kinds, depth=4), FrameSync()
        inner = {"signal", "read", "count", "hold"}
        members = {name: member for name, member in self.dispatch.signature.members.items() if name not in inner}
        members |= {name: self.sync.signature.members[name] for name in ("cast", "come", "session")}
        super().__init__({**members, "clear": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dispatch, m.submodules.sync = dispatch, sync = self.dispatch, self.sync
        for part in (dispatch, sync):
            for name in part.signature.members:
                if name in self.signature.members:
                    mine, its = getattr(self, name), getattr(part, name)
                    if not isinstance(its, Value | data.View):
                        if self.signature.members[name].flow is In:
                            connect(m, wiring.flipped(mine), its)
                        else:
                            connect(m, its, wiring.flipped(mine))
                    elif self.signature.members[name].flow is In:
                        m.d.comb += its.eq(mine)
                    else:
                        m.d.comb += mine.eq(its)
        connect(m, dispatch.signal, sync.signal)
        m.d.comb += [
            sync.read0.eq(dispatch.read),
            dispatch.count.eq(sync.count0),
            dispatch.hold.eq(sync.clearing),
        ]
        return m


DUTS = {
    "three": Dut(lambda: Synced(KINDS), watched=True),
    "one": Dut(lambda: Synced(KINDS[1:2]), tests="unknown|latency|records|waits|far|zero|apart", watched=True),
}


class Engines:
    """Engines in Python that keep a log of what began and ended."""

    def __init__(self, bench, work=lambda tag: 20):
        self.bench, self.log = bench, []
        for n, kind in enumerate(bench.component.kinds):
            cocotb.start_soon(self.engine(n, kind, work))

    async def engine(self, n, kind, work):
        while True:
            (task,) = await self.bench.receive(f"task{n}", 1, 0.2)
            tag = task.tag
            self.log.append(("began", kind, tag))
            for _ in range(work(tag)):
                await RisingEdge(self.bench.dut.clk)
            self.log.append(("ended", kind, tag))
            status = Status.JpegBadCode if tag % 5 == 4 else Status.Ok
            done = {"tag": tag, "last": 1, "status": status, "bytes": tag * 7, "cycles": 3}
            await self.bench.send(f"done{n}", [done])


class DispatchBench(Bench):
    """Nothing that is sent has to wait for long. Tasks that signal a counter are numbered as they are made."""

    def __init__(self, dut):
        super().__init__(dut, DUTS)
        self.numbers = Counter()

    async def reset(self, *args):
        self.numbers.clear()
        await super().reset(*args)

    async def clear(self):
        """All counters to 0."""
        self.numbers.clear()
        self.dut.clear.value = 1
        await self.cycles(1)
        self.dut.clear.value = 0

    def descriptor(self, kind, tag, waits=(), signal=0, number=None, tell=0, **task):
        """A descriptor's bits; its number is the next one of its counter unless told."""
        waits = [{"counter": counter, "value": value} for counter, value in waits]
        waits += [{"counter": 0, "value": 0}] * (2 - len(waits))
        if number is None:
            number = self.numbers[signal] % (1 << 20)
            self.numbers[signal] += 1
        end = {"signal": signal, "number": number, "tell": tell}
        bits = Descriptor.const({"task": {"tag": tag, **task}, "waits": waits, **end}).as_bits()
        # A number that is no engine's goes in as it is.
        return bits | (kind if isinstance(kind, int) else kind.value) << Descriptor.as_shape()["engine"].offset

    async def send(self, path, values, stall=0.0, gaps=None):
        return await self.within(20_000, super().send(path, values, stall, gaps), path)


async def prepared(dut):
    bench = DispatchBench(dut)
    dut.cycle.value = 0
    dut.clear.value = 0
    await bench.reset()
    return bench


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.8])
async def a_pipeline_of_slots(dut, stall):
    """Three engines, four frames' slots between them: no task starts before its inputs, nor into a slot in use."""
    bench = await prepared(dut)
    frames, slots = 40, 2
    engines = Engines(bench, lambda tag: bench.random.randrange(60))
    descriptors = []
    for n in range(frames):
        free = max(0, n + 1 - slots)
        descriptors += [
            bench.descriptor(KINDS[0], n, [(2, free)] if free else [], 1),
            bench.descriptor(KINDS[1], n, [(1, n + 1), (3, free)], 2),
            bench.descriptor(KINDS[2], n, [(2, n + 1)], 3),
        ]
    cocotb.start_soon(bench.send("i", descriptors, stall))
    records = await bench.within(20_000, bench.receive("record", len(descriptors), stall))
    for kind in KINDS:
        mine = [record for record in records if record.engine == kind]
        assert [record.tag for record in mine] == list(range(frames))
        assert [record.bytes for record in mine] == [7 * n for n in range(frames)]
        assert all(record.status == (Status.JpegBadCode if record.tag % 5 == 4 else Status.Ok) for record in mine)
    at = {event: k for k, event in enumerate(engines.log)}
    for n in range(frames):
        assert at["began", KINDS[1], n] > at["ended", KINDS[0], n]
        assert at["began", KINDS[2], n] > at["ended", KINDS[1], n]
        if n >= slots:
            assert at["began", KINDS[0], n] > at["ended", KINDS[1], n - slots]
            assert at["began", KINDS[1], n] > at["ended", KINDS[2], n - slots]


@cocotb.test()
async def unknown_engines_are_answered(dut):
    bench = await prepared(dut)
    Engines(bench)
    waiting = bench.descriptor(EngineKind.JpegDecode, 1, [(21, 1), (42, 1)])
    descriptors = [bench.descriptor(9, 100, signal=21), waiting, bench.descriptor(15, 101, signal=42)]
    cocotb.start_soon(bench.send("i", descriptors))
    records = await bench.within(2_000, bench.receive("record", 3))
    found = {record.tag: (record.status, record.where) for record in records}
    assert found == {100: (Status.BadTask, 0), 101: (Status.BadTask, 0), 1: (Status.Ok, 0)}
    # The decode task waited for both.
    assert records[-1].tag == 1


@cocotb.test()
async def counters_wrap_and_clear(dut):
    bench = await prepared(dut)
    Engines(bench, lambda tag: 1)
    # A value "behind" the counter is met at once, one ahead is not.
    first = [bench.descriptor(KINDS[0], 0, [(1, (1 << 20) - 3)], 1), bench.descriptor(KINDS[0], 1, [(1, 1)], 1)]
    cocotb.start_soon(bench.send("i", first))
    await bench.within(2_000, bench.receive("record", 2))
    await bench.clear()
    await bench.cycles(80)
    cocotb.start_soon(bench.send("i", [bench.descriptor(KINDS[0], 2, [(1, 1)]), bench.descriptor(KINDS[1], 3, [], 1)]))
    records = await bench.within(2_000, bench.receive("record", 2))
    assert [record.tag for record in records] == [3, 2]


@cocotb.test()
@cocotb.parametrize(how=["clear", "reset"])
async def clearing_makes_all_zero(dut, how):
    """Every counter, in 64 cycles."""
    bench = await prepared(dut)
    kind = bench.component.kinds[0]
    bench.port("record.ready").value = 1
    draw = bench.random.getrandbits
    await bench.send("i", [bench.descriptor(15, draw(16), signal=counter) for counter in range(1, COUNTERS)])
    await bench.cycles(20)
    if how == "clear":
        await bench.clear()
    else:
        await bench.reset()
        bench.port("record.ready").value = 1
    await bench.cycles(COUNTERS)
    for counter in range(1, COUNTERS):
        await bench.send("i", [bench.descriptor(kind, 2, [(counter, 1)])])
        await bench.cycles(10)
        assert not bench.get("task0.valid"), f"counter {counter} is not 0"
        await bench.send("i", [bench.descriptor(15, draw(16), signal=counter)])
        await bench.within(40, bench.receive("task0", 1), f"counter {counter}")
        await bench.send("done0", [{"last": 1}])


@cocotb.test()
async def latency_from_end_to_start(dut):
    bench = await prepared(dut)
    lanes = len(bench.component.kinds)
    last = lanes - 1
    kind = bench.component.kinds[last]
    await bench.cycles(70)
    bench.port("record.ready").value = 1
    for trial in range(12):
        await bench.send("i", [bench.descriptor(kind, 1, [], 1), bench.descriptor(kind, 2, [(1, trial * 2 + 1)], 1)])
        await bench.within(1000, bench.receive(f"task{last}", 1))
        await bench.cycles(40 + trial)
        bench.port("record.ready").value = 1
        ended = await bench.send(f"done{last}", [{"tag": 1, "last": 1}])
        await bench.within(1000, bench.receive(f"task{last}", 1))
        assert bench.now() - ended <= 10 + 3 * lanes, bench.now() - ended
        await bench.send(f"done{last}", [{"tag": 2, "last": 1}])
        await bench.cycles(30)


@cocotb.test()
async def records_tell_all(dut):
    """A task reaches its engine as it was given; each message about it makes a record, the last one frees the lane."""
    bench = await prepared(dut)
    draw, kinds = bench.random.getrandbits, bench.component.kinds
    for _ in range(40):
        n = bench.random.randrange(len(kinds))
        slots = [{"window": draw(6), "head": draw(26), "body": draw(26), "lines": draw(24)} for _ in range(2)]
        given = {"context": draw(6), "timestamp": draw(64), "params": draw(128), "source": slots[0], "target": slots[1]}
        tag, start = draw(16), draw(64)
        dut.cycle.value = start
        await bench.send("i", [bench.descriptor(kinds[n], tag, **given)])
        (task,) = await bench.within(500, bench.receive(f"task{n}", 1))
        assert task.as_bits() == pack(Task, {"tag": tag, **given})
        dut.cycle.value = draw(64)
        await bench.cycles(1)
        for last in [0] * draw(1) + [1]:
            assert bench.get(f"activity{n}") == 1
            done = {name: draw(32) for name in ("where", "bytes", "cycles", "stalled")}
            done |= {"tag": tag, "width": draw(16), "height": draw(16), "last": last}
            done |= {"status": bench.random.choice(list(Status)), "chroma_format": Format(draw(2))}
            await bench.send(f"done{n}", [done])
            (record,) = await bench.within(200, bench.receive("record", 1))
            assert {name: getattr(record, name) for name in done} == done
            assert (record.engine, record.start) == (kinds[n], start)
            assert record.as_bits() == pack(DoneRecord, {**done, "engine": kinds[n], "start": start}), "a reserved bit"
        assert bench.get(f"activity{n}") == 0


@cocotb.test()
async def records_of_unknown_engines_say_which(dut):
    bench = await prepared(dut)
    for number in (EngineKind.Egress.value, 5, 8, 15, 9):
        tag, start = bench.random.getrandbits(16), bench.random.getrandbits(64)
        dut.cycle.value = start
        await bench.send("i", [bench.descriptor(number, tag)])
        (record,) = await bench.within(200, bench.receive("record", 1))
        assert (record.tag, record.status, record.last, record.start) == (tag, Status.BadTask, 1, start)
        assert record.as_bits() >> DoneRecord.as_shape()["engine"].offset & 15 == number


@cocotb.test()
async def records_of_unknown_engines_wait(dut):
    """They are right however long the one before waits to be taken."""
    bench = await prepared(dut)
    numbers = [EngineKind.Egress.value, *range(5, 16)]
    given = [(bench.random.choice(numbers), bench.random.getrandbits(16)) for _ in range(48)]
    cocotb.start_soon(bench.send("i", [bench.descriptor(number, tag) for number, tag in given]))
    found = []
    for n in range(len(given)):
        await bench.cycles(4 + n % 5)
        (record,) = await bench.within(200, bench.receive("record", 1))
        found.append((record.as_bits() >> DoneRecord.as_shape()["engine"].offset & 15, record.tag))
    assert found == given


@cocotb.test()
async def waits_compare_modulo(dut):
    """A counter is 0 after reset: values up to 2**19 - 1 behind it are reached, all others are ahead."""
    values = [(0, True), *(((1 << 20) - (1 << k), k < 19) for k in range(20)), *((1 << k, False) for k in range(20))]
    values += [((1 << 19) + 1, True), ((1 << 19) - 1, False)]
    # Each bench draws the same.
    draw = (await prepared(dut)).random
    for value, met in values:
        for place in range(2):
            bench = await prepared(dut)
            await bench.cycles(COUNTERS)
            counter = draw.randrange(1, COUNTERS)
            lane = draw.randrange(len(bench.component.kinds))
            free = [(0, draw.getrandbits(20))] * place
            await bench.send("i", [bench.descriptor(bench.component.kinds[lane], 1, [*free, (counter, value)])])
            await bench.cycles(20)
            for _ in range(12):
                await bench.cycles(1)
                assert bench.get(f"activity{lane}") == (0 if met else 2 << place), (value, place)
            assert bench.get(f"task{lane}.valid") == met, (value, place)


@cocotb.test()
async def a_task_waits_for_its_engine(dut):
    """The next one is not offered before the last message about the one before."""
    bench = await prepared(dut)
    for lane, kind in enumerate(bench.component.kinds):
        await bench.send("i", [bench.descriptor(kind, tag) for tag in (1, 2)])
        await bench.within(200, bench.receive(f"task{lane}", 1))
        await bench.cycles(30)
        assert not bench.get(f"task{lane}.valid"), lane
        await bench.send(f"done{lane}", [{"tag": 1, "last": 1}])
        await bench.within(20, bench.receive("record", 1))
        await bench.within(20, bench.receive(f"task{lane}", 1))
        await bench.send(f"done{lane}", [{"tag": 2, "last": 1}])
        await bench.within(20, bench.receive("record", 1))


@cocotb.test()
async def counters_are_apart(dut):
    """Each is waited for and signalled by its own number; messages before a task's last one do not count."""
    bench = await prepared(dut)
    bench.port("record.ready").value = 1
    reached = dict.fromkeys(range(COUNTERS), 0)

    kinds = bench.component.kinds

    async def work(lane, signal):
        """A task without waits on `lane` that signals `signal`; or on no lane."""
        reached[signal] += 1
        if lane is None:
            await bench.send("i", [bench.descriptor(15, 1, [], signal)])
            return
        await bench.send("i", [bench.descriptor(kinds[lane], 1, [], signal)])
        await bench.within(200, bench.receive(f"task{lane}", 1))
        await bench.send(f"done{lane}", [{"last": 0}] * bench.random.randrange(2) + [{"last": 1}])
        await bench.cycles(10)

    for counter in [*range(COUNTERS), *(bench.random.randrange(COUNTERS) for _ in range(60))]:
        await work(bench.random.randrange(len(kinds)), counter)
    for counter in range(1, COUNTERS):
        lane = bench.random.randrange(len(kinds))
        others = [(0, 0)] * bench.random.randrange(2)
        await bench.send("i", [bench.descriptor(kinds[lane], 2, [*others, (counter, reached[counter] + 1)])])
        await bench.cycles(20)
        assert not bench.get(f"task{lane}.valid"), counter
        await work((lane + 1) % len(kinds) if len(kinds) > 1 else None, counter)
        await bench.within(100, bench.receive(f"task{lane}", 1))
        await bench.send(f"done{lane}", [{"last": 1}])


@cocotb.test()
async def counters_count_far(dut):
    """16390 ends are signalled, most of them on another chip: a wait for as many is met, one for one more is not."""
    bench = await prepared(dut)
    ends, there = 16_390, 16_380
    kind = bench.component.kinds[0]
    await bench.cycles(COUNTERS)
    await bench.send("come", [{"counter": 5, "session": 0, "count": there, "ahead": 0}])
    bench.port("record.ready").value = 1
    await bench.send("i", [bench.descriptor(15, 1, signal=5, number=number) for number in range(there, ends)])
    await bench.cycles(20)
    for value, met in ((ends, True), (ends + 1, False)):
        await bench.send("i", [bench.descriptor(kind, 1, [(5, value)])])
        await bench.cycles(30)
        assert bench.get("task0.valid") == met, value
        assert bench.get("activity0") == (0 if met else 2), value
        if met:
            await bench.receive("task0", 1)
            await bench.send("done0", [{"last": 1}])
            await bench.cycles(10)


@cocotb.test()
async def numbers_wait_until_they_are_near(dut):
    """A task starts, or is answered if no engine has it, when its number is at most 16 beyond the count."""
    bench = await prepared(dut)
    bench.port("record.ready").value = 1
    lanes = len(bench.component.kinds)
    for trial in range(24):
        await bench.reset()
        bench.port("record.ready").value = 1
        await bench.cycles(COUNTERS)
        signal, count = bench.random.randrange(1, COUNTERS), bench.random.choice((0, 1, 17, 1000, (1 << 19) - 20))
        lane = bench.random.choice((*range(lanes), None))
        kind = 15 if lane is None else bench.component.kinds[lane]
        number = count + AHEAD + 1 + trial % 3
        message = {"counter": signal, "session": 0, "count": count, "ahead": 0}
        await bench.send("come", [message])
        await bench.send("i", [bench.descriptor(kind, 1, [], signal, number)])

        def started(lane=lane):
            return bench.get("record.valid" if lane is None else f"task{lane}.valid")

        for _ in range(40):
            await bench.cycles(1)
            assert not started(), (count, number)
        if lane is not None:
            assert bench.get(f"activity{lane}") == 4
        # What is told of numbers ahead does not help.
        await bench.send("come", [{**message, "ahead": 0xFFFE}])
        await bench.cycles(30)
        assert not started(), (count, number)
        await bench.send("come", [{**message, "count": number - AHEAD}])
        await bench.within(30, _until(bench, started), "its start")


async def _until(bench, condition):
    while not condition():
        await RisingEdge(bench.dut.clk)


@cocotb.test()
async def what_is_done_is_told(dut):
    """With its number, to the nodes that the task names, before or after its record is taken; 0 nodes: to nobody."""
    bench = await prepared(dut)
    kinds = bench.component.kinds
    await bench.cycles(COUNTERS)
    for _ in range(40):
        lane, signal = bench.random.randrange(len(kinds)), bench.random.randrange(1, 5)
        tell = bench.random.getrandbits(16) * bench.random.randrange(2)
        number = bench.numbers[signal]
        await bench.send("i", [bench.descriptor(kinds[lane], 1, [], signal, tell=tell)])
        await bench.within(100, bench.receive(f"task{lane}", 1))
        await bench.send(f"done{lane}", [{"tag": 1, "last": 0}])
        await bench.within(20, bench.receive("record", 1))
        await bench.cycles(10)
        assert not bench.get("cast.valid"), "told before it is over"
        await bench.send(f"done{lane}", [{"tag": 1, "last": 1}])
        if tell:
            (cast,) = await bench.within(10, bench.receive("cast", 1))
            message = cast.message
            assert (cast.nodes, message.counter, message.count) == (tell, signal, number + 1)
        else:
            await bench.cycles(10)
            assert not bench.get("cast.valid")
        await bench.within(10, bench.receive("record", 1))


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.6])
async def work_on_two_chips(dut, stall):
    """Numbers of one counter are done here and elsewhere, in any order; who waits starts when all below are done."""
    bench = await prepared(dut)
    count, near = 60, 8
    mine = [n for n in range(count) if bench.random.random() < 0.5]
    first, second = KINDS[:2]
    began, done = {}, set()
    engines = Engines(bench, lambda tag: bench.random.randrange(30))
    makes = [bench.descriptor(first, n, [(2, n - near)] if n >= near else [], 1, number=n) for n in mine]
    uses = [bench.descriptor(second, n, [(1, n + 1)], 2) for n in range(count)]
    given = sorted(zip([*mine, *range(count)], [*makes, *uses]), key=lambda pair: pair[0])

    def ended(kind):
        return {tag for what, its, tag in engines.log if (what, its) == ("ended", kind)}

    async def elsewhere():
        """The other chip does the rest, waits for this one's second stage too, and says what it knows."""
        for n in range(count):
            if n in mine:
                continue
            while n >= near and n - near not in ended(second):
                await RisingEdge(dut.clk)
            await bench.cycles(bench.random.randrange(1, 40))
            done.add(n)
            began["other", n] = len(engines.log)
            known = done | ended(first)
            lowest = next(k for k in range(count + 1) if k not in known)
            ahead = sum(1 << k - lowest - 1 for k in known if lowest < k <= lowest + AHEAD)
            message = {"counter": 1, "session": 0, "count": lowest, "ahead": ahead}
            await bench.send("come", [message] * bench.random.randrange(1, 3), stall)

    cocotb.start_soon(elsewhere())
    cocotb.start_soon(bench.send("i", [bits for _, bits in given], stall))
    await bench.within(60_000, bench.receive("record", len(given), stall))
    at = {event: k for k, event in enumerate(engines.log)}
    for n in range(count):
        start = at["began", second, n]
        assert all(start > at["ended", first, k] for k in mine if k <= n), n
        assert all(start >= began["other", k] for k in range(n + 1) if k not in mine), n
