"""Testbench of hw/link/lane.py."""

import itertools
from dataclasses import astuple, replace

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.block import Marker
from tessera.hw.link.lane import LaneReceiver, LaneSender
from tessera.tb.bench import Bench, Dut, pack
from tessera.tb.link.lane_model import BITS, DENSE, SPARSE, Fields, lane_blocks, marker_bits, read, sequence

SETTLE = 6
DUTS = {
    **{f"sender{lane}": Dut(lambda lane=lane: LaneSender(lane), tests="sender") for lane in (0, 3)},
    "receiver": Dut(lambda: LaneReceiver(SETTLE), tests="receiver"),
    "quick": Dut(lambda: LaneReceiver(1), tests="receiver_(locks|is_as)"),
}
MASK = (1 << BITS) - 1
NAMES = tuple(Fields.__dataclass_fields__)


def some_fields(random, **fixed):
    return replace(Fields(*(random.randrange(n) for n in (4, 16, 16, 2, 16, 16, 256))), **fixed)


@cocotb.test()
async def sender_scrambles_between_markers(dut):
    bench = Bench(dut, DUTS)
    random = bench.random
    await bench.reset()
    lane = bench.component.lane
    keys, expected = sequence(0), None
    for number in range(200):
        marker = number in (0, 1, 2, 60) or random.random() < 0.1
        fields, block = some_fields(random), random.getrandbits(BITS)
        dut.marker.value = int(marker)
        dut.block.value = block
        dut.fields.value = pack(Marker, dict(zip(NAMES, astuple(fields))))
        await ReadOnly()
        assert expected is None or dut.o.value.to_unsigned() == expected, f"block {number - 1}"
        await RisingEdge(dut.clk)
        if marker:
            expected, keys = marker_bits(replace(fields, lane=lane)), sequence(lane)
        else:
            expected = block ^ next(keys)


class Rules:
    """The receiver's rules, a block at a time."""

    def __init__(self, settle):
        self.settle = settle
        self.state, self.left = "look", 18
        self.fields, self.lock = Fields(), None
        self.slip, self.right, self.first = False, False, False
        self.keys = sequence(0)
        self.bad = 0

    @property
    def locked(self):
        return self.state == "locked"

    def see(self, bits):
        """What is given for `bits`: None, or the block, first, right and the fields."""
        right, fields = read(bits)
        self.left -= 1
        given, self.slip = None, False
        due = self.left == 0
        if self.state == "look":
            if right:
                self._start("confirm", fields)
            elif due:
                self.state, self.left, self.slip = "settle", self.settle, True
        elif self.state == "settle":
            if due:
                self.state, self.left = "look", 18
        elif due:
            right = right and fields.lane == self.fields.lane
            self.keys = sequence(self.fields.lane)
            self.right, self.first = right, True
            if right:
                self._start("locked", fields)
                self.bad = 0
            else:
                self.bad += 1
                self.fields = replace(self.fields, number=(self.fields.number + 1) % 256)
                if self.state == "confirm" or self.bad == 4:
                    self.state, self.left = "look", 18
                else:
                    self._start("locked", self.fields)
        elif self.state == "locked":
            given = bits ^ next(self.keys), self.first, self.right, self.fields
            self.first = False
        return given

    def _start(self, state, fields):
        self.state, self.fields = state, fields
        self.left = DENSE if fields.dense else SPARSE


def received(block, first, right, fields):
    """Bits of a ``Received``."""
    return block | first << BITS | right << BITS + 1 | fields.word() << BITS + 2


class Wire:
    """Blocks, one after another from bit `phase` of the first; a slip takes effect `delay` cycles after it is seen, or
    never if that is 0."""

    def __init__(self, blocks, phase, delay):
        self.blocks, self.delay = iter(blocks), delay
        self.held, self.bits = 0, 0
        self.slips = []
        self._drop(phase)

    def _drop(self, count):
        while self.bits < count + BITS:
            self.held |= next(self.blocks) << self.bits
            self.bits += BITS
        self.held >>= count
        self.bits -= count

    def next(self, slip):
        self.slips.append(slip)
        if self.slips[-self.delay :][:1] == [True] and self.delay and len(self.slips) >= self.delay:
            self._drop(1)
        block = self.held & MASK
        self._drop(BITS)
        return block


async def follow(bench, blocks, cycles, phase=0, until=lambda rules: False, deaf=False):
    """Feed `blocks` and compare all outputs with the rules, for so many cycles or until `until` holds; the cycles, and
    what was given."""
    dut, settle = bench.dut, bench.component.settle
    rules, wire = Rules(settle), Wire(blocks, phase, 0 if deaf else settle)
    given, slip = [], False
    dut.i.value = 0
    await bench.reset()
    # What it did in reset's last cycle, with zeros, counts.
    rules.see(0)
    for cycle in range(cycles):
        bits = wire.next(slip)
        dut.i.value = bits
        was_locked, slip = rules.locked, rules.slip
        expected = rules.see(bits)
        await ReadOnly()
        assert bench.get("slip") == slip, f"cycle {cycle}: slip is {not slip}"
        assert bench.get("locked") == was_locked, f"cycle {cycle}: locked is {not was_locked}"
        assert bench.get("valid") == (expected is not None), f"cycle {cycle}: valid"
        if expected is not None:
            found = dut.o.value.to_unsigned()
            assert found == received(*expected), f"cycle {cycle}: expected {expected}, found {found:x}"
            given.append(expected)
        await RisingEdge(dut.clk)
        if until(rules):
            return cycle, given
    return cycles, given


