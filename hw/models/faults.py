"""Faults at chosen places of what a link sends, for simulation."""

from functools import reduce
from operator import or_

from amaranth.hdl import *
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.block import BLOCK_BITS, Block, read_marker
from tessera.hw.link.packet import BLOCK_WORDS, FILL, LINE_WORDS, LINES_MAX, Kind
from tessera.hw.link.scramble import Scrambler
from tessera.hw.models.wire import Noise

__all__ = ["LATENCY", "FaultKind", "Faults"]

LATENCY = 3
"""Cycles from a block's coming to its leaving."""
_BURST_MAX = 64
_GRID = -(-BLOCK_BITS // 32)
"""Pieces of 32 bits that a block is cut into, from its first bit on the wire."""


class FaultKind(enum.Enum, shape=4):
    """Where a fault is put, and what it is: one to three wrong bits of one word, unless another thing is said."""

    Form = 0
    """Bits 0 to 9 of a packet's first word."""
    Head = 1
    """The other bits of its first two words, of a packet that is no ``Status``."""
    Status = 2
    """Head or body of a ``Status``."""
    Body = 3
    """The body of another packet."""
    Line = 4
    """A word of a line."""
    Crc = 5
    """The CRC of any packet."""
    Start = 6
    """The ``start`` of a block, unless it is behind ``FILL`` in its stripe."""
    Fill = 7
    """Bits 0 to 9 of ``FILL``."""
    Edge = 8
    """A burst from a packet's last word into what is behind it in the same block: up to 64 bits, of which the first and
    the last are wrong, and any in between."""
    Burst = 9
    """The same, of 2 to 64 bits, at any place of a block."""
    Marker = 10
    """One to three bits of the words of one lane's marker."""
    Block = 11
    """A whole block is noise."""
    Lane = 12
    """A lane is noise for 1 to ``lane_cycles`` blocks."""
    Cut = 13
    """All lanes are noise, for 1 to ``cut_cycles`` blocks."""


class _Words(data.Struct):
    """What has to be known of a block to follow its packets."""

    start: 1
    fill: BLOCK_WORDS
    """Of each word: as the first of a packet it would be ``FILL``."""
    lines: data.ArrayLayout(4, BLOCK_WORDS)
    body: BLOCK_WORDS
    status: BLOCK_WORDS


class _Place(data.Struct):
    """Of a word, that it is this and no other; nothing where it means nothing."""

    first: 1
    """Of a packet."""
    second: 1
    body: 1
    line: 1
    crc: 1
    fill: 1
    status: 1
    """Its packet is a ``Status``."""
    block: 1
    """It is the first of a block that is not behind ``FILL``."""


class _Chain(data.Struct):
    """What comes next."""

    left: range(3 + LINES_MAX * LINE_WORDS + 1)
    """Words of the packet that has begun."""
    second: 1
    """The next one is the second of the head."""
    body: 1
    """The body is still to come."""
    status: 1
    lost: 1
    """Nothing is known until a block has ``start``."""


class Faults(wiring.Component):
    """Puts faults into one direction of a link where they hurt most: forms, acknowledgements, edges of packets.

    Stands between a sender's ``lanes_o`` and the wires, where all lanes are in step and nothing is wrong yet. Follows
    the packets by what passes alone, from the first marker on. Blocks leave :data:`LATENCY` cycles after they came.

    In each cycle, unless a ``Lane`` or ``Cut`` lasts, a fault is due with a chance of ``rate``, of any of ``kinds``,
    each as likely. It waits for a stripe that has a place of its kind, and takes any of these places. One of another
    kind may wait as well, and be put in before it; another of the same kind is one with it. No two are put in in the
    same cycle.
    What waits or lasts ends when its kind is taken out of ``kinds``. A ``Burst`` or a ``Block`` is on a lane in use, or
    on any one of a marker, or while none is in use; a ``Marker`` or a ``Lane`` is on any lane.

    Parameters
    ----------
    lanes : int
        1, 2 or 4.
    seed : int
        What is changed depends on it, on the cycle, and on what is sent.

    Members
    -------
    i : :py:`In(data.ArrayLayout(257, lanes))`
    o : :py:`Out(data.ArrayLayout(257, lanes))`
    rate : :py:`In(32)`
        In parts of 2**32.
    kinds : :py:`In(14)`
        Bit n: :class:`FaultKind` n may be chosen.
    lane_cycles, cut_cycles : :py:`In(16)`
        What a ``Lane`` and a ``Cut`` last at the most; 0 is as 1.
    counts : :py:`Out(data.ArrayLayout(32, 14))`
        Faults of each kind, with the one that begins in the blocks of this cycle.
    faults : :py:`Out(32)`
        Their sum. All counts wrap.
    used : :py:`Out(lanes)`
        Lanes in use of the blocks that came in the cycle before, unless these were markers.
    """

    def __init__(self, lanes, seed=1):
        if lanes not in (1, 2, 4):
            raise ValueError(f"lanes is {lanes}; 1, 2 or 4 expected")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed}; 0 to 2**32 - 1 expected")
        self.lanes, self.seed = lanes, seed
        shape = data.ArrayLayout(BLOCK_BITS, lanes)
        super().__init__(
            {
                "i": In(shape),
                "o": Out(shape),
                "rate": In(32),
                "kinds": In(len(FaultKind)),
                "lane_cycles": In(16),
                "cut_cycles": In(16),
                "counts": Out(data.ArrayLayout(32, len(FaultKind))),
                "faults": Out(32),
                "used": Out(lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        noise = []
        for n in range(7):
            # Far from the seeds of a wire's noise.
            seed = (self.seed * 0x9E3779B97F4A7C15 + (n + 64) * 0xD1342543DE82EF95) % 2**64
            m.submodules[f"noise{n}"] = one = Noise(seed or 1)
            noise.append(one.o)
        dice, choice, *noise = noise

        # First cycle: markers, and what the words say.
        marker, fields = read_marker(Block(self.i[0]))
        came, came_marker = Signal(self.i.shape()), Signal()
        words = [Signal(_Words, name=f"words{n}") for n in range(self.lanes)]
        m.d.sync += [came.eq(self.i), came_marker.eq(marker)]
        with m.If(marker):
            m.d.sync += self.used.eq(fields.used)
        for n, told in enumerate(words):
            m.submodules[f"scrambler{n}"] = scrambler = Scrambler()
            block = Signal(Block, name=f"block{n}")
            m.d.comb += [scrambler.begin.eq(marker), scrambler.lane.eq(n), block.eq(self.i[n] ^ scrambler.key)]
            m.d.sync += told.start.eq(block.start)
            for k, word in enumerate(block.words):
                m.d.sync += [
                    told.fill[k].eq(word[:10] == FILL),
                    told.lines[k].eq(word[:4]),
                    told.body[k].eq(word[4]),
                    told.status[k].eq(word[10:13] == Kind.Status.value),
                ]

        # Second cycle: packets, and a place for what waits.
        places = self._follow(m, words, came_marker)
        due, ready = Signal(len(FaultKind)), Signal(len(FaultKind))
        fits, alone = Signal(BLOCK_WORDS * self.lanes), ~self.used.any()
        spots = [[] for _ in FaultKind]
        for index, place in enumerate(places):
            n, k = divmod(index, BLOCK_WORDS)
            begins = k == 0
            head = place.first | place.second
            fitting = {
                FaultKind.Form: place.first,
                FaultKind.Head: head & ~place.status,
                FaultKind.Status: (head | place.body) & place.status,
                FaultKind.Body: place.body & ~place.status,
                FaultKind.Line: place.line,
                FaultKind.Crc: place.crc,
                FaultKind.Start: place.block,
                FaultKind.Fill: place.fill,
                FaultKind.Edge: place.crc & (k < BLOCK_WORDS - 1),
                FaultKind.Burst: begins & (self.used[n] | came_marker | alone),
                FaultKind.Marker: begins & came_marker,
                FaultKind.Block: begins & (self.used[n] | came_marker | alone),
                FaultKind.Lane: C(begins, 1),
                FaultKind.Cut: C(begins, 1),
            }
            for kind, one in fitting.items():
                spots[kind.value].append(one)
        masks = [Signal(BLOCK_WORDS * self.lanes, name=f"spots_{kind.name}") for kind in FaultKind]
        m.d.comb += [mask.eq(Cat(spot)) for mask, spot in zip(masks, spots)]
        m.d.comb += ready.eq(due & self.kinds & Cat(mask.any() for mask in masks))
        now = _one_of(m, "now", ready, choice[:16])
        m.d.comb += fits.eq(reduce(or_, (Mux(now[n], mask, 0) for n, mask in enumerate(masks))))
        chosen, kind = _one_of(m, "chosen", fits, choice[16:32]), _one_of(m, "kind", self.kinds, choice[48:])

        put, left = Signal(len(FaultKind)), Signal(16)
        lane, noisy, lasting = Signal(self.lanes), Signal(self.lanes), Signal(len(FaultKind))
        word, first = Signal(3), Signal()
        passing = Signal(self.i.shape())
        most = Mux(now[FaultKind.Cut.value], self.cut_cycles, self.lane_cycles)
        m.d.sync += [
            passing.eq(came),
            put.eq(0),
            lane.eq(Cat(chosen[BLOCK_WORDS * n :][:BLOCK_WORDS].any() for n in range(self.lanes))),
            word.eq(Cat(Cat(chosen[k] for k in range(len(chosen)) if k >> bit & 1).any() for bit in range(3))),
            first.eq(Cat(chosen[k] & place.first for k, place in enumerate(places)).any()),
            due.eq(due & self.kinds),
        ]
        with m.If(noisy.any()):
            m.d.sync += left.eq(left - 1)
            with m.If((left == 0) | ~(lasting & self.kinds).any()):
                m.d.sync += noisy.eq(0)
        with m.Else():
            m.d.sync += due.eq((due & self.kinds & ~now) | Mux(dice[:32] < self.rate, kind, 0))
            m.d.sync += [put.eq(now), lasting.eq(now), left.eq((choice[32:48] * most) >> 16)]
            with m.If(now[FaultKind.Lane.value]):
                m.d.sync += noisy.eq(Cat(chosen[BLOCK_WORDS * n] for n in range(self.lanes)))
            with m.If(now[FaultKind.Cut.value]):
                m.d.sync += noisy.eq(~C(0, self.lanes))

        # Third cycle: the wrong bits.
        wrong, some = self._wrong(m, put, word, first, choice[48:], noise), Signal()
        m.d.comb += some.eq((put & ~_mask(FaultKind.Block, FaultKind.Lane, FaultKind.Cut)).any())
        for n in range(self.lanes):
            with m.If(noisy[n] | (put[FaultKind.Block.value] & lane[n])):
                m.d.sync += self.o[n].eq(passing[n] ^ Cat(noise[n:], noise[:n])[:BLOCK_BITS])
            with m.Elif(some & lane[n]):
                m.d.sync += self.o[n].eq(passing[n] ^ wrong)
            with m.Else():
                m.d.sync += self.o[n].eq(passing[n])
        m.d.sync += self.faults.eq(self.faults + put.any())
        for n in range(len(FaultKind)):
            m.d.sync += self.counts[n].eq(self.counts[n] + put[n])
        return m

    def _follow(self, m, words, marker):
        """Follow the packets over the words of a stripe: a :class:`_Place` for each word of all lanes."""
        kept = Signal(_Chain, init={"lost": 1})
        chain, ended = kept, marker
        places = []
        for n, told in enumerate(words):
            for k in range(BLOCK_WORDS):
                place, after = Signal(_Place, name=f"place{n}_{k}"), Signal(_Chain, name=f"chain{n}_{k}")
                behind, begins = Signal(name=f"behind{n}_{k}"), Signal(name=f"begins{n}_{k}")
                goes = Signal(name=f"goes{n}_{k}")
                m.d.comb += [
                    goes.eq(self.used[n] & ~ended),
                    # Where a session begins, a packet may be broken off: what starts in a block then says so.
                    begins.eq(told.start if k == 0 else (chain.left == 0) & ~chain.lost),
                    place.block.eq(goes & (k == 0)),
                    after.eq(chain),
                    behind.eq(ended),
                ]
                with m.If(goes & begins):
                    with m.If(told.fill[k]):
                        m.d.comb += [place.fill.eq(1), behind.eq(1)]
                    with m.Elif(told.lines[k] > LINES_MAX):
                        m.d.comb += [after.left.eq(0), after.lost.eq(1)]
                    with m.Else():
                        m.d.comb += [
                            place.first.eq(1),
                            place.status.eq(told.status[k]),
                            after.left.eq(told.lines[k] * LINE_WORDS + told.body[k] + 2),
                            after.second.eq(1),
                            after.body.eq(told.body[k]),
                            after.status.eq(told.status[k]),
                            after.lost.eq(0),
                        ]
                with m.Elif(goes & (chain.left == 0)):
                    m.d.comb += after.lost.eq(1)
                with m.Elif(goes):
                    m.d.comb += [place.status.eq(chain.status), after.left.eq(chain.left - 1), after.second.eq(0)]
                    with m.If(chain.second):
                        m.d.comb += place.second.eq(1)
                    with m.Elif(chain.body):
                        m.d.comb += [place.body.eq(1), after.body.eq(0)]
                    with m.Elif(chain.left == 1):
                        m.d.comb += place.crc.eq(1)
                    with m.Else():
                        m.d.comb += place.line.eq(1)
                places.append(place)
                chain, ended = after, behind
        m.d.sync += kept.eq(chain)
        return places

    def _wrong(self, m, put, word, first, number, noise):
        """The wrong bits of a block with a fault of kind ``put`` at this word, other than noise."""
        base, width = Signal(range(BLOCK_BITS)), Signal(range(BLOCK_BITS))
        m.d.comb += [base.eq(1 + 32 * word), width.eq(32)]
        with m.If((put & _mask(FaultKind.Form, FaultKind.Fill)).any()):
            m.d.comb += width.eq(10)
        with m.If(put[FaultKind.Head.value] & first):
            m.d.comb += [base.eq(1 + 32 * word + 10), width.eq(22)]
        with m.If(put[FaultKind.Start.value]):
            m.d.comb += [base.eq(0), width.eq(1)]
        with m.If(put[FaultKind.Marker.value]):
            m.d.comb += [base.eq(1), width.eq(BLOCK_BITS - 1)]

        edge = put[FaultKind.Edge.value]
        bursting = edge | put[FaultKind.Burst.value]
        at, length = Signal(range(BLOCK_BITS)), Signal(range(_BURST_MAX + 1))
        edge_at, edge_most, edge_length, burst_length = (
            Signal.like(at),
            Signal(9),
            Signal.like(length),
            Signal.like(length),
        )
        some, within, where = noise[2][:16], noise[2][16:21], noise[2][32:48]
        m.d.comb += [
            edge_at.eq(base + within),
            edge_most.eq(BLOCK_BITS - edge_at),
            # At least one bit beyond the word.
            edge_length.eq(33 - within + ((some * (32 + within)) >> 16)),
            burst_length.eq(2 + ((some * (_BURST_MAX - 1)) >> 16)),
            at.eq(Mux(edge, edge_at, (where * (BLOCK_BITS + 1 - burst_length)[:9]) >> 16)),
            length.eq(Mux(edge, Mux(edge_length > edge_most, edge_most, edge_length), burst_length)),
        ]
        run, shifted = Signal(_BURST_MAX), Signal(_BURST_MAX + 32)
        full = C(2**_BURST_MAX - 1, _BURST_MAX) >> (_BURST_MAX - length)[:7]
        m.d.comb += [run.eq((noise[0] & full) | 1 | (full ^ (full >> 1))), shifted.eq(run << at[:5])]

        grid = Signal(data.ArrayLayout(32, _GRID))
        more = (number * 3) >> 16
        bits = []
        for n in range(3):
            place, bit = Signal(range(BLOCK_BITS), name=f"bit_at{n}"), Signal(32, name=f"bit{n}")
            m.d.comb += place.eq(base + ((noise[1][16 * n : 16 * n + 16] * width) >> 16))
            with m.If(~bursting & (more >= n)):
                m.d.comb += bit.eq(C(1, 1) << place[:5])
            bits.append((place, bit))
        for n in range(_GRID):
            piece = 0
            for place, bit in bits:
                piece |= Mux(place[5:] == n, bit, 0)
            for k in range(min(n + 1, 3)):
                piece |= Mux(bursting & (at[5:] == n - k), shifted.word_select(k, 32), 0)
            m.d.comb += grid[n].eq(piece)
        return grid.as_value()[:BLOCK_BITS]


def _mask(*kinds):
    return sum(1 << kind.value for kind in kinds)


def _one_of(m, name, mask, noise):
    """One of the bits that ``mask`` has, each as likely, by 16 bits of noise; none if it has none."""
    size = len(mask)
    before = [Signal(range(size + 1), name=f"{name}_before{n}") for n in range(size + 1)]
    wanted, one = Signal(range(size + 1), name=f"{name}_wanted"), Signal(size, name=name)
    m.d.comb += wanted.eq((noise * before[size]) >> 16)
    for n in range(size):
        m.d.comb += [before[n + 1].eq(before[n] + mask[n]), one[n].eq(mask[n] & (before[n] == wanted))]
    return one
