"""Egress engine: a bitstream slot to host memory, through the real host port."""

from __future__ import annotations

import cocotb
import numpy as np

from tessera.hw.engine import SlotKind, Status
from tessera.hw.host.egress import Egress
from tessera.tb.bench import Dut
from tessera.tb.host.harness import KNOBS, SIZE, EngineBench, Rig

DUTS = {"engine": Dut(lambda: Rig(Egress(watchdog=1 << 12), "egress"), stalls=True)}

HEAD, BODY = 3, 8


def task(tag, address, capacity, lines=3000, window=0, body=BODY):
    return {
        "tag": tag,
        "source": {"window": window, "head": HEAD, "body": body, "lines": lines},
        "params": address | capacity << 64,
    }


class EgressBench(EngineBench):
    def __init__(self, dut):
        super().__init__(dut, DUTS)
        self.knobs = {}

    def memory_knobs(self, **knobs):
        self.knobs = knobs
        super().memory_knobs(**knobs)

    async def fill(self, count, **fields):
        self.lines[HEAD] = self.header(bytes=count, **fields)
        await self.load_lines()

    async def good(self, tag, address, count, room=0, body=BODY, lines=3000):
        """A task that goes well: done, host memory and the chip's memory are checked."""
        await self.fill(count)
        # The memory refuses what lies behind the bitstream, so that no line more may be read.
        super().memory_knobs(**{**self.knobs, "window": 0, "limit": body + (count + 63) // 64})
        done = await self.do(task(tag, address, count + room, lines, body=body))
        super().memory_knobs(**self.knobs)
        assert (done.status, done.where, done.bytes) == (Status.Ok, 0, count)
        shown = {"chroma_format": done.chroma_format.value, "width": done.width, "height": done.height}
        assert not any(shown.values()), f"a bitstream is no surface: {shown}"
        self.memory[address : address + count] = self.lines[body:].reshape(-1)[:count]
        # The answer to a register's reading comes after the data.
        await self.get("STATUS")
        await self.expect_memory()
        await self.expect_lines()
        return done


@cocotb.test()
@cocotb.parametrize(knobs=list(KNOBS))
async def copies_to_any_address(dut, knobs):
    bench = EgressBench(dut)
    await bench.start(**KNOBS[knobs])
    sizes = [0, 1, 2, 63, 64, 65, 255, 256, 257, 4096, 9000]
    for tag, count in enumerate(sizes + [bench.random.randrange(20000) for _ in range(4)]):
        bench.memory_knobs(latency=bench.random.randrange(40), stall=bench.random.choice((0, 0, 5, 14)))
        await bench.good(tag, bench.random.randrange(SIZE - 20000), count, bench.random.choice((0, 1000)))


@cocotb.test()
@cocotb.parametrize(stall=[0, 8, 13])
async def reads_no_further_ahead_than_it_has_room_for(dut, stall):
    """A memory that is quicker than the host, for longer than the lines in between last."""
    bench = EgressBench(dut)
    await bench.start(stall=stall)
    bench.memory_knobs(latency=bench.random.randrange(10))
    await bench.good(stall, bench.random.randrange(4096), 64 * 900 + bench.random.randrange(64))


@cocotb.test()
async def bad_tasks_write_nothing_and_the_next_is_good(dut):
    bench = EgressBench(dut)
    await bench.start(**KNOBS["wild"])
    cases = [
        ({"count": 641}, {"capacity": 640}, (Status.TargetTooSmall, 11)),
        ({"count": 641}, {"capacity": 1000, "lines": 10}, (Status.BadTask, 2)),
        ({"count": 0xFFFF_FFFF}, {"capacity": 0xFFFF_FFFF}, (Status.BadTask, 2)),
        ({"count": 5, "status": Status.Timeout}, {"capacity": 99}, (Status.SourceFailed, Status.Timeout.value)),
        ({"count": 5, "kind": SlotKind.Surface}, {"capacity": 99}, (Status.WrongSource, SlotKind.Surface.value)),
    ]
    for tag, (slot, asked, wanted) in enumerate(cases):
        await bench.fill(**slot)
        done = await bench.do(task(tag, 0x1234, **asked))
        assert (done.status, done.where) == wanted, f"{slot} {asked}: {done.status} {done.where}"
        await bench.get("STATUS")
        await bench.expect_memory()
        await bench.good(50 + tag, 77 * tag, 800)


@cocotb.test()
async def any_place_and_size(dut):
    """All bits of the numbers of a task count."""
    bench = EgressBench(dut)
    await bench.start()
    for body in [1 << n for n in range(2, 12)] + [4095 - 2]:
        await bench.good(body, bench.random.randrange(SIZE - 100), 100, body=body)
    await bench.fill(100)
    for bit in range(6):
        # A window without any slot, or one that the memory does not have.
        done = await bench.do(task(bit, 0x5000, 100, window=1 << bit))
        assert done.status == (Status.WrongSource if 1 << bit < bench.component.memory.windows else Status.Refused)
    for bit in range(14, 26):
        done = await bench.do(task(bit, 0x5000, 100, body=1 << bit))
        assert done.status == Status.Refused
    for bit in range(20, 64):
        done = await bench.do(task(bit, 1 << bit | 0x5000, 100))
        assert (done.status, done.bytes) == (Status.Ok, 100)
    for power in range(6, 32):
        count = (1 << power) + 1
        lines = (count + 63) // 64
        await bench.fill(count)
        done = await bench.do(task(power, 0x5000, 1 << power))
        assert (done.status, done.where) == (Status.TargetTooSmall, lines), power
        done = await bench.do(task(power, 0x5000, count, lines=min(lines - 1, (1 << 24) - 1)))
        assert (done.status, done.where) == (Status.BadTask, 2), power
        if lines < 1 << 24:
            bench.memory_knobs(window=0, limit=BODY)
            done = await bench.do(task(power, 0x5000, count, lines=lines))
            assert done.status == Status.Refused, power
            await bench.fill(1 << power)
            done = await bench.do(task(power, 0x5000, 1 << power, lines=lines - 1))
            assert done.status == Status.Refused, power
            bench.memory_knobs()
            await bench.fill(count)
            if power % 8 == 5:
                await bench.good(power, 0x5003, 1000)
                await bench.fill(count)
    await bench.get("STATUS")
    await bench.expect_memory()


@cocotb.test()
async def more_bytes_than_half_of_the_memory(dut):
    """The highest bit is set that the bytes of a task that ends well can have here."""
    bench = EgressBench(dut)
    if bench.stalled:
        return
    await bench.start()
    bench.lines = np.frombuffer(bench.random.randbytes(64 << 14), np.uint8).reshape(-1, 64).copy()
    await bench.good(1, 0x1003, (1 << 19) + 1, lines=(1 << 13) + 1)


@cocotb.test()
async def a_large_range_does_not_end_early(dut):
    """Its first lines can be read: more than there would be if the highest bit of its bytes were lost on the way."""
    bench = EgressBench(dut)
    await bench.start()
    readable, address = 100, 0x5003
    bench.memory_knobs(window=0, limit=BODY + readable)
    for power in range(13, 30):
        count = (1 << power) + 1
        await bench.fill(count)
        done = await bench.do(task(power, address, count, lines=(count + 63) // 64))
        assert done.status == Status.Refused, f"{count} bytes: {done.status} after {done.bytes}"
    bench.memory_knobs()
    await bench.cycles(300)
    await bench.get("STATUS")
    body = bench.lines[BODY : BODY + readable].reshape(-1)
    same = (await bench.dump())[address : address + len(body)] == body
    written = len(same) if same.all() else int(np.argmin(same))
    bench.memory[address : address + written] = body[:written]
    await bench.expect_memory()


@cocotb.test()
async def unreadable_lines_are_not_written(dut):
    bench = EgressBench(dut)
    await bench.start(**KNOBS["wild"])
    for limit in (BODY + 1, BODY + 20, BODY + 33):
        await bench.fill(64 * 40)
        bench.memory_knobs(window=0, limit=limit, latency=20)
        done = await bench.do(task(1, 0x2003, 64 * 40))
        assert done.status == Status.Refused
        bench.memory_knobs()
        await bench.cycles(300)
        await bench.get("STATUS")
        # What was readable may have been written, in order and nothing else.
        found = await bench.dump()
        body = bench.lines[BODY:].reshape(-1)
        sent = found[0x2003 : 0x2003 + 64 * 40]
        same = sent == body[: 64 * 40]
        written = int(np.argmin(same)) if not same.all() else len(same)
        assert written <= 64 * (limit - BODY), "bytes of a line that could not be read were written"
        bench.memory[0x2003 : 0x2003 + written] = sent[:written]
        await bench.expect_memory()
        await bench.good(2, 0x8003, 3000)


@cocotb.test()
async def aborts_at_any_time_and_the_next_is_good(dut):
    bench = EgressBench(dut)
    await bench.start(**KNOBS["wild"])
    for tag in range(12):
        await bench.fill(12000)
        address = 64 * tag + 1
        running = cocotb.start_soon(bench.do(task(tag, address, 12000)))
        await bench.cycles(1 + bench.random.randrange(900))
        dut.abort.value = 1
        done = await bench.within(5000, running, "abort")
        dut.abort.value = 0
        assert done.status in (Status.Aborted, Status.Ok)
        # Packets that were on their way are written, in order.
        await bench.cycles(300)
        await bench.get("STATUS")
        found = await bench.dump()
        body = bench.lines[BODY:].reshape(-1)[:12000]
        sent = found[address : address + 12000]
        same = sent == body
        written = int(np.argmin(same)) if not same.all() else len(same)
        bench.memory[address : address + written] = body[:written]
        await bench.expect_memory()
        await bench.good(100 + tag, 3 * tag, 2000)


@cocotb.test()
async def throughput(dut):
    bench = EgressBench(dut)
    if bench.stalled:
        return
    await bench.start()
    for address in (0, 0x4003):
        bench.memory_knobs(latency=100)
        done = await bench.good(9, address, 32768)
        dut._log.info("32768 bytes in %d cycles: %.1f a cycle", done.cycles, 32768 / done.cycles)
        assert done.cycles <= 32768 / 32
