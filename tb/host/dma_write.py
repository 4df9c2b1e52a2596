"""DMA writes: the packets' bytes and shape, void lines, and what a reset core leaves behind."""

from __future__ import annotations

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge

from tessera.hw.host.dma_write import DmaWrite, WriteGuard
from tessera.hw.host.tlp import Fmt, PcieConfig, RequestHeader, TlpType
from tessera.tb.bench import Bench, Dut, pack

ID = 0x0300

DUTS = {
    "write": Dut(DmaWrite, tests=r"writes|void|cycles|nothing"),
    "guard": Dut(WriteGuard, stalls=True, tests=r"guard"),
}


def lines_of(payload, void=None):
    """The lines of a range; line `void`, if one is named, ends it."""
    pieces = [payload[n : n + 64].ljust(64, b"\0") for n in range(0, len(payload), 64)]
    lines = [{"data": int.from_bytes(piece, "little"), "void": n == void} for n, piece in enumerate(pieces)]
    return lines if void is None else lines[: void + 1]


class WriteBench(Bench):
    def __init__(self, dut):
        super().__init__(dut, DUTS)
        self.packets, self.taker = [], None

    async def start(self, max_payload=1, stall=0.0, number=ID):
        await self.reset()
        self.dut.config.value = pack(PcieConfig, {"id": number, "bus_master": 1, "max_payload": max_payload})
        self.number = number
        self.limit = 128 << min(max_payload, 1)
        self.memory = {}
        if self.taker:
            self.taker.cancel()
        self.taker = cocotb.start_soon(self._take(stall))

    async def _take(self, stall):
        while True:
            beats = await self.receive("packet", stall=stall, until=lambda beat: beat.last)
            header = RequestHeader.from_bits(beats[0].header)
            length = header.start.length
            four = header.start.fmt == Fmt.FourDwData
            address = header.dw2 << 32 | header.dw3 if four else header.dw2
            assert four == (address >= 1 << 32)
            start = {"length": length, "type": TlpType.Memory, "fmt": header.start.fmt}
            said = {name: getattr(header, name) for name in ("first_be", "last_be", "dw2", "dw3")}
            assert four or (header.start.fmt, header.dw3) == (Fmt.ThreeDwData, 0)
            assert beats[0].header == pack(RequestHeader, {"start": start, "requester": self.number, **said})
            assert [beat.first for beat in beats] == [1] + [0] * (len(beats) - 1)
            assert sum(beat.count for beat in beats) == length and all(beat.count == 16 for beat in beats[:-1])
            assert 4 * length <= self.limit and address % self.limit + 4 * length <= self.limit
            data = b"".join(beat.data.to_bytes(64, "little")[: 4 * beat.count] for beat in beats)
            enabled = [1] * (4 * length)
            for n in range(4):
                enabled[n] = header.first_be >> n & 1
                if length > 1:
                    enabled[-4 + n] = header.last_be >> n & 1
            self.memory.update((address + n, byte) for n, (byte, on) in enumerate(zip(data, enabled)) if on)
            self.packets.append((address, length))

    async def write(self, address, payload, stall=0.0, void=None):
        done = cocotb.start_soon(self.done())
        cocotb.start_soon(self.send("writer.request", [{"address": address, "bytes": len(payload)}]))
        cocotb.start_soon(self.send("writer.line", lines_of(payload, void), stall))
        await self.within(20000, done, "the write")
        await self.cycles(1)

    async def done(self):
        while True:
            await ReadOnly()
            done = self.dut.writer__done.value
            await RisingEdge(self.dut.clk)
            if done:
                return


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.5, 0.9], max_payload=[0, 1, 3])
async def writes_any_range(dut, stall_in, stall_out, max_payload):
    bench = WriteBench(dut)
    await bench.start(max_payload, stall_out)
    offsets = [0, 1, 2, 3, 4, 63, 64, 65, 127, 252, 255, 256, 4095]
    for n in range(16):
        address = bench.random.choice((1 << 33, 0x4000)) + bench.random.choice(offsets)
        payload = bench.random.randbytes(bench.random.choice((1, 2, 4, 63, 64, 65, 256, 257, 1500 + n)))
        bench.memory.clear()
        await bench.write(address, payload, stall_in)
        assert bench.memory == {address + k: byte for k, byte in enumerate(payload)}, f"{len(payload)} to {address:#x}"


