"""Ingest engine: host memory to a bitstream slot, through the real host port."""

from __future__ import annotations

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.engine import Status
from tessera.hw.host.dma_read import DmaReadRequest
from tessera.hw.host.ingest import PIECE_BYTES, Ingest
from tessera.hw.host.tlp import CompletionStatus
from tessera.hw.memory.port import Request
from tessera.tb.bench import Dut
from tessera.tb.host.harness import KNOBS, SIZE, EngineBench, Rig, expose

HEAD, BODY = 3, 8
PIECES = 4
"""Pieces that are under way at the most."""


class Shown(wiring.Component):
    """A rig that shows what its engine's core asks of the host and writes."""

    def __init__(self, rig):
        self.rig, self.memory = rig, rig.memory
        shown = {"ask": DmaReadRequest, "ask_valid": 1, "asked": 1, "ended": 1, "write": Request, "wrote": 1}
        super().__init__({**rig.signature.members, **{name: Out(shape) for name, shape in shown.items()}})

    def elaborate(self, platform):
        m = Module()
        m.submodules.rig = self.rig
        expose(m, self, self.rig, self.rig.signature.members)
        core = self.rig.engine.core
        ask, line, write = core.host.request, core.host.line, core.memory.request
        m.d.comb += [
            self.ask.eq(ask.payload),
            self.ask_valid.eq(ask.valid),
            self.asked.eq(ask.valid & ask.ready),
            self.ended.eq(line.valid & line.ready & line.payload.last),
            self.write.eq(write.payload),
            self.wrote.eq(write.valid & write.ready),
        ]
        return m


DUTS = {"engine": Dut(lambda: Shown(Rig(Ingest(watchdog=1 << 12), "ingest")), stalls=True)}


COUNTED = 1 << 96


def task(tag, address, count, lines=3000, window=0, body=BODY):
    return {
        "tag": tag,
        "target": {"window": window, "head": HEAD, "body": body, "lines": lines},
        "timestamp": 0x0123_4567_89AB_CDEF ^ tag,
        "params": address | count << 64,
    }


