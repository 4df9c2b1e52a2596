"""Reads of host memory: from byte ranges at any address to packed lines."""

from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.hw.host.tlp import (
    BEAT_DWS,
    Beat,
    CompletionHeader,
    CompletionStatus,
    Fmt,
    PcieConfig,
    memory_write_header,
)
from tessera.hw.lib.arbiter import RoundRobin
from tessera.hw.lib.streams import Skid, connect, observe

__all__ = ["DmaLine", "DmaRead", "DmaReadPort", "DmaReadRequest", "ReadConfig", "ReadGuard"]

RANGES = 16
"""Numbers of ranges; those that wait, the one that leaves and the one that was taken last differ in it."""


class DmaReadRequest(data.Struct):
    """A range of host memory. It may start at any byte; 0 bytes give no line."""

    address: 64
    bytes: 32


class DmaLine(data.Struct):
    """64 bytes of a range, packed from its first byte; zeros follow the range's last byte."""

    data: 512
    status: CompletionStatus
    """Counts where ``last`` is set: unless ``Successful``, no line of the range means anything."""
    last: 1


class DmaReadPort(wiring.Signature):
    """What a reader has: ``request`` out, ``line`` in. Lines come in the order of requests.

    A reader takes every line without waiting for anything that waits for host memory.
    """

    def __init__(self):
        super().__init__({"request": Out(stream.Signature(DmaReadRequest)), "line": In(stream.Signature(DmaLine))})

    def __eq__(self, other):
        return isinstance(other, DmaReadPort)

    __hash__ = None


@dataclass(frozen=True)
class ReadConfig:
    """Size of a :class:`DmaRead`.

    Parameters
    ----------
    readers
        Number of ports, 1 to 8.
    tags
        Reads under way, 32 at most: a power of two from 2.
    lines
        Room for what they bring: a power of two from 32 lines.
    timeout
        Cycles without any completion after which the oldest read fails.
    """

    readers: int = 2
    tags: int = 32
    lines: int = 256
    timeout: int = 1 << 15

    def __post_init__(self):
        if not 1 <= self.readers <= 8:
            raise ValueError(f"readers is {self.readers}; 1 to 8 expected")
        if self.tags not in (2, 4, 8, 16, 32):
            raise ValueError(f"tags is {self.tags}; 2, 4, 8, 16 or 32 expected")
        if self.lines < 32 or self.lines & (self.lines - 1):
            raise ValueError(f"lines is {self.lines}; a power of two from 32 expected")
        if self.timeout < 16:
            raise ValueError(f"timeout is {self.timeout}; 16 cycles or more expected")


def _rotate(m, into, words, times, step):
    """Registers `into` take `words`, rotated upwards by `times`, 0 to 3, times `step`."""
    with m.Switch(times):
        for k in range(4):
            with m.Case(k):
                m.d.sync += [into[n].eq(words[(n - k * step) % len(words)]) for n in range(len(words))]


