"""The rings: counts, room, wrap, restart, refusals, and the cycles they take."""

from __future__ import annotations

from hashlib import sha512
from itertools import pairwise

import cocotb
from cocotb.queue import Queue
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.host.descriptor import RECORD_BYTES, DoneRecord
from tessera.hw.host.registers import MsiSetup
from tessera.hw.host.rings import MAXIMUM_ENTRIES, Completion, Submission
from tessera.hw.host.tlp import CompletionStatus, PcieConfig, RequestHeader, TlpType
from tessera.tb.bench import Bench, Dut, pack

ID = 0x0300

DUTS = {
    "submission": Dut(Submission, stalls=True, tests=r"submission|both"),
    "completion": Dut(Completion, stalls=True, tests=r"completion|msi|both"),
}

BASE = 0x12_0000_0040


class RingBench(Bench):
    def __init__(self, dut):
        super().__init__(dut, DUTS)
        self.counting = None

    async def send(self, path, values, stall=0.0, gaps=None):
        return await self.within(20_000, super().send(path, values, stall, gaps), path)

    async def start(self):
        await self.reset()
        for name in ("base", "size", "set", "index", "move"):
            getattr(self.dut, f"control__{name}").value = 0
        self.refused = 0
        if self.counting:
            self.counting.cancel()
        self.counting = cocotb.start_soon(self._count())

    async def _count(self):
        refused = self.dut.control__refused
        while True:
            if not refused.value:
                await RisingEdge(refused)
            await ReadOnly()
            self.refused += int(refused.value)
            await RisingEdge(self.dut.clk)

    async def set(self, size, base=BASE):
        self.dut.control__base.value, self.dut.control__size.value = base, size
        await self._pulse(self.dut.control__set)

    async def move(self, index):
        self.dut.control__index.value = index & 0xFFFF_FFFF
        await self._pulse(self.dut.control__move)

    async def _pulse(self, signal):
        signal.value = 1
        await self.cycles(1)
        signal.value = 0
        await self.cycles(1)

    def state(self, *names):
        return tuple(int(getattr(self.dut, f"control__{name}").value) for name in names)


@cocotb.test()
async def both_refuse_nonsense(dut):
    bench = RingBench(dut)
    await bench.start()
    for size, base, enabled, bad in (
        (0, BASE, 0, 0), (1, BASE, 1, 0), (3, BASE, 0, 1), (MAXIMUM_ENTRIES, BASE, 1, 0),
        (2 * MAXIMUM_ENTRIES, BASE, 0, 1), (1 << 31, BASE, 0, 1), (0xFFFF_FFFF, BASE, 0, 1), (8, BASE + 32, 0, 1),
        (8, BASE + 1, 0, 1),
    ):
        await bench.set(size, base)
        assert bench.state("enabled", "bad", "head", "tail") == (enabled, bad, 0, 0), f"size {size} base {base:#x}"
        before = bench.refused
        await bench.move(size + 1)
        assert bench.refused == before + 1
        await bench.move(-1)
        assert bench.refused == before + 2
        assert bench.state("head", "tail") == (0, 0)


@cocotb.test()
async def both_refuse_sizes_that_are_no_power_of_two(dut):
    bench = RingBench(dut)
    await bench.start()
    for low in range(17):
        for high in range(low + 1, 32):
            await bench.set((1 << low) + (1 << high))
            assert bench.state("enabled", "bad") == (0, 1), f"size {(1 << low) + (1 << high)}"


def word(address):
    """What the host's memory holds there: 64 bytes as a number."""
    return int.from_bytes(sha512(address.to_bytes(8, "little")).digest(), "little")


class SubmissionBench(RingBench):
    """With a host memory whose descriptors depend on their address."""

    async def start(self):
        await super().start()
        self.fail, self.asked = set(), 0

    async def host(self, stall):
        while True:
            await self.send("read.line", [await self._take(stall)], stall)

    async def _take(self, stall):
        """Take a read; the line that answers it."""
        (request,) = await self.receive("read.request", 1, stall)
        assert request.bytes == RECORD_BYTES
        self.asked += 1
        status = CompletionStatus.CompleterAbort if request.address in self.fail else CompletionStatus.Successful
        return {"data": word(request.address), "last": 1, "status": status}

    async def distant_host(self, latency, stall=0.0):
        """A host that takes further reads while it answers those before, each `latency` cycles after it came."""
        lines = Queue()

        async def take():
            while True:
                line = await self._take(stall)
                lines.put_nowait((self.now() + latency, line))

        cocotb.start_soon(take())
        while True:
            due, line = await lines.get()
            await self.cycles(max(1, due - self.now()))
            await self.send("read.line", [line], stall)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5], size=[1, 8, 64])
