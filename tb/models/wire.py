"""Testbench of hw/models/wire.py."""

import cocotb
from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.models.wire import Wire
from tessera.tb.bench import Bench, Dut

BITS = 257
MASK = (1 << BITS) - 1


class Counting(wiring.Component):
    """A wire on which zeros are sent: how often each bit was 1, and blocks by their wrong bits."""

    def __init__(self):
        self.wire = Wire((1, 1, 1, 1), seed=7)
        super().__init__(
            {
                "errors": In(32),
                "blocks": Out(data.ArrayLayout(32, 5)),
                "places": Out(data.ArrayLayout(32, 8)),
                "pairs": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.wire = wire = self.wire
        m.d.comb += wire.errors.eq(self.errors)
        for n in range(4):
            # More than three wrong bits are counted as four.
            counts = [(wire.o[n][k : k + 32] != 0) for k in range(0, 256, 32)]
            bits = Signal(range(BITS + 1), name=f"bits{n}")
            m.d.comb += bits.eq(_ones(wire.o[n]))
            index = Signal(3, name=f"index{n}")
            m.d.comb += index.eq(bits)
            with m.If(bits > 4):
                m.d.comb += index.eq(4)
            if n == 0:
                for k in range(5):
                    with m.If(index == k):
                        m.d.sync += self.blocks[k].eq(self.blocks[k] + 1)
                for k, some in enumerate(counts):
                    with m.If(some):
                        m.d.sync += self.places[k].eq(self.places[k] + 1)
        total = Signal(range(4 * BITS + 1))
        m.d.comb += total.eq(sum((_ones(wire.o[n]) for n in range(1, 4)), _ones(wire.o[0])))
        m.d.sync += self.pairs.eq(self.pairs + total)
        return m


def _ones(value):
    items = list(value)
    while len(items) > 1:
        items = [a + b for a, b in zip(items[::2], items[1::2])] + ([items[-1]] if len(items) % 2 else [])
    return items[0]


LATENCIES = (1, 8, 3, 2)
DUTS = {
    "lanes4": Dut(lambda: Wire(LATENCIES), tests="wire_"),
    "lanes1": Dut(lambda: Wire((5,), seed=3), tests="wire_"),
    "counting": Dut(Counting, tests="errors"),
}


class Ends:
    """Sends random blocks and gives, cycle by cycle, what is wrong in those that come, as a mask for each lane."""

    def __init__(self, bench):
        self.bench = bench
        self.latencies = bench.component.latencies
        self.lanes = len(self.latencies)
        self.sent = []

    async def reset(self):
        dut = self.bench.dut
        dut.crossed.value = dut.errors.value = dut.bursts.value = dut.drops.value = dut.cut.value = dut.i.value = 0
        await self.bench.reset()
        self.sent = []

    async def go(self, cycles, crossed=False):
        dut, random = self.bench.dut, self.bench.random
        wrong = []
        dut.crossed.value = int(crossed)
        for _ in range(cycles):
            self.sent.append([random.getrandbits(BITS) for _ in range(self.lanes)])
            dut.i.value = sum(block << BITS * n for n, block in enumerate(self.sent[-1]))
            await ReadOnly()
            came = dut.o.value.to_unsigned()
            masks = []
            for n, latency in enumerate(self.latencies):
                sent = self.sent[-1 - latency][-1 - n if crossed else n] if len(self.sent) > latency else None
                masks.append(None if sent is None else sent ^ (came >> BITS * n & MASK))
            wrong.append(masks)
            await RisingEdge(dut.clk)
        return wrong


@cocotb.test()
async def wire_brings_what_was_sent(dut):
    bench = Bench(dut, DUTS)
    ends = Ends(bench)
    for crossed in (False, True):
        await ends.reset()
        for masks in await ends.go(60, crossed):
            assert not any(masks), f"wrong bits: {masks}"


@cocotb.test()
async def wire_bursts_are_short(dut):
    bench = Bench(dut, DUTS)
    ends = Ends(bench)
    await ends.reset()
    await ends.go(10)
    dut.bursts.value = 2**31
    wrong = (await ends.go(600))[10:]
    for n in range(ends.lanes):
        masks = [masks[n] for masks in wrong if masks[n]]
        assert 0.4 < len(masks) / len(wrong) < 0.6, f"lane {n}: {len(masks)} bursts in {len(wrong)} blocks"
        lengths = [mask.bit_length() - (mask & -mask).bit_length() + 1 for mask in masks]
        assert max(lengths) <= 64 and max(lengths) > 55 and 25 < sum(lengths) / len(lengths) < 38
        assert min((mask & -mask).bit_length() for mask in masks) < 20
        assert max(mask.bit_length() for mask in masks) > 245


@cocotb.test()
async def wire_drops_and_cuts_are_noise(dut):
    bench = Bench(dut, DUTS)
    ends = Ends(bench)
    for how in ("drops", "cut"):
        await ends.reset()
        await ends.go(10)
        for n in range(ends.lanes) if how == "cut" else (0,):
            getattr(dut, how).value = 1 << n if how == "cut" else 2**30
            wrong = (await ends.go(400))[10:]
            seen = set()
            for lane in range(ends.lanes):
                masks = [masks[lane] for masks in wrong if masks[lane]]
                seen |= set(masks)
                expected = 0.25 if how == "drops" else float(lane == n)
                assert abs(len(masks) / len(wrong) - expected) < 0.08, f"{how}: {len(masks)} of {len(wrong)}"
                if not expected:
                    continue
                ones = [mask.bit_count() for mask in masks]
                assert 90 < min(ones) and max(ones) < 170 and abs(sum(ones) / len(ones) - BITS / 2) < 3
                each = [sum(mask >> bit & 1 for mask in masks) / len(masks) for bit in range(BITS)]
                assert 0.2 < min(each) and max(each) < 0.8
            if how == "cut":
                dut.cut.value = 0
                await ends.go(10)


async def counts(bench, rate, cycles):
    """Of so many blocks of each lane: those of lane 0 by wrong bits, its words by blocks with wrong bits, all bits."""
    dut = bench.dut
    dut.errors.value = round(rate * 2**32)
    await bench.reset()
    await bench.cycles(cycles)
    await ReadOnly()
    blocks, places = dut.blocks.value.to_unsigned(), dut.places.value.to_unsigned()
    result = [[bits >> 32 * n & 0xFFFFFFFF for n in range(size)] for bits, size in ((blocks, 5), (places, 8))]
    total = int(dut.pairs.value)
    await RisingEdge(dut.clk)
    return *result, total


@cocotb.test()
@cocotb.parametrize(rate=[1e-3, 1e-4, 1e-6])
async def errors_are_as_many_as_was_asked(dut, rate):
    """Within 2 %, or four standard deviations where there are few."""
    bench = Bench(dut, DUTS)
    cycles = {1e-3: 60_000, 1e-4: 200_000, 1e-6: 200_000}[rate]
    _, _, total = await counts(bench, rate, cycles)
    expected = cycles * 4 * BITS * rate
    assert abs(total - expected) < max(0.02 * expected, 4 * expected**0.5), (
        f"{total} wrong bits, {expected:.0f} expected"
    )


@cocotb.test()
async def errors_are_independent(dut):
    """At 1 in 1000 bits: blocks have 0 to 4 of them as often as a binomial distribution has; all words alike."""
    bench = Bench(dut, DUTS)
    cycles, rate = 60_000, 1e-3
    blocks, places, _ = await counts(bench, rate, cycles)
    chance = BITS * rate / 4
    for errors, ways in enumerate((1, 4, 6, 4, 1)):
        expected = cycles * ways * chance**errors * (1 - chance) ** (4 - errors)
        spread = max(5 * expected**0.5, 0.01 * expected)
        assert abs(blocks[errors] - expected) < spread + 3, (
            f"{errors} errors: {blocks[errors]}, {expected:.0f} expected"
        )
    word = cycles * 32 * rate * (1 - 16 * rate)
    assert all(abs(place - word) < 5 * word**0.5 for place in places), f"{places}, {word:.0f} expected"


@cocotb.test()
async def errors_are_none_at_rate_0(dut):
    bench = Bench(dut, DUTS)
    assert (await counts(bench, 0, 1000))[2] == 0
