"""The host port against cocotbext-pcie's root complex: enumeration, registers, MSI, rings, DMA, and every failure."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise, product

import cocotb
from cocotb.queue import Queue
from cocotb.triggers import Event, ReadOnly, RisingEdge
from cocotbext.axi import Region
from cocotbext.pcie.core import Device, Endpoint, RootComplex
from cocotbext.pcie.core.tlp import CplStatus, Tlp, TlpAttr, TlpTc, TlpType

from tessera.hw.engine import EngineKind
from tessera.hw.host.descriptor import RECORD_BYTES, Slot, TaskEntry, descriptor_bytes, record_of
from tessera.hw.host.dma_read import ReadConfig
from tessera.hw.host.port import HostConfig, HostPort
from tessera.hw.host.registers import ADDRESS, BAR_BYTES, IDENTIFICATION, ChipParameters, StatusBit
from tessera.hw.host.tlp import Beat, CompletionStatus, Credit, Fmt, PcieConfig
from tessera.hw.host.tlp import TlpType as Kind
from tessera.hw.link.routes import Route
from tessera.hw.memory.port import Rights
from tessera.tb.bench import CYCLE_NS, Bench, Dut, pack

TIMEOUT = 1000

LINKS = 3
CONFIG = HostConfig(chip=ChipParameters(links=LINKS), read=ReadConfig(timeout=TIMEOUT))

DUTS = {"port": Dut(lambda: HostPort(CONFIG), stalls=True)}

CONFIGURATION = (TlpType.CFG_READ_0, TlpType.CFG_WRITE_0, TlpType.CFG_READ_1, TlpType.CFG_WRITE_1)


class Chip(Endpoint):
    """The chip as cocotbext-pcie sees it: configuration space here, all other packets through the DUT's streams.

    Completions of different tags reach the chip in any order if `shuffle` is set.
    """

    def __init__(self, bench, stall, wide):
        super().__init__()
        self.bench, self.stall, self.shuffle = bench, stall, stall > 0
        self.configure_bar(0, BAR_BYTES, ext=wide, prefetch=wide)
        self.requests, self.completions = [], {}
        self.arrived = Event()
        self.outbox = Queue()
        self.outstanding = {}
        self.held = None
        """Completions are kept in this list instead of being passed on, if it is one."""
        self.random = random.Random(bench.random.random())
        for task in (self._drive(), self._monitor(), self._send()):
            cocotb.start_soon(task)

    def match_tlp(self, tlp):
        return super().match_tlp(tlp) if tlp.fmt_type in CONFIGURATION or tlp.is_completion() else True

    async def handle_tlp(self, tlp):
        if tlp.fmt_type in CONFIGURATION:
            await super().handle_tlp(tlp)
            return
        tlp.release_fc()
        self.give(tlp)

    def give(self, tlp):
        """Queue a packet for the chip."""
        if tlp.is_completion() and self.held is not None:
            self.held.append(tlp)
        elif tlp.is_completion():
            self.completions.setdefault(tlp.tag if self.shuffle else 0, []).append(tlp)
        else:
            self.requests.append(tlp)
        self.arrived.set()

    def _next(self):
        queues = [queue for queue in [self.requests, *self.completions.values()] if queue]
        return self.random.choice(queues).pop(0) if queues else None

    async def _drive(self):
        dut, shape = self.bench.dut, Beat
        while True:
            tlp = self._next()
            if tlp is None:
                self.arrived.clear()
                await self.arrived.wait()
                await RisingEdge(dut.clk)
                continue
            header = tlp.pack_header().ljust(16, b"\0")
            header = sum(int.from_bytes(header[4 * n : 4 * n + 4], "big") << 32 * n for n in range(4))
            payload = bytes(tlp.data) if tlp.has_data() else b""
            pieces = [payload[n : n + 64] for n in range(0, len(payload), 64)] or [b""]
            for n, piece in enumerate(pieces):
                while self.random.random() < self.stall:
                    await RisingEdge(dut.clk)
                dut.pcie__from_host__payload.value = pack(
                    shape,
                    {
                        "data": int.from_bytes(piece, "little"),
                        "header": header if n == 0 else self.random.getrandbits(128),
                        "count": len(piece) // 4,
                        "first": n == 0,
                        "last": n == len(pieces) - 1,
                    },
                )
                dut.pcie__from_host__valid.value = 1
                while True:
                    await ReadOnly()
                    taken = dut.pcie__from_host__ready.value
                    await RisingEdge(dut.clk)
                    if taken:
                        break
                dut.pcie__from_host__valid.value = 0
            if tlp.is_completion() and self._ends(tlp):
                self.outstanding.pop(tlp.tag, None)

    def _ends(self, tlp):
        return tlp.status != CplStatus.SC or tlp.byte_count <= tlp.length * 4 - (tlp.lower_address & 3)

    async def _monitor(self):
        dut = self.bench.dut
        beats, offered = [], False
        while True:
            dut.pcie__to_host__ready.value = self.random.random() >= self.stall
            credit = {"posted": self.random.random() >= self.stall, "nonposted": self.random.random() >= self.stall}
            dut.pcie__credit.value = credit["posted"] | credit["nonposted"] << 1
            await ReadOnly()
            valid, ready = int(dut.pcie__to_host__valid.value), int(dut.pcie__to_host__ready.value)
            if valid:
                beat = Beat.from_bits(int(dut.pcie__to_host__payload.value))
                if beat.first and not offered:
                    fmt, kind = beat.header >> 29 & 7, beat.header >> 24 & 31
                    if kind == 0 and not self.bench.stalled:
                        assert credit["posted" if fmt & 2 else "nonposted"], "a request started without credit"
                    offered = True
                if ready:
                    assert beat.first == (not beats), "first is set on the first beat and nowhere else"
                    beats.append(beat)
                    if beat.last:
                        self.outbox.put_nowait(self._packet(beats))
                        beats, offered = [], False
            elif beats and not self.bench.stalled:
                raise AssertionError("a gap within a packet")
            await RisingEdge(dut.clk)

    def _packet(self, beats):
        """The beats as a packet, with everything checked that the root complex does not check."""
        header = b"".join((beats[0].header >> 32 * n & 0xFFFF_FFFF).to_bytes(4, "big") for n in range(4))
        assert all(beat.header == 0 for beat in beats[1:])
        tlp = Tlp.unpack_header(header)
        data = b"".join(beat.data.to_bytes(64, "little")[: 4 * beat.count] for beat in beats)
        assert all(beat.count == 16 for beat in beats[:-1]), "only a packet's last beat may be short"
        if tlp.has_data():
            tlp.data = bytearray(data)
        assert len(data) == (4 * tlp.length if tlp.has_data() else 0), f"{tlp!r}"
        config = self.pcie_cap
        if tlp.is_completion():
            assert tlp.completer_id == self.pcie_id
            return tlp
        assert self.bus_master_enable, "a request though the chip is not allowed to send any"
        assert tlp.requester_id == self.pcie_id
        assert (tlp.address >> 32 != 0) == (tlp.get_header_size() == 16), "the short form is for addresses below 4 GiB"
        assert (tlp.last_be == 0) == (tlp.length == 1) and tlp.first_be != 0
        ends = f"{tlp.last_be:04b}{tlp.first_be:04b}"
        assert "0" not in ends.strip("0"), "the bytes of a request must be without holes"
        if tlp.has_data():
            assert 4 * tlp.length <= 128 << config.max_payload_size and 4 * tlp.length <= 256
        else:
            assert 4 * tlp.length <= 128 << config.max_read_request_size and 4 * tlp.length <= 512
            assert tlp.tag < (256 if config.extended_tag_field_enable else 32)
            assert tlp.tag not in self.outstanding, f"tag {tlp.tag} is in use"
            self.outstanding[tlp.tag] = tlp
        return tlp

    async def _send(self):
        while True:
            await self.send(await self.outbox.get())


class PortBench(Bench):
    """The host port below a root complex that has enumerated it."""

    def __init__(self, dut):
        super().__init__(dut, DUTS)

    async def start(self, *, stall=0.0, wide=False, payload=1, read=2, rcb=False, split=False, extended=True):
        dut = self.dut
        await self.reset()
        dut.pcie__config.value, dut.pcie__credit.value, dut.counter_value.value = 0, 0, 0
        dut.node.value, dut.link_status.value = 0, 0
        self.rc = RootComplex()
        self.rc.log.setLevel("WARNING")
        self.chip = Chip(self, stall, wide)
        self.chip.log.setLevel("WARNING")
        device = Device(self.chip)
        device.log.setLevel("WARNING")
        self.rc.make_port().connect(device)
        await self.rc.enumerate()
        self.found = self.rc.find_device(self.chip.pcie_id)
        await self.found.enable_device()
        await self.found.set_master()
        self.rc.max_payload_size = payload
        self.rc.read_completion_boundary, self.rc.split_on_all_rcb = rcb, split
        capability = self.chip.pcie_cap
        capability.max_payload_size, capability.max_read_request_size = payload, read
        capability.extended_tag_field_enable = extended
        self.bar = self.found.bar_window[0]
        self.bar_address = self.found.bar_addr[0]
        self.configure()
        pool = self.rc.mem_address_space.create_pool(0x12_0000_0000, 1 << 24)
        high = pool.alloc_region(1 << 16)
        self.regions = [self.rc.alloc_region(1 << 16), (high.get_absolute_address(0), high.mem)]
        for _, memory in self.regions:
            memory[:] = self.random.randbytes(len(memory))

    def configure(self):
        capability = self.chip.pcie_cap
        self.dut.pcie__config.value = pack(
            PcieConfig,
            {
                "id": int(self.chip.pcie_id),
                "bus_master": self.chip.bus_master_enable,
                "extended_tag": capability.extended_tag_field_enable,
                "max_payload": capability.max_payload_size,
                "max_read": capability.max_read_request_size,
                "bar": self.bar_address,
            },
        )

    async def get(self, name):
        return await self.within(20000, self.bar.read_dword(ADDRESS[name]), f"reading of {name}")

    async def put(self, name, value):
        await self.bar.write_dword(ADDRESS[name], value)

    async def ask(self, tlp, tag=200):
        """Give the chip a request without the root complex; its completion."""
        tlp.tag = tag
        self.chip.give(tlp)
        cpl = await self.rc.recv_cpl(tag, 20000 * CYCLE_NS, "ns")
        assert cpl is not None, f"no completion of {tlp!r}"
        return cpl

    async def completions_held(self, cycles=1):
        """What was kept back when the first came, and some cycles from then; none is any more."""
        began = self.now()
        while not self.chip.held:
            assert self.now() - began < 20000, "no completion came"
            await self.cycles(10)
        await self.cycles(cycles)
        held, self.chip.held = self.chip.held, None
        return held

    async def read_range(self, address, count, stall=0.0):
        cocotb.start_soon(self.send("ingest.request", [{"address": address, "bytes": count}]))
        lines = await self.within(
            60000, self.receive("ingest.line", stall=stall, until=lambda line: line.last), f"read of {count} bytes"
        )
        assert len(lines) == (count + 63) // 64
        return b"".join(int(line.data).to_bytes(64, "little") for line in lines), lines[-1].status

    async def write_range(self, address, payload, stall=0.0):
        async def done():
            while True:
                await RisingEdge(self.dut.clk)
                if self.dut.egress__done.value:
                    return

        task = cocotb.start_soon(done())
        lines = [payload[n : n + 64].ljust(64, b"\0") for n in range(0, len(payload), 64)]
        cocotb.start_soon(self.send("egress.request", [{"address": address, "bytes": len(payload)}]))
        cocotb.start_soon(
            self.send("egress.line", [{"data": int.from_bytes(line, "little"), "void": 0} for line in lines], stall)
        )
        await self.within(60000, task, f"write of {len(payload)} bytes")


@cocotb.test()
@cocotb.parametrize(wide=[False, True], stall=[0.0, 0.4])
async def registers(dut, wide, stall):
    bench = PortBench(dut)
    await bench.start(wide=wide, stall=stall)
    assert (bench.bar_address >> 32 != 0) == wide
    assert await bench.get("IDENTIFICATION") == IDENTIFICATION
    for at, count in (*((byte, 1) for byte in range(4)), (0, 2), (1, 2), (2, 2), (1, 3)):
        found = await bench.within(20000, bench.bar.read(at, count), f"reading of {count} bytes from {at}")
        assert bytes(found) == b"TESS"[at : at + count]
    await bench.put("WINDOW_BASE", 0x1234_5678)
    assert await bench.get("WINDOW_BASE") == 0x1234_5678
    await bench.put("CONTROL", 0xA5A5)
    await bench.get("CONTROL")
    assert dut.abort.value == 0xA5A5
    dut.counter_value.value = 0x1122_3344_5566_7788
    await bench.put("COUNTER_SELECT", 77)
    assert await bench.get("COUNTER_LOW") == 0x5566_7788
    assert dut.counter_select.value == 77
    dut.counter_value.value = 0
    assert await bench.get("COUNTER_HIGH") == 0x1122_3344, "the high half goes with the low one"


@cocotb.test()
async def a_register_is_answered_after_5_cycles(dut):
    bench = PortBench(dut)
    if bench.stalled:
        return
    await bench.start()
    reading = cocotb.start_soon(bench.get("IDENTIFICATION"))
    began = bench.now()
    await ReadOnly()
    while not (dut.pcie__from_host__valid.value and dut.pcie__from_host__ready.value):
        assert bench.now() - began < 1000
        await RisingEdge(dut.clk)
        await ReadOnly()
    taken = bench.now()
    while not dut.pcie__to_host__valid.value:
        assert bench.now() - taken < 100
        await RisingEdge(dut.clk)
        await ReadOnly()
    assert bench.now() - taken == 5
    await reading


@cocotb.test()
async def windows_are_set_by_their_length(dut):
    bench = PortBench(dut)
    await bench.start(stall=0.3)
    wanted = []
    collector = cocotb.start_soon(bench.receive("window", 5, 0.5))
    for index in (0, 1, 5, 62, 63):
        window = (index, *(bench.random.getrandbits(bits) for bits in (4, 30, 27)))
        wanted.append(window)
        await bench.put("WINDOW_INDEX", index)
        await bench.put("WINDOW_RIGHTS", window[1])
        await bench.put("WINDOW_BASE", window[2])
        await bench.put("WINDOW_LENGTH", window[3])
    got = await bench.within(20000, collector)
    assert [(w.index, pack(Rights, w.window.rights), w.window.base, w.window.length) for w in got] == wanted


@cocotb.test()
async def links_and_routes(dut):
    """The chip's number, a route, and a link's state pass the port."""
    bench = PortBench(dut)
    await bench.start(stall=0.3)
    dut.node.value = 9
    assert await bench.get("NODE") == LINKS << 8 | 9
    collector = cocotb.start_soon(bench.receive("route", 2, 0.5))
    for node, route in ((3, 0x5A), (12, 0x0F)):
        await bench.put("ROUTE_NODE", node)
        await bench.put("ROUTE", route)
    got = await bench.within(20000, collector)
    assert [(entry.node, pack(Route, entry.route)) for entry in got] == [(3, 0x5A), (12, 0x0F)]
    await bench.put("LINK_INDEX", 5)
    dut.link_status.value = 0x711
    assert await bench.get("LINK_STATE") == 0x711
    assert dut.link_index.value == 5


def request(kind, address, length=1, first_be=15, last_be=0, data=b""):
    tlp = Tlp()
    tlp.fmt_type, tlp.address, tlp.length, tlp.first_be, tlp.last_be = kind, address, length, first_be, last_be
    tlp.data = bytearray(data)
    return tlp


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def unsupported_requests(dut, stall):
    bench = PortBench(dut)
    await bench.start(stall=stall)
    bar, count = bench.bar_address, 0
    for tlp, byte_count, lower in (
        (request(TlpType.MEM_READ, bar + BAR_BYTES), 4, 0),
        (request(TlpType.MEM_READ, bar, 2, 15, 15), 8, 0),
        (request(TlpType.MEM_READ, bar + 0x44, 3, 8, 1), 6, 0x47),
        (request(TlpType.MEM_READ_64, bar | 1 << 40), 4, 0),
        (request(TlpType.MEM_READ_LOCKED, bar), 4, 0),
        (request(TlpType.IO_READ, 0x100), 4, 0),
        (request(TlpType.IO_WRITE, 0x100, data=b"abcd"), 4, 0),
        (request(TlpType.FETCH_ADD, bar, data=b"abcd"), 4, 0),
        (request(TlpType.CAS, bar, 20, 15, 15, data=bytes(80)), 4, 0),
    ):
        tlp.attr, tlp.tc = TlpAttr(bench.random.randrange(8)), TlpTc(bench.random.randrange(8))
        cpl = await bench.ask(tlp)
        assert (cpl.status, cpl.length, cpl.has_data()) == (CplStatus.UR, 0, False), f"{tlp!r}: {cpl!r}"
        assert (cpl.byte_count, cpl.lower_address) == (byte_count, lower), f"{tlp!r}: {cpl!r}"
        assert (cpl.attr, cpl.tc) == (tlp.attr, tlp.tc), f"{tlp!r}: {cpl!r}"
        assert (cpl.fmt_type == TlpType.CPL_LOCKED) == (tlp.fmt_type == TlpType.MEM_READ_LOCKED)
        count += 1
    # A read of no byte is a flush: it is answered with a DW.
    cpl = await bench.ask(request(TlpType.MEM_READ, bar, first_be=0))
    assert (cpl.status, cpl.length, cpl.byte_count) == (CplStatus.SC, 1, 1)
    before = await bench.get("WINDOW_BASE")
    at = bar + ADDRESS["WINDOW_BASE"]
    poisoned = request(TlpType.MEM_WRITE, at, data=b"aaaa")
    poisoned.ep = True
    for tlp, counted in (
        (request(TlpType.MEM_WRITE, at, 2, 15, 15, b"abcdefgh"), 1),
        (request(TlpType.MEM_WRITE, at, 40, 15, 15, bytes(160)), 1),
        (request(TlpType.MEM_WRITE, at, first_be=7, data=b"abcd"), 1),
        (request(TlpType.MEM_WRITE, at, first_be=0, data=b"abcd"), 0),
        (request(TlpType.MEM_WRITE, at + BAR_BYTES, data=b"abcd"), 1),
        (poisoned, 1),
    ):
        bench.chip.give(tlp)
        count += counted
        assert await bench.get("WINDOW_BASE") == before, f"{tlp!r} has changed a register"
    assert await bench.get("BUS_UNSUPPORTED") == count
    assert await bench.get("IDENTIFICATION") == IDENTIFICATION


@dataclass
class Packet:
    """A packet from the host, bit by bit: also what cocotbext-pcie cannot make."""

    fmt: int
    kind: int
    address: int
    length: int = 1
    ep: int = 0
    first_be: int = 15
    last_be: int = 0
    attr: int = 0
    tc: int = 0
    tag: int = 0
    requester: int = 0
    ignored: int = 0
    """Bits of DW 0 that mean nothing to the chip: AT, TD, TH and LN."""
    data: list[int] = field(default_factory=list)

    def beats(self, draw):
        at, hints = (self.ignored & 3) << 10, self.ignored >> 2 << 15
        start = self.length & 1023 | at | (self.attr & 3) << 12 | self.ep << 14 | hints | (self.attr >> 2) << 18
        start |= (self.tag >> 8 & 1) << 19 | self.tc << 20 | (self.tag >> 9) << 23 | self.kind << 24 | self.fmt << 29
        ids = self.first_be | self.last_be << 4 | (self.tag & 255) << 8 | self.requester << 16
        four = self.fmt & 1
        low, high = self.address & 0xFFFF_FFFF, self.address >> 32
        words = [start, ids, high, low] if four else [start, ids, low, draw(32)]
        header = sum(word << 32 * n for n, word in enumerate(words))
        pieces = [self.data[n : n + 16] for n in range(0, len(self.data), 16)] or [[]]
        for n, piece in enumerate(pieces):
            rest = [draw(32) for _ in range(16 - len(piece))]
            yield {
                "data": sum(word << 32 * k for k, word in enumerate(piece + rest)),
                "header": header if n == 0 else draw(128),
                "count": len(piece),
                "first": n == 0,
                "last": n == len(pieces) - 1,
            }

    def fate(self, bar):
        """The row of :class:`Receiver`'s table that it belongs to."""
        memory = self.kind == Kind.Memory.value
        in_bar = memory and self.length == 1 and not self.ep and self.address >> 12 == bar >> 12
        atomic = self.kind in (Kind.FetchAdd.value, Kind.Swap.value, Kind.CompareSwap.value)
        if self.fmt & 4:
            return "dropped"
        if self.kind == Kind.Completion.value:
            return "completion"
        if self.fmt & 2 and in_bar and self.first_be in (0, 15):
            return "written" if self.first_be else "nothing"
        if not self.fmt & 2 and in_bar:
            return "read"
        reads = not self.fmt & 2 and (memory or self.kind == Kind.MemoryLocked.value)
        others = self.kind in (Kind.Io.value, Kind.Config0.value, Kind.Config1.value)
        return "refused" if reads or others or (atomic and self.fmt & 2) else "dropped"

    def completion(self, completer, refused):
        """The header that answers it. Ref: PCI Express Base 3.0, 2.2.9, 2.3.1.1 (byte count and lower address)."""
        first, count = 0, 4
        if self.kind in (Kind.Memory.value, Kind.MemoryLocked.value):
            first = next((n for n in range(4) if self.first_be >> n & 1), 0)
            ends = self.first_be if self.length == 1 else self.last_be
            last = next((n for n in (3, 2, 1, 0) if ends >> n & 1), 3)
            count = 4 * (self.length or 1024) - first - (3 - last)
            if self.length == 1 and self.first_be == 0:
                count = 1
            first |= self.address & 0x7C
        kind = Kind.CompletionLocked if self.kind == Kind.MemoryLocked.value else Kind.Completion
        start = (not refused) | (self.attr & 3) << 12 | (self.attr >> 2) << 18 | (self.tag >> 8 & 1) << 19
        start |= self.tc << 20 | (self.tag >> 9) << 23 | kind.value << 24
        start |= (Fmt.ThreeDw if refused else Fmt.ThreeDwData).value << 29
        status = CompletionStatus.UnsupportedRequest if refused else CompletionStatus.Successful
        ids = count & 0xFFF | status.value << 13 | completer << 16
        return start | ids << 32 | (first | (self.tag & 255) << 8 | self.requester << 16) << 64


