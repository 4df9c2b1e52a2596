"""A PCI Express link between two devices, to compare our own link with: the same reads at the same raw rate.

Of PCI Express it has what costs payload or time: line code, packet headers and framing, the splitting of reads and
completions, acknowledgements, credits, the replay buffer, tags. Nothing goes wrong on its wires. Not there are: writes,
training, and the alignment of packets to lanes and blocks; what is left out would make a real link slower, not quicker.
"""

from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import connect
from tessera.hw.memory.port import LINE_BYTES, MemoryPort, MemoryStatus, Op

__all__ = ["PcieLine", "PcieLink", "PcieLinkParameters", "PcieRead"]

PAYLOAD_LINES = 4
"""Lines that a completion has at most (maximum payload 256 bytes); it ends where its address is a multiple of so many."""
READ_LINES = 8
"""Lines that a request asks for at most (maximum read request 512 bytes)."""
PAGE_LINES = 64
"""No request crosses a multiple of so many lines (4 KB). Ref: PCI Express Base 3.0, 2.2.7."""
DLLP_BYTES = 8
SKP_BYTES = 16
SKP_BLOCKS = 370
FLIT_BYTES, FLIT_TLP_BYTES = 256, 236
_FRAMING = 8
"""Bytes of framing, sequence number and LCRC, which TLPs in flits do not have."""


