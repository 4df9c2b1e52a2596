"""Testbench of hw/models/load.py: two chips that read each other's memory, over our link and over PCIe's."""

import cocotb
from amaranth.hdl import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import connect
from tessera.hw.link.block import BLOCK_BITS, DENSE
from tessera.hw.link.link import LinkCounts, LinkParameters
from tessera.hw.link.packet import CLASSES
from tessera.hw.link.port import LinkPort
from tessera.hw.link.training import LinkState
from tessera.hw.models.faults import FaultKind, Faults
from tessera.hw.models.load import LineLoad, LoadCounts, PcieLoad, RuleMemory
from tessera.hw.models.pcie_link import PcieLink, PcieLinkParameters
from tessera.hw.models.serdes import Deserializer
from tessera.hw.models.wire import Wire
from tessera.tb.bench import Bench, Dut, keep_figures, unpack
from tessera.tb.link.traffic import PASSING, Sink, Source, Totals

NOISE = ("cut", "errors", "bursts", "drops")
MEMORY_LATENCY = 20
NEARLY_ALL = 1 - 2**-32
ANY_LINES = 15
"""As of :class:`Source`."""


class Delay(wiring.Component):
    """Blocks come ``latency`` cycles later; from the input itself if it is 0."""

    def __init__(self, lanes):
        bits = data.ArrayLayout(BLOCK_BITS, lanes)
        super().__init__({"i": In(bits), "o": Out(bits), "latency": In(8)})

    def elaborate(self, platform):
        m = Module()
        bits = Value.cast(self.i)
        m.submodules.kept = kept = memory.Memory(shape=len(bits), depth=256, init=[])
        write, read = kept.write_port(), kept.read_port(domain="comb")
        m.d.sync += write.addr.eq(write.addr + 1)
        m.d.comb += [
            write.data.eq(bits),
            write.en.eq(1),
            read.addr.eq(write.addr - self.latency),
            self.o.eq(Mux(self.latency == 0, bits, read.data)),
        ]
        return m