class PacketBench(Bench):
    """The host port without a root complex: packets of any content, and what a page of registers then holds."""

    HELD = ("SUBMIT_BASE_LOW", "SUBMIT_BASE_HIGH", "COMPLETE_BASE_LOW", "COMPLETE_BASE_HIGH", "MSI_DATA")

    def __init__(self, dut, stall):
        super().__init__(dut, DUTS)
        self.stall = stall
        self.page = {ADDRESS[name]: 0 for name in self.HELD}
        self.counts = {"BUS_UNSUPPORTED": 0, "BUS_UNEXPECTED": 0}

    async def start(self, bar):
        await self.reset()
        self.dut.counter_value.value, self.dut.pcie__credit.value = 0, 3
        self.configure(bar)

    def configure(self, bar):
        self.bar, self.id = bar, self.random.getrandbits(16)
        fields = {"id": self.id, "bus_master": 1, "max_payload": 1, "max_read": 2, "bar": bar}
        self.dut.pcie__config.value = pack(PcieConfig, fields)

    def some(self, fmt, kind, **fields):
        """A packet that is random but for `fields`; in BAR 0 unless they say otherwise."""
        draw, data = self.random.getrandbits, []
        fields.setdefault("length", 1)
        if fmt & 2:
            data = [draw(32) for _ in range(fields["length"] or 1024)]
        offset = self.random.choice(list(self.page))
        chosen = {"address": self.bar >> 12 << 12 | offset, "last_be": draw(4), "attr": draw(3), "tc": draw(3)}
        chosen |= {"tag": draw(10), "requester": draw(16), "ignored": draw(5), "data": data}
        return Packet(fmt, kind, **chosen | fields)

    def transfer(self):
        """Begin to read and to write as much as goes at once."""
        for name in ("ingest", "egress"):
            cocotb.start_soon(self.send(f"{name}.request", [{"address": 0, "bytes": 1 << 14}]))
        cocotb.start_soon(self.send("egress.line", [{"data": n, "void": 0} for n in range(1 << 8)]))

    async def seen(self, cycles):
        """Which packets begin within some cycles, and when."""
        valid, payload, packets = self.dut.pcie__to_host__valid, self.dut.pcie__to_host__payload, []
        self.dut.pcie__to_host__ready.value = 1
        for _ in range(cycles):
            await ReadOnly()
            beat = Beat.from_bits(int(payload.value)) if valid.value else None
            if beat is not None and beat.first:
                completion = beat.header >> 24 & 31 == Kind.Completion.value
                kind = "completion" if completion else "write" if beat.header >> 30 & 1 else "read"
                packets.append((kind, self.now()))
            await RisingEdge(self.dut.clk)
        self.dut.pcie__to_host__ready.value = 0
        return packets

    async def treat(self, packet):
        """Give it to the chip: its answer and all effects are those of the table."""
        fate, offset = packet.fate(self.bar), packet.address & 0xFFF
        beats = packet.beats(self.random.getrandbits)
        await self.within(20000, self.send("pcie.from_host", beats, self.stall), f"taking {packet}")
        if fate == "read":
            await self.answered(packet, self.page.get(offset, 0))
        elif fate == "refused":
            await self.answered(packet, None)
        elif fate == "written" and offset in self.page:
            self.page[offset] = packet.data[0]
        unknown = fate in ("read", "written") and offset not in self.page
        self.counts["BUS_UNSUPPORTED"] += fate in ("refused", "dropped") or unknown
        self.counts["BUS_UNEXPECTED"] += fate == "completion"
        await self.expect({offset if offset in self.page else self.random.choice(list(self.page))}, f"after {packet}")

    async def expect(self, offsets, when):
        """What these registers hold, and the counts of bad packets."""
        counts = {ADDRESS[name]: count for name, count in self.counts.items()}
        for offset, wanted in [*((offset, self.page[offset]) for offset in offsets), *counts.items()]:
            reading = self.some(int(self.bar >> 32 != 0), Kind.Memory.value, address=self.bar >> 12 << 12 | offset)
            await self.send("pcie.from_host", reading.beats(self.random.getrandbits))
            await self.answered(reading, wanted, when)

    async def answered(self, packet, value, when="at once"):
        (beat,) = await self.within(20000, self.receive("pcie.to_host", 1, self.stall), f"the answer to {packet}")
        wanted = packet.completion(self.id, value is None)
        assert (beat.first, beat.last, beat.count) == (1, 1, value is not None), f"{packet}: {beat}"
        assert beat.header == wanted, f"{packet} is answered with {beat.header:#x}, {wanted:#x} expected {when}"
        found = beat.data & 0xFFFF_FFFF
        assert value in (None, found), f"{packet}: register is {found:#x}, {value:#x} expected {when}"