@cocotb.test()
async def writes_to_any_address(dut):
    bench = WriteBench(dut)
    for _ in range(40):
        await bench.start(bench.random.randrange(8), 0.0, bench.random.getrandbits(16))
        for bits in (32, 64):
            address = bench.random.getrandbits(bits) & ~0x1000
            payload = bench.random.randbytes(bench.random.randrange(1, 700))
            bench.memory.clear()
            await bench.write(address, payload)
            assert bench.memory == {address + k: byte for k, byte in enumerate(payload)}, f"to {address:#x}"


@cocotb.test()
async def writes_long_ranges(dut):
    """Those that would take too long are only begun: full packets, and no end."""
    bench = WriteBench(dut)
    # Of the last ones, the lowest bits are the first packet, and what is left behind it is a power of two.
    for size in [(1 << power) + more for power in range(12, 32) for more in (0, 1, 63, 256)]:
        await bench.start()
        address = bench.random.getrandbits(32) << 8 if size & 256 else bench.random.getrandbits(40)
        await bench.send("writer.request", [{"address": address, "bytes": size}])
        bench.packets.clear()
        await bench.within(500, bench.send("writer.line", lines_of(bytes(64 * 30))))
        await bench.cycles(40)
        assert bench.packets[0][0] == address & ~3 and len(bench.packets) >= 6, f"{size} bytes"
        assert all(length == 64 for _, length in bench.packets[2:]), f"{size} bytes: {bench.packets}"
        assert not dut.writer__request__ready.value


@cocotb.test()
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.5])
async def a_void_line_ends_its_range(dut, stall_in, stall_out):
    bench = WriteBench(dut)
    await bench.start(1, stall_out)
    for address in (0x1000, 0x1001, 0x1003, 0x10C0, 0x10FF):
        for void in (0, 1, 2, 3, 4, 5, 8, 14, 15):
            payload = bench.random.randbytes(1000)
            bench.memory.clear()
            await bench.write(address, payload, stall_in, void)
            # What comes before the void line is written as far as a packet ends in it.
            whole, end = 0, address + 64 * void
            for at in range(address + 1, end + 1):
                if at % 256 == 0 or (at % 64 == 0 and address % 64 and at - address < 64):
                    whole = at - address
            assert bench.memory == {address + k: payload[k] for k in range(whole)}, f"line {void} at {address:#x}"
            await bench.write(address, payload)
            assert bench.memory == {address + k: byte for k, byte in enumerate(payload)}


@cocotb.test()
async def a_void_line_ends_a_range_of_any_size_at_once(dut):
    """Of 4 GiB, nothing is waited for: done comes as soon as after a short range, with the same line."""
    bench = WriteBench(dut)
    for void in (0, 5):
        cycles = set()
        for size in (1000, 1 << 20, (1 << 32) - 1):
            await bench.start()
            done = cocotb.start_soon(bench.done())
            began = bench.now()
            cocotb.start_soon(bench.send("writer.request", [{"address": 0x2001, "bytes": size}]))
            cocotb.start_soon(bench.send("writer.line", lines_of(bytes(1000), void)))
            await bench.within(100, done, f"end of a range of {size} bytes")
            cycles.add(bench.now() - began)
        assert len(cycles) == 1, f"line {void} is void: done after {cycles} cycles"


@cocotb.test()
async def nothing_is_done_at_once(dut):
    bench = WriteBench(dut)
    await bench.start()
    await bench.write(0x1234, b"")
    assert not bench.packets


