"""A link's responding end: requests of other nodes to the memory, and its answers to packets."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import observe
from tessera.hw.link.packet import LINES_MAX, Part, RequestBody, form_code
from tessera.hw.link.receiver import ROOM
from tessera.hw.memory.port import MemoryPort, MemoryStatus, Op

__all__ = ["RESPONSE_LINES", "Responder"]

RESPONSE_LINES = 4
"""Lines of one response at the most."""
_PARTS = 2 * ROOM
"""Parts of requests that may wait."""


class Responder(wiring.Component):
    """Does in a memory what other nodes ask for over one link.

    All requests have one id, so the memory answers them in order. Lines that are read go in packets of up to
    :data:`RESPONSE_LINES`; a packet ends with its request as well, and where a line is not ``Ok``, which is answered on
    its own. Writes of a request are answered together, as far as they ended alike. Room is kept for each answer before
    the memory is asked: it never waits for the link.

    A response tells in ``tag`` the request's tag, plus the number of its first line within the request; one without
    lines tells in ``first`` of how many lines it is, less one.

    When the link is ``lost``, what was asked for is forgotten; what the memory was asked for it still does.

    Latency: a request to the memory is offered one cycle after its part came, one per cycle from then on; the part that
    answers a line one cycle after the last answer that goes into its packet, if none is before it.

    Parameters
    ----------
    lines : int
        That may be under way, a power of two from 16.

    Members
    -------
    node : :py:`In(4)`
        This chip's number.
    lost : :py:`In(1)`
        As of :class:`Link`.
    come : :py:`In(1)`, part : :py:`In(Part)`
        A part of a request from the link.
    room : :py:`Out(1)`
        For these, as of :class:`PacketReceiver`.
    memory : :py:`Out(MemoryPort())`
    packet : :py:`Out(stream.Signature(Part))`
        Responses, for the link. Withdrawn when ``lost``.
    """

    def __init__(self, lines=64):
        if lines < 16 or lines & (lines - 1):
            raise ValueError(f"lines is {lines}; a power of two from 16 expected")
        self.lines = lines
        super().__init__(
            {
                "node": In(4),
                "lost": In(1),
                "come": In(1),
                "part": In(Part),
                "room": Out(1),
                "memory": Out(MemoryPort()),
                "packet": Out(stream.Signature(Part)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        group = data.StructLayout({"op": Op, "source": 4, "epoch": 2, "tag": 8, "ends": 1})
        groups = fifo.SyncFIFOBuffered(width=group.size, depth=self.lines)
        m.submodules.groups = ResetInserter(self.lost)(groups)
        room, voided = Signal(), Signal()
        self._ask(m, groups, group, room, voided)
        self._answer(m, data.View(group, groups.r_data), groups, room, voided)
        return m

    def _ask(self, m, groups, group, room, voided):
        """Parts of requests, one by one: a register, and a queue before it while it waits."""
        parts = fifo.SyncFIFOBuffered(width=Shape.cast(Part).width, depth=_PARTS)
        m.submodules.parts = ResetInserter(self.lost)(parts)
        there, part, done = Signal(), Signal(Part), Signal()
        # A request that is offered has to be taken, even if nobody wants its answer any more.
        void, taken = Signal(), Signal()
        load = ~there | done
        through = parts.level == 0
        m.d.comb += [
            parts.w_data.eq(self.part),
            parts.w_en.eq(self.come & ~(load & through)),
            parts.r_en.eq(load),
            self.room.eq(parts.level <= _PARTS - ROOM),
        ]
        with m.If(load):
            m.d.sync += [
                there.eq(parts.r_rdy | (self.come & through)),
                part.eq(Mux(parts.r_rdy, parts.r_data, self.part.as_value())),
            ]

        # A read's lines, or a write's parts, by their number in the request.
        asks = data.StructLayout({"source": 4, "tag": 8, "first": 4, "epoch": 2, "body": 32})
        number, kept, now = Signal(4), Signal(asks), Signal(asks)
        request, entry = self.memory.request, Signal(group)
        body = data.View(RequestBody, now.body)
        writes = part.has_line
        m.d.comb += [
            *(now[name].eq(Mux(part.first, part.head[name], kept[name])) for name in asks.members if name != "body"),
            now.body.eq(Mux(part.first, part.body, kept.body)),
            request.valid.eq(there & (room | void)),
            request.payload.op.eq(Mux(writes, Op.Write, Op.Read)),
            request.payload.window.eq(body.window),
            request.payload.offset.eq(body.offset + number),
            request.payload.data.eq(part.line),
            taken.eq(request.valid & request.ready),
            done.eq(taken & (writes | void | (number == now.first))),
            entry.op.eq(request.payload.op),
            entry.source.eq(now.source),
            entry.epoch.eq(now.epoch),
            entry.tag.eq(now.tag + number),
            entry.ends.eq(
                Mux(writes, part.last, (number == now.first) | (number % RESPONSE_LINES == RESPONSE_LINES - 1))
            ),
            groups.w_data.eq(entry),
            groups.w_en.eq(taken & ~void),
            voided.eq(taken & void),
        ]
        with m.If(taken):
            ends = void | Mux(writes, part.last, done)
            m.d.sync += [void.eq(0), kept.eq(now), number.eq(Mux(ends, 0, number + 1))]
        with m.If(self.lost):
            waits = request.valid & ~request.ready
            m.d.sync += [there.eq(waits), void.eq(waits)]
            with m.If(~waits):
                m.d.sync += number.eq(0)
        observe(m, request)

    def _answer(self, m, first, groups, room, voided):
        """The memory's answers, gathered to packets; a register behind them."""
        response, status = self.memory.response, self.memory.response.payload.status
        answer = data.StructLayout(
            {"lined": 1, "source": 4, "epoch": 2, "tag": 8, "count": range(LINES_MAX + 1), "status": MemoryStatus}
        )
        answers, lines = (fifo.SyncFIFOBuffered(width=width, depth=self.lines) for width in (answer.size, 512))
        m.submodules.answers, m.submodules.lines = ResetInserter(self.lost)(answers), ResetInserter(self.lost)(lines)
        held, came, merged, put = (Signal(answer, name=name) for name in ("held", "came", "merged", "put"))
        holds, complete, joins, whole, puts = Signal(), Signal(), Signal(), Signal(), Signal()
        # The oldest answers may be of what was forgotten.
        most = 2 * self.lines
        asked, stale, comes = Signal(range(most + 2)), Signal(range(most + 2)), Signal()
        left = asked + (self.memory.request.valid & self.memory.request.ready) - response.valid
        m.d.sync += asked.eq(left)
        m.d.sync += stale.eq(Mux(self.lost, left, stale + voided - ((stale != 0) & response.valid)))
        m.d.comb += [
            response.ready.eq(1),
            comes.eq(response.valid & (stale == 0) & ~self.lost),
            groups.r_en.eq(comes),
            came.lined.eq((first.op == Op.Read) & (status == MemoryStatus.Ok)),
            came.source.eq(first.source),
            came.epoch.eq(first.epoch),
            came.tag.eq(first.tag),
            came.count.eq(1),
            came.status.eq(status),
            # Nothing but the request's next line can follow what is not complete.
            joins.eq(holds & ~complete & (held.status == status)),
            merged.eq(Mux(joins, held.as_value(), came.as_value())),
            merged.count.eq(Mux(joins, held.count + 1, 1)),
            whole.eq(first.ends | (first.op == Op.Read) & ~came.lined),
        ]
        with m.If(comes & (joins | ~holds)):
            m.d.comb += [put.eq(merged), puts.eq(whole)]
            m.d.sync += [held.eq(merged), holds.eq(~whole), complete.eq(0)]
        with m.Elif(comes):
            m.d.comb += [put.eq(held), puts.eq(1)]
            m.d.sync += [held.eq(came), complete.eq(whole)]
        with m.Elif(holds & complete):
            m.d.comb += [put.eq(held), puts.eq(1)]
            m.d.sync += holds.eq(0)

        # The only line of a packet need not wait in a queue that is empty.
        through, step, part, shown = Signal(), Signal(), self.packet.payload, Signal(answer)
        index, last, lined = Signal(range(LINES_MAX)), Signal(), Signal()
        goes = Signal()
        m.d.comb += [
            step.eq(~self.packet.valid | self.packet.ready),
            through.eq(step & puts & comes & ~holds & (answers.level == 0) & (lines.level == 0)),
            shown.eq(Mux(answers.r_rdy, answers.r_data, put.as_value())),
            lined.eq(shown.lined),
            last.eq(~lined | (index + 1 == shown.count)),
            goes.eq(step & (through | answers.r_rdy & (lines.r_rdy | ~lined))),
            answers.w_data.eq(put),
            answers.w_en.eq(puts & ~through),
            answers.r_en.eq(goes & ~through & last),
            lines.w_data.eq(response.payload.data),
            lines.w_en.eq(comes & came.lined & ~through),
            lines.r_en.eq(goes & ~through & lined),
        ]
        with m.If(step):
            m.d.sync += [
                self.packet.valid.eq(goes),
                part.first.eq(index == 0),
                part.last.eq(last),
                part.has_line.eq(lined),
                part.head.form.eq(
                    Mux(lined, Array(form_code(n, 0) for n in range(LINES_MAX + 1))[shown.count], form_code(0, 0))
                ),
                part.head.source.eq(self.node),
                part.head.target.eq(shown.source),
                part.head.tag.eq(shown.tag),
                part.head.first.eq(shown.count - 1),
                part.head.status.eq(shown.status),
                part.head.epoch.eq(shown.epoch),
                part.line.eq(Mux(through, response.payload.data, lines.r_data)),
            ]
        with m.If(goes):
            m.d.sync += index.eq(Mux(last, 0, index + 1))

        # Lines that were asked for, and have not gone.
        under_way = Signal(range(self.lines + 1))
        gone = Mux(goes, Mux(lined, 1, shown.count), 0)
        m.d.sync += under_way.eq(under_way + groups.w_en - gone)
        m.d.comb += room.eq((under_way != self.lines) & (asked < most))
        with m.If(self.lost):
            m.d.sync += [holds.eq(0), index.eq(0), under_way.eq(0), self.packet.valid.eq(0)]
