"""Testbench of hw/link/lanes.py, and of two sides that train and carry stripes over bad wires."""

from functools import reduce
from operator import or_

import cocotb
from amaranth.hdl import Cat, DomainRenamer, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.lib.streams import connect
from tessera.hw.link.lanes import LanesReceiver, LanesSender
from tessera.hw.link.packet import FILL, Block, stripe
from tessera.hw.link.training import LinkState, Training
from tessera.hw.models.serdes import Deserializer
from tessera.hw.models.wire import Wire
from tessera.tb.bench import CYCLE_NS, Bench, Dut
from tessera.tb.lib.cdc import tick
from tessera.tb.link.lane_model import BITS, DENSE, SPARSE, Fields, marker_bits, sequence

GIVE_UP = 4000
LATENCIES = {1: (2,), 2: (1, 8), 4: (3, 1, 8, 5)}
MASK = (1 << BITS) - 1


def content(number):
    """The numbered block that stripes are made of: no word of it is another's."""
    return Block(Cat(0, *(number ^ (0x9E3779B9 * (n + 1) & 0xFFFFFFFF) for n in range(8))))


class Source(wiring.Component):
    """Numbered blocks in stripes of the width that is asked for."""

    def __init__(self, lanes):
        self.lanes = lanes
        super().__init__({"used": In(range(lanes + 1)), "o": Out(stream.Signature(stripe(lanes)))})

    def elaborate(self, platform):
        m = Module()
        number, width = Signal(32), Signal.like(self.used)
        m.d.sync += width.eq(self.used)
        m.d.comb += self.o.valid.eq(1)
        for n in range(self.lanes):
            m.d.comb += self.o.payload[n].eq(content((number + n)[:32]))
        with m.If(self.o.ready):
            m.d.sync += number.eq(number + width)
        return m


