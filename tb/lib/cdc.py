"""Testbench of hw/lib/cdc.py, and clocks for all that have two."""

import random as randoms

import cocotb
from cocotb.triggers import ReadOnly, RisingEdge, Timer, with_timeout

from tessera.hw.lib.cdc import AsyncQueue
from tessera.tb.bench import Bench, Dut

WIDTH = 20
DUTS = {
    "depth8": Dut(lambda: AsyncQueue(WIDTH, 8)),
    "depth4": Dut(lambda: AsyncQueue(WIDTH, 4), tests="holds"),
    "depth32": Dut(lambda: AsyncQueue(WIDTH, 32), tests="holds"),
}
PERIOD_PS = 2000

RATIOS = {
    "alike": (1.0, 1.0),
    "writer_faster": (1.0, 1.0003),
    "reader_faster": (1.0003, 1.0),
    "3_to_2": (2.0, 3.0),
    "2_to_3": (3.0, 2.0),
    "1_to_3": (1.0, 3.0),
    "3_to_1": (3.0, 1.0),
}
"""Periods of writing and reading."""


async def tick(clock, period_ps, phase_ps=0.0):
    """A clock of any period, within a picosecond."""
    clock.value = 0
    at, now = phase_ps + period_ps / 2, 0
    while True:
        for value in (1, 0):
            step = round(at) - now
            await Timer(max(step, 1), unit="ps")
            now += max(step, 1)
            clock.value = value
            at += period_ps / 2


class Sides:
    """Both sides of the queue."""

    def __init__(self, dut, periods=(1.0, 1.0), seed=None):
        self.bench = Bench(dut, DUTS)
        self.dut = dut
        self.random = randoms.Random(seed) if seed is not None else self.bench.random
        self.depth = self.bench.component.depth
        self.clocks = [
            cocotb.start_soon(tick(clock, PERIOD_PS * period, self.random.random() * 3 * PERIOD_PS))
            for clock, period in zip((dut.write_clk, dut.read_clk), periods)
        ]
        self.sent, self.got = [], []
        self.stopped = 0

    async def reset(self):
        dut = self.dut
        dut.write_rst.value = dut.read_rst.value = 1
        dut.i__valid.value = dut.o__ready.value = dut.clear.value = 0
        for clock in (dut.write_clk, dut.read_clk):
            for _ in range(3):
                await RisingEdge(clock)
        dut.write_rst.value = dut.read_rst.value = 0
        for _ in range(3):
            await RisingEdge(dut.write_clk)
            await RisingEdge(dut.read_clk)

    async def send(self, count, stall=0.0, first=0):
        dut = self.dut
        for number in range(first, first + count):
            while self.random.random() < stall:
                await RisingEdge(dut.write_clk)
            dut.i__valid.value = 1
            dut.i__payload.value = number * 0x9E37 % (1 << WIDTH)
            while True:
                await ReadOnly()
                taken = int(dut.i__ready.value)
                await RisingEdge(dut.write_clk)
                if taken:
                    break
                self.stopped += 1
            self.sent.append(number)
            dut.i__valid.value = 0

    async def receive(self, count=None, stall=0.0):
        dut = self.dut
        while count is None or len(self.got) < count:
            dut.o__ready.value = ready = int(self.random.random() >= stall)
            await ReadOnly()
            level, there = int(dut.level.value), len(self.sent) - len(self.got)
            assert bool(level) == bool(dut.o__valid.value), f"level is {level}"
            # What was written in the last cycles, and is just being written, may be seen or not.
            assert level <= there + 1, f"level is {level} of {there}"
            if ready and dut.o__valid.value:
                self.got.append(dut.o__payload.value.to_unsigned())
            await RisingEdge(dut.read_clk)
        dut.o__ready.value = 0

    def check(self, first=0):
        expected = [number * 0x9E37 % (1 << WIDTH) for number in range(first, first + len(self.got))]
        assert self.got == expected, next(
            f"item {n}: {b:x} expected, {a:x} found" for n, (a, b) in enumerate(zip(self.got, expected)) if a != b
        )


