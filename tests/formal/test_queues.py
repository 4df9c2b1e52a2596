"""No queue on the link's way is written when it is full, or overwritten before what was in it is gone."""

from functools import reduce
from itertools import pairwise
from operator import add, or_, xor
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from amaranth.hdl import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In
from amaranth.utils import exact_log2

from tessera.hw.lib import cdc
from tessera.hw.link import packet
from tessera.hw.link import receiver as receiver_module
from tessera.hw.link import relay as relay_module
from tessera.hw.link import requester as requester_module
from tessera.hw.link import responder as responder_module
from tessera.hw.link import retry as retry_module
from tessera.hw.link import unpack as unpack_module
from tessera.hw.link.receiver import ROOM
from tessera.hw.link.retry import RetryParameters
from tessera.hw.memory.port import MemoryStatus, Op, Response
from tessera.sim import formal

GIVEN, BEGUN = 9, 2
"""Parts of a class that may come when its taker has no room any more, and packets that these may begin."""
TAKEN = (*((n,) for n in range(packet.CLASSES)), (0, 1), (2, 3))
"""Classes that one taker takes: each alone, and requests, and responses, of both hops."""
SMALL = {"longest": 2, "cell_bits": 3, "frame_bits": 4, "history": 4, "again": 2, "timeout_bits": 3}
"""Of a :class:`RetrySender`, as in the proof of the retry."""


class Crossing(wiring.Component):
    """An :class:`AsyncQueue` of 4 between two clocks that tick when they like, together too.

    Both resets may come at any moment, whatever the clocks do; ``clear`` comes from a register, as it must. What is
    written and what is taken is free. A bit that a synchronizer catches in its change is not modelled: that it is one
    bit only is proven, since each pointer's Gray code is.
    """

    CLOCKS = True

    write_clk: In(1)
    write_rst: In(1)
    read_clk: In(1)
    read_rst: In(1)
    valid: In(1)
    ready: In(1)
    clear: In(1)

    def __init__(self, cdc):
        self.queue = cdc.AsyncQueue(1, 4)
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        queue = self.queue
        m.domains.write, m.domains.read = write, read = ClockDomain("write"), ClockDomain("read")
        clear = Signal()
        m.d.read += clear.eq(self.clear)
        opened = formal.Opened(queue)
        m.submodules.queue = opened.fragment
        parts = opened.of(queue).m.submodules
        taken_on_way, written_on_way = opened.of(parts.taken).flops[0], opened.of(parts.written).flops[0]
        (write_leaves, write_reset), (read_leaves, read_reset) = (
            opened.of(part).flops for part in (parts.reset_write, parts.reset_read)
        )
        m.d.comb += [
            write.clk.eq(self.write_clk),
            write.rst.eq(self.write_rst),
            read.clk.eq(self.read_clk),
            read.rst.eq(self.read_rst),
            queue.i.valid.eq(self.valid),
            queue.o.ready.eq(self.ready),
            queue.clear.eq(clear),
        ]

        def number(gray):
            return Cat(reduce(xor, gray[n:]) for n in range(len(gray)))

        # Between the two sides, the oldest first: what each has moved, and what the other one knows of it.
        written, taken = queue.written, queue.taken
        begin = number(queue.taken_seen)
        all_ = (
            number(taken_on_way),
            taken,
            number(queue.written_seen),
            number(written_on_way),
            written,
        )
        ahead = [(one - begin)[: len(written)] for one in all_]
        level = (written - taken)[: len(written)]
        held = Signal()
        m.d.write += held.eq(level == 3)
        m.d.comb += [
            Assert(~(queue.i.valid & queue.i.ready) | (level < 4), "nothing is overwritten"),
            Assert(~queue.o.valid | (level != 0), "nothing is taken that is not there"),
            Assert(queue.written_gray == (written ^ (written >> 1)), "one bit changes at a time"),
            Assert(queue.taken_gray == (taken ^ (taken >> 1)), "here too"),
            *(Assert(a <= b) for a, b in pairwise(ahead)),
            Assert(ahead[-1] <= 4),
            Assert(~(write_leaves & ~write_reset) & ~(read_leaves & ~read_reset)),
            Assert(~write_reset | (Cat(written, begin, *all_) == 0)),
            Assert(~read_reset | (Cat(begin, *all_[:-1]) == 0)),
            Cover((level == 4) & ~queue.i.ready & ~write_reset, "full"),
            Cover((taken == 5) & (level == 0), "empty again, a round later"),
            Cover(held & write_reset & clear, "emptied with something in it"),
        ]
        return m