class DmaRead(wiring.Component):
    """Splits ranges into read requests, takes completions in any order of tags, and gives lines in order.

    A read request ends at each multiple of its largest size (``config.max_read``, 512 bytes at the most), so none
    crosses a multiple of 4 KiB. Completions of one tag come in order, split anywhere.

    Throughput is one line per cycle while completions bring one: a beat of 64 bytes is taken in every cycle, and a read
    request is made in 2 cycles. A line is offered 6 cycles after the beat that ended its read was taken.

    A completion that says no, is poisoned, too long or without data ends the range with its status; so does silence:
    when no completion at all came for `timeout` cycles, the oldest read fails. With 8-bit tags the upper
    bits count the tag's uses, so that a completion that comes after its time is recognized, dropped and counted.

    Parameters
    ----------
    parameters : :class:`ReadConfig`

    Members
    -------
    config : :py:`In(PcieConfig)`
    reader0 .. : :py:`In(DmaReadPort())`
    request : :py:`Out(stream.Signature(Beat))`
        Memory read TLPs.
    completion : :py:`In(stream.Signature(Beat))`
        Completion TLPs; always ready.
    unexpected, failed : :py:`Out(1)`
        Pulses: a completion for which no one waits was dropped; a read failed.
    idle : :py:`Out(1)`
        No read is under way.
    """

    def __init__(self, parameters=ReadConfig()):
        self.parameters = parameters
        super().__init__(
            {
                "config": In(PcieConfig),
                **{f"reader{n}": In(DmaReadPort()) for n in range(parameters.readers)},
                "request": Out(stream.Signature(Beat)),
                "completion": In(stream.Signature(Beat)),
                "unexpected": Out(1),
                "failed": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        ports = [getattr(self, f"reader{n}") for n in range(p.readers)]
        tag_bits = (p.tags - 1).bit_length()
        place = unsigned((p.lines * BEAT_DWS - 1).bit_length() + 1)
        place_bits = place.width

        # Readers take turns; which one asked stays with the range.
        asked = data.StructLayout({"request": DmaReadRequest, "reader": range(max(p.readers, 2))})
        m.submodules.turns = turns = RoundRobin(asked, p.readers)
        for n, port in enumerate(ports):
            into = getattr(turns, f"i{n}")
            m.d.comb += [
                into.valid.eq(port.request.valid),
                into.payload.request.eq(port.request.payload),
                into.payload.reader.eq(n),
                port.request.ready.eq(into.ready),
            ]
            observe(m, port.request)

        # Ranges under way, in order.
        under_way = data.StructLayout(
            {"bytes": 32, "shift": 2, "reader": range(max(p.readers, 2)), "number": range(RANGES)}
        )
        m.submodules.ranges = ranges = fifo.SyncFIFO(width=under_way.size, depth=RANGES - 4)
        range_in, range_out = Signal(under_way), data.View(under_way, ranges.r_data)
        range_status = [Signal(CompletionStatus, name=f"range_status_{n}") for n in range(RANGES)]
        number = Signal(range(RANGES))

        # Places count DWs of the buffer, with a bit more to tell full from empty.
        allotted, complete, drained = Signal(place), Signal(place), Signal(place)
        oldest, newest = Signal(tag_bits + 1), Signal(tag_bits + 1)
        uses = Signal(8 - tag_bits)
        busy, over, touched = Signal(p.tags), Signal(p.tags), Signal(p.tags)

        tag_layout = data.StructLayout(
            {
                "start": place_bits,
                "dws": 8,
                "end": place_bits,
                "number": range(RANGES),
                "uses": len(uses),
            }
        )
        m.submodules.tag_memory = tag_memory = Memory(shape=tag_layout, depth=p.tags, init=[])
        tag_write = tag_memory.write_port()
        tag_of_completion = tag_memory.read_port(domain="comb")
        tag_of_oldest = tag_memory.read_port(domain="comb")
        m.submodules.had_memory = had_memory = Memory(shape=8, depth=p.tags, init=[])
        had_write = had_memory.write_port()
        had_read = had_memory.read_port(domain="comb")

        # Split ranges into reads.
        address, left = Signal(64), Signal(32)
        size_log = Signal(range(7, 10))
        size, take, span = Signal(10), Signal(10), Signal(8)
        m.d.comb += [
            size_log.eq(Mux(self.config.max_read >= 2, 9, 7 + self.config.max_read[:1])),
            size.eq(1 << size_log),
        ]
        room_to_multiple = size - (address[:9] & (size - 1))
        m.d.comb += take.eq(Mux(left < room_to_multiple, left[:10], room_to_multiple))
        m.d.comb += span.eq((address[:2] + take + 3) >> 2)
        read = Signal(data.StructLayout({"address": 64, "take": 10, "dws": 8, "final": 1}))
        last_byte = (read.address[:2] + read.take - 1)[:2]
        end = Signal(place)
        exact_end = (allotted + read.dws)[:place_bits]
        m.d.comb += end.eq(
            Mux(read.final, Cat(C(0, 4), (exact_end + BEAT_DWS - 1)[4:place_bits]), exact_end)
        )
        # One line in reserve, for the rounding up at a range's end.
        room = Signal()
        m.d.sync += room.eq((drained + (p.lines - 10) * BEAT_DWS - allotted)[:place_bits] <= (p.lines - 10) * BEAT_DWS)
        tag_free = (newest - oldest)[: tag_bits + 1] != p.tags
        first_be = (0xF << read.address[:2])[:4]
        last_be = 0xF >> (3 - last_byte).as_unsigned()[:2]
        header = memory_write_header(
            self.config,
            read.address,
            read.dws,
            Mux(read.dws == 1, first_be & last_be, first_be),
            Mux(read.dws == 1, 0, last_be),
            write=0,
            tag=Cat(newest[:tag_bits], Mux(self.config.extended_tag, uses, uses & ((1 << (5 - tag_bits)) - 1))),
        )
        issued = Signal()
        sent = Signal(Beat)
        sent_valid = Signal()
        m.d.comb += [
            self.request.valid.eq(sent_valid),
            self.request.payload.eq(sent),
            range_in.bytes.eq(turns.o.payload.request.bytes),
            range_in.shift.eq(turns.o.payload.request.address[:2]),
            range_in.reader.eq(turns.o.payload.reader),
            range_in.number.eq(number),
            ranges.w_data.eq(range_in),
        ]
        with m.If(self.request.ready):
            m.d.sync += sent_valid.eq(0)
        with m.FSM(name="split"):
            with m.State("TakeRange"):
                m.d.comb += turns.o.ready.eq(ranges.w_rdy)
                m.d.sync += [address.eq(turns.o.payload.request.address), left.eq(turns.o.payload.request.bytes)]
                with m.If(turns.o.valid & ranges.w_rdy & (turns.o.payload.request.bytes != 0)):
                    m.d.comb += ranges.w_en.eq(1)
                    m.d.sync += number.eq(number + 1)
                    with m.Switch(number):
                        for n in range(RANGES):
                            with m.Case(n):
                                m.d.sync += range_status[n].eq(CompletionStatus.Successful)
                    m.next = "Measure"
            with m.State("Measure"):
                m.d.sync += [
                    read.address.eq(address),
                    read.take.eq(take),
                    read.dws.eq(span),
                    read.final.eq(take == left),
                    address.eq(address + take),
                    left.eq(left - take),
                ]
                m.next = "Ask"
            with m.State("Ask"):
                with m.If(tag_free & room & (~sent_valid | self.request.ready)):
                    m.d.comb += issued.eq(1)
                    m.d.sync += [
                        sent_valid.eq(1),
                        sent.eq(0),
                        sent.header.eq(header),
                        sent.first.eq(1),
                        sent.last.eq(1),
                        newest.eq(newest + 1),
                        allotted.eq(end),
                    ]
                    with m.If(newest[:tag_bits] == p.tags - 1):
                        m.d.sync += uses.eq(uses + 1)
                    m.next = "Measure"
                    with m.If(read.final):
                        m.next = "TakeRange"
        entry = Signal(tag_layout)
        m.d.comb += [
            entry.start.eq(allotted),
            entry.dws.eq(read.dws),
            entry.end.eq(end),
            entry.number.eq((number - 1)[: len(number)]),
            entry.uses.eq(Mux(self.config.extended_tag, uses, uses & ((1 << (5 - tag_bits)) - 1))),
            tag_write.addr.eq(newest[:tag_bits]),
            tag_write.data.eq(entry),
            tag_write.en.eq(issued),
        ]

        # Completions: find the tag, and where its next DWs go.
        beat = self.completion.payload
        head = CompletionHeader(beat.header)
        m.d.comb += self.completion.ready.eq(1)
        tag = Signal(tag_bits)
        m.d.comb += [
            tag.eq(head.tag[:tag_bits]),
            tag_of_completion.addr.eq(tag),
            had_read.addr.eq(tag),
        ]
        known = tag_of_completion.data
        had = Signal(8)
        m.d.comb += had.eq(Mux(touched.bit_select(tag, 1), had_read.data, 0))
        length = Cat(head.start.length, head.start.length == 0)
        expected = busy.bit_select(tag, 1) & (head.tag[tag_bits:] == known.uses) & (head.requester == self.config.id)
        trouble = Signal(CompletionStatus)
        with m.If(head.status != 0):
            m.d.comb += trouble.as_value().eq(head.status)
        with m.Elif(head.start.ep):
            m.d.comb += trouble.eq(CompletionStatus.Poisoned)
        with m.Elif((head.start.fmt != Fmt.ThreeDwData) | (length > (known.dws - had).as_unsigned()[:8])):
            m.d.comb += trouble.eq(CompletionStatus.Malformed)
        accept, storing = Signal(), Signal()
        next_place = Signal(place)
        here = Signal(place)
        ends_tag, fails_tag, dying_tag = Signal(), Signal(), Signal(tag_bits)
        new_had = (had + head.start.length)[:8]
        first_of = self.completion.valid & beat.first
        m.d.comb += [
            accept.eq(first_of & expected & (trouble == CompletionStatus.Successful)),
            fails_tag.eq(first_of & expected & (trouble != CompletionStatus.Successful)),
            here.eq(Mux(beat.first, known.start + had, next_place)),
            had_write.addr.eq(tag),
            had_write.data.eq(new_had),
            had_write.en.eq(accept),
            self.unexpected.eq(first_of & ~expected),
        ]
        more = Signal()
        m.d.comb += more.eq(self.completion.valid & (accept | (storing & ~beat.first)))
        with m.If(self.completion.valid):
            m.d.sync += [storing.eq(more & ~beat.last), next_place.eq(here + BEAT_DWS)]
        # A read is over when the last beat of its last completion is in the buffer, two cycles later.
        complete_tag, complete_now = Signal(tag_bits), Signal()
        with m.If(accept):
            m.d.sync += [complete_tag.eq(tag), complete_now.eq(new_had == known.dws)]
        m.d.comb += ends_tag.eq(more & beat.last & Mux(beat.first, new_had == known.dws, complete_now))
        m.d.comb += dying_tag.eq(Mux(beat.first, tag, complete_tag))

        # Silence of the whole host is watched, not of each read: one that is left out for good ends when the others are
        # done, since they cannot go on without it.
        silence = Signal(range(p.timeout + 1))
        expired = Signal()
        nothing_under_way = newest == oldest
        m.d.comb += self.idle.eq(nothing_under_way)
        m.d.comb += expired.eq((silence == p.timeout) & ~self.completion.valid & ~storing)
        with m.If(nothing_under_way | self.completion.valid | over.bit_select(oldest[:tag_bits], 1) | expired):
            m.d.sync += silence.eq(0)
        with m.Elif(silence != p.timeout):
            m.d.sync += silence.eq(silence + 1)
        silent = Signal()
        m.d.comb += silent.eq(expired & ~nothing_under_way & busy.bit_select(oldest[:tag_bits], 1))

        failed_status = Signal(CompletionStatus)
        failed_tag, failed_number = Signal(tag_bits), Signal(range(RANGES))
        m.d.comb += [
            failed_status.eq(Mux(silent, CompletionStatus.Timeout, trouble)),
            failed_tag.eq(Mux(silent, oldest[:tag_bits], tag)),
            failed_number.eq(Mux(silent, tag_of_oldest.data.number, known.number)),
            self.failed.eq(fails_tag | silent),
        ]
        with m.If(self.failed):
            with m.Switch(failed_number):
                for n in range(RANGES):
                    with m.Case(n):
                        with m.If(range_status[n] == CompletionStatus.Successful):
                            m.d.sync += range_status[n].eq(failed_status)

        stored = [Signal(data.StructLayout({"tag": tag_bits, "over": 1}), name=f"stored_{n}") for n in range(2)]
        m.d.sync += [
            stored[0].tag.eq(Mux(self.failed, failed_tag, dying_tag)),
            stored[0].over.eq(ends_tag | self.failed),
            stored[1].eq(stored[0]),
        ]
        for n in range(p.tags):
            with m.If((ends_tag & (dying_tag == n)) | (self.failed & (failed_tag == n))):
                m.d.sync += busy[n].eq(0)
            with m.If(accept & (tag == n)):
                m.d.sync += touched[n].eq(1)
            with m.If(stored[1].over & (stored[1].tag == n)):
                m.d.sync += over[n].eq(1)
            with m.If(issued & (newest[:tag_bits] == n)):
                m.d.sync += [busy[n].eq(1), over[n].eq(0), touched[n].eq(0)]

        # The buffer: one memory for each DW of a line, so that a beat may straddle two lines. Lane 0 is kept twice,
        # since a line that starts within a DW needs the first of the next.
        words = [beat.data.word_select(n, 32) for n in range(BEAT_DWS)]
        half = [Signal(32, name=f"half_{n}") for n in range(BEAT_DWS)]
        half_info = Signal(data.StructLayout({"place": place_bits, "count": 5, "write": 1}))
        turned = [Signal(32, name=f"turned_{n}") for n in range(BEAT_DWS)]
        turned_info = Signal.like(half_info)
        m.d.sync += [
            half_info.place.eq(here),
            half_info.count.eq(beat.count),
            half_info.write.eq(more),
            turned_info.eq(half_info),
        ]
        _rotate(m, half, words, here[2:4], 4)
        _rotate(m, turned, half, half_info.place[:2], 1)
        line_bits = place_bits - 5
        drain_line = drained[4 : 4 + line_bits]
        advance = Signal()
        out_words = []
        for lane in [*range(BEAT_DWS), BEAT_DWS]:
            source = lane % BEAT_DWS
            bank = Memory(shape=32, depth=p.lines, init=[])
            m.submodules[f"bank_{lane}"] = bank
            write, lane_read = bank.write_port(), bank.read_port()
            index = (source - turned_info.place[:4]).as_unsigned()[:4]
            wraps = source < turned_info.place[:4]
            m.d.comb += [
                write.addr.eq(turned_info.place[4 : 4 + line_bits] + wraps),
                write.data.eq(turned[source]),
                write.en.eq(turned_info.write & (index < turned_info.count)),
                lane_read.addr.eq(drain_line if lane < BEAT_DWS else drain_line + 1),
                lane_read.en.eq(advance),
            ]
            out_words.append(lane_read.data)

        # Reads that are over move the mark of what is complete, in order.
        m.d.comb += tag_of_oldest.addr.eq(oldest[:tag_bits])
        with m.If(~nothing_under_way & over.bit_select(oldest[:tag_bits], 1)):
            m.d.sync += [complete.eq(tag_of_oldest.data.end), oldest.eq(oldest + 1)]

        # Drain: one line a cycle from the buffer to the range's reader.
        current = Signal(under_way)
        draining = Signal()
        available = (complete - drained).as_unsigned()[:place_bits]
        needs_next = (current.bytes + current.shift) > 64
        can_read = Signal()
        m.d.comb += can_read.eq(draining & (available >= Mux(needs_next, BEAT_DWS + 1, BEAT_DWS)))
        final = current.bytes <= 64
        fetched = Signal(
            data.StructLayout(
                {"valid": 1, "shift": 2, "count": 7, "last": 1, "reader": range(max(p.readers, 2)),
                 "number": range(RANGES)}
            )
        )
        line = Signal(DmaLine)
        line_reader = Signal(range(max(p.readers, 2)))
        line_valid, line_taken, shaped = Signal(), Signal(), Signal()
        m.d.comb += [
            shaped.eq(fetched.valid & (~line_valid | line_taken)),
            advance.eq(can_read & (~fetched.valid | shaped)),
        ]
        with m.If(shaped):
            m.d.sync += fetched.valid.eq(0)
        with m.If(advance):
            m.d.sync += [
                fetched.valid.eq(1),
                fetched.shift.eq(current.shift),
                fetched.count.eq(Mux(final, current.bytes, 64)),
                fetched.last.eq(final),
                fetched.reader.eq(current.reader),
                fetched.number.eq(current.number),
                current.bytes.eq(current.bytes - 64),
                drained.eq(drained + Mux(final & needs_next, 2 * BEAT_DWS, BEAT_DWS)),
            ]
            with m.If(final):
                m.d.sync += draining.eq(0)
        with m.If(~draining | (advance & final)):
            m.d.comb += ranges.r_en.eq(1)
            with m.If(ranges.r_rdy):
                m.d.sync += [current.eq(range_out), draining.eq(1)]
        window = Cat(out_words)
        shifted = Signal(512)
        m.d.comb += shifted.eq(window.bit_select(fetched.shift << 3, 512))
        with m.If(line_taken):
            m.d.sync += line_valid.eq(0)
        with m.If(shaped):
            m.d.sync += [line_valid.eq(1), line.last.eq(fetched.last), line_reader.eq(fetched.reader)]
            m.d.sync += line.status.eq(Array(s.as_value() for s in range_status)[fetched.number])
            for n in range(64):
                m.d.sync += line.data.word_select(n, 8).eq(Mux(n < fetched.count, shifted[8 * n : 8 * n + 8], 0))
        for n, port in enumerate(ports):
            mine = line_reader == n
            m.d.comb += [port.line.valid.eq(line_valid & mine), port.line.payload.eq(line)]
            with m.If(mine):
                m.d.comb += line_taken.eq(port.line.ready)
            observe(m, port.line)
        observe(m, self.request)
        return m


class ReadGuard(wiring.Component):
    """Stands between a core that may be reset at any time and its :class:`DmaReadPort`.

    While ``running`` is low it takes nothing from the core and drops the lines that are still under way; requests of
    the next run pass when all of these have come.

    Members
    -------
    running : :py:`In(1)`
        The core is at work; falls when it is reset.
    core : :py:`In(DmaReadPort())`
    port : :py:`Out(DmaReadPort())`
    """

    def __init__(self):
        super().__init__({"running": In(1), "core": In(DmaReadPort()), "port": Out(DmaReadPort())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.skid = skid = Skid(DmaReadRequest)
        connect(m, skid.o, self.port.request)
        under_way = Signal(8)
        stale = Signal()
        asked, ended = Signal(), Signal()
        passing = self.running & ~stale
        m.d.comb += [
            skid.i.valid.eq(self.core.request.valid & passing),
            skid.i.payload.eq(self.core.request.payload),
            self.core.request.ready.eq(skid.i.ready & passing),
            self.core.line.valid.eq(self.port.line.valid & passing),
            self.core.line.payload.eq(self.port.line.payload),
            self.port.line.ready.eq(~passing | self.core.line.ready),
            asked.eq(skid.i.valid & skid.i.ready & (skid.i.payload.bytes != 0)),
            ended.eq(self.port.line.valid & self.port.line.ready & self.port.line.payload.last),
        ]
        m.d.sync += under_way.eq(under_way + asked - ended)
        with m.If(~self.running):
            m.d.sync += stale.eq((under_way - ended) != 0)
        with m.Elif(ended & (under_way == 1)):
            m.d.sync += stale.eq(0)
        return m