async def submission_hands_out_in_order(dut, stall, size):
    bench = SubmissionBench(dut)
    await bench.start()
    cocotb.start_soon(bench.host(stall))
    await bench.set(size)
    total = 3 * size + 5
    collector = cocotb.start_soon(bench.receive("o", total, stall))
    tail, began = 0, bench.now()
    while tail < total:
        assert bench.now() - began < 20_000
        head = bench.state("head")[0]
        step = min(head + size, total) - tail
        if step:
            tail += bench.random.randint(1, step)
            await bench.move(tail)
        else:
            await bench.cycles(3)
    got = await bench.within(20000, collector)
    assert [int(item.as_bits()) for item in got] == [word(BASE + 64 * (n % size)) for n in range(total)]
    assert bench.refused == 0 and bench.state("head", "tail") == (total, total)


@cocotb.test()
@cocotb.parametrize(latency=[3, 20, 21, 60], stall=[0.0, 0.5])
async def submission_has_many_reads_under_way(dut, latency, stall):
    bench = SubmissionBench(dut)
    await bench.start()
    cocotb.start_soon(bench.distant_host(latency, stall))
    await bench.set(64)
    await bench.move(64)
    got = await bench.within(6_000, bench.receive("o", 64, stall))
    assert [int(item.as_bits()) for item in got] == [word(BASE + 64 * n) for n in range(64)]
    assert bench.asked == 64
    # None is under way: as many as before may be.
    await bench.move(128)
    await bench.cycles(16 * (latency + 80))
    assert bench.asked == 64 + 17, "16 in the queue and one offered"


@cocotb.test()
@cocotb.parametrize(latency=[3, 20, 60], stall=[0.0, 0.5])
async def submission_set_anew_drops_the_reads_under_way(dut, latency, stall):
    bench = SubmissionBench(dut)
    await bench.start()
    cocotb.start_soon(bench.distant_host(latency, stall))
    for n in range(24):
        base = 0x1000 * (n + 1)
        await bench.set(16, base)
        offered = [int(dut.o__payload.value)] if dut.o__valid.value else []
        await bench.move(16)
        await bench.cycles(bench.random.randrange(1, 80))
        if n % 3 == 0:
            got = await bench.within(4_000, bench.receive("o", 16 + len(offered), stall))
            wanted = offered + [word(base + 64 * k) for k in range(16)]
            assert [int(item.as_bits()) for item in got] == wanted, f"ring {n}"
            assert bench.state("head", "tail") == (16, 16)


@cocotb.test()
async def submission_counts_far(dut):
    """More than twice a ring of 65536: each place of it, and the counts go on."""
    bench = SubmissionBench(dut)
    if bench.stalled:
        return
    await bench.start()
    dut.read__line__payload.value = word(1)

    def check_request(number):
        request = bench.shape("read.request").from_bits(int(dut.read__request__payload.value))
        wanted = (base + 64 * (number % size)) % (1 << 64)
        assert dut.read__request__valid.value and request.address == wanted, f"descriptor {number} of a ring of {size}"

    for size, total in ((2, 600), (64, 2112), (MAXIMUM_ENTRIES, 2 * MAXIMUM_ENTRIES + 32)):
        base = bench.random.getrandbits(58) << 6
        await bench.set(size, base)
        dut.o__ready.value = 1
        batch = min(size, 16)
        done = tail = 0
        while done < total:
            if done == tail:
                dut.read__request__ready.value = 0
                tail += min(size, total - done)
                await bench.move(tail)
                await bench.cycles(4)
                check_request(done)
                dut.read__request__ready.value = 1
                await bench.cycles(2 * batch + 2)
            assert not dut.read__request__valid.value, "there is no room for more"
            # Lines come, one in each cycle, while it asks for more; sometimes the first of these is looked at.
            look = done + batch == tail or bench.random.random() < 0.1
            dut.read__request__ready.value = not look
            dut.read__line__valid.value = 1
            await bench.cycles(batch)
            dut.read__line__valid.value = 0
            done += batch
            await bench.cycles(batch + 6)
            if done == tail:
                assert not dut.read__request__valid.value, f"{done} descriptors, and it asks for more"
            elif look:
                check_request(done)
                dut.read__request__ready.value = 1
                await bench.cycles(2 * batch + 2)
        await bench.cycles(20)
        assert bench.state("head", "tail") == (total, total) and not dut.read__request__valid.value
    assert bench.refused == 0


