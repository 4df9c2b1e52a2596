"""A link's responding end: requests of other nodes to the memory, and its answers to packets."""

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import observe
from tessera.hw.link.packet import LINES_MAX, Part, RequestBody, form_code
from tessera.hw.link.receiver import ROOM
from tessera.hw.memory.port import Access, MemoryPort, MemoryStatus, Op

__all__ = ["PARTS", "RESPONSE_LINES", "Responder"]

RESPONSE_LINES = 4
"""Lines of one response at the most."""
PARTS = 16
"""Parts of requests that may wait."""
_OF_HEAD = {"source": 4, "tag": 8, "first": 4, "epoch": 2}
_ASKED = data.StructLayout(
    {"first": 1, "last": 1, "has_line": 1, "head": data.StructLayout(_OF_HEAD), "body": RequestBody}
)
"""What of the part of a request is looked at, but its line."""
_GROUP = data.StructLayout({"op": Op, "source": 4, "epoch": 2, "tag": 8, "ends": 1})
"""Of a line that the memory was asked for: whose it is, and whether it ends a packet."""
_ANSWER = data.StructLayout(
    {"lined": 1, "source": 4, "epoch": 2, "tag": 8, "more": range(LINES_MAX), "status": MemoryStatus}
)
"""A packet without its lines; ``more`` are those that it answers, less one."""
_OFFERED = data.StructLayout({"first": 1, "last": 1, "packet": _ANSWER, "line": 512})


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
    memory : :py:`Out(MemoryPort(Access))`
        It answers two cycles after it was asked, or later.
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
                "memory": Out(MemoryPort(Access)),
                "packet": Out(stream.Signature(Part)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        room, taken, void, gone = Signal(), Signal(), Signal(), Signal(range(LINES_MAX + 1))
        m.submodules.groups = groups = memory.Memory(shape=_GROUP, depth=self.lines, init=[])
        self._ask(m, groups.write_port(), room, taken, void)
        comes = self._count(m, groups.read_port(), room, taken, void, gone)
        self._answer(m, groups.read_ports[0].data, comes, gone)
        return m

    def _ask(self, m, note, room, taken, void):
        """Parts of requests, one by one, out of a queue."""
        m.submodules.parts = parts = memory.Memory(shape=_ASKED, depth=PARTS, init=[])
        m.submodules.asked_lines = lines = memory.Memory(shape=512, depth=PARTS, init=[])
        put, get = parts.write_port(), parts.read_port(domain="comb")
        put_line, get_line = lines.write_port(), lines.read_port(domain="comb")
        there, goes, level = Signal(), Signal(), Signal(range(PARTS + 1))
        # What the level says, for what is wide: whether the part behind the oldest one is what comes; and nothing fits.
        passes, full = Signal(init=1), Signal()
        # The oldest one is in a register as well: the memory gives the one behind it. Its line comes out of the memory.
        new, part, second = put.data, Signal(_ASKED, reset_less=True), Signal.like(get.addr, init=1)
        m.d.comb += [
            *(new[name].eq(self.part[name]) for name in ("first", "last", "has_line", "body")),
            *(new.head[name].eq(self.part.head[name]) for name in _OF_HEAD),
            # Until a part comes, its place may be written with anything.
            put.en.eq(~full),
            get.addr.eq(second),
            put_line.en.eq(put.en),
            put_line.addr.eq(put.addr),
            put_line.data.eq(self.part.line),
        ]
        m.d.sync += [
            put.addr.eq(put.addr + self.come),
            second.eq(second + goes),
            get_line.addr.eq(get_line.addr + goes),
        ]
        # Whether what is offered is the last of its part, or, before the first of a part, will be.
        following, final, last_but_one = Signal(_ASKED), Signal(), Signal()
        m.d.comb += following.eq(Mux(passes, new.as_value(), get.data.as_value()))
        with m.If(goes | ~there):
            m.d.sync += [part.eq(following), final.eq(following.has_line | (following.head.first == 0))]
        with m.Elif(taken):
            m.d.sync += final.eq(last_but_one)
        with m.If(self.come & ~goes):
            m.d.sync += [level.eq(level + 1), there.eq(1), self.room.eq(level < PARTS - ROOM)]
            m.d.sync += [passes.eq(level == 0), full.eq(level == PARTS - 1)]
        with m.Elif(goes & ~self.come):
            m.d.sync += [level.eq(level - 1), there.eq(level != 1), self.room.eq(level <= PARTS - ROOM + 1)]
            m.d.sync += [passes.eq(level <= 2), full.eq(0)]
        with m.Else():
            m.d.sync += self.room.eq(level <= PARTS - ROOM)

        # A read's lines, or a write's parts: what is of the next one is kept.
        asks = data.StructLayout({"source": 4, "tag": 8, "first": 4, "epoch": 2, "window": 6, "offset": 26})
        amid, quarter, kept, now = Signal(), Signal(range(RESPONSE_LINES)), Signal(asks), Signal(asks)
        request, entry = self.memory.request, note.data
        writes, begins, done = part.has_line, Signal(), Signal()
        m.d.comb += [
            begins.eq(part.first & ~amid),
            *(now[name].eq(Mux(begins, part.head[name], kept[name])) for name in _OF_HEAD),
            *(now[name].eq(Mux(begins, part.body[name], kept[name])) for name in ("window", "offset")),
            # A request that is offered has to be taken, even if nobody wants its answer any more.
            request.valid.eq(there & (room | void)),
            request.payload.op.eq(Mux(writes, Op.Write, Op.Read)),
            request.payload.window.eq(now.window),
            request.payload.offset.eq(now.offset),
            request.payload.data.eq(get_line.data),
            taken.eq(request.valid & request.ready),
            done.eq(final | void),
            last_but_one.eq(now.first == 1),
            goes.eq(taken & done),
            entry.op.eq(request.payload.op),
            entry.source.eq(now.source),
            entry.epoch.eq(now.epoch),
            entry.tag.eq(now.tag),
            entry.ends.eq(Mux(writes, part.last, final | (quarter == RESPONSE_LINES - 1))),
            # Until a request is taken, its place may be written with anything.
            note.en.eq(room),
        ]
        with m.If(taken):
            m.d.sync += [
                void.eq(0),
                amid.eq(~done),
                quarter.eq(Mux(done, 0, quarter + 1)),
                kept.eq(now),
                kept.tag.eq(now.tag + 1),
                kept.first.eq(now.first - 1),
                kept.offset.eq(now.offset + 1),
            ]
        with m.If(taken & ~void):
            m.d.sync += note.addr.eq(note.addr + 1)
        with m.If(self.lost):
            waits = request.valid & ~request.ready
            m.d.sync += [there.eq(waits), void.eq(waits), level.eq(waits), note.addr.eq(0), passes.eq(1), full.eq(0)]
            m.d.sync += put.addr.eq(second)
            with m.If(~waits):
                m.d.sync += [second.eq(second + 1), get_line.addr.eq(second), amid.eq(0), quarter.eq(0)]
        observe(m, request)

    def _count(self, m, oldest, room, taken, void, gone):
        """What the memory owes: whether an answer comes, of which group, and whether there is room for one more."""
        response, comes, at = self.memory.response, Signal(), Signal(range(self.lines))
        # The group of the next answer is read again and again: it is written two cycles before that can come.
        m.d.comb += [response.ready.eq(1), oldest.addr.eq(at + comes)]
        m.d.sync += at.eq(Mux(self.lost, 0, oldest.addr))

        # The oldest answers may be of what was forgotten.
        most, most_waiting = 2 * self.lines, self.lines - 1
        asked, stale, fresh = Signal(range(most + 1)), Signal(range(most + 1)), Signal(init=1)
        left, older, voided = Signal.like(asked), Signal.like(stale), taken & void
        m.d.comb += [
            comes.eq(response.valid & fresh & ~self.lost),
            left.eq(asked - response.valid),
            older.eq(stale - (response.valid & ~fresh)),
        ]
        m.d.sync += [
            asked.eq(left + taken),
            stale.eq(Mux(self.lost, left + taken, older + voided)),
            fresh.eq(Mux(self.lost, (left == 0) & ~taken, (older == 0) & ~voided)),
        ]

        # Lines that were asked for and are not offered, two of which may be; those that go are seen a cycle later.
        under_way, waiting = Signal(range(self.lines)), Signal(range(self.lines))
        m.d.comb += waiting.eq(under_way - gone)
        m.d.sync += [
            under_way.eq(Mux(self.lost, 0, waiting + (taken & ~void))),
            room.eq(
                Mux(taken, (waiting < most_waiting - 1) & (left < most - 1), (waiting != most_waiting) & (left != most))
            ),
        ]
        return comes

    def _answer(self, m, first, comes, gone):
        """The memory's answers, gathered to packets; a register behind them."""
        response, status = self.memory.response, self.memory.response.payload.status
        m.submodules.answers = answers = memory.Memory(shape=_ANSWER, depth=self.lines, init=[])
        # A line is shown after it came: what is read while it is written is read again.
        m.submodules.lines = lines = memory.Memory(shape=512, depth=self.lines, init=[], attrs={"no_rw_check": 1})
        put, get = answers.write_port(), answers.read_port()
        put_line, get_line, line = lines.write_port(), lines.read_port(domain="comb"), Signal(512, reset_less=True)
        held, came, merged = (Signal(_ANSWER, name=name) for name in ("held", "came", "merged"))
        holds, complete, joins, whole, puts = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            came.lined.eq((first.op == Op.Read) & (status == MemoryStatus.Ok)),
            came.source.eq(first.source),
            came.epoch.eq(first.epoch),
            came.tag.eq(first.tag),
            came.status.eq(status),
            # Nothing but the request's next line can follow what is not complete.
            joins.eq(holds & ~complete & (held.status == status)),
            merged.eq(Mux(joins, held.as_value(), came.as_value())),
            merged.more.eq(Mux(joins, held.more + 1, 0)),
            whole.eq(first.ends | (first.op == Op.Read) & ~came.lined),
            put.data.eq(held),
        ]
        with m.If(comes & (joins | ~holds)):
            m.d.comb += [put.data.eq(merged), puts.eq(whole)]
            m.d.sync += [held.eq(merged), holds.eq(~whole), complete.eq(0)]
        with m.Elif(comes):
            m.d.comb += puts.eq(1)
            m.d.sync += [held.eq(came), complete.eq(whole)]
        with m.Elif(holds & complete):
            m.d.comb += puts.eq(1)
            m.d.sync += holds.eq(0)

        # A queue, and a register behind it; the only line of a packet passes by, if nothing is there.
        step, crowded, direct, pushes, pulls = Signal(), Signal(), Signal(), Signal(), Signal()
        some, shown, level = Signal(), Signal(), Signal(range(self.lines))
        index, last, entry = Signal(range(RESPONSE_LINES)), Signal(), get.data
        m.d.comb += [
            direct.eq(comes & whole & ~holds & ~some & ~shown),
            last.eq(~entry.lined | (index == entry.more)),
            put.en.eq(puts),
            pushes.eq(puts & ~(direct & step)),
            get.en.eq(~shown | (step & last)),
            pulls.eq(some & get.en),
        ]
        m.d.sync += [put.addr.eq(put.addr + pushes), get.addr.eq(get.addr + pulls)]
        with m.If(get.en):
            m.d.sync += shown.eq(some)
        with m.If(pushes & ~pulls):
            m.d.sync += [level.eq(level + 1), some.eq(1)]
        with m.Elif(pulls & ~pushes):
            m.d.sync += [level.eq(level - 1), some.eq(level != 1)]
        with m.If(shown & step):
            m.d.sync += index.eq(Mux(last, 0, index + 1))

        # Until a line is shown it is read again and again, then the next one when it goes.
        at_line, behind_it, reads = Signal(range(self.lines)), Signal(range(self.lines), init=1), Signal()
        m.d.comb += [
            reads.eq(shown & entry.lined),
            put_line.data.eq(response.payload.data),
            put_line.en.eq(comes),
            get_line.addr.eq(Mux(reads, behind_it, at_line)),
        ]
        with m.If(~reads | ~crowded):
            m.d.sync += line.eq(get_line.data)
        with m.If(comes & came.lined & ~(direct & step)):
            m.d.sync += put_line.addr.eq(put_line.addr + 1)
        with m.If(reads & step):
            m.d.sync += [at_line.eq(behind_it), behind_it.eq(behind_it + 1)]

        now, goes = Signal(_OFFERED), Signal()
        m.d.comb += [
            now.packet.eq(Mux(shown, entry.as_value(), put.data.as_value())),
            now.line.eq(Mux(shown, line, response.payload.data)),
            now.first.eq(index == 0),
            now.last.eq(last | ~shown),
            goes.eq(step & (shown | direct)),
        ]
        m.d.sync += gone.eq(Mux(goes, Mux(now.packet.lined, 1, now.packet.more + 1), 0))
        self._offer(m, now, goes, step, crowded)
        with m.If(self.lost):
            m.d.sync += [register.eq(0) for register in (holds, some, shown, level, index, gone)]
            m.d.sync += [address.eq(0) for address in (put.addr, get.addr, put_line.addr, at_line)]
            m.d.sync += behind_it.eq(1)

    def _offer(self, m, now, goes, step, crowded):
        """Two parts, in a memory: who takes them moves an address, which is quick, and no line.

        No `step` and `crowded` have one meaning, and two registers: the second one is for what is wide.
        """
        m.submodules.offered = offered = memory.Memory(shape=_OFFERED, depth=2, init=[])
        put, get = offered.write_port(), offered.read_port(domain="comb")
        level, next_level, packet, given = Signal(range(3)), Signal(range(3)), self.packet, get.data.packet
        part, head = packet.payload, packet.payload.head
        m.d.comb += [
            step.eq(level != 2),
            put.data.eq(now),
            put.en.eq(~crowded),
            packet.valid.eq(level != 0),
            part.first.eq(get.data.first),
            part.last.eq(get.data.last),
            part.has_line.eq(given.lined),
            part.line.eq(get.data.line),
            head.form.eq(
                Mux(
                    given.lined,
                    Array(form_code(n + 1, 0) for n in range(RESPONSE_LINES))[given.more[:2]],
                    form_code(0, 0),
                )
            ),
            head.source.eq(self.node),
            head.target.eq(given.source),
            head.tag.eq(given.tag),
            head.first.eq(given.more),
            head.status.eq(given.status),
            head.epoch.eq(given.epoch),
        ]
        takes = packet.valid & packet.ready
        m.d.comb += next_level.eq(level + goes - takes)
        m.d.sync += [
            put.addr.eq(put.addr + goes),
            get.addr.eq(get.addr + takes),
            level.eq(next_level),
            crowded.eq(next_level == 2),
        ]
        with m.If(self.lost):
            m.d.sync += [put.addr.eq(0), get.addr.eq(0), level.eq(0), crowded.eq(0)]
