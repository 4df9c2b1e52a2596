"""Testbench of hw/models/faults.py: what is wrong is where it shall be, and a link brings all nevertheless."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import cocotb
from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.lib.streams import connect
from tessera.hw.link.lanes import LanesSender
from tessera.hw.link.link import Link, LinkCounts, LinkParameters
from tessera.hw.link.pack import Packer
from tessera.hw.link.packet import CLASSES, Kind, PartWords
from tessera.hw.link.training import LinkState
from tessera.hw.models.faults import LATENCY, FaultKind, Faults
from tessera.hw.models.serdes import Deserializer
from tessera.hw.models.wire import Wire
from tessera.tb.bench import Bench, Dut, pack, unpack
from tessera.tb.link.lane_model import BITS, read, sequence
from tessera.tb.link.model import FILL_WORD, Packet, crc32c, form_of
from tessera.tb.link.traffic import Sink, Source, Totals

KINDS = len(FaultKind)
ALL_RATE = 2**32 - 1
MASK = (1 << BITS) - 1
USED = {1: [0b0001], 4: [0b0001, 0b1000, 0b0110, 0b1001, 0b1111, 0b1111]}
"""Sets of lanes that are in use by turns."""
FIELDS = {"rate": 32, "kinds": KINDS, "lane_cycles": 16, "cut_cycles": 16}
COUNTS = {"counts": data.ArrayLayout(32, KINDS), "faults": 32}


def packets():
    """Packets of all kinds and lengths, many of them ``Status``."""
    random = Random(1)
    for n in range(100):
        kind = Kind.Status.value if n % 2 == 0 else random.randrange(CLASSES)
        lines = 0 if kind == 7 else random.choice([0, 0, random.randrange(9)])
        body = kind == 7 or random.random() < 0.6
        yield Packet.random(random, lines, body, random.getrandbits(51) << 3 | kind)


class Player(wiring.Component):
    """:func:`packets` in a row, over and over; each part with a chance of ``chance``/16 in a cycle."""

    chance: In(5)
    o: Out(stream.Signature(PartWords))

    def elaborate(self, platform):
        m = Module()
        parts = [pack(PartWords, part) for packet in packets() for part in packet.part_words()]
        width = Shape.cast(PartWords).width
        m.submodules.memory = kept = memory.Memory(shape=width, depth=len(parts), init=parts)
        port = kept.read_port(domain="comb")
        dice, offered = Signal(16, init=0xACE1), Signal()
        m.d.sync += [dice.eq(Cat(dice[1:], dice[0] ^ dice[2] ^ dice[3] ^ dice[5])), offered.eq(0)]
        m.d.comb += [self.o.payload.eq(port.data), self.o.valid.eq(offered | (dice[3:7] < self.chance))]
        with m.If(self.o.valid & ~self.o.ready):
            m.d.sync += offered.eq(1)
        with m.Elif(self.o.valid):
            m.d.sync += port.addr.eq(Mux(port.addr == len(parts) - 1, 0, port.addr + 1))
        return m


class Sent(wiring.Component):
    """What a link would send, into :class:`Faults`; and what is then wrong.

    ``clean`` is what comes to the faults; ``wrong`` is where what leaves differs from it, :data:`LATENCY` cycles later.
    With ``renew``, player and packer begin anew.
    """

    def __init__(self, lanes):
        self.lanes = lanes
        shape = data.ArrayLayout(BITS, lanes)
        super().__init__(
            {
                **{name: In(width) for name, width in FIELDS.items()},
                **{name: Out(shape) for name, shape in COUNTS.items()},
                "chance": In(5),
                "wanted": In(4),
                "dense": In(1),
                "renew": In(1),
                "clean": Out(shape),
                "wrong": Out(shape),
                "differs": Out(1),
                "used": Out(lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        renew = ResetInserter(self.renew)
        player, packer = Player(), Packer(self.lanes)
        m.submodules.player, m.submodules.packer = renew(player), renew(packer)
        m.submodules.sender = sender = LanesSender(self.lanes)
        m.submodules.faults = faults = Faults(self.lanes, seed=5)
        # No joint: a part is withdrawn with `renew`.
        m.d.comb += [
            packer.i.valid.eq(player.o.valid),
            packer.i.payload.eq(player.o.payload),
            player.o.ready.eq(packer.i.ready),
            player.chance.eq(self.chance),
            packer.used.eq(sender.used),
            sender.wanted.eq(self.wanted),
            sender.dense.eq(self.dense),
            sender.heard.eq(self.wanted),
            sender.session.eq(3),
            sender.node.eq(9),
            sender.i.valid.eq(packer.o.valid),
            sender.i.payload.eq(packer.o.payload),
            packer.o.ready.eq(sender.i.ready),
            faults.i.eq(sender.o),
            self.clean.eq(sender.o),
            self.used.eq(faults.used),
            *(getattr(faults, name).eq(getattr(self, name)) for name in FIELDS),
            *(getattr(self, name).eq(getattr(faults, name)) for name in COUNTS),
        ]
        before = sender.o
        for n in range(LATENCY):
            later = Signal(self.clean.shape(), name=f"later{n}")
            m.d.sync += later.eq(before)
            before = later
        m.d.comb += [
            self.wrong.eq(faults.o.as_value() ^ before.as_value()),
            self.differs.eq(self.wrong.as_value().any()),
        ]
        return m


class Carried(wiring.Component):
    """Two links of one lane with traffic of all classes both ways, and faults in what the first one sends."""

    def __init__(self):
        self.parameters = LinkParameters(1, timeout_bits=10, give_up=4000, settle=2)
        ways = {}
        for way in ("there", "back"):
            ways |= {
                f"{way}_go": In(CLASSES),
                f"{way}_sent": Out(data.ArrayLayout(32, CLASSES)),
                f"{way}_come": Out(data.ArrayLayout(Totals, CLASSES)),
                f"{way}_counts": Out(LinkCounts),
                f"{way}_state": Out(LinkState),
            }
        super().__init__(
            {
                **{name: In(width) for name, width in FIELDS.items()},
                **{name: Out(shape) for name, shape in COUNTS.items()},
                **ways,
                "load": In(5),
            }
        )

    def elaborate(self, platform):
        m = Module()
        links = [Link(self.parameters), Link(self.parameters)]
        m.submodules.faults = faults = Faults(1, seed=6)
        m.d.comb += [
            *(getattr(faults, name).eq(getattr(self, name)) for name in FIELDS),
            *(getattr(self, name).eq(getattr(faults, name)) for name in COUNTS),
            faults.i.eq(links[0].lanes_o),
        ]
        for n, (way, sent) in enumerate((("there", faults.o), ("back", links[1].lanes_o))):
            here, there = links[n], links[1 - n]
            m.submodules[f"link_{way}"] = DomainRenamer({"receive0": "sync"})(here)
            m.submodules[f"wire_{way}"] = wire = Wire((2,), seed=n + 1)
            m.submodules[f"deserializer_{way}"] = deserializer = Deserializer(2)
            m.submodules[f"sink_{way}"] = sink = Sink()
            m.d.comb += [
                here.node.eq(n),
                wire.i.eq(sent),
                deserializer.i.eq(wire.o[0]),
                deserializer.slip.eq(there.slip[0]),
                there.lanes_i[0].eq(deserializer.o),
                sink.i.valid.eq(there.o.valid),
                sink.i.payload.eq(there.o.payload),
                there.o.ready.eq(1),
                there.room.eq(sink.room),
                sink.rate.eq(16),
                sink.lines.eq(15),
                getattr(self, f"{way}_come").eq(sink.totals),
                getattr(self, f"{way}_counts").eq(here.counts),
                getattr(self, f"{way}_state").eq(here.state),
            ]
            for kind in range(CLASSES):
                m.submodules[f"source_{way}{kind}"] = source = Source(kind)
                connect(m, source.o, getattr(here, f"i{kind}"))
                m.d.comb += [
                    source.go.eq(getattr(self, f"{way}_go")[kind]),
                    source.rate.eq(self.load),
                    source.lines.eq(15),
                    getattr(self, f"{way}_sent")[kind].eq(source.sent),
                ]
        return m


DUTS = {
    "lanes1": Dut(lambda: Sent(1), tests="faults_"),
    "lanes4": Dut(lambda: Sent(4), tests="faults_", soak=True),
    "links": Dut(Carried, tests="links_"),
}


@dataclass
class Stripe:
    """What the lanes carry in a cycle."""

    marker: bool
    used: list[int]
    words: dict[tuple[int, int], tuple[str, bool]] = field(default_factory=dict)
    """By lane and number in the block: what it is, and whether its packet is a ``Status``."""
    starts: set[int] = field(default_factory=set)
    """Lanes whose ``start`` means something."""


class Follower:
    """Follows clean lanes; the packets' CRCs show that it does."""

    def __init__(self, lanes):
        self.lanes, self.used = lanes, []
        self.keys = None
        self.due, self.status, self.content = [], False, []
        self.packets = self.broken = 0

    def step(self, bits):
        """The next :class:`Stripe`."""
        blocks = [bits >> BITS * n & MASK for n in range(self.lanes)]
        markers = [read(block) for block in blocks]
        if any(right for right, _ in markers):
            assert all(right and told.lane == n for n, (right, told) in enumerate(markers)), f"{markers}"
            used = {told.used for _, told in markers}
            assert len(used) == 1
            self.used = [n for n in range(self.lanes) if min(used) >> n & 1]
            self.keys = [sequence(n) for n in range(self.lanes)]
            return Stripe(True, self.used)
        stripe = Stripe(False, self.used)
        if self.keys is None:
            return stripe
        plain = [block ^ next(keys) for block, keys in zip(blocks, self.keys)]
        for lane in self.used:
            stripe.starts.add(lane)
            for k in range(8):
                word, start = plain[lane] >> 1 + 32 * k & 0xFFFFFFFF, plain[lane] & 1
                if word == FILL_WORD and (not self.due or (k == 0 and start)):
                    stripe.words[lane, k] = "fill", False
                    return stripe
                if k == 0 and start and self.due:
                    self.broken += 1
                    self.due = []
                if not self.due:
                    assert k or start, f"{stripe}: no start"
                    lines, body = word & 15, word >> 4 & 1
                    assert lines <= 8 and word & 0x3FF == form_of(lines, body), f"{stripe}: {word:08x} is no form"
                    self.due = ["first", "second", *["body"] * body, *["line"] * 16 * lines, "crc"]
                    self.status = word >> 10 & 7 == 7
                    self.content = []
                else:
                    assert k or not start, f"{stripe}: a start"
                stripe.words[lane, k] = self.due.pop(0), self.status
                self.content.append(word)
                if not self.due:
                    *content, crc = self.content
                    assert crc32c(b"".join(word.to_bytes(4, "little") for word in content)) == crc
                    self.packets += 1
        return stripe


