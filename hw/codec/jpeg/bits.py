"""From a file's bytes to the bits of its entropy-coded segments."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg.tables import DC_CATEGORY_MAX
from tessera.hw.memory.bitstream_reader import ByteGroup

__all__ = ["WINDOW_BITS", "BitWindow", "ByteFeed", "Ending", "FileBytes", "SegmentBits", "Unstuffer"]

WINDOW_BITS = 64
"""Bits that a :class:`BitWindow` holds."""
_LONGEST = 31
"""Bits that are used at once at the most."""


class FileBytes(data.Struct):
    """The next bytes of a file."""

    bytes: data.ArrayLayout(8, 2)
    count: 2
    """How many of them are there, 0 to 2."""
    end: 1
    """The file has ended: count is 0 and stays so."""


class ByteFeed(wiring.Component):
    """Offers the next two bytes of a file, of which none, one or both are taken in a cycle.

    Two bytes a cycle are offered, but where groups of eight meet, one at times: 8 bytes are had in 5 cycles or fewer.

    Members
    -------
    i : :py:`In(stream.Signature(ByteGroup))`
        The file.
    o : :py:`Out(FileBytes)`
        Never changes but by ``take``, except that count rises and end is set.
    take : :py:`In(2)`
        Bytes taken in this cycle, at most ``o.count``.
    offset : :py:`Out(32)`
        Of ``o.bytes[0]`` in the file; at its end, its length.
    """

    i: In(stream.Signature(ByteGroup))
    o: Out(FileBytes)
    take: In(2)
    offset: Out(32)

    def elaborate(self, platform):
        m = Module()
        kept, left, last = Signal(64), Signal(4), Signal()
        m.d.comb += [
            self.o.bytes[0].eq(kept[0:8]),
            self.o.bytes[1].eq(kept[8:16]),
            self.o.count.eq(Mux(left >= 2, 2, left[:2])),
            self.o.end.eq(last & (left == 0)),
        ]
        m.d.sync += self.offset.eq(self.offset + self.take)
        with m.Switch(self.take):
            with m.Case(1):
                m.d.sync += [kept.eq(kept >> 8), left.eq(left - 1)]
            with m.Case(2):
                m.d.sync += [kept.eq(kept >> 16), left.eq(left - 2)]
        m.d.comb += self.i.ready.eq(~last & (left == self.take))
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [kept.eq(self.i.payload.data), left.eq(self.i.payload.count), last.eq(self.i.payload.last)]
        return m


class Ending(data.Struct):
    """What ended an entropy-coded segment."""

    found: 1
    """It has ended, and all its bytes are given out."""
    file: 1
    """By the end of the file, not by a marker."""
    code: 8
    """The marker's second byte, taken from the file."""
    where: 32
    """Offset of the 0xFF before it."""


class SegmentBits(data.Struct):
    """The next bits of a segment."""

    bits: 16
    """The first is the highest."""
    two: 1
    """There are 16 of them, not 8."""


