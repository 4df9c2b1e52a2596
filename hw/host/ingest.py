"""The engine that brings a bitstream from host memory into a slot."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from tessera.hw.engine import EngineSignature, SlotKind, Status
from tessera.hw.host.dma_read import DmaReadPort, ReadGuard
from tessera.hw.host.tlp import CompletionStatus
from tessera.hw.lib.envelope import CoreSignature, Envelope
from tessera.hw.lib.streams import connect
from tessera.hw.memory.port import Op

__all__ = ["PIECE_BYTES", "Ingest", "IngestParams"]

PIECE_BYTES = 4096
"""Bytes that are asked for at a time, so that descriptors are read in between."""
_PIECES = 4
_COUNT_BYTES = 64


class IngestParams(data.Struct):
    """Parameters of an ingest task."""

    address: 64
    """Of the bitstream's first byte in host memory; any."""
    bytes: 32
    """0 makes an empty bitstream."""
    counted: 1
    """``bytes`` has no meaning: the 32 bits at ``address`` say how many there are, and they begin 64 bytes further."""
    reserved: 31


class IngestCore(wiring.Component):
    """The part of :class:`Ingest` that may be reset at any time. ``running`` falls when it is."""

    def __init__(self):
        super().__init__({**CoreSignature().members, "host": Out(DmaReadPort()), "running": Out(1)})

    def elaborate(self, platform):
        m = Module()
        start, finish = self.start, self.finish
        params = IngestParams(start.payload.task.params)
        # A slot has fewer than 2**24 lines, so what fits has fewer than 2**30 bytes.
        window, line, room, to_write = Signal(10), Signal(26), Signal(24), Signal(24)
        address, to_ask, total = Signal(64), Signal(30), Signal(30)
        pieces = Signal(range(_PIECES + 1))
        count = Signal(32)
        needed = (count + 63)[6:]

        ask, read = self.host.request, self.host.line
        piece = Mux(to_ask < PIECE_BYTES, to_ask, PIECE_BYTES)
        asked, ended = Signal(), Signal()
        m.d.comb += [
            ask.payload.address.eq(address),
            ask.payload.bytes.eq(piece),
            asked.eq(ask.valid & ask.ready),
            ended.eq(read.valid & read.ready & read.payload.last),
        ]
        m.d.sync += pieces.eq(pieces + asked - ended)
        with m.If(asked):
            m.d.sync += [address.eq(address + piece), to_ask.eq(to_ask - piece)]

        write = self.memory.request
        m.d.comb += [
            self.memory.response.ready.eq(1),
            write.payload.op.eq(Op.Write),
            write.payload.window.eq(window),
            write.payload.offset.eq(line),
            write.payload.data.eq(read.payload.data),
        ]

        with m.FSM(name="ingest"):
            with m.State("AwaitStart"):
                m.d.comb += start.ready.eq(1)
                m.d.sync += [
                    window.eq(start.payload.task.target.window),
                    line.eq(start.payload.task.target.body),
                    room.eq(start.payload.task.target.lines),
                    address.eq(params.address),
                    count.eq(params.bytes),
                    to_ask.eq(_COUNT_BYTES),
                ]
                with m.If(start.valid):
                    m.d.sync += self.running.eq(1)
                    m.next = "CheckRoom"
                    with m.If(params.counted):
                        m.next = "AskCount"
            with m.State("AskCount"):
                m.d.comb += ask.valid.eq(to_ask != 0)
                m.d.comb += read.ready.eq(1)
                m.d.sync += count.eq(read.payload.data)
                with m.If(read.valid):
                    m.next = "CheckRoom"
                    with m.If(read.payload.status != CompletionStatus.Successful):
                        m.d.sync += [
                            finish.payload.status.eq(Status.HostError),
                            finish.payload.where.eq(read.payload.status),
                        ]
                        m.next = "Finish"
            with m.State("CheckRoom"):
                m.d.sync += [to_ask.eq(count), total.eq(count), to_write.eq(needed)]
                m.next = "MoveLines"
                with m.If(needed > room):
                    m.d.sync += [
                        finish.payload.status.eq(Status.TargetTooSmall),
                        finish.payload.where.eq(needed),
                    ]
                    m.next = "Finish"
                with m.Elif(count == 0):
                    m.next = "Finish"
            with m.State("MoveLines"):
                m.d.comb += [
                    ask.valid.eq((to_ask != 0) & (pieces != _PIECES)),
                    write.valid.eq(read.valid),
                    read.ready.eq(write.ready),
                ]
                with m.If(read.valid & read.ready):
                    m.d.sync += [line.eq(line + 1), to_write.eq(to_write - 1)]
                    with m.If(read.payload.last & (read.payload.status != CompletionStatus.Successful)):
                        m.d.sync += [
                            finish.payload.status.eq(Status.HostError),
                            finish.payload.where.eq(read.payload.status),
                        ]
                        m.next = "Finish"
                    with m.Elif(to_write == 1):
                        m.d.sync += finish.payload.bytes.eq(total)
                        m.next = "Finish"
            with m.State("Finish"):
                m.d.comb += finish.valid.eq(1)
        return m


class Ingest(wiring.Component):
    """Copies a range of host memory, at any byte address, into a bitstream slot.

    The task's ``params`` are :class:`IngestParams`; it has no source. The body is packed from byte 0 and its last line
    is padded with zeros; the header tells ``bytes`` and the task's ``timestamp``. How many bytes there are may stand in
    host memory before them: so a list of bitstreams with room for the longest one each needs no list of their sizes.

    Ends as ``TargetTooSmall`` with the lines needed, before any of them is read; as ``HostError`` with the
    :class:`CompletionStatus` of the read that failed.

    Throughput is 32 bytes per cycle or more from 16 KiB on, as long as the host answers within 100 cycles and the
    memory takes a line every cycle.

    Members
    -------
    task, done, memory, abort
        As in :class:`EngineSignature`.
    host : :py:`Out(DmaReadPort())`
    """

    def __init__(self, *, watchdog=1 << 16):
        self.core = IngestCore()
        self.envelope = Envelope(self.core, source=None, target=SlotKind.Bitstream, watchdog=watchdog)
        super().__init__({**EngineSignature().members, "host": Out(DmaReadPort())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.envelope = envelope = self.envelope
        m.submodules.guard = guard = ReadGuard()
        wiring.connect(m, self.core.host, guard.core)
        connect(m, guard.port.request, self.host.request)
        connect(m, self.host.line, guard.port.line)
        for name in ("task", "done", "memory"):
            inner, outer = getattr(envelope, name), wiring.flipped(getattr(self, name))
            wiring.connect(m, inner, outer)
        m.d.comb += [envelope.abort.eq(self.abort), guard.running.eq(self.core.running)]
        return m
