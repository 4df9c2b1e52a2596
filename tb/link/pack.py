"""Testbench of hw/link/pack.py."""

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.pack import UNALIGNED, Packer
from tessera.tb.bench import Bench, Dut, pack
from tessera.tb.link.model import FILL_WORD, Packet, blocks_of, is_filling, words_in

# With four lanes, `used` changes while a stripe is offered, too.
DUTS = {f"lanes{lanes}": Dut(lambda lanes=lanes: Packer(lanes), watched=lanes < 4) for lanes in (1, 2, 4)}


class Stripes:
    """Takes stripes from a packer from its making on; those taken so far, of the lanes in use, are ``taken``.

    Parameters
    ----------
    stall
        Probability of not taking one in a cycle.
    change
        Probability of another number of lanes.
    """

    def __init__(self, bench, used, stall=0.0, change=0.0):
        self.bench, self.used, self.stall, self.change = bench, used, stall, change
        self.taken = []
        self.parts = self.cycles = 0
        self.stop = cocotb.start_soon(self._run()).cancel

    async def _run(self):
        bench = self.bench
        random, lanes = bench.random, bench.component.lanes
        used = 1
        while True:
            ready = random.random() >= self.stall
            told = random.choice([0, used])
            if ready or lanes == 4:
                if random.random() < self.change:
                    self.used = random.choice([n for n in (1, 2, 4) if n <= lanes])
                told = random.choice([0, self.used]) if self.change else self.used
            bench.dut.used.value = told
            bench.port("o.ready").value = ready
            await ReadOnly()
            assert bench.get("o.valid")
            self.cycles += 1
            self.parts += bench.get("i.valid") and bench.get("i.ready")
            if ready:
                self.taken.append(blocks_of(bench.get("o.payload"), used))
            used = told or used
            await RisingEdge(bench.dut.clk)


class Rules:
    """What the docstring says a packer offers and takes, cycle by cycle."""

    def __init__(self, lanes):
        self.lanes = lanes
        self.words = []
        """Those held, each with whether it is a packet's first."""
        self.used, self.ended, self.unaligned = 1, True, 0
        self.held = self.quiet = False

    def offers(self, valid):
        """The blocks offered, of the lanes in use, and whether a part can come with them when they are taken."""
        self.quiet = self.quiet if self.held else not valid
        size = 8 * self.used
        due = self.ended and self.unaligned == UNALIGNED
        full = len(self.words) >= size
        shown = full or due or (self.ended and self.quiet)
        self.leaving = size if full else len(self.words) if shown else 0
        stripe = self.words[: self.leaving]
        stripe += [(FILL_WORD, True)] * (size - len(stripe))
        blocks = [(int(stripe[n][1]), [word for word, _ in stripe[n : n + 8]]) for n in range(0, size, 8)]
        self.padded = shown and not full
        held = 3 if self.lanes == 1 else 2
        return blocks, len(self.words) < held * size and not due

    def clock(self, ready, part, used):
        """A cycle ends in which the stripe was taken or not, and perhaps a part: first, last, words."""
        self.held = not ready
        if ready:
            del self.words[: self.leaving]
            self.unaligned = 0 if self.padded else self.unaligned
        if part:
            first, self.ended, words = part
            if first:
                self.unaligned = min(self.unaligned + 1, UNALIGNED) if len(self.words) % 8 else 0
            self.words += [(word, first and n == 0) for n, word in enumerate(words)]
        self.used = used or self.used


def words_of(packets):
    """Of each part of `packets`: first, last, and its words."""
    for packet in packets:
        head, words = packet.words[: 2 + (packet.body is not None)], packet.words[2 + (packet.body is not None) :]
        count = max(1, len(packet.lines))
        for n in range(count):
            own = head * (n == 0) + words[16 * n : 16 * n + 16 + (n == count - 1)]
            yield n == 0, n == count - 1, own


def packets_of(random, count, lines=range(9)):
    return [Packet.random(random, random.choice(lines), random.random() < 0.5) for _ in range(count)]


def parts_of(packets):
    return [part for packet in packets for part in packet.part_words()]


