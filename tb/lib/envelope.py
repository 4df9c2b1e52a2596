"""Testbench of hw/lib/envelope.py, around a small core that copies lines."""

import cocotb
import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.hw.engine import EngineSignature, Format, SlotKind, Status
from tessera.hw.lib.envelope import CoreSignature, Envelope, Start
from tessera.hw.lib.streams import observe
from tessera.hw.memory.port import MemoryStatus, Op
from tessera.hw.models.memory import IdealMemory, Knobs
from tessera.hw.models.storage import Backdoor
from tessera.tb.bench import Dut, pack, unpack
from tessera.tb.engine import EngineBench, Slot

WATCHDOG = 382
ENVELOPE_CYCLES = 7
"""What the docstring claims."""


class CopyParams(data.Struct):
    """What to do after copying ``lines`` lines: end with the other fields, at once if ``status`` is no ``Ok``."""

    lines: 14
    hang: 1
    """Ask for all lines though none has come, and do not end if ``status`` is ``Ok``."""
    read_id: 3
    write_id: 3
    status: Status
    where: 32
    bytes: 32
    """What ``finish`` says is this exclusive-or the source's bytes."""
    width: 16
    height: 16
    chroma_format: Format


class CopyCore(wiring.Component):
    """Copies lines from the source's body to the target's; leaves reads under way when told to fail.

    It takes a cycle before it takes its start.
    """

    def __init__(self):
        super().__init__(CoreSignature())

    def elaborate(self, platform):
        m = Module()
        params = data.View(CopyParams, self.start.payload.task.params[: CopyParams.as_shape().size])
        task = Signal.like(self.start.payload.task)
        todo, read, written, kept = Signal(14), Signal(14), Signal(14), Signal(CopyParams)
        m.submodules.landing = landing = fifo.SyncFIFOBuffered(width=512, depth=16)
        under_way = Signal(6)
        source_bytes = Signal(32)
        request = self.memory.request
        m.d.comb += [
            self.memory.response.ready.eq(1),
            landing.w_data.eq(self.memory.response.payload.data),
            landing.w_en.eq(self.memory.response.valid & (self.memory.response.payload.op == Op.Read)),
            request.payload.data.eq(landing.r_data),
        ]
        writing, seen = Signal(), Signal()
        with m.FSM():
            with m.State("TakeStart"):
                m.d.sync += seen.eq(self.start.valid)
                m.d.comb += self.start.ready.eq(seen)
                with m.If(self.start.valid & seen):
                    m.d.sync += [task.eq(self.start.payload.task), todo.eq(params.lines), kept.eq(params)]
                    m.d.sync += source_bytes.eq(self.start.payload.source.bytes)
                    m.next = "Copy"
            with m.State("Copy"):
                m.d.comb += writing.eq(landing.r_rdy)
                m.d.comb += request.valid.eq(landing.r_rdy | ((read != todo) & ((under_way != 8) | kept.hang)))
                with m.If(writing):
                    m.d.comb += [
                        request.payload.op.eq(Op.Write),
                        request.payload.id.eq(kept.write_id),
                        request.payload.window.eq(task.target.window),
                        request.payload.offset.eq(task.target.body + written),
                        landing.r_en.eq(request.ready),
                    ]
                with m.Else():
                    m.d.comb += [
                        request.payload.op.eq(Op.Read),
                        request.payload.id.eq(kept.read_id),
                        request.payload.window.eq(task.source.window),
                        request.payload.offset.eq(task.source.body + read),
                    ]
                taken = request.valid & request.ready
                with m.If(taken & writing):
                    m.d.sync += [written.eq(written + 1), under_way.eq(under_way - 1)]
                with m.Elif(taken):
                    m.d.sync += [read.eq(read + 1), under_way.eq(under_way + 1)]
                with m.If((kept.status != Status.Ok) & (read == todo)):
                    m.next = "Finish"
                with m.Elif((written == todo) & ~kept.hang):
                    m.next = "Finish"
            with m.State("Finish"):
                m.d.comb += [
                    self.finish.valid.eq(1),
                    self.finish.payload.status.eq(kept.status),
                    self.finish.payload.where.eq(kept.where),
                    self.finish.payload.bytes.eq(kept.bytes ^ source_bytes),
                    self.finish.payload.width.eq(kept.width),
                    self.finish.payload.height.eq(kept.height),
                    self.finish.payload.chroma_format.eq(kept.chroma_format),
                ]
        return m


