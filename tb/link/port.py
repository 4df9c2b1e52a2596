"""Testbench of hw/link/port.py: two chips' ports, their memories, and bad wires between them."""

import cocotb
from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.lib.streams import connect
from tessera.hw.link.link import LinkCounts, LinkParameters
from tessera.hw.link.packet import CLASSES
from tessera.hw.link.port import LinkPort
from tessera.hw.link.training import LinkState
from tessera.hw.memory.port import Access, MemoryPort, MemoryStatus, Op
from tessera.hw.models.memory import IdealMemory, Knobs
from tessera.hw.models.serdes import Deserializer
from tessera.hw.models.wire import Wire
from tessera.tb.bench import Bench, Dut, keep_figures, pack, unpack
from tessera.tb.link.traffic import PASSING, Sink, Source, Totals

NOISE = ("cut", "errors", "bursts", "drops")
MEMBERS = ("request", "response")
WINDOWS, WINDOW_LINES = 4, 1 << 10
ANY_LINES = 15
"""As of :class:`Source`."""


class Chips(wiring.Component):
    """Two ports with a memory each; wires from 0 to 1 and from 1 to 0. All in ``sync``."""

    def __init__(self, parameters, latencies):
        self.parameters, self.latencies = parameters, latencies
        self.ports = [LinkPort(parameters) for _ in range(2)]
        members = {}
        for n, port in enumerate(self.ports):
            members |= {f"{name}{n}": port.signature.members[name] for name in MEMBERS}
            members |= {f"{name}{n}": In(parameters.lanes if name == "cut" else 32) for name in NOISE}
            members |= {f"counts{n}": Out(LinkCounts), f"state{n}": Out(LinkState), f"knobs{n}": In(Knobs)}
            members |= {f"rst{n}": In(1), f"others{n}": In(1), f"drain{n}": In(5)}
            members |= {f"sent{n}": Out(data.ArrayLayout(32, CLASSES))}
            members |= {f"come{n}": Out(data.ArrayLayout(Totals, CLASSES))}
        super().__init__({**members, "move": In(1), "phase": In(9), "local": In(MemoryPort())})

    def elaborate(self, platform):
        m = Module()
        p, ports = self.parameters, self.ports
        m.submodules.local = memory = IdealMemory(name="local")
        wiring.connect(m, wiring.flipped(self.local), memory.port)
        m.d.comb += [memory.knobs.eq(self.knobs0), memory.backdoor.load.eq(0)]
        for n, port in enumerate(ports):
            other = ports[1 - n]
            domains = DomainRenamer({f"receive{lane}": "sync" for lane in range(p.lanes)})
            reset = ResetInserter(getattr(self, f"rst{n}"))
            memory = IdealMemory(windows=WINDOWS, window_lines=WINDOW_LINES, name=f"m{n}", request=Access)
            m.submodules[f"port{n}"], m.submodules[f"memory{n}"] = reset(domains(port)), reset(memory)
            m.submodules[f"wire{n}"] = wire = Wire(self.latencies, seed=n + 1)
            taker = Sink()
            m.submodules[f"sink{n}"] = reset(taker)
            wiring.connect(m, port.memory, memory.port)
            for kind in PASSING:
                source = Source(kind.value)
                m.submodules[f"source{n}_{kind.value}"] = reset(source)
                connect(m, source.o, getattr(port, f"i{kind.value}"))
                m.d.comb += [
                    source.go.eq(getattr(self, f"others{n}")),
                    source.rate.eq(4),
                    source.lines.eq(ANY_LINES),
                    getattr(self, f"sent{n}")[kind.value].eq(source.sent),
                ]
            for name, into in (("request", True), ("response", False)):
                mine, its = getattr(self, f"{name}{n}"), getattr(port, name)
                source, sink = (mine, its) if into else (its, mine)
                m.d.comb += [sink.valid.eq(source.valid), sink.payload.eq(source.payload), source.ready.eq(sink.ready)]
            m.d.comb += [
                port.node.eq(n + 1),
                port.room.eq(taker.room),
                taker.i.valid.eq(port.o.valid),
                taker.i.payload.eq(port.o.payload),
                port.o.ready.eq(1),
                taker.rate.eq(getattr(self, f"drain{n}")),
                taker.lines.eq(ANY_LINES),
                getattr(self, f"come{n}").eq(taker.totals),
                memory.knobs.eq(getattr(self, f"knobs{n}")),
                memory.backdoor.load.eq(0),
                wire.i.eq(port.lanes_o),
                *(getattr(wire, name).eq(getattr(self, f"{name}{n}")) for name in NOISE),
                getattr(self, f"counts{n}").eq(port.counts),
                getattr(self, f"state{n}").eq(port.state),
            ]
            for lane in range(p.lanes):
                m.submodules[f"deserializer{n}_{lane}"] = deserializer = Deserializer(2)
                m.d.comb += [
                    deserializer.i.eq(wire.o[lane]),
                    deserializer.slip.eq(other.slip[lane]),
                    deserializer.move.eq(self.move),
                    deserializer.phase.eq(self.phase),
                    other.lanes_i[lane].eq(deserializer.o),
                ]
        return m