def partly_filled(stripes):
    """How many stripes hold words and filling."""
    return sum(blocks[-1][1][-1] == FILL_WORD and not is_filling(blocks) for blocks in stripes)


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.3, 0.8], stall_out=[0.0, 0.5], change=[0.0, 0.1])
async def words_are_in_order_and_fill_only_ends(dut, stall_in, stall_out, change):
    bench = Bench(dut, DUTS)
    lanes = bench.component.lanes
    if change and lanes == 1:
        return
    for used in [n for n in (1, 2, 4) if n <= lanes]:
        dut.used.value = 0
        await bench.reset()
        stripes = Stripes(bench, used, stall_out, change)
        await bench.cycles(3)
        packets = packets_of(bench.random, 60, bench.random.choice([range(9), range(2), [0]]))
        packets += packets_of(bench.random, 30)
        await bench.within(20_000, bench.send("i", parts_of(packets), stall_in))
        await bench.cycles(40)
        expected = [word for packet in packets for word in packet.words]
        assert words_in(stripes.taken) == expected
        # Each stripe that is partly filled has a cycle without a part.
        assert partly_filled(stripes.taken) + stripes.parts <= stripes.cycles
        assert is_filling(stripes.taken[-1])
        stripes.stop()


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.8], change=[0.0, 0.05])
async def each_stripe_is_as_the_rules_say(dut, stall, change):
    """And a part is taken when they say; in stretches of short, long and any packets, with many or no pauses."""
    bench = Bench(dut, DUTS)
    random, lanes = bench.random, bench.component.lanes
    if change and lanes == 1:
        return
    packets = []
    for lines in ([0], [1], [4], [8], range(9), [0, 1]):
        packets += packets_of(random, 25, lines)

    def used(ready, at):
        # While a stripe waits it stays the same on one lane and two.
        may = ready or lanes == 4
        return random.choice([n for n in (1, 2, 4) if n <= lanes]) if may and random.random() < change else 0

    await follow(bench, packets, stall, used)


@cocotb.test()
async def nothing_is_lost_when_stripes_become_shorter(dut):
    """With as many words held as can be."""
    bench = Bench(dut, DUTS)
    lanes = bench.component.lanes
    if lanes != 4:
        return
    for _ in range(10):
        packets = [Packet.random(bench.random, 0, body) for body in (False, *[True] * 7)]
        packets.append(Packet.random(bench.random, 1, True))
        await follow(bench, packets, 0.0, lambda ready, at: 1 if at == 8 else 0, pauses=False)


async def follow(bench, packets, stall, used, pauses=True):
    """Send packets, looking at all that is offered and taken; `used` says it, given ready, and parts taken so far."""
    dut, random = bench.dut, bench.random
    dut.used.value = 0
    await bench.reset()
    rules, shape = Rules(bench.component.lanes), bench.shape("i")
    parts, words = parts_of(packets), list(words_of(packets))
    assert len(parts) == len(words)
    at, offered, pausing = 0, False, 0.0
    for cycle in range(20_000):
        if pauses and random.random() < 0.05:
            pausing = random.choice([0.0, 0.0, 0.2, 0.7])
        offered = offered or (cycle > 0 and at < len(parts) and random.random() >= pausing)
        dut.i__valid.value = offered
        if offered:
            dut.i__payload.value = pack(shape, parts[at])
        ready = random.random() >= stall
        told = used(ready, at) if cycle else bench.component.lanes
        dut.used.value, bench.port("o.ready").value = told, ready
        await ReadOnly()
        blocks, takes = rules.offers(offered)
        found = blocks_of(bench.get("o.payload"), rules.used)
        assert found == blocks, f"cycle {cycle}, part {at}: {found} offered, {blocks} expected"
        assert bench.get("i.ready") == (ready and takes), f"cycle {cycle}, part {at}: {len(rules.words)} words held"
        taken = ready and takes and offered
        rules.clock(ready, words[at] if taken else None, told)
        at += taken
        offered = offered and not taken
        await RisingEdge(dut.clk)
        if at == len(parts) and not rules.words:
            break
    assert at == len(parts) and not rules.words, f"{at} of {len(parts)} parts taken"


