"""Testbench of hw/link/relay.py."""

from collections import Counter, deque
from dataclasses import dataclass

import cocotb
from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.link.link import LinkCounts, LinkParameters
from tessera.hw.link.packet import Part
from tessera.hw.link.port import LinkPort
from tessera.hw.link.receiver import Delivery
from tessera.hw.link.relay import HOPS, PARTS, Relay
from tessera.hw.link.training import LinkState
from tessera.hw.memory.port import Access, MemoryStatus, Op
from tessera.hw.models.memory import IdealMemory, Knobs
from tessera.hw.models.serdes import Deserializer
from tessera.hw.models.wire import Wire
from tessera.tb.bench import Bench, Dut, pack, unpack
from tessera.tb.link.model import Packet

ANSWER_BITS = 12
ENDS = ("left", "near", "far", "right")
"""The ports of three chips: one at each end, and two in the middle, towards the left and the right one."""
NODES = {"left": 1, "near": 3, "far": 3, "right": 2}


class Detour(wiring.Component):
    """Three chips in a row, with a memory behind each port; the one in the middle relays between the others."""

    def __init__(self):
        parameters = LinkParameters(timeout_bits=10, give_up=3000, settle=2)
        self.ports = {name: LinkPort(parameters, answer_bits=ANSWER_BITS) for name in ENDS}
        members = {"errors": In(32), "cut": In(1), "move": In(1), "knobs": In(Knobs), "dropped": Out(6)}
        for name, port in self.ports.items():
            members |= {f"{stream}_{name}": port.signature.members[stream] for stream in ("request", "response")}
            members |= {f"state_{name}": Out(LinkState), f"counts_{name}": Out(LinkCounts)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.relay = relay = Relay(2)
        m.d.comb += self.dropped.eq(relay.dropped)
        for number, name in enumerate(("left", "right")):
            m.d.comb += [relay.routes[NODES[name]].known.eq(1), relay.routes[NODES[name]].port.eq(number)]
        for number, (name, port) in enumerate(self.ports.items()):
            m.submodules[name] = DomainRenamer({"receive0": "sync"})(port)
            m.submodules[f"memory_{name}"] = memory = IdealMemory(name=name, request=Access)
            wiring.connect(m, port.memory, memory.port)
            other = self.ports[ENDS[number ^ 1]]
            m.submodules[f"wire_{name}"] = wire = Wire((1,), seed=number + 1)
            m.submodules[f"deserializer_{name}"] = deserializer = Deserializer(2)
            m.d.comb += [
                memory.knobs.eq(self.knobs),
                memory.backdoor.load.eq(0),
                port.node.eq(NODES[name]),
                port.room.eq(-1),
                port.o.ready.eq(1),
                wire.i.eq(port.lanes_o),
                wire.errors.eq(self.errors),
                wire.cut.eq(self.cut & (number >= 2)),
                deserializer.i.eq(wire.o[0]),
                deserializer.slip.eq(other.slip[0]),
                deserializer.move.eq(self.move),
                other.lanes_i[0].eq(deserializer.o),
                getattr(self, f"state_{name}").eq(port.state),
                getattr(self, f"counts_{name}").eq(port.counts),
            ]
            for source, sink in (
                (getattr(self, f"request_{name}"), port.request),
                (port.response, getattr(self, f"response_{name}")),
            ):
                m.d.comb += [sink.valid.eq(source.valid), sink.payload.eq(source.payload), source.ready.eq(sink.ready)]
        for n, port in enumerate((self.ports["near"], self.ports["far"])):
            i, room = getattr(relay, f"i{n}"), getattr(relay, f"room{n}")
            m.d.comb += [
                i.valid.eq(port.o.valid),
                i.payload.eq(port.o.payload),
                relay.lost[n].eq(port.lost),
                *(port.room[first.value].eq(room[hop]) for hop, (first, _) in enumerate(HOPS)),
            ]
            for _, kind in HOPS:
                o, port_i = getattr(relay, f"o{n}_{kind.value}"), getattr(port, f"i{kind.value}")
                m.d.comb += [port_i.valid.eq(o.valid), port_i.payload.eq(o.payload), o.ready.eq(port_i.ready)]
        return m


RELAYS = "goes_on|has_no_link|waits_for|is_offered|take_turns|constructor"
DUTS = {
    "ports3": Dut(lambda: Relay(3), tests=RELAYS),
    "detour": Dut(Detour, tests="detour", soak=True),
}

DELAY = 3
"""Cycles from when a receiver sees that there is room to the first part of the packet that it gives."""
BITS = Shape.cast(Part).width
KINDS = [kind.value for kind, _ in HOPS]
FIELDS = ("form", "source", "target", "tag", "first", "status", "epoch")


@dataclass(frozen=True)
class Sent:
    """A packet that came whole: by which port, in which hop, where it goes, and how its parts look there."""

    port: int
    hop: int
    way: int | None
    parts: tuple


def looks(part):
    """What must not change on the way."""
    head = tuple(int(part.head[name]) for name in FIELDS) if part.first else None
    body = part.body if part.first and part.has_body else None
    line = part.line if part.has_line else None
    return int(part.first), int(part.last), int(part.has_line), head, body, line


class RelayBench(Bench):
    """Feeds all ports as receivers do, takes at random, and writes down what came and what went."""

    def __init__(self, dut):
        super().__init__(dut, DUTS)
        self.ports = self.component.ports
        self.sent, self.come, self.dropped = [], [], Counter()
        self.ready = {(n, k): 1.0 for n in range(self.ports) for k in range(3)}
        self.rate, self.lost, self.cut = 1.0, 0, 0.0
        self.routes = [None] * 16
        self.full, self.shared = set(), set()
        self.cycle, self.last_part = 0, {}
        self.targets = range(16)

    async def start(self, routes):
        """From reset, with these ports for the nodes from 0 on; None for one that is not known."""
        self.routes = list(routes) + [None] * (16 - len(routes))
        shape = self.component.signature.members["routes"].shape
        known = [{"known": way is not None, "port": way or 0} for way in self.routes]
        self.dut.routes.value = pack(shape, known)
        self.dut.lost.value = 0
        await self.reset()

    def packet(self, port):
        """Any that may come by this port."""
        random = self.random
        packet = Packet.random(random, random.choice([0, 0, 1, 1, 2, 4, 8]), random.random() < 0.5)
        target = random.choice(self.targets)
        head = packet.head & ~(15 << 44) | target << 44
        hop = random.randrange(3)
        way = self.routes[target]
        return hop, None if way == port else way, Packet(head, packet.body, packet.lines)

    async def run(self, cycles):
        """All ports for so long; then what is still there goes out."""
        ports = range(self.ports)
        coming, partial = [deque() for _ in ports], [None] * self.ports
        rooms = [deque([0] * DELAY) for _ in ports]
        amid, held = {}, {}
        silent = 0
        for cycle in range(cycles + 5000):
            stopped = cycle >= cycles
            # Losses, of any length.
            if not stopped and self.cut and self.random.random() < self.cut:
                self.lost ^= 1 << self.random.randrange(self.ports)
            self.lost = 0 if stopped else self.lost
            self.dut.lost.value = self.lost
            for n in ports:
                room = rooms[n].popleft()
                if self.lost >> n & 1:
                    # It ends there, and nothing more comes of it.
                    coming[n].clear()
                    partial[n] = None
                elif not coming[n] and not stopped and self.random.random() < self.rate:
                    hop, way, packet = self.packet(n)
                    if room >> hop & 1:
                        parts = [entry["part"] for entry in packet.parts()]
                        coming[n].extend((hop, way, part) for part in parts)
                valid = bool(coming[n])
                self.port(f"i{n}.valid").value = valid
                if valid:
                    hop, way, part = coming[n].popleft()
                    payload = pack(Delivery, {"kind": KINDS[hop], "part": part})
                    self.port(f"i{n}.payload").value = payload
                    part = unpack(Part, pack(Part, part))
                    partial[n] = [*(partial[n] or []), looks(part)] if not part.first else [looks(part)]
                    if part.last:
                        self.sent.append(Sent(n, hop, way, tuple(partial[n])))
                        self.last_part[len(self.sent) - 1] = cycle
                for hop in range(3):
                    go = self.random.random() < (1.0 if stopped else self.ready[n, hop])
                    self.port(f"o{n}_{HOPS[hop][1].value}.ready").value = go
            await ReadOnly()
            moved = False
            for n in ports:
                rooms[n].append(self.get(f"room{n}"))
                self.full |= {(n, hop) for hop in range(3) if not rooms[n][-1] >> hop & 1}
                dropped = self.dut.dropped.value.to_unsigned() >> 3 * n & 7
                for hop in range(3):
                    self.dropped[n, hop] += dropped >> hop & 1
                moved |= dropped != 0
                for hop in range(3):
                    moved |= self.take(n, hop, amid, held, cycle)
            silent = 0 if moved or not stopped else silent + 1
            self.cycle += 1
            await RisingEdge(self.dut.clk)
            if silent > 100:
                break
        assert silent > 100, "it never ends"
        assert not any(amid.values()), "a packet never ended"

    def take(self, n, hop, amid, held, cycle):
        """What one output offers, and whether it is taken."""
        stream = f"o{n}_{HOPS[hop][1].value}"
        if self.lost >> n & 1:
            assert not self.get(f"{stream}.valid"), f"{stream}: offered while lost"
            amid[n, hop], held[n, hop] = [], None
            return False
        valid = self.get(f"{stream}.valid")
        bits = self.port(f"{stream}.payload").value.to_unsigned() if valid else None
        was = held.get((n, hop))
        assert was is None or was == bits, f"{stream}, cycle {cycle}: what is offered changes"
        assert valid or not amid.get((n, hop)), f"{stream}, cycle {cycle}: it waits amid a packet"
        if not valid:
            return False
        if not self.get(f"{stream}.ready"):
            held[n, hop] = bits
            return False
        held[n, hop] = None
        part = unpack(Part, bits)
        so_far = amid.setdefault((n, hop), [])
        assert bool(part.first) == (not so_far), f"{stream}, cycle {cycle}: first amid a packet, or none at its begin"
        so_far.append(looks(part))
        if part.last:
            self.come.append((n, hop, tuple(so_far), cycle))
            amid[n, hop] = []
        return True

    def judge(self, *, lossless=True):
        """All that was sent came where it should, once, in order, or was dropped; the packets that came, as sent."""
        left = {}
        for number, sent in enumerate(self.sent):
            left.setdefault((sent.way, sent.hop, sent.port), deque()).append((number, sent))
        came = []
        for n, hop, parts, cycle in self.come:
            # Of which port, content says; what was sent before it there was dropped.
            for port in range(self.ports):
                line = left.get((n, hop, port), deque())
                at = next((at for at, (_, sent) in enumerate(line) if sent.parts == parts), None)
                if at is not None:
                    break
            assert at is not None, f"port {n}, hop {hop}, cycle {cycle}: a packet that was not sent, or out of order"
            assert at == 0 or not lossless, f"port {n}, hop {hop}, cycle {cycle}: packets before it are missing"
            number, _ = line[at]
            came.append((number, cycle))
            for _ in range(at + 1):
                line.popleft()
        wanted = Counter((sent.port, sent.hop) for sent in self.sent)
        got = Counter((self.sent[number].port, self.sent[number].hop) for number, _ in came)
        wanted.subtract(got)
        assert +wanted == +self.dropped, f"{+wanted} did not come, {+self.dropped} dropped"
        if lossless:
            ways = Counter((sent.port, sent.hop) for sent in self.sent if sent.way is None)
            assert ways == +self.dropped, f"{ways} have no way, {+self.dropped} dropped"
        return came


def routes_of(ports):
    """Some nodes behind each port, and some behind none."""
    return [n % (ports + 1) if n % (ports + 1) < ports else None for n in range(16)]


@cocotb.test()
@cocotb.parametrize(case=[(1.0, 1.0), (1.0, 0.5), (0.3, 1.0), (1.0, 0.05)])
async def all_goes_on_in_order(dut, case):
    """Packets of all forms by all ports, to all nodes; quick takers and slow ones."""
    bench = RelayBench(dut)
    bench.rate, ready = case
    bench.ready = dict.fromkeys(bench.ready, ready)
    await bench.start(routes_of(bench.ports))
    await bench.run(1500)
    came = bench.judge()
    assert len(came) > 50 and len({bench.sent[number].port for number, _ in came}) == bench.ports
    assert len({(n, hop) for n, hop, _, _ in bench.come}) == 3 * bench.ports
    assert all(bench.dropped[n, hop] for n in range(bench.ports) for hop in range(3))
    assert ready > 0.1 or len(bench.full) == 3 * bench.ports, f"only {bench.full} were full"


@cocotb.test()
@cocotb.parametrize(ready=[1.0, 0.3])
async def what_has_no_link_is_dropped(dut, ready):
    """Links are lost at any moment, and come back: packets are broken off as they come and as they go."""
    bench = RelayBench(dut)
    bench.ready = dict.fromkeys(bench.ready, ready)
    bench.cut = 0.02
    await bench.start(routes_of(bench.ports))
    await bench.run(4000)
    came = bench.judge(lossless=False)
    assert len(came) > 100
    with_way = Counter((sent.port, sent.hop) for sent in bench.sent if sent.way is None)
    assert sum(bench.dropped.values()) > sum(with_way.values()) + 20, "too few were dropped that had a way"


@cocotb.test()
async def a_class_waits_for_no_other(dut):
    """Of all that goes out by port 0, two classes are taken and the third never: all but that goes on."""
    bench = RelayBench(dut)
    for stuck in range(3):
        bench.ready = {(n, hop): float(n != 0 or hop != stuck) for n in range(bench.ports) for hop in range(3)}
        await bench.start([0, 1])
        bench.targets, bench.sent, bench.come, bench.dropped = [0, 1], [], [], Counter()
        before = bench.cycle
        await bench.run(600)
        bench.judge()
        for hop in range(3):
            during = [cycle for n, k, _, cycle in bench.come if n == 0 and k == hop and cycle < 600]
            assert (len(during) == 0) == (hop == stuck), f"hop {hop}, {stuck} stuck: {len(during)} packets"
        assert bench.cycle - before > 600


@cocotb.test()
async def a_packet_is_offered_a_cycle_after_its_last_part(dut):
    bench = RelayBench(dut)
    await bench.start([1, 1])
    bench.targets, bench.rate = [0], 0.02
    await bench.run(1000)
    lags = Counter()
    for number, cycle in bench.judge():
        sent = bench.sent[number]
        lags[cycle - bench.last_part[number] - (len(sent.parts) - 1)] += 1
    assert min(lags) == 1 and lags[1] > sum(lags.values()) / 2, f"{lags}"


@cocotb.test()
async def ports_take_turns(dut):
    """Two ports that both have enough for a third share it, packet by packet; one alone goes without a gap."""
    bench = RelayBench(dut)
    await bench.start([2])
    bench.targets = [0]
    bench.ready = dict.fromkeys(bench.ready, 0.7)
    await bench.run(1000)
    by_port = {hop: Counter() for hop in range(3)}
    for number, _ in bench.judge():
        sent = bench.sent[number]
        by_port[sent.hop][sent.port] += 1
    for counts in by_port.values():
        assert abs(counts[0] - counts[1]) <= 0.25 * (counts[0] + counts[1]), f"{by_port}"


@cocotb.test()
async def constructor_says_what_is_wrong(dut):
    for ports in (1, 9):
        try:
            Relay(ports)
        except ValueError as error:
            assert f"ports is {ports}" in str(error)
        else:
            raise AssertionError(f"{ports} ports were taken")
    assert PARTS == 16


class DetourBench(Bench):
    """Requests of any of the three chips."""

    async def start(self, errors=0.0):
        dut = self.dut
        dut.errors.value, dut.cut.value, dut.move.value = 0, 0, 0
        dut.knobs.value = pack(Knobs, {"latency": 20, "stall": 2})
        await self.reset()
        await self.until({LinkState.Active})
        dut.errors.value = round(errors * 2**32)

    def states(self):
        return {LinkState(self.get(f"state_{name}")) for name in ENDS}

    async def until(self, states, most=20_000):
        for _ in range(0, most, 20):
            await self.cycles(20)
            if self.states() == states:
                return
        raise AssertionError(f"{self.states()}, {states} expected")

    async def do(self, name, target, requests, most=60_000):
        """Requests of a chip to another one's memory; the answers, as many and in their order."""
        requests = [{"target": target, "id": k % 256, **request} for k, request in enumerate(requests)]
        sending = cocotb.start_soon(self.send(f"request_{name}", requests, 0.1))
        receiving = self.receive(f"response_{name}", len(requests), 0.1)
        answers = await self.within(most, receiving, f"{len(requests)} answers for {name}")
        await sending
        assert [(answer.op, answer.id) for answer in answers] == [(r["op"], r["id"]) for r in requests]
        return answers

    async def write_and_read(self, name, target, window, lines):
        """What is written comes back; all answers are ``Ok``."""
        content = {at: self.random.getrandbits(512) for at in self.random.sample(range(1 << 10), lines)}
        for at in list(content)[::5]:
            content |= {at + k: self.random.getrandbits(512) for k in range(1, self.random.randrange(2, 20))}
        writes = [{"op": Op.Write, "window": window, "offset": at, "data": data} for at, data in content.items()]
        answers = await self.do(name, target, writes)
        assert all(MemoryStatus(answer.status) is MemoryStatus.Ok for answer in answers)
        reads = [{"op": Op.Read, "window": window, "offset": at, "data": 0} for at in sorted(content)]
        for read, answer in zip(reads, await self.do(name, target, reads)):
            where = f"{name}, line {read['offset']} of {target}"
            assert MemoryStatus(answer.status) is MemoryStatus.Ok, where
            assert answer.data == content[read["offset"]], where

    def counts(self, name):
        return unpack(LinkCounts, self.port(f"counts_{name}").value.to_unsigned())


@cocotb.test()
@cocotb.parametrize(errors=[0.0, 1e-4])
async def a_detour_carries_all(dut, errors):
    """Both ends reach each other over the middle, which asks both itself, and is asked, all at once."""
    bench = DetourBench(dut, DUTS)
    await bench.start(errors)
    asks = [("left", 2, 0), ("right", 1, 0), ("near", 1, 1), ("far", 2, 1)]
    tasks = [cocotb.start_soon(bench.write_and_read(name, target, window, 60)) for name, target, window in asks]
    for task in tasks:
        await task
    await bench.write_and_read("left", 3, 2, 40)
    assert bench.get("dropped") == 0
    again = sum(bench.counts(name).again for name in ENDS)
    assert (again > 0) == (errors > 0)


@cocotb.test()
async def what_a_detour_loses_fails_once(dut):
    """The second link is cut: what waits fails, though the first one is well; what is asked of the middle does not."""
    bench = DetourBench(dut, DUTS)
    await bench.start()
    reads = [{"op": Op.Read, "window": 0, "offset": at, "data": 0} for at in range(500)]
    asking = cocotb.start_soon(bench.do("left", 2, reads, 200_000))
    await bench.cycles(300)
    dut.cut.value = 1
    answers = await asking
    found = [MemoryStatus(answer.status) for answer in answers]
    ok = found.count(MemoryStatus.Ok)
    assert 0 < ok < len(reads) and found[:ok] == [MemoryStatus.Ok] * ok, f"{ok} are Ok"
    assert set(found[ok:]) == {MemoryStatus.Failed}
    assert bench.counts("left").losses == 0
    await bench.write_and_read("left", 3, 2, 40)
    (answer,) = await bench.do("left", 2, reads[:1])
    assert MemoryStatus(answer.status) is MemoryStatus.Failed
    dut.cut.value = 0
    await bench.until({LinkState.Active}, 100_000)
    await bench.write_and_read("left", 2, 0, 40)
    await bench.write_and_read("right", 1, 0, 40)