@cocotb.test()
@cocotb.parametrize(ratio=list(RATIOS), stalls=[(0.0, 0.0), (0.5, 0.1), (0.1, 0.5), (0.7, 0.7)])
async def loses_and_reorders_nothing(dut, ratio, stalls):
    sides = Sides(dut, RATIOS[ratio])
    await sides.reset()
    count = 150
    cocotb.start_soon(sides.send(count, stalls[0]))
    await with_timeout(sides.receive(count, stalls[1]), 50 * count * PERIOD_PS, "ps")
    await sides_idle(sides, 20)
    sides.check()
    if ratio in ("alike", "writer_faster", "reader_faster") and stalls == (0.0, 0.0) and sides.depth >= 8:
        assert sides.stopped <= (ratio == "writer_faster"), f"the writer was stopped {sides.stopped} times"


async def sides_idle(sides, cycles):
    """Nothing more comes."""
    sides.dut.o__ready.value = 1
    for _ in range(cycles):
        await ReadOnly()
        assert not sides.dut.o__valid.value, "more came out than went in"
        await RisingEdge(sides.dut.read_clk)


@cocotb.test()
@cocotb.parametrize(ratio=["alike", "3_to_2", "2_to_3", "1_to_3", "3_to_1"])
async def holds_its_depth_and_wakes_in_two_cycles(dut, ratio):
    for _ in range(4):
        sides = Sides(dut, RATIOS[ratio])
        await sides.reset()
        for round_ in range(3):
            # An item is seen after the second edge of the reader's clock behind the one that wrote it.
            await sides.send(1, first=round_ * sides.depth)
            for edge in range(2):
                await ReadOnly()
                assert not dut.o__valid.value, f"offered after {edge} edges"
                await RisingEdge(dut.read_clk)
            await ReadOnly()
            assert dut.o__valid.value, "not offered after two edges"
            await RisingEdge(dut.write_clk)
            sides.stopped = 0
            await sides.send(sides.depth - 1, first=round_ * sides.depth + 1)
            assert not sides.stopped
            for _ in range(5):
                await ReadOnly()
                assert not dut.i__ready.value, "there is room for more than its depth"
                await RisingEdge(dut.write_clk)
            for _ in range(2):
                await RisingEdge(dut.read_clk)
            await ReadOnly()
            assert int(dut.level.value) == sides.depth
            await RisingEdge(dut.read_clk)
            await sides.receive(len(sides.got) + 1)
            for edge in range(2):
                await ReadOnly()
                assert not dut.i__ready.value, f"room after {edge} edges"
                await RisingEdge(dut.write_clk)
            await ReadOnly()
            assert dut.i__ready.value, "no room after two edges"
            await RisingEdge(dut.read_clk)
            # Twice the depth takes the pointers once around.
            await with_timeout(sides.receive((round_ + 1) * sides.depth), 100 * PERIOD_PS, "ps")
            for _ in range(3):
                await RisingEdge(dut.write_clk)
        sides.check()
        for clock in sides.clocks:
            clock.cancel()


@cocotb.test()
@cocotb.parametrize(ratio=["alike", "1_to_3", "3_to_1", "3_to_2"], how=["write_rst", "read_rst", "clear"])
async def reset_of_each_side_empties_it(dut, ratio, how):
    sides = Sides(dut, RATIOS[ratio])
    random = sides.random
    clock = dut.write_clk if how == "write_rst" else dut.read_clk
    await sides.reset()
    first = 0
    for attempt in range(16):
        sides.got.clear()
        sender = cocotb.start_soon(sides.send(1000, random.choice([0.0, 0.5]), first))
        receiver = cocotb.start_soon(sides.receive(None, random.choice([0.0, 0.5, 1.0])))
        for _ in range(random.randrange(5, 40)):
            await RisingEdge(clock)
        getattr(dut, how).value = 1
        sender.cancel()
        receiver.cancel()
        dut.i__valid.value = random.randrange(2)
        dut.o__ready.value = random.randrange(2)
        sides.check(first)
        for _ in range(random.choice([1, 1, 2, 6])):
            await ReadOnly()
            assert not dut.o__valid.value, "it offers something while it is emptied"
            assert not dut.i__ready.value, "it takes something while it is emptied"
            await RisingEdge(clock)
        getattr(dut, how).value = 0
        dut.i__valid.value = dut.o__ready.value = 0
        first = attempt * 50 + 1000
        if attempt % 2:
            for own in (dut.write_clk, dut.read_clk):
                for _ in range(4):
                    await RisingEdge(own)
                await ReadOnly()
                assert not dut.o__valid.value
                await RisingEdge(own)
            await ReadOnly()
            assert dut.i__ready.value, "it takes nothing after a reset"
            await RisingEdge(dut.write_clk)