@cocotb.test()
async def full_supply_leaves_no_filling(dut):
    bench = Bench(dut, DUTS)
    for used in [n for n in (1, 2) if n <= bench.component.lanes]:
        dut.used.value = 0
        await bench.reset()
        stripes = Stripes(bench, used)
        await bench.cycles(3)
        stripes.taken.clear()
        packets = [Packet.random(bench.random, 4, False) for _ in range(80)]
        await bench.within(2_000, bench.send("i", parts_of(packets)))
        stripes.stop()
        full = 80 * 67 // (8 * used) - 5
        while is_filling(stripes.taken[0]):
            del stripes.taken[0]
        assert (
            words_in(stripes.taken[:full]) == [word for packet in packets for word in packet.words][: 8 * used * full]
        )


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def a_packet_begins_with_a_block_now_and_then(dut, stall):
    """Of packets whose lengths alone would never lead there; no part is taken in the cycle in which that is made so."""
    bench = Bench(dut, DUTS)
    for lines in (0, 4):
        dut.used.value = 0
        await bench.reset()
        stripes = Stripes(bench, bench.component.lanes, stall)
        await bench.cycles(3)
        packets = [Packet.random(bench.random, lines, body) for body in (False, *[True] * 100)]
        await bench.within(10_000, bench.send("i", parts_of(packets), stall))
        await bench.cycles(10)
        stripes.stop()
        assert words_in(stripes.taken) == [word for packet in packets for word in packet.words]
        # What is left amid a stripe is never taken for a packet's first word.
        flat = [word for blocks in stripes.taken if not is_filling(blocks) for _, words in blocks for word in words]
        at, unaligned, most = 0, 0, 0
        for packet in packets:
            while flat[at] == FILL_WORD:
                at += 8 - at % 8
            unaligned = unaligned + 1 if at % 8 else 0
            most = max(most, unaligned)
            at += len(packet.words)
        assert most == UNALIGNED or stall, f"{most} packets in a row that begin within a block"
        assert most <= UNALIGNED
        assert partly_filled(stripes.taken) + stripes.parts <= stripes.cycles


@cocotb.test()
async def four_lanes_take_a_part_per_cycle(dut):
    """Of any kind, but where a packet has to begin in a block's first word; and so do fewer, if no more words come than
    can leave."""
    bench = Bench(dut, DUTS)
    lanes = bench.component.lanes
    for lines in ([0], [8], range(9)) if lanes == 4 else ([0],):
        dut.used.value = 0
        await bench.reset()
        stripes = Stripes(bench, lanes)
        await bench.cycles(3)
        packets = packets_of(bench.random, 60, lines)
        parts = parts_of(packets)
        began = bench.now()
        await bench.within(2_000, bench.send("i", parts))
        assert len(parts) <= bench.now() - began <= len(parts) + len(packets) // UNALIGNED
        await bench.cycles(10)
        stripes.stop()
        assert words_in(stripes.taken) == [word for packet in packets for word in packet.words]


@cocotb.test()
async def a_packet_begins_in_the_stripe_after_it_came(dut):
    bench = Bench(dut, DUTS)
    lanes = bench.component.lanes
    dut.used.value = 0
    await bench.reset()
    stripes = Stripes(bench, lanes)
    await bench.cycles(3)
    for lines, body in ((0, True), (0, False), (1, True)):
        stripes.taken.clear()
        packet = Packet.random(bench.random, lines, body)
        await bench.send("i", parts_of([packet]))
        await bench.cycles(6)
        while is_filling(stripes.taken[-1]):
            del stripes.taken[-1]
        # One is taken in the cycle in which the part is.
        assert len(stripes.taken) == 1 + -(-len(packet.words) // (8 * lanes))
        assert is_filling(stripes.taken[0]) and words_in(stripes.taken) == packet.words
        flat = [word for _, words in stripes.taken[-1] for word in words]
        assert flat[(len(packet.words) - 1) % (8 * lanes) + 1 :] == [FILL_WORD] * (-len(packet.words) % (8 * lanes))