@dataclass(frozen=True)
class PcieLinkParameters:
    """Rates and sizes of a :class:`PcieLink`, the same at both ends. Bytes are those of a TLP on the wire.

    Parameters
    ----------
    generation : int
        3 to 5: 128b/130b; these differ only in what a cycle is. 6: flits.
    raw_bits : int
        Bits that a direction moves in a cycle, 16 to 320: 257 is one lane of our link.
    request_bytes : int
        Of a read request, 16 to 64: header of 16 (64-bit address), framing and LCRC of 8. In flits 8 less.
    completion_overhead : int
        Of a completion besides its payload, 16 to 64: header of 12, framing and LCRC of 8. In flits 8 less.
    tags : int
        Requests of an end that may be under way, 1 to 256.
    nonposted : int
        Requests that an end has room for, advertised as non-posted header credits, 1 to 128.
    completer_lines : int
        Lines that an end has asked its memory for and not yet begun to send, a power of two from 8 to 256.
    replay_bytes : int
        An end that has sent TLPs of more than ``replay_bytes`` less the longest TLP, not yet acknowledged, sends no
        other; from the longest TLP to 65536.
    ack_every : int
        An Ack is sent for so many TLPs, 1 to 64 ...
    ack_timer : int
        .. or so many cycles after the first one that it is for, 1 to 4096. Flits acknowledge without either.
    update_timer : int
        Cycles, 256 to 2**20, in which the credits are told anew at least once, needed or not: 12000 are the 30 us of
        PCI Express Base 3.0, 2.6.1.2, at 400 MHz.
    switch_latency : int
        Cycles that each TLP takes besides its time on the wire, 0 to 4096. 60 are 150 ns at 400 MHz: cut-through
        switches are sold with 100 to 150 ns between two ports (Broadcom's PEX88000: 105 ns, PEX9700: 150 ns).
    """

    generation: int = 5
    raw_bits: int = 257
    request_bytes: int = 24
    completion_overhead: int = 20
    tags: int = 64
    nonposted: int = 32
    completer_lines: int = 64
    replay_bytes: int = 4096
    ack_every: int = 4
    ack_timer: int = 128
    update_timer: int = 12_000
    switch_latency: int = 60

    def __post_init__(self):
        for name, low, high in (
            ("generation", 3, 6),
            ("raw_bits", 16, 320),
            ("request_bytes", 16, 64),
            ("completion_overhead", 16, 64),
            ("tags", 1, 256),
            ("nonposted", 1, 128),
            ("completer_lines", 8, 256),
            ("replay_bytes", self.longest, 2**16),
            ("ack_every", 1, 64),
            ("ack_timer", 1, 4096),
            ("update_timer", 256, 2**20),
            ("switch_latency", 0, 4096),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; {low} to {high} expected")
        if self.completer_lines & (self.completer_lines - 1):
            raise ValueError(f"completer_lines is {self.completer_lines}; a power of two from 8 to 256 expected")

    @property
    def flits(self):
        """TLPs travel in flits."""
        return self.generation == 6

    @property
    def rate(self):
        """Units of wire time in a cycle; a bit, a byte and a block are whole numbers of units."""
        return self.raw_bits * (FLIT_TLP_BYTES if self.flits else 128)

    @property
    def byte(self):
        """Units of wire time that a byte of a TLP or DLLP takes, with its share of the line code."""
        return 8 * (FLIT_BYTES if self.flits else 130)

    @property
    def longest(self):
        """Bytes of the longest TLP."""
        return max(self.tlp_bytes(0), self.tlp_bytes(PAYLOAD_LINES))

    def tlp_bytes(self, lines):
        """Bytes of a completion with `lines`, a number, or of a request for 0."""
        bare = self.request_bytes if lines == 0 else self.completion_overhead + LINE_BYTES * lines
        return bare - _FRAMING if self.flits else bare


class PcieRead(data.Struct):
    """A read of the other end's memory."""

    window: 6
    offset: 26
    """The first line. Behind line 2**26 - 1 of a window comes line 0."""
    lines: 5
    """1 to 16."""
    tag_id: 8
    """Comes back with each line; any value, of no meaning to the link."""


class PcieLine(data.Struct):
    """A line that was read."""

    id: 8
    """The read's ``tag_id``."""
    first: 5
    """Which line of the read, from 0."""
    data: 512
    status: MemoryStatus


class _Request(data.Struct):
    """What a read request says."""

    window: 6
    offset: 26
    lines: 4


class _Line(data.Struct):
    """A line of a completion."""

    data: 512
    status: MemoryStatus


class _Dllp(data.Struct):
    """What DLLPs tell the sender of TLPs; all zeros where nothing is told."""

    acked: 17
    """Bytes of TLPs."""
    freed: 8
    """Non-posted header credits."""


class _Seen(data.Struct):
    """What of TLPs the other end sees in a cycle."""

    requests: 5
    lines: 5
    """Of completions."""


class _Came(data.Struct):
    """TLPs that have come in a cycle."""

    seen: _Seen
    tlps: 5
    bytes: 10
    """Of these TLPs, together."""


def _sum(a, b):
    """Of two :class:`_Came`, field by field."""
    pairs = (a.seen.requests, b.seen.requests), (a.seen.lines, b.seen.lines), (a.tlps, b.tlps), (a.bytes, b.bytes)
    return Cat((one + other)[: len(one)] for one, other in pairs)


class _Landing(wiring.Component):
    """A queue whose items, in order, are offered only when they have come: ``came`` of them in each cycle.

    Sender and receiver share it, so that no data moves while its packet does.
    """

    def __init__(self, shape, depth):
        self.shape, self.depth = shape, depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "came": In(5)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=Shape.cast(self.shape).width, depth=self.depth)
        there = Signal(range(self.depth + 1))
        m.d.comb += [
            queue.w_data.eq(self.i.payload),
            queue.w_en.eq(self.i.valid),
            self.i.ready.eq(queue.w_rdy),
            self.o.payload.eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy & (there != 0)),
            queue.r_en.eq(self.o.valid & self.o.ready),
        ]
        m.d.sync += there.eq(there + self.came - queue.r_en)
        return m


