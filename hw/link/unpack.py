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
_SLICES = 4
"""Parts of a word's bits, which are treated alike."""


def _found(rows):
    return data.StructLayout(
        {
            # Of each column, the row of the part's first word.
            "columns": data.ArrayLayout(rows, BLOCK_WORDS),
            "place": range(BLOCK_WORDS),
            "first": 1,
            "last": 1,
            "body": 1,
            "has_line": 1,
        }
    )


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
        # A ring of blocks: as many as it takes that parts need not wait. Rows are chosen by bits that are known when a
        # cycle begins, and what is in them never moves.
        size = -(-(_SPAN - 1 + min(self.lanes, 2) + 2 * self.lanes) // self.lanes) * self.lanes
        rows = [Signal(row, name=f"row{n}", reset_less=True) for n in range(size)]
        room = Signal(init=1)
        came, used = self._write(m, rows, room)

        # The chain: in which row the next part begins, where in it, and how many are left of a packet begun. Its bit of
        # ``starts`` is set if a packet begins there, none if one goes on or the chain is lost.
        at, place, left = Signal(size, init=1), Signal(range(BLOCK_WORDS)), Signal(range(LINES_MAX))
        starts, lost, doubted = Signal(BLOCK_WORDS), Signal(init=1), Signal()
        start = [_chosen(at, [rows[(n + k) % size].start for n in range(size)]) for k in range(_SPAN)]
        first, goes_on, next_lost = Signal(), Signal(self._start), Signal()
        m.d.comb += first.eq(left == 0)
        with m.If(lost):
            m.d.comb += [goes_on.fill.eq(1), goes_on.last.eq(1), goes_on.end[3].eq(~start[0])]
        with m.Elif(~first):
            m.d.comb += [
                goes_on.has_line.eq(1),
                goes_on.last.eq(left == 1),
                goes_on.more.eq(left - 1),
                goes_on.spans.eq(Mux((place == 0) & ~goes_on.last, 1, 2)),
                goes_on.end.eq(place + LINE_WORDS + goes_on.last),
            ]
        next_part = Signal(self._start)
        begun = [_chosen(starts, [one.started[n].as_value() for n in range(BLOCK_WORDS)]) for one in rows]
        m.d.comb += next_part.eq(_chosen(at, begun) | goes_on.as_value())

        within = Cat(start[n] & (next_part.spans >= n) for n in range(1, _SPAN)).any()
        if self.lanes > 1:
            # What a stripe holds behind FILL says nothing.
            within &= ~next_part.fill
        # Blocks from the chain's on: bit n, if there are more than n.
        there = Signal(size)
        begins, contradicted, free, step = Signal(), Signal(), Signal(), Signal()
        found_free = Signal()
        m.d.comb += [
            begins.eq(starts[0] & start[0]),
            contradicted.eq((starts[0] & ~start[0]) | (~first & (place == 0) & start[0]) | within),
            next_lost.eq(Mux(lost, ~start[0], next_part.bad | (contradicted & doubted & ~begins))),
            step.eq(found_free & there[:_SPAN].bit_select(next_part.spans, 1)),
        ]
        drop = next_part.end[3:]
        with m.If(step):
            m.d.sync += [
                lost.eq(next_lost),
                doubted.eq(contradicted | (doubted & ~begins)),
                place.eq(next_part.end[:3]),
                left.eq(Mux(next_lost, 0, next_part.more)),
                *(starts[n].eq((next_part.end[:3] == n) & next_part.last & ~next_lost) for n in range(BLOCK_WORDS)),
            ]
        total = Signal(size)
        m.d.comb += total.eq(there)
        with m.If(came), m.Switch(used):
            for n in range(self.lanes.bit_length()):
                with m.Case(1 << n):
                    m.d.comb += total.eq(Cat(C(-1, 1 << n), there))
        m.d.sync += there.eq(total)
        with m.If(step), m.Switch(drop):
            for k in range(max(_SPAN, self.lanes + 1)):
                with m.Case(k):
                    m.d.sync += [at.eq(at.rotate_left(k)), there.eq(total >> k)]

        # What was found is given a cycle later: so nothing that is decided here drives words. Each slice of the words'
        # bits has a copy of what says how, and so can lie apart. They begin differently, or equal registers become one.
        found_valid, found_drop = Signal(), Signal.like(drop)
        layout = _found(size)
        found, copies = Signal(layout), []
        for n in range(_SLICES):
            raw = Signal(layout.size, name=f"found{n}", init=-(n % 2) % (1 << layout.size), reset_less=n > 1)
            copies.append(data.View(layout, raw))
        m.d.comb += [
            *(column.eq(Mux(place > n, at.rotate_left(1), at)) for n, column in enumerate(found.columns)),
            found.place.eq(place),
            found.first.eq(first),
            found.last.eq(next_part.last),
            found.body.eq(next_part.body),
            found.has_line.eq(next_part.has_line),
            free.eq(~self.o.valid | self.o.ready),
            found_free.eq(free | ~found_valid),
        ]
        with m.If(found_free):
            m.d.sync += [found_valid.eq(step & ~next_part.fill & ~next_part.bad), found_drop.eq(Mux(step, drop, 0))]
            m.d.sync += [copy.eq(found) for copy in copies]
        held, next_held = Signal(range(size + 1)), Signal(range(size + 1))
        m.d.comb += next_held.eq(held + Mux(came, used, 0) - Mux(found_free, found_drop, 0))
        m.d.sync += [held.eq(next_held), room.eq(next_held <= size - self.lanes)]
        given = Signal(CheckedPart, reset_less=True)
        part = given.part
        m.d.comb += self.o.payload.eq(given)
        words, crc = zip(*(self._slice(m, rows, copy, n) for n, copy in enumerate(copies)))
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(found_valid),
                part.first.eq(copies[0].first),
                part.last.eq(copies[0].last),
                part.has_body.eq(copies[0].body),
                part.has_line.eq(copies[0].has_line),
                Cat(part.head, part.body, part.line).eq(Cat(*(Cat(word) for word in zip(*words)))),
                given.crc.eq(Cat(crc)),
            ]
        return m

    def _write(self, m, rows, room):
        """Takes stripes into ``rows``, if there is ``room`` for one; whether one came, and its blocks."""
        filling = self.i.payload[0].start & decode_form(m, self.i.payload[0].words[0][:10]).fill
        wanted = self.i.valid & ~filling
        valid, blocks, used = wanted, self.i.payload, C(1, 1)
        if self.lanes == 1:
            # None ever has to wait.
            m.d.comb += self.i.ready.eq(room)
        else:
            layout = data.StructLayout({"blocks": self.i.payload.shape(), "used": self.used.shape()})
            m.submodules.queue = queue = fifo.SyncFIFO(width=layout.size, depth=_QUEUE)
            m.d.comb += [
                self.i.ready.eq(queue.w_rdy),
                queue.w_en.eq(wanted),
                queue.w_data.eq(Cat(self.i.payload, self.used)),
                queue.r_en.eq(room),
            ]
            oldest = data.View(layout, queue.r_data)
            valid, blocks, used = queue.r_rdy, oldest.blocks, oldest.used

        size, came = len(rows), Signal()
        m.d.comb += came.eq(valid & room)
        to = Signal(size, init=1)
        with m.If(came), m.Switch(used):
            for n in range(self.lanes.bit_length()):
                with m.Case(1 << n):
                    m.d.sync += to.eq(to.rotate_left(1 << n))
        new = [Signal.like(rows[0], name=f"new{n}") for n in range(self.lanes)]
        for n, one in enumerate(new):
            m.d.comb += [one.start.eq(blocks[n].start), one.words.eq(blocks[n].words)]
            for place in range(BLOCK_WORDS):
                form = decode_form(m, blocks[n].words[place][:10])
                behind = (used - 1 - n)[:2] if self.lanes > 1 else 0
                m.d.comb += one.started[place].eq(self._started(m, form, place, behind))
        phase = Cat(to[n :: self.lanes].any() for n in range(self.lanes)) if self.lanes > 1 else C(1, 1)
        turned = [
            _chosen(phase, [new[(n - k) % self.lanes].as_value() for k in range(self.lanes)]) for n in range(self.lanes)
        ]
        for n, one in enumerate(rows):
            # Where none came, what is written means nothing.
            with m.If(room & Cat(to[(n - k) % size] for k in range(self.lanes)).any()):
                m.d.sync += one.eq(turned[n % self.lanes])
        return came, used

    def _slice(self, m, rows, found, number):
        """Of the part that was found, a slice of the bits of head, body and line, by words, and of the CRC."""
        bits = slice(32 // _SLICES * number, 32 // _SLICES * (number + 1))
        words = []
        for k in range(_SPAN - 1):
            # In each column the part's first word is in a row of its own; those behind it are in the next rows.
            line = []
            for n, column in enumerate(found.columns):
                line.append(Signal(32 // _SLICES, name=f"word{number}_{k}_{n}"))
                in_column = [rows[(at + k) % len(rows)].words[n][bits] for at in range(len(rows))]
                m.d.comb += line[n].eq(_chosen(column, in_column))
            for n, turn in enumerate(found.place):
                before, line = line, [Signal.like(word, name=f"turned{number}_{k}_{n}") for word in line]
                for place, word in enumerate(line):
                    m.d.comb += word.eq(Mux(turn, before[(place + (1 << n)) % BLOCK_WORDS], before[place]))
            words += line
        tail = [Mux(found.first, Mux(found.body, words[n + 3], words[n + 2]), words[n]) for n in range(LINE_WORDS + 1)]
        return words[:3] + tail[:-1], Mux(found.has_line, tail[-1], tail[0])


def _chosen(select, choices):
    """That of ``choices`` whose bit is set in ``select``; 0 if none is."""
    return reduce(or_, (Mux(bit, choice, 0) for bit, choice in zip(select, choices, strict=True)))
