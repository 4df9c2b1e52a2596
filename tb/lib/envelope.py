"""Testbench of hw/lib/envelope.py, around a small core that copies lines."""

import cocotb
import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import data, fifo, wiring

from tessera.hw.engine import Format, SlotKind, Status
from tessera.hw.lib.envelope import CoreSignature, Envelope
from tessera.hw.memory.port import Op
from tessera.hw.models.memory import EngineHarness
from tessera.tb.bench import Dut
from tessera.tb.engine import EngineBench, Slot

WATCHDOG = 300
ENVELOPE_CYCLES = 5
"""What the docstring claims."""


class CopyParams(data.Struct):
    """What to do after copying ``lines`` lines."""

    lines: 16
    hang: 1
    fail: 1


class CopyCore(wiring.Component):
    """Copies lines from the source's body to the target's; leaves reads under way when told to fail."""

    def __init__(self):
        super().__init__(CoreSignature())

    def elaborate(self, platform):
        m = Module()
        params = data.View(CopyParams, self.start.payload.task.params[: CopyParams.as_shape().size])
        task = Signal.like(self.start.payload.task)
        todo, read, written, kept = Signal(16), Signal(16), Signal(16), Signal(CopyParams)
        m.submodules.landing = landing = fifo.SyncFIFOBuffered(width=512, depth=16)
        under_way = Signal(6)
        request = self.memory.request
        m.d.comb += [
            self.memory.response.ready.eq(1),
            landing.w_data.eq(self.memory.response.payload.data),
            landing.w_en.eq(self.memory.response.valid & (self.memory.response.payload.op == Op.Read)),
            request.payload.data.eq(landing.r_data),
        ]
        writing = Signal()
        with m.FSM():
            with m.State("TakeStart"):
                m.d.comb += self.start.ready.eq(1)
                with m.If(self.start.valid):
                    m.d.sync += [task.eq(self.start.payload.task), todo.eq(params.lines), kept.eq(params)]
                    m.next = "Copy"
            with m.State("Copy"):
                m.d.comb += writing.eq(landing.r_rdy)
                m.d.comb += request.valid.eq(landing.r_rdy | ((read != todo) & (under_way != 8)))
                with m.If(writing):
                    m.d.comb += [
                        request.payload.op.eq(Op.Write),
                        request.payload.id.eq(1),
                        request.payload.window.eq(task.target.window),
                        request.payload.offset.eq(task.target.body + written),
                        landing.r_en.eq(request.ready),
                    ]
                with m.Else():
                    m.d.comb += [
                        request.payload.op.eq(Op.Read),
                        request.payload.window.eq(task.source.window),
                        request.payload.offset.eq(task.source.body + read),
                    ]
                taken = request.valid & request.ready
                with m.If(taken & writing):
                    m.d.sync += [written.eq(written + 1), under_way.eq(under_way - 1)]
                with m.Elif(taken):
                    m.d.sync += [read.eq(read + 1), under_way.eq(under_way + 1)]
                with m.If(kept.fail & (read == todo)):
                    m.next = "Finish"
                with m.Elif((written == todo) & ~kept.hang):
                    m.next = "Finish"
            with m.State("Finish"):
                m.d.comb += [
                    self.finish.valid.eq(1),
                    self.finish.payload.status.eq(kept.fail.replicate(8) & Status.JpegBadCode.value),
                    self.finish.payload.where.eq(written),
                    self.finish.payload.bytes.eq(written << 6),
                    self.finish.payload.width.eq(77),
                    self.finish.payload.chroma_format.eq(Format.C422),
                ]
        return m


DUTS = {
    "copy": Dut(
        lambda: EngineHarness(
            Envelope(CopyCore(), source=SlotKind.Bitstream, target=SlotKind.Bitstream, watchdog=WATCHDOG)
        ),
        stalls=True,
        watched=True,
    )
}
SOURCE, TARGET = Slot(1), Slot(2)


def task(lines, tag=1, **flags):
    params = CopyParams.const({"lines": lines, **flags}).as_bits()
    return {"tag": tag, "source": SOURCE.fields(), "target": TARGET.fields(), "params": params}


async def prepared(dut, **memory):
    bench = EngineBench(dut, DUTS)
    await bench.reset(**memory)
    lines = np.random.default_rng(5).integers(0, 256, (64, 64), dtype=np.uint8)
    await bench.write_bitstream(SOURCE, lines.tobytes(), timestamp=0x123456789ABCDEF0)
    return bench, lines


async def copies(bench, lines, count, tag):
    """A good task: checks everything that is left behind, and returns its cycles."""
    await bench.write_lines(TARGET.window, TARGET.body, bytes(64 * 64))
    done = await bench.run(task(count, tag))
    assert (done.tag, done.last, done.status, done.where) == (tag, 1, Status.Ok, count)
    assert (done.bytes, done.width, done.chroma_format) == (64 * count, 77, Format.C422)
    assert done.stalled <= done.cycles
    np.testing.assert_array_equal(await bench.read_lines(TARGET.window, TARGET.body, count), lines[:count])
    header = await bench.read_header(TARGET)
    assert (header.kind, header.status, header.bytes) == (SlotKind.Bitstream, Status.Ok, 64 * count)
    assert (header.timestamp, header.tag, header.width) == (0x123456789ABCDEF0, tag, 77)
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
            # The core itself takes two states and Finish.
            assert cycles == 2 * latency + 3 + ENVELOPE_CYCLES, cycles


@cocotb.test()
@cocotb.parametrize(memory_stall=[0, 8])
async def every_bad_end_and_a_good_task_after_it(dut, memory_stall):
    bench, lines = await prepared(dut, stall=memory_stall)
    cold = await copies(bench, lines, 20, 9)

    async def ends(status, where, header, **flags):
        done = await bench.run(task(64, 7, **flags))
        assert (done.status, done.last, done.tag) == (status, 1, 7), done
        assert where is None or done.where == where, done
        if header:
            left = await bench.read_header(TARGET)
            assert (left.status, left.where, left.tag) == (done.status, done.where, 7)
        bench.set_memory(stall=memory_stall)
        await bench.write_bitstream(SOURCE, lines.tobytes(), timestamp=0x123456789ABCDEF0)
        again = await copies(bench, lines, 20, 9)
        if not memory_stall and not bench.stalled:
            assert again == cold

    await ends(Status.JpegBadCode, None, True, fail=1)
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
        await copies(bench, lines, 20, 9)


