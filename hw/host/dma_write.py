"""Writes to host memory: from packed lines to byte ranges at any address."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.host.tlp import BEAT_DWS, Beat, PcieConfig, memory_write_header
from tessera.hw.lib.streams import Skid, connect, observe

__all__ = ["DmaWrite", "DmaWriteLine", "DmaWritePort", "DmaWriteRequest", "WriteGuard"]


class DmaWriteRequest(data.Struct):
    """A range of host memory. It may start at any byte; a range of 0 bytes has no line and is done at once."""

    address: 64
    bytes: 32


class DmaWriteLine(data.Struct):
    """64 bytes of a range, packed from its first byte."""

    data: 512
    void: 1
    """The range ends before this line: no packet that needs a byte of it leaves, and no line of the range follows."""


class DmaWritePort(wiring.Signature):
    """What a writer has: ``request`` out, then the range's ``line`` out, one for each 64 bytes, then ``done`` in.

    ``done`` is high for the cycle after which the range's last packet has its place on the link: what the chip sends
    later comes later; behind a void line it is high when the packets before that have their places. One range is under
    way at a time; the next may be asked for at any time.
    """

    def __init__(self):
        super().__init__(
            {
                "request": Out(stream.Signature(DmaWriteRequest)),
                "line": Out(stream.Signature(DmaWriteLine)),
                "done": In(1),
            }
        )

    def __eq__(self, other):
        return isinstance(other, DmaWritePort)

    __hash__ = None


class DmaWrite(wiring.Component):
    """Makes memory write TLPs of ranges.

    A TLP ends at each multiple of its largest payload (``config.max_payload``, 256 bytes at the most) and, in a range
    that does not start on a multiple of 64 bytes, at the first such multiple. A packet is offered only when all of it
    is here, so a slow writer never holds up the link.

    A full packet of ``n`` beats is made in ``n + 1`` cycles; a range adds 1 cycle, and 3 if it starts off a multiple
    of 64 bytes.

    Members
    -------
    config : :py:`In(PcieConfig)`
    writer : :py:`In(DmaWritePort())`
    packet : :py:`Out(stream.Signature(Beat))`
        Memory write TLPs, without gaps within one.
    """

    def __init__(self):
        super().__init__(
            {"config": In(PcieConfig), "writer": In(DmaWritePort()), "packet": Out(stream.Signature(Beat))}
        )

    def elaborate(self, platform):
        m = Module()
        request, line = self.writer.request, self.writer.line
        observe(m, request)
        observe(m, line)

        verdict = data.StructLayout({"void": 1, "final": 1})
        stored = data.StructLayout({"data": 512, "count": 5, "last": 1})
        m.submodules.headers = headers = fifo.SyncFIFO(width=128, depth=8)
        m.submodules.beats = beats = fifo.SyncFIFOBuffered(width=stored.size, depth=16)
        m.submodules.verdicts = verdicts = fifo.SyncFIFOBuffered(width=verdict.size, depth=16)

        address, left = Signal(64), Signal(32)
        offset = Signal(6)
        lines_left = Signal(27)
        lead = address[:2]

        # What happens to a line: rotated by `amount` bytes, it is the rest of a beat whose first bytes are the kept
        # line's, or it becomes the kept line.
        step = Signal(
            data.StructLayout(
                {"amount": 6, "merge": 1, "keep": 1, "emit": 1, "count": 5, "last": 1, "final": 1, "void": 1}
            )
        )
        step_valid, step_ready = Signal(), Signal()

        payload_log = Mux(self.config.max_payload == 0, 7, 8)
        size = Signal(9)
        chunk, chunk_left = Signal(9), Signal(9)
        m.d.comb += size.eq(1 << payload_log)
        to_multiple = size - (address[:8] & (size - 1))
        m.d.comb += chunk.eq(Mux(left < to_multiple, left, to_multiple))
        first_bytes = Signal(7)
        to_line = 64 - offset
        m.d.comb += first_bytes.eq(Mux(left < to_line, left, to_line))

        def header(count):
            dws = (lead + count + 3) >> 2
            first_be = (0xF << lead)[:4]
            last_be = 0xF >> (3 - (lead + count - 1)[:2]).as_unsigned()[:2]
            return memory_write_header(
                self.config,
                address,
                dws,
                Mux(dws == 1, first_be & last_be, first_be),
                Mux(dws == 1, 0, last_be),
            )

        finished_empty = Signal()
        with m.FSM(name="write"):
            with m.State("TakeRange"):
                m.d.comb += request.ready.eq(1)
                m.d.sync += [
                    address.eq(request.payload.address),
                    left.eq(request.payload.bytes),
                    offset.eq(request.payload.address[:6]),
                    lines_left.eq((request.payload.bytes + 63) >> 6),
                ]
                with m.If(request.valid):
                    with m.If(request.payload.bytes == 0):
                        m.d.comb += finished_empty.eq(1)
                    with m.Elif(request.payload.address[:6] == 0):
                        m.next = "StartPacket"
                    with m.Else():
                        m.next = "MakeFirst"
            with m.State("MakeFirst"):
                m.d.comb += [
                    headers.w_data.eq(header(first_bytes)),
                    step_valid.eq(line.valid & headers.w_rdy),
                    step.amount.eq(lead),
                    step.emit.eq(1),
                    step.count.eq((lead + first_bytes + 3) >> 2),
                    step.last.eq(1),
                    step.final.eq((first_bytes == left) | line.payload.void),
                    step.void.eq(line.payload.void),
                ]
                with m.If(step_valid & step_ready):
                    m.d.comb += headers.w_en.eq(1)
                    m.d.sync += [address.eq(address + first_bytes), left.eq(left - first_bytes)]
                    m.next = "KeepFirst"
                    # The line stays for what is left of it.
                    with m.If(step.final):
                        m.d.comb += line.ready.eq(1)
                        m.next = "TakeRange"
            with m.State("KeepFirst"):
                m.d.comb += [
                    step_valid.eq(line.valid),
                    step.amount.eq(offset),
                    step.keep.eq(1),
                    line.ready.eq(step_ready),
                ]
                with m.If(step_valid & step_ready):
                    m.d.sync += lines_left.eq(lines_left - 1)
                    m.next = "StartPacket"
            with m.State("StartPacket"):
                m.d.comb += [headers.w_data.eq(header(chunk)), headers.w_en.eq(1)]
                m.d.sync += chunk_left.eq(chunk)
                with m.If(headers.w_rdy):
                    m.d.sync += [address.eq(address + chunk), left.eq(left - chunk)]
                    m.next = "MakeBeats"
            with m.State("MakeBeats"):
                needed = lines_left != 0
                ends = needed & line.payload.void
                m.d.comb += [
                    step_valid.eq(line.valid | ~needed),
                    step.amount.eq(offset),
                    step.merge.eq(1),
                    step.keep.eq(1),
                    step.emit.eq(1),
                    step.last.eq((chunk_left <= 64) | ends),
                    step.count.eq(Mux(chunk_left >= 64, BEAT_DWS, (chunk_left + 3) >> 2)),
                    step.final.eq((left == 0) | ends),
                    step.void.eq(ends),
                    line.ready.eq(step_ready & needed),
                ]
                with m.If(step_valid & step_ready):
                    m.d.sync += [chunk_left.eq(chunk_left - 64), lines_left.eq(lines_left - needed)]
                    with m.If(step.last):
                        m.next = "StartPacket"
                        with m.If(step.final):
                            m.next = "TakeRange"

        # Rotation in two steps, then the merge.
        half, half_step, half_valid = Signal(512), Signal.like(step), Signal()
        out = Signal(stored)
        kept, proceed = Signal(512), Signal()
        by_16, by_4, turned = Signal(512), Signal(512), Signal(512)
        for into, source, times, size in (
            (by_16, line.payload.data, step.amount[4:6], 16),
            (by_4, by_16, step.amount[2:4], 4),
            (turned, half, half_step.amount[:2], 1),
        ):
            with m.Switch(times):
                for k in range(4):
                    with m.Case(k):
                        m.d.comb += into.eq(source.rotate_left(8 * k * size))
        m.d.comb += [
            proceed.eq(~half_valid | ~half_step.emit | (beats.w_rdy & verdicts.w_rdy)),
            step_ready.eq(proceed),
        ]
        with m.If(proceed):
            m.d.sync += [half_valid.eq(step_valid), half_step.eq(step), half.eq(by_4)]
        for n in range(64):
            use_kept = half_step.merge & (n < half_step.amount)
            m.d.comb += out.data.word_select(n, 8).eq(
                Mux(use_kept, kept.word_select(n, 8), turned.word_select(n, 8))
            )
        m.d.comb += [
            out.count.eq(half_step.count),
            out.last.eq(half_step.last),
            beats.w_data.eq(out),
            verdicts.w_data.eq(Cat(half_step.void, half_step.final)),
        ]
        with m.If(half_valid & proceed):
            with m.If(half_step.keep):
                m.d.sync += kept.eq(turned)
            with m.If(half_step.emit):
                m.d.comb += [beats.w_en.eq(1), verdicts.w_en.eq(half_step.last)]

        # Packets that are complete leave, or are dropped if void.
        passed = data.View(verdict, verdicts.r_data)
        beat = data.View(stored, beats.r_data)
        inside, taken = Signal(), Signal()
        whole = verdicts.r_rdy & beats.r_rdy
        packet = self.packet
        m.d.comb += [
            packet.valid.eq(whole & ~passed.void),
            packet.payload.data.eq(beat.data),
            packet.payload.header.eq(Mux(inside, 0, headers.r_data)),
            packet.payload.count.eq(beat.count),
            packet.payload.first.eq(~inside),
            packet.payload.last.eq(beat.last),
            taken.eq(whole & (packet.ready | passed.void)),
            beats.r_en.eq(taken),
            headers.r_en.eq(taken & ~inside),
            verdicts.r_en.eq(taken & beat.last),
            self.writer.done.eq((taken & beat.last & passed.final) | finished_empty),
        ]
        with m.If(taken):
            m.d.sync += inside.eq(~beat.last)
        observe(m, packet)
        return m


class WriteGuard(wiring.Component):
    """Stands between a core that may be reset at any time and its :class:`DmaWritePort`.

    When ``running`` falls within a range, a void line ends it. Requests of the next run pass when that range is done.

    Members
    -------
    running : :py:`In(1)`
        The core is at work; falls when it is reset.
    core : :py:`In(DmaWritePort())`
    port : :py:`Out(DmaWritePort())`
    """

    def __init__(self):
        super().__init__({"running": In(1), "core": In(DmaWritePort()), "port": Out(DmaWritePort())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.requests = requests = Skid(DmaWriteRequest)
        m.submodules.lines = lines = Skid(DmaWriteLine)
        connect(m, requests.o, self.port.request)
        connect(m, lines.o, self.port.line)
        busy, abandoned = Signal(), Signal()
        due = Signal(27)
        alive = self.running & ~abandoned
        asked, fed = Signal(), Signal()
        m.d.comb += [
            requests.i.valid.eq(self.core.request.valid & alive & ~busy),
            requests.i.payload.eq(self.core.request.payload),
            self.core.request.ready.eq(requests.i.ready & alive & ~busy),
            lines.i.valid.eq((due != 0) & Mux(alive, self.core.line.valid, 1)),
            lines.i.payload.data.eq(self.core.line.payload.data),
            lines.i.payload.void.eq(self.core.line.payload.void | ~alive),
            self.core.line.ready.eq(lines.i.ready & alive & (due != 0)),
            self.core.done.eq(self.port.done & alive),
            asked.eq(requests.i.valid & requests.i.ready),
            fed.eq(lines.i.valid & lines.i.ready),
        ]
        with m.If(fed):
            m.d.sync += due.eq(Mux(lines.i.payload.void, 0, due - 1))
        with m.If(asked):
            m.d.sync += [due.eq((self.core.request.payload.bytes + 63) >> 6), busy.eq(1)]
        with m.If(self.port.done):
            m.d.sync += busy.eq(0)
        with m.If(~self.running):
            m.d.sync += abandoned.eq(busy & ~self.port.done)
        with m.Elif(self.port.done):
            m.d.sync += abandoned.eq(0)
        return m