@cocotb.test()
async def cycles_of_a_range(dut):
    bench = WriteBench(dut)
    await bench.start()
    for address, packets, extra in ((0x1000, [4] * 16, 1), (0x1040, [3] + [4] * 15 + [1], 1), (0x1001, None, 3)):
        # A line is taken in each cycle but one for each packet and those of the range.
        sender = cocotb.start_soon(bench.send("writer.request", [{"address": address, "bytes": 4096}]))
        feeder = cocotb.start_soon(bench.send("writer.line", lines_of(bytes(4096))))
        start, end = None, None
        while not feeder.done():
            await ReadOnly()
            if start is None and dut.writer__request__valid.value and dut.writer__request__ready.value:
                start = bench.now()
            if dut.writer__line__valid.value and dut.writer__line__ready.value:
                end = bench.now()
            await RisingEdge(dut.clk)
        await sender
        await bench.cycles(40)
        made = packets or [3] + [4] * 15
        wanted = sum(n + 1 for n in made) + extra
        dut._log.info("4096 bytes to %#x: %d cycles, %d by the formula", address, end - start + 1, wanted)
        assert end - start + 1 == wanted


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def writes_ranges_behind_one_another(dut, stall):
    """Each takes its own lines, although those of the next are there already, and as many cycles as alone."""
    bench = WriteBench(dut)
    await bench.start(1, stall)
    ranges = []
    for n in range(40):
        address = 0x10000 * n + bench.random.choice((0, 64, 192, bench.random.randrange(1, 5000)))
        ranges.append((address, bench.random.randbytes(bench.random.randrange(65, 1500))))
    finished = cocotb.start_soon(_count(dut.writer__done, len(ranges)))
    cocotb.start_soon(bench.send("writer.request", [{"address": a, "bytes": len(data)} for a, data in ranges], stall))
    cocotb.start_soon(bench.send("writer.line", [line for _, data in ranges for line in lines_of(data)], stall))
    taken, began = [], bench.now()
    while len(taken) < len(ranges):
        await ReadOnly()
        if dut.writer__request__valid.value and dut.writer__request__ready.value:
            taken.append(bench.now())
        assert bench.now() < began + 20_000, f"range {len(taken)} is not taken"
        await RisingEdge(dut.clk)
    await bench.within(500, finished, "the last range")
    await bench.cycles(1)
    assert bench.memory == {address + k: byte for address, data in ranges for k, byte in enumerate(data)}
    for (address, data), began, ended in zip(ranges, taken, taken[1:]):
        packets, at, end = [], address + -address % 64, address + len(data)
        while at < end:
            to = min(end, at + 256 - at % 256)
            packets.append((to - at + 63) // 64)
            at = to
        wanted = sum(n + 1 for n in packets) + (3 if address % 64 else 1)
        found = ended - began
        assert stall or found == wanted, f"{len(data)} bytes to {address:#x}: {found} cycles, {wanted} expected"


async def _count(signal, count):
    """Sleep for `count` cycles in which `signal` is high."""
    while count:
        await RisingEdge(cocotb.top.clk)
        await ReadOnly()
        count -= int(signal.value)
    await RisingEdge(cocotb.top.clk)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def guard_ends_what_a_reset_core_has_begun(dut, stall):
    bench = Bench(dut, DUTS)
    await bench.reset()
    ranges = []

    async def host():
        while True:
            (request,) = await bench.receive("port.request", 1, stall)
            due = (request.bytes + 63) // 64
            lines = []
            while len(lines) < due and not (lines and lines[-1].void):
                lines += await bench.receive("port.line", 1, stall)
            await bench.cycles(bench.random.randrange(1, 20))
            dut.port__done.value = 1
            await bench.cycles(1)
            dut.port__done.value = 0
            ranges.append((request.address, [(line.data, line.void) for line in lines]))

    cocotb.start_soon(host())
    dut.port__done.value = 0
    complete = 0
    for run in range(40):
        dut.running.value = 1
        payload = bench.random.randbytes(bench.random.randrange(1, 1000))
        lines = [line["data"] for line in lines_of(payload)]
        tasks = [
            cocotb.start_soon(bench.send("core.request", [{"address": run, "bytes": len(payload)}], stall)),
            cocotb.start_soon(bench.send("core.line", lines_of(payload), stall)),
        ]
        if run % 2:
            await bench.cycles(bench.random.randrange(1, 60))
            for task in tasks:
                task.cancel()
            dut.running.value = 0
            dut.core__request__valid.value = 0
            dut.core__line__valid.value = 0
            await bench.cycles(bench.random.randrange(1, 10))
            continue

        async def done():
            while True:
                await ReadOnly()
                high = dut.core__done.value
                await RisingEdge(dut.clk)
                if high:
                    return

        await bench.within(3000, done(), f"run {run}")
        await bench.cycles(2)
        complete += 1
        assert ranges[-1] == (run, [(line, 0) for line in lines]), f"run {run}"
        dut.running.value = 0
        await bench.cycles(2)
    assert complete == 20
    # Of the others, what came is a beginning of what was sent, with one void line behind it.
    assert any(lines[-1][1] for _, lines in ranges) and all(not void for _, lines in ranges for _, void in lines[:-1])


@cocotb.test()
async def guard_passes_requests_of_any_size(dut):
    bench = Bench(dut, DUTS)
    for power in range(7, 32):
        dut.port__done.value = 0
        dut.running.value = 0
        await bench.reset()
        dut.running.value = 1
        asked = {"address": bench.random.getrandbits(64), "bytes": (1 << power) + 1}
        await bench.send("core.request", [asked])
        (request,) = await bench.within(20, bench.receive("port.request", 1))
        assert (request.address, request.bytes) == (asked["address"], asked["bytes"])
        lines = [{"data": bench.random.getrandbits(512), "void": 0} for n in range(3)]
        cocotb.start_soon(bench.send("core.line", lines))
        got = await bench.within(50, bench.receive("port.line", 3))
        assert [(line.data, line.void) for line in got] == [(line["data"], line["void"]) for line in lines]
        # If more is due, a void line ends the range when the core is reset; nothing else comes.
        dut.running.value = 0
        if (1 << power) // 64 > 2:
            (end,) = await bench.within(20, bench.receive("port.line", 1))
            assert end.void
        await bench.cycles(10)
        assert not bench.get("port.line.valid")


@cocotb.test()
async def guard_lets_the_core_end_a_range_early(dut):
    bench = Bench(dut, DUTS)
    dut.port__done.value = 0
    dut.running.value = 0
    await bench.reset()
    dut.running.value = 1
    await bench.send("core.request", [{"address": 1, "bytes": 64 * 9}])
    sent = [{"data": n, "void": n == 2} for n in range(9)]
    feeder = cocotb.start_soon(bench.send("core.line", sent))
    got = await bench.within(50, bench.receive("port.line", 3))
    assert [line.void for line in got] == [0, 0, 1]
    dut.running.value = 0
    await bench.cycles(20)
    assert not feeder.done() and not bench.get("port.line.valid")


@cocotb.test()
async def guard_waits_for_the_range_of_the_run_before(dut):
    """The next run's request and done are its own."""
    bench = Bench(dut, DUTS)
    dut.port__done.value = 0
    dut.running.value = 0
    await bench.reset()
    dut.running.value = 1
    await bench.send("core.request", [{"address": 1, "bytes": 64}])
    await bench.within(20, bench.receive("port.request", 1))
    dut.running.value = 0
    await bench.cycles(2)
    dut.running.value = 1
    sender = cocotb.start_soon(bench.send("core.request", [{"address": 2, "bytes": 128}]))
    feeder = cocotb.start_soon(bench.send("core.line", lines_of(bytes([7]) * 128)))
    (line,) = await bench.within(20, bench.receive("port.line", 1))
    assert line.void
    await bench.cycles(20)
    assert not sender.done() and not feeder.done() and not bench.get("port.request.valid")
    dut.port__done.value = 1
    await ReadOnly()
    assert not bench.get("core.done"), "done of the run before"
    await RisingEdge(dut.clk)
    dut.port__done.value = 0
    (request,) = await bench.within(20, bench.receive("port.request", 1))
    assert request.address == 2
    got = await bench.within(20, bench.receive("port.line", 2))
    assert not any(line.void for line in got)
    await bench.cycles(5)
    assert sender.done() and feeder.done()
    dut.port__done.value = 1
    await ReadOnly()
    assert bench.get("core.done")
    await RisingEdge(dut.clk)
    dut.port__done.value = 0


async def start_guard(dut):
    """The bench of a guard whose core is in reset."""
    bench = Bench(dut, DUTS)
    dut.running.value = dut.port__done.value = 0
    await bench.reset()
    return bench


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def guard_passes_ranges_behind_one_another(dut, stall):
    """The next request may be offered at any time; it passes when the range before is done."""
    bench = await start_guard(dut)
    dut.running.value = 1
    sizes = [bench.random.choice((0, 64, 65, bench.random.randrange(1, 700))) for _ in range(30)]
    payloads = [bench.random.randbytes(size) for size in sizes]
    finished = cocotb.start_soon(_count(dut.core__done, len(sizes)))
    requests = [{"address": n, "bytes": size} for n, size in enumerate(sizes)]
    cocotb.start_soon(bench.send("core.request", requests, stall))
    cocotb.start_soon(bench.send("core.line", [line for data in payloads for line in lines_of(data)], stall))
    for n, data in enumerate(payloads):
        (request,) = await bench.within(200, bench.receive("port.request", 1, stall), f"request {n}")
        assert (request.address, request.bytes) == (n, len(data))
        wanted = lines_of(data)
        got = await bench.within(50 * len(wanted) + 1, bench.receive("port.line", len(wanted), stall)) if wanted else []
        assert [(line.data, line.void) for line in got] == [(line["data"], 0) for line in wanted], f"range {n}"
        await bench.cycles(bench.random.randrange(1, 20))
        assert not bench.get("port.request.valid") and not bench.get("port.line.valid"), f"before the end of range {n}"
        dut.port__done.value = 1
        await bench.cycles(1)
        dut.port__done.value = 0
    await bench.within(10, finished, "the core hears of the last end")


@cocotb.test()
async def guard_is_closed_to_a_core_in_reset(dut):
    bench = await start_guard(dut)
    sender = cocotb.start_soon(bench.send("core.request", [{"address": 5, "bytes": 64}]))
    feeder = cocotb.start_soon(bench.send("core.line", lines_of(bytes(64))))
    await bench.cycles(20)
    assert not sender.done() and not feeder.done()
    assert not bench.get("port.request.valid") and not bench.get("port.line.valid")
    dut.running.value = 1
    (request,) = await bench.within(40, bench.receive("port.request", 1))
    assert request.address == 5
    (line,) = await bench.within(40, bench.receive("port.line", 1))
    assert not line.void


@cocotb.test()
async def guard_hears_the_end_of_the_range_before_at_any_time(dut):
    """In the last cycle of the reset, in the first of the next run, or about then: it is not the core's."""
    for shift in range(-4, 5):
        bench = await start_guard(dut)
        dut.running.value = 1
        await bench.send("core.request", [{"address": 1, "bytes": 640}])
        await bench.within(40, bench.receive("port.request", 1))
        dut.running.value = 0
        (line,) = await bench.within(40, bench.receive("port.line", 1))
        assert line.void
        for cycle in range(12):
            dut.running.value = cycle >= 5
            dut.port__done.value = cycle == 5 + shift
            await ReadOnly()
            assert not bench.get("core.done"), f"done {shift} cycles from the start of the next run"
            await RisingEdge(dut.clk)
        sender = cocotb.start_soon(bench.send("core.request", [{"address": 2, "bytes": 64}]))
        (request,) = await bench.within(40, bench.receive("port.request", 1), f"the next request, {shift}")
        assert request.address == 2
        await sender


@cocotb.test()
async def guard_counts_the_lines_of_long_ranges(dut):
    bench = await start_guard(dut)
    if bench.stalled:
        return
    for lines in (1, 2, 65, (1 << 16) + 30, (1 << 16) + 31):
        await start_guard(dut)
        dut.running.value = 1
        dut.core__line__payload.value = bench.random.getrandbits(512)
        dut.core__line__valid.value = dut.port__line__ready.value = 1
        # A line passes in each cycle.
        await bench.send("core.request", [{"address": 7, "bytes": 64 * lines - bench.random.randrange(64)}])
        began = bench.now()
        await bench.within(lines + 10, _fall(dut.core__line__ready), f"the end of {lines} lines")
        assert bench.now() - began == lines
        await bench.cycles(4)
        assert not bench.get("port.line.valid") and not bench.get("core.line.ready")


async def _fall(signal):
    await FallingEdge(signal)