def chips(lanes, latencies, **options):
    parameters = LinkParameters(lanes, timeout_bits=10, give_up=3000, settle=2)
    return Dut(lambda: Chips(parameters, latencies), **options)


DUTS = {
    "lanes1": chips(1, (1,)),
    "soak2": chips(2, (4, 1), soak=True, tests="reads|refusals|dies|reset"),
    "soak4": chips(4, (4, 1, 1, 2), soak=True, tests="reads|refusals|dies|reset"),
}


class ChipsBench(Bench):
    """Requests of both chips, and their answers."""

    async def start(self, *, latency=8, stall=0, up=True):
        for n in range(2):
            for name in (*NOISE, "rst", "others"):
                self.port(f"{name}{n}").value = 0
            self.port(f"drain{n}").value = 16
            self.memory(n, latency=latency, stall=stall)
        self.dut.phase.value, self.dut.move.value = 0, 1
        await self.reset()
        self.dut.move.value = 0
        if up:
            await self.until_up()

    def memory(self, n, **knobs):
        self.port(f"knobs{n}").value = pack(Knobs, knobs)

    def states(self):
        return [LinkState(int(self.port(f"state{n}").value)) for n in range(2)]

    def others(self, n):
        """By class: packets that chip `n` sent; and those that came to it, with how many parts were wrong."""
        sent, come = (self.port(f"{name}{n}").value.to_unsigned() for name in ("sent", "come"))
        come = data.ArrayLayout(Totals, CLASSES).from_bits(come)
        packets = [sent >> 32 * kind & 0xFFFFFFFF for kind in range(CLASSES)]
        return packets, [(come[kind].packets, come[kind].wrong) for kind in range(CLASSES)]

    def counts(self, n):
        return unpack(LinkCounts, self.port(f"counts{n}").value.to_unsigned())

    async def until_up(self, most=20_000):
        for _ in range(0, most, 20):
            await self.cycles(20)
            if self.states() == [LinkState.Active] * 2:
                return
        raise AssertionError(f"not up: {self.states()}")

    async def do(self, n, requests, stall=0.0, stall_out=0.0, most=60_000):
        """Send the requests of chip `n`; their answers, which must be as many and in their order."""
        requests = [{"target": 2 - n, "id": k % 256, "data": 0, **request} for k, request in enumerate(requests)]
        sending = cocotb.start_soon(self.send(f"request{n}", requests, stall))
        what = f"{len(requests)} answers for chip {n}"
        answers = await self.within(most, self.receive(f"response{n}", len(requests), stall_out), what)
        await sending
        for request, answer in zip(requests, answers):
            assert (answer.op, answer.id) == (request["op"], request["id"]), f"chip {n}: {request}"
        return answers


def runs(random, windows, most=24):
    """Places of all windows' lines in random order, many of them one after the other."""
    places = []
    for window in windows:
        at = 0
        while at < 200:
            length = random.choice((1, 1, 2, 4, 16, random.randrange(1, most)))
            places.append([(window, at + k) for k in range(length)])
            at += length
    random.shuffle(places)
    return [place for run in places for place in run]


