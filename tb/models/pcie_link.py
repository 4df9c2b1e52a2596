"""Testbench of hw/models/pcie_link.py."""

from collections import defaultdict
from dataclasses import fields
from fractions import Fraction
from math import ceil
from random import Random

import cocotb
from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import connect
from tessera.hw.memory.port import Access, MemoryPort, MemoryStatus
from tessera.hw.models.pcie_link import PcieLine, PcieLink, PcieLinkParameters, PcieRead
from tessera.tb.bench import Bench, Dut, pack

REFUSED, POISONED = 62, 61
"""Windows that are answered so."""
MASKS = [[Random(10 * end + k).getrandbits(32) for k in range(16)] for end in range(2)]


def line_of(end, window, offset):
    """What end's memory has there: its place, scrambled differently in each word."""
    base = offset | window << 26
    words = ((base << k | base >> (32 - k)) & 0xFFFFFFFF ^ mask for k, mask in enumerate(MASKS[end]))
    return sum(word << 32 * k for k, word in enumerate(words))


class PatternMemory(wiring.Component):
    """A memory that holds :func:`line_of`, and answers out of order between ids.

    A request is answered ``latency`` cycles later at the earliest, 2 or more. Requests and responses are held back in
    stall/16 of the cycles; all requests while ``hold``.
    """

    port: In(MemoryPort(Access))
    latency: In(8)
    stall: In(4)
    hold: In(1)

    def __init__(self, end):
        self.end = end
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        entry = data.StructLayout({"offset": 26, "window": 6, "due": 12})
        time, dice = Signal(12), Signal(16, init=0xACE1)
        m.d.sync += [time.eq(time + 1), dice.eq(Cat(dice[1:], dice[0] ^ dice[2] ^ dice[3] ^ dice[5]))]
        request, response = self.port.request, self.port.response
        stalled, room = Signal(), Signal(8)
        m.d.comb += [
            stalled.eq(dice[4:8] < self.stall),
            request.ready.eq(room.bit_select(request.payload.id, 1) & ~stalled & ~self.hold),
        ]
        due = Signal(8)
        queues = [fifo.SyncFIFOBuffered(width=entry.size, depth=32) for _ in range(8)]
        for id, queue in enumerate(queues):
            m.submodules[f"queue{id}"] = queue
            head = data.View(entry, queue.r_data)
            m.d.comb += [
                queue.w_data.eq(Cat(request.payload.offset, request.payload.window, (time + self.latency)[:12])),
                queue.w_en.eq(request.valid & request.ready & (request.payload.id == id)),
                room[id].eq(queue.w_rdy),
                due[id].eq(queue.r_rdy & ((time - head.due).as_unsigned()[:12] < 0x800)),
            ]
        # The next id that is due, from a random one on; what was offered stays.
        chosen, kept, offered = Signal(3), Signal(3), Signal()
        first = Mux(self.stall == 0, 0, dice[:3])
        for k in reversed(range(8)):
            with m.If(due.bit_select((first + k)[:3], 1)):
                m.d.comb += chosen.eq(first + k)
        with m.If(offered):
            m.d.comb += chosen.eq(kept)
        place = Signal(32)
        with m.Switch(chosen):
            for id, queue in enumerate(queues):
                with m.Case(id):
                    m.d.comb += [place.eq(queue.r_data), queue.r_en.eq(response.valid & response.ready)]
        words = [place.rotate_left(k) ^ mask for k, mask in enumerate(MASKS[self.end])]
        m.d.comb += [
            response.valid.eq(offered | (due.any() & ~(dice[8:12] < self.stall))),
            response.payload.id.eq(chosen),
            response.payload.data.eq(Cat(words)),
        ]
        with m.Switch(place[26:]):
            with m.Case(REFUSED):
                m.d.comb += response.payload.status.eq(MemoryStatus.Refused)
            with m.Case(POISONED):
                m.d.comb += response.payload.status.eq(MemoryStatus.Poison)
        m.d.sync += [offered.eq(response.valid & ~response.ready), kept.eq(chosen)]
        return m


