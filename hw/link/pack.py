"""From packets to stripes."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.packet import BLOCK_WORDS, FILL, PART_WORDS_MAX, PartWords, stripe

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
    i : :py:`In(stream.Signature(PartWords))`
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
                "i": In(stream.Signature(PartWords)),
                "o": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        part, stripes = self.i.payload, range(self.lanes.bit_length())
        # Blocks that stay when one stripe of those held is taken, and behind them a part.
        stay_blocks = 2 if self.lanes == 1 else self.lanes
        held_blocks = stay_blocks // self.lanes + 1
        most = BLOCK_WORDS * stay_blocks - 1 + PART_WORDS_MAX
        size = -(-most // BLOCK_WORDS)
        # Those of column 0 with the block's start.
        rows = [
            [Signal(32 + (k == 0), name=f"word{n}_{k}", reset_less=True) for k in range(BLOCK_WORDS)]
            for n in range(size)
        ]
        # Of the words held: whole blocks, and words behind these.
        blocks, rest = Signal(range(size)), Signal(range(BLOCK_WORDS))
        ended, unaligned = Signal(init=1), Signal(range(UNALIGNED + 1))
        used, next_used = C(1, 1), C(1, 1)
        if self.lanes > 1:
            used, next_used = (Signal(self.lanes.bit_length(), init=1, name=name) for name in ("used", "next_used"))
            m.d.comb += next_used.eq(Mux(self.used.any(), self.used, used))
            m.d.sync += used.eq(next_used)

        # Whether a stripe is full, or filled up for sure, or if no part comes; and whether a part can come.
        full, padded, ending, open_ = Signal(), Signal(), Signal(init=1), Signal(init=1)
        pad, shown, taken = Signal(), Signal(), Signal()
        m.d.comb += [
            pad.eq(padded | (ending & ~self.i.valid)),
            shown.eq(full | pad),
            taken.eq(self.i.valid & open_),
            self.o.valid.eq(1),
            self.i.ready.eq(self.o.ready & open_),
        ]

        # What stays where a part comes.
        stay, behind = Signal.like(blocks), Signal.like(rest)
        next_blocks, next_rest = Signal.like(blocks), Signal.like(rest)
        next_ended, next_unaligned = Signal.like(ended), Signal.like(unaligned)
        m.d.comb += [
            Cat(next_rest, next_blocks).eq(Cat(rest, blocks)),
            next_ended.eq(ended),
            next_unaligned.eq(unaligned),
        ]
        with m.If(self.o.ready & taken):
            words = behind + Mux(ended, 2 + part.has_body, 0) + part.last
            m.d.comb += [
                next_rest.eq(words),
                next_blocks.eq(stay + Cat(words[3], part.has_line)),
                next_ended.eq(part.last),
            ]
        with m.Elif(self.o.ready):
            m.d.comb += [next_rest.eq(Mux(pad, 0, rest)), next_blocks.eq(Mux(full, blocks - used, Mux(pad, 0, blocks)))]
        with m.If(self.o.ready & taken & ended):
            most_unaligned = unaligned == UNALIGNED
            m.d.comb += next_unaligned.eq(Mux(behind == 0, 0, Mux(most_unaligned, UNALIGNED, unaligned + 1)))
        with m.Elif(self.o.ready & pad):
            m.d.comb += next_unaligned.eq(0)
        m.d.sync += [
            Cat(rest, blocks).eq(Cat(next_rest, next_blocks)),
            ended.eq(next_ended),
            unaligned.eq(next_unaligned),
        ]

        # While a stripe is offered it does not become another one, though a part may come.
        held, was_quiet, quiet = Signal(), Signal(), Signal()
        due, next_full, next_padded = Signal(), Signal(), Signal()
        next_stay, next_behind = Signal.like(stay), Signal.like(behind)
        m.d.comb += [
            quiet.eq(Mux(held, was_quiet, ~self.i.valid)),
            due.eq(next_ended & (next_unaligned == UNALIGNED)),
            next_full.eq(Cat(next_used[n] & (next_blocks >= 1 << n) for n in stripes).any()),
            next_padded.eq(ended & quiet & ~self.o.ready & ~next_full),
            next_behind.eq(Mux(next_padded, 0, next_rest)),
            next_stay.eq(Mux(next_padded, 0, next_blocks - Mux(next_full, next_used, 0))),
        ]
        room = Cat(next_used[n] & (next_blocks < held_blocks << n) for n in stripes).any()
        m.d.sync += [
            held.eq(~self.o.ready),
            was_quiet.eq(quiet),
            full.eq(next_full),
            padded.eq(next_padded | (due & ~next_full)),
            ending.eq(next_ended & self.o.ready & ~next_full),
            # A receiver takes as long for filling as for a part: none comes with it.
            open_.eq(room & ~due),
            stay.eq(next_stay),
            behind.eq(next_behind),
        ]

        for n in range(self.lanes):
            block = self.o.payload[n]
            for k, word in enumerate(rows[n]):
                within = Signal(name=f"within{n}_{k}")
                m.d.sync += within.eq(next_full | (next_blocks > n) | ((next_blocks == n) & (next_rest > k)))
                m.d.comb += block.words[k].eq(Mux(shown & within, word[:32], FILL))
                if k == 0:
                    m.d.comb += block.start.eq(Mux(shown & within, word[32], 1))

        # Each column is a queue of words: those that come go behind those that stay.
        for k, new in enumerate(self._columns(m, ended, behind)):
            old = [words[k] for words in rows]
            # Where a part comes no more than `stay_blocks` stay.
            stays, next_stays = Signal(range(stay_blocks + 2), name=f"stays{k}"), next_stay + (next_behind > k)
            m.d.sync += stays.eq(Mux(next_stays > stay_blocks, stay_blocks + 1, next_stays))
            for n, word in enumerate(old):
                moved = _pick(used[1:], [old[n + (1 << j)] if n + (1 << j) < size else None for j in stripes])
                come = [new[n - at] if n - at < len(new) else None for at in range(min(n, stay_blocks) + 1)]
                keeps = ~full & (stays > n) if n < self.lanes else C(0)
                with m.If(self.o.ready & ~keeps):
                    m.d.sync += word.eq(_pick(stays, [*come, *[moved] * (stay_blocks + 2 - len(come))]))

        return m

    def _columns(self, m, first, turn):
        """The words of the part that comes, by columns, if its first one is in column ``turn``: three of each."""
        rows = []
        for at in range(0, PART_WORDS_MAX, BLOCK_WORDS):
            words = [self.i.payload.words[n] for n in range(at, min(at + BLOCK_WORDS, PART_WORDS_MAX))]
            size = len(words)
            for n in range((size - 1).bit_length()):
                turned = [Signal(32, name=f"turned{at}_{n}_{k}") for k in range(size)]
                m.d.comb += [turned[k].eq(Mux(turn[n], words[(k - (1 << n)) % size], words[k])) for k in range(size)]
                words = turned
            # Behind the part's last word any may be.
            rows.append([words[k % size] for k in range(BLOCK_WORDS)])
        columns = [list(column) for column in zip(*rows)]
        columns[0] = [Cat(word, first & (turn == 0) if n == 0 else 0) for n, word in enumerate(columns[0])]
        return columns


def _pick(select, choices):
    """``choices[select]``, or anything where that is None."""
    if len(choices) == 1:
        return choices[0]
    pairs = zip(choices[::2], [*choices[1::2], None][: (len(choices) + 1) // 2])
    return _pick(select[1:], [_either(select[0], *pair) for pair in pairs])


def _either(second, a, b):
    if a is None or b is None or a is b:
        return b if a is None else a
    return Mux(second, b, a)