async def write_and_read(bench, n, content, windows, stalls=(0.0, 0.0)):
    """Chip `n` writes the other's memory, and reads what it has written."""
    places = runs(bench.random, windows)
    for place in places:
        content[n, place] = bench.random.getrandbits(512)
    writes = [{"op": Op.Write, "window": w, "offset": at, "data": content[n, (w, at)]} for w, at in places]
    for answer in await bench.do(n, writes, *stalls):
        assert MemoryStatus(answer.status) is MemoryStatus.Ok
    places = runs(bench.random, windows)
    reads = [{"op": Op.Read, "window": w, "offset": at} for w, at in places if (n, (w, at)) in content]
    for read, answer in zip(reads, await bench.do(n, reads, *stalls)):
        where = read["window"], read["offset"]
        assert MemoryStatus(answer.status) is MemoryStatus.Ok
        assert answer.data == content[n, where], f"chip {n}, window and line {where}"


@cocotb.test()
@cocotb.parametrize(case=[(4, 0, 0.0, 0.0), (60, 6, 0.3, 0.3)])
async def reads_what_was_written(dut, case):
    """Both chips at once, each in windows of its own of the other's memory."""
    bench = ChipsBench(dut, DUTS)
    latency, stall, *stalls = case
    await bench.start(latency=latency, stall=stall)
    content = {}
    both = [cocotb.start_soon(write_and_read(bench, n, content, (2 * n, 2 * n + 1), stalls)) for n in range(2)]
    for one in both:
        await one
    for n in range(2):
        counts = bench.counts(n)
        assert (counts.again, counts.wrong, counts.timeouts) == (0, 0, 0)


@cocotb.test()
async def other_classes_pass_by(dut):
    """All that is sent of them comes, at the other port's ``o`` alone, and nothing of what is the ports' own."""
    bench = ChipsBench(dut, DUTS)
    await bench.start()
    content = {}
    for n in range(2):
        bench.port(f"others{n}").value, bench.port(f"drain{n}").value = 1, 8
    both = [cocotb.start_soon(write_and_read(bench, n, content, (2 * n,))) for n in range(2)]
    for one in both:
        await one
    for n in range(2):
        bench.port(f"others{n}").value = 0
    for _ in range(50):
        await bench.cycles(20)
        sent, come = [[bench.others(n)[k] for n in range(2)] for k in range(2)]
        if sent == [[packets for packets, _ in one] for one in reversed(come)]:
            break
    for n in range(2):
        expected = [(packets, 0) for packets in sent[1 - n]]
        assert come[n] == expected, f"packets that came to chip {n}, and wrong parts: {come[n]}, {expected} expected"
        kinds = [kind.value for kind in PASSING]
        assert all((packets > 5) == (kind in kinds) for kind, packets in enumerate(sent[n])), f"{sent[n]} sent"


@cocotb.test()
async def what_is_for_another_chip_is_given_on(dut):
    """A request whose target is not the chip to which it comes is given at ``o``, and nobody answers it."""
    bench = ChipsBench(dut, DUTS)
    await bench.start()
    reads = [{"op": Op.Read, "id": 0, "target": 5, "window": 0, "offset": 2 * k, "data": 0} for k in range(6)]
    bench.port("response0.ready").value = 1
    await bench.send("request0", reads)
    for _ in range(200):
        await ReadOnly()
        assert not bench.port("response0.valid").value, "it was answered"
        await RisingEdge(dut.clk)
    come = [packets for packets, _ in bench.others(1)[1]]
    assert come == [6, 0, 0, 0, 0, 0], f"{come} packets were given on"
    assert [packets for packets, _ in bench.others(0)[1]] == [0] * CLASSES