class Pair(wiring.Component):
    """A link with a memory at each end, and what tests want to know of it.

    Members
    -------
    cycle
        Cycles since reset.
    asked0, asked1
        Lines that were asked of this end's memory.
    most0, most1
        Of the lines asked of the other end's memory, how many this end had not got at the most.
    read_at0, read_at1, line_at0, line_at1
        Cycle in which this end's last read, and last line, was taken.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        members = {"latency": In(8), "stall": In(4), "hold": In(1), "cycle": Out(32)}
        for n in range(2):
            members[f"read{n}"] = In(stream.Signature(PcieRead))
            members[f"line{n}"] = Out(stream.Signature(PcieLine))
            names = "bytes", "tlps", "dllps", "asked", "most", "read_at", "line_at"
            members |= {f"{name}{n}": Out(32) for name in names}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.link = link = PcieLink(self.parameters)
        m.d.sync += self.cycle.eq(self.cycle + 1)
        for n in range(2):
            m.submodules[f"memory{n}"] = memory = PatternMemory(n)
            port = getattr(link, f"memory{n}")
            connect(m, port.request, memory.port.request)
            connect(m, memory.port.response, port.response)
            m.d.comb += [memory.latency.eq(self.latency), memory.stall.eq(self.stall), memory.hold.eq(self.hold)]
            read, line = getattr(self, f"read{n}"), getattr(self, f"line{n}")
            connect(m, read, getattr(link, f"read{n}"))
            connect(m, getattr(link, f"line{n}"), line)
            for name in ("bytes", "tlps", "dllps"):
                m.d.comb += getattr(self, f"{name}{n}").eq(getattr(link, f"{name}{n}"))
            asked, read_at, line_at = (getattr(self, f"{name}{n}") for name in ("asked", "read_at", "line_at"))
            m.d.sync += asked.eq(asked + (port.request.valid & port.request.ready))
            with m.If(read.valid & read.ready):
                m.d.sync += read_at.eq(self.cycle)
            with m.If(line.valid & line.ready):
                m.d.sync += line_at.eq(self.cycle)
            most, open_ = getattr(self, f"most{n}"), Signal(32, name=f"open{n}")
            m.d.comb += open_.eq(getattr(self, f"asked{1 - n}") - (getattr(self, f"bytes{n}") >> 6))
            with m.If(open_ > most):
                m.d.sync += most.eq(open_)
        return m


def build(**parameters):
    return lambda: Pair(PcieLinkParameters(**parameters))


MOST = "reads|efficiency|latency|limited|wrong"
ROOMY = {"generation": 6, "nonposted": 128, "tags": 100, "update_timer": 3000}
SCARCE = {
    **{"generation": 4, "raw_bits": 100, "switch_latency": 0, "tags": 2, "nonposted": 2, "completer_lines": 8},
    **{"replay_bytes": 552, "ack_every": 64, "ack_timer": 100, "update_timer": 3000},
}
DUTS = {
    "switched": Dut(build(), tests=MOST),
    "near": Dut(build(generation=3, switch_latency=0), tests=MOST),
    "flits": Dut(build(**ROOMY), tests=MOST + "|idle"),
    "flits_near": Dut(build(**ROOMY, switch_latency=0, raw_bits=320), tests=MOST, soak=True),
    "scarce": Dut(build(**SCARCE), tests="reads|latency|limited|scarce|idle"),
}


class LinkBench(Bench):
    def __init__(self, dut):
        super().__init__(dut, DUTS)
        self.parameters = self.component.parameters

    async def reset(self, latency=20, stall=0):
        self.dut.latency.value, self.dut.stall.value, self.dut.hold.value = latency, stall, 0
        await super().reset()
        self.dut.line0__ready.value = self.dut.line1__ready.value = 1

    def saturate(self, end, lines):
        """Let an end read lines 0 to ``lines - 1`` of window 0 again and again."""
        self.port(f"read{end}.payload").value = pack(PcieRead, {"lines": lines})
        self.port(f"read{end}.valid").value = 1

    async def rates(self, cycles):
        """What ``bytes0`` and the other counters count in so many cycles, after a while."""
        names = [f"{name}{end}" for name in ("bytes", "tlps", "dllps") for end in range(2)]
        await self.cycles(1000)
        before = {name: self.get(name) for name in names}
        await self.cycles(cycles)
        return {name: self.get(name) - before[name] for name in names}


def packets_of(offset, lines):
    """Lines of each request of a read, with the lines of each of its completions."""
    requests = []
    while lines:
        request = min(lines, 8, 64 - offset % 64)
        ends = [n for n in range(1, request) if (offset + n) % 4 == 0]
        requests.append((request, [end - begin for begin, end in zip([0, *ends], [*ends, request])]))
        offset, lines = offset + request, lines - request
    return requests


def random_reads(random):
    """Reads of 1 to 16 lines, each at each place of a 256-byte block; some cross a page, or a window's last line."""
    reads = []
    for lines in range(1, 17):
        for at in range(4):
            window = random.choice([0, 1, 17, 60, 63, REFUSED, POISONED])
            page = random.choice([0, 64, 4096, 2**25, 2**26 - 64])
            block = 60 if lines + at in (5, 8, 13, 16) else 4 * random.randrange(12)
            reads.append({"window": window, "offset": page + block + at, "lines": lines})
    reads.append({"window": 5, "offset": 2**26 - 1, "lines": 16})
    random.shuffle(reads)
    return [{**read, "tag_id": (7 * number) % 256} for number, read in enumerate(reads)]


