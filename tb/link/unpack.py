"""Testbench of hw/link/unpack.py: a packer, wires that err, an unpacker and a CRC."""

import cocotb
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.lib.streams import connect
from tessera.hw.link.crc import PacketCrc
from tessera.hw.link.pack import Packer
from tessera.hw.link.packet import CheckedPart, PartWords, stripe
from tessera.hw.link.unpack import Unpacker
from tessera.tb.bench import Bench, Dut
from tessera.tb.link.model import FILL_WORD, Packet, blocks_of, crc32c, form_of

BLOCK_BITS = 257
ALL_FILL = sum((1 | sum(FILL_WORD << 1 + 32 * k for k in range(8))) << BLOCK_BITS * n for n in range(4))
"""Four lanes with nothing but filling."""


class Wires(wiring.Component):
    """A packer, wires and an unpacker with a CRC; both ends change ``used`` together.

    In each cycle with ``go`` a stripe moves, if the unpacker has room, and ``moved`` says so; bits of it that are set
    in ``flips`` arrive wrong. ``stripe`` is the stripe as sent, nothing but filling if ``idle``, ``lanes`` how many of
    its lanes are in use.
    """

    def __init__(self, lanes):
        self.most = lanes
        super().__init__(
            {
                "used": In(range(lanes + 1)),
                "i": In(stream.Signature(PartWords)),
                "o": Out(stream.Signature(CheckedPart)),
                "go": In(1),
                "flips": In(BLOCK_BITS * lanes),
                "moved": Out(1),
                "stripe": Out(stripe(lanes)),
                "idle": Out(1),
                "lanes": Out(range(lanes + 1), init=1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.packer = packer = Packer(self.most)
        m.submodules.unpacker = unpacker = Unpacker(self.most)
        m.submodules.crc = crc = PacketCrc()
        connect(m, self.i, packer.i)
        connect(m, unpacker.o, crc.i)
        connect(m, crc.o, self.o)
        flipped = Signal(stripe(self.most))
        m.d.comb += [
            flipped.as_value().eq(packer.o.payload.as_value() ^ self.flips),
            packer.used.eq(self.used),
            unpacker.used.eq(self.lanes),
            unpacker.i.payload.eq(flipped),
            unpacker.i.valid.eq(packer.o.valid & self.go),
            packer.o.ready.eq(unpacker.i.ready & self.go),
            self.moved.eq(packer.o.ready),
            self.stripe.eq(packer.o.payload),
            self.idle.eq(packer.o.payload.as_value() == ALL_FILL >> (BLOCK_BITS * (4 - self.most))),
        ]
        with m.If(self.used.any()):
            m.d.sync += self.lanes.eq(self.used)
        return m


DUTS = {f"lanes{lanes}": Dut(lambda lanes=lanes: Wires(lanes), stalls=lanes == 2) for lanes in (1, 2, 4)}

FORMS = {form_of(lines, body): (lines, body) for lines in range(16) for body in range(2)}
NEAR = FORMS | {code ^ 1 << bit: form for code, form in FORMS.items() for bit in range(10)}
"""The form that each code is, with a wrong bit corrected."""
FILLING = 15, 1


def content(words):
    return b"".join(word.to_bytes(4, "little") for word in words)


class Chain:
    """What an unpacker with a CRC makes of stripes: `seen` of each part."""

    def __init__(self, stripes):
        self.parts = []
        self.losses = 0
        self.blocks = []
        """`start`, words, and how many blocks of the stripe are behind."""
        for blocks in stripes:
            start, words = blocks[0]
            if not start or NEAR.get(words[0] & 0x3FF) != FILLING:
                self.blocks += [(*block, len(blocks) - 1 - n) for n, block in enumerate(blocks)]
        self.packet = []
        self._follow()

    def _follow(self):
        blocks, block, place, left, doubted = self.blocks, 0, 0, 0, False
        lost = True
        while block < len(blocks):
            start, words, behind = blocks[block]
            if lost:
                lost = not start
                block, place = block + lost, 0
                continue
            first, lines, body, fill = left == 0, left, 0, False
            if first:
                lines, body = NEAR.get(words[place] & 0x3FF, (9, 0))
                fill = (lines, body) == FILLING
                if lines > 8 and not fill:
                    block, place, doubted, lost = block + 1, 0, False, True
                    self.losses += 1
                    continue
            size = (2 + body if first else 0) + 16 * (lines > 0) + (lines < 2)
            end = 8 * (1 + behind) if fill else place + size
            if end > 8 * (len(blocks) - block):
                break
            inside = [blocks[block + n][0] for n in range(1, 4) if 8 * n < end and not fill]
            contradicted = any(inside) or (place == 0 and start != first)
            agreed = place == 0 and start and first
            if not fill:
                flat = [word for one in blocks[block : block + 4] for word in one[1]]
                self._give(flat[place:end], first, body, lines)
                left = max(lines - 1, 0)
            lost = contradicted and doubted and not agreed
            doubted = contradicted or (doubted and not agreed)
            block, place = block + end // 8, end % 8
            if lost:
                left = 0
                self.losses += 1

    def _give(self, words, first, body, lines):
        last = lines < 2
        crc = words.pop() if last else None
        self.packet = words if first else self.packet + words
        if last:
            crc ^= crc32c(content(self.packet))
        self.parts.append((first, last, body if first else None, lines > 0, content(words), crc))


def seen(one):
    """What means something in a part: first, last, has_body, has_line, its words, and how its CRC is wrong."""
    part = one.part
    words = part.head.as_bits().to_bytes(8, "little") if part.first else b""
    words += part.body.to_bytes(4, "little") if part.first and part.has_body else b""
    words += part.line.to_bytes(64, "little") if part.has_line else b""
    return (
        part.first,
        part.last,
        part.has_body if part.first else None,
        part.has_line,
        words,
        one.crc if part.last else None,
    )


def whole(parts):
    """The packets in `parts` that have the right CRC: bytes."""
    packets, packet = [], None
    for first, last, _, _, words, crc in parts:
        assert first or packet is not None, "a packet without a first part"
        packet = words if first else packet + words
        if last:
            packets += [packet] if crc == 0 else []
            packet = None
    return packets


class Route:
    """Moves stripes, all with a part in `o` taken, and keeps what moved: `sent`, `arrived` and `parts`.

    Parameters
    ----------
    wrong
        Given a stripe's blocks, the bits of it that arrive wrong: (block, bit). With it, each stripe is looked at in
        one cycle and moves in the next.
    pause
        Probability that none moves in a cycle.
    change
        Probability of another number of lanes.
    """

    def __init__(self, bench, used, wrong=None, pause=0.0, change=0.0, stall_out=0.0):
        self.bench, self.wrong, self.pause, self.change, self.used = bench, wrong, pause, change, used
        self.sent, self.arrived, self.flips, self.parts, self.when = [], [], [], [], []
        self.refused = 0
        self.tasks = [cocotb.start_soon(self._move()), cocotb.start_soon(self._take(stall_out))]

    def stop(self):
        for task in self.tasks:
            task.cancel()

    async def _take(self, stall):
        while True:
            got = await self.bench.receive("o", 1, stall)
            self.parts.append((self.bench.now(), seen(got[0])))

    async def _move(self):
        bench, dut = self.bench, self.bench.dut
        random, most = bench.random, bench.component.most
        flips, go = [], False
        while True:
            # What is wrong was chosen for the stripe as it is.
            if (self.wrong is None or go) and random.random() < self.change:
                self.used = random.choice([n for n in (1, 2, 4) if n <= most])
            dut.used.value = self.used
            dut.go.value = go
            dut.flips.value = sum(1 << BLOCK_BITS * block + bit for block, bit in flips)
            await ReadOnly()
            lanes, moved = bench.get("lanes"), bench.get("moved")
            bits = ALL_FILL if bench.get("idle") else bench.get("stripe")
            blocks = blocks_of(bits, lanes)
            if moved:
                self.sent.append(blocks)
                self.arrived.append(blocks_of(bits ^ bench.get("flips"), lanes) if flips else blocks)
                self.flips.append(flips)
                self.when.append(bench.now())
            self.refused += go and not moved
            await RisingEdge(dut.clk)
            if self.wrong is None:
                go = random.random() >= self.pause
            elif go and moved:
                go, flips = False, []
            elif not go:
                go, flips = True, self.wrong(blocks)


def places_of(stripes):
    """For each packet in `stripes`, the places of its words: stripe and word."""
    packets, left = [], 0
    for number, blocks in enumerate(stripes):
        if blocks[0][0] and blocks[0][1][0] == FILL_WORD:
            continue
        for place, word in enumerate(word for _, words in blocks for word in words):
            if left == 0:
                if word == FILL_WORD:
                    break
                lines, body = FORMS[word & 0x3FF]
                left = 3 + body + 16 * lines
                packets.append([])
            packets[-1].append((number, place))
            left -= 1
    return packets


def traffic(random, count):
    """Packets of all forms, in runs of alike ones."""
    packets = []
    while len(packets) < count:
        lines = random.choice([range(9), [0], [1], [0, 0, 1, 2], [4], [8]])
        bodies = random.choice([[False], [True], [False, True]])
        for _ in range(random.randint(1, 15)):
            packets.append(Packet.random(random, random.choice(lines), random.choice(bodies)))
    return packets


def parts_of(packets):
    return [part for packet in packets for part in packet.part_words()]


def idling(random):
    """Idle cycles before parts: in stretches with none, few or many."""
    chance = [0.0]

    def gaps():
        if random.random() < 0.05:
            chance[0] = random.choice([0.0, 0.0, 0.1, 0.5])
        return random.randint(1, 5) if random.random() < chance[0] else 0

    return gaps


def used_of(bench):
    return [n for n in (1, 2, 4) if n <= bench.component.most]


async def run(bench, route, packets):
    """Send `packets` and wait for all that comes; what was sent, and what came well."""
    parts = parts_of(packets)
    await bench.within(1000 + 40 * len(parts), bench.send("i", parts, gaps=idling(bench.random)))
    route.wrong = route.wrong and (lambda blocks: [])
    seen_before = -1
    while len(route.parts) != seen_before:
        seen_before = len(route.parts)
        await bench.cycles(100)
    route.stop()
    found, expected = [part for _, part in route.parts], Chain(route.arrived).parts
    for n, (one, right) in enumerate(zip(found, expected)):
        assert one == right, f"part {n}: {right} expected, {one} found"
    assert len(found) == len(expected)
    sent = [packet.content for packet in packets]
    return sent, whole(found)


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.4], stall_out=[0.0, 0.4], change=[0.0, 0.1])
async def packets_come_as_they_went(dut, pause, stall_out, change):
    bench = Bench(dut, DUTS)
    if change and bench.component.most == 1:
        return
    for used in used_of(bench):
        dut.flips.value = dut.go.value = 0
        await bench.reset()
        route = Route(bench, used, None, pause, change, stall_out)
        packets = traffic(bench.random, 40)
        if stall_out:
            # So long ones that the blocks of each are held by themselves.
            packets += [Packet.random(bench.random, 2, body) for body in [False, True] * 40]
        sent, come = await run(bench, route, packets)
        assert come == sent
        assert len([part for _, part in route.parts]) == sum(max(1, len(content) // 64) for content in sent)


@cocotb.test()
async def a_stripe_can_move_in_each_cycle(dut):
    """Or in all but those of markers."""
    bench = Bench(dut, DUTS)
    if bench.stalled:
        return
    for used in used_of(bench):
        for pause in (0.0, 0.06):
            dut.flips.value = dut.go.value = 0
            await bench.reset()
            route = Route(bench, used, None, pause)
            sent, come = await run(bench, route, traffic(bench.random, 120))
            assert come == sent
            assert route.refused == 0


@cocotb.test()
async def a_part_comes_when_its_last_stripe_has(dut):
    bench = Bench(dut, DUTS)
    if bench.stalled:
        return
    for used in used_of(bench):
        dut.flips.value = dut.go.value = 0
        await bench.reset()
        route = Route(bench, used)
        await bench.cycles(5)
        for n, (lines, body) in enumerate([(0, False), (0, False), (0, True), (1, False), (1, True)]):
            route.parts.clear()
            first = len(route.sent)
            await bench.send("i", parts_of([Packet.random(bench.random, lines, body)]))
            await bench.cycles(20)
            (packet,) = places_of(route.sent[first:])
            taken, _ = route.parts[0]
            # Two cycles are the CRC's, and it is seen after the edge that ends the last. The first one is looked for.
            latency = taken - route.when[first + packet[-1][0]] - 3
            assert latency == (3 if bench.component.most == 1 else 4) + (n == 0), f"{used} lanes, packet {n}"
        route.stop()


@cocotb.test()
async def a_wrong_bit_in_a_word_costs_one_packet(dut):
    bench = Bench(dut, DUTS)
    random = bench.random

    def wrong(blocks):
        if random.random() > 0.3:
            return []
        words = [(n, k) for n, (_, words) in enumerate(blocks) for k in range(8)]
        heads = [(n, k) for n, k in words if blocks[n][1][k] & 0x3FF in FORMS]
        block, word = random.choice(heads if heads and random.random() < 0.5 else words)
        return [(block, 1 + 32 * word + random.choice([random.randrange(10), random.randrange(32)]))]

    for used in used_of(bench):
        dut.flips.value = dut.go.value = 0
        await bench.reset()
        route = Route(bench, used, wrong)
        sent, come = await run(bench, route, traffic(random, 150))
        flipped = {(n, 8 * b + (bit - 1) // 32) for n, flips in enumerate(route.flips) for b, bit in flips}
        places = places_of(route.sent)
        assert len(places) == len(sent)
        assert come == [packet for packet, where in zip(sent, places) if not flipped & set(where)]
        assert 0 < len(come) < len(sent)


@cocotb.test()
@cocotb.parametrize(short=[False, True])
async def a_wrong_start_costs_nothing(dut, short):
    """Not even where packets end with blocks, as short ones do, and others begin behind them."""
    bench = Bench(dut, DUTS)
    random = bench.random
    agreed = True

    def wrong(blocks):
        nonlocal agreed
        filling = blocks[0][0] and blocks[0][1][0] == FILL_WORD
        block = random.randrange(len(blocks))
        if agreed and not filling and random.random() < 0.4 and NEAR.get(blocks[block][1][0] & 0x3FF) != FILLING:
            agreed = False
            return [(block, 0)]
        agreed |= any(start and words[0] != FILL_WORD for start, words in blocks)
        return []

    for used in used_of(bench):
        dut.flips.value = dut.go.value = 0
        await bench.reset()
        agreed = False
        route = Route(bench, used, wrong)
        packets = [Packet.random(random, 0, False) for _ in range(300)] if short else traffic(random, 200)
        sent, come = await run(bench, route, packets)
        assert come == sent
        assert sum(map(len, route.flips)) > 8


@cocotb.test()
@cocotb.parametrize(change=[0.0, 0.05])
async def after_bursts_all_is_well_again(dut, change):
    """Nothing wrong is taken for right, and all comes from the third packet on that begins with a block."""
    bench = Bench(dut, DUTS)
    if change and bench.component.most == 1:
        return
    random = bench.random
    burst, rest = 0, 40

    def wrong(blocks):
        nonlocal burst, rest
        rest -= 1
        if rest == 0:
            burst, rest = random.randint(1, 4), random.choice([20, 60, 120])
        if not burst:
            return []
        burst -= 1
        starts = [(random.randrange(len(blocks)), 0)] * random.randint(0, 1)
        flips = [(random.randrange(len(blocks)), random.randrange(BLOCK_BITS)) for _ in range(random.choice([0, 1, 9]))]
        # Two wrong bits of a form are what no one corrects.
        heads = [(n, k) for n, (_, words) in enumerate(blocks) for k in range(8) if words[k] & 0x3FF in FORMS]
        n, k = random.choice(heads or [(0, 0)])
        forms = [(n, 1 + 32 * k + bit) for bit in random.sample(range(10), random.choice([0, 2, 2, 3]))]
        return list(set(starts + flips + forms))

    losses = 0
    for used in used_of(bench):
        dut.flips.value = dut.go.value = 0
        await bench.reset()
        route = Route(bench, used, wrong, 0.0, change)
        sent, come = await run(bench, route, traffic(random, 250))
        left = iter(sent)
        assert all(packet in left for packet in come), "something came that was not sent"
        losses += Chain(route.arrived).losses
        before = [0]
        for blocks in route.sent:
            before.append(before[-1] + len(blocks))
        flipped = [before[n] + block for n, flips in enumerate(route.flips) for block, _ in flips]
        spans = [[before[stripe] + place // 8 for stripe, place in where] for where in places_of(route.sent)]
        starts = [span[0] for span, where in zip(spans, places_of(route.sent)) if where[0][1] % 8 == 0]
        arrived = iter(come)
        got = next(arrived, None)
        due = 0
        for packet, span in zip(sent, spans):
            last_wrong = max((block for block in flipped if block <= span[-1]), default=-1)
            # Starts that no two of are in the same part.
            since = []
            for start in starts:
                if last_wrong < start <= span[0] and (not since or start >= since[-1] + 4):
                    since.append(start)
            if got == packet:
                got = next(arrived, None)
            else:
                assert len(since) < 3, "a packet that was well is missing"
            due += len(since) >= 3
        assert due > 40
    assert losses > 5


@cocotb.test()
@cocotb.parametrize(stall_out=[0.0, 0.8], change=[0.0, 0.1])
async def any_words_are_as_the_rules_say(dut, stall_out, change):
    """Blocks of forms that are right, nearly right or bad, of filling and of noise, with starts anywhere."""
    bench = Bench(dut, DUTS)
    if change and bench.component.most == 1:
        return
    random = bench.random
    short = [code for code, (lines, _) in FORMS.items() if lines < 2]
    bad = [code for code in range(1 << 10) if NEAR.get(code, (9, 0))[0] > 8 and NEAR.get(code) != FILLING]
    codes = short, short, short, short, list(FORMS), list(NEAR), bad

    def some_word():
        upper = random.getrandbits(22) << 10
        kind = random.randrange(16)
        form = FILL_WORD if kind == 0 else random.getrandbits(10) if kind == 1 else random.choice(random.choice(codes))
        return form if kind == 0 else upper | form

    def wrong(blocks):
        flips = []
        for n, (_, words) in enumerate(blocks):
            flips += [(n, 0)] if random.random() < 0.5 else []
            for k, word in enumerate(words):
                other = word ^ some_word()
                flips += [(n, 1 + 32 * k + bit) for bit in range(32) if other >> bit & 1]
        return flips

    for used in used_of(bench):
        dut.flips.value = dut.go.value = 0
        await bench.reset()
        route = Route(bench, used, wrong, 0.0, change, stall_out)
        await run(bench, route, traffic(random, 60))
        assert len(route.parts) > 50


@cocotb.test()
async def nothing_waits_for_what_comes_behind(dut):
    """A few packets, at any places of a stripe, and then none for a while."""
    bench = Bench(dut, DUTS)
    random = bench.random
    for used in used_of(bench):
        dut.flips.value = dut.go.value = 0
        await bench.reset()
        route = Route(bench, used)
        due = 0
        for _ in range(40 * used):
            packets = [Packet.random(random, random.choice([0, 0, 1, 2]), random.random() < 0.5) for _ in range(4)]
            parts = parts_of(packets[random.randrange(4) :])
            await bench.send("i", parts)
            await bench.cycles(100 if bench.stalled else 16 + 2 * len(parts))
            due += len(parts)
            assert len(route.parts) == due, f"{len(route.parts)} parts came, {due} sent"
            if bench.stalled:
                continue
            first = len(route.sent)
            await bench.send("i", parts_of([Packet.random(random, 0, False)]))
            await bench.cycles(12)
            (packet,) = places_of(route.sent[first:])
            latency = route.parts[-1][0] - route.when[first + packet[-1][0]] - 3
            assert latency == (3 if bench.component.most == 1 else 4), f"{latency} cycles behind {parts}"
            due += 1
        route.stop()