def noise(random):
    while True:
        yield random.getrandbits(BITS)


@cocotb.test()
@cocotb.parametrize(phase=[0, 1, 2, 240, 256])
async def receiver_locks(dut, phase):
    """From any phase; the cycles are those of a search of 18 blocks for each bit, and the time a slip takes."""
    bench = Bench(dut, DUTS)
    random, settle = bench.random, bench.component.settle
    for lane in range(4) if phase > 200 else (random.randrange(4),):
        plain = noise(random)
        sent = lane_blocks(some_fields(random, lane=lane, dense=1), plain)
        slips = -phase % BITS
        most = slips * (18 + settle) + 40
        cycles, _ = await follow(bench, (bits for bits, _, _ in sent), most, phase, lambda rules: rules.locked)
        assert cycles < most, f"phase {phase}, lane {lane}: not locked within {most} cycles"
        assert cycles >= slips * (18 + settle), f"phase {phase}: locked within {cycles} cycles"


@cocotb.test()
async def receiver_gives_what_was_sent(dut):
    """And follows from 16 to 1024 blocks and back."""
    bench = Bench(dut, DUTS)
    distances = iter([DENSE] * 4 + [SPARSE] + [DENSE] * 3 + [SPARSE] * 2 + [DENSE] * 20)
    sent = list(itertools.islice(lane_blocks(some_fields(bench.random, lane=2), noise(bench.random), distances), 3400))
    _, given = await follow(bench, (bits for bits, _, _ in sent), 3390)
    second = next(n for n, (_, fields, _) in enumerate(sent) if fields and n)
    expected, fields, first = [], None, False
    for _, marker, block in sent[second:3390]:
        if marker:
            fields, first = marker, True
        else:
            expected.append((block, first, True, fields))
            first = False
    assert given == expected


@cocotb.test()
@cocotb.parametrize(bad=[3, 4])
async def receiver_loses_the_lane_with_four_bad_markers(dut, bad):
    """With three in a row, never; of which kind they are does not matter."""
    bench = Bench(dut, DUTS)
    random = bench.random
    for kind in ("noise", "bit", "lane"):
        fields = some_fields(random, lane=random.randrange(4), dense=1)
        sent = lane_blocks(fields, noise(random))
        lost = []

        def spoilt():
            for number, (bits, marker, _) in enumerate(sent):
                index = number // DENSE
                if marker and index >= 4 and (index - 4) % (bad + 1) < bad:
                    if kind == "noise":
                        bits = random.getrandbits(BITS)
                    elif kind == "bit":
                        bits ^= 1 << random.randrange(225, 257)
                    else:
                        bits = marker_bits(replace(marker, lane=marker.lane ^ random.randrange(1, 4), number=0))
                yield bits

        def watch(rules):
            lost.append(rules.locked)
            return False

        await follow(bench, spoilt(), 16 * 14, until=watch)
        began = lost.index(True)
        assert all(lost[began:]) == (bad == 3), f"{kind}: {bad} bad ones"
        if bad == 4:
            assert lost.index(False, began) == 7 * DENSE, f"{kind}: lost in cycle {lost.index(False, began)}"


@cocotb.test()
async def receiver_needs_two_markers(dut):
    """One alone, or one of another lane where the second is due, locks nothing."""
    bench = Bench(dut, DUTS)
    random = bench.random
    for kind in ("none", "lane", "late"):
        fields = some_fields(random, lane=1, dense=1)
        second = {"none": random.getrandbits(BITS), "lane": marker_bits(replace(fields, lane=3)), "late": 0}[kind]
        blocks = [marker_bits(fields), *itertools.islice(noise(random), 15), second]
        blocks += [marker_bits(fields)] if kind == "late" else []
        cycles, given = await follow(bench, itertools.chain(blocks, noise(random)), 150)
        assert cycles == 150 and not given


@cocotb.test()
async def receiver_is_as_the_rules_say(dut):
    """Errors of all kinds, lanes that come and go, distances that change while markers are bad."""
    bench = Bench(dut, DUTS)
    random = bench.random

    def sent():
        while True:
            distances = iter(random.choices([DENSE, SPARSE], [30, 1], k=100))
            lane = lane_blocks(some_fields(random), noise(random), distances)
            rate = random.choice([0, 0.2, 0.6, 0.9])
            for bits, marker, _ in itertools.islice(lane, random.randrange(400)):
                if marker and random.random() < rate:
                    bits ^= 1 << random.randrange(BITS) | 1 << random.randrange(BITS) | 1 << random.randrange(BITS)
                yield bits
            yield from itertools.islice(noise(random), random.choice([0, 0, 1, 30]))

    locked = []

    def watch(rules):
        locked.append(rules.state)
        return False

    await follow(bench, sent(), 6000, until=watch, deaf=True)
    steps = set(itertools.pairwise(locked))
    assert {("look", "confirm"), ("confirm", "locked"), ("locked", "look"), ("confirm", "look")} <= steps, steps
