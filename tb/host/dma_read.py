"""DMA reads against completions made in Python: any order, any split, wrong ones and none."""

from __future__ import annotations

from hashlib import sha512

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge

from tessera.hw.host.dma_read import DmaRead, ReadConfig, ReadGuard
from tessera.hw.host.tlp import CompletionStatus, Fmt, PcieConfig, RequestHeader, TlpType
from tessera.tb.bench import Bench, Dut, pack

TIMEOUT = 300

DUTS = {
    "small": Dut(lambda: DmaRead(ReadConfig(readers=2, tags=4, lines=32, timeout=TIMEOUT)), tests=r"reads|fails"),
    "full": Dut(DmaRead, stalls=True, tests=r"reads|one_line|constructor"),
    "guard": Dut(ReadGuard, stalls=True, tests=r"guard"),
}


class ReadBench(Bench):
    def __init__(self, dut):
        super().__init__(dut, DUTS)
        self.memory = self.random.randbytes(1 << 16)
        self.spoil = lambda beats: beats
        self.queues = {}
        self.id = self.random.getrandbits(16)
        self.asked = []
        """Address and bytes of each read that was taken."""
        self.fails = False
        """Bits 19:16 of an address say how its reading ends."""

    async def start(self, max_read=2, extended=1):
        await self.reset()
        config = {"id": self.id, "bus_master": 1, "max_read": max_read, "extended_tag": extended}
        self.dut.config.value = pack(PcieConfig, config)

    async def answer(self, stall=0.0, latency=0):
        """Take read requests and complete them, tags in any order, split at multiples of 64 bytes."""
        self.taker = cocotb.start_soon(self._take(stall))
        while True:
            tags = [tag for tag, packets in self.queues.items() if packets]
            if not tags:
                await RisingEdge(self.dut.clk)
                continue
            tag = self.random.choice(tags) if stall else tags[0]
            due, packet = self.queues[tag][0]
            if due + latency > self.now():
                await RisingEdge(self.dut.clk)
                continue
            self.queues[tag].pop(0)
            await self.send("completion", self.spoil(packet), stall)

    async def _take(self, stall):
        while True:
            (beat,) = await self.receive("request", 1, stall)
            header = RequestHeader.from_bits(beat.header)
            four = header.start.fmt.value & 1
            said = {name: getattr(header, name) for name in ("first_be", "last_be", "tag", "dw2", "dw3")}
            start = {"length": header.start.length, "type": TlpType.Memory, "fmt": (Fmt.ThreeDw, Fmt.FourDw)[four]}
            assert beat.header == pack(RequestHeader, {"start": start, "requester": self.id, **said})
            assert header.dw2 != 0 if four else header.dw3 == 0
            address = (header.dw2 << 32 | header.dw3 if four else header.dw2) & ~3
            assert beat.first and beat.last
            first, last = header.first_be, header.last_be or header.first_be
            skip = (first & -first).bit_length() - 1
            count = 4 * header.start.length - skip - (4 - last.bit_length())
            assert (header.last_be == 0) == (header.start.length == 1)
            enabled = f"{header.last_be:04b}{first:04b}" if header.last_be else f"{first:04b}"
            assert "0" not in enabled.strip("0"), f"holes between the enabled bytes {enabled}"
            self.asked.append((address + skip, count))
            packets, at, left = [], address, header.start.length
            if self.fails and (status := address >> 16 & 15):
                packets, left = [(self.now(), self.failure(header.tag, status))], 0
            while left:
                dws = min(left, (64 - at % 64) // 4 + 16 * self.random.randrange(4))
                packets.append((self.now(), self.completion(header.tag, at, dws, count, skip)))
                count -= 4 * dws - skip
                at, left, skip = at + 4 * dws, left - dws, 0
            assert not self.queues.get(header.tag), f"tag {header.tag} is in use"
            self.queues.pop(header.tag, None)
            self.queues[header.tag] = packets

    def completion(self, tag, address, dws, count, skip, status=0, poisoned=0):
        dw0 = dws & 1023 | poisoned << 14 | 0x0A << 24 | (2 if dws else 0) << 29
        dw1 = count & 4095 | status << 13
        dw2 = (address & 0x7F) + skip | tag << 8 | self.id << 16
        data = self.memory[address % 65536 : address % 65536 + 4 * dws]
        pieces = [data[n : n + 64] for n in range(0, len(data), 64)] or [b""]
        return [
            {
                "data": int.from_bytes(piece, "little"),
                "header": dw0 | dw1 << 32 | dw2 << 64 if n == 0 else 0,
                "count": len(piece) // 4,
                "first": n == 0,
                "last": n == len(pieces) - 1,
            }
            for n, piece in enumerate(pieces)
        ]

    def failure(self, tag, status):
        """The completion that says so."""
        if status == CompletionStatus.Poisoned.value:
            return self.completion(tag, 0, 16, 64, 0, poisoned=1)
        return self.completion(tag, 0, 0, 64, 0, status=status)

    async def read(self, reader, address, count, stall=0.0):
        cocotb.start_soon(self.send(f"reader{reader}.request", [{"address": address, "bytes": count}]))
        lines = await self.within(
            20000, self.receive(f"reader{reader}.line", stall=stall, until=lambda line: line.last), "the lines"
        )
        return b"".join(line.data.to_bytes(64, "little") for line in lines), lines[-1].status

    async def good(self, reader, address, count, stall=0.0):
        got, status = await self.read(reader, address, count, stall)
        assert status == CompletionStatus.Successful
        wanted = self.memory[address % 65536 : address % 65536 + count].ljust((count + 63) // 64 * 64, b"\0")
        at = next((n for n in range(len(wanted)) if got[n : n + 1] != wanted[n : n + 1]), None)
        assert at is None and len(got) == len(wanted), f"byte {at} of {count} from {address:#x}"


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.8], max_read=[0, 1, 2, 5], extended=[0, 1])
async def reads_any_range(dut, stall, max_read, extended):
    bench = ReadBench(dut)
    await bench.start(max_read, extended)
    cocotb.start_soon(bench.answer(stall))

    async def reader(n):
        for _ in range(6):
            base = bench.random.choice((0, 1 << 36, bench.random.getrandbits(48) << 16))
            count = bench.random.choice((1, 3, 64, 65, bench.random.randrange(1, 2500)))
            await bench.good(n, base + bench.random.randrange(60000), count, stall)

    readers = [cocotb.start_soon(reader(n)) for n in range(2)]
    for task in readers:
        await task
    await bench.cycles(8)
    assert dut.idle.value == 1