@cocotb.test()
@cocotb.parametrize(high=[False, True])
async def packets_are_treated_as_the_table_says(dut, high):
    bench = PacketBench(dut, 0.5 * high)
    draw = bench.random.getrandbits
    await bench.start(draw(64 if high else 32))
    four, memory = int(high), Kind.Memory.value
    for fmt, kind in product(range(four, 8, 2), range(32)):
        await bench.treat(bench.some(fmt, kind, first_be=bench.random.choice((0, 15, draw(4)))))
    for write, be in product((0, 2), range(16)):
        await bench.treat(bench.some(write | four, memory, first_be=be))
    for write in (0, 2):
        await bench.treat(bench.some(write | four, memory, ep=1))
    for bit in range(10):
        length = 1 ^ 1 << bit
        await bench.treat(bench.some(four, bench.random.choice((0, 1)), length=length, first_be=draw(4)))
        if length <= 65:
            await bench.treat(bench.some(2 | four, memory, length=length))
        await bench.treat(bench.some(four, memory, length=draw(10), first_be=draw(4)))
    await bench.expect(bench.page, "in the end")


@cocotb.test()
@cocotb.parametrize(bits=[32, 64])
async def bar_0_is_a_page_at_any_address(dut, bits):
    bench = PacketBench(dut, 0.0)
    first, four, memory = bench.random.getrandbits(bits), int(bits > 32), Kind.Memory.value
    await bench.start(first)
    for bar in (first, first ^ (1 << bits) - 1):
        bench.configure(bar)
        for write, bit in product((0, 2), range(12, bits)):
            await bench.treat(bench.some(write | four, memory, address=bar ^ 1 << bit))
        for write, bit in product((0, 2), range(2, 12)):
            if 1 << bit not in ADDRESS.values():
                await bench.treat(bench.some(write | four, memory, address=bar >> 12 << 12 | 1 << bit))
    await bench.expect(bench.page, "in the end")