class Chips(wiring.Component):
    """Two ports whose chips read, and write, each other's memory, and exchange packets of all other classes.

    With `faulty`, targeted faults stand at the sending end of the wires, which takes :data:`LATENCY` cycles more.
    """

    def __init__(self, parameters, latencies, faulty=False):
        self.parameters, self.faulty = parameters, faulty
        members = {}
        for n in range(2):
            members |= {f"{name}{n}": In(parameters.lanes if name == "cut" else 32) for name in NOISE}
            members |= {f"counts{n}": Out(LinkCounts), f"state{n}": Out(LinkState)}
            members |= {f"go{n}": In(1), f"load{n}": Out(LoadCounts)}
            members |= {f"written{n}": Out(32), f"written_sum{n}": Out(32), f"wrong{n}": Out(32)}
            members |= {
                f"sent{n}": Out(data.ArrayLayout(32, CLASSES)),
                f"come{n}": Out(data.ArrayLayout(Totals, CLASSES)),
            }
            members |= {f"phase{n}": In(data.ArrayLayout(range(BLOCK_BITS), parameters.lanes))}
            if faulty:
                members |= {f"fault_rate{n}": In(32), f"fault_kinds{n}": In(len(FaultKind)), f"faults{n}": Out(32)}
                members |= {f"lane_cycles{n}": In(16), f"cut_cycles{n}": In(16)}
        knobs = {"lines": In(5), "writes": In(1), "stall": In(4), "latency": In(8), "move": In(1), "others": In(1)}
        super().__init__({**members, **knobs})
        self.latencies = latencies

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        domains = DomainRenamer({f"receive{lane}": "sync" for lane in range(p.lanes)})
        ports = [LinkPort(p) for _ in range(2)]
        for n, port in enumerate(ports):
            other = ports[1 - n]
            m.submodules[f"port{n}"] = domains(port)
            m.submodules[f"memory{n}"] = rule = RuleMemory()
            m.submodules[f"load{n}"] = load = LineLoad()
            m.submodules[f"wire{n}"] = wire = Wire(self.latencies, seed=n + 1)
            m.submodules[f"delay{n}"] = delay = Delay(p.lanes)
            m.submodules[f"sink{n}"] = sink = Sink()
            wiring.connect(m, port.memory, rule.port)
            connect(m, load.request, port.request)
            connect(m, port.response, load.response)
            m.d.comb += [
                port.node.eq(n + 1),
                port.room.eq(sink.room),
                sink.i.valid.eq(port.o.valid),
                sink.i.payload.eq(port.o.payload),
                port.o.ready.eq(1),
                sink.rate.eq(8),
                sink.lines.eq(ANY_LINES),
                rule.latency.eq(MEMORY_LATENCY),
                rule.stall.eq(self.stall),
                load.go.eq(getattr(self, f"go{n}")),
                load.target.eq(2 - n),
                *(getattr(load, name).eq(getattr(self, name)) for name in ("lines", "writes", "stall")),
                wire.i.eq(self._faults(m, n, port.lanes_o)),
                *(getattr(wire, name).eq(getattr(self, f"{name}{n}")) for name in NOISE),
                delay.i.eq(wire.o),
                delay.latency.eq(self.latency),
                getattr(self, f"counts{n}").eq(port.counts),
                getattr(self, f"state{n}").eq(port.state),
                getattr(self, f"load{n}").eq(load.counts),
                getattr(self, f"come{n}").eq(sink.totals),
                *(getattr(self, f"{name}{n}").eq(getattr(rule, name)) for name in ("written", "written_sum", "wrong")),
            ]
            for kind in PASSING:
                m.submodules[f"source{n}_{kind.value}"] = source = Source(kind.value)
                connect(m, source.o, getattr(port, f"i{kind.value}"))
                m.d.comb += [
                    source.go.eq(self.others),
                    source.rate.eq(1),
                    source.lines.eq(ANY_LINES),
                    getattr(self, f"sent{n}")[kind.value].eq(source.sent),
                ]
            for lane in range(p.lanes):
                m.submodules[f"deserializer{n}_{lane}"] = deserializer = Deserializer(2)
                m.d.comb += [
                    deserializer.i.eq(delay.o[lane]),
                    deserializer.slip.eq(other.slip[lane]),
                    deserializer.move.eq(self.move),
                    deserializer.phase.eq(getattr(self, f"phase{n}")[lane]),
                    other.lanes_i[lane].eq(deserializer.o),
                ]
        return m

    def _faults(self, m, n, lanes):
        """What comes of what chip `n` sends."""
        if not self.faulty:
            return lanes
        m.submodules[f"faults{n}"] = faults = Faults(self.parameters.lanes, seed=n + 1)
        m.d.comb += [
            faults.i.eq(lanes),
            faults.rate.eq(getattr(self, f"fault_rate{n}")),
            faults.kinds.eq(getattr(self, f"fault_kinds{n}")),
            *(getattr(faults, name).eq(getattr(self, f"{name}{n}")) for name in ("lane_cycles", "cut_cycles")),
            getattr(self, f"faults{n}").eq(faults.faults),
        ]
        return faults.o


