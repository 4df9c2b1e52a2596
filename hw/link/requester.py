"""A link's requesting end: line requests to packets, and the other side's answers back in order."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import observe
from tessera.hw.link.packet import LINES_MAX, Part, RequestBody, form_code
from tessera.hw.link.receiver import ROOM
from tessera.hw.memory.port import MemoryStatus, Op

__all__ = ["PATIENCE", "READ_LINES", "RemoteRequest", "RemoteResponse", "Requester"]

READ_LINES = 16
"""Lines that one packet asks for at the most."""
PATIENCE = 16
"""Cycles for which a packet waits for its next line, if answers enough are to come."""
_ANSWERS = 2 * ROOM
"""Answers without lines that may wait."""


class RemoteRequest(data.Struct):
    """One access to another node's memory."""

    op: Op
    id: 8
    """Comes back with the answer."""
    target: 4
    """The node."""
    window: 6
    offset: 26
    data: 512


class RemoteResponse(data.Struct):
    """The answer to one :class:`RemoteRequest`."""

    op: Op
    id: 8
    status: MemoryStatus
    data: 512


class Requester(wiring.Component):
    """Asks for lines of other nodes' memories, over one link.

    A request is taken when a slot of the landing buffer is free for it, which it keeps until it is answered. Requests
    that follow one another, of the same kind, target and window and with the next offset, go in one packet: reads up to
    :data:`READ_LINES`, writes up to 8 lines. A packet goes when the next request is none of these; or when there is no
    next one, but while half of the slots wait for answers to others, only :data:`PATIENCE` cycles later. So a busy link
    has few and long packets, and an idle one sends at once.

    Answers are given in the order of the requests, whatever the order in which they come, one per cycle. When the link
    is ``lost``, each request that is not answered yet, and each one that comes, is answered as ``Failed``.

    Latency: a packet is offered one cycle after its last request if it need not wait, an answer two cycles after its
    line came.

    Parameters
    ----------
    slots : int
        Lines that may be asked for and not yet given: a power of two, 32 to 256.

    Members
    -------
    node : :py:`In(4)`
        This chip's number.
    i : :py:`In(stream.Signature(RemoteRequest))`
    o : :py:`Out(stream.Signature(RemoteResponse))`
        Data with anything but ``Ok`` means nothing.
    lost : :py:`In(1)`
        What was sent will not be answered, and nothing is to be sent. Then answers of before are not looked at.
    packet : :py:`Out(stream.Signature(Part))`
        Requests, for the link. Withdrawn when ``lost``.
    come : :py:`In(1)`, part : :py:`In(Part)`
        A part of a response from the link.
    room : :py:`Out(1)`
        For these, as of :class:`PacketReceiver`; never low for long, whatever waits.
    """

    def __init__(self, slots=128):
        if not 32 <= slots <= 256 or slots & (slots - 1):
            raise ValueError(f"slots is {slots}; a power of two from 32 to 256 expected")
        self.slots = slots
        super().__init__(
            {
                "node": In(4),
                "i": In(stream.Signature(RemoteRequest)),
                "o": Out(stream.Signature(RemoteResponse)),
                "lost": In(1),
                "packet": Out(stream.Signature(Part)),
                "come": In(1),
                "part": In(Part),
                "room": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits = range(self.slots)
        asked = self.i.payload
        head, tail, used = Signal(bits, name="head"), Signal(bits, name="tail"), Signal(range(self.slots + 1))
        epoch, was_lost = Signal(2), Signal()
        m.d.sync += was_lost.eq(self.lost)
        with m.If(self.lost & ~was_lost):
            m.d.sync += epoch.eq(epoch + 1)

        # Runs of requests: one that may still grow, and one that is offered.
        run = data.StructLayout(
            {"op": Op, "target": 4, "window": 6, "offset": 26, "slot": Shape.cast(bits), "lines": range(READ_LINES + 1)}
        )
        growing, offered = Signal(run), Signal(run)
        grows, offers = Signal(), Signal()
        lines = fifo.SyncFIFOBuffered(width=512, depth=4 * LINES_MAX)
        m.submodules.lines = ResetInserter(self.lost)(lines)
        most = Mux(growing.op == Op.Write, LINES_MAX, READ_LINES)
        goes_on, take, leaves, begins = Signal(), Signal(), Signal(), Signal()
        waited, busy = Signal(range(PATIENCE)), Signal()
        m.d.sync += busy.eq(used >= self.slots // 2 + READ_LINES)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += waited.eq(0)
        with m.Elif(waited != PATIENCE - 1):
            m.d.sync += waited.eq(waited + 1)
        m.d.comb += [
            goes_on.eq(
                (asked.op == growing.op)
                & (asked.target == growing.target)
                & (asked.window == growing.window)
                & (asked.offset == (growing.offset + growing.lines)[:26])
                & (growing.lines != most)
            ),
            # It leaves when the place for what is offered is free, and nothing belongs to it any more.
            leaves.eq(
                grows
                & ~offers
                & ~(take & goes_on)
                & (~busy | (self.i.valid & ~goes_on) | (growing.lines == most) | (waited == PATIENCE - 1))
            ),
            self.i.ready.eq((used != self.slots) & lines.w_rdy & (~grows | goes_on | leaves | self.lost)),
            take.eq(self.i.valid & (used != self.slots) & lines.w_rdy),
            begins.eq(self.i.valid & self.i.ready & ~(grows & goes_on)),
            lines.w_data.eq(asked.data),
            lines.w_en.eq(self.i.valid & self.i.ready & (asked.op == Op.Write) & ~self.lost),
        ]
        with m.If(leaves):
            m.d.sync += grows.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += tail.eq(tail + 1)
            with m.If(begins):
                m.d.sync += [
                    grows.eq(1),
                    *(growing[name].eq(asked[name]) for name in ("op", "target", "window", "offset")),
                    growing.slot.eq(tail),
                    growing.lines.eq(1),
                ]
            with m.Else():
                m.d.sync += growing.lines.eq(growing.lines + 1)

        # A read's packet is offered right away; that of a write when it is whole.
        direct = leaves & (growing.op == Op.Read)
        now = Signal(run)
        index = Signal(range(LINES_MAX))
        part, body, writes, last = self.packet.payload, Signal(RequestBody), Signal(), Signal()
        m.d.comb += [
            now.eq(Mux(offers, offered.as_value(), growing.as_value())),
            writes.eq(now.op == Op.Write),
            last.eq(~writes | (index + 1 == now.lines)),
            self.packet.valid.eq((offers | direct) & ~self.lost),
            body.window.eq(now.window),
            body.offset.eq(now.offset),
            part.first.eq(index == 0),
            part.last.eq(last),
            part.has_body.eq(1),
            part.has_line.eq(writes),
            part.head.form.eq(
                Mux(writes, Array(form_code(n, 1) for n in range(LINES_MAX + 1))[now.lines[:4]], form_code(0, 1))
            ),
            part.head.source.eq(self.node),
            part.head.target.eq(now.target),
            part.head.tag.eq(now.slot),
            part.head.first.eq(now.lines - 1),
            part.head.epoch.eq(epoch),
            part.body.eq(body),
            part.line.eq(lines.r_data),
            lines.r_en.eq(self.packet.valid & self.packet.ready & writes),
        ]
        with m.If(leaves & ~(direct & self.packet.ready)):
            m.d.sync += [offers.eq(1), offered.eq(growing)]
        with m.Elif(self.packet.valid & self.packet.ready & last):
            m.d.sync += offers.eq(0)
        with m.If(self.packet.valid & self.packet.ready):
            m.d.sync += index.eq(Mux(last, 0, index + 1))
        with m.If(self.lost):
            m.d.sync += [grows.eq(0), offers.eq(0), index.eq(0)]

        self._answer(m, epoch, head, tail, used)
        return m

    def _answer(self, m, epoch, head, tail, used):
        """What comes goes to its slot; the oldest slot is given when it is answered."""
        bits = range(self.slots)
        m.submodules.landing = landing = memory.Memory(shape=512, depth=self.slots, init=[])
        of_request = data.StructLayout({"op": Op, "id": 8})
        m.submodules.info = info = memory.Memory(shape=of_request, depth=self.slots, init=[])
        m.submodules.statuses = statuses = memory.Memory(shape=MemoryStatus, depth=self.slots, init=[])
        land, fetch = landing.write_port(), landing.read_port()
        note, noted = info.write_port(), info.read_port(domain="comb")
        judge, judged = statuses.write_port(), statuses.read_port(domain="comb")
        answered = Signal(self.slots)
        asked, taken = self.i.payload, self.i.valid & self.i.ready
        m.d.comb += [note.addr.eq(tail), note.data.op.eq(asked.op), note.data.id.eq(asked.id), note.en.eq(taken)]

        # Of a response with lines each is for the next slot. One without is for as many slots as it says.
        part, answer = self.part, data.StructLayout({"slot": Shape.cast(bits), "more": 4, "status": MemoryStatus})
        slot, kept_slot, right, kept_right = Signal(bits), Signal(bits), Signal(), Signal()
        status, kept_status = Signal(MemoryStatus), Signal(MemoryStatus)
        m.d.comb += [
            slot.eq(Mux(part.first, part.head.tag, kept_slot)),
            right.eq(Mux(part.first, part.head.epoch == epoch, kept_right) & ~self.lost),
            status.eq(Mux(part.first, part.head.status, kept_status.as_value())),
            land.addr.eq(slot),
            land.data.eq(part.line),
            land.en.eq(self.come & part.has_line & right),
        ]
        with m.If(self.come):
            m.d.sync += [kept_slot.eq(slot + 1), kept_right.eq(right), kept_status.eq(status)]
        answers = fifo.SyncFIFOBuffered(width=answer.size, depth=_ANSWERS)
        m.submodules.answers = ResetInserter(self.lost)(answers)
        put, next_answer = Signal(answer), data.View(answer, answers.r_data)
        done, step = Signal(4), Signal()
        m.d.comb += [
            put.slot.eq(slot),
            put.more.eq(part.head.first),
            put.status.eq(status),
            answers.w_data.eq(put),
            answers.w_en.eq(self.come & ~part.has_line & right),
            self.room.eq(answers.level <= _ANSWERS - ROOM),
            step.eq(answers.r_rdy & ~land.en),
            answers.r_en.eq(step & (done == next_answer.more)),
            judge.addr.eq(Mux(land.en, slot, next_answer.slot + done)),
            judge.data.eq(Mux(land.en, status.as_value(), next_answer.status.as_value())),
            judge.en.eq((land.en | step) & ~self.lost),
        ]
        with m.If(step):
            m.d.sync += done.eq(Mux(done == next_answer.more, 0, done + 1))
        with m.If(self.lost):
            m.d.sync += done.eq(0)

        # Those that are waited for in vain are the oldest ones.
        vain = Signal(range(self.slots + 1))
        there, gives, given = Signal(), Signal(), self.o.payload
        m.d.comb += [
            there.eq((used != 0) & (answered.bit_select(head, 1) | (vain != 0))),
            gives.eq(there & (~self.o.valid | self.o.ready)),
            noted.addr.eq(head),
            judged.addr.eq(head),
            fetch.addr.eq(head),
            fetch.en.eq(gives),
            given.data.eq(fetch.data),
        ]
        left = used - gives
        m.d.sync += [used.eq(left + taken), vain.eq(Mux(self.lost, left + taken, vain - ((vain != 0) & gives)))]
        m.d.sync += answered.eq(answered & ~Mux(gives, 1 << head, 0) | Mux(judge.en, 1 << judge.addr, 0))
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += self.o.valid.eq(there)
        with m.If(gives):
            m.d.sync += [
                head.eq(head + 1),
                given.op.eq(noted.data.op),
                given.id.eq(noted.data.id),
                given.status.eq(Mux(answered.bit_select(head, 1), judged.data.as_value(), MemoryStatus.Failed)),
            ]
        observe(m, self.o)