class Unstuffer(wiring.Component):
    """Takes an entropy-coded segment out of a file, without its stuffing and fill bytes (Ref: T.81 B.1.1.5).

    FF, any number of FF, 00 is the byte FF; FF, any number of FF and any other code is a marker and ends the segment.

    Two bytes per cycle but for pairs with an FF or after one, which go one by one. A byte is offered the cycle after it
    was taken from the file.

    Members
    -------
    run : :py:`In(1)`
        While high a segment is taken; a rise starts a new one, at the file's next byte. What was offered when it falls
        stays offered.
    file, offset : :py:`In`
    take : :py:`Out(2)`
        As of :class:`ByteFeed`.
    o : :py:`Out(stream.Signature(SegmentBits))`
    ending : :py:`Out(Ending)`
        While ``run`` is high.
    """

    file: In(FileBytes)
    offset: In(32)
    take: Out(2)
    run: In(1)
    o: Out(stream.Signature(SegmentBits))
    ending: Out(Ending)

    def elaborate(self, platform):
        m = Module()
        after_ff, over = Signal(), Signal()
        first, second = self.file.bytes[0], self.file.bytes[1]
        is_ff = [Signal(name=f"is_ff{n}") for n in range(2)]
        m.d.comb += [flag.eq(byte == 0xFF) for flag, byte in zip(is_ff, (first, second))]

        free = ~self.o.valid | self.o.ready
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(~self.run):
            m.d.sync += [after_ff.eq(0), over.eq(0)]
        with m.Elif(~over):
            with m.If(self.file.end):
                m.d.sync += [over.eq(1), self.ending.file.eq(1)]
            with m.Elif((self.file.count != 0) & free):
                with m.If(after_ff):
                    m.d.comb += self.take.eq(1)
                    with m.If(first == 0):
                        m.d.sync += [self.o.valid.eq(1), after_ff.eq(0)]
                        m.d.sync += [self.o.payload.bits.eq(0xFF00), self.o.payload.two.eq(0)]
                    with m.Elif(~is_ff[0]):
                        m.d.sync += [over.eq(1), self.ending.file.eq(0), self.ending.code.eq(first)]
                        m.d.sync += self.ending.where.eq(self.offset - 1)
                with m.Elif(is_ff[0]):
                    m.d.comb += self.take.eq(1)
                    m.d.sync += after_ff.eq(1)
                with m.Else():
                    pair = Signal()
                    m.d.comb += [pair.eq((self.file.count == 2) & ~is_ff[1]), self.take.eq(Mux(pair, 2, 1))]
                    m.d.sync += [self.o.valid.eq(1), self.o.payload.bits.eq(Cat(second, first))]
                    m.d.sync += self.o.payload.two.eq(pair)
        m.d.comb += self.ending.found.eq(over & ~self.o.valid)
        return m


def _shifted(bits, amount):
    """`bits` shifted left by `amount`, of choices alone: Yosys makes one of shift operators that exclude each other,
    behind a choice of their operands."""
    for n, bit in enumerate(amount):
        bits = Mux(bit, Cat(C(0, min(1 << n, len(bits))), bits)[: len(bits)], bits)
    return bits