class Giving(wiring.Component):
    """A :class:`PacketReceiver` with the fewest cells that there may be, and what its takers rely on.

    What comes is anything, also broken packets, but for one rule: a packet has at most 8 parts, for so many are all
    that the unpacker counts. Whether takers have room is free. Of a class, :data:`GIVEN` parts may come after its room
    has ended, and no more than :data:`BEGUN` first ones: the other proofs here assume that of what comes.

    If it is a `story`, a packet of one part comes and one of 8, and the first class has room for two cycles.
    """

    i: In(stream.Signature(packet.CheckedPart))
    coming: In(packet.Part)
    room: In(packet.CLASSES)
    told: In(1)

    def __init__(self, receiver, story=False):
        self.story = story
        parameters = RetryParameters((16,) * packet.CLASSES, cell_bits=5, frame_bits=4, history=4, again=2)
        self.receiver = receiver.PacketReceiver(parameters)
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        receiver = self.receiver
        opened = formal.Opened(receiver)
        m.submodules.receiver = opened.fragment
        inside = opened.of(receiver)
        came, size = receiver.i.payload, inside.staged.depth
        if self.story:
            cycle, part = Signal(range(32)), came.part
            m.d.sync += cycle.eq(cycle + 1)
            m.d.comb += [
                receiver.i.valid.eq((cycle >= 1) & (cycle <= 9)),
                part.head.form.eq(Mux(cycle == 1, 0, 8)),
                part.head.cell.eq(cycle != 1),
                part.first.eq((cycle == 1) | (cycle == 2)),
                part.last.eq((cycle == 1) | (cycle == 9)),
                receiver.room.eq((cycle == 20) | (cycle == 21)),
            ]
        else:
            m.d.comb += [
                receiver.i.valid.eq(self.i.valid),
                receiver.i.payload.eq(self.i.payload),
                receiver.room.eq(self.room),
                receiver.told.eq(self.told),
            ]
        # What comes was told a cycle before.
        told = Signal(packet.Part)
        m.d.sync += told.eq(receiver.coming)
        m.d.comb += [receiver.coming.eq(self.coming), Assume(~receiver.i.valid | (came.part == told))]
        parts = Signal(range(9))
        with m.If(receiver.i.valid):
            m.d.sync += parts.eq(Mux(came.part.first, 1, parts + 1))
            m.d.comb += Assume(came.part.first | (parts < 8))

        # The ring of parts: those that are to be put into cells, and behind them those of the packet that comes.
        bits = len(inside.begun)
        ready, own = ((a - b)[:bits] for a, b in ((inside.begun, inside.read), (inside.written, inside.begun)))
        at = (inside.put.addr - inside.read)[:bits]
        # The same, counted whole: what is written a round ahead looks like nothing.
        true_ready, true_own, longer = Signal(range(32)), Signal(range(32)), Signal(range(32))
        whole = inside.keep & ~inside.alone
        m.d.comb += longer.eq(Mux(came.part.first, 1, true_own + 1))
        m.d.sync += true_ready.eq(true_ready + Mux(whole, longer, 0) - (inside.begun != inside.read))
        with m.If(receiver.i.valid):
            m.d.sync += true_own.eq(Mux(whole, 0, longer))
        m.d.comb += [
            Assert(~receiver.i.valid | (at >= ready), "no part is overwritten that is to be put into cells"),
            Assert(~receiver.i.valid | came.part.first | (own + ready < size), "nor one of the packet that comes"),
            Assert((own <= parts) & (parts <= 8)),
            Assert((true_ready == ready) & (true_own == own)),
            Assert((ready == 0) | (own + ready <= 8)),
            Cover(ready == 8, "as full as it gets"),
        ]

        # The turns are of one that went last.
        before = opened.of(inside.turns).before
        lasts = range(packet.CLASSES)
        orders = (Cat(bit == int(not i <= n < j) for (i, j), bit in before.items()).all() for n in lasts)
        m.d.comb += Assert(Cat(orders).any())

        # What comes of a class, or of two with one taker, since it had room.
        reading = opened.of(inside.cells)
        for number, kinds in enumerate(TAKEN):
            given, begun = Signal(range(16), name=f"given{number}"), Signal(range(16), name=f"begun{number}")
            room = Cat(receiver.room[n] for n in kinds).any()
            is_its, is_read = (
                Cat(kind == n for n in kinds).any()
                for kind in (Value.cast(receiver.o.payload.kind), Value.cast(inside.given.kind))
            )
            comes = receiver.o.valid & is_its
            coming = inside.cells.o.valid & is_read
            left = Mux(is_read, reading.left, 0)
            with m.If(room):
                m.d.sync += [given.eq(0), begun.eq(0)]
            with m.Elif(comes):
                m.d.sync += [given.eq(given + 1), begun.eq(begun + receiver.o.payload.part.first)]
            m.d.comb += [
                Assert(~comes | room | (given < GIVEN), "a taker with room for a packet has room for these"),
                Assert(~comes | room | (begun + receiver.o.payload.part.first <= BEGUN)),
                Assert(given + comes + coming + left <= GIVEN),
                Assert(receiver.o.payload.part.first | receiver.o.payload.part.has_line | ~comes),
                Assert(begun + (comes & receiver.o.payload.part.first) + (coming & inside.given.part.first) <= BEGUN),
            ]
            m.d.comb += Cover(comes & ~room & (given == GIVEN - 1), "so many come") if kinds == (0,) else []
        return m