@cocotb.test()
async def submission_asks_for_no_more_than_it_is_told_of(dut):
    bench = SubmissionBench(dut)
    await bench.start()
    cocotb.start_soon(bench.host(0))
    await bench.set(1024)
    total = 0
    for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        total += step
        await bench.move(total)
        got = await bench.within(20 * step + 100, bench.receive("o", step))
        assert int(got[-1].as_bits()) == word(BASE + 64 * (total - 1))
        await bench.cycles(bench.random.randrange(40, 60))
        assert bench.asked == total, f"{bench.asked} reads, {total} descriptors"


@cocotb.test()
async def submission_refuses_a_doorbell_out_of_range(dut):
    bench = SubmissionBench(dut)
    await bench.start()
    cocotb.start_soon(bench.host(0))
    await bench.set(4)
    await bench.move(5)
    assert bench.refused == 1 and bench.asked == 0
    await bench.move(4)
    await bench.within(200, bench.receive("o", 4))
    await bench.move(3)
    await bench.move(9)
    assert bench.refused == 3 and bench.state("tail") == (4,)
    await bench.move(8)
    await bench.within(200, bench.receive("o", 4))
    assert bench.asked == 8


@cocotb.test()
async def submission_of_any_size_at_any_place(dut):
    """Each entry is read where it lies; a doorbell may name as many as fit, but no number further away."""
    bench = SubmissionBench(dut)
    await bench.start()
    cocotb.start_soon(bench.host(0))
    for power in range(17):
        size, base = 1 << power, bench.random.getrandbits(58) << 6
        await bench.set(size, base)
        assert bench.state("enabled", "bad") == (1, 0)
        refused = bench.refused
        for bit in range(32):
            if 1 << bit > size:
                await bench.move(1 << bit)
                refused += 1
        await bench.move(size + 1)
        assert bench.refused == refused + 1 and bench.state("tail") == (0,)
        await bench.move(size)
        assert bench.refused == refused + 1 and bench.state("tail") == (size,)
        count = min(size, 2048)
        got = await bench.within(20 * count + 200, bench.receive("o", count))
        assert [int(item.as_bits()) for item in got] == [word((base + 64 * n) % (1 << 64)) for n in range(count)]
        if count == size:
            await bench.move(size + 1)
            (item,) = await bench.within(200, bench.receive("o", 1))
            assert int(item.as_bits()) == word(base)
        else:
            # What was read ahead goes with the ring.
            await bench.set(0)
            await bench.cycles(100)
            await bench.receive("o", int(dut.o__valid.value))


@cocotb.test()
async def submission_reads_no_more_than_it_has_room_for(dut):
    bench = SubmissionBench(dut)
    await bench.start()
    cocotb.start_soon(bench.host(0))
    await bench.set(64)
    await bench.move(64)
    await bench.cycles(500)
    assert bench.asked == 17, "16 in the queue and one offered"
    await bench.within(2000, bench.receive("o", 64))


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def submission_stops_at_a_failed_read(dut, stall):
    bench = SubmissionBench(dut)
    await bench.start()
    cocotb.start_soon(bench.host(stall))
    await bench.set(8)
    bench.fail = {BASE + 64 * 3}
    await bench.move(8)
    got = await bench.within(1000, bench.receive("o", 3, stall))
    await bench.cycles(300)
    assert [int(item.as_bits()) for item in got] == [word(BASE + 64 * n) for n in range(3)]
    assert dut.failed.value == 1 and dut.o__valid.value == 0 and bench.state("head") == (3,)
    asked = bench.asked
    await bench.move(11)
    await bench.cycles(40)
    assert bench.asked == asked, "a ring that has failed is read"
    bench.fail = set()
    await bench.set(8)
    assert dut.failed.value == 0
    await bench.move(8)
    got = await bench.within(1000, bench.receive("o", 8, stall))
    assert [int(item.as_bits()) for item in got] == [word(BASE + 64 * n) for n in range(8)]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def submission_is_set_anew_at_any_time(dut, stall):
    bench = SubmissionBench(dut)
    await bench.start()
    cocotb.start_soon(bench.host(stall))
    for n in range(20):
        base = 0x1000 * (n + 1)
        await bench.set(16, base)
        # What was offered before may still come.
        offered = int(dut.o__valid.value)
        old = int(dut.o__payload.value) if offered else None
        await bench.move(16)
        await bench.cycles(bench.random.randrange(1, 120))
        if n % 3 == 0:
            got = [int(item.as_bits()) for item in await bench.within(2000, bench.receive("o", 16 + offered, stall))]
            wanted = [word(base + 64 * k) for k in range(16)]
            assert got == ([old] if offered else []) + wanted, f"run {n}"