class PcieChips(wiring.Component):
    """The same with PCI Express between them."""

    def __init__(self, parameters):
        self.parameters = parameters
        members = {}
        for n in range(2):
            members |= {f"go{n}": In(1), f"load{n}": Out(LoadCounts)}
        super().__init__({**members, "lines": In(5)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.link = link = PcieLink(self.parameters)
        for n in range(2):
            m.submodules[f"memory{n}"] = rule = RuleMemory()
            m.submodules[f"load{n}"] = load = PcieLoad()
            wiring.connect(m, getattr(link, f"memory{n}"), rule.port)
            connect(m, load.read, getattr(link, f"read{n}"))
            connect(m, getattr(link, f"line{n}"), load.line)
            m.d.comb += [
                rule.latency.eq(MEMORY_LATENCY),
                load.go.eq(getattr(self, f"go{n}")),
                load.lines.eq(self.lines),
                getattr(self, f"load{n}").eq(load.counts),
            ]
        return m


def chips(lanes, latencies, faulty=False, **options):
    parameters = LinkParameters(lanes, timeout_bits=10, give_up=3000, settle=2)
    return Dut(lambda: Chips(parameters, latencies, faulty), **options)


def pcie(generation, **parameters):
    # Credits and tags that do not limit.
    every = PcieLinkParameters(generation, nonposted=128, tags=128, **parameters)
    return Dut(lambda: PcieChips(every), tests="share|brings", soak=True)


DUTS = {
    # Every run has a slice of what is in the soak: of the matrix, short and quick or long and stalled.
    "lanes1": chips(1, (1,), tests="brings|slice|loses.*(latency=0/.*stall=0|latency=60/.*stall=9)"),
    "figures": chips(1, (1,), tests="share|curve|bad_wires", soak=True),
    "gigabyte": chips(1, (1,), tests="gigabyte", soak=True),
    "story": chips(1, (1,), tests="story", soak=True),
    "lanes1_long": chips(1, (1,), tests="loses", soak=True),
    "faults": chips(1, (1,), faulty=True, tests="fault", soak=True),
    "faults4": chips(4, (1, 4, 2, 1), faulty=True, tests="fault", soak=True),
    "lanes2": chips(2, (1, 1), tests="loses|without", soak=True),
    "lanes2_skewed": chips(2, (1, 8), tests="loses|without", soak=True),
    "lanes4": chips(4, (1, 1, 1, 1), tests="loses|without|bad_wires", soak=True),
    "lanes4_skewed": chips(4, (3, 1, 8, 5), tests="loses|without", soak=True),
    "pcie5": pcie(5, switch_latency=0),
    "pcie5_switched": pcie(5),
    "pcie6": pcie(6, switch_latency=0),
}


class LoadBench(Bench):
    """Both chips' loads, over either link."""

    @property
    def is_pcie(self):
        return isinstance(self.component, PcieChips)

    async def start(self, *, lines, writes=0, latency=0, stall=0, phases=(0, 0)):
        """From reset to both ends up; the lanes of chip n are first received from bit ``phases[n]`` of a block on."""
        dut = self.dut
        dut.lines.value = lines
        for n in range(2):
            self.port(f"go{n}").value = 0
        if self.is_pcie:
            return await self.reset()
        dut.writes.value, dut.latency.value, dut.stall.value, dut.others.value = writes, latency, stall, 0
        for n in range(2):
            self.noise(n)
            if self.component.faulty:
                self.faults(n)
            self.port(f"phase{n}").value = sum(phases[n] << 9 * k for k in range(self.component.parameters.lanes))
        dut.move.value = 1
        await self.reset()
        dut.move.value = 0
        for _ in range(0, 30_000, 20):
            await self.cycles(20)
            if self.states() == [LinkState.Active] * 2:
                self.first = [self.counts(n).sessions for n in range(2)]
                return None
        raise AssertionError(f"not up: {self.states()}")

    def noise(self, n, **rates):
        """What is wrong on the wires from chip `n` on: parts of 1, and lanes that are cut."""
        for name in NOISE:
            rate = rates.get(name, 0)
            self.port(f"{name}{n}").value = rate if name == "cut" else round(rate * 2**32)

    def faults(self, n, rate=0.0, kinds=(), lane_cycles=1, cut_cycles=1):
        """Targeted faults in what chip `n` sends: in so many parts of the cycles, of any of these kinds."""
        self.port(f"fault_rate{n}").value = round(rate * 2**32)
        self.port(f"fault_kinds{n}").value = sum(1 << kind.value for kind in kinds)
        self.port(f"lane_cycles{n}").value, self.port(f"cut_cycles{n}").value = lane_cycles, cut_cycles

    def states(self):
        return [LinkState(self.get(f"state{n}")) for n in range(2)]

    def counts(self, n):
        return unpack(LinkCounts, self.port(f"counts{n}").value.to_unsigned())

    def sessions(self, n):
        """How often chip `n`'s end of the link has begun anew since it was first up."""
        return self.counts(n).sessions - self.first[n]

    def load(self, n):
        return unpack(LoadCounts, self.port(f"load{n}").value.to_unsigned())

    def others(self, n):
        """Of the classes that are no port's own: packets that chip `n` sent, and packets and wrong parts that came."""
        sent, come = (self.port(f"{name}{n}").value.to_unsigned() for name in ("sent", "come"))
        come = data.ArrayLayout(Totals, CLASSES).from_bits(come)
        kinds = [kind.value for kind in PASSING]
        return (
            [sent >> 32 * n & 0xFFFFFFFF for n in kinds],
            [come[n].packets for n in kinds],
            [come[n].wrong for n in kinds],
        )

    def go(self, *chips):
        for n in range(2):
            self.port(f"go{n}").value = n in chips

    async def lines_in(self, cycles, ends, settle=1000):
        """Lines that came to each of `ends` in so many cycles, after a while."""
        if settle:
            await self.cycles(settle)
        before = [self.load(n).answered for n in ends]
        await self.cycles(cycles)
        return [(self.load(n).answered - old) % 2**32 for n, old in zip(ends, before)]

    async def finish(self, most=20_000):
        """Stop: each line that was asked for was answered once, in order, and is right; what was written is."""
        self.go()
        if not self.is_pcie:
            self.dut.others.value = 0
        await self.cycles(2)
        for _ in range(0, most, 20):
            await self.cycles(20)
            done = all(self.load(n).asked == self.load(n).answered for n in range(2))
            if done and (self.is_pcie or all(self.others(n)[0] == self.others(1 - n)[1] for n in range(2))):
                break
        for n in range(2):
            load = self.load(n)
            assert load.asked == load.answered, f"chip {n}: {load.asked} lines asked for, {load.answered} answered"
            assert load.wrong == 0, f"chip {n}: {load.wrong} of {load.answered} answers are wrong"
            if not self.is_pcie:
                assert self.get(f"wrong{1 - n}") == 0, f"chip {n}: wrong lines were written"
                written = [self.get(f"{name}{1 - n}") for name in ("written", "written_sum")]
                sent, (_, come, wrong) = self.others(n)[0], self.others(1 - n)
                # What failed was written or not.
                assert 0 <= written[0] - load.written <= load.failed, f"chip {n}: {written[0]} lines were written"
                if load.failed == 0:
                    assert [load.written, load.written_sum] == written, f"chip {n}: not what was written"
                    assert (sent, wrong) == (come, [0] * len(PASSING)), f"from chip {n} {sent}; {come}, {wrong} wrong"

    async def one_read(self):
        """Cycles from a request of chip 0 to its answer."""
        before, began = self.load(0).answered, self.now()
        self.go(0)
        await self.cycles(1)
        self.go()
        while self.load(0).answered == before:
            await self.cycles(1)
            assert self.now() - began < 1000, "no answer"
        # The load counts it a cycle late.
        return self.now() - began - 1

    def share(self, lines, cycles):
        """Of the raw line that lines' payloads take, in percent."""
        lanes = 1 if self.is_pcie else self.component.parameters.lanes
        return 100 * 512 * lines / (257 * lanes * cycles)


@cocotb.test()
@cocotb.parametrize(lines=[1, 16])
async def brings_what_was_asked_for(dut, lines):
    bench = LoadBench(dut, DUTS)
    await bench.start(lines=lines)
    bench.go(0, 1)
    await bench.cycles(2000)
    await bench.finish()
    assert all(bench.load(n).asked > 500 for n in range(2))


NO_NOISE, ERRORS, ALL = {}, {"errors": 1e-4}, {"errors": 2e-5, "bursts": 2e-3, "drops": 2e-3}


@cocotb.test()
@cocotb.parametrize(latency=[0, 60], noise=[NO_NOISE, ERRORS, ALL], stall=[0, 9])
async def loses_nothing(dut, latency, noise, stall):
    """Reads, writes and packets of all other classes, over wires that are short or long and good or bad."""
    bench = LoadBench(dut, DUTS)
    long = DUTS[bench.name].soak
    phases = [bench.random.randrange(BLOCK_BITS) for _ in range(2)] if long else (0, 0)
    await bench.start(lines=0, writes=1, latency=latency, stall=stall, phases=phases)
    dut.others.value = 1
    for n in range(2):
        bench.noise(n, **noise)
    bench.go(0, 1)
    await bench.cycles(20_000 if long else 1500)
    await bench.finish()
    for n in range(2):
        load, counts = bench.load(n), bench.counts(n)
        assert min(load.written, load.answered - load.written) > 50, f"{load.answered} answers, {load.written} writes"
        assert min(bench.others(n)[0]) > 10, f"packets of other classes: {bench.others(n)[0]}"
        assert (load.failed, bench.sessions(n)) == (0, 0)
        assert bool(counts.again) == bool(noise), f"{counts.again} packets sent again"


@cocotb.test()
async def goes_on_without_a_lane(dut):
    """One dead lane of several, either way: half of the lines come nevertheless, at the least; mended, all do."""
    bench = LoadBench(dut, DUTS)
    await bench.start(lines=16)
    bench.go(0, 1)
    lanes, cycles = bench.component.parameters.lanes, 4000
    whole = await bench.lines_in(cycles, (0, 1))
    # While a lane is missed each 16th block is a marker: on one lane of two that shows.
    least = whole if lanes == 4 else [lines * (DENSE - 1) // DENSE for lines in whole]
    for n in range(2):
        for lane in range(lanes):
            bench.noise(n, cut=1 << lane)
            # Four markers that are not right, 1024 blocks each, and what was under way.
            await bench.cycles(6000)
            without = (await bench.lines_in(cycles, (0, 1)))[1 - n]
            assert 2 * without >= least[1 - n], f"lane {lane} from chip {n}: {without} lines, {whole[1 - n]} with all"
            bench.noise(n)
            # It is looked for by dense markers for 8192 cycles, and again after 131072.
            for _ in range(0, 1 << 18, 2 * cycles):
                with_all = (await bench.lines_in(cycles, (0, 1), settle=cycles))[1 - n]
                if with_all >= 0.99 * whole[1 - n]:
                    break
            else:
                raise AssertionError(f"lane {lane} from chip {n}, mended: {with_all} lines, {whole[1 - n]} before")
    await bench.finish()
    assert not any(bench.sessions(n) or bench.load(n).failed for n in range(2))


@cocotb.test()
async def share(dut):
    """Payload as a share of the raw line, of reads alone; one side reads, or both."""
    bench = LoadBench(dut, DUTS)
    figures = {}
    cycles = 8192
    for what, lines in (("256-byte", 16), ("64-byte", 1)):
        for how, readers in (("one side", (0,)), ("both sides", (0, 1))):
            await bench.start(lines=lines)
            bench.go(*readers)
            found = min(await bench.lines_in(cycles, readers))
            figures[f"{what} responses, {how} reading, % of the raw line"] = round(bench.share(found, cycles), 2)
            await bench.finish()
    keep_figures(**figures)
    dut._log.info(f"{figures}")


@cocotb.test()
async def curve(dut):
    """Over the wires' latency: payload when both sides read, and the cycles of a read that is alone, memory and all."""
    bench = LoadBench(dut, DUTS)
    cycles = 4096
    for latency in (0, 25, 50, 100, 200):
        figures = {}
        for what, lines in (("256-byte", 16), ("64-byte", 1)):
            await bench.start(lines=lines, latency=latency)
            bench.go(0, 1)
            found = min(await bench.lines_in(cycles, (0, 1)))
            figures[f"{what} responses, both sides reading, % of the raw line"] = round(bench.share(found, cycles), 2)
            await bench.finish()
        times = []
        for k in range(16):
            await bench.cycles(50 + k)
            times.append(await bench.one_read())
        figures["64-byte read, cycles"] = max(times)
        keep_figures(**{f"wires of {latency} cycles": figures})
        dut._log.info(f"{latency}: {figures}, {times}")


RATES = {1e-6: 96, 1e-5: 90, 1e-4: 75}
"""Of a bit to be wrong, and how much of the payload at least comes through nevertheless, in percent."""


async def goodput(bench, rate, cycles):
    """Lines of 256-byte responses that come to both sides in so many cycles, with bits wrong at this rate."""
    await bench.start(lines=16)
    for n in range(2):
        bench.noise(n, errors=rate)
    bench.go(0, 1)
    lines = sum(await bench.lines_in(cycles, (0, 1)))
    await bench.finish()
    counts = [bench.counts(n) for n in range(2)]
    total = {name: sum(getattr(one, name) for one in counts) for name in ("sent", "again", "timeouts")}
    bench.dut._log.info(f"{rate:g}: {lines} lines; {total}")
    assert not any(bench.sessions(n) for n in range(2)) and bool(total["again"]) == bool(rate)
    return lines


@cocotb.test()
async def slice_of_goodput(dut):
    bench = LoadBench(dut, DUTS)
    cycles = 3000
    clean = await goodput(bench, 0, cycles)
    found = 100 * await goodput(bench, 1e-4, cycles) / clean
    assert found >= RATES[1e-4], f"{found:.2f} %"


@cocotb.test()
async def goodput_of_bad_wires(dut):
    """Against that of clean ones; a few errors at the lowest rate, thousands at the highest."""
    bench = LoadBench(dut, DUTS)
    cycles = 20_000
    clean = await goodput(bench, 0, cycles)
    for rate, least in RATES.items():
        found = 100 * await goodput(bench, rate, cycles) / clean
        # On more lanes it is measured, and less yet than is wanted of one.
        assert found >= least or bench.component.parameters.lanes > 1, f"{found:.2f} % at {rate:g}"
        keep_figures(**{f"goodput at {rate:g}, %": round(found, 2)})


@cocotb.test()
@cocotb.parametrize(rate=list(RATES))
async def goodput_of_a_gigabyte(dut, rate):
    """As above, over 10**9 bytes of lines that all are right."""
    bench = LoadBench(dut, DUTS)
    cycles = 100_000
    clean = await goodput(bench, 0, cycles) / cycles
    wanted = 10**9 // 64
    await bench.start(lines=16)
    for n in range(2):
        bench.noise(n, errors=rate)
    bench.go(0, 1)
    lines = took = 0
    while lines < wanted:
        lines += sum(await bench.lines_in(cycles, (0, 1), settle=0))
        took += cycles
        assert not any(bench.load(n).wrong or bench.get(f"wrong{n}") for n in range(2))
    await bench.finish()
    found = 100 * lines / took / clean
    counts = [bench.counts(n) for n in range(2)]
    again, timeouts = sum(one.again for one in counts), sum(one.timeouts for one in counts)
    dut._log.info(
        f"{rate:g}: {lines} lines in {took} cycles, {found:.2f} %, {again} packets again, {timeouts} timeouts"
    )
    assert found >= RATES[rate], f"{found:.2f} % at {rate:g}"


LANE_KINDS = (FaultKind.Lane, FaultKind.Cut, FaultKind.Marker)
"""Those by which a lane may be lost."""
FAULTS = 250_000
"""In each direction; of both, on one lane and on four, a million."""


@cocotb.test()
async def faults_lose_nothing(dut):
    """Faults of all kinds at once by which no lane is lost, from now and then to several in the time of a recovery."""
    bench = LoadBench(dut, DUTS)
    kinds = [kind for kind in FaultKind if kind not in LANE_KINDS]
    await bench.start(lines=0, writes=1)
    dut.others.value = 1
    total = [0, 0]
    while min(total) < FAULTS:
        for n in range(2):
            bench.faults(n, bench.random.choice((0.002, 0.01, 0.03)), kinds)
        bench.go(0, 1)
        dut.others.value = 1
        await bench.cycles(20_000)
        for n in range(2):
            bench.faults(n)
        await bench.finish(200_000)
        assert not any(bench.sessions(n) or bench.load(n).failed for n in range(2)), "the link began anew"
        total = [bench.get(f"faults{n}") for n in range(2)]
    counts = [bench.counts(n) for n in range(2)]
    dut._log.info(f"{total} faults; {[(one.sent, one.again, one.timeouts) for one in counts]} sent, again, timeouts")


@cocotb.test()
async def faults_of_lanes_fail_each_request_once(dut):
    """A lane that is away for longer than it takes to lose it, or all, or markers: it goes on, or fails what waits."""
    bench = LoadBench(dut, DUTS)
    await bench.start(lines=0, writes=1)
    failed = 0
    for number in range(400):
        n, kind = number % 2, LANE_KINDS[number // 2 % 3]
        before = bench.get(f"faults{n}")
        bench.faults(n, 0.01, [kind], lane_cycles=10_000, cut_cycles=10_000)
        bench.go(0, 1)
        while bench.get(f"faults{n}") == before:
            await bench.cycles(10)
        # What lasts stays as long as its kind may be; markers are wrong again and again.
        bench.faults(n, 0.01 * (kind is FaultKind.Marker), [kind], lane_cycles=10_000, cut_cycles=10_000)
        await bench.cycles(bench.random.randrange(12_000))
        bench.faults(n)
        await bench.finish(100_000)
        failed = sum(bench.load(k).failed for k in range(2))
        for _ in range(0, 200_000, 100):
            if bench.states() == [LinkState.Active] * 2:
                break
            await bench.cycles(100)
        assert bench.states() == [LinkState.Active] * 2, f"after fault {number}, {kind.name}: {bench.states()}"
    dut._log.info(f"{failed} lines failed, {[bench.sessions(k) for k in range(2)]} sessions")
    assert failed


@cocotb.test()
async def story(dut):
    """What docs/link.md shows: the link trains, a line is read; then one more, while a block on the wire is noise."""
    bench = LoadBench(dut, DUTS)
    await bench.start(lines=1, phases=(251, 254))
    await bench.cycles(30)
    usual = await bench.one_read()
    await bench.cycles(30)
    bench.go(0)
    await bench.cycles(1)
    bench.go()
    # Amid the answer's three blocks.
    await bench.cycles(usual - 20)
    bench.noise(1, drops=NEARLY_ALL)
    await bench.cycles(1)
    bench.noise(1)
    for _ in range(200):
        await bench.cycles(1)
        if bench.load(0).answered == 2:
            break
    await bench.finish()
    counts = [bench.counts(n) for n in range(2)]
    assert [(one.again, one.wrong > 0, one.timeouts) for one in counts] == [(0, True, 0), (1, False, 0)]
    await bench.cycles(20)