class Window(memory.Memory):
    """A memory with ``rows`` through which all of it is seen."""

    def elaborate(self, platform):
        ports = [self.read_port(domain="comb") for _ in range(self.depth)]
        self.rows = [port.data for port in ports]
        m = Module()
        m.submodules.memory = super().elaborate(platform)
        m.d.comb += [port.addr.eq(n) for n, port in enumerate(ports)]
        return m


def copied(module, line="__all__ = ", instead="__all__ = "):
    """A copy of `module` with one line changed; the memories of some can be looked into."""
    copy = formal.broken(module, line, instead)
    if module in (responder_module, retry_module):
        copy.memory = SimpleNamespace(Memory=Window)
    return copy


def sum_of(pairs):
    """The sum of the values that count."""
    return reduce(add, (Mux(counts, value, 0) for counts, value in pairs))


def delivered(m, come, part, room):
    """What comes keeps what :class:`Giving` proves; how many parts have come since there was room."""
    given, begun = Signal(range(GIVEN + 1)), Signal(range(BEGUN + 1))
    with m.If(room):
        m.d.sync += [given.eq(0), begun.eq(0)]
    with m.Elif(come):
        m.d.sync += [given.eq(given + 1), begun.eq(begun + part.first)]
    m.d.comb += Assume(~come | room | (given < GIVEN) & (begun + part.first <= BEGUN))
    return given, begun