@cocotb.test()
async def classes_without_room_wait_alone(dut):
    """Their packets stay with the sender, and all else goes on."""
    bench = ChipsBench(dut, DUTS)
    await bench.start()
    bench.port("drain1").value, bench.port("others0").value = 0, 1
    await bench.cycles(400)
    await write_and_read(bench, 0, {}, (0,))
    bench.port("others0").value = 0
    kinds = [kind.value for kind in PASSING]
    for kind in kinds:
        sent, (come, _) = bench.others(0)[0][kind], bench.others(1)[1][kind]
        assert 0 < come < sent, f"class {kind}: {come} of {sent} came"
    bench.port("drain1").value = 16
    await bench.cycles(600)
    for kind in kinds:
        assert bench.others(1)[1][kind] == (bench.others(0)[0][kind], 0), f"class {kind}"


@cocotb.test()
async def reads_what_was_written_over_bad_wires(dut):
    bench = ChipsBench(dut, DUTS)
    await bench.start()
    for n in range(2):
        bench.port(f"errors{n}").value = round(2e-4 * 2**32)
        bench.port(f"bursts{n}").value = bench.port(f"drops{n}").value = round(2e-3 * 2**32)
    content = {}
    both = [cocotb.start_soon(write_and_read(bench, n, content, (2 * n,))) for n in range(2)]
    for one in both:
        await one
    assert all(bench.counts(n).again and not bench.counts(n).sessions for n in range(2))


@cocotb.test()
async def refusals_are_exact(dut):
    """Each of lines that follow one another has its own status, read or written; what is refused is not touched."""
    bench = ChipsBench(dut, DUTS)
    await bench.start()
    for limit in (5, 8, 13):
        bench.memory(1, latency=8, window=1, limit=limit)
        data = [bench.random.getrandbits(512) for _ in range(16)]
        writes = [{"op": Op.Write, "window": 1, "offset": k, "data": line} for k, line in enumerate(data)]
        # Amid others, which are not refused.
        others = [{"op": Op.Write, "window": 0, "offset": k, "data": line} for k, line in enumerate(data)]
        reads = [{"op": Op.Read, "window": window, "offset": k} for window in (0, 1) for k in range(16)]
        answers = await bench.do(0, others[:8] + writes + others[8:])
        found = [MemoryStatus(answer.status) is MemoryStatus.Ok for answer in answers]
        assert found == [True] * 8 + [k < limit for k in range(16)] + [True] * 8, f"limit {limit}: {found}"
        answers = await bench.do(0, reads)
        assert [answer.data for answer in answers[:16]] == data
        for k, answer in enumerate(answers[16:]):
            status = MemoryStatus(answer.status)
            assert (status is MemoryStatus.Ok) == (k < limit), f"limit {limit}, line {k}: {status}"
            assert status in (MemoryStatus.Ok, MemoryStatus.Refused)
            assert k >= limit or answer.data == data[k]


async def read_one(bench, request, response, fields):
    """Cycles from a request to its answer, on two streams."""
    bench.port(f"{request}.payload").value = pack(bench.shape(request), {"op": Op.Read, "window": 0, "id": 0, **fields})
    bench.port(f"{request}.valid").value = bench.port(f"{response}.ready").value = 1
    began = bench.now()
    await RisingEdge(bench.dut.clk)
    bench.port(f"{request}.valid").value = 0
    while True:
        await ReadOnly()
        if bench.port(f"{response}.valid").value:
            break
        await RisingEdge(bench.dut.clk)
        assert bench.now() - began < 200
    await RisingEdge(bench.dut.clk)
    return bench.now() - began


@cocotb.test()
async def round_trip(dut):
    """Of a read of one line: what the link adds to an access of a memory of one's own."""
    bench = ChipsBench(dut, DUTS)
    await bench.start(latency=20)
    found = []
    for k in range(40):
        await bench.cycles(40 + bench.random.randrange(8))
        remote = await read_one(bench, "request0", "response0", {"target": 2, "offset": k, "data": 0})
        local = await read_one(bench, "local.request", "local.response", {"offset": k, "data": 0})
        # Each way, the wires take theirs and the deserializer two.
        found.append(remote - local - 2 * (bench.component.latencies[0] + 2))
    keep_figures(**{"remote minus local 64-byte read, cycles": max(found)})
    assert max(found) <= 48, f"{sorted(found)}"