@cocotb.test()
async def reads_and_writes_take_turns(dut):
    """Whenever both have waited for a while, and may begin in a single cycle."""
    bench = PacketBench(dut, 0.0)
    if bench.stalled:
        return
    await bench.start(0)
    bench.transfer()
    watch = cocotb.start_soon(bench.seen(30 * 20))
    for _ in range(30):
        dut.pcie__credit.value = 0
        await bench.cycles(19)
        dut.pcie__credit.value = pack(Credit, {"posted": 1, "nonposted": 1})
        await bench.cycles(1)
    kinds = [kind for kind, _ in await watch]
    assert len(kinds) >= 29 and all(a != b for a, b in pairwise(kinds)), f"{kinds}"


@cocotb.test()
@cocotb.parametrize(credit=["posted", "nonposted"])
async def what_has_to_wait_holds_up_nothing_else(dut, credit):
    bench = PacketBench(dut, 0.0)
    await bench.start(0)
    dut.pcie__credit.value = pack(Credit, {credit: 1})
    bench.transfer()
    kinds = [kind for kind, _ in await bench.seen(200)]
    assert len(kinds) > 3 and set(kinds) == {"write" if credit == "posted" else "read"}, f"{kinds}"


@cocotb.test()
async def a_completion_waits_for_the_rest_of_a_packet_alone(dut):
    """Of 4 beats at the most, from 5 cycles after its request was taken."""
    bench = PacketBench(dut, 0.0)
    if bench.stalled:
        return
    await bench.start(0)
    bench.transfer()
    watch = cocotb.start_soon(bench.seen(400))
    taken = []
    for _ in range(20):
        await bench.cycles(bench.random.randrange(8, 16))
        reading = bench.some(0, Kind.Memory.value)
        taken.append(await bench.send("pcie.from_host", reading.beats(bench.random.getrandbits)))
    began = [cycle for kind, cycle in await watch if kind == "completion"]
    # A beat is taken at the end of the cycle before.
    waits = [at - (since - 1) for at, since in zip(began, taken)]
    assert len(waits) == 20 and set(waits) <= set(range(5, 9)), f"{waits}"