class _Wire(wiring.Component):
    """One direction: when each packet has gone, and when the other end sees it.

    One packet begins in a cycle at most. A packet that waits begins with the bit behind the one before it, even in the
    middle of a cycle; one for which the wire has waited begins with the cycle. SKP sets and DLLPs go first.

    Members
    -------
    tlp : :py:`In(stream.Signature(range(PAYLOAD_LINES + 1)))`
        Lines of the completion to be sent, 0 for a request. May change, or be withdrawn, until it is taken.
    more : :py:`In(1)`
        Another TLP waits besides the one offered.
    dllp : :py:`In(stream.Signature(_Dllp))`
        What to tell. May change until it is taken. In flits it is taken when a flit begins, and comes with its end.
    came : :py:`Out(_Came)`
        TLPs that are complete at the other end of the wire in this cycle; in flits, when the flit is that they end in.
    seen : :py:`Out(_Seen)`
        Of the same, ``switch_latency`` cycles later.
    told : :py:`Out(_Dllp)`
        What a DLLP told in this cycle. Acknowledgements and credits are each hop's own: no switch delays them.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        super().__init__(
            {
                "tlp": In(stream.Signature(range(PAYLOAD_LINES + 1))),
                "more": In(1),
                "dllp": In(stream.Signature(_Dllp)),
                "came": Out(_Came),
                "seen": Out(_Seen),
                "told": Out(_Dllp),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters

        # Units from the beginning of this cycle to the end of the packet; where that is past, 0 or less.
        left = Signal(signed(24))
        begin, cost = Signal(signed(24)), Signal(22)
        idle, start, under_way, behind = Signal(), Signal(), Signal(), Signal()
        is_tlp, lines, dllp = Signal(), Signal.like(self.tlp.payload), Signal(_Dllp)
        m.d.comb += idle.eq(left <= 0)
        with m.If(behind):
            m.d.comb += begin.eq(Mux(left < -p.rate, -p.rate, left))
        with m.If(start):
            m.d.sync += [left.eq(begin + cost - p.rate), under_way.eq(1)]
            m.d.sync += [is_tlp.eq(self.tlp.ready), lines.eq(self.tlp.payload), dllp.eq(0)]
        with m.Elif(idle):
            m.d.sync += under_way.eq(0)
        with m.Else():
            m.d.sync += left.eq(left - p.rate)

        sizes = [p.tlp_bytes(n) for n in range(PAYLOAD_LINES + 1)]
        with m.If(self.tlp.ready):
            m.d.comb += start.eq(self.tlp.valid)
            with m.Switch(self.tlp.payload):
                for n, size in enumerate(sizes):
                    with m.Case(n):
                        m.d.comb += cost.eq(size * p.byte)

        # The TLP that has ended, if one has.
        ended = Signal(_Came)
        with m.If(under_way & idle & is_tlp):
            m.d.comb += [ended.tlps.eq(1), ended.seen.requests.eq(lines == 0), ended.seen.lines.eq(lines)]
            with m.Switch(lines):
                for n, size in enumerate(sizes):
                    with m.Case(n):
                        m.d.comb += ended.bytes.eq(size)

        waits = Signal()
        m.d.comb += waits.eq(self.more | (self.tlp.valid & ~self.tlp.ready))
        if p.flits:
            m.d.sync += behind.eq(waits)
            m.d.comb += self.tlp.ready.eq(idle)
            self._flits(m, left, ended)
        else:
            skp = Signal()
            m.d.comb += [
                self.came.eq(ended),
                self.dllp.ready.eq(idle & ~skp),
                self.tlp.ready.eq(idle & ~skp & ~self.dllp.valid),
            ]
            m.d.sync += behind.eq(waits | (skp & ~idle) | (self.dllp.valid & ~self.dllp.ready))
            since, interval = Signal(range(SKP_BLOCKS * SKP_BYTES * p.byte)), SKP_BLOCKS * SKP_BYTES * p.byte
            m.d.sync += since.eq(since + p.rate)
            with m.If(idle & skp):
                m.d.comb += [start.eq(1), cost.eq(SKP_BYTES * p.byte)]
                m.d.sync += skp.eq(0)
            with m.Elif(self.dllp.valid & self.dllp.ready):
                m.d.comb += [start.eq(1), cost.eq(DLLP_BYTES * p.byte)]
                m.d.sync += dllp.eq(self.dllp.payload)
            with m.If(since >= interval - p.rate):
                m.d.sync += [since.eq(since + p.rate - interval), skp.eq(1)]
            with m.If(under_way & idle):
                m.d.comb += self.told.eq(dllp)

        through = Value.cast(self.came.seen)
        if p.switch_latency:
            line = Signal(p.switch_latency * len(through))
            m.d.sync += line.eq(Cat(through, line)[: len(line)])
            through = line[-len(through) :]
        m.d.comb += self.seen.eq(through)
        return m

    def _flits(self, m, left, ended):
        """What is in a flit comes when it ends; they follow each other from reset on."""
        p = self.parameters
        length = FLIT_TLP_BYTES * FLIT_BYTES * 8
        # Units of this flit that have gone by; `new` in the first cycle that begins in it.
        phase, new = Signal(range(length)), Signal()
        kept, carried = Signal(_Came), Signal(_Dllp)
        m.d.sync += [phase.eq(phase + p.rate), new.eq(0), kept.eq(_sum(kept, ended))]
        with m.If(phase >= length - p.rate):
            m.d.sync += [phase.eq(phase + p.rate - length), new.eq(1)]
        m.d.comb += self.dllp.ready.eq(new)
        with m.If(new):
            m.d.sync += carried.eq(Mux(self.dllp.valid, Value.cast(self.dllp.payload), 0))
            m.d.comb += self.told.eq(carried)
            with m.If(left + phase <= 0):
                m.d.comb += self.came.eq(_sum(kept, ended))
                m.d.sync += kept.eq(0)
            with m.Else():
                m.d.comb += self.came.eq(kept)
                m.d.sync += kept.eq(ended)


class _Requester(wiring.Component):
    """Makes requests of reads, and of the lines that come back the lines of the reads.

    A request's tag is in use from the cycle in which it is made until its last line is taken. Completions come in the
    order of the requests, so that a queue stands for the table of tags.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        super().__init__(
            {
                "read": In(stream.Signature(PcieRead)),
                "line": Out(stream.Signature(PcieLine)),
                "request": Out(stream.Signature(_Request)),
                "back": In(stream.Signature(_Line)),
                "bytes": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        entry = data.StructLayout({"id": 8, "first": 5, "lines": 4})
        m.submodules.tags = tags = fifo.SyncFIFOBuffered(width=entry.size, depth=self.parameters.tags)

        read = self.read.payload
        done, left, page, chunk = Signal(5), Signal(5), Signal(7), Signal(4)
        made = Signal(entry)
        m.d.comb += [
            left.eq(read.lines - done),
            self.request.payload.offset.eq(read.offset + done),
            page.eq(PAGE_LINES - self.request.payload.offset[:6]),
            chunk.eq(Mux(left < READ_LINES, left, READ_LINES)),
            self.request.payload.window.eq(read.window),
            self.request.payload.lines.eq(Mux(page < chunk, page, chunk)),
            self.request.valid.eq(self.read.valid & tags.w_rdy),
            made.id.eq(read.tag_id),
            made.first.eq(done),
            made.lines.eq(self.request.payload.lines),
            tags.w_data.eq(made),
            tags.w_en.eq(self.request.valid & self.request.ready),
            self.read.ready.eq(tags.w_en & (left == self.request.payload.lines)),
        ]
        with m.If(tags.w_en):
            m.d.sync += done.eq(Mux(self.read.ready, 0, done + self.request.payload.lines))
        with m.If(self.read.valid):
            m.d.sync += Assert((read.lines >= 1) & (read.lines <= 16), "a read is of 1 to 16 lines")

        oldest, count, taken = data.View(entry, tags.r_data), Signal(4), Signal()
        m.d.comb += [
            self.line.valid.eq(self.back.valid & tags.r_rdy),
            self.line.payload.id.eq(oldest.id),
            self.line.payload.first.eq(oldest.first + count),
            self.line.payload.data.eq(self.back.payload.data),
            self.line.payload.status.eq(self.back.payload.status),
            self.back.ready.eq(self.line.ready & tags.r_rdy),
            taken.eq(self.line.valid & self.line.ready),
            tags.r_en.eq(taken & (count == oldest.lines - 1)),
        ]
        with m.If(taken):
            m.d.sync += [count.eq(Mux(tags.r_en, 0, count + 1)), self.bytes.eq(self.bytes + LINE_BYTES)]
        return m


class _Completer(wiring.Component):
    """Reads the lines that requests ask for, and makes completions of them, in the requests' order.

    Members
    -------
    memory : :py:`Out(MemoryPort())`
        Line after line under ids 0 to 7 in turn.
    line : :py:`Out(stream.Signature(_Line))`
        Lines of completions.
    packet : :py:`Out(stream.Signature(range(1, PAYLOAD_LINES + 1)))`
        Lines of the next completion: all have been given to ``line``.
    freed : :py:`Out(1)`
        A request's last line has been asked for.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        super().__init__(
            {
                "request": In(stream.Signature(_Request)),
                "memory": Out(MemoryPort()),
                "line": Out(stream.Signature(_Line)),
                "packet": Out(stream.Signature(range(1, PAYLOAD_LINES + 1))),
                "freed": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = self.parameters.completer_lines
        m.submodules.slots = slots = memory.Memory(shape=_Line, depth=depth, init=[])
        write, read = slots.write_port(), slots.read_port(domain="comb")
        m.submodules.ends = ends = fifo.SyncFIFOBuffered(width=1, depth=depth)
        m.submodules.packets = packets = fifo.SyncFIFOBuffered(width=len(self.packet.payload), depth=depth)

        # Ask for lines while there are slots. Line n goes into slot n, and has id n % 8.
        ask, asked, wanted = self.memory.request, Signal(), self.request.payload
        index, slot, held = Signal(4), Signal(range(depth)), Signal(range(depth + 1))
        offset, last = Signal(26), Signal()
        m.d.comb += [
            offset.eq(wanted.offset + index),
            last.eq(index == wanted.lines - 1),
            ask.valid.eq(self.request.valid & (held != depth)),
            ask.payload.op.eq(Op.Read),
            ask.payload.id.eq(slot[:3]),
            ask.payload.window.eq(wanted.window),
            ask.payload.offset.eq(offset),
            asked.eq(ask.valid & ask.ready),
            ends.w_data.eq(last | (offset[:2] == PAYLOAD_LINES - 1)),
            ends.w_en.eq(asked),
            self.request.ready.eq(asked & last),
            self.freed.eq(self.request.valid & self.request.ready),
        ]
        with m.If(asked):
            m.d.sync += [index.eq(Mux(last, 0, index + 1)), slot.eq(slot + 1)]

        # Put them in order: full[n] says that slot n's line has come.
        answer, full = self.memory.response, Signal(depth)
        places = [Signal(range(depth // 8), name=f"place{n}") for n in range(8)]
        place = Signal.like(places[0])
        with m.Switch(answer.payload.id):
            for n in range(8):
                with m.Case(n):
                    m.d.comb += place.eq(places[n])
                    with m.If(write.en):
                        m.d.sync += places[n].eq(places[n] + 1)
        m.d.comb += [
            answer.ready.eq(1),
            write.en.eq(answer.valid),
            write.addr.eq(Cat(answer.payload.id, place)),
            write.data.data.eq(answer.payload.data),
            write.data.status.eq(answer.payload.status),
        ]
        with m.If(write.en):
            m.d.sync += full.bit_select(write.addr, 1).eq(1)

        # Move them on, and count them into packets.
        head, moved, gathered = Signal(range(depth)), Signal(), Signal(2)
        m.d.comb += [
            read.addr.eq(head),
            self.line.payload.eq(read.data),
            self.line.valid.eq(full.bit_select(head, 1) & ends.r_rdy),
            moved.eq(self.line.valid & self.line.ready),
            ends.r_en.eq(moved),
            packets.w_data.eq(gathered + 1),
            packets.w_en.eq(moved & ends.r_data),
            self.packet.valid.eq(packets.r_rdy),
            self.packet.payload.eq(packets.r_data),
            packets.r_en.eq(self.packet.ready),
        ]
        with m.If(moved):
            m.d.sync += [head.eq(head + 1), full.bit_select(head, 1).eq(0)]
            m.d.sync += gathered.eq(Mux(ends.r_data, 0, gathered + 1))
        sent = Mux(self.packet.valid & self.packet.ready, self.packet.payload, 0)
        m.d.sync += held.eq(held + asked - sent)
        return m


class _Sender(wiring.Component):
    """Chooses what an end sends next, TLPs of both kinds in turn, and keeps its credits and acknowledgements.

    Members
    -------
    requested : :py:`In(1)`
        One more request waits.
    packet : :py:`In(stream.Signature(range(1, PAYLOAD_LINES + 1)))`
        Lines of a completion that waits.
    came, told
        Of the wire from the other end: for what this end sends Acks, and what the other end's DLLPs say.
    freed : :py:`In(1)`
        There is room for one more of the other end's requests.
    tlp, more, dllp
        To the wire.
    tlps, dllps : :py:`Out(32)`
        Packets begun. In flits, what a flit acknowledges counts as a DLLP, and each credit that it tells.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        super().__init__(
            {
                "requested": In(1),
                "packet": In(stream.Signature(range(1, PAYLOAD_LINES + 1))),
                "came": In(_Came),
                "told": In(_Dllp),
                "freed": In(1),
                "tlp": Out(stream.Signature(range(PAYLOAD_LINES + 1))),
                "more": Out(1),
                "dllp": Out(stream.Signature(_Dllp)),
                "tlps": Out(32),
                "dllps": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters

        waiting, credits = Signal(range(p.tags + 1)), Signal(range(p.nonposted + 1), init=p.nonposted)
        unacked, size, room = Signal(17), Signal(10), Signal()
        may_ask, may_answer, asks, asked_last, sent = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            room.eq(unacked <= p.replay_bytes - p.longest),
            may_ask.eq((waiting != 0) & (credits != 0) & room),
            may_answer.eq(self.packet.valid & room),
            asks.eq(may_ask & ~(may_answer & asked_last)),
            self.tlp.valid.eq(may_ask | may_answer),
            self.tlp.payload.eq(Mux(asks, 0, self.packet.payload)),
            self.more.eq((may_ask & may_answer) | (may_ask & (waiting > 1) & (credits > 1))),
            sent.eq(self.tlp.valid & self.tlp.ready),
            self.packet.ready.eq(sent & ~asks),
        ]
        with m.Switch(self.tlp.payload):
            for n in range(PAYLOAD_LINES + 1):
                with m.Case(n):
                    m.d.comb += size.eq(p.tlp_bytes(n))
        m.d.sync += [
            waiting.eq(waiting + self.requested - (sent & asks)),
            credits.eq(credits + self.told.freed - (sent & asks)),
            unacked.eq(unacked + Mux(sent, size, 0) - self.told.acked),
            self.tlps.eq(self.tlps + sent),
        ]
        with m.If(sent):
            m.d.sync += asked_last.eq(asks)

        # What the other end is to be told.
        tlps, acked, freed, age = Signal(17), Signal(17), Signal(8), Signal(range(p.ack_timer + 1))
        time, posted, nonposted = Signal(range(p.update_timer)), Signal(), Signal()
        ack, update, told = Signal(), Signal(), Signal()
        refresh = time == p.update_timer - 1
        freed_enough = freed >= max(1, p.nonposted // 2)
        due = (tlps != 0) if p.flits else (tlps >= p.ack_every) | (age == p.ack_timer)
        m.d.comb += [
            ack.eq(due),
            # Flits have room for both.
            update.eq((freed_enough | nonposted) & (1 if p.flits else ~ack)),
            self.dllp.valid.eq(ack | update | posted),
            self.dllp.payload.acked.eq(Mux(ack, acked, 0)),
            self.dllp.payload.freed.eq(Mux(update, freed, 0)),
            told.eq(self.dllp.valid & self.dllp.ready),
        ]
        m.d.sync += [
            tlps.eq(Mux(told & ack, 0, tlps) + self.came.tlps),
            acked.eq(Mux(told & ack, 0, acked) + self.came.bytes),
            freed.eq(Mux(told & update, 0, freed) + self.freed),
            age.eq(Mux((told & ack) | (tlps == 0), 0, age + (age != p.ack_timer))),
            time.eq(Mux(refresh, 0, time + 1)),
            nonposted.eq((nonposted & ~(told & update)) | refresh),
            posted.eq((posted & ~(told & ~update & (1 if p.flits else ~ack))) | refresh),
            self.dllps.eq(self.dllps + Mux(told, (ack & (update | posted)) + 1 if p.flits else 1, 0)),
        ]
        return m


class PcieLink(wiring.Component):
    """A PCI Express link between ends 0 and 1, each of which reads the other's memory.

    Lines come at most one a cycle. All of a completion's lines come when the last of its bytes has. In a link that
    does nothing else, with a memory that answers after ``memory`` cycles, a read of one line of which the first cycle
    valid is the first one ready has its line::

        ceil(request * byte / rate) + ceil(completion * byte / rate) + 2 * switch_latency + memory + TODO

    cycles later, with ``rate`` and ``byte`` of the parameters and the sizes ``tlp_bytes(0)`` and ``tlp_bytes(1)``; in
    flits, each TLP comes with the flit's end that follows.

    Parameters
    ----------
    parameters : :class:`PcieLinkParameters`

    Members
    -------
    read0, read1 : :py:`In(stream.Signature(PcieRead))`
        Reads by this end of the other one's memory.
    line0, line1 : :py:`Out(stream.Signature(PcieLine))`
        The lines for this end, each once, and those of one read in order; between reads there is no order. Whoever
        reads takes them at once: ``ready`` is always 1.
    memory0, memory1 : :py:`Out(MemoryPort())`
        This end's own memory, of which the other end reads. A line's status goes with it; a completion that failed is
        as long as another. Responses are taken at once.
    bytes0, bytes1 : :py:`Out(32)`
        Payload that this end was given, since reset.
    tlps0, tlps1, dllps0, dllps1 : :py:`Out(32)`
        Packets that this end has sent, since reset. In flits, whatever a flit acknowledges is counted as a DLLP, and
        each type of credit that it tells.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        members = {}
        for n in range(2):
            members[f"read{n}"] = In(stream.Signature(PcieRead))
            members[f"line{n}"] = Out(stream.Signature(PcieLine))
            members[f"memory{n}"] = Out(MemoryPort())
            members |= {f"{name}{n}": Out(32) for name in ("bytes", "tlps", "dllps")}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        parts = {"requester": _Requester, "completer": _Completer, "sender": _Sender, "wire": _Wire}
        ends = [{name: part(p) for name, part in parts.items()} for _ in range(2)]
        for n, end in enumerate(ends):
            for name, part in end.items():
                m.submodules[f"{name}{n}"] = part
            m.submodules[f"requests{n}"] = end["requests"] = _Landing(_Request, p.tags)
            m.submodules[f"lines{n}"] = end["lines"] = _Landing(_Line, p.tags * READ_LINES)
        for n, (end, other) in enumerate(zip(ends, reversed(ends))):
            requester, completer, sender, wire = (end[name] for name in parts)
            requests, lines = end["requests"], end["lines"]
            connect(m, getattr(self, f"read{n}"), requester.read)
            connect(m, requester.line, getattr(self, f"line{n}"))
            connect(m, requester.request, requests.i)
            connect(m, requests.o, other["completer"].request)
            connect(m, completer.line, lines.i)
            connect(m, lines.o, other["requester"].back)
            connect(m, completer.packet, sender.packet)
            port = getattr(self, f"memory{n}")
            connect(m, completer.memory.request, port.request)
            connect(m, port.response, completer.memory.response)
            # These may change while they wait: an offer is no more than the best choice of its cycle.
            wiring.connect(m, sender.tlp, wire.tlp)
            wiring.connect(m, sender.dllp, wire.dllp)
            m.d.comb += [
                sender.requested.eq(requests.i.valid & requests.i.ready),
                sender.came.eq(other["wire"].came),
                sender.told.eq(other["wire"].told),
                sender.freed.eq(completer.freed),
                wire.more.eq(sender.more),
                requests.came.eq(wire.seen.requests),
                lines.came.eq(wire.seen.lines),
                getattr(self, f"bytes{n}").eq(requester.bytes),
                getattr(self, f"tlps{n}").eq(sender.tlps),
                getattr(self, f"dllps{n}").eq(sender.dllps),
            ]
        return m
