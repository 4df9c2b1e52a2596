"""A PCI Express link between two devices, to compare our own link with: the same reads at the same raw rate.

Of PCI Express it has what costs payload or time: line code, headers and framing, the splitting of reads and of
completions, acknowledgements, credits, the replay buffer, tags. Nothing goes wrong on its wires. It has no writes, no
training, and packets begin at any bit: what is left out would make the link slower, not quicker.
"""

from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import connect
from tessera.hw.memory.port import LINE_BYTES, Access, MemoryPort, MemoryStatus, Op

__all__ = ["PcieLine", "PcieLink", "PcieLinkParameters", "PcieRead"]

PAYLOAD_LINES = 4
"""Lines of a completion at most (maximum payload 256 bytes); one ends where its address is a multiple of so many."""
READ_LINES = 8
"""Lines that a request asks for at most (maximum read request 512 bytes)."""
PAGE_LINES = 64
"""No request crosses a multiple of so many lines (4 KB). Ref: PCI Express Base 3.0, 2.2.7."""
DLLP_BYTES = 8
SKP_BYTES = 16
SKP_BLOCKS = 370
"""One block of 130 bits of so many is an SKP ordered set."""
FLIT_BYTES, FLIT_TLP_BYTES = 256, 236
_FRAMING = 8
"""Bytes of framing, sequence number and LCRC, which TLPs in flits do not have."""
_CATCH_UP = 4
"""Cycles that the wire may be behind because packets are shorter than a cycle."""


@dataclass(frozen=True)
class PcieLinkParameters:
    """Rates and sizes of a :class:`PcieLink`, the same at both ends.

    Parameters
    ----------
    generation : int
        3 to 5: 128b/130b; these differ only in what a cycle is. 6: flits.
    raw_bits : int
        Bits that a direction moves in a cycle, 16 to 320; 257 is one lane of our link.
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
        Room for TLPs that are not yet acknowledged, from the longest TLP to 65536: one is sent only if the longest
        would find room.
    ack_every, ack_timer : int
        An Ack is sent for so many TLPs, 1 to 64, or so many cycles after the first one it is for, 1 to 4096. In flits,
        each flit acknowledges.
    update_timer : int
        Every so many cycles, 256 to 2**20, the credits are told anew, needed or not: 12000 are 30 us at 400 MHz.
        Ref: PCI Express Base 3.0, 2.6.1.2.
    switch_latency : int
        Cycles that each TLP takes besides its time on the wire, 0 to 4096. 60 are 150 ns at 400 MHz: a typical
        cut-through switch takes 100 to 150 ns (Linley Newsletter, 24 September 2019: Broadcom's PEX88000 takes 105 ns,
        30 % less than its predecessor).
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
        """Units of wire time in a cycle. A byte is a whole number of units, so that nothing is ever rounded."""
        return self.raw_bits * (FLIT_TLP_BYTES if self.flits else 128)

    @property
    def byte(self):
        """Units of wire time that a byte of a packet takes, with its share of the line code."""
        return 8 * (FLIT_BYTES if self.flits else 130)

    @property
    def longest(self):
        """Bytes of the longest TLP."""
        return max(self.tlp_bytes(0), self.tlp_bytes(PAYLOAD_LINES))

    def tlp_bytes(self, lines):
        """Bytes on the wire of a completion with `lines`, a number, or of a request for 0."""
        bare = self.request_bytes if lines == 0 else self.completion_overhead + LINE_BYTES * lines
        return bare - _FRAMING if self.flits else bare


class PcieRead(data.Struct):
    """A read of the other end's memory."""

    window: 6
    offset: 26
    """The first line. Behind line 2**26 - 1 of a window comes its line 0. Windows begin at whole pages."""
    lines: 5
    """1 to 16."""
    tag_id: 8
    """Comes back with each line; of no meaning to the link."""


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
    """What DLLPs tell a sender of TLPs; zeros where nothing is told."""

    acked: 17
    """Bytes of TLPs."""
    freed: 8
    """Non-posted header credits."""


class _Seen(data.Struct):
    """What of TLPs an end sees in a cycle."""

    requests: 5
    lines: 5
    """Of completions."""


class _Came(data.Struct):
    """TLPs that are complete at the end of the wire in a cycle."""

    seen: _Seen
    tlps: 5
    bytes: 10
    """Of these TLPs, together."""


_Lines = range(PAYLOAD_LINES + 1)
"""Shape that stands for a TLP: lines of a completion, 0 for a request."""