def reads_of(address, count, largest):
    """Address and bytes of the reads of a range: each ends at a multiple of the largest size."""
    reads = []
    while count:
        reads.append((address, min(count, largest - address % largest)))
        address, count = address + reads[-1][1], count - reads[-1][1]
    return reads


@cocotb.test()
@cocotb.parametrize(max_read=[0, 1, 2, 7])
async def reads_are_of_just_the_range(dut, max_read):
    """Its bytes alone, anywhere in 64 bits, in as few reads as there may be."""
    bench = ReadBench(dut)
    await bench.start(max_read)
    cocotb.start_soon(bench.answer())
    counts = [1 << power for power in range(13)] + [bench.random.randrange(1, 4000) for _ in range(12)]
    for n, count in enumerate(counts):
        address = bench.random.getrandbits(48) << 16 | bench.random.randrange(60000)
        bench.asked.clear()
        await bench.good(n % 2, address, count)
        assert bench.asked == reads_of(address, count, min(128 << max_read, 512)), f"{count} bytes from {address:#x}"


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def reads_fail_each_on_its_own(dut, stall):
    """A range ends with the status of its own reads, whatever becomes of those before, behind and beside it."""
    bench = ReadBench(dut)
    await bench.start()
    bench.fails = True
    cocotb.start_soon(bench.answer(stall))
    endings = [
        CompletionStatus(n) if n in (1, 2, 4, 9) else CompletionStatus.Successful for n in (0, 1, 0, 2, 4, 0, 9, 9)
    ]

    async def reader(n):
        for _ in range(40):
            wanted = bench.random.choice(endings)
            address = bench.random.getrandbits(44) << 20 | wanted.value << 16 | bench.random.randrange(60000)
            count = bench.random.randrange(1, 1500)
            if wanted == CompletionStatus.Successful:
                await bench.good(n, address, count, stall)
            else:
                _, status = await bench.read(n, address, count, stall)
                assert status == wanted, f"{status}, {wanted} expected"
            await bench.cycles(bench.random.randrange(1, 4))

    for task in [cocotb.start_soon(reader(n)) for n in range(2)]:
        await task