class BitWindow(wiring.Component):
    """Holds the next bits of a segment.

    Parameters
    ----------
    ahead : int
        Bits of ``next_first``, 1 to 8.

    Members
    -------
    i : :py:`In(stream.Signature(SegmentBits))`
        Taken while 48 bits or fewer are held, and during ``clear``.
    clear : :py:`In(1)`
        Drop all bits, and those that come.
    bits : :py:`Out(64)`
        The next bit is the highest; those past ``count`` are 0.
    count : :py:`Out(range(65))`
        Bits held. Meaningless after more were used than were there, until ``clear``.
    enough_short, enough_long : :py:`Out(1)`
        At least ``ahead`` + 11 bits are held that did not come in the two cycles before; at least 31 that did not come
        in the one before. The latter counts only if none were used in the cycle before.
    next_first : :py:`Out(ahead)`
        The highest of ``bits`` in the next cycle, without those that come in this one or came in the one before: 0
        stands for them (if ``use_long``, only for those of this one). It depends on ``short``.
    short, which, long : :py:`In(array of 2 x 5)`, :py:`In(1)`, :py:`In(5)`
        Bits used in this cycle: ``short[which]``, 0 to ``ahead`` + 11, if ``use_short``, else ``long``, 0 to 31, if
        ``use_long``; these only if none were used in the cycle before. ``short`` may come late in the cycle.
    use_short, use_long : :py:`In(1)`
    """

    def __init__(self, ahead):
        if not 1 <= ahead <= 8:
            raise ValueError(f"ahead is {ahead}; 1 to 8 expected")
        self.ahead = ahead
        super().__init__(
            {
                "i": In(stream.Signature(SegmentBits)),
                "clear": In(1),
                "bits": Out(WINDOW_BITS),
                "next_first": Out(ahead),
                "count": Out(range(WINDOW_BITS + 1)),
                "enough_short": Out(1),
                "enough_long": Out(1),
                "short": In(data.ArrayLayout(5, 2)),
                "which": In(1),
                "long": In(5),
                "use_short": In(1),
                "use_long": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # What is used in one cycle is shifted out in the next: what comes late chooses few bits.
        kept, used = Signal(WINDOW_BITS), Signal(5)
        m.d.comb += self.bits.eq(kept << used)
        # The highest of them are at hand at once; what came in the cycle before is not among them yet.
        longest = self.ahead + DC_CATEGORY_MAX
        head = Signal(self.ahead + longest)
        surplus = Signal(signed(len(self.count) + 1), init=-longest)

        room, fill, filled = Signal(init=1), Signal(), Signal.like(self.count)
        m.d.comb += [
            self.i.ready.eq(room | self.clear),
            fill.eq(room & self.i.valid),
            filled.eq(self.count + Mux(fill, Mux(self.i.payload.two, 16, 8), 0)),
        ]
        new = Signal(16)
        more = self.i.payload
        m.d.comb += new.eq(Mux(fill, Cat(Mux(more.two, more.bits[:8], 0), more.bits[8:]), 0))

        # What holds in the next cycle: the highest bit if no bits are used, the lowest if 31 are. Tables of
        # what registers hold, not comparisons with what is used, which would take a carry.
        excess, enough, has_room = Signal(5), Signal(_LONGEST + 1), Signal(_LONGEST + 1)
        with m.Switch(surplus[: len(excess)]):
            for n in range(_LONGEST + 1):
                with m.Case(n):
                    m.d.comb += enough.eq(~0 << (_LONGEST - n))
        with m.If(surplus[len(excess) : -1].any()):
            m.d.comb += enough.eq(~0)
        with m.If(surplus < 0):
            m.d.comb += enough.eq(0)
        # At most 64 bits are held, 16 more than leave room.
        m.d.comb += excess.eq(Mux(filled[6], 16, Mux(filled[4:6].all(), filled[:4], 0)))
        with m.Switch(excess):
            for n in range(17):
                with m.Case(n):
                    m.d.comb += has_room.eq((1 << (_LONGEST + 1 - n)) - 1)

        # Each number of bits has its own choice of all that depends on it, so that whose it is comes last.
        def after(held, number):
            flags = Cat(_shifted(enough, number)[-1], _shifted(has_room, number)[-1])
            return Cat(flags, _shifted(held, number)[-self.ahead :])

        outcome = Signal(data.StructLayout({"enough": 1, "room": 1, "first": self.ahead}))
        with m.If(self.use_short):
            m.d.comb += outcome.eq(Mux(self.which, after(head, self.short[1]), after(head, self.short[0])))
        with m.Elif(self.use_long):
            m.d.comb += outcome.eq(after(kept, self.long))
        with m.Else():
            m.d.comb += outcome.eq(after(head, C(0, 1)))
        m.d.comb += self.next_first.eq(outcome.first)
        # Whose bits are used is known early, so this is but one gate behind them.
        next_used, early = Signal(5), Signal(5)
        whose = [Signal(name=f"whose{n}") for n in range(2)]
        m.d.comb += [
            early.eq(Mux(self.use_long & ~self.use_short, self.long, 0)),
            *(whose[n].eq(self.use_short & (self.which == n)) for n in range(2)),
            next_used.eq(early | (self.short[0] & whose[0].replicate(5)) | (self.short[1] & whose[1].replicate(5))),
        ]
        m.d.sync += [
            used.eq(next_used),
            kept.eq(self.bits | (Cat(C(0, WINDOW_BITS - 16), new) >> self.count)),
            head.eq((self.bits << next_used)[WINDOW_BITS - len(head) : WINDOW_BITS]),
            self.count.eq(filled - next_used),
            room.eq(outcome.room),
            surplus.eq((self.count - longest) - next_used),
            self.enough_short.eq(outcome.enough),
            self.enough_long.eq(self.count >= _LONGEST),
        ]
        with m.If(self.clear):
            m.d.sync += [part.eq(0) for part in (kept, used, head, self.count, self.enough_short, self.enough_long)]
            m.d.sync += [surplus.eq(-longest), room.eq(1)]
        return m