class Responding(wiring.Component):
    """A :class:`Responder` for 4 lines, with nothing but what it may rely on.

    What comes is as :class:`Giving` proves. The memory answers what it was asked, once, each two cycles later at the
    soonest, as its own ports do. Of the lines that become one packet, all are written or all are read, since all parts
    of a packet have lines, or there is but one. All else is free: when requests and packets are taken, how lines end,
    when the link is lost.

    If it is a `story`, as much comes as may, of one line each; the memory takes nothing at first, then answers nothing;
    no packet is taken.
    """

    lost: In(1)
    come: In(1)
    part: In(packet.Part)
    taken: In(1)
    answered: In(1)
    answer: In(Response)
    leaves: In(1)

    def __init__(self, responder, story=False):
        self.story = story
        self.responder = responder.Responder(16)
        self.responder.lines = 4
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        responder, size = self.responder, self.responder.lines
        opened = formal.Opened(responder)
        m.submodules.responder = opened.fragment
        ask, count, answer, offer = (opened.of(responder, name) for name in ("_ask", "_count", "_answer", "_offer"))
        request, response = responder.memory.request, responder.memory.response
        given, _ = delivered(m, responder.come, responder.part, responder.room)
        owed, fresh = Signal(range(2 * size + 2)), Signal()
        took = request.valid & request.ready
        m.d.sync += [owed.eq(owed + took - response.valid), fresh.eq(took)]
        if self.story:
            cycle = Signal(6)
            m.d.sync += cycle.eq(cycle + 1)
            m.d.comb += [
                responder.come.eq(responder.room | (given < GIVEN)),
                responder.part.first.eq(responder.room | (given == 0)),
                responder.part.last.eq(1),
                request.ready.eq(cycle >= 20),
                response.valid.eq((cycle >= 30) & (owed > fresh)),
            ]
        else:
            m.d.comb += [
                responder.lost.eq(self.lost),
                responder.come.eq(self.come),
                responder.part.eq(self.part),
                request.ready.eq(self.taken),
                response.valid.eq(self.answered),
                response.payload.eq(self.answer),
                responder.packet.ready.eq(self.leaves),
            ]
        joins = count.comes & answer.joins
        m.d.comb += [
            Assume(~response.valid | (owed > fresh)),
            Assume(~joins | (answer.held.lined == (answer.first.op == Op.Read))),
        ]

        # Parts: written as long as there is room, though none may come.
        m.d.comb += [
            Assert(
                ~responder.come | responder.lost | (ask.level < responder_module.PARTS), "a part that comes has room"
            ),
            Assert(responder.room | (ask.level <= responder_module.PARTS - ROOM + 1 + given)),
            Assert(~responder.room | (ask.level <= responder_module.PARTS - ROOM)),
            Assert(ask.there == (ask.level != 0)),
            Assert(ask.passes == (ask.level <= 1)),
            Assert(ask.level <= responder_module.PARTS),
            Assert(ask.full == (ask.level == responder_module.PARTS)),
            Assert((ask.put.addr - ask.second + 1 - ask.level)[: len(ask.put.addr)] == 0),
            Assert((ask.second - ask.get_line.addr)[: len(ask.put.addr)] == 1),
            Cover(ask.level == responder_module.PARTS - ROOM + 1 + GIVEN, "as many parts wait as may"),
        ]

        # Lines: asked for; answered, of the packet that is gathered; queued; shown; and gone.
        bits = exact_log2(size)
        groups = (ask.note.addr - count.at)[:bits]
        held = Mux(answer.holds, answer.held.more + 1, 0)
        there = [(n - answer.get.addr)[:bits] < answer.level for n in range(size)]
        rows = answer.answers.rows
        queued = sum_of((is_there, row.more + 1) for is_there, row in zip(there, rows))
        queued_lines = sum_of((is_there & row.lined, row.more + 1) for is_there, row in zip(there, rows))
        shown = Mux(answer.shown, answer.entry.more + 1 - answer.index, 0)
        lines = Mux(answer.held.lined, held, 0) + queued_lines + Mux(answer.entry.lined, shown, 0)
        torn = Signal()
        with m.If(~answer.reads | answer.step):
            m.d.sync += torn.eq(answer.put_line.en & (answer.put_line.addr == answer.get_line.addr))
        m.d.comb += [
            Assert(owed == count.asked),
            Assert(owed <= count.most, "the memory owes no more than is counted"),
            Assert(~ask.void | ask.there & (owed < count.most)),
            Assert(groups + count.stale == owed),
            Assert(count.fresh == (count.stale == 0)),
            Assert(~ask.note.en | (groups < size), "no group is overwritten that is to be answered"),
            Assert(count.under_way == groups + held + queued + shown + answer.gone),
            Assert(count.under_way < size),
            Assert(~count.room | (count.under_way < size - 1) & (count.asked < count.most)),
            Assert(~answer.put.en | (answer.level < size - 1) | ~answer.pushes, "no answer is overwritten"),
            Assert((answer.put.addr - answer.get.addr)[:bits] == answer.level),
            Assert(answer.some == (answer.level != 0)),
            Assert((answer.put_line.addr - answer.at_line)[:bits] == lines),
            Assert((answer.behind_it - answer.at_line)[:bits] == 1),
            Assert(~answer.put_line.en | (lines < size), "no line is overwritten"),
            Assert(lines < size),
            # A memory that is read where it is written at that moment may give anything.
            Assert(~(torn & answer.reads), "a line that is shown was not read while it was written"),
            Assert(~(answer.holds & answer.held.lined) | (answer.held.status == MemoryStatus.Ok)),
            *(
                Assert(~is_it | ~one.lined | (one.more < responder_module.RESPONSE_LINES))
                for is_it, one in ((answer.holds, answer.held), (answer.shown, answer.entry), *zip(there, rows))
            ),
            Assert((answer.index == 0) | answer.shown & answer.entry.lined & (answer.index <= answer.entry.more)),
            Assert(offer.level <= 2),
            Assert((offer.put.addr - offer.get.addr)[:1] == offer.level[:1]),
            Assert(~offer.put.en | (offer.level < 2), "no part is overwritten that is offered"),
            Cover(groups == size - 1, "all are asked for"),
            Cover(answer.level == size - 2, "all are answered, and wait"),
            Cover(lines == size - 1, "all have come"),
        ]
        return m