@cocotb.test()
async def throughput(dut):
    """Payload as a share of the raw line, line code, heads, CRC, acknowledgements and credits counted."""
    bench = ChipsBench(dut, DUTS)
    cycles, figures = 2048, {}
    for what, step in (("256-byte", 1), ("64-byte", 3)):
        for how, readers in (("one side", (0,)), ("both sides", (0, 1))):
            await bench.start()
            times = [[], []]
            for n in range(2):
                bench.port(f"response{n}.ready").value = 1
            read = {"op": Op.Read, "id": 0, "window": 0, "data": 0}
            places = [step * k % WINDOW_LINES for k in range(2 * cycles)]
            reads = [[read | {"target": 2 - n, "offset": place} for place in places] for n in range(2)]
            tasks = [cocotb.start_soon(bench.send(f"request{n}", reads[n])) for n in readers]

            async def watch(n, times=times):
                valid = bench.port(f"response{n}.valid")
                while True:
                    await ReadOnly()
                    if valid.value:
                        times[n].append(bench.now())
                    await RisingEdge(dut.clk)

            tasks += [cocotb.start_soon(watch(n)) for n in readers]
            await bench.cycles(600 + cycles + 20)
            for task in tasks:
                task.cancel()
            for n in readers:
                # From one packet to another, a whole number of markers later.
                first = next(k for k in range(0, cycles, 4) if times[n][k] >= times[n][0] + 500)
                last = next(k for k in range(first, cycles, 4) if times[n][k] >= times[n][first] + cycles)
                share = 100 * 512 * (last - first) / (257 * (times[n][last] - times[n][first]))
                name = f"{what} responses, {how} reading, % of the raw line"
                figures[name] = min(figures.get(name, 100), round(share, 2))
    keep_figures(**figures)
    dut._log.info(f"{figures}")


@cocotb.test()
async def each_request_is_answered_once_when_the_link_dies(dut):
    """A cut amid reads and writes: all end, in order, some as Failed; then all at once; when mended, as before."""
    bench = ChipsBench(dut, DUTS)
    await bench.start()
    lanes = (1 << bench.component.parameters.lanes) - 1
    places = runs(bench.random, (0, 1, 2))
    content = {}
    for cut in ((lanes, lanes), (lanes, 0)):
        await write_and_read(bench, 0, content, (0,))
        ops = [bench.random.choice(list(Op)) for _ in places]
        requests = [{"op": op, "window": 3, "offset": at, "data": at} for op, (_, at) in zip(ops, places)]
        doing = [cocotb.start_soon(bench.do(n, requests)) for n in range(2)]
        await bench.cycles(bench.random.randrange(100, 300))
        for n in range(2):
            bench.port(f"cut{n}").value = cut[n]
        statuses = [{MemoryStatus(answer.status) for answer in await one} for one in doing]
        assert all(MemoryStatus.Failed in one for one in statuses), f"{statuses}"
        # Now there is no link: no answer waits for one.
        began = bench.now()
        answers = await bench.do(0, requests[:50])
        assert {MemoryStatus(answer.status) for answer in answers} == {MemoryStatus.Failed}
        assert bench.now() - began < 200
        for n in range(2):
            bench.port(f"cut{n}").value = 0
        await bench.until_up(200_000)
        await write_and_read(bench, 0, content, (0,))
        assert all(bench.counts(n).sessions for n in range(2))


@cocotb.test()
async def each_request_is_answered_once_when_a_chip_is_reset(dut):
    bench = ChipsBench(dut, DUTS)
    await bench.start()
    content = {}
    requests = [{"op": Op.Read, "window": 3, "offset": at % 64} for at in range(300)]
    for wait in (50, 171):
        doing = cocotb.start_soon(bench.do(0, requests))
        await bench.cycles(wait)
        dut.rst1.value = 1
        await bench.cycles(3)
        dut.rst1.value = 0
        statuses = [MemoryStatus(answer.status) for answer in await doing]
        assert MemoryStatus.Failed in statuses
        await bench.until_up(200_000)
        await write_and_read(bench, 0, content, (0,))
        await write_and_read(bench, 1, content, (2,))