@cocotb.test()
async def submission_takes_its_cycles(dut):
    bench = SubmissionBench(dut)
    if bench.stalled:
        return
    await bench.start()
    await bench.set(16)
    dut.read__request__ready.value = 1
    asked = []
    mover = cocotb.start_soon(bench.move(8))
    began = bench.now()
    while len(asked) < 8:
        assert bench.now() - began < 200
        await ReadOnly()
        if dut.read__request__valid.value:
            asked.append(bench.now())
        await RisingEdge(dut.clk)
    await mover
    assert {b - a for a, b in pairwise(asked)} == {2}
    cocotb.start_soon(bench.send("read.line", [{"data": 5, "last": 1}]))
    await ReadOnly()
    while not dut.read__line__valid.value:
        await RisingEdge(dut.clk)
        await ReadOnly()
    came = bench.now()
    while not dut.o__valid.value:
        assert bench.now() - came < 20
        await RisingEdge(dut.clk)
        await ReadOnly()
    assert bench.now() - came == 3


class CompletionBench(RingBench):
    """With a host memory that takes the writes."""

    async def start(self, msi=True, stall=0.0):
        await super().start()
        self.memory, self.msis, self.order = {}, [], []
        self.msi_address = 0xFEE0_0004
        self.dut.config.value = pack(PcieConfig, {"id": ID, "bus_master": 1})
        self.dut.msi.value = pack(MsiSetup, {"enable": msi, "address": 0xFEE0_0004, "data": 99})
        self.taker = cocotb.start_soon(self._take(stall))

    def hold(self):
        """Take no packet any more."""
        self.taker.cancel()
        self.dut.packet__ready.value = 0

    async def _take(self, stall):
        while True:
            (beat,) = await self.receive("packet", 1, stall)
            header = RequestHeader.from_bits(beat.header)
            address = header.dw2 << 32 | header.dw3 if header.start.fmt.value & 1 else header.dw2
            assert beat.first and beat.last and header.requester == ID and header.start.fmt.value & 2
            assert beat.count == header.start.length
            assert header.start.type == TlpType.Memory and header.tag == 0
            if address == self.msi_address:
                assert (beat.count, header.first_be, header.last_be) == (1, 15, 0)
                self.msis.append(beat.data)
                self.order.append("msi")
            else:
                assert (beat.count, header.first_be, header.last_be) == (16, 15, 15)
                self.memory[address] = beat.data
                self.order.append(beat.data & 0xFFFF_FFFF)


def records(tags):
    return [{"tag": tag, "where": ~tag & 0xFFFF_FFFF, "sequence": 0x5555_5555} for tag in tags]


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5], size=[1, 4, 16])
async def completion_fills_the_ring(dut, stall, size):
    bench = CompletionBench(dut)
    await bench.start(stall=stall)
    await bench.set(size)
    total = 4 * size + 3
    cocotb.start_soon(bench.send("i", records(range(total)), stall))
    head, began = 0, bench.now()
    while head < total:
        assert bench.now() - began < 20_000
        await bench.cycles(bench.random.randrange(1, 40))
        tail = bench.state("tail")[0]
        assert head <= tail <= head + size
        for n in range(head, tail):
            line = bench.memory[BASE + 64 * (n % size)]
            assert line & 0xFFFF_FFFF == n and line >> 32 & 0xFFFF == n, f"record {n}"
        if tail == head + size:
            await ReadOnly()
            assert dut.full.value == 1
            await RisingEdge(dut.clk)
        if tail > head:
            head += bench.random.randint(1, tail - head)
            await bench.move(head)
    await bench.cycles(100)
    assert bench.state("head", "tail") == (total, total) and bench.refused == 0