class Requesting(wiring.Component):
    """A :class:`Requester` with the fewest slots that there may be, 32, and what comes as :class:`Giving` proves.

    All else is free: requests, what answers hold and whose they are, when all is taken, when the link is lost.

    If it is a `story`, lines are written as many as may, then read, while as many answers come as may; none is given.
    """

    request: In(stream.Signature(requester_module.RemoteRequest))
    takes: In(1)
    lost: In(1)
    leaves: In(1)
    come: In(1)
    part: In(packet.Part)

    def __init__(self, requester, story=False):
        self.story = story
        self.requester = requester.Requester(32, 8)
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        requester = self.requester
        opened = formal.Opened(requester)
        m.submodules.requester = opened.fragment
        ask, lines, answer = (opened.of(requester, name) for name in ("elaborate", "_lines", "_answer"))
        come, part = requester.come, requester.part
        _, begun = delivered(m, come, part, requester.room)
        # A part without a line is the only one of its packet: so Giving proves of what it gives.
        m.d.comb += Assume(~come | part.has_line | part.first)
        if self.story:
            cycle, offset = Signal(6), Signal(6)
            m.d.sync += [cycle.eq(cycle + 1), offset.eq(offset + (requester.i.valid & requester.i.ready))]
            m.d.comb += [
                requester.i.valid.eq(1),
                requester.i.payload.op.eq(Mux(cycle < 20, Op.Write, Op.Read)),
                requester.i.payload.offset.eq(offset),
                requester.packet.ready.eq(cycle >= 20),
                # Each is of 16 lines of which none was asked for, so that they are done one after another.
                come.eq(requester.room | (begun < BEGUN)),
                part.first.eq(1),
                part.head.first.eq(15),
                part.head.tag.eq(31),
                part.head.epoch.eq(0),
            ]
        else:
            m.d.comb += [
                requester.i.valid.eq(self.request.valid),
                requester.i.payload.eq(self.request.payload),
                requester.o.ready.eq(self.takes),
                requester.lost.eq(self.lost),
                requester.packet.ready.eq(self.leaves),
                come.eq(self.come),
                part.eq(self.part),
            ]

        # Lines to write: of the run that grows, the request that waits for it to leave, and the run that is offered.
        behind = data.View(ask.growing.shape(), Mux(ask.front, *(run.as_value() for run in ask.runs)))
        writes = ask.offers & (ask.offered.op == Op.Write)
        live_lines = (
            Mux(ask.grows & (ask.growing.op == Op.Write), ask.growing.more + 1, 0),
            ask.has_other & (ask.other.op == Op.Write),
            Mux(writes, ask.offered.more + 1 - ask.sent, 0),
        )
        live, size = Signal(range(32)), lines.lines.depth
        most = Mux(ask.growing.op == Op.Write, packet.LINES_MAX, requester_module.READ_LINES)
        m.d.comb += [
            live.eq(reduce(add, live_lines)),
            Assert(~lines.put.en | (live < size), "no line is overwritten that is to be sent"),
            Assert(
                ~(ask.taken & (ask.asked.op == Op.Write) & ~requester.lost) | lines.put.en,
                "a line that is taken is kept",
            ),
            Assert((lines.put.addr - lines.get.addr - live)[: len(lines.put.addr)] == 0),
            Assert(~ask.grows | (ask.growing.more < most) & (ask.full | (ask.growing.more != most - 1))),
            Assert(~ask.has_other | ask.grows),
            Assert(ask.lone == ~ask.has_other),
            Assert(~writes | (ask.offered.more < packet.LINES_MAX) & (ask.sent <= ask.offered.more)),
            Assert(writes | (ask.sent == 0)),
            Assert(~ask.waits | ask.offers & (behind.op == Op.Read)),
            Cover(live == size, "lines of two packets"),
        ]

        # Slots: of what is asked for and not yet given.
        slots, used, bits = requester.slots, answer.used, len(answer.head)
        # The other side answers each line once, and the link gives each answer once.
        known = (
            answer.answered.bit_select(answer.slot, 1)
            | (answer.judges & (answer.verdict.slot == answer.slot))
            | (answer.ready & (answer.slot == answer.head))
        )
        reads = answer.gives & ~answer.vain
        m.d.comb += [
            Assert(~(requester.i.valid & requester.i.ready) | (used < slots), "a slot that is taken is free"),
            Assert(~answer.note.en | (used < slots), "and until then no other is written"),
            Assert(~answer.gives | (used != 0), "none is given that was not asked for"),
            Assert(used <= slots),
            Assert(answer.free == (used != slots)),
            Assert(answer.waits == (used != 0)),
            Assert((answer.tail - answer.head - used)[:bits] == 0),
            Assert(answer.next_head == (answer.head + 1)[:bits]),
            Assert(answer.empty == ~requester.o.valid),
            # A memory that is read where it is written at that moment may give anything.
            Assume(~(come & part.has_line & known)),
            Assert(~(answer.land.en & reads & (answer.slot == answer.head)), "a line that is given is not written"),
            Cover(used == slots, "all slots are taken"),
        ]

        # Answers without lines.
        answers, pending = answer.answers, Signal(range(64))
        m.d.comb += [
            pending.eq(answers.level + answers.w_en),
            Assert(~answers.w_en | answers.w_rdy, "an answer has room"),
            Assert(pending <= requester_module._ANSWERS + 1 + Mux(requester.room, 0, 1 + begun)),
            Cover(pending == requester_module._ANSWERS + 2 + BEGUN, "as many answers wait as may"),
        ]
        return m


