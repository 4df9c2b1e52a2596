"""The engine that brings a bitstream from a slot into host memory."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import Out

from tessera.hw.engine import EngineSignature, SlotKind, Status
from tessera.hw.host.dma_write import DmaWritePort, WriteGuard
from tessera.hw.lib.envelope import CoreSignature, Envelope
from tessera.hw.lib.streams import connect
from tessera.hw.memory.port import MemoryStatus, Op

__all__ = ["Egress", "EgressParams"]

_AHEAD = 128


class EgressParams(data.Struct):
    """Parameters of an egress task."""

    address: 64
    """Where the first byte goes in host memory; any."""
    capacity: 32
    """Bytes of room there."""
    reserved: 32


class EgressCore(wiring.Component):
    """The part of :class:`Egress` that may be reset at any time. ``running`` falls when it is."""

    def __init__(self):
        super().__init__({**CoreSignature().members, "host": Out(DmaWritePort()), "running": Out(1)})

    def elaborate(self, platform):
        m = Module()
        start, finish = self.start, self.finish
        params = EgressParams(start.payload.task.params)
        window, body = Signal(10), Signal(26)
        address, total = Signal(64), Signal(32)
        to_read, read = Signal(27), Signal(27)
        header = start.payload.source
        needed = (header.bytes + 63)[6:]

        # Room for a line is reserved before it is asked for.
        m.submodules.lines = lines = fifo.SyncFIFOBuffered(width=512, depth=_AHEAD)
        reserved = Signal(range(_AHEAD + 1))
        asked, given = Signal(), Signal()
        request, response = self.memory.request, self.memory.response
        m.d.comb += [
            request.payload.op.eq(Op.Read),
            request.payload.window.eq(window),
            request.payload.offset.eq(body + read),
            asked.eq(request.valid & request.ready),
            response.ready.eq(1),
            lines.w_data.eq(response.payload.data),
            lines.w_en.eq(response.valid & (response.payload.status == MemoryStatus.Ok)),
            self.host.line.valid.eq(lines.r_rdy),
            self.host.line.payload.data.eq(lines.r_data),
            lines.r_en.eq(self.host.line.ready),
            given.eq(self.host.line.valid & self.host.line.ready),
        ]
        m.d.sync += reserved.eq(reserved + asked - given)
        with m.If(asked):
            m.d.sync += [read.eq(read + 1), to_read.eq(to_read - 1)]

        with m.FSM(name="egress"):
            with m.State("AwaitStart"):
                m.d.comb += start.ready.eq(1)
                m.d.sync += [
                    window.eq(start.payload.task.source.window),
                    body.eq(start.payload.task.source.body),
                    address.eq(params.address),
                    total.eq(header.bytes),
                    to_read.eq(needed),
                ]
                with m.If(start.valid):
                    m.d.sync += self.running.eq(1)
                    with m.If(header.bytes > params.capacity):
                        m.d.sync += [
                            finish.payload.status.eq(Status.TargetTooSmall),
                            finish.payload.where.eq(needed),
                        ]
                        m.next = "Finish"
                    with m.Elif(needed > start.payload.task.source.lines):
                        m.d.sync += [finish.payload.status.eq(Status.BadTask), finish.payload.where.eq(2)]
                        m.next = "Finish"
                    with m.Else():
                        m.next = "AskHost"
            with m.State("AskHost"):
                m.d.comb += [
                    self.host.request.valid.eq(1),
                    self.host.request.payload.address.eq(address),
                    self.host.request.payload.bytes.eq(total),
                ]
                with m.If(self.host.request.ready):
                    m.next = "MoveLines"
            with m.State("MoveLines"):
                m.d.comb += request.valid.eq((to_read != 0) & (reserved != _AHEAD))
                with m.If(self.host.done):
                    m.d.sync += finish.payload.bytes.eq(total)
                    m.next = "Finish"
            with m.State("Finish"):
                m.d.comb += finish.valid.eq(1)
        return m


class Egress(wiring.Component):
    """Copies a bitstream slot's bytes to host memory, at any byte address.

    The task's ``params`` are :class:`EgressParams`; it has no target. How many bytes there are, the slot's header says,
    and so does done.

    Done is sent when the last write has its place on the link: a record of it, or the answer to a register read, comes
    after the data. Nothing is written of a line that could not be read.

    Ends as ``TargetTooSmall`` with the lines needed when the bytes do not fit ``capacity``, as ``BadTask`` with 2 when
    they do not fit the source slot's own lines; nothing is written then.

    Throughput is 32 bytes per cycle or more from 32 KiB on, with a memory latency of at most 100 cycles.

    Members
    -------
    task, done, memory, abort
        As in :class:`EngineSignature`.
    host : :py:`Out(DmaWritePort())`
    """

    def __init__(self, *, watchdog=1 << 16):
        self.core = EgressCore()
        self.envelope = Envelope(self.core, source=SlotKind.Bitstream, target=None, watchdog=watchdog)
        super().__init__({**EngineSignature().members, "host": Out(DmaWritePort())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.envelope = envelope = self.envelope
        m.submodules.guard = guard = WriteGuard()
        wiring.connect(m, self.core.host, guard.core)
        connect(m, guard.port.request, self.host.request)
        connect(m, guard.port.line, self.host.line)
        for name in ("task", "done", "memory"):
            inner, outer = getattr(envelope, name), wiring.flipped(getattr(self, name))
            wiring.connect(m, inner, outer)
        m.d.comb += [
            envelope.abort.eq(self.abort),
            guard.running.eq(self.core.running),
            guard.port.done.eq(self.host.done),
        ]
        return m