HOSTS = {
    "plain": {},
    "stalls": {"stall": 0.4},
    "small": {"payload": 0, "read": 0, "split": True, "stall": 0.2, "extended": False},
    "large": {"payload": 2, "read": 5, "rcb": True, "stall": 0.1},
    "split": {"payload": 1, "read": 1, "rcb": True, "split": True, "stall": 0.3},
}


def some_range(bench, n):
    """Offset and bytes: at edges, and anywhere."""
    draw = bench.random.randrange
    at = bench.random.choice((draw(4096), 4096 - draw(5), 4 * n, 64 * n + 63))
    return at, bench.random.choice((1, 2, 3, 4, 5, 64, draw(1, 300), draw(1, 9000)))


@cocotb.test()
@cocotb.parametrize(host=list(HOSTS))
async def reads_any_range(dut, host):
    bench = PortBench(dut)
    await bench.start(**HOSTS[host])
    for n in range(14):
        base, memory = bench.regions[n % 2]
        at, count = some_range(bench, n)
        got, status = await bench.read_range(base + at, count, bench.random.choice((0, 0.5)))
        assert status == CompletionStatus.Successful
        wanted = bytes(memory[at : at + count])
        assert got == wanted.ljust(len(got), b"\0"), f"{count} bytes from {base + at:#x}"