def places_of(mask):
    """Numbers of the bits that are set."""
    return [n for n in range(mask.bit_length()) if mask >> n & 1]


def judge(kind, stripe, masks):
    """Assert that these wrong bits of each lane may be a fault of this kind; what of its choices it has taken."""
    wrong = [n for n, mask in enumerate(masks) if mask]
    where = f"{kind}: {[hex(mask) for mask in masks]} in {stripe}"
    if kind in (FaultKind.Lane, FaultKind.Cut):
        assert all(85 < masks[n].bit_count() < 175 for n in wrong), where
        return set()
    assert len(wrong) == 1, where
    lane, bits = wrong[0], places_of(masks[wrong[0]])
    if kind in (FaultKind.Block, FaultKind.Burst):
        assert lane in stripe.used or stripe.marker or not stripe.used, where
        if kind == FaultKind.Block:
            assert 85 < len(bits) < 175, where
            return {("lane", lane)} | {("bit", bit) for bit in bits}
        length = bits[-1] - bits[0] + 1
        assert 2 <= length <= 64, where
        return {("lane", lane), ("length", (length - 2) // 7), ("at", bits[0] // 32)}
    if kind == FaultKind.Marker:
        assert stripe.marker and bits[0] >= 1 and len(bits) <= 3, where
        return {("lane", lane), ("count", len(bits))} | {("at", (bit - 1) // 8) for bit in bits}
    if kind == FaultKind.Start:
        assert bits == [0] and lane in stripe.starts, where
        return {("lane", lane)}
    assert bits[0] >= 1, where
    k, bit = divmod(bits[0] - 1, 32)
    role, status = stripe.words[lane, k]
    if kind == FaultKind.Edge:
        assert role == "crc" and 2 <= bits[-1] - bits[0] + 1 <= 64 and bits[-1] > 32 * k + 32, where
        return {("lane", lane), ("word", k), ("bit", bit), ("behind", stripe.words[lane, k + 1][0])}
    assert len(bits) <= 3 and bits[-1] <= 32 * k + 32, where
    bits = [bit - 1 - 32 * k for bit in bits]
    right = {
        FaultKind.Form: role == "first" and bits[-1] < 10,
        FaultKind.Head: not status and (role == "second" or (role == "first" and bits[0] >= 10)),
        FaultKind.Status: status and role in ("first", "second", "body"),
        FaultKind.Body: not status and role == "body",
        FaultKind.Line: role == "line",
        FaultKind.Crc: role == "crc",
        FaultKind.Fill: role == "fill" and bits[-1] < 10,
    }
    assert right[kind], where
    alone = (lane, k) == (stripe.used[0], 0)
    return {("lane", lane), ("word", k), ("count", len(bits)), ("alone", alone)} | {(role, bit) for bit in bits}


def choices(kind, lanes):
    """All that :func:`judge` is to have told of a kind after a while."""
    bits = {
        FaultKind.Form: [("first", range(10))],
        FaultKind.Head: [("first", range(10, 32)), ("second", range(32))],
        FaultKind.Status: [("first", range(32)), ("second", range(32)), ("body", range(32))],
        FaultKind.Body: [("body", range(32))],
        FaultKind.Line: [("line", range(32))],
        FaultKind.Crc: [("crc", range(32))],
        FaultKind.Start: [],
        FaultKind.Fill: [("fill", range(10)), ("alone", (False, True))],
        FaultKind.Edge: [("bit", range(32)), ("behind", ("first", "fill")), ("word", range(7))],
        FaultKind.Burst: [("length", range(9)), ("at", range(8))],
        FaultKind.Marker: [("at", range(32))],
        FaultKind.Block: [("bit", range(BITS))],
    }[kind]
    if kind in (FaultKind.Head, FaultKind.Status, FaultKind.Line):
        bits = [*bits, ("word", range(8))]
    if kind not in (FaultKind.Start, FaultKind.Edge, FaultKind.Burst, FaultKind.Block):
        bits = [*bits, ("count", (1, 2, 3))]
    return {(name, n) for name, numbers in [*bits, ("lane", range(lanes))] for n in numbers}


class SentBench(Bench):
    """Runs :class:`Sent` and judges each difference by the count that grows with it."""

    async def start(self, kinds, rate, *, used=None, lane_cycles=0, cut_cycles=0):
        dut = self.dut
        dut.rate.value, dut.kinds.value = rate, 0
        dut.lane_cycles.value, dut.cut_cycles.value = lane_cycles, cut_cycles
        dut.chance.value, dut.dense.value, dut.renew.value = 14, 1, 0
        dut.wanted.value = used or USED[self.component.lanes][-1]
        await self.reset()
        self.follower, self.stripes, self.renewed = Follower(self.component.lanes), [], 0
        self.seen, self.taken, self.lasted = [0] * KINDS, Counter(), {}
        self.differing = 0
        self.before = [0] * KINDS
        # Blocks that are followed are on their way when the first fault is due.
        await self.go(LATENCY, change=False)
        dut.kinds.value = sum(1 << kind.value for kind in kinds)

    def counts(self):
        bits = self.dut.counts.value.to_unsigned()
        return [bits >> 32 * n & 0xFFFFFFFF for n in range(KINDS)]

    async def go(self, cycles, change=True):
        """Run, and now and then change what is sent and how."""
        dut, random, lanes = self.dut, self.random, self.component.lanes
        faults = sum(self.before)
        for _ in range(cycles):
            if change and random.random() < 0.01:
                dut.chance.value = random.choice([1, 4, 8, 16, 16])
            if change and random.random() < 0.005:
                dut.wanted.value = random.choice([*USED[lanes] * 2, 0])
                # One that is sparse stays so for 1024 cycles.
                dut.dense.value = random.random() < 0.95
            renew = change and random.random() < 0.01
            dut.renew.value = int(renew)
            self.renewed += renew
            await ReadOnly()
            self.stripes.append(self.follower.step(dut.clean.value.to_unsigned()))
            used = int(dut.used.value)
            now = int(dut.faults.value)
            if now != faults or int(dut.differs.value):
                self.differing += 1
                stripe = self.stripes[-1 - LATENCY]
                bits = dut.wrong.value.to_unsigned()
                self.judge(stripe, [bits >> BITS * n & MASK for n in range(lanes)])
                assert now == sum(self.before)
                faults = now
            await RisingEdge(dut.clk)
            if len(self.stripes) > 1 and not self.stripes[-2].marker:
                assert used == sum(1 << n for n in self.stripes[-2].used)

    def judge(self, stripe, masks):
        counts, at = self.counts(), len(self.stripes)
        grown = [n for n in range(KINDS) if counts[n] != self.before[n]]
        self.before = counts
        if grown:
            assert len(grown) == 1 and any(masks), f"{[FaultKind(n) for n in grown]} counted; {masks}"
            kind = FaultKind(grown[0])
            self.seen[kind.value] += 1
            self.taken.update(judge(kind, stripe, masks))
            if kind in (FaultKind.Lane, FaultKind.Cut):
                noisy = {n for n, mask in enumerate(masks) if mask}
                assert len(noisy) == (1 if kind == FaultKind.Lane else len(masks)), f"{kind}: lanes {noisy}"
                # Begun, last cycle so far, kind, lanes.
                self.lasted[at] = [at, kind, noisy]
                self.current = self.lasted[at]
        else:
            last, kind, noisy = self.current
            assert last == at - 1 and {n for n, mask in enumerate(masks) if mask} == noisy, f"{masks} in {stripe}"
            judge(kind, stripe, masks)
            self.current[0] = at

    async def finish(self):
        """Whatever is under way comes out: all was counted, and the stream was followed."""
        self.dut.kinds.value = 0
        await self.go(LATENCY + 2, change=False)
        assert self.counts() == self.seen and int(self.dut.faults.value) == sum(self.seen)
        assert self.follower.broken <= self.renewed
        assert not int(self.dut.differs.value)


@cocotb.test()
async def faults_refuse_what_they_are_not_for(dut):
    for lanes, seed, name in ((3, 1, "lanes"), (1, -1, "seed"), (1, 2**32, "seed")):
        try:
            Faults(lanes, seed)
        except ValueError as error:
            assert str(error).startswith(f"{name} is {seed if name == 'seed' else lanes}; ")
        else:
            raise AssertionError(f"{lanes} lanes, seed {seed}")


@cocotb.test()
async def faults_none_at_rate_0(dut):
    """What leaves is what came, :data:`LATENCY` cycles later; and none at any rate without a kind."""
    bench = SentBench(dut, DUTS)
    for kinds, rate in ((FaultKind, 0), ((), ALL_RATE)):
        await bench.start(kinds, rate)
        await bench.go(500)
        assert bench.differing == 0 and not any(bench.counts())
        await bench.finish()
        assert bench.follower.packets > 30


@cocotb.test()
@cocotb.parametrize(kind=[kind for kind in FaultKind if kind not in (FaultKind.Lane, FaultKind.Cut)])
async def faults_of_a_kind_are_where_it_says(dut, kind):
    """Nowhere else, and at all places."""
    bench = SentBench(dut, DUTS)
    lanes = bench.component.lanes
    await bench.start([kind], ALL_RATE)
    expected = choices(kind, lanes)
    for _ in range(30):
        await bench.go(200)
        if expected <= set(bench.taken):
            break
    await bench.finish()
    missing = expected - set(bench.taken)
    cocotb.log.info(f"{kind}: {sum(bench.seen)} faults in {len(bench.stripes)} cycles, {len(missing)} missing")
    assert not missing, f"{kind}: {sum(bench.seen)} faults, none at {sorted(missing, key=str)}"


@cocotb.test()
@cocotb.parametrize(kind=[FaultKind.Line, FaultKind.Form, FaultKind.Head])
async def faults_take_all_places_alike(dut, kind):
    """Of what a stripe has of a kind, and of a place's bits."""
    bench = SentBench(dut, DUTS)
    await bench.start([kind], ALL_RATE)
    await bench.go(1500, change=False)
    await bench.finish()
    total = sum(bench.seen)
    roles = {FaultKind.Line: [("line", 32)], FaultKind.Form: [("first", 10)], FaultKind.Head: [("second", 32)]}[kind]
    for role, size in roles:
        hits = [bench.taken[role, bit] for bit in range(size)]
        mean = sum(hits) / size
        assert max(abs(hit - mean) for hit in hits) < 5 * mean**0.5, f"{role}: {hits}"
    counts = [bench.taken["count", n] / total for n in (1, 2, 3)]
    # Of two or three drawn, some are the same.
    assert min(counts) > 0.2, f"{counts}"
    if kind == FaultKind.Line:
        lanes = [bench.taken["lane", n] for n in range(bench.component.lanes)]
        words = [bench.taken["word", n] for n in range(8)]
        for hits in (lanes, words):
            mean = sum(hits) / len(hits)
            assert max(abs(hit - mean) for hit in hits) < 0.35 * mean, f"{hits}"


@cocotb.test()
@cocotb.parametrize(kind=[FaultKind.Lane, FaultKind.Cut], most=[0, 12])
async def faults_last(dut, kind, most):
    """From one cycle to as many as is said; no others meanwhile."""
    bench = SentBench(dut, DUTS)
    await bench.start([kind, FaultKind.Block], 2**30, **{f"{kind.name.lower()}_cycles": most})
    await bench.go(800)
    bench.dut.kinds.value = 1 << FaultKind.Block.value
    await bench.finish()
    lasted = Counter(last - first + 1 for first, (last, _, _) in bench.lasted.items())
    assert all(of == kind for _, of, _ in bench.lasted.values()) and len(bench.lasted) == bench.seen[kind.value]
    # The last one may be cut short.
    assert set(lasted) == set(range(1, max(most, 1) + 1)), f"{lasted}"
    if kind == FaultKind.Lane:
        assert {n for _, _, noisy in bench.lasted.values() for n in noisy} == set(range(bench.component.lanes))
    assert bench.seen[FaultKind.Block.value] > 15


@cocotb.test()
@cocotb.parametrize(rate=[1 / 4, 1 / 40])
async def faults_are_as_many_as_was_asked(dut, rate):
    """A block that is noise waits for nothing."""
    bench = SentBench(dut, DUTS)
    await bench.start([FaultKind.Block], round(rate * 2**32))
    cycles = 5000
    await bench.cycles(cycles)
    await ReadOnly()
    expected, come = cycles * rate, int(dut.faults.value)
    await RisingEdge(dut.clk)
    assert abs(come - expected) < 4 * expected**0.5, f"{come} faults, {expected:.0f} expected"


@cocotb.test()
async def faults_of_all_kinds_come_alike(dut):
    """Few are due of a kind that waits already, where markers are dense."""
    bench = SentBench(dut, DUTS)
    await bench.start(FaultKind, 2**32 // 12, lane_cycles=4, cut_cycles=4)
    await bench.go(3000)
    await bench.finish()
    mean = sum(bench.seen) / KINDS
    assert max(abs(seen - mean) for seen in bench.seen) < 4 * mean**0.5, f"{bench.seen}"


@cocotb.test()
async def faults_end_when_their_kind_is_taken_out(dut):
    """One that waits for a marker far away; a lane that is noise for long."""
    bench = SentBench(dut, DUTS)
    await bench.start([FaultKind.Marker], ALL_RATE)
    dut.dense.value = 0
    await bench.go(100, change=False)
    before = bench.seen[FaultKind.Marker.value]
    for kinds in ([FaultKind.Lane], [FaultKind.Cut], [FaultKind.Form]):
        dut.kinds.value = sum(1 << kind.value for kind in kinds)
        dut.lane_cycles.value = dut.cut_cycles.value = 0xFFFF
        await bench.go(60, change=False)
    assert bench.seen[FaultKind.Form.value] > 3
    assert [bench.seen[kind.value] for kind in (FaultKind.Marker, FaultKind.Lane, FaultKind.Cut)] == [before, 1, 1]
    await bench.finish()


def numbers(bits, size):
    return [bits >> 32 * n & 0xFFFFFFFF for n in range(size)]


@cocotb.test()
@cocotb.parametrize(case=[(1 / 30, 16), (1 / 100, 2)])
async def links_bring_all_once_and_in_order(dut, case):
    """With faults of all kinds that last no longer than a block, to the end."""
    bench = Bench(dut, DUTS)
    rate, load = case
    kinds = [kind for kind in FaultKind if kind not in (FaultKind.Lane, FaultKind.Cut)]
    ways = ("there", "back")
    dut.rate.value, dut.kinds.value = 0, sum(1 << kind.value for kind in kinds)
    dut.lane_cycles.value = dut.cut_cycles.value = 0
    dut.there_go.value = dut.back_go.value = 0
    dut.load.value = load
    await bench.reset()
    for _ in range(100):
        await bench.cycles(100)
        if all(int(getattr(dut, f"{way}_state").value) == LinkState.Active.value for way in ways):
            break
    dut.rate.value = round(rate * 2**32)
    dut.there_go.value = dut.back_go.value = 0x3F
    began = bench.now()
    await bench.cycles(1500)
    dut.there_go.value = dut.back_go.value = 0
    for _ in range(300):
        await bench.cycles(100)
        sent = [numbers(getattr(dut, f"{way}_sent").value.to_unsigned(), CLASSES) for way in ways]
        come = [numbers(getattr(dut, f"{way}_come").value.to_unsigned(), 3 * CLASSES) for way in ways]
        if [totals[::3] for totals in come] == sent:
            break
    counts = [unpack(LinkCounts, getattr(dut, f"{way}_counts").value.to_unsigned()) for way in ways]
    faults = numbers(dut.counts.value.to_unsigned(), KINDS)
    cocotb.log.info(f"{bench.now() - began} cycles, faults {faults}, sent {sent}")
    for way, one in zip(ways, counts):
        cocotb.log.info(f"{way}: { ({name: getattr(one, name) for name, _ in one.shape() if name != 'stalls'}) }")
    assert [totals[::3] for totals in come] == sent, f"sent {sent}, come {come}"
    assert not any(wrong for totals in come for wrong in totals[2::3]), f"wrong parts: {come}"
    assert all(one.sessions == 0 for one in counts) and counts[0].again and counts[1].wrong
    assert min(sent[0] + sent[1]) > 0
    # A rare fault leaves some kinds out in so short a time.
    assert rate < 1 / 30 or all(faults[kind.value] for kind in kinds), f"{faults}"