@cocotb.test()
@cocotb.parametrize(memory=[(2, 0), (20, 6), (200, 12)])
async def reads_bring_each_line_once(dut, memory):
    """Both ends at once, with memories of these latencies and stalls."""
    bench = LinkBench(dut)
    await bench.reset(*memory)
    some = 4 if bench.parameters.tags < 8 else 1
    reads = [random_reads(bench.random)[::some] for _ in range(2)]
    totals = [sum(read["lines"] for read in of_end) for of_end in reads]
    takers = [cocotb.start_soon(bench.receive(f"line{end}", totals[end])) for end in range(2)]
    for end in range(2):
        cocotb.start_soon(bench.send(f"read{end}", reads[end], 0.5 * (memory[1] == 6)))
    packets = [
        [request for read in of_end for request in packets_of(read["offset"], read["lines"])] for of_end in reads
    ]
    for end in range(2):
        lines = await bench.within(60_000, takers[end], f"lines of end {end}")
        came = defaultdict(list)
        for line in lines:
            came[line.id].append(line)
        assert len(came) == len(reads[end])
        for read in reads[end]:
            window, where = read["window"], f"end {end}, {read}"
            status = {REFUSED: MemoryStatus.Refused, POISONED: MemoryStatus.Poison}.get(window, MemoryStatus.Ok)
            got = came[read["tag_id"]]
            assert [line.first for line in got] == list(range(read["lines"])), where
            for line in got:
                expected = line_of(1 - end, window, (read["offset"] + line.first) % 2**26)
                assert line.data == expected, f"{where}, line {line.first}: {line.data:x}, {expected:x} expected"
                assert line.status == status, where
    await bench.cycles(600)
    for end in range(2):
        assert not bench.get(f"line{end}.valid"), f"end {end} has a line too many"
        assert bench.get(f"bytes{end}") == 64 * totals[end] == 64 * bench.get(f"asked{1 - end}")
        sent = len(packets[end]) + sum(len(completions) for _, completions in packets[1 - end])
        assert bench.get(f"tlps{end}") == sent, f"end {end}: {bench.get(f'tlps{end}')} TLPs, {sent} expected"
        assert bench.get(f"most{end}") <= 8 * bench.parameters.tags