@cocotb.test()
@cocotb.parametrize(host=list(HOSTS))
async def writes_any_range(dut, host):
    bench = PortBench(dut)
    await bench.start(**HOSTS[host])
    wanted = [bytearray(memory[:]) for _, memory in bench.regions]
    for n in range(14):
        base, _ = bench.regions[n % 2]
        at, count = some_range(bench, n)
        payload = bench.random.randbytes(count)
        await bench.write_range(base + at, payload, bench.random.choice((0, 0.3)))
        wanted[n % 2][at : at + count] = payload
    # Reading a register pushes the writes before it.
    await bench.get("STATUS")
    for (base, memory), expected in zip(bench.regions, wanted):
        found = bytes(memory[:])
        at = next((n for n in range(len(found)) if found[n] != expected[n]), None)
        assert at is None, f"host byte {base + at:#x}: {found[at]:#x}, {expected[at]:#x} expected"


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4], size=[2, 8])
async def rings_and_msi(dut, stall, size):
    bench = PortBench(dut)
    await bench.start(stall=stall)
    (submit, submit_memory), (complete, complete_memory) = bench.regions
    (vector,) = bench.rc.msi_region.alloc_vectors(1)
    for name, value in (
        ("MSI_ADDRESS_LOW", vector.addr & 0xFFFF_FFFF), ("MSI_ADDRESS_HIGH", vector.addr >> 32),
        ("MSI_DATA", vector.data), ("MSI_ENABLE", 1),
        ("SUBMIT_BASE_LOW", submit & 0xFFFF_FFFF), ("SUBMIT_BASE_HIGH", submit >> 32), ("SUBMIT_SIZE", size),
        ("COMPLETE_BASE_LOW", complete & 0xFFFF_FFFF), ("COMPLETE_BASE_HIGH", complete >> 32), ("COMPLETE_SIZE", size),
    ):
        await bench.put(name, value)
    entries = [
        TaskEntry(EngineKind(n % 5), tag=n, source=Slot(n, n + 1, n + 2, n + 3), params=bench.random.getrandbits(128))
        for n in range(3 * size + 1)
    ]

    async def dispatcher():
        for n, entry in enumerate(entries):
            (got,) = await bench.receive("descriptors", 1, stall)
            assert got.as_bits() == int.from_bytes(descriptor_bytes(entry), "little"), f"descriptor {n}"
            await bench.send("records", [{"tag": got.task.tag, "where": 3 * n, "cycles": n << 20, "last": 1}], stall)

    worker = cocotb.start_soon(dispatcher())
    given, taken, began = 0, 0, bench.now()
    while taken < len(entries):
        assert bench.now() - began < 60_000
        free = min(await bench.get("SUBMIT_HEAD") + size, len(entries))
        for n in range(given, free):
            at = n % size * RECORD_BYTES
            submit_memory[at : at + RECORD_BYTES] = descriptor_bytes(entries[n])
        given = free
        await bench.put("SUBMIT_TAIL", given)
        await bench.within(30000, vector.event.wait(), "an MSI")
        vector.event.clear()
        while True:
            at = taken % size * RECORD_BYTES
            record = record_of(bytes(complete_memory[at : at + RECORD_BYTES]))
            if taken == len(entries) or record["sequence"] != taken or record["tag"] != taken:
                break
            assert (record["where"], record["cycles"], record["last"]) == (3 * taken, taken << 20, 1)
            taken += 1
        tail = await bench.get("COMPLETE_TAIL")
        assert taken <= tail <= given
        await bench.put("COMPLETE_HEAD", taken)
    await bench.within(1000, worker)
    await bench.cycles(500)
    assert not vector.event.is_set(), "an MSI for nothing"