@cocotb.test()
async def completion_of_any_size_at_any_place(dut):
    """Whole records; a head may be any up to the tail, and no other number."""
    bench = CompletionBench(dut)
    await bench.start()
    everything = DoneRecord.as_shape().size
    for power in range(17):
        size, base = 1 << power, bench.random.getrandbits(58) << 6
        bench.memory.clear()
        await bench.set(size, base)
        count = min(size + 1, 1025 if power == 10 else 40)
        contents = [bench.random.getrandbits(everything) for _ in range(count)]
        sender = cocotb.start_soon(bench.send("i", contents))
        if count > size:
            await bench.cycles(4 * size + 40)
            assert not sender.done() and dut.full.value == 1 and bench.state("tail") == (size,)
            await bench.move(1)
        await bench.within(4 * count + 40, sender)
        await bench.cycles(20)
        assert dut.full.value == (count > size)
        for n, record in enumerate(contents[count - min(count, size) :], count - min(count, size)):
            line = bench.memory[(base + 64 * (n % size)) % (1 << 64)]
            assert line == record >> 32 << 32 | n, f"record {n} of a ring of {size}"
        refused, head = bench.refused, bench.state("head")[0]
        for bit in range(32):
            if head + (1 << bit) > count:
                await bench.move(head + (1 << bit))
                refused += 1
        await bench.move(head - 1)
        assert bench.refused == refused + 1 and bench.state("head", "tail") == (head, count)
        await bench.move(count)
        assert bench.state("head") == (count,) and bench.refused == refused + 1