@cocotb.test()
async def reads_are_over_when_their_last_completion_came(dut):
    """Of any tag: what comes for it later is unexpected."""
    bench = ReadBench(dut)
    await bench.start()
    tags = bench.component.parameters.tags
    for n in range(2 * tags):
        await bench.send("reader0.request", [{"address": 0x1234, "bytes": 64}])
        (beat,) = await bench.within(50, bench.receive("request", 1))
        tag = RequestHeader.from_bits(beat.header).tag
        good = (n + n // tags) % 2
        packet = bench.completion(tag, 0x1234, 16, 64, 0) if good else bench.failure(tag, 4)
        await bench.send("completion", packet)
        (line,) = await bench.within(50, bench.receive("reader0.line", 1))
        assert line.status == (CompletionStatus.Successful if good else CompletionStatus.CompleterAbort)
        sender = cocotb.start_soon(bench.send("completion", packet))
        await FallingEdge(dut.clk)
        assert dut.unexpected.value == 1 and dut.failed.value == 0, f"tag {tag} once more"
        await sender


@cocotb.test()
async def reads_fail_after_just_that_silence(dut):
    """`timeout` cycles without any completion, be it of no one."""
    bench = ReadBench(dut)
    await bench.start()
    timeout = bench.component.parameters.timeout
    for n in range(2):
        await bench.send("reader0.request", [{"address": 0x1234, "bytes": 64}])
        await bench.within(50, bench.receive("request", 1))
        await bench.cycles(bench.random.randrange(1, 100))
        # Two numbers further is a tag that no one uses.
        behind = await bench.send("completion", bench.completion(n + 2, 0x1234, 16, 64, 0))
        await bench.within(timeout + 10, _rise(dut.failed), "the failure")
        assert bench.now() - behind == timeout, f"failed after {bench.now() - behind} cycles of silence"
        (line,) = await bench.within(50, bench.receive("reader0.line", 1))
        assert line.status == CompletionStatus.Timeout


async def _rise(signal):
    await RisingEdge(signal)


@cocotb.test()
async def reads_long_ranges(dut):
    """Those that would take too long are only begun."""
    bench = ReadBench(dut)
    # The last one is of a range whose first read is as long as its size's lowest bits say.
    for size in [(1 << power) + more for power in range(12, 32) for more in (0, 1, 63, 512)]:
        await bench.start()
        bench.queues.clear()
        host = cocotb.start_soon(bench.answer())
        address = 512 * bench.random.randrange(100) if size & 512 else bench.random.randrange(60000)
        await bench.send("reader0.request", [{"address": address, "bytes": size}])
        lines = await bench.within(2_000, bench.receive("reader0.line", 30))
        assert not any(line.last for line in lines), f"{size} bytes"
        assert b"".join(line.data.to_bytes(64, "little") for line in lines) == bench.memory[address : address + 64 * 30]
        host.cancel()
        bench.taker.cancel()


@cocotb.test()
async def fails_not_by_completions_for_others(dut):
    """Another requester's or another use's, while a read is under way."""
    bench = ReadBench(dut)
    await bench.start()
    for _ in range(7):
        await bench.send("reader0.request", [{"address": 0x1234, "bytes": 64}])
        (beat,) = await bench.within(50, bench.receive("request", 1))
        tag = RequestHeader.from_bits(beat.header).tag
        right = bench.completion(tag, 0x1234, 16, 64, 0)
        # Tag and requester are in bits 95:72.
        for bit in range(72, 96):
            wrong = {**right[0], "data": 7, "header": right[0]["header"] ^ 1 << bit}
            sender = cocotb.start_soon(bench.send("completion", [wrong]))
            await FallingEdge(dut.clk)
            assert dut.unexpected.value == 1 and dut.failed.value == 0, f"bit {bit}"
            await sender
        assert not dut.reader0__line__valid.value
        await bench.send("completion", right)
        (line,) = await bench.within(50, bench.receive("reader0.line", 1))
        assert line.data.to_bytes(64, "little") == bench.memory[0x1234 : 0x1234 + 64]


@cocotb.test()
async def fails_as_the_completion_says(dut):
    bench = ReadBench(dut)
    await bench.start()
    cocotb.start_soon(bench.answer())

    def changed(change):
        """Spoil the third packet from here."""
        count = 0

        def spoil(beats):
            nonlocal count
            count += 1
            return change(beats) if count == 3 else beats

        return spoil

    def with_header(beats, clear, bits):
        return [{**beats[0], "header": beats[0]["header"] & ~clear | bits}, *beats[1:]]

    def without_data(status):
        return lambda beats: [
            {**with_header(beats, 3 << 29 | 1023, status << 45)[0], "count": 0, "data": 0, "last": 1}
        ]

    for change, wanted in (
        (without_data(1), CompletionStatus.UnsupportedRequest),
        (without_data(2), CompletionStatus.ConfigurationRetry),
        (without_data(4), CompletionStatus.CompleterAbort),
        (without_data(0), CompletionStatus.Malformed),
        (lambda beats: with_header(beats, 0, 1 << 14), CompletionStatus.Poisoned),
        (lambda beats: with_header(beats, 1023, 0), CompletionStatus.Malformed),
        (lambda beats: with_header(beats, 1023, 129), CompletionStatus.Malformed),
    ):
        bench.spoil = changed(change)
        _, status = await bench.read(0, 0x101, 3000)
        assert status == wanted, f"{status}, {wanted} expected"
        bench.spoil = lambda beats: beats
        await bench.good(1, 0x333, 700)


@cocotb.test()
async def fails_when_nothing_comes(dut):
    bench = ReadBench(dut)
    await bench.start()
    cocotb.start_soon(bench.answer())
    for lost in (1, 2, 5):
        left = lost

        def spoil(beats):
            nonlocal left
            left -= 1
            return [] if left == 0 else beats

        bench.spoil = spoil
        started = bench.now()
        _, status = await bench.read(0, 0x101, 3000)
        assert status == CompletionStatus.Timeout
        assert bench.now() - started >= TIMEOUT
        bench.spoil = lambda beats: beats
        await bench.good(1, 0x333, 700)


@cocotb.test()
async def fails_not_by_completions_of_no_one(dut):
    bench = ReadBench(dut)
    await bench.start()
    unexpected = 0

    async def count():
        nonlocal unexpected
        while True:
            await RisingEdge(dut.clk)
            await ReadOnly()
            unexpected += int(dut.unexpected.value)

    cocotb.start_soon(count())
    await bench.cycles(1)
    for tag in (0, 3, 31, 200):
        await bench.send("completion", bench.completion(tag, 64, 40, 160, 0))
    cocotb.start_soon(bench.answer())
    await bench.good(0, 77, 2000)
    assert unexpected == 4


@cocotb.test()
async def one_line_a_cycle(dut):
    bench = ReadBench(dut)
    if bench.stalled:
        return
    await bench.start()
    # The last beat of a read to its line: 6 cycles.
    cocotb.start_soon(bench.answer())
    cocotb.start_soon(bench.send("reader0.request", [{"address": 0, "bytes": 64}]))
    dut.reader0__line__ready.value = 1
    while not (dut.completion__valid.value and dut.completion__ready.value):
        await RisingEdge(dut.clk)
        await ReadOnly()
    taken = bench.now()
    while not dut.reader0__line__valid.value:
        await RisingEdge(dut.clk)
        await ReadOnly()
    assert bench.now() - taken == 6, f"{bench.now() - taken} cycles"
    await RisingEdge(dut.clk)

    # Requests: one every 2 cycles. Completions as fast as they are asked for: a line a cycle.
    gaps, lines, last = [], [], None
    cocotb.start_soon(bench.send("reader1.request", [{"address": 4, "bytes": 8192}]))
    dut.reader1__line__ready.value = 1
    while len(lines) < 128:
        await RisingEdge(dut.clk)
        await ReadOnly()
        if dut.request__valid.value and dut.request__ready.value:
            gaps.append(bench.now() - last if last else 0)
            last = bench.now()
        if dut.reader1__line__valid.value:
            lines.append(bench.now())
    assert gaps[2:16] and max(gaps[2:14]) == 2, f"{gaps} cycles between requests"
    assert lines[-1] - lines[0] <= 127 + 24, f"128 lines in {lines[-1] - lines[0] + 1} cycles"


@cocotb.test()
async def constructor_says_what_is_wrong(dut):
    for wrong, text in (({"tags": 3}, "tags is 3"), ({"lines": 48}, "lines is 48"), ({"readers": 0}, "readers is 0"),
                        ({"timeout": 1}, "timeout is 1")):
        try:
            ReadConfig(**wrong)
        except ValueError as error:
            assert text in str(error)
        else:
            raise AssertionError(f"{wrong} was accepted")


def word(address):
    """A line that depends on `address` in all its bits."""
    return int.from_bytes(sha512(address.to_bytes(8, "little")).digest(), "little")


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def guard_drops_what_a_reset_core_has_asked_for(dut, stall):
    bench = Bench(dut, DUTS)
    await bench.reset()
    asked = []

    async def host():
        """Each range gives as many lines as its address says."""
        while True:
            (request,) = await bench.receive("port.request", 1, stall)
            asked.append(request.address)
            await bench.cycles(bench.random.randrange(1, 30))
            count = request.address & 15
            data = word(request.address)
            await bench.send("port.line", [{"data": data, "last": n == count - 1} for n in range(count)], stall)

    cocotb.start_soon(host())
    for run in range(40):
        dut.running.value = 1
        counts = [bench.random.randrange(1, 8) for _ in range(bench.random.randrange(1, 4))]
        ranges = [bench.random.getrandbits(60) << 4 | count for count in counts]
        sender = cocotb.start_soon(
            bench.send("core.request", [{"address": a, "bytes": 64 * (a & 15)} for a in ranges], stall)
        )
        if run % 2:
            await bench.cycles(bench.random.randrange(1, 60))
            sender.cancel()
            dut.running.value = 0
            dut.core__request__valid.value = 0
            dut.core__line__ready.value = 0
            await bench.cycles(bench.random.randrange(1, 10))
            continue
        wanted = [word(a) for a in ranges for _ in range(a & 15)]
        lines = await bench.within(3000, bench.receive("core.line", len(wanted), stall))
        assert [line.data for line in lines] == wanted, f"run {run}"
        dut.running.value = 0
        await bench.cycles(2)


@cocotb.test()
async def guard_waits_as_long_as_lines_are_under_way(dut):
    """However long that is; then, and when none is under way, a request passes at once."""
    bench = Bench(dut, DUTS)
    dut.running.value = 0
    await bench.reset()

    async def passes(address):
        """Offer a request; cycles until it is at the port."""
        sender = cocotb.start_soon(bench.send("core.request", [{"address": address, "bytes": 64}]))
        began = bench.now()
        (request,) = await bench.within(50, bench.receive("port.request", 1))
        assert request.address == address
        await sender
        return bench.now() - began

    at_once, soon = None, 40 if bench.stalled else 5
    for run in range(12):
        dut.running.value = 1
        cycles = await passes(run)
        at_once = at_once or cycles
        assert cycles == at_once or bench.stalled, f"run {run}: a request needs {cycles} cycles instead of {at_once}"
        lines = bench.random.randrange(1, 5)
        feed = [{"data": run, "last": n == lines - 1} for n in range(lines)]
        if run % 3:
            # The core is reset, and asks again while the lines are to come, or while their last waits.
            dut.running.value = 0
            await bench.cycles(2)
            dut.running.value = 1
            sender = cocotb.start_soon(bench.send("core.request", [{"address": 99, "bytes": 64}]))
            await bench.cycles(bench.random.choice((1, 10, 300)))
            assert not bench.get("port.request.valid") and not sender.done(), f"run {run}: a request passes too soon"
            await bench.send("port.line", feed)
            (request,) = await bench.within(soon, bench.receive("port.request", 1))
            assert request.address == 99
            feed = [{"data": run, "last": 1}]
        sender = cocotb.start_soon(bench.send("port.line", feed))
        await bench.cycles(bench.random.randrange(1, 20))
        got = await bench.within(50, bench.receive("core.line", len(feed)))
        assert [line.data for line in got] == [run] * len(feed)
        await sender
        await bench.cycles(bench.random.randrange(1, 20))
        dut.running.value = 0
        await bench.cycles(bench.random.randrange(2, 5))