def _sum(a, b):
    """Of two :class:`_Came`, field by field."""
    pairs = (a.seen.requests, b.seen.requests), (a.seen.lines, b.seen.lines), (a.tlps, b.tlps), (a.bytes, b.bytes)
    return Cat((one + other)[: len(one)] for one, other in pairs)


class _Part(wiring.Component):
    """A part of a link, made from the link's parameters."""

    def __init__(self, parameters):
        self.parameters = parameters
        super().__init__()

    def tlp_bytes(self, m, lines):
        """Bytes of the TLP that `lines` stands for, as a signal."""
        size = Signal(10)
        with m.Switch(lines):
            for n in _Lines:
                with m.Case(n):
                    m.d.comb += size.eq(self.parameters.tlp_bytes(n))
        return size


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


class _Wire(_Part):
    """One direction: when each packet has gone, and when the other end sees it.

    One packet begins in a cycle at most. One that waits begins with the bit behind the packet before it, wherever in a
    cycle; one for which the wire has waited begins with its cycle. SKP sets go first, then DLLPs.
    """

    tlp: In(stream.Signature(_Lines))
    """To be sent. May change, or be withdrawn, until it is taken."""
    more: In(1)
    """Another TLP waits besides the one offered."""
    dllp: In(stream.Signature(_Dllp))
    """May change until it is taken. In flits it is taken when a flit begins, and comes with its end."""
    came: Out(_Came)
    """In flits, a TLP comes with the flit that it ends in."""
    seen: Out(_Seen)
    """The same TLPs, ``switch_latency`` cycles later."""
    told: Out(_Dllp)
    """What a DLLP says that has come in this cycle. DLLPs are each hop's own: no switch delays them."""

    def elaborate(self, platform):
        m = Module()
        p = self.parameters

        # Units from the beginning of this cycle to the end of the packet; where that is past, 0 or less.
        left, begin, cost = Signal(signed(24)), Signal(signed(24)), Signal(22)
        idle, start, under_way, behind = Signal(), Signal(), Signal(), Signal()
        is_tlp, lines, dllp = Signal(), Signal(_Lines), Signal(_Dllp)
        m.d.comb += idle.eq(left <= 0)
        with m.If(behind):
            m.d.comb += begin.eq(Mux(left < -_CATCH_UP * p.rate, -_CATCH_UP * p.rate, left))
        with m.If(start):
            m.d.sync += [left.eq(begin + cost - p.rate), under_way.eq(1)]
            m.d.sync += [is_tlp.eq(self.tlp.ready), lines.eq(self.tlp.payload), dllp.eq(0)]
        with m.Elif(idle):
            m.d.sync += under_way.eq(0)
        with m.Else():
            m.d.sync += left.eq(left - p.rate)

        ended, size = Signal(_Came), self.tlp_bytes(m, lines)
        with m.If(under_way & idle & is_tlp):
            m.d.comb += [ended.tlps.eq(1), ended.bytes.eq(size)]
            m.d.comb += [ended.seen.requests.eq(lines == 0), ended.seen.lines.eq(lines)]
        m.d.comb += cost.eq(self.tlp_bytes(m, self.tlp.payload) * p.byte)
        with m.If(self.tlp.ready):
            m.d.comb += start.eq(self.tlp.valid)
        waits = Signal()
        m.d.comb += waits.eq(self.more | (self.tlp.valid & ~self.tlp.ready))
        if p.flits:
            m.d.comb += self.tlp.ready.eq(idle)
            m.d.sync += behind.eq(waits)
            self._flits(m, left, ended)
        else:
            skp, since, interval = Signal(), Signal(24), SKP_BLOCKS * SKP_BYTES * p.byte
            m.d.comb += [
                self.came.eq(ended),
                self.dllp.ready.eq(idle & ~skp),
                self.tlp.ready.eq(idle & ~skp & ~self.dllp.valid),
            ]
            m.d.sync += behind.eq(waits | (skp & ~idle) | (self.dllp.valid & ~self.dllp.ready))
            with m.If(idle & skp):
                m.d.comb += [start.eq(1), cost.eq(SKP_BYTES * p.byte)]
                m.d.sync += skp.eq(0)
            with m.Elif(self.dllp.valid & self.dllp.ready):
                m.d.comb += [start.eq(1), cost.eq(DLLP_BYTES * p.byte)]
                m.d.sync += dllp.eq(self.dllp.payload)
            m.d.sync += since.eq(since + p.rate)
            with m.If(since >= interval - p.rate):
                m.d.sync += [since.eq(since + p.rate - interval), skp.eq(1)]
            with m.If(under_way & idle):
                m.d.comb += self.told.eq(dllp)

        through = Value.cast(self.came.seen)
        if p.switch_latency:
            delay = Signal(p.switch_latency * len(through))
            m.d.sync += delay.eq(Cat(through, delay)[: len(delay)])
            through = delay[-len(through) :]
        m.d.comb += self.seen.eq(through)
        return m

    def _flits(self, m, left, ended):
        """Let TLPs and DLLPs come with the flits' ends. Flits follow each other from reset on."""
        rate, length = self.parameters.rate, FLIT_TLP_BYTES * FLIT_BYTES * 8
        # Units of this flit that have gone by; `new` in the first cycle that begins in it.
        phase, new = Signal(range(length)), Signal()
        kept, carried = Signal(_Came), Signal(_Dllp)
        m.d.sync += [phase.eq(phase + rate), new.eq(0), kept.eq(_sum(kept, ended))]
        with m.If(phase >= length - rate):
            m.d.sync += [phase.eq(phase + rate - length), new.eq(1)]
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


