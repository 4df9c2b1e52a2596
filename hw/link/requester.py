"""A link's requesting end: line requests to packets, and the other side's answers back in order."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import observe
from tessera.hw.link.packet import LINES_MAX, Part, RequestBody, form_code
from tessera.hw.link.receiver import ROOM
from tessera.hw.memory.port import MemoryStatus, Op, RemoteRequest, RemoteResponse

__all__ = ["PATIENCE", "READ_LINES", "Requester"]

READ_LINES = 16
"""Lines that one packet asks for at the most."""
PATIENCE = 16
"""Cycles for which a packet waits for its next line, if answers enough are to come."""
_ANSWERS = 8
"""Answers without lines that may wait before it says that there is no room; two are on the way by then."""


class Requester(wiring.Component):
    """Asks for lines of other nodes' memories, over one link.

    A request is taken when a slot of the landing buffer is free for it, which it keeps until it is answered. Requests
    that follow one another, of the same kind, target and window and with the next offset, go in one packet: reads up to
    :data:`READ_LINES`, writes up to 8 lines. A packet goes when the next request is none of these; or when there is no
    next one, but while half of the slots wait for answers to others, only :data:`PATIENCE` cycles later. So a busy link
    has few and long packets, and an idle one sends at once.

    Answers are given in the order of the requests, whatever the order in which they come, one per cycle. When the link
    is ``lost``, each request that is not answered yet, and each one that comes, is answered as ``Failed``. So are all
    that wait when the oldest one has waited for ``2 ** answer_bits`` cycles, though the link is not lost: so ends what
    a second hop has lost. Answers that come later are not heard; writes may still be done.

    Latency: a packet is offered one cycle after its last request if it need not wait, or two if the next request ends
    it; an answer two cycles after its line came.

    Parameters
    ----------
    slots : int
        Lines that may be asked for and not yet given: a power of two, 32 to 256.
    answer_bits : int
        8 to 24: answers come sooner than ``2 ** answer_bits`` cycles, if they come.

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

    def __init__(self, slots=128, answer_bits=16):
        if not 32 <= slots <= 256 or slots & (slots - 1):
            raise ValueError(f"slots is {slots}; a power of two from 32 to 256 expected")
        if not 8 <= answer_bits <= 24:
            raise ValueError(f"answer_bits is {answer_bits}; 8 to 24 expected")
        self.slots, self.answer_bits = slots, answer_bits
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
        tail, taken, free, busy = Signal(bits, name="tail"), Signal(), Signal(init=1), Signal()
        # Requests of an epoch that is over need no answer.
        epoch, was_lost, expired = Signal(2), Signal(), Signal()
        m.d.sync += was_lost.eq(self.lost)
        with m.If((self.lost & ~was_lost) | expired):
            m.d.sync += epoch.eq(epoch + 1)

        # Runs of requests: one that may still grow, one request that does not belong to it and waits until it has left,
        # and two runs that are offered one after the other. A run's lines, less one, are ``more``.
        place = {"op": Op, "target": 4, "window": 6, "offset": 26}
        begun = {**place, "slot": Shape.cast(bits), "epoch": 2}
        run = data.StructLayout({**begun, "more": range(READ_LINES)})
        growing, other, new = Signal(run), Signal(data.StructLayout(begun)), Signal(data.StructLayout(begun))
        grows, full, has_other, other_is_old = Signal(), Signal(), Signal(), Signal()
        # Not ``has_other``, of another register: this one is for what is wide.
        lone = Signal(init=1)
        offers, waits, held = Signal(), Signal(), Signal()
        next_offset, follows, free_place, reads = Signal(26), Signal(), Signal(), Signal()
        leaves, at_once, went = Signal(), Signal(), Signal()
        waited, patient, hurries = Signal(range(PATIENCE)), Signal(), Signal()
        with m.If(taken):
            m.d.sync += [waited.eq(0), hurries.eq(0)]
        with m.Elif(~hurries):
            m.d.sync += [waited.eq(waited + 1), hurries.eq(waited == PATIENCE - 2)]
        m.d.sync += patient.eq(busy & (taken | ~(hurries | (waited == PATIENCE - 2))))
        m.d.comb += [
            *(new[name].eq(asked[name]) for name in place),
            new.slot.eq(tail),
            new.epoch.eq(epoch),
            # The comparison is the slowest, so it comes last into everything, and whether a request is taken waits for
            # no comparison.
            follows.eq(
                (asked.op == growing.op)
                & (asked.target == growing.target)
                & (asked.window == growing.window)
                & (asked.offset == next_offset)
            ),
            reads.eq(growing.op == Op.Read),
            free_place.eq(Mux(reads, ~waits, ~offers)),
            # It leaves when there is a place for it, and nothing belongs to it any more. What may still grow is offered
            # at once or not at all: it is soon known, for nothing is compared.
            leaves.eq(
                grows
                & Mux(
                    full | has_other | (self.i.valid & ~follows),
                    free_place,
                    ~offers & ~patient & ~(self.i.valid & free),
                )
            ),
            at_once.eq(grows & reads & ~offers & (full | (~self.i.valid & ~patient))),
            went.eq(at_once & self.packet.ready),
            # Lines to write of two whole packets are all that there is room for.
            held.eq(offers & full & ~reads),
            self.i.ready.eq(free & (self.lost | ~(has_other | held))),
            taken.eq(self.i.valid & self.i.ready),
        ]
        another = ~self.lost & Mux(has_other, ~leaves, taken & grows & ~(follows & ~full) & ~free_place)
        m.d.sync += [
            grows.eq(~self.lost & (taken | has_other | (grows & ~leaves))),
            has_other.eq(another),
            lone.eq(~another),
        ]
        with m.If(taken):
            m.d.sync += tail.eq(tail + 1)
        with m.If(~grows | taken):
            # Also the place of what begins, or what it goes on with.
            m.d.sync += next_offset.eq(asked.offset + 1)
        with m.If(~has_other):
            m.d.sync += other.eq(new)
        with m.If(~grows | leaves):
            m.d.sync += [
                Cat(growing[name] for name in begun).eq(Mux(has_other, other.as_value(), new.as_value())),
                growing.more.eq(0),
                full.eq(has_other & other_is_old),
            ]
        with m.Elif(taken & follows & ~full):
            most = Mux(growing.op == Op.Write, LINES_MAX, READ_LINES)
            m.d.sync += [growing.more.eq(growing.more + 1), full.eq(growing.more == most - 2)]
        # Nothing joins what is not waited for.
        with m.If(expired & (taken | has_other | (grows & ~leaves))):
            m.d.sync += full.eq(1)
        with m.If(expired):
            m.d.sync += other_is_old.eq(1)
        with m.Elif(~has_other):
            m.d.sync += other_is_old.eq(0)

        # A read's packet may be offered right away; that of a write when it is whole. Of the two runs the one in
        # ``front`` is offered; a place that is not in use holds what grows, so that who takes a packet moves no run.
        runs, front, sent = [Signal(run, name=f"run{n}") for n in range(2)], Signal(), Signal(range(LINES_MAX))
        for n, one in enumerate(runs):
            with m.If(~Mux(front == n, offers, waits)):
                m.d.sync += one.eq(growing)
        offered, now, last, writes = Signal(run), Signal(run), Signal(), Signal()
        part, body = self.packet.payload, Signal(RequestBody)
        m.d.comb += [
            offered.eq(Mux(front, runs[1].as_value(), runs[0].as_value())),
            now.eq(Mux(offers, offered.as_value(), growing.as_value())),
            writes.eq(now.op == Op.Write),
            last.eq(~writes | (offered.more == sent)),
            self.packet.valid.eq((offers | at_once) & ~self.lost),
            body.window.eq(now.window),
            body.offset.eq(now.offset),
            part.first.eq(sent == 0),
            part.last.eq(last),
            part.has_body.eq(1),
            part.has_line.eq(writes),
            part.head.form.eq(
                Mux(writes, Array(form_code(n + 1, 1) for n in range(LINES_MAX))[now.more[:3]], form_code(0, 1))
            ),
            part.head.source.eq(self.node),
            part.head.target.eq(now.target),
            part.head.tag.eq(now.slot),
            part.head.first.eq(now.more),
            part.head.epoch.eq(now.epoch),
            part.body.eq(body),
        ]
        with m.If(~offers):
            m.d.sync += offers.eq(leaves & ~went)
        with m.Elif(self.packet.ready & last):
            m.d.sync += [offers.eq(waits | leaves), waits.eq(0), front.eq(~front), sent.eq(0)]
        with m.Else():
            m.d.sync += [waits.eq(waits | leaves), sent.eq(sent + self.packet.ready)]
        with m.If(self.lost):
            m.d.sync += [offers.eq(0), waits.eq(0), sent.eq(0)]
        self._lines(m, taken, offers & writes, held | ~lone)
        self._answer(m, epoch, tail, taken, free, busy, expired)
        return m

    def _lines(self, m, taken, offers, held):
        """The lines to write of the runs: never more than two packets have."""
        m.submodules.lines = lines = memory.Memory(shape=512, depth=2 * LINES_MAX, init=[])
        put, get = lines.write_port(), lines.read_port(domain="comb")
        asked = self.i.payload
        m.d.comb += [
            put.data.eq(asked.data),
            # Until a line is taken, its place may be written with anything; while none may be taken there may be none.
            put.en.eq(~held),
            self.packet.payload.line.eq(get.data),
        ]
        with m.If(taken & (asked.op == Op.Write)):
            m.d.sync += put.addr.eq(put.addr + 1)
        with m.If(offers & self.packet.ready):
            m.d.sync += get.addr.eq(get.addr + 1)
        with m.If(self.lost):
            m.d.sync += [put.addr.eq(0), get.addr.eq(0)]

    def _answer(self, m, epoch, tail, taken, free, busy, expired):
        """What comes goes to its slot; the oldest slot is given when it is answered, or has waited for too long."""
        bits = range(self.slots)
        forgets = Signal()
        m.d.comb += forgets.eq(self.lost | expired)
        # A slot's line comes once, and is given after that: none is read and written at once.
        m.submodules.landing = landing = memory.Memory(shape=512, depth=self.slots, init=[], attrs={"no_rw_check": 1})
        of_request = data.StructLayout({"op": Op, "id": 8})
        m.submodules.info = info = memory.Memory(shape=of_request, depth=self.slots, init=[])
        m.submodules.statuses = statuses = memory.Memory(shape=MemoryStatus, depth=self.slots, init=[])
        land, fetch = landing.write_port(), landing.read_port(domain="comb")
        line = Signal(512, reset_less=True)
        note, noted = info.write_port(), info.read_port(domain="comb")
        judge, judged = statuses.write_port(), statuses.read_port(domain="comb")
        asked = self.i.payload
        # Until a request is taken, its slot may be written with anything.
        m.d.comb += [note.addr.eq(tail), note.data.op.eq(asked.op), note.data.id.eq(asked.id), note.en.eq(free)]

        # Of a response with lines each is for the next slot. One without is for as many slots as it says.
        part = self.part
        slot, last_slot, fits, right, kept_right = Signal(bits), Signal(bits), Signal(), Signal(), Signal()
        status, kept_status = Signal(MemoryStatus), Signal(MemoryStatus)
        lined, unlined = Signal(), Signal()
        m.d.comb += [
            slot.eq(Mux(part.first, part.head.tag, last_slot + 1)),
            fits.eq(Mux(part.first, part.head.epoch == epoch, kept_right)),
            right.eq(fits & ~forgets),
            status.eq(Mux(part.first, part.head.status, kept_status.as_value())),
            lined.eq(self.come & part.has_line),
            unlined.eq(self.come & ~part.has_line),
            land.addr.eq(slot),
            land.data.eq(part.line),
            # Of a slot that is just forgotten the line means nothing.
            land.en.eq(lined & fits),
        ]
        with m.If(self.come):
            m.d.sync += [last_slot.eq(slot), kept_right.eq(right), kept_status.eq(status)]
        with m.Elif(expired):
            m.d.sync += kept_right.eq(0)
        answer = data.StructLayout({"slot": Shape.cast(bits), "more": 4, "status": MemoryStatus})
        answers = fifo.SyncFIFO(width=answer.size, depth=_ANSWERS + 2 + ROOM)
        m.submodules.answers = ResetInserter(forgets)(answers)
        put, next_answer = Signal(answer), data.View(answer, answers.r_data)
        done, step = Signal(4), Signal()
        m.d.comb += [
            answers.w_data.eq(put),
            step.eq(answers.r_rdy & ~lined),
            answers.r_en.eq(step & (done == next_answer.more)),
        ]
        m.d.sync += [
            put.slot.eq(slot),
            put.more.eq(part.head.first),
            put.status.eq(status),
            answers.w_en.eq(unlined & right),
            self.room.eq(answers.level < _ANSWERS),
        ]
        with m.If(step):
            m.d.sync += done.eq(Mux(answers.r_en, 0, done + 1))
        with m.If(forgets):
            m.d.sync += done.eq(0)

        # The verdict on one slot a cycle.
        verdict, judges = Signal(data.StructLayout({"slot": Shape.cast(bits), "status": MemoryStatus})), Signal()
        answered = Signal(self.slots)
        m.d.sync += [
            judges.eq(Mux(lined, right, answers.r_rdy & ~forgets)),
            verdict.slot.eq(Mux(lined, slot, next_answer.slot + done)),
            verdict.status.eq(Mux(lined, status.as_value(), next_answer.status.as_value())),
        ]
        m.d.comb += [judge.addr.eq(verdict.slot), judge.data.eq(verdict.status), judge.en.eq(judges)]

        # ``ready`` tells whether the oldest slot is answered. From a loss on those before ``end``, which are waited for
        # in ``vain``, need no answer.
        head, next_head, end = Signal(bits, name="head"), Signal(bits, name="next_head", init=1), Signal(bits)
        ready, hit, vain = Signal(), Signal(), Signal()
        there, step_out, gives, given = Signal(), Signal(), Signal(), self.o.payload
        # Of one meaning with ``step_out``, and of another register: this one is for what is wide.
        empty, moves = Signal(init=1), Signal()
        used, waits, still = Signal(range(self.slots + 1)), Signal(), Signal()
        m.d.comb += [
            hit.eq(judges & (verdict.slot == head)),
            there.eq(waits & (ready | hit | vain)),
            still.eq(taken | (waits & ~(gives & (used == 1)))),
            step_out.eq(~self.o.valid | self.o.ready),
            moves.eq(empty | self.o.ready),
            gives.eq(there & step_out),
            noted.addr.eq(head),
            judged.addr.eq(head),
            fetch.addr.eq(head),
            given.data.eq(line),
        ]
        m.d.sync += [
            # That of the oldest slot is in ``ready``.
            answered.eq((answered | Mux(judges, 1 << verdict.slot, 0)) & ~(1 << head)),
            ready.eq(
                Mux(gives, answered.bit_select(next_head, 1) | (judges & (verdict.slot == next_head)), ready | hit)
            ),
            used.eq(Mux(taken, Mux(gives, used, used + 1), Mux(gives, used - 1, used))),
            waits.eq(still),
            free.eq(gives | (free & ~(taken & (used == self.slots - 1)))),
        ]
        m.d.comb += busy.eq(used >= self.slots // 2 + READ_LINES)
        # The oldest one waits for the first time, or still.
        waited = Signal(self.answer_bits)
        m.d.sync += [
            waited.eq(Mux(there | ~waits | forgets, 0, waited + 1)),
            expired.eq((waited == (1 << self.answer_bits) - 2) & waits & ~there & ~self.lost),
        ]
        with m.If(forgets):
            m.d.sync += [vain.eq(still), end.eq(Mux(taken, tail + 1, tail))]
        with m.Elif(gives & (next_head == end)):
            m.d.sync += vain.eq(0)
        with m.If(gives):
            m.d.sync += [head.eq(next_head), next_head.eq(next_head + 1)]
        with m.If(step_out):
            m.d.sync += [self.o.valid.eq(there), empty.eq(~there)]
        with m.If(moves):
            m.d.sync += [
                line.eq(fetch.data),
                given.op.eq(noted.data.op),
                given.id.eq(noted.data.id),
                given.status.eq(
                    Mux(hit, verdict.status.as_value(), Mux(ready, judged.data.as_value(), MemoryStatus.Failed))
                ),
            ]
        observe(m, self.o)
