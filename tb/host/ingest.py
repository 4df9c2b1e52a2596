"""Ingest engine: host memory to a bitstream slot, through the real host port."""

from __future__ import annotations

import cocotb
import numpy as np

from tessera.hw.engine import Status
from tessera.hw.host.ingest import PIECE_BYTES, Ingest
from tessera.hw.host.tlp import CompletionStatus
from tessera.tb.bench import Dut
from tessera.tb.host.harness import KNOBS, SIZE, EngineBench, Rig

DUTS = {"engine": Dut(lambda: Rig(Ingest(watchdog=1 << 12), "ingest"), stalls=True)}

HEAD, BODY = 3, 8


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
async def bad_tasks_end_and_the_next_is_good(dut):
    bench = IngestBench(dut)
    await bench.start(**KNOBS["wild"])
    # Too big for the slot: nothing is read.
    done = await bench.do(task(1, 0, 64 * 10 + 1, lines=10))
    assert (done.status, done.where) == (Status.TargetTooSmall, 11)
    bench.expect_header(1, status=Status.TargetTooSmall, where=11)
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