class Relaying(wiring.Component):
    """A queue of a :class:`Relay`, and what comes as :class:`Giving` proves. It is free when its packets are taken, and
    when a link is lost.

    If it is a `story`, as much comes as may, and nothing is taken.
    """

    come: In(1)
    part: In(packet.Part)
    way: In(2)
    broken: In(1)
    lost: In(2)
    take: In(1)

    def __init__(self, relay, story=False):
        self.story, self.queue = story, relay._Queue(2)
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        queue, size = self.queue, relay_module.PARTS
        opened = formal.Opened(queue)
        m.submodules.queue = opened.fragment
        inside = opened.of(queue)
        given, begun = delivered(m, queue.come, queue.part, queue.room)
        if self.story:
            m.d.comb += [
                queue.come.eq(queue.room | (given < GIVEN)),
                queue.part.first.eq(queue.room | (begun < BEGUN)),
                queue.part.last.eq(queue.part.first),
                queue.way.eq(1),
            ]
        else:
            m.d.comb += [
                *(getattr(queue, name).eq(getattr(self, name)) for name in ("come", "part", "way", "broken", "lost")),
                queue.take.eq(self.take & queue.to.any()),
            ]
        whole, level = ((end - inside.read)[: len(inside.read)] for end in (inside.end, inside.written))
        m.d.comb += [
            Assert(~queue.come | queue.broken | (level < size), "no part is overwritten that waits"),
            Assert(level <= size - ROOM + 1 + Mux(queue.room, 0, given)),
            Assert(~queue.room | (level <= size - ROOM)),
            Assert(whole <= level, "what is read is of a whole packet"),
            Cover(level == size - ROOM + 1 + GIVEN, "as many parts wait as may"),
        ]
        return m


class Repeating(wiring.Component):
    """A :class:`RetrySender` of one class with four cells, and its queue of what is to be sent again.

    All is free: what is put, what is told and whether it is true, what is taken.

    If it is a `story`, packets of one cell are put until there is no room for a longest one: three. The last one is not
    taken, and all are told to be lost.
    """

    put: In(1)
    cells: In(2)
    last: In(1)
    report: In(RetryParameters((4,), **SMALL).report)
    take: In(1)

    def __init__(self, retry, story=False):
        self.story = story
        self.sender = retry.RetrySender(RetryParameters((4,), **SMALL))
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        sender, size = self.sender, self.sender.parameters.places
        with patch.object(fifo, "Memory", Window):
            opened = formal.Opened(sender)
        m.submodules.sender = opened.fragment
        inside, find, fetch = (opened.of(sender, name) for name in ("elaborate", "_find_lost", "_fetch_repeat"))
        queue, found, frames = find.queue, find.found, find.frames
        inner = opened.of(queue)
        if self.story:
            cycle = Signal(range(32))
            m.d.sync += cycle.eq(cycle + 1)
            m.d.comb += [
                sender.put.eq(sender.room),
                sender.cells[0].eq(1),
                sender.last.eq(1),
                sender.send.ready.eq(sender.send.payload.frame != 2),
                sender.report.losses.eq(cycle == 20),
                sender.report.last.eq(2),
                sender.report.lost.eq(-1),
            ]
        else:
            m.d.comb += [
                sender.put.eq(self.put),
                sender.cells[0].eq(self.cells),
                sender.last.eq(self.last),
                sender.report.eq(self.report),
                sender.send.ready.eq(self.take),
            ]

        # What is in the queue: behind `consume` in its memory, and the one that it gives.
        depth, level, rows = inner.inner_depth, inner.inner_level, inner.storage.rows
        behind = [Mux(inner.consume <= n, n, n + depth) - inner.consume for n in range(depth)]
        written = Mux(inner.produce < inner.consume, inner.produce + depth, inner.produce) - inner.consume
        begun, offer, repeat = inside.begun, inside.offer, sender.repeat
        queued = [
            (queue.r_rdy, queue.r_data),
            *((behind[n] < level, rows[n]) for n in range(depth)),
        ]
        on_way = [
            (find.newest_valid, find.newest),
            *queued,
            (fetch.fetched, inside.looked_up),
            (sender.repeats, repeat.place),
            (begun & offer.again, offer.place),
        ]
        there = Array(row.there for row in frames.rows)
        for place in range(size):
            m.d.comb += Assert(
                sum_of((valid & (one == place), 1) for valid, one in on_way)
                + (there[place] & ~(find.newest_valid & (find.newest == place)))
                <= 1,
                "a place is on its way to be sent again once, and not if it is not to be sent again",
            )
        m.d.comb += [
            Assert(~queue.w_en | queue.w_rdy, "what is to be sent again has room"),
            Assert((level <= depth) & (inner.produce < depth) & (inner.consume < depth)),
            Assert((written == level) | (written == 0) & (level == depth)),
            # It gives what it has as soon as it can.
            Assert(queue.r_rdy | (level <= 1)),
            Assert(~sender.repeats | repeat.again),
            # What was read of a place a cycle ago is so, unless it was marked in that cycle.
            Assert(
                ~(found.valid & find.carrying.there)
                | there[found.place]
                | find.marked_valid & (find.marked == found.place)
            ),
            Assert(~begun | ~(found.valid | find.newest_valid), "a place is written for one reason"),
            # Nothing is on its way when a new packet is begun.
            Assert(~(begun & ~offer.again) | ~Cat(valid for valid, _ in on_way).any()),
            Cover((queue.level != 0) & fetch.fetched & sender.repeats, "all are on their way"),
        ]
        return m


