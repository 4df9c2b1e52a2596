"""From stripes to packets."""

from functools import reduce
from operator import or_

from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.packet import BLOCK_WORDS, LINE_WORDS, LINES_MAX, PART_WORDS_MAX, CheckedPart, decode_form, stripe

__all__ = ["Unpacker"]

_SPAN = -(-(PART_WORDS_MAX + BLOCK_WORDS - 1) // BLOCK_WORDS)
"""Blocks in which a part lies at the most."""
_QUEUE = 16
"""Stripes that may wait; no order of packets is known by which more than 6 do."""


class Unpacker(wiring.Component):
    """Takes packets out of stripes.

    Where one packet ends the next one begins: the forms make a chain. Where it may be wrong it is begun anew:

    - A bad form ends it. It begins again with the next block that has ``start``.
    - A part is contradicted by a ``start`` at a word of it that is not its packet's first, and by the lack of one at
      that word. The second part that is, without a packet or filling in between whose first word had ``start``, is the
      last one of the chain. It begins again with the block that holds the word behind that part, or the next one, that
      has ``start``.

    A packet that is broken off so has no ``last``; the next part has ``first``. What is wrong in a packet's words shows
    in its CRC alone: also a packet with a wrong CRC comes whole, and may be of any form.

    One part per cycle; a part comes three cycles after its last stripe was taken, or four on more than one lane, unless
    another one is before it. A stripe can be taken each cycle, for ever, if :class:`Packer` made them and ``o`` is not
    stalled.

    Parameters
    ----------
    lanes : int
        1, 2 or 4.

    Members
    -------
    used : :py:`In(range(lanes + 1))`
        1, 2 or 4: lanes in use of the stripe that is offered.
    i : :py:`In(stream.Signature(stripe(lanes)))`
    o : :py:`Out(stream.Signature(CheckedPart))`
        ``crc`` is as received.
    """

    def __init__(self, lanes):
        shape = stripe(lanes)
        self.lanes = lanes
        # Where a packet would go on that began with a word.
        self._start = data.StructLayout(
            {
                "bad": 1,
                "fill": 1,
                "body": 1,
                "has_line": 1,
                "last": 1,
                # Parts after the first.
                "more": range(LINES_MAX),
                # Blocks in which the first part lies, less one, and words from their first to what comes after it.
                "spans": 2,
                "end": (max(PART_WORDS_MAX, BLOCK_WORDS * (lanes - 1)) + BLOCK_WORDS).bit_length(),
            }
        )
        super().__init__(
            {
                "used": In(range(lanes + 1)),
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(CheckedPart)),
            }
        )

    def _started(self, m, form, place, behind):
        """The packet, or filling, that would begin with the word in this place of a block.

        ``behind`` is how many blocks of the stripe are behind this one.
        """
        started = Signal(self._start)
        m.d.comb += [started.bad.eq(form.bad), started.fill.eq(form.fill), started.body.eq(form.body)]
        with m.If(form.bad | form.fill):
            # A bad form ends its block, filling its stripe.
            blocks = Mux(form.bad, 0, behind)
            m.d.comb += [started.last.eq(1), started.spans.eq(blocks), started.end.eq((blocks + 1) * BLOCK_WORDS)]
        with m.Else(), m.Switch(form.lines):
            for lines in range(LINES_MAX + 1):
                ends = [place + 2 + body + LINE_WORDS * (lines > 0) + (lines < 2) for body in range(2)]
                spans = [(end - 1) // BLOCK_WORDS for end in ends]
                with m.Case(lines):
                    m.d.comb += [
                        started.has_line.eq(lines > 0),
                        started.last.eq(lines < 2),
                        started.more.eq(max(lines - 1, 0)),
                        started.spans.eq(Mux(form.body, spans[1], spans[0])),
                        started.end.eq(Mux(form.body, ends[1], ends[0])),
                    ]
        return started

    def elaborate(self, platform):
        m = Module()
        row = data.StructLayout(
            {
                "start": 1,
                "words": data.ArrayLayout(32, BLOCK_WORDS),
                "started": data.ArrayLayout(self._start, BLOCK_WORDS),
            }
        )
        come = [Signal(row, name=f"come{n}") for n in range(self.lanes)]
        come_valid, come_used, come_ready = Signal(), Signal.like(self.used), Signal()

        filling = self.i.payload[0].start & decode_form(m, self.i.payload[0].words[0][:10]).fill
        wanted, next_ready = self.i.valid & ~filling, ~come_valid | come_ready
        next_valid, next_blocks, next_used = wanted, self.i.payload, C(1, 1)
        if self.lanes == 1:
            # None ever has to wait.
            m.d.comb += self.i.ready.eq(next_ready)
        else:
            layout = data.StructLayout({"blocks": self.i.payload.shape(), "used": self.used.shape()})
            m.submodules.queue = queue = fifo.SyncFIFO(width=layout.size, depth=_QUEUE)
            m.d.comb += [
                self.i.ready.eq(queue.w_rdy),
                queue.w_en.eq(wanted),
                queue.w_data.eq(Cat(self.i.payload, self.used)),
                queue.r_en.eq(next_ready),
            ]
            oldest = data.View(layout, queue.r_data)
            next_valid, next_blocks, next_used = queue.r_rdy, oldest.blocks, oldest.used
        with m.If(next_ready):
            m.d.sync += [come_valid.eq(next_valid), come_used.eq(next_used)]
            for n, new in enumerate(come):
                m.d.sync += [new.start.eq(next_blocks[n].start), new.words.eq(next_blocks[n].words)]
                for place in range(BLOCK_WORDS):
                    form = decode_form(m, next_blocks[n].words[place][:10])
                    behind = (next_used - 1 - n)[:2] if self.lanes > 1 else 0
                    m.d.sync += new.started[place].eq(self._started(m, form, place, behind))

        # Blocks, the oldest first, and behind them those that come: as many as it takes that parts need not wait.
        size = _SPAN - 1 + min(self.lanes, 2) + self.lanes
        rows = [Signal(row, name=f"row{n}") for n in range(size)]
        held, drop = Signal(range(size + 1)), Signal(range(max(_SPAN, self.lanes + 1)))
        m.d.comb += come_ready.eq(held <= size - self.lanes)
        turned = [Signal(row, name=f"turned{n}") for n in range(self.lanes)]
        with m.Switch(held[: self.lanes.bit_length() - 1]):
            for n in range(self.lanes):
                with m.Case(n):
                    m.d.comb += [turned[(n + k) % self.lanes].eq(come[k]) for k in range(self.lanes)]
        ahead = [Signal(row, name=f"ahead{n}") for n in range(size)]
        for n in range(size):
            m.d.comb += ahead[n].eq(Mux(held > n, Value.cast(rows[n]), Value.cast(turned[n % self.lanes])))
            m.d.sync += rows[n].eq(ahead[n])
            with m.Switch(drop):
                for k in range(1, min(size - n, max(_SPAN, self.lanes + 1))):
                    with m.Case(k):
                        m.d.sync += rows[n].eq(ahead[n + k])
        total = Signal.like(held)
        m.d.comb += total.eq(held + Mux(come_valid & come_ready, come_used, 0))
        m.d.sync += held.eq(total)
        with m.Switch(drop):
            for k in range(1, max(_SPAN, self.lanes + 1)):
                with m.Case(k):
                    m.d.sync += held.eq(total - k)

        # The chain: where the next part is in the oldest block, and how many are left of a packet begun. Its bit of
        # ``starts`` is set if a packet begins there, none if one goes on or the chain is lost.
        lost, doubted = Signal(init=1), Signal()
        starts, place, left = Signal(BLOCK_WORDS), Signal(range(BLOCK_WORDS)), Signal(range(LINES_MAX))
        first, goes_on, next_lost = Signal(), Signal(self._start), Signal()
        m.d.comb += first.eq(left == 0)
        with m.If(lost):
            m.d.comb += [goes_on.fill.eq(1), goes_on.last.eq(1), goes_on.end[3].eq(~rows[0].start)]
        with m.Elif(~first):
            m.d.comb += [
                goes_on.has_line.eq(1),
                goes_on.last.eq(left == 1),
                goes_on.more.eq(left - 1),
                goes_on.spans.eq(Mux((place == 0) & ~goes_on.last, 1, 2)),
                goes_on.end.eq(place + LINE_WORDS + goes_on.last),
            ]
        next_part = Signal(self._start)
        choices = (Mux(starts[n], rows[0].started[n].as_value(), 0) for n in range(BLOCK_WORDS))
        m.d.comb += next_part.eq(reduce(or_, choices, goes_on.as_value()))

        within = Cat(rows[n].start & (next_part.spans >= n) for n in range(1, _SPAN)).any()
        if self.lanes > 1:
            # What a stripe holds behind FILL says nothing.
            within &= ~next_part.fill
        begins, contradicted, free, step = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            begins.eq(starts[0] & rows[0].start),
            contradicted.eq((starts[0] & ~rows[0].start) | (~first & (place == 0) & rows[0].start) | within),
            next_lost.eq(Mux(lost, ~rows[0].start, next_part.bad | (contradicted & doubted & ~begins))),
            free.eq(~self.o.valid | self.o.ready),
            step.eq(free & Cat(held > n for n in range(_SPAN)).bit_select(next_part.spans, 1)),
            drop.eq(Mux(step, next_part.end[3:], 0)),
        ]
        with m.If(step):
            m.d.sync += [
                lost.eq(next_lost),
                doubted.eq(contradicted | (doubted & ~begins)),
                place.eq(next_part.end[:3]),
                left.eq(Mux(next_lost, 0, next_part.more)),
                *(starts[n].eq((next_part.end[:3] == n) & next_part.last & ~next_lost) for n in range(BLOCK_WORDS)),
            ]

        words = Cat(Value.cast(one.words) for one in rows[:_SPAN])
        for n in reversed(range(3)):
            before, words = words, Signal(32 * (PART_WORDS_MAX + (1 << n) - 1), name=f"words{n}")
            m.d.comb += words.eq(Mux(place[n], before[32 << n :], before))
        word = [words[32 * n : 32 * n + 32] for n in range(PART_WORDS_MAX)]
        of_head = Mux(next_part.body, Cat(word[3:]), Cat(word[2:]))
        rest = Signal(32 * (LINE_WORDS + 1))
        m.d.comb += rest.eq(Mux(first, of_head, words))
        part = self.o.payload.part
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(step & ~next_part.fill & ~next_part.bad),
                part.first.eq(first),
                part.last.eq(next_part.last),
                part.has_body.eq(next_part.body),
                part.has_line.eq(next_part.has_line),
                part.head.eq(words[:64]),
                part.body.eq(word[2]),
                part.line.eq(rest[:512]),
                self.o.payload.crc.eq(Mux(next_part.has_line, rest[512:], rest[:32])),
            ]
        return m