class IngestBench(EngineBench):
    def __init__(self, dut):
        super().__init__(dut, DUTS)
        self.failing = False

    async def good(self, tag, address, count, body=BODY):
        """A task that goes well: its done message, the header and the body are checked."""
        done = await self.do(task(tag, address, count, body=body))
        assert (done.status, done.where, done.bytes) == (Status.Ok, 0, count)
        lines = (count + 63) // 64
        filled = np.zeros(64 * lines, np.uint8)
        filled[:count] = self.memory[address : address + count]
        self.lines[body : body + lines] = filled.reshape(-1, 64)
        self.expect_header(tag, bytes=count)
        await self.expect_lines()
        return done

    async def watched(self, doing, address, count, body, window=0):
        """What `doing` gives, a task that copies this range: each piece is asked for in turn, as soon as fewer than 4
        are under way, and each line written in turn. How many pieces and lines there were."""
        self.asked, self.written = [], []
        watch = cocotb.start_soon(self._watch(-(-count // PIECE_BYTES)))
        done = await doing
        watch.cancel()
        for n, (at, size) in enumerate(self.asked):
            wanted = (address + n * PIECE_BYTES) % (1 << 64), min(count - n * PIECE_BYTES, PIECE_BYTES)
            assert (at, size) == wanted, f"piece {n}: {size} bytes at {at:#x}, {wanted[1]} at {wanted[0]:#x} expected"
        for n, (where, line) in enumerate(self.written):
            wanted = window, (body + n) % (1 << 26)
            assert (where, line) == wanted, f"line {n} is written to {where}:{line}, {wanted[0]}:{wanted[1]} expected"
        return done

    async def _watch(self, pieces):
        dut, under_way = self.dut, 0
        while True:
            await ReadOnly()
            more = bool(self.asked) and len(self.asked) < pieces
            if more and not self.failing:
                valid = bool(dut.ask_valid.value)
                assert valid == (under_way < PIECES), f"{under_way} pieces are under way: asks {valid}"
            asked, ended = int(dut.asked.value), int(dut.ended.value)
            if asked:
                piece = self.component.signature.members["ask"].shape.from_bits(int(dut.ask.value))
                self.asked.append((piece.address, piece.bytes))
            if dut.wrote.value:
                line = self.component.signature.members["write"].shape.from_bits(int(dut.write.value))
                self.written.append((line.window, line.offset))
            under_way += asked - ended
            await RisingEdge(dut.clk)

    def expect_header(self, tag, **fields):
        self.lines[HEAD] = self.header(tag=tag, timestamp=0x0123_4567_89AB_CDEF ^ tag, **fields)


@cocotb.test()
@cocotb.parametrize(knobs=list(KNOBS))
async def copies_any_range(dut, knobs):
    bench = IngestBench(dut)
    await bench.start(**KNOBS[knobs])
    sizes = [0, 1, 63, 64, 65, 4095, 4096, 4097, 9000]
    for tag, count in enumerate(sizes + [bench.random.randrange(20000) for _ in range(4)]):
        bench.memory_knobs(latency=bench.random.randrange(40), stall=bench.random.choice((0, 0, 5, 14)))
        await bench.good(tag, bench.random.randrange(SIZE - 20000), count)


@cocotb.test()
@cocotb.parametrize(knobs=list(KNOBS))
async def the_count_may_stand_before_it(dut, knobs):
    """At any address, whatever the task says itself; the room is checked when it is known."""
    bench = IngestBench(dut)
    await bench.start(**KNOBS[knobs])
    sizes = [0, 1, 64, 65, 4096, 4097, *(bench.random.randrange(9000) for _ in range(3))]
    for tag, count in enumerate(sizes):
        address = bench.random.randrange(SIZE - 20000)
        bench.memory[address : address + 4] = np.frombuffer(count.to_bytes(4, "little"), np.uint8)
        await bench.load()
        lines = (count + 63) // 64
        given = task(tag, address, bench.random.getrandbits(32))
        given["params"] |= COUNTED
        for room in (lines - 1, lines) if lines else (0,):
            given["target"]["lines"] = room
            done = await bench.do(given)
            if room < lines:
                assert (done.status, done.where) == (Status.TargetTooSmall, lines)
                bench.expect_header(tag, status=Status.TargetTooSmall, where=lines)
                await bench.expect_lines()
        assert (done.status, done.where, done.bytes) == (Status.Ok, 0, count)
        filled = np.zeros(64 * lines, np.uint8)
        filled[:count] = bench.memory[address + 64 : address + 64 + count]
        bench.lines[BODY : BODY + lines] = filled.reshape(-1, 64)
        bench.expect_header(tag, bytes=count)
        await bench.expect_lines()


@cocotb.test()
@cocotb.parametrize(latency=[0, 300])
async def asks_while_fewer_than_4_pieces_are_under_way(dut, latency):
    bench = IngestBench(dut)
    await bench.start(latency=latency)
    for count in [PIECE_BYTES + (1 << bit) for bit in range(13)] + [7 * PIECE_BYTES + 1]:
        address, body = bench.random.randrange(SIZE - 32768), bench.random.randrange(4, 3000)
        await bench.watched(bench.good(count & 0xFF, address, count, body), address, count, body)
        assert len(bench.asked) == -(-count // PIECE_BYTES) and len(bench.written) == -(-count // 64)


@cocotb.test()
async def asks_and_writes_anywhere(dut):
    """All bits of addresses, bytes, windows and lines count, though neither host nor memory have so much."""
    bench = IngestBench(dut)
    await bench.start(latency=60)
    bench.failing = True
    # Some lines are written before the refusal of the first comes.
    bench.memory_knobs(latency=60)
    draw = bench.random.randrange
    for bit in range(13, 65):
        address, count = (1 << bit) - draw(PIECE_BYTES), 1 << bit if bit < 30 else draw(PIECE_BYTES, 1 << 30)
        window, body = draw(bench.component.memory.windows, 64), draw(1 << 26)
        doing = bench.do(task(bit, address, count, lines=(1 << 24) - 1, window=window, body=body))
        done = await bench.watched(doing, address, count, body, window)
        assert done.status in (Status.HostError, Status.Refused)
        assert len(bench.asked) >= min(PIECES, -(-count // PIECE_BYTES)), f"{count} bytes: {bench.asked}"
        assert len(bench.written) > 1, "the first line is refused much later"


@cocotb.test()
async def bad_tasks_end_and_the_next_is_good(dut):
    bench = IngestBench(dut)
    await bench.start(**KNOBS["wild"])
    # Too big for the slot: nothing is read.
    done = await bench.do(task(1, 0, 64 * 10 + 1, lines=10))
    assert (done.status, done.where) == (Status.TargetTooSmall, 11)
    bench.expect_header(1, status=Status.TargetTooSmall, where=11)
    await bench.expect_lines()
    await bench.good(2, 5, 999)
    # Its count cannot be read.
    given = task(3, SIZE, 100)
    given["params"] |= COUNTED
    done = await bench.do(given)
    assert (done.status, done.where) == (Status.HostError, CompletionStatus.UnsupportedRequest.value)
    bench.expect_header(3, status=Status.HostError, where=CompletionStatus.UnsupportedRequest.value)
    await bench.expect_lines()
    await bench.good(2, 5, 999)
    # Beyond the host's memory. What the body holds means nothing.
    done = await bench.do(task(3, SIZE - 5000, 12000))
    assert (done.status, done.where) == (Status.HostError, CompletionStatus.UnsupportedRequest.value)
    bench.expect_header(3, status=Status.HostError, where=CompletionStatus.UnsupportedRequest.value)
    await bench.expect_lines(but=range(BODY, BODY + 12000 // 64 + 1))
    await bench.load_lines()
    await bench.good(4, 6, 1234)
    # A window that ends early.
    bench.memory_knobs(window=0, limit=BODY + 20)
    done = await bench.do(task(5, 0, 64 * 100))
    assert done.status == Status.Refused
    bench.memory_knobs()
    bench.expect_header(5, status=Status.Refused, where=int(done.where))
    await bench.expect_lines(but=range(BODY, BODY + 20))
    await bench.load_lines()
    await bench.good(6, 7, 4321)


@cocotb.test()
async def any_place_and_size(dut):
    """All bits of the numbers of a task count."""
    bench = IngestBench(dut)
    await bench.start()
    for body in [1 << n for n in range(2, 12)] + [4095 - 2]:
        await bench.good(body, bench.random.randrange(SIZE - 100), 100, body)
    for bit in range(6):
        # Another window: nothing changes in this one; or one that the memory does not have.
        done = await bench.do(task(bit, 0, 100, window=1 << bit))
        assert done.status == (Status.Ok if 1 << bit < bench.component.memory.windows else Status.Refused)
        await bench.expect_lines()
    for bit in range(14, 26):
        done = await bench.do(task(bit, 0, 100, body=1 << bit))
        assert done.status == Status.Refused
        bench.expect_header(bit, status=Status.Refused, where=int(done.where))
        await bench.expect_lines()
    for bit in range(20, 64):
        done = await bench.do(task(bit, 1 << bit, 64))
        assert (done.status, done.where) == (Status.HostError, CompletionStatus.UnsupportedRequest.value), bit
    for power in range(6, 32):
        count = (1 << power) + 1
        lines = (count + 63) // 64
        done = await bench.do(task(power, 1 << 40, count, lines=min(lines - 1, (1 << 24) - 1)))
        assert (done.status, done.where) == (Status.TargetTooSmall, lines)
        if lines < 1 << 24:
            done = await bench.do(task(power, 1 << 40, count, lines=lines))
            assert done.status == Status.HostError


@cocotb.test()
async def copies_as_much_as_there_is(dut):
    """All bits are set that the bytes of a task that ends well can have here, but for one."""
    bench = IngestBench(dut)
    if bench.stalled:
        return
    await bench.start()
    bench.lines = np.frombuffer(bench.random.randbytes(64 << 14), np.uint8).reshape(-1, 64).copy()
    await bench.load_lines()
    done = await bench.do(task(1, 5, 0xFFDFF, lines=1 << 14))
    assert (done.status, done.bytes) == (Status.Ok, 0xFFDFF)
    bench.lines[BODY:].reshape(-1)[:0xFFE00] = np.append(bench.memory[5 : 5 + 0xFFDFF], 0)
    bench.expect_header(1, bytes=0xFFDFF)
    await bench.expect_lines()


@cocotb.test()
async def a_large_range_does_not_end_early(dut):
    """Its first bytes can be read: more than there would be if the highest bit of its bytes were lost on the way."""
    bench = IngestBench(dut)
    await bench.start()
    readable = 2 * PIECE_BYTES
    wanted = (Status.HostError, CompletionStatus.UnsupportedRequest.value)
    for power in range(14, 30):
        count = (1 << power) + 1
        done = await bench.do(task(power, SIZE - readable, count, lines=(count + 63) // 64))
        assert (done.status, done.where) == wanted, f"{count} bytes: {done.status} after {done.bytes}"
    bench.expect_header(29, status=wanted[0], where=wanted[1])
    await bench.expect_lines(but=range(BODY, BODY + (readable + PIECE_BYTES) // 64))


@cocotb.test()
async def aborts_at_any_time_and_the_next_is_good(dut):
    bench = IngestBench(dut)
    await bench.start(**KNOBS["wild"])
    for tag in range(12):
        running = cocotb.start_soon(bench.do(task(tag, 64 * tag + 1, 12000)))
        await bench.cycles(1 + bench.random.randrange(900))
        dut.abort.value = 1
        done = await bench.within(5000, running, "abort")
        dut.abort.value = 0
        assert done.status in (Status.Aborted, Status.Ok)
        await bench.load_lines()
        await bench.good(100 + tag, 3 * tag, 2000)


@cocotb.test()
async def cycles_after_a_failure_are_those_of_a_cold_start(dut):
    bench = IngestBench(dut)
    if bench.stalled:
        return
    await bench.start(latency=50)
    cold = await bench.good(1, 0x1001, 3000)
    await bench.do(task(2, SIZE - 64, 6400))
    await bench.cycles(2000)
    await bench.load_lines()
    again = await bench.good(1, 0x1001, 3000)
    assert cold.cycles == again.cycles


@cocotb.test()
async def throughput(dut):
    bench = IngestBench(dut)
    if bench.stalled:
        return
    await bench.start(latency=90)
    for address in (0, 0x4003):
        done = await bench.good(9, address, 16384)
        dut._log.info("16384 bytes in %d cycles: %.1f a cycle", done.cycles, 16384 / done.cycles)
        assert done.cycles <= 16384 / 32