class Unpacking(wiring.Component):
    """An :class:`Unpacker` and its ring of blocks.

    What comes is anything, also what no packer makes, over 1, 2 or 4 of the lanes that there are; and when parts are
    taken is free.

    If it is a `story`, parts as long as may be come, and are not taken at first.
    """

    def __init__(self, unpack, lanes=1, story=False):
        self.unpacker, self.story = unpack.Unpacker(lanes), story
        members = self.unpacker.signature.members
        super().__init__({"used": members["used"], "i": members["i"], "taken": In(1)})

    def elaborate(self, platform):
        m = Module()
        unpacker, lanes = self.unpacker, self.unpacker.lanes
        opened = formal.Opened(unpacker)
        m.submodules.unpacker = opened.fragment
        inside, write = opened.of(unpacker), opened.of(unpacker, "_write")
        size, at, there, held, to = inside.size, inside.at, inside.there, inside.held, write.to
        if self.story:
            cycle = Signal(range(32))
            m.d.sync += cycle.eq(cycle + 1)
            m.d.comb += [
                unpacker.used.eq(lanes),
                unpacker.i.valid.eq(1),
                unpacker.o.ready.eq(cycle >= 20),
                # A packet of one line begins with each stripe, and in the first word.
                unpacker.i.payload[0].start.eq(1),
                unpacker.i.payload[0].words[0].eq(packet.form_code(1, 1)),
            ]
        else:
            m.d.comb += [
                unpacker.used.eq(self.used),
                unpacker.i.valid.eq(self.i.valid),
                unpacker.i.payload.eq(self.i.payload),
                unpacker.o.ready.eq(self.taken),
            ]
        if lanes > 1:
            # What the queue of stripes holds is as what came.
            stripe = reduce(or_, (write.used == 1 << n for n in range(lanes.bit_length())))
            m.d.comb += Assume(~write.queue.r_rdy | stripe)
        # Blocks behind the chain, and those of the part that was found, which are given next.
        count = Signal(range(size + 1))
        m.d.comb += count.eq(sum_of((bit, 1) for bit in there))
        m.d.comb += [
            Assert(~inside.came | (held + inside.used <= size), "no block is overwritten that is to be given"),
            Assert(held == count + inside.found_drop),
            Assert(~inside.room | (held <= size - lanes)),
            Assert((there & (there + 1))[:size] == 0),
            *(Assert(sum_of((bit, 1) for bit in ring) == 1) for ring in (at, to)),
            Assert((inside.starts & (inside.starts - 1))[: packet.BLOCK_WORDS] == 0),
            Assert((inside.starts == 0) | ~inside.lost & inside.first),
            *(Assert(~((count == n) | (count == n + size)) | (to == at.rotate_left(n))) for n in range(size)),
            *(
                assertion
                for row in inside.rows
                for started in (row.started[n] for n in range(packet.BLOCK_WORDS))
                for assertion in (
                    Assert(started.end[3:] <= started.spans + 1),
                    Assert(started.end[3:] <= max(unpack_module._SPAN - 1, lanes)),
                    Assert(~started.last | (started.more == 0)),
                )
            ),
            Cover((held == size) & (cycle == 19) if self.story else 0, "all rows are in use"),
        ]
        return m