@cocotb.test()
async def no_request_without_bus_master(dut):
    bench = PortBench(dut)
    await bench.start()
    bench.chip.bus_master_enable = False
    bench.configure()
    base, memory = bench.regions[0]
    reading = cocotb.start_soon(bench.read_range(base, 100))
    await bench.cycles(TIMEOUT // 2)
    assert await bench.get("IDENTIFICATION") == IDENTIFICATION, "completions pass all the same"
    bench.chip.bus_master_enable = True
    bench.configure()
    got, _ = await bench.within(5000, reading)
    assert got[:100] == bytes(memory[:100])


class Aborting(Region):
    """Memory whose reading fails."""

    async def _read(self, address, length, **kwargs):
        raise RuntimeError("this memory cannot be read")


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3])
async def failed_reads(dut, stall):
    bench = PortBench(dut)
    await bench.start(stall=stall, read=0)
    base, memory = bench.regions[0]
    broken = Aborting(4096)
    bench.rc.mem_address_space.register_region(broken, 0x20_0000_0000, 4096)

    async def good():
        got, status = await bench.read_range(base + 5, 1000)
        assert status == CompletionStatus.Successful and got[:1000] == bytes(memory[5:1005])

    _, status = await bench.read_range(0x21_0000_0000, 1000)
    assert status == CompletionStatus.UnsupportedRequest
    await good()
    _, status = await bench.read_range(0x20_0000_0001, 1000)
    assert status == CompletionStatus.CompleterAbort
    await good()
    for spoil, wanted in (
        (lambda cpl: setattr(cpl, "ep", True), CompletionStatus.Poisoned),
        (lambda cpl: cpl.set_data(bytes(cpl.data) + bytes(64)), CompletionStatus.Malformed),
        (lambda cpl: (setattr(cpl, "fmt_type", TlpType.CPL), cpl.set_data(b"")), CompletionStatus.Malformed),
    ):
        bench.chip.held = []
        reading = cocotb.start_soon(bench.read_range(base, 500))
        held = await bench.completions_held(200)
        spoil(held[len(held) // 2])
        for cpl in held:
            bench.chip.give(cpl)
        _, status = await bench.within(20000, reading)
        assert status == wanted, f"{status}, {wanted} expected"
        bench.chip.outstanding.clear()
        await bench.cycles(200)
        await good()


@cocotb.test()
async def silence_is_timed_out_and_late_completions_are_dropped(dut):
    bench = PortBench(dut)
    await bench.start()
    base, memory = bench.regions[1]
    bench.chip.held = []
    started = bench.now()
    _, status = await bench.read_range(base, 100)
    assert status == CompletionStatus.Timeout
    assert TIMEOUT <= bench.now() - started <= TIMEOUT + 400
    late, bench.chip.held = bench.chip.held, None
    assert len(late) == 1
    # Use every tag once more, so that the late completion's number is in use again when it comes.
    bench.chip.outstanding.clear()
    got, status = await bench.read_range(base, 512 * 31)
    assert status == CompletionStatus.Successful and got == bytes(memory[: 512 * 31])
    before = await bench.get("BUS_UNEXPECTED")
    bench.chip.held = []
    reading = cocotb.start_soon(bench.read_range(base + 7, 300))
    held = await bench.completions_held()
    assert {cpl.tag & 31 for cpl in held} == {cpl.tag & 31 for cpl in late}
    for cpl in late + held:
        bench.chip.give(cpl)
    got, status = await bench.within(5000, reading)
    assert status == CompletionStatus.Successful and got[:300] == bytes(memory[7:307])
    assert await bench.get("BUS_UNEXPECTED") == before + 1
    assert await bench.get("BUS_FAILED") == 1
    assert await bench.get("STATUS") >> StatusBit.DMA_IDLE & 1