@cocotb.test()
async def completion_counts_far(dut):
    """Each place of a ring of any size is written, a middle one's many times; packets are looked at here and there."""
    bench = CompletionBench(dut)
    content = bench.random.getrandbits(DoneRecord.as_shape().size)
    for size in (1 << power for power in range(17)):
        total = size + 500 if size != 4096 else (1 << 18) + 3 * size
        base = bench.random.getrandbits(58) << 6
        await bench.start(msi=False)
        bench.hold()
        await bench.set(size, base)
        dut.i__payload.value, dut.i__valid.value = content, 1
        done = head = 0
        while done < total:
            # One is offered, and stays until it is taken.
            await bench.cycles(2)
            assert dut.packet__valid.value
            beat = bench.shape("packet").from_bits(int(dut.packet__payload.value))
            header = RequestHeader.from_bits(beat.header)
            address = header.dw2 << 32 | header.dw3 if header.start.fmt.value & 1 else header.dw2
            assert address == (base + 64 * (done % size)) % (1 << 64), f"record {done} of a ring of {size}"
            assert beat.data == content >> 32 << 32 | done and bench.state("head", "tail") == (head, done)
            step = min(bench.random.randrange(1, max(400, size // 2)), head + size - done)
            dut.packet__ready.value = 1
            await bench.cycles(2 * step - 1)
            dut.packet__ready.value = 0
            done += step
            await bench.cycles(2)
            assert bench.state("tail") == (done,)
            if done == head + size:
                full = f"a ring of {size} is full after {done} records"
                assert dut.full.value and not dut.packet__valid.value, full
                head += bench.random.randint((size + 1) // 2, size)
                await bench.move(head)
                assert bench.state("head") == (head,) and not dut.full.value
        assert bench.refused == 0
        await bench.move(done + 1)
        await bench.move(head - 1)
        assert bench.refused == 2 and bench.state("head") == (head,)
        await bench.move(done)
        assert bench.refused == 2 and bench.state("head") == (done,), f"all {done} records are taken"


@cocotb.test()
async def completion_finishes_a_record_of_the_old_ring(dut):
    """Whenever the ring is set, the record that is leaving goes to the old one; the new one begins with record 0."""
    bench = CompletionBench(dut)
    await bench.start(msi=False)
    await bench.set(4)
    old = BASE
    for n in range(12):
        new = BASE + 0x1000 * (n + 1)
        bench.hold()
        bench.memory.clear()
        await bench.send("i", records([n]))
        await bench.cycles(bench.random.randrange(1, 4))
        assert dut.packet__valid.value
        await bench.set(4, new)
        await bench.cycles(bench.random.randrange(1, 4))
        bench.taker = cocotb.start_soon(bench._take(0.0))
        await bench.cycles(6)
        assert list(bench.memory) == [old] and bench.memory[old] & 0xFFFF_FFFF == 0
        assert bench.state("head", "tail") == (0, 0), f"ring {n} counts a record of the one before"
        await bench.send("i", records([n]))
        await bench.cycles(6)
        assert bench.memory[new] & 0xFFFF_FFFF == 0 and bench.state("tail") == (1,)
        old = new
        await bench.set(4, old)


@cocotb.test()
async def completion_of_a_record_that_comes_as_the_ring_is_set(dut):
    """It goes to the new one."""
    bench = CompletionBench(dut)
    await bench.start(msi=False)
    await bench.set(4)
    for n in range(4):
        new = BASE + 0x1000 * (n + 1)
        bench.memory.clear()
        sender = cocotb.start_soon(bench.send("i", records([n])))
        await bench.set(4, new)
        await bench.within(20, sender)
        await bench.cycles(10)
        assert list(bench.memory) == [new] and bench.memory[new] & 0xFFFF_FFFF == 0
        assert bench.state("head", "tail") == (0, 1)


@cocotb.test()
async def completion_waits_for_a_ring(dut):
    bench = CompletionBench(dut)
    await bench.start()
    sender = cocotb.start_soon(bench.send("i", records(range(3))))
    await bench.cycles(100)
    assert not bench.order and not sender.done()
    await bench.set(8)
    await bench.within(100, sender)
    await bench.cycles(10)
    # Setting it anew starts the counts from 0.
    await bench.set(8, BASE + 0x1000)
    await bench.send("i", records([7]))
    await bench.cycles(20)
    assert bench.memory[BASE + 0x1000] & 0xFFFF_FFFF == 0 and bench.state("tail") == (1,)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.6])
async def msi_comes_once_for_a_batch(dut, stall):
    bench = CompletionBench(dut)
    await bench.start(stall=stall)
    await bench.set(16)
    await bench.send("i", records(range(5)))
    await bench.cycles(100)
    assert bench.order == [0, "msi", 1, 2, 3, 4]
    assert dut.unserved.value == 1
    await bench.move(3)
    await bench.cycles(40)
    assert bench.order == [0, "msi", 1, 2, 3, 4, "msi"], "two records were left"
    await bench.move(5)
    await bench.cycles(40)
    assert len(bench.msis) == 2 and dut.unserved.value == 0
    await bench.send("i", records([5]))
    await bench.cycles(40)
    assert bench.order[-2:] == [5, "msi"] and set(bench.msis) == {99}
    # A head out of range serves nothing.
    await bench.move(4)
    await bench.move(7)
    assert bench.refused == 2 and dut.unserved.value == 1


@cocotb.test()
async def msi_says_what_it_is_told_to(dut):
    bench = CompletionBench(dut)
    await bench.start()
    for bits in (32, 32, 64, 64):
        bench.msi_address, data = bench.random.getrandbits(bits - 2) << 2, bench.random.getrandbits(32)
        dut.msi.value = pack(MsiSetup, {"enable": 1, "address": bench.msi_address, "data": data})
        await bench.set(4)
        await bench.send("i", records([1]))
        await bench.cycles(20)
        assert bench.msis[-1] == data
    assert len(bench.msis) == 4


@cocotb.test()
async def msi_is_not_sent_when_disabled(dut):
    bench = CompletionBench(dut)
    await bench.start(msi=False)
    await bench.set(16)
    await bench.send("i", records(range(5)))
    await bench.cycles(60)
    assert not bench.msis
    dut.msi.value = pack(MsiSetup, {"enable": 1, "address": 0xFEE0_0004, "data": 98})
    await bench.cycles(20)
    assert bench.msis == [98]


@cocotb.test()
async def completion_takes_its_cycles(dut):
    bench = CompletionBench(dut)
    if bench.stalled:
        return
    await bench.start(msi=False)
    await bench.set(64)
    taken, left = [], []
    cocotb.start_soon(bench.send("i", records(range(10))))
    began = bench.now()
    while len(left) < 10:
        assert bench.now() - began < 200
        await ReadOnly()
        if dut.i__valid.value and dut.i__ready.value:
            taken.append(bench.now())
        if dut.packet__valid.value and dut.packet__ready.value:
            left.append(bench.now())
        await RisingEdge(dut.clk)
    assert {b - a for a, b in zip(taken, left)} == {1} and {b - a for a, b in pairwise(left)} == {2}