class Sink(wiring.Component):
    """Counts stripes that are filling, wrong, or right; and of these, how many do not follow the one before."""

    def __init__(self, lanes):
        self.lanes = lanes
        counts = ("fills", "wrong", "right", "gaps")
        super().__init__(
            {
                "accept": In(1),
                "used": In(range(lanes + 1)),
                "i": In(stream.Signature(stripe(lanes))),
                **{name: Out(32) for name in counts},
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(1)
        blocks = self.i.payload
        number, following = Signal(32), Signal(32)
        m.d.comb += number.eq(blocks[0].words[0] ^ 0x9E3779B9)
        bad = [
            (n < self.used) & (blocks[n].as_value() != content((number + n)[:32]).as_value()) for n in range(self.lanes)
        ]
        with m.If(self.i.valid & self.accept):
            with m.If(blocks[0].start & (blocks[0].words[0] == FILL)):
                m.d.sync += self.fills.eq(self.fills + 1)
            with m.Elif(reduce(or_, bad) | (self.used == 0)):
                m.d.sync += self.wrong.eq(self.wrong + 1)
            with m.Else():
                m.d.sync += [self.right.eq(self.right + 1), following.eq(number + self.used)]
                with m.If(number != following):
                    m.d.sync += self.gaps.eq(self.gaps + 1)
        return m


class Status(data.Struct):
    """What a side says of itself."""

    state: LinkState
    session: 4
    sending: 3
    heard: 4
    node: 4
    losses: 32
    renewed: 32
    fills: 32
    wrong: 32
    right: 32
    gaps: 32


class Side(wiring.Component):
    """One end of a link; ``sync`` and ``receive<n>``."""

    def __init__(self, lanes, node):
        self.lanes, self.node = lanes, node
        shape = data.ArrayLayout(BITS, lanes)
        super().__init__({"i": In(shape), "slip": Out(lanes), "o": Out(shape), "status": Out(Status)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.sender = sender = LanesSender(self.lanes)
        m.submodules.receiver = receiver = LanesReceiver(self.lanes, settle=2)
        m.submodules.training = training = Training(self.lanes, GIVE_UP)
        m.submodules.source = source = Source(self.lanes)
        m.submodules.sink = sink = Sink(self.lanes)
        connect(m, source.o, sender.i)
        connect(m, receiver.o, sink.i)
        renewed = Signal(32)
        m.d.sync += renewed.eq(renewed + training.renew)
        m.d.comb += [
            source.used.eq(sender.used),
            sender.wanted.eq(training.wanted),
            sender.dense.eq(training.dense),
            sender.session.eq(training.session),
            sender.heard.eq(receiver.heard),
            sender.node.eq(self.node),
            training.heard.eq(receiver.heard),
            training.told.eq(receiver.told),
            sink.accept.eq(training.accept),
            sink.used.eq(receiver.used),
            receiver.i.eq(self.i),
            self.slip.eq(receiver.slip),
            self.o.eq(sender.o),
            self.status.state.eq(training.state),
            self.status.session.eq(training.session),
            self.status.sending.eq(sender.used),
            self.status.heard.eq(receiver.heard),
            self.status.node.eq(receiver.told.node),
            self.status.losses.eq(training.losses),
            self.status.renewed.eq(renewed),
            *(getattr(self.status, name).eq(getattr(sink, name)) for name in ("fills", "wrong", "right", "gaps")),
        ]
        return m


class Pair(wiring.Component):
    """Two sides, the one in ``sync`` and the other in ``other``, and wires both ways, each in its sender's clock."""

    def __init__(self, lanes):
        self.lanes = lanes
        ways = {}
        for way in ("there", "back"):
            ways |= {
                f"{way}_phase": In(data.ArrayLayout(range(BITS), lanes)),
                f"{way}_move": In(lanes),
                f"{way}_cut": In(lanes),
                f"{way}_errors": In(32),
                f"{way}_drops": In(32),
            }
        super().__init__({**ways, "crossed": In(1), "one": Out(Status), "two": Out(Status)})

    def elaborate(self, platform):
        m = Module()
        sides = []
        for name, own, theirs in (("one", "sync", "other"), ("two", "other", "sync")):
            side = Side(self.lanes, node={"one": 9, "two": 6}[name])
            renamed = {"sync": own} | {f"receive{n}": theirs for n in range(self.lanes)}
            m.submodules[name] = DomainRenamer(renamed)(side)
            m.d.comb += getattr(self, name).eq(side.status)
            sides.append(side)
        for way, domain, sender, receiver in (("there", "sync", *sides), ("back", "other", *sides[::-1])):
            wire = Wire(LATENCIES[self.lanes], seed=len(way))
            m.submodules[way] = DomainRenamer(domain)(wire)
            m.d.comb += [
                wire.i.eq(sender.o),
                wire.crossed.eq(self.crossed),
                *(getattr(wire, name).eq(getattr(self, f"{way}_{name}")) for name in ("cut", "errors", "drops")),
            ]
            for n in range(self.lanes):
                deserializer = Deserializer(2)
                m.submodules[f"{way}{n}"] = DomainRenamer(domain)(deserializer)
                m.d.comb += [
                    deserializer.i.eq(wire.o[n]),
                    deserializer.slip.eq(receiver.slip[n]),
                    deserializer.move.eq(getattr(self, f"{way}_move")[n]),
                    deserializer.phase.eq(getattr(self, f"{way}_phase")[n]),
                    receiver.i[n].eq(deserializer.o),
                ]
        return m


DUTS = {
    **{f"sender{lanes}": Dut(lambda lanes=lanes: LanesSender(lanes), tests="sender") for lanes in (1, 2, 4)},
    **{f"pair{lanes}": Dut(lambda lanes=lanes: Pair(lanes), tests="pair", soak=lanes == 2) for lanes in (1, 2, 4)},
}


@cocotb.test()
async def sender_spreads_stripes_and_sends_markers(dut):
    bench = Bench(dut, DUTS)
    random, lanes = bench.random, bench.component.lanes
    sets = [used for used in range(1 << lanes) if used.bit_count() in (0, 1, 2, 4)]
    controls = {"wanted": 0, "dense": 1, "heard": 0, "session": 0, "node": 0}
    for name, value in controls.items():
        getattr(dut, name).value = value
    await bench.reset()
    # The first marker was sent in the cycle in which reset ended.
    left, using, number = DENSE - 1, 0, 1
    keys = [sequence(n) for n in range(lanes)]
    expected, distances, wanted = None, set(), 0
    for cycle in range(6500):
        if cycle % 40 == 0 or random.random() < 0.02:
            controls = {"wanted": random.choice([*sets, (1 << lanes) - 1]), "heard": random.randrange(16)}
            controls |= {"session": random.randrange(16), "node": random.randrange(16)}
            controls["dense"] = int(not 1500 <= cycle < 2400)
            for name, value in controls.items():
                getattr(dut, name).value = value
        blocks = [random.getrandbits(BITS) for _ in range(lanes)]
        offered = random.random() < 0.9
        dut.i__valid.value = int(offered)
        dut.i__payload.value = sum(block << BITS * n for n, block in enumerate(blocks))
        await ReadOnly()
        ready = left > 0 and using and wanted
        assert bool(dut.i__ready.value) == bool(ready), f"cycle {cycle}: ready is {not ready}"
        following = controls["wanted"] & (1 << lanes) - 1 if left == 1 else using
        assert int(dut.used.value) == following.bit_count(), f"cycle {cycle}: used"
        if expected is not None:
            found = dut.o.value.to_unsigned()
            for n in range(lanes):
                assert found >> BITS * n & MASK == expected[n] or expected[n] is None, f"cycle {cycle}, lane {n}"
        await RisingEdge(dut.clk)
        if left == 0:
            fields = Fields(
                used=using, heard=controls["heard"], dense=controls["dense"], session=controls["session"],
                node=controls["node"], number=number % 256,
            )  # fmt: skip
            expected = [marker_bits(Fields(**{**vars(fields), "lane": n})) for n in range(lanes)]
            number += 1
            keys = [sequence(n) for n in range(lanes)]
            left = DENSE if controls["dense"] else SPARSE
            distances.add(left)
        else:
            ranks = [(using & (1 << n) - 1).bit_count() for n in range(lanes)]
            plain = [
                (blocks[rank] if using >> n & 1 else None) if ready and offered else 1 | 0x3FF << 1
                for n, rank in enumerate(ranks)
            ]
            expected = [None if block is None else block ^ next(key) for block, key in zip(plain, keys)]
            for n, block in enumerate(plain):
                if block is None:
                    next(keys[n])
        left, using, wanted = left - 1, following, controls["wanted"]
    assert distances == {DENSE, SPARSE} and number > 256


class Link:
    """Both sides, their clocks, and waits."""

    def __init__(self, dut, ppm=0):
        self.bench, self.dut, self.ppm = Bench(dut, DUTS), dut, ppm
        self.random, self.lanes = self.bench.random, self.bench.component.lanes
        self.everyone = (1 << self.lanes) - 1

    async def start(self, crossed=False):
        dut = self.dut
        period = CYCLE_NS * 1000 * (1 + self.ppm * 1e-6)
        cocotb.start_soon(tick(dut.other_clk, period, self.random.random() * period))
        dut.other_rst.value = 1
        dut.crossed.value = int(crossed)
        for way in ("there", "back"):
            for name in ("cut", "errors", "drops"):
                getattr(dut, f"{way}_{name}").value = 0
            self.move(way, self.everyone)
        await self.bench.reset()
        for _ in range(3):
            await RisingEdge(dut.other_clk)
        dut.other_rst.value = 0
        await self.bench.cycles(3)
        for way in ("there", "back"):
            getattr(dut, f"{way}_move").value = 0

    def move(self, way, lanes, phases=None):
        phases = phases or [self.random.randrange(BITS) for _ in range(self.lanes)]
        getattr(self.dut, f"{way}_phase").value = sum(phase << 9 * n for n, phase in enumerate(phases))
        getattr(self.dut, f"{way}_move").value = lanes

    def get(self, side):
        bits, values = getattr(self.dut, side).value.to_unsigned(), {}
        for name, width in {
            "state": 2, "session": 4, "sending": 3, "heard": 4, "node": 4,
            **dict.fromkeys(("losses", "renewed", "fills", "wrong", "right", "gaps"), 32),
        }.items():  # fmt: skip
            values[name] = bits & (1 << width) - 1
            bits >>= width
        return values

    async def until(self, cycles, what, condition):
        for waited in range(0, cycles, 8):
            one, two = self.get("one"), self.get("two")
            if condition(one, two):
                return waited
            await self.bench.cycles(8)
        raise AssertionError(f"no {what} within {cycles} cycles: {self.get('one')}, {self.get('two')}")

    async def full(self, cycles=2**14):
        return await self.until(
            cycles,
            "full width",
            lambda one, two: all(
                side["state"] == 1 and side["sending"] == self.lanes and side["heard"] == self.everyone
                for side in (one, two)
            ),
        )

    async def carries(self, cycles, widths=None):
        """Stripes come in each cycle but those of markers, right and without gaps."""
        # What was under way when the width changed has come.
        await self.bench.cycles(40)
        before = [self.get(side) for side in ("one", "two")]
        await self.bench.cycles(cycles)
        after = [self.get(side) for side in ("one", "two")]
        for a, b in zip(before, after):
            for name in ("wrong", "gaps", "losses", "renewed", "fills"):
                assert a[name] == b[name], f"{name}: {b[name] - a[name]} in {cycles} cycles"
            came = b["right"] - a["right"]
            assert came >= cycles * (1 - 1 / DENSE - 0.001) - 20, f"{came} stripes in {cycles} cycles"
        return before, after


@cocotb.test()
@cocotb.parametrize(case=range(6))
async def pair_trains(dut, case):
    """From any phases of bits, with clocks 600 ppm apart either way, lanes skewed and crossed or not."""
    link = Link(dut, ppm=(0, 600, -600)[case % 3])
    await link.start(crossed=case >= 3)
    waited = await link.full()
    # The last lane may be the other side's, which then hears of it by a sparse marker.
    assert waited <= BITS * 20 + SPARSE + 200, f"{waited} cycles"
    one, two = link.get("one"), link.get("two")
    assert one["session"] == two["session"] != 0 and (one["node"], two["node"]) == (6, 9)
    # Until the next markers, the other lanes are not in use.
    await link.bench.cycles(2 * SPARSE)
    before, after = await link.carries(6 * SPARSE)
    for a, b in zip(before, after):
        # In this time markers are sparse: one cycle of 1024 each.
        assert b["right"] - a["right"] >= 6 * SPARSE * (1 - 1.7 / SPARSE) - 3
    assert one["wrong"] == two["wrong"] == 0


@cocotb.test()
@cocotb.parametrize(soon=[True, False])
async def pair_loses_a_lane_and_takes_it_back(dut, soon):
    """Within the search that begins with the loss, or in a later one."""
    link = Link(dut, 300 if soon else -300)
    if link.lanes == 1 or (link.lanes == 4 and not soon):
        return
    await link.start(crossed=soon)
    await link.full()
    await link.bench.cycles(2 * SPARSE)
    start = link.get("one"), link.get("two")
    lane = link.random.randrange(link.lanes)
    dut.there_cut.value = 1 << (link.lanes - 1 - lane if soon else lane)
    # Four markers, then the next ones tell of it.
    await link.until(7 * SPARSE, "fewer lanes", lambda one, two: one["sending"] == link.lanes // 2)
    assert link.get("two")["heard"] == link.everyone & ~(1 << lane)
    assert link.get("two")["sending"] == link.lanes, "the way back has its own width"
    await link.carries(1000)
    if soon:
        dut.there_cut.value = 0
        await link.full(2**13)
    else:
        await link.bench.cycles(2**13)
        dut.there_cut.value = 0
        await link.full(2**17)
    await link.bench.cycles(2 * SPARSE)
    await link.carries(3000)
    for before, after in zip(start, (link.get("one"), link.get("two"))):
        assert (before["renewed"], before["session"]) == (after["renewed"], after["session"])
        assert after["losses"] - before["losses"] == (after["node"] == 9)


@cocotb.test()
async def pair_outlives_errors(dut):
    """At one wrong bit in 10,000 no lane is lost, and what is right comes in order."""
    link = Link(dut, ppm=300)
    await link.start()
    await link.full()
    await link.bench.cycles(2 * SPARSE)
    dut.there_errors.value = dut.back_errors.value = round(1e-4 * 2**32)
    before = [link.get(side) for side in ("one", "two")]
    cycles = 20_000
    await link.bench.cycles(cycles)
    for a, b in zip(before, (link.get("one"), link.get("two"))):
        assert b["losses"] == a["losses"]
        assert b["renewed"] == a["renewed"] and b["state"] == 1
        spoilt = 1 - (1 - 1e-4) ** (BITS * link.lanes)
        wrong = b["wrong"] + b["fills"] - a["wrong"] - a["fills"]
        assert 0.8 * spoilt * cycles < wrong < 1.2 * spoilt * cycles + 200, f"{wrong} wrong stripes"
        assert b["right"] - a["right"] + wrong >= cycles * (1 - 2 / SPARSE) - 3


@cocotb.test()
async def pair_dies_and_lives_again(dut):
    """A cut that is short is only a pause; a longer one makes both sides begin anew, with the same session."""
    link = Link(dut)
    await link.start()
    await link.full()
    session = link.get("one")["session"]
    await link.bench.cycles(2 * SPARSE)

    async def cut(way):
        for name in ("there", "back") if way == "both" else (way,):
            getattr(dut, f"{name}_cut").value = link.everyone
        await link.until(6 * SPARSE, "end of both", lambda one, two: one["state"] != 1 and two["state"] != 1)

    async def mend():
        dut.there_cut.value = dut.back_cut.value = 0
        await link.full(2**15)
        assert link.get("one")["session"] == link.get("two")["session"]

    await cut("there")
    dut.there_cut.value = 0
    # The phase was lost: this takes longer than a side waits, in the worst case.
    await link.full(2**15)
    for way in ("back", "both"):
        await cut(way)
        # If only one side is deaf, it dies alone, and the other one follows it into the next session.
        await link.until(
            2 * GIVE_UP,
            "death",
            lambda one, two, session=session: one["state"] == 2 and two["session"] == one["session"] != session,
        )
        assert (link.get("two")["state"] == 2) == (way == "both")
        await mend()
        now = link.get("one")["session"]
        assert now != session and all(link.get(side)["renewed"] for side in ("one", "two"))
        session = now
    await link.bench.cycles(2 * SPARSE)
    await link.carries(3000)


@cocotb.test()
async def pair_begins_anew_when_one_side_was_reset(dut):
    link = Link(dut, ppm=-300)
    await link.start()
    await link.full()
    session = link.get("one")["session"]
    for count in (1, 2):
        dut.other_rst.value = 1
        await link.bench.cycles(20)
        dut.other_rst.value = 0
        await link.until(2 * GIVE_UP + 2**15, "new session", lambda one, two: one["renewed"] >= count)
        await link.full(2**15)
        one, two = link.get("one"), link.get("two")
        assert one["session"] == two["session"] != session and one["wrong"] == 0
        session = one["session"]
    await link.bench.cycles(2 * SPARSE)
    await link.carries(3000)


@cocotb.test()
async def pair_finds_a_phase_that_moved(dut):
    """A lane whose bits slip of themselves is lost and found again; markers in between are dense."""
    link = Link(dut)
    await link.start()
    await link.full()
    await link.bench.cycles(2 * SPARSE)
    link.move("back", 1)
    await link.bench.cycles(2)
    dut.back_move.value = 0
    await link.until(6 * SPARSE, "loss", lambda one, two: one["losses"] > 0)
    await link.full(2**15)
    await link.bench.cycles(2 * SPARSE)
    await link.carries(2000)
