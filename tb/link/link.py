"""Testbench of hw/link/link.py: two ends that train, and carry packets of all classes over bad wires."""

import cocotb
from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import connect
from tessera.hw.link.link import Link, LinkCounts, LinkParameters
from tessera.hw.link.packet import CLASSES
from tessera.hw.link.training import LinkState
from tessera.hw.models.serdes import Deserializer
from tessera.hw.models.wire import Wire
from tessera.tb.bench import Bench, Dut, unpack
from tessera.tb.link.traffic import Sink, Source, Totals

WAYS = ("there", "back")
NOISE = ("cut", "errors", "bursts", "drops")


class Pair(wiring.Component):
    """Two links, wires both ways, and traffic of all classes; all in ``sync``, which is each lane's clock as well."""

    def __init__(self, parameters, latencies):
        self.parameters, self.latencies = parameters, latencies
        ways = {}
        for way in WAYS:
            ways |= {
                f"{way}_cut": In(parameters.lanes),
                f"{way}_errors": In(32),
                f"{way}_bursts": In(32),
                f"{way}_drops": In(32),
                f"{way}_go": In(CLASSES),
                f"{way}_rate": In(5),
                f"{way}_sent": Out(data.ArrayLayout(32, CLASSES)),
                f"{way}_come": Out(data.ArrayLayout(Totals, CLASSES)),
                f"{way}_counts": Out(LinkCounts),
                f"{way}_state": Out(LinkState),
            }
        super().__init__({**ways, "move": In(1), "phase": In(9), "lines": In(4), "drain": In(5)})

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        links = [Link(p), Link(p)]
        for n, way in enumerate(WAYS):
            here, there = links[n], links[1 - n]
            domains = DomainRenamer({f"receive{lane}": "sync" for lane in range(p.lanes)})
            m.submodules[f"link_{way}"] = domains(here)
            m.submodules[f"wire_{way}"] = wire = Wire(self.latencies, seed=len(way))
            m.submodules[f"sink_{way}"] = sink = Sink()
            m.d.comb += [
                here.node.eq(9 - 3 * n),
                wire.i.eq(here.lanes_o),
                *(getattr(wire, name).eq(getattr(self, f"{way}_{name}")) for name in NOISE),
                sink.i.valid.eq(there.o.valid),
                sink.i.payload.eq(there.o.payload),
                there.o.ready.eq(1),
                there.room.eq(sink.room),
                sink.rate.eq(self.drain),
                sink.lines.eq(self.lines),
                getattr(self, f"{way}_come").eq(sink.totals),
                getattr(self, f"{way}_counts").eq(here.counts),
                getattr(self, f"{way}_state").eq(here.state),
            ]
            for lane in range(p.lanes):
                m.submodules[f"{way}{lane}"] = deserializer = Deserializer(2)
                m.d.comb += [
                    deserializer.i.eq(wire.o[lane]),
                    deserializer.slip.eq(there.slip[lane]),
                    deserializer.move.eq(self.move),
                    deserializer.phase.eq(self.phase),
                    there.lanes_i[lane].eq(deserializer.o),
                ]
            for kind in range(CLASSES):
                m.submodules[f"source_{way}{kind}"] = source = Source(kind)
                connect(m, source.o, getattr(here, f"i{kind}"))
                m.d.comb += [
                    source.go.eq(getattr(self, f"{way}_go")[kind]),
                    source.rate.eq(getattr(self, f"{way}_rate")),
                    source.lines.eq(self.lines),
                    getattr(self, f"{way}_sent")[kind].eq(source.sent),
                ]
        return m


def pair(lanes, latencies, **options):
    parameters = LinkParameters(lanes, timeout_bits=10, give_up=4000, settle=2)
    return Dut(lambda: Pair(parameters, latencies), **options)


DUTS = {
    # A port's bench holds two links as well, over wires as bad, in every run of the tests.
    "lanes1": pair(1, (1,), soak=True),
    "lanes2": pair(2, (1, 8), soak=True),
    "lanes4": pair(4, (3, 1, 8, 5), soak=True),
}