class _Requester(_Part):
    """Makes requests of reads, and of the lines that come back the lines of the reads.

    A request's tag is in use from the cycle in which it is made until its last line is taken. Completions come in the
    order of the requests, so that a queue stands for the table of tags.
    """

    read: In(stream.Signature(PcieRead))
    line: Out(stream.Signature(PcieLine))
    request: Out(stream.Signature(_Request))
    back: In(stream.Signature(_Line))
    bytes: Out(32)

    def elaborate(self, platform):
        m = Module()
        entry = data.StructLayout({"id": 8, "first": 5, "lines": 4})
        m.submodules.tags = tags = fifo.SyncFIFOBuffered(width=entry.size, depth=self.parameters.tags)

        read, ask = self.read.payload, self.request.payload
        done, left, page, chunk = Signal(5), Signal(5), Signal(7), Signal(4)
        m.d.comb += [
            left.eq(read.lines - done),
            page.eq(PAGE_LINES - ask.offset[:6]),
            chunk.eq(Mux(left < READ_LINES, left, READ_LINES)),
            ask.window.eq(read.window),
            ask.offset.eq(read.offset + done),
            ask.lines.eq(Mux(page < chunk, page, chunk)),
            self.request.valid.eq(self.read.valid & tags.w_rdy),
            tags.w_en.eq(self.request.valid & self.request.ready),
            tags.w_data.eq(Cat(read.tag_id, done, ask.lines)),
            self.read.ready.eq(tags.w_en & (left == ask.lines)),
        ]
        with m.If(tags.w_en):
            m.d.sync += done.eq(Mux(self.read.ready, 0, done + ask.lines))
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


