"""From packets to stripes."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.packet import BLOCK_WORDS, FILL, LINE_WORDS, PART_WORDS_MAX, CheckedPart, stripe

__all__ = ["UNALIGNED", "Packer"]

UNALIGNED = 16
"""Packets in a row that may begin within a block: a receiver that lost its way begins again where a block does."""


class Packer(wiring.Component):
    """Packs the words of packets into stripes, without gaps.

    A stripe can be taken each cycle. It is

    - full of words, when there are enough; or
    - the last words, and ``FILL``, when they end a packet and no part comes, or the last :data:`UNALIGNED` packets all
      began within a block; or
    - nothing but ``FILL``, also when words of an unfinished packet wait, or when a part comes that may complete it.

    So no more than one stripe is partly filled for each cycle without a part. At full supply of packets of four lines
    there is no filling at all on one and two lanes. On four, parts bring half of what a stripe holds, and every other
    one is nothing but filling: what is lost is not the wires' but the parts', of which there is one per cycle.

    In a cycle in which a stripe is taken, a part is, unless the words of two stripes are held, or of three on one lane,
    where a short part behind a long one would else leave a stripe unfilled. Its first words can be in the next stripe.
    Nothing moves while no stripe is taken.

    Parameters
    ----------
    lanes : int
        1, 2 or 4.

    Members
    -------
    used : :py:`In(range(lanes + 1))`
        1, 2 or 4: lanes in use of what is offered in the next cycle. A packet may begin on some and end on others.
        0 leaves it as it is.
    i : :py:`In(stream.Signature(CheckedPart))`
        Packets, each without a part of another one in between.
    o : :py:`Out(stream.Signature(stripe(lanes)))`
        Always valid. It stays the same until it is taken, or ``used`` changes. What the blocks of lanes not in use hold
        means nothing.
    """

    def __init__(self, lanes):
        shape = stripe(lanes)
        self.lanes = lanes
        super().__init__(
            {
                "used": In(range(lanes + 1)),
                "i": In(stream.Signature(CheckedPart)),
                "o": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        part, stripes = self.i.payload.part, range(self.lanes.bit_length())
        # Blocks that stay when one stripe of those held is taken, and behind them a part.
        stay_blocks = 2 if self.lanes == 1 else self.lanes
        held_words = BLOCK_WORDS * (stay_blocks // self.lanes + 1)
        most = BLOCK_WORDS * stay_blocks - 1 + PART_WORDS_MAX
        words = Signal(data.ArrayLayout(32, most))
        # A block behind those that stay has no packet's first word in front.
        starts = Signal(stay_blocks)
        count = Signal(range(most + 1))
        ended = Signal(init=1)
        used = Signal(self.lanes.bit_length(), init=1) if self.lanes > 1 else C(1, 1)

        if self.lanes > 1:
            with m.If(self.used.any()):
                m.d.sync += used.eq(self.used)

        # While a stripe is offered it does not become another one, though a part may come.
        held, was_quiet, quiet = Signal(), Signal(), Signal()
        m.d.comb += quiet.eq(Mux(held, was_quiet, ~self.i.valid))
        m.d.sync += [held.eq(~self.o.ready), was_quiet.eq(quiet)]
        unaligned, due = Signal(range(UNALIGNED + 1)), Signal()

        full, pad, room = Signal(), Signal(), Signal()
        m.d.comb += [
            full.eq(Cat(used[n] & (count >= BLOCK_WORDS << n) for n in stripes).any()),
            room.eq(Cat(used[n] & (count < held_words << n) for n in stripes).any()),
            due.eq(ended & (unaligned == UNALIGNED)),
            pad.eq(~full & (ended & quiet | due)),
            self.o.valid.eq(1),
            # A receiver takes as long for filling as for a part: none comes with it.
            self.i.ready.eq(self.o.ready & room & ~due),
        ]
        shown = full | pad
        for n in range(self.lanes):
            block = self.o.payload[n]
            m.d.comb += block.start.eq(Mux(shown & (count > BLOCK_WORDS * n), starts[n], 1))
            for k in range(BLOCK_WORDS):
                place = BLOCK_WORDS * n + k
                m.d.comb += block.words[k].eq(Mux(shown & (count > place), words[place], FILL))

        # What comes, from its first word on.
        tail = Cat(Mux(part.has_line, part.line[:32], self.i.payload.crc), part.line[32:], self.i.payload.crc)
        head, body = Value.cast(part.head), part.body
        come = Signal(32 * PART_WORDS_MAX)
        come_count = Signal(range(PART_WORDS_MAX + 1))
        m.d.comb += [
            come.eq(Mux(part.first, Mux(part.has_body, Cat(head, body, tail), Cat(head, tail)), tail)),
            come_count.eq(Mux(part.first, 2 + part.has_body, 0) + part.last + part.has_line * LINE_WORDS),
        ]

        # What stays, to the front, and what comes behind it.
        stay, stay_starts, stay_count = Signal.like(words), Signal.like(starts), Signal.like(count)
        m.d.comb += [stay.eq(words), stay_starts.eq(starts), stay_count.eq(Mux(pad, 0, count))]
        with m.If(full):
            with m.Switch(used):
                for n in stripes:
                    with m.Case(1 << n):
                        m.d.comb += [
                            stay.eq(Value.cast(words) >> (32 * BLOCK_WORDS << n)),
                            stay_starts.eq(starts >> (1 << n)),
                            stay_count.eq(count - (BLOCK_WORDS << n)),
                        ]
        placed = come
        for n in range((BLOCK_WORDS * stay_blocks - 1).bit_length()):
            before, placed = placed, Signal(len(placed) + (32 << n), name=f"placed{n}")
            m.d.comb += placed.eq(Mux(stay_count[n], Cat(C(0, 32 << n), before), before))
        with m.If(self.o.ready):
            m.d.sync += count.eq(stay_count)
            for place in range(most):
                kept = stay_count > place
                m.d.sync += words[place].eq(Mux(kept, stay[place], placed.word_select(place, 32)))
            for n in range(stay_blocks):
                place = BLOCK_WORDS * n
                begins = part.first & (stay_count == place)
                m.d.sync += starts[n].eq(Mux(stay_count > place, stay_starts[n], begins))
        with m.If(pad & self.o.ready):
            m.d.sync += unaligned.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [count.eq(stay_count + come_count), ended.eq(part.last)]
            with m.If(part.first):
                aligned = stay_count % BLOCK_WORDS == 0
                m.d.sync += unaligned.eq(Mux(aligned, 0, Mux(unaligned == UNALIGNED, UNALIGNED, unaligned + 1)))
        return m