class PairBench(Bench):
    """Both ends and what comes of their traffic."""

    async def start(self, *, lines=15, drain=16, phase=0):
        """From reset to both ends up."""
        dut = self.dut
        for way in WAYS:
            for name in (*NOISE, "go"):
                getattr(dut, f"{way}_{name}").value = 0
            getattr(dut, f"{way}_rate").value = 16
        dut.lines.value, dut.drain.value, dut.phase.value, dut.move.value = lines, drain, phase, 1
        await self.reset()
        dut.move.value = 0
        for _ in range(0, 20_000, 20):
            await self.cycles(20)
            if all(self.counts(way).active for way in WAYS) and self.states() == [LinkState.Active] * 2:
                return
        raise AssertionError(f"not up: {self.states()}")

    def states(self):
        return [LinkState(int(getattr(self.dut, f"{way}_state").value)) for way in WAYS]

    def counts(self, way):
        return unpack(LinkCounts, getattr(self.dut, f"{way}_counts").value.to_unsigned())

    def go(self, there=0x3F, back=0x3F):
        self.dut.there_go.value, self.dut.back_go.value = there, back

    def sent(self, way):
        bits = getattr(self.dut, f"{way}_sent").value.to_unsigned()
        return [bits >> 32 * kind & 0xFFFFFFFF for kind in range(CLASSES)]

    def come(self, way):
        """Of each class: packets, lines, wrong parts."""
        bits = getattr(self.dut, f"{way}_come").value.to_unsigned()
        return [[bits >> 96 * kind + 32 * n & 0xFFFFFFFF for n in range(3)] for kind in range(CLASSES)]

    async def finish(self, most=50_000):
        """Stop: all that was sent comes, once, in order."""
        self.go(0, 0)
        for _ in range(0, most, 50):
            await self.cycles(50)
            if all([kind[0] for kind in self.come(way)] == self.sent(way) for way in WAYS):
                break
        for way in WAYS:
            sent, come = self.sent(way), self.come(way)
            assert [kind[0] for kind in come] == sent, f"{way}: sent {sent}, come {come}"
            assert not any(kind[2] for kind in come), f"{way}: wrong parts: {come}"


@cocotb.test()
@cocotb.parametrize(case=[(15, 16, 0), (15, 4, 100), (0, 16, 256)])
async def all_comes(dut, case):
    """Packets of all classes both ways, of any number of lines, or none; quick takers and slow ones."""
    bench = PairBench(dut, DUTS)
    lines, drain, phase = case
    await bench.start(lines=lines, drain=drain, phase=phase)
    bench.go()
    await bench.cycles(2500)
    await bench.finish()
    for way in WAYS:
        assert all(kind[0] > 10 for kind in bench.come(way))
        counts = bench.counts(way)
        assert (counts.again, counts.wrong, counts.double, counts.timeouts, counts.losses) == (0, 0, 0, 0, 0)
        assert counts.sent == sum(bench.sent(way))


@cocotb.test()
@cocotb.parametrize(case=[(1e-4, 15), (1e-3, 1)])
async def all_comes_over_bad_wires(dut, case):
    """With bits wrong on their own, in bursts, and blocks that are noise."""
    bench = PairBench(dut, DUTS)
    rate, lines = case
    await bench.start(lines=lines)
    bench.go()
    noise = {"errors": rate, "bursts": 25 * rate, "drops": 25 * rate}
    for way in WAYS:
        for name, part in noise.items():
            getattr(dut, f"{way}_{name}").value = round(part * 2**32)
    await bench.cycles(4000)
    await bench.finish(200_000)
    for way in WAYS:
        assert all(kind[0] > 10 for kind in bench.come(way))
        counts = bench.counts(way)
        assert counts.again and counts.wrong and counts.sessions == 0


@cocotb.test()
async def all_comes_when_lanes_die_and_come_back(dut):
    """A lane of several is cut, one way, and mended; or the only one, for less than it takes to give up."""
    bench = PairBench(dut, DUTS)
    await bench.start()
    bench.go()
    lanes = bench.component.parameters.lanes
    for way in WAYS:
        await bench.cycles(200)
        getattr(dut, f"{way}_cut").value = 1 << bench.random.randrange(lanes)
        # Four markers that are not right, 1024 blocks each.
        await bench.cycles(4400 if lanes == 1 else 6000)
        getattr(dut, f"{way}_cut").value = 0
        await bench.cycles(2000)
    await bench.finish(200_000)
    assert all(bench.counts(way).sessions == 0 for way in WAYS)
    assert sum(bench.counts(way).losses for way in WAYS) >= 2


@cocotb.test()
async def latency(dut):
    """From the last part of a packet of one part to the other end."""
    bench = PairBench(dut, DUTS)
    await bench.start(lines=0)
    found = set()
    for _ in range(40):
        await bench.cycles(40 + bench.random.randrange(8))
        dut.there_go.value = 1
        began, before = bench.now(), bench.come("there")[0][0]
        await bench.cycles(1)
        dut.there_go.value = 0
        while bench.come("there")[0][0] == before:
            await bench.cycles(1)
            assert bench.now() - began < 100
        # The sink's count shows it two cycles late. The wires take theirs, and the deserializer two.
        found.add(bench.now() - began - 2 - max(bench.component.latencies) - 2)
    least = 20 if bench.component.parameters.lanes == 1 else 21
    assert min(found) == least and max(found) <= least + 1, f"{sorted(found)}"