@cocotb.test()
@cocotb.parametrize(lines=[1, 4, 8], both=[False, True])
async def efficiency_is_that_of_the_formula(dut, lines, both):
    """Within half a percent below; of it are taken SKP sets and DLLPs, both ways requests as well."""
    bench = LinkBench(dut)
    p = bench.parameters
    if p.nonposted < 64 and p.switch_latency and lines == 1:
        return  # Too few credits for the way there and back.
    await bench.reset()
    for end in range(1 + both):
        bench.saturate(end, lines)
    cycles = 4000
    counts = await bench.rates(cycles)

    completions = packets_of(0, lines)[0][1]
    header, framed = (12, 0) if p.generation == 6 else (12, 8)
    size = sum(header + framed + 64 * n for n in completions)
    code = 236 / 256 if p.generation == 6 else 128 / 130
    ideal = {1: 75.0, 4: 91.3, 8: 91.3} if p.generation < 6 else {1: 77.6, 4: 88.1, 8: 88.1}
    assert abs(100 * 64 * lines / size * code - ideal[lines]) < 0.06
    if both:
        size += 16 + framed
    for end in range(1 + both):
        requests = counts[f"bytes{end}"] / 64 / lines
        came = requests * (1 + both * len(completions))
        told = counts[f"dllps{1 - end}"]
        capacity = cycles * p.raw_bits / 8 * code
        if p.generation < 6:
            capacity = capacity * 369 / 370 - 8 * told
            # An Ack may be for more TLPs, since it waits for a completion to end.
            acks, updates = came / p.ack_every, requests / (p.nonposted // 2)
            assert told <= acks + updates + 3, f"{told} DLLPs, {acks:.0f} Acks and {updates:.0f} UpdateFCs expected"
            assert told >= (0.98 if lines == 1 and not both else 0.5) * (acks + updates) - 3
        else:
            assert 0 < told <= 2 * (cycles * p.raw_bits / 2048 + 1)
        payload, expected = counts[f"bytes{end}"], capacity * 64 * lines / size
        share, formula = (100 * value * 8 / (cycles * p.raw_bits) for value in (payload, expected))
        cocotb.log.info(f"end {end}: {share:.2f} % payload, formula {formula:.2f} %, {told} DLLPs")
        assert 0.995 * expected < payload < expected + 2 * p.longest, f"{share:.2f} %, {formula:.2f} % expected"
    if not both:
        assert counts["bytes1"] == 0


def skp_cycles(p):
    """In which cycles wires that are idle begin the first SKP sets."""
    return [ceil(k * 370 * 130 / p.raw_bits) for k in range(1, 4)] if p.generation < 6 else []


def arrival(p, cycle, lines):
    """When a TLP of `lines` lines, 0 for a request, is there, if the wire has nothing else to send from `cycle` on."""
    if p.generation < 6:
        size, byte = 24 if lines == 0 else 20 + 64 * lines, Fraction(8 * 130, 128 * p.raw_bits)
        begin = max([cycle, *(skp + 16 * byte for skp in skp_cycles(p) if skp <= cycle)])
        return ceil(begin + size * byte)
    size = 16 if lines == 0 else 12 + 64 * lines
    flits = ceil(Fraction(cycle * p.raw_bits, 2048) + Fraction(size, 236))
    return ceil(Fraction(flits * 2048, p.raw_bits))


def times(p, read_at, memory, lines):
    """Of a read of aligned lines that is alone: when its completion begins, and when its last line is there."""
    seen = arrival(p, read_at + 1, 0) + p.switch_latency
    begun = seen + 1 + memory + lines - 1 + 3
    return begun, arrival(p, begun, lines) + p.switch_latency + 1 + lines - 1


@cocotb.test()
@cocotb.parametrize(lines=[1, 4], end=[0, 1])
async def latency_is_that_of_the_formula(dut, lines, end):
    """To the cycle: at each place of a flit, with various memories, and around SKP sets."""
    bench = LinkBench(dut)
    p = bench.parameters
    cases = [(cycle, 2 + 5 * cycle % 12) for cycle in range(4, 14)]
    for skp in skp_cycles(p)[:2]:
        ahead = times(p, 4, 20, lines)[0] - 4
        cases += [(cycle, 20) for near in (skp - 1, skp - ahead) for cycle in range(near - 1, near + 2) if cycle >= 4]
    for read_at, memory in cases:
        await bench.reset(memory)
        await bench.cycles(read_at - 1)
        await bench.send(f"read{end}", [{"lines": lines}])
        await bench.cycles(2 * p.switch_latency + 70)
        assert bench.get(f"read_at{end}") == read_at
        assert bench.get(f"bytes{end}") == 64 * lines
        _, expected = times(p, read_at, memory, lines)
        line_at = bench.get(f"line_at{end}")
        assert line_at == expected, f"read at {read_at}: line at {line_at}, {expected} expected"
        if lines == 1 and p.generation < 6 and read_at < 14:
            request, completion = (ceil(size * 1040 / (p.raw_bits * 128)) for size in (24, 84))
            assert line_at - read_at == 6 + request + completion + 2 * p.switch_latency + memory


@cocotb.test()
async def requests_are_limited_by_credits_and_tags(dut):
    """A memory that takes nothing gives no credit back; when it does, all goes on."""
    bench = LinkBench(dut)
    p = bench.parameters
    await bench.reset()
    dut.hold.value = 1
    reads = 3 * p.tags
    senders = [cocotb.start_soon(bench.send(f"read{end}", [{"lines": 1}] * reads)) for end in range(2)]
    await bench.cycles(700)
    for end in range(2):
        assert bench.get(f"tlps{end}") == min(p.tags, p.nonposted)
        assert bench.get(f"bytes{end}") == 0
    dut.hold.value = 0
    for sender in senders:
        await bench.within(10_000, sender)
    await bench.cycles(1000)
    for end in range(2):
        assert bench.get(f"bytes{end}") == 64 * reads == 64 * bench.get(f"asked{1 - end}")
        assert min(p.tags, p.nonposted, p.completer_lines) <= bench.get(f"most{end}") <= p.tags


@cocotb.test()
async def scarce_replay_room_is_waited_for(dut):
    """Two completions find room; the Ack for both comes when the first one's timer has run."""
    bench = LinkBench(dut)
    await bench.reset()
    bench.saturate(0, 8)
    cycles = 4000
    counts = await bench.rates(cycles)
    first = 276 * 1040 / (bench.parameters.raw_bits * 128)
    period = cycles / (counts["bytes0"] / 512)
    assert first + 100 <= period <= first + 106, f"{period:.1f} cycles for two completions"


@cocotb.test()
async def idle_ends_tell_their_credits(dut):
    bench = LinkBench(dut)
    timer = bench.parameters.update_timer
    await bench.reset()
    await bench.cycles(timer - 20)
    told = []
    for _ in range(4):
        told.append([bench.get(f"{name}{end}") for name in ("dllps", "tlps") for end in range(2)])
        await bench.cycles(40 if len(told) % 2 else timer - 40)
    assert told == [[2 * (n // 2 + n % 2), 2 * (n // 2 + n % 2), 0, 0] for n in range(len(told))]


@cocotb.test()
async def wrong_parameters_are_refused(dut):
    bench = LinkBench(dut)
    await bench.reset()
    limits = {
        "generation": (3, 6),
        "raw_bits": (16, 320),
        "request_bytes": (16, 64),
        "completion_overhead": (16, 64),
        "tags": (1, 256),
        "nonposted": (1, 128),
        "completer_lines": (8, 256),
        "replay_bytes": (276, 65536),
        "ack_every": (1, 64),
        "ack_timer": (1, 4096),
        "update_timer": (256, 2**20),
        "switch_latency": (0, 4096),
    }
    assert set(limits) == {field.name for field in fields(PcieLinkParameters)}
    wrong = [(name, value) for name, (low, high) in limits.items() for value in (low - 1, high + 1)]
    for name, value in [*wrong, ("completer_lines", 24)]:
        try:
            PcieLinkParameters(**{name: value})
        except ValueError as error:
            assert str(error).startswith(f"{name} is {value}; ") and "expected" in str(error), error
        else:
            raise AssertionError(f"{name} {value} was taken")
    for name, bounds in limits.items():
        for value in bounds:
            PcieLinkParameters(**{name: value})