class Harness(wiring.Component):
    """An engine with a memory that can be told to fail in ways of its own.

    Members besides those of an :class:`EngineHarness`
    --------------------------------------------------
    deaf, mute : In(1)
        No request is taken, no response comes.
    poison : In(1)
        Reads are answered ``Poison``.
    held : Out(1)
        A request is not taken in this cycle.
    answered : Out(1)
        A response is taken in this cycle.
    started, given : Out(1), Out(Start)
        The core takes this in this cycle.
    """

    def __init__(self, engine):
        self.engine, self.memory = engine, IdealMemory()
        members = dict(EngineSignature().members)
        del members["memory"]
        super().__init__(
            {
                **members,
                **{"knobs": In(Knobs), "backdoor": In(Backdoor())},
                **{name: In(1) for name in ("deaf", "mute", "poison")},
                **{name: Out(1) for name in ("held", "answered", "started")},
                "given": Out(Start),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = engine = self.engine
        m.submodules.memory = ideal = self.memory
        wiring.connect(m, wiring.flipped(self.task), engine.task)
        wiring.connect(m, engine.done, wiring.flipped(self.done))
        wiring.connect(m, wiring.flipped(self.backdoor), ideal.backdoor)
        asked, heard = engine.memory.request, ideal.port.request
        said, given = ideal.port.response, engine.memory.response
        start = engine.core.start
        observe(m, start)
        m.d.comb += [
            self.started.eq(start.valid & start.ready),
            self.given.eq(start.payload),
            ideal.knobs.eq(self.knobs),
            engine.abort.eq(self.abort),
            heard.valid.eq(asked.valid & ~self.deaf),
            heard.payload.eq(asked.payload),
            asked.ready.eq(heard.ready & ~self.deaf),
            given.valid.eq(said.valid & ~self.mute),
            given.payload.eq(said.payload),
            said.ready.eq(given.ready & ~self.mute),
            self.held.eq(asked.valid & ~asked.ready),
            self.answered.eq(given.valid & given.ready),
        ]
        with m.If(self.poison & (said.payload.op == Op.Read)):
            m.d.comb += given.payload.status.eq(MemoryStatus.Poison)
        return m


DUTS = {
    "copy": Dut(
        lambda: Harness(
            Envelope(CopyCore(), source=SlotKind.Bitstream, target=SlotKind.Bitstream, watchdog=WATCHDOG)
        ),
        stalls=True,
        watched=True,
    )
}
SOURCE, TARGET = Slot(1), Slot(2)


READ_ID, WRITE_ID = 0, 1
HEADER_READ, HEADER_WRITE, CORE_READ, CORE_WRITE = 7, 7 | 8, READ_ID, WRITE_ID | 8
"""``where`` of an access that went wrong."""
BYTES = 64 * 64
TIMESTAMP = 0x123456789ABCDEF0


def task(lines, tag=1, source=SOURCE, target=TARGET, **params):
    bits = CopyParams.const({"lines": lines, "read_id": READ_ID, "write_id": WRITE_ID, **params}).as_bits()
    return {"tag": tag, "source": source.fields(), "target": target.fields(), "params": bits}


class CopyBench(EngineBench):
    """The bench of the harness, whose tasks are short."""

    async def run(self, task, *, timeout=10_000):
        return await super().run(task, timeout=timeout)


async def prepared(dut, **memory):
    bench = CopyBench(dut, DUTS)
    for name in ("deaf", "mute", "poison"):
        bench.port(name).value = 0
    await bench.reset(**memory)
    lines = np.random.default_rng(5).integers(0, 256, (64, 64), dtype=np.uint8)
    await bench.write_bitstream(SOURCE, lines.tobytes(), timestamp=TIMESTAMP)
    return bench, lines


async def copies(bench, lines, count, tag):
    """A good task: checks everything that is left behind, and returns its cycles."""
    await bench.write_lines(TARGET.window, TARGET.body, bytes(64 * 64))
    says = {name: bench.random.getrandbits(bits) for name, bits in {"where": 32, "width": 16, "height": 16}.items()}
    says["chroma_format"] = Format(bench.random.randrange(4))
    size = bench.random.getrandbits(32)
    ids = {"read_id": bench.random.randrange(7), "write_id": bench.random.randrange(7)}
    done = await bench.run(task(count, tag, bytes=size ^ BYTES, **ids, **says))
    assert (done.tag, done.last, done.status) == (tag, 1, Status.Ok)
    assert done.bytes == size and {name: getattr(done, name) for name in says} == says
    assert done.stalled <= done.cycles
    np.testing.assert_array_equal(await bench.read_lines(TARGET.window, TARGET.body, count), lines[:count])
    header = await bench.read_header(TARGET)
    assert (header.kind, header.status, header.bytes) == (SlotKind.Bitstream, Status.Ok, size)
    assert (header.timestamp, header.tag) == (TIMESTAMP, tag)
    assert {name: getattr(header, name) for name in says} == says
    return done.cycles


@cocotb.test()
@cocotb.parametrize(memory_stall=[0, 8])
async def tasks_back_to_back(dut, memory_stall):
    bench, lines = await prepared(dut, stall=memory_stall)
    for tag, count in enumerate((0, 1, 40, 2)):
        await copies(bench, lines, count, tag)


@cocotb.test()
async def adds_two_accesses_and_a_few_cycles(dut):
    for latency in (10, 40):
        bench, lines = await prepared(dut, latency=latency)
        cycles = await copies(bench, lines, 0, 3)
        if not bench.stalled:
            # The core itself takes a cycle to see the start, two states and Finish.
            assert cycles == 2 * latency + 4 + ENVELOPE_CYCLES, cycles


@cocotb.test()
@cocotb.parametrize(memory_stall=[0, 8])
async def every_bad_end_and_a_good_task_after_it(dut, memory_stall):
    bench, lines = await prepared(dut, stall=memory_stall)
    cold = await copies(bench, lines, 20, 9)

    async def ends(expected, where, header, **params):
        done = await bench.run(task(64, 7, **params))
        assert (done.status, done.last, done.tag) == (expected, 1, 7), done
        assert where is None or done.where == where, done
        if header:
            left = await bench.read_header(TARGET)
            assert (left.status, left.where, left.tag) == (done.status, done.where, 7)
        bench.set_memory(stall=memory_stall)
        await bench.write_bitstream(SOURCE, lines.tobytes(), timestamp=TIMESTAMP)
        again = await copies(bench, lines, 20, 9)
        if not memory_stall and not bench.stalled:
            assert again == cold

    await ends(Status.JpegBadCode, None, True, status=Status.JpegBadCode)
    await ends(Status.Timeout, 2, True, hang=1)
    bench.set_memory(stall=memory_stall, window=SOURCE.window, limit=SOURCE.body + 30)
    await ends(Status.Refused, 0, True)
    bench.set_memory(stall=memory_stall, window=TARGET.window, limit=TARGET.body + 30)
    await ends(Status.Refused, 1 | 8, True)
    bench.set_memory(stall=memory_stall, window=TARGET.window, limit=1)
    await bench.write_header(SOURCE, kind=SlotKind.Bitstream, status=Status.JpegTruncated)
    await ends(Status.SourceFailed, Status.JpegTruncated.value, True)
    await bench.write_header(SOURCE, kind=SlotKind.Surface)
    await ends(Status.WrongSource, SlotKind.Surface.value, True)


@cocotb.test()
async def abort_in_mid_traffic(dut):
    bench, lines = await prepared(dut, stall=4)
    for wait in range(0, 120, 7):
        running = cocotb.start_soon(bench.run(task(64, 5)))
        await bench.cycles(60 + wait)
        dut.abort.value = 1
        await bench.cycles(3)
        dut.abort.value = 0
        done = await bench.within(20_000, running)
        assert done.status in (Status.Aborted, Status.Ok)
        header = await bench.read_header(TARGET)
        assert (header.status, header.where, header.tag) == (done.status, 0, 5)
        await copies(bench, lines, 20, 9)


@cocotb.test()
async def the_core_is_given_task_and_header(dut):
    """Every field of both, as they came, and a header where the task says it is."""
    bench, _ = await prepared(dut)
    for n in range(30):
        draw = bench.random.getrandbits
        slots = [
            {"window": draw(3), "head": draw(14), "body": draw(26), "lines": draw(24)} for _ in ("source", "target")
        ]
        if slots[0]["window"] == slots[1]["window"]:
            continue
        # What the core would do with any parameters is cut short by an abort.
        params = draw(128) if n % 2 else pack(CopyParams, {"where": draw(32), "height": draw(16)})
        given = {"tag": draw(16), "context": draw(6), "source": slots[0], "target": slots[1]}
        given |= {"timestamp": draw(64), "params": params}
        header = {"kind": SlotKind.Bitstream, "status": Status.Ok, "chroma_format": Format(draw(2)), "tag": draw(16)}
        header |= {"where": draw(32), "width": draw(16), "height": draw(16), "bytes": draw(32), "timestamp": draw(64)}
        await bench.write_header(Slot(**slots[0]), **header)
        running = cocotb.start_soon(bench.run(given))
        await bench.within(2_000, RisingEdge(bench.port("started")), "the start")
        await ReadOnly()
        found, expected = bench.get("given"), pack(Start, {"task": given, "source": header})
        assert found == expected, f"{unpack(Start, found)}, {unpack(Start, expected)} expected"
        await RisingEdge(dut.clk)
        dut.abort.value = n % 2
        done = await bench.within(1_000, running)
        dut.abort.value = 0
        assert done.tag == given["tag"]
        assert n % 2 or (done.status, done.bytes) == (Status.Ok, header["bytes"])
        left = await bench.read_header(Slot(**slots[1]))
        assert (left.tag, left.timestamp, left.height) == (given["tag"], header["timestamp"], done.height)


@cocotb.test()
async def abort_from_the_start(dut):
    """While it is high, no task does anything but write its header."""
    bench, lines = await prepared(dut)
    await bench.write_lines(TARGET.window, TARGET.body, bytes(64 * 64))
    dut.abort.value = 1
    for tag in (5, 6):
        done = await bench.run(task(64, tag))
        assert (done.status, done.where, done.tag) == (Status.Aborted, 0, tag)
        header = await bench.read_header(TARGET)
        assert (header.status, header.where, header.tag) == (Status.Aborted, 0, tag)
        assert not (await bench.read_lines(TARGET.window, TARGET.body, 64)).any()
    dut.abort.value = 0
    await copies(bench, lines, 20, 9)


@cocotb.test()
async def counts_its_cycles_and_the_memorys_stalls(dut):
    """From the cycle in which the task is taken to the one in which done is offered; both stay while done waits."""
    # The long one counts beyond 32768, to odd numbers: there a bit shows that flips in each cycle.
    cases = [(0, range(0), 20), (8, range(0), 20), (15, range(60, 63), 1153)]
    cases += [(0, range(30, end), 20) for end in (50, 51)]
    for stall, deaf, count in cases:
        bench, _ = await prepared(dut, stall=stall)
        sender = cocotb.start_soon(bench.send("task", [task(count)]))
        began, taken, stalls = bench.now(), None, 0
        while True:
            dut.deaf.value = taken is not None and bench.now() - taken in deaf
            await ReadOnly()
            if bench.get("task.valid") and bench.get("task.ready"):
                taken = bench.now()
            elif bench.get("done.valid"):
                break
            else:
                stalls += bench.get("held")
            assert bench.now() - began < 100_000
            await RisingEdge(dut.clk)
        passed = bench.now() - taken
        await bench.cycles(10)
        (done,) = await bench.receive("done", 1)
        await sender
        assert (done.status, done.cycles, done.stalled) == (Status.Ok, passed, stalls)


@cocotb.test()
async def accesses_that_fail_after_the_core_has_ended(dut):
    """They decide how the task ends, but not if it has failed before."""
    bench, lines = await prepared(dut)
    # Only the headers' lines are there.
    bench.set_memory(latency=100, window=TARGET.window, limit=1)
    done = await bench.run(task(1))
    assert (done.status, done.where) == (Status.Refused, CORE_WRITE)
    assert (await bench.read_header(TARGET)).status == Status.Refused
    bench.set_memory(latency=100, window=SOURCE.window, limit=1)
    done = await bench.run(task(4, status=Status.JpegBadCode, where=99))
    assert (done.status, done.where) == (Status.JpegBadCode, 99)
    assert (await bench.read_header(TARGET)).where == 99
    bench.set_memory()
    await copies(bench, lines, 20, 9)


@cocotb.test()
async def headers_out_of_reach(dut):
    """A source header that may not be read starts nothing; a target header that may not be written is told by done."""
    bench, lines = await prepared(dut)
    windows, lines_each = bench.memory.windows.bit_length() - 1, bench.window_lines.bit_length() - 1
    for bit in [*range(windows, 6), *range(lines_each, 26)]:
        here = {"window": 1 | 1 << bit} if bit < 6 else {"window": 1, "head": 1 << bit}
        done = await bench.run(task(8, source=Slot(**here)))
        assert (done.status, done.where) == (Status.Refused, HEADER_READ)
        header = await bench.read_header(TARGET)
        assert (header.kind, header.status, header.where) == (SlotKind.Bitstream, Status.Refused, HEADER_READ)
        done = await bench.run(task(0, target=Slot(**here)))
        assert (done.status, done.where) == (Status.Refused, HEADER_WRITE)
        await bench.write_header(TARGET)
    await copies(bench, lines, 20, 9)


@cocotb.test()
async def poison(dut):
    bench, lines = await prepared(dut)
    dut.poison.value = 1
    done = await bench.run(task(8))
    assert (done.status, done.where) == (Status.Poison, HEADER_READ)
    dut.poison.value = 0
    running = cocotb.start_soon(bench.run(task(8)))
    await answer(bench)
    dut.poison.value = 1
    done = await bench.within(5_000, running)
    dut.poison.value = 0
    assert (done.status, done.where) == (Status.Poison, CORE_READ)
    header = await bench.read_header(TARGET)
    assert (header.status, header.where) == (Status.Poison, CORE_READ)
    await copies(bench, lines, 20, 9)


async def answer(bench):
    """Sleep until a response is taken."""
    await bench.within(2_000, RisingEdge(bench.port("answered")), "a response")
    await RisingEdge(bench.dut.clk)


async def next_waits(bench, silence):
    """The next task is taken only after the silence."""
    sender = cocotb.start_soon(bench.send("task", [task(0, 4)]))
    await bench.cycles(50)
    assert not sender.done()
    silence.value = 0
    (done,) = await bench.within(1_000, bench.receive("done", 1))
    assert (done.status, done.tag) == (Status.Ok, 4)


@cocotb.test()
async def memory_falls_silent(dut):
    """At any time: ``Timeout`` for want of memory, and no other task before the last answer has come."""
    bench, lines = await prepared(dut)
    seen = set()
    for lines_asked, times in ((0, range(0, 60, 2)), (20, range(30, 100, 7))):
        for time in times:
            sender = cocotb.start_soon(bench.send("task", [task(lines_asked, 3)]))
            await bench.cycles(1 + time)
            dut.mute.value = 1
            (done,) = await bench.within(3 * WATCHDOG, bench.receive("done", 1))
            await sender
            seen.add(done.status)
            if done.status == Status.Ok:
                dut.mute.value = 0
                continue
            assert (done.status, done.where, done.tag) == (Status.Timeout, 1, 3)
            if not bench.stalled:
                # From the last answer before the silence, or the request.
                assert WATCHDOG < done.cycles <= WATCHDOG + time + 24, (time, done.cycles)
            await next_waits(bench, dut.mute)
        await copies(bench, lines, 20, 9)
    assert seen == {Status.Ok, Status.Timeout}
    # Right at the start: the request goes out two cycles later, and two more are the envelope's.
    dut.mute.value = 1
    done = await bench.run(task(0, 4))
    dut.mute.value = 0
    assert (done.status, done.where) == (Status.Timeout, 1)
    assert bench.stalled or done.cycles == 1 + WATCHDOG + 4, done.cycles
    await copies(bench, lines, 20, 9)


@cocotb.test()
async def many_reads_under_way(dut):
    """As many as the memory bears: the header waits for all of them, and so does the next task."""
    bench, lines = await prepared(dut)
    for count in (1 << n for n in range(9)):
        await bench.write_header(TARGET)
        running = cocotb.start_soon(bench.run(task(count, 3, hang=1, status=Status.JpegBadCode)))
        await answer(bench)
        dut.mute.value = 1
        await bench.cycles(count + 40)
        left = (await bench.read_header(TARGET)).status
        assert left == Status.Ok, f"the header says {left} while {count} reads are under way"
        dut.mute.value = 0
        done = await bench.within(2_000, running)
        assert (done.status, done.tag) == (Status.JpegBadCode, 3), f"{count} reads: {done}"
        assert (await bench.read_header(TARGET)).status == Status.JpegBadCode
        running = cocotb.start_soon(bench.run(task(count, 3, hang=1)))
        await answer(bench)
        dut.mute.value = 1
        done = await bench.within(3 * WATCHDOG, running)
        assert (done.status, done.where) == (Status.Timeout, 1), f"{count} reads: {done}"
        await next_waits(bench, dut.mute)
    await copies(bench, lines, 20, 9)


@cocotb.test()
async def reads_answered_as_the_watchdog_ends(dut):
    """However many are under way: the first answer may come in the watchdog's last cycle, and then the core is at
    fault that asks no more; one cycle later it is the memory."""
    bench, lines = await prepared(dut)
    if bench.stalled:
        return
    for count in (1 << n for n in range(9)):
        for late in range(2):
            running = cocotb.start_soon(bench.run(task(count, 3, hang=1)))
            await answer(bench)
            dut.mute.value = 1
            # From the header's answer to the last of the core's requests: the start, the skid, the requests before.
            await bench.cycles(WATCHDOG + count + 3 + late)
            dut.mute.value = 0
            done = await bench.within(3 * WATCHDOG + 4 * count, running)
            assert (done.status, done.where) == (Status.Timeout, 2 - late), f"{count} reads, {late} late: {done}"
    await copies(bench, lines, 20, 9)


@cocotb.test()
async def memory_stays_deaf(dut):
    """Whoever waits for a request to be taken, the core or the envelope itself; the request goes out when it can."""
    bench, lines = await prepared(dut)
    for time in range(0, 60, 3):
        sender = cocotb.start_soon(bench.send("task", [task(2, 3)]))
        await bench.cycles(1 + time)
        dut.deaf.value = 1
        (done,) = await bench.within(3 * WATCHDOG, bench.receive("done", 1), f"a task without memory from cycle {time}")
        await sender
        assert done.status == Status.Ok or (done.status, done.where) == (Status.Timeout, 1), done
        await next_waits(bench, dut.deaf)
    running = cocotb.start_soon(bench.run(task(20, 3)))
    await answer(bench)
    dut.deaf.value = 1
    done = await bench.within(3 * WATCHDOG, running)
    assert (done.status, done.tag) == (Status.Timeout, 3)
    await next_waits(bench, dut.deaf)
    await copies(bench, lines, 20, 9)


@cocotb.test()
async def silence_about_as_long_as_the_watchdog(dut):
    """Too long by a cycle is ``Timeout``, also when the answer comes right then."""
    bench, lines = await prepared(dut)
    if bench.stalled:
        return
    seen = []
    for length in range(WATCHDOG - 24, WATCHDOG + 8):
        running = cocotb.start_soon(bench.run(task(1, 3)))
        await answer(bench)
        await bench.cycles(10)
        dut.mute.value = 1
        await bench.cycles(length)
        dut.mute.value = 0
        done = await bench.within(2_000, running)
        assert done.status in (Status.Ok, Status.Timeout)
        assert done.status == Status.Ok or done.where == 1
        header = await bench.read_header(TARGET)
        assert (header.status, header.where) == (done.status, done.where)
        seen.append(done.status == Status.Ok)
    assert seen == sorted(seen, reverse=True) and len(set(seen)) == 2
    await copies(bench, lines, 20, 9)