class _Completer(_Part):
    """Reads the lines that requests ask for, and makes completions of them, in the requests' order."""

    request: In(stream.Signature(_Request))
    memory: Out(MemoryPort(Access))
    """Line after line under ids 0 to 7 in turn."""
    line: Out(stream.Signature(_Line))
    packet: Out(stream.Signature(_Lines))
    """A completion whose lines have all been given to ``line``."""
    packets: Out(9)
    """How many completions wait, the one offered included."""
    freed: Out(1)
    """A request's last line has been asked for."""

    def elaborate(self, platform):
        m = Module()
        depth = self.parameters.completer_lines
        m.submodules.slots = slots = memory.Memory(shape=_Line, depth=depth, init=[])
        write, read = slots.write_port(), slots.read_port(domain="comb")
        m.submodules.ends = ends = fifo.SyncFIFOBuffered(width=1, depth=depth)
        m.submodules.packets = packets = fifo.SyncFIFOBuffered(width=len(self.packet.payload), depth=depth)

        # Ask for lines while there are slots. The line in slot n has id n % 8.
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
            ends.w_data.eq(last | (offset % PAYLOAD_LINES == PAYLOAD_LINES - 1)),
            ends.w_en.eq(asked),
            self.request.ready.eq(asked & last),
            self.freed.eq(asked & last),
        ]
        with m.If(asked):
            m.d.sync += [index.eq(Mux(last, 0, index + 1)), slot.eq(slot + 1)]

        # Put them in order: full[n] says that slot n's line has come.
        answer, full = self.memory.response, Signal(depth)
        places = [Signal(range(depth // 8), name=f"place{n}") for n in range(8)]
        with m.Switch(answer.payload.id):
            for n, place in enumerate(places):
                with m.Case(n):
                    m.d.comb += write.addr.eq(Cat(C(n, 3), place))
                    with m.If(write.en):
                        m.d.sync += place.eq(place + 1)
        m.d.comb += [
            answer.ready.eq(1),
            write.en.eq(answer.valid),
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
            self.packets.eq(packets.level),
        ]
        with m.If(moved):
            m.d.sync += [head.eq(head + 1), full.bit_select(head, 1).eq(0)]
            m.d.sync += gathered.eq(Mux(ends.r_data, 0, gathered + 1))
        sent = Mux(self.packet.valid & self.packet.ready, self.packet.payload, 0)
        m.d.sync += held.eq(held + asked - sent)
        return m


class _Sender(_Part):
    """Chooses what an end sends next, TLPs of both kinds in turn, and keeps its credits and acknowledgements."""

    requested: In(1)
    """One more request waits."""
    packet: In(stream.Signature(_Lines))
    packets: In(9)
    """Completions, as the completer has them."""
    came: In(_Came)
    told: In(_Dllp)
    """From the other end's wire."""
    freed: In(1)
    """There is room for one more of the other end's requests."""
    tlp: Out(stream.Signature(_Lines))
    more: Out(1)
    dllp: Out(stream.Signature(_Dllp))
    """To this end's wire."""
    tlps: Out(32)
    dllps: Out(32)

    def elaborate(self, platform):
        m = Module()
        p = self.parameters

        waiting, credits = Signal(range(p.tags + 1)), Signal(range(p.nonposted + 1), init=p.nonposted)
        unacked, room, asks, asked_last, sent = Signal(17), Signal(), Signal(), Signal(), Signal()
        may_ask, may_answer, another = Signal(), Signal(), Signal()
        m.d.comb += [
            room.eq(unacked <= p.replay_bytes - p.longest),
            may_ask.eq((waiting != 0) & (credits != 0) & room),
            may_answer.eq(self.packet.valid & room),
            asks.eq(may_ask & ~(may_answer & asked_last)),
            another.eq(Mux(asks, (waiting > 1) & (credits > 1), self.packets > 1)),
            self.tlp.valid.eq(may_ask | may_answer),
            self.tlp.payload.eq(Mux(asks, 0, self.packet.payload)),
            self.more.eq((may_ask & may_answer) | (self.tlp.valid & another)),
            sent.eq(self.tlp.valid & self.tlp.ready),
            self.packet.ready.eq(sent & ~asks),
        ]
        size = self.tlp_bytes(m, self.tlp.payload)
        m.d.sync += [
            waiting.eq(waiting + self.requested - (sent & asks)),
            credits.eq(credits + self.told.freed - (sent & asks)),
            unacked.eq(unacked + Mux(sent, size, 0) - self.told.acked),
            self.tlps.eq(self.tlps + sent),
        ]
        with m.If(sent):
            m.d.sync += asked_last.eq(asks)

        # What the other end is to be told. A flit has room for an acknowledgement and a type of credit, a DLLP for one.
        both = int(p.flits)
        tlps, acked, freed, age = Signal(17), Signal(17), Signal(8), Signal(range(p.ack_timer + 1))
        time, posted_due, nonposted_due = Signal(range(p.update_timer)), Signal(), Signal()
        ack, nonposted, posted = Signal(), Signal(), Signal()
        told_ack, told_nonposted, told_posted, refresh = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            ack.eq((tlps != 0) if p.flits else (tlps >= p.ack_every) | (age == p.ack_timer)),
            nonposted.eq(((freed >= max(1, p.nonposted // 2)) | nonposted_due) & (both | ~ack)),
            posted.eq(posted_due & ~nonposted & (both | ~ack)),
            self.dllp.valid.eq(ack | nonposted | posted),
            self.dllp.payload.acked.eq(Mux(ack, acked, 0)),
            self.dllp.payload.freed.eq(Mux(nonposted, freed, 0)),
            Cat(told_ack, told_nonposted, told_posted).eq(Mux(self.dllp.ready, Cat(ack, nonposted, posted), 0)),
            refresh.eq(time == p.update_timer - 1),
        ]
        m.d.sync += [
            tlps.eq(Mux(told_ack, 0, tlps) + self.came.tlps),
            acked.eq(Mux(told_ack, 0, acked) + self.came.bytes),
            freed.eq(Mux(told_nonposted, 0, freed) + self.freed),
            age.eq(Mux(told_ack | (tlps == 0), 0, age + (age != p.ack_timer))),
            time.eq(Mux(refresh, 0, time + 1)),
            nonposted_due.eq((nonposted_due & ~told_nonposted) | refresh),
            posted_due.eq((posted_due & ~told_posted) | refresh),
            self.dllps.eq(self.dllps + told_ack + told_nonposted + told_posted),
        ]
        return m


class PcieLink(wiring.Component):
    """A PCI Express link between ends 0 and 1, each of which reads the other's memory.

    A read is split into requests, a request's lines into completions, which come in the order of the requests. All
    lines of a completion are there when its last byte is, and are given one a cycle. If nothing else is under way, a
    read of one line, of a memory that answers in ``memory`` cycles, has its line after ::

        6 + ceil(request * byte / rate) + ceil(completion * byte / rate) + 2 * switch_latency + memory

    cycles if no SKP set is in the way; ``request`` is ``tlp_bytes(0)`` of the parameters, ``completion``
    ``tlp_bytes(1)``. In flits, either packet waits for the end of the flit that it ends in, too; a flit's other bytes
    are spread evenly among those of TLPs.

    Parameters
    ----------
    parameters : :class:`PcieLinkParameters`

    Members
    -------
    read0, read1 : :py:`In(stream.Signature(PcieRead))`
        Reads by this end of the other one's memory.
    line0, line1 : :py:`Out(stream.Signature(PcieLine))`
        The lines for this end, each once, those of one read in order; between reads rely on no order. Whoever reads
        takes them at once: ``ready`` is always 1.
    memory0, memory1 : :py:`Out(MemoryPort(Access))`
        This end's own memory, of which the other end reads. Responses are taken at once. A line's status goes with it;
        completions of lines that failed are as long as others.
    bytes0, bytes1 : :py:`Out(32)`
        Payload that this end was given.
    tlps0, tlps1, dllps0, dllps1 : :py:`Out(32)`
        Packets that this end has begun to send. In flits, an acknowledgement of anything new counts as a DLLP, and so
        does each type of credit that is told.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        members = {}
        for n in range(2):
            members[f"read{n}"] = In(stream.Signature(PcieRead))
            members[f"line{n}"] = Out(stream.Signature(PcieLine))
            members[f"memory{n}"] = Out(MemoryPort(Access))
            members |= {f"{name}{n}": Out(32) for name in ("bytes", "tlps", "dllps")}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        requesters, completers, senders, wires = (
            [part(p), part(p)] for part in (_Requester, _Completer, _Sender, _Wire)
        )
        for n in range(2):
            requester, completer, sender, wire = requesters[n], completers[n], senders[n], wires[n]
            m.submodules[f"requester{n}"], m.submodules[f"completer{n}"] = requester, completer
            m.submodules[f"sender{n}"], m.submodules[f"wire{n}"] = sender, wire
            m.submodules[f"requests{n}"] = requests = _Landing(_Request, p.tags)
            m.submodules[f"lines{n}"] = lines = _Landing(_Line, p.tags * READ_LINES)
            memory_port = getattr(self, f"memory{n}")
            connect(m, getattr(self, f"read{n}"), requester.read)
            connect(m, requester.request, requests.i)
            connect(m, requests.o, completers[1 - n].request)
            connect(m, completer.memory.request, memory_port.request)
            connect(m, memory_port.response, completer.memory.response)
            connect(m, completer.line, lines.i)
            connect(m, lines.o, requesters[1 - n].back)
            connect(m, requester.line, getattr(self, f"line{n}"))
            connect(m, completer.packet, sender.packet)
            # These may change while they wait: an offer is the best choice of its cycle.
            wiring.connect(m, sender.tlp, wire.tlp)
            wiring.connect(m, sender.dllp, wire.dllp)
            m.d.comb += [
                sender.requested.eq(requests.i.valid & requests.i.ready),
                sender.packets.eq(completer.packets),
                sender.freed.eq(completer.freed),
                sender.came.eq(wires[1 - n].came),
                sender.told.eq(wires[1 - n].told),
                wire.more.eq(sender.more),
                requests.came.eq(wire.seen.requests),
                lines.came.eq(wire.seen.lines),
                getattr(self, f"bytes{n}").eq(requester.bytes),
                getattr(self, f"tlps{n}").eq(sender.tlps),
                getattr(self, f"dllps{n}").eq(sender.dllps),
            ]
        return m