PROOFS = {
    "crossing": (cdc, Crossing, 3),
    "giving": (receiver_module, Giving, 1),
    "responding": (responder_module, Responding, 1),
    "requesting": (requester_module, Requesting, 1),
    "repeating": (retry_module, Repeating, 1),
    "relaying": (relay_module, Relaying, 1),
    "unpacking": (unpack_module, Unpacking, 1),
    "unpacking of 2 lanes": (unpack_module, lambda unpack: Unpacking(unpack, 2), 1),
    "unpacking of 4 lanes": (unpack_module, lambda unpack: Unpacking(unpack, 4), 1),
}
"""The module, what is proven of it, and by how many cycles of induction."""
STORIES = {
    "crossing": (lambda: Crossing(cdc), 26),
    "giving": (lambda: Giving(receiver_module, story=True), 32),
    "responding": (lambda: Responding(copied(responder_module), story=True), 45),
    "requesting": (lambda: Requesting(requester_module, story=True), 60),
    "relaying": (lambda: Relaying(relay_module, story=True), 24),
    "unpacking": (lambda: Unpacking(unpack_module, story=True), 24),
    "repeating": (lambda: Repeating(copied(retry_module), story=True), 40),
}
"""What happens, and in how many cycles."""
BROKEN = {
    "a full crossing is written": ("crossing", "(written_gray != Cat(taken_seen[:-2], ~taken_seen[-2:]))", "C(1)"),
    "an empty crossing is read": ("crossing", "self.o.valid.eq(taken_gray != written_seen)", "self.o.valid.eq(1)"),
    "the sides of a crossing are emptied apart": (
        "crossing",
        "AsyncFFSynchronizer(empty_all, ",
        "AsyncFFSynchronizer(ResetSignal(side), ",
    ),
    "pointers cross in binary": ("crossing", "gray.eq(following ^ (following >> 1))", "gray.eq(following)"),
    "a wrong packet keeps its place": (
        "giving",
        "put.addr.eq(Mux(came.part.first, begun, written))",
        "put.addr.eq(written)",
    ),
    "fewer parts are staged": ("giving", "_STAGED = 2 * LINES_MAX", "_STAGED = LINES_MAX"),
    "staged parts wait for a pause": (
        "giving",
        "read.eq(read + (begun != read))",
        "read.eq(read + ((begun != read) & ~self.i.valid))",
    ),
    "a packet is given without room": (
        "giving",
        "turns.wants.eq(retry.ready & self.room)",
        "turns.wants.eq(retry.ready)",
    ),
    "there is always room for parts": (
        "responding",
        "m.d.sync += self.room.eq(level <= PARTS - ROOM)",
        "m.d.sync += self.room.eq(1)",
    ),
    "lines are asked for without room": ("responding", "(waiting != most_waiting)", "1"),
    "the memory owes more than is counted": ("responding", "(left != most)", "1"),
    "a line that goes makes room for its packet": (
        "responding",
        "Mux(now.packet.lined, 1, now.packet.more + 1)",
        "now.packet.more + 1",
    ),
    "a third part is offered": ("responding", "step.eq(level != 2)", "step.eq(1)"),
    "there is a slot more": ("requesting", "(used == self.slots - 1)))", "(used == self.slots)))"),
    "a line is given while it comes": (
        "requesting",
        "hit.eq(judges & (verdict.slot == head))",
        "hit.eq((judges & (verdict.slot == head)) | (land.en & (slot == head)))",
    ),
    "a line is shown while it comes": ("responding", "sync += shown.eq(some)", "sync += shown.eq(some | pushes)"),
    "a line is written when both packets are full": ("requesting", "put.en.eq(~held)", "put.en.eq(1)"),
    "a run has a line more": ("requesting", "full.eq(growing.more == most - 2)", "full.eq(growing.more == most - 1)"),
    "there is always room for blocks": ("unpacking", "room.eq(next_held <= size - self.lanes)", "room.eq(1)"),
    "a part's rows are free when it is found": ("unpacking", "found_drop.eq(Mux(step, drop, 0))", "found_drop.eq(0)"),
    "there is always room to relay": ("relaying", "<= PARTS - ROOM)", "<= PARTS)"),
    "a packet is relayed before it is whole": ("relaying", "self.come & self.part.last & ~self.broken", "self.come"),
    "what was just found is begun anew": ("repeating", "pending = finding | self", "pending = self"),
    "a place is queued twice": ("repeating", "& ~(newest_valid & (newest == found.place))", ""),
    "a place is queued again": ("repeating", "& ~(marked_valid & (marked == found.place))", ""),
    "a place is begun while one is found": (
        "repeating",
        "looks.valid | finds.valid | seeks.valid | found.valid, ",
        "looks.valid, ",
    ),
    "what is queued stays there": ("repeating", "frames_write.data.there.eq(begun)", "frames_write.data.there.eq(1)"),
    "there is always room for answers": ("requesting", "self.room.eq(answers.level < _ANSWERS)", "self.room.eq(1)"),
}
"""Of which proof, what is wrong, and the change that makes it so."""
SLOW = {"unpacking of 4 lanes", "fewer parts are staged", "staged parts wait for a pause"}
"""Too long for every run."""


def quick(names):
    """These names; what is slow is for the soak."""
    return [pytest.param(name, marks=[pytest.mark.soak] * (name in SLOW)) for name in names]


@pytest.mark.parametrize("name", quick(PROOFS))
def test_no_queue_overflows(name):
    module, proof, depth = PROOFS[name]
    verdict = formal.proven(proof(copied(module)), depth)
    assert verdict.holds, f"these fail: {verdict.failed}"


@pytest.mark.parametrize("name", STORIES)
def test_each_queue_is_full(name):
    story, cycles = STORIES[name]
    verdict = formal.covered(story(), cycles)
    assert verdict.holds, f"these never happen: {verdict.failed}"


@pytest.mark.parametrize("name", quick(BROKEN))
def test_a_broken_copy_is_not_proven(name):
    which, *change = BROKEN[name]
    module, proof, depth = PROOFS[which]
    verdict = formal.proven(proof(copied(module, *change)), depth)
    assert not verdict.holds and verdict.failed, f"proven although {name}"
