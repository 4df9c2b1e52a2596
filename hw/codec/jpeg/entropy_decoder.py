"""Entropy decoding: the bits of a segment to the coefficients of its blocks (Ref: ITU-T T.81 F.2.2)."""

from amaranth.hdl import *
from amaranth.lib import data, enum, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg.tables import DC_CATEGORY_MAX
from tessera.hw.codec.jpeg.bits import BitWindow, SegmentBits
from tessera.hw.codec.jpeg.huffman import LONG_CYCLES, Entry, HuffmanLoad, HuffmanTables
from tessera.hw.lib.streams import connect, observe
from tessera.hw.memory.surface import TilePlace

__all__ = ["Block", "EntropyDecoder", "EntropyError", "Token"]

_SYMBOL_BITS = 16 + DC_CATEGORY_MAX
_DEPTH = 32


class Block(data.Struct):
    """A block to decode."""

    place: TilePlace
    """Where its samples go; its plane is its component."""
    inside: 1
    """It holds samples of the picture; those that only fill an MCU are decoded and dropped."""
    td: 2
    ta: 2
    tq: 2
    mcu_last: 1
    segment_last: 1


class Token(data.Struct):
    """A coefficient."""

    place: TilePlace
    inside: 1
    tq: 2
    k: 6
    """In zig-zag order."""
    value: signed(16)
    last: 1
    """The block has no more."""


class EntropyError(enum.Enum, shape=2):
    """Why a segment could not be decoded."""

    Ended = 0
    """Bits were due where it had ended."""
    BadCode = 1
    BadCoefficient = 2


class EntropyDecoder(wiring.Component):
    """Decodes the blocks of a segment.

    One symbol per cycle if its code has ``short_bits`` bits or less, one in 4 cycles if it is longer; a token leaves
    for each symbol (ZRL and EOB give coefficients of 0), 4 cycles later at the earliest. A block is taken ahead of its
    turn, while the one before it is decoded: it must be offered the cycle before that one ends, or a cycle is lost. It
    waits while fewer than ``short_bits`` + 11 bits are there (31 for longer codes) and the segment has not ended, and
    while 24 tokens or more wait for ``o``.

    The tables must not be loaded while a segment is decoded; it waits until they are written.

    Parameters
    ----------
    short_bits : int
        See :class:`HuffmanTables`.

    Members
    -------
    load, bad, codes
        As of :class:`HuffmanTables`.
    i : :py:`In(stream.Signature(SegmentBits))`
        The segment's bits, from the cycle after ``begin`` on.
    ended : :py:`In(1)`
        Nothing more comes from ``i``. Counts from the cycle after ``begin`` on.
    begin : :py:`In(1)`
        Strobe: blocks are taken until one is ``segment_last``; one that was taken ahead is dropped. Not while a segment
        is decoded. Bits that come between segments are dropped.
    begin_scan : :py:`In(1)`
        With ``begin``: a new scan begins.
    block : :py:`In(stream.Signature(Block))`
    o : :py:`Out(stream.Signature(Token))`
    done : :py:`Out(1)`
        The segment was decoded; its tokens were put out or wait for ``o`` to be taken.
    failed : :py:`Out(1)`
        It could not be: nothing more happens until the next ``begin``. Tokens of the block that failed and the block
        after it may have been taken and put out.
    error : :py:`Out(EntropyError)`
    mcu : :py:`Out(32)`
        MCUs decoded in this scan.
    empty : :py:`Out(1)`
        No token waits for ``o``.
    """

    def __init__(self, short_bits=6):
        self.short_bits = short_bits
        super().__init__(
            {
                "load": In(stream.Signature(HuffmanLoad)),
                "bad": Out(1),
                "codes": Out(12),
                "i": In(stream.Signature(SegmentBits)),
                "ended": In(1),
                "begin": In(1),
                "begin_scan": In(1),
                "block": In(stream.Signature(Block)),
                "o": Out(stream.Signature(Token)),
                "done": Out(1),
                "failed": Out(1),
                "error": Out(EntropyError),
                "mcu": Out(32),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.tables = tables = HuffmanTables(self.short_bits)
        m.submodules.window = window = BitWindow(self.short_bits)
        m.submodules.tokens = tokens = fifo.SyncFIFO(width=Shape.cast(Token).width, depth=_DEPTH)
        connect(m, self.load, tables.load)
        connect(m, self.i, window.i)
        m.d.comb += [self.bad.eq(tables.bad), self.codes.eq(tables.codes)]

        # The loop: a symbol's bits are looked up and used within a cycle.
        table, ta, segment_last = Signal(3), Signal(2), Signal()
        dc, space = Signal(), Signal(6)
        room, go, long = Signal(), Signal(), Signal()
        m.d.sync += room.eq((tokens.level < _DEPTH - 8) & ~tables.writing)
        # The last bits are looked up two cycles after they came.
        nearly_ended, ended = Signal(), Signal()
        m.d.sync += [nearly_ended.eq(self.ended), ended.eq(nearly_ended)]
        with m.If(self.begin):
            m.d.sync += [nearly_ended.eq(0), ended.eq(0)]
        enough, enough_for_long = Signal(), Signal()
        m.d.comb += [
            enough.eq(window.enough_short | ended),
            enough_for_long.eq(window.enough_long | ended),
        ]
        used, ends = Signal(), Signal()
        # Whether a run of n zeros and a coefficient end the block: a choice is quicker than a comparison.
        fills = Signal(16)
        m.d.comb += fills.eq(Cat(space <= n for n in range(16)))
        m.d.comb += [
            tables.table.eq(table),
            tables.bits.eq(window.bits[-16:]),
            tables.next_ta.eq(ta),
            tables.next_first.eq(window.next_first),
            used.eq((tables.short_valid & go) | long),
            *(window.short[n].eq(tables.short[n].total) for n in range(2)),
            window.which.eq(~dc),
            window.use_short.eq(go & tables.short_valid),
            window.long.eq(tables.long.total),
            window.use_long.eq(long),
        ]

        # A block is fetched ahead of its turn, so that the loop's result does not go back to whoever offers blocks; of
        # one whose turn it is only what the loop needs is taken at once, the rest follows in the next cycle.
        upcoming, fetched, open_ = Signal(Block), Signal(), Signal()
        took, current = Signal(), Signal(Block)
        m.d.comb += [self.block.ready.eq(self.begin | (open_ & ~fetched)), tables.next_td.eq(upcoming.td)]
        m.d.sync += took.eq(0)
        with m.If(took):
            m.d.sync += current.eq(upcoming)

        def take_block():
            m.d.sync += [table.eq(upcoming.td), ta.eq(upcoming.ta), segment_last.eq(upcoming.segment_last)]
            m.d.sync += [dc.eq(1), space.eq(63), took.eq(fetched), fetched.eq(0)]
            with m.If(fetched):
                m.next = "Symbol"
            with m.Else():
                m.next = "AwaitBlock"

        def use_symbol(ac):
            """Go on behind a symbol, which is entry `ac` if it is no DC one."""
            m.d.comb += ends.eq(~dc & (ac.eob | fills.bit_select(ac.run, 1)))
            m.d.sync += [dc.eq(0), space.eq(space - Mux(dc, 0, ac.run) - 1), table.eq(Cat(ta, 1))]
            m.next = "Symbol"
            with m.If(ends & segment_last):
                m.next = "AwaitSegment"
            with m.Elif(ends):
                take_block()

        waited = Signal(range(LONG_CYCLES))
        with m.FSM(name="entropy"):
            with m.State("AwaitSegment"):
                m.d.comb += window.clear.eq(1)
                with m.If(self.begin):
                    m.next = "AwaitBlock"
            with m.State("AwaitBlock"):
                with m.If(self.failed):
                    m.next = "AwaitSegment"
                with m.Else():
                    take_block()
            with m.State("Symbol"):
                m.d.comb += go.eq(enough & room & ~self.failed)
                # A DC symbol that has to wait is looked up again.
                with m.If(dc):
                    m.d.comb += tables.next_td.eq(table)
                m.d.sync += waited.eq(1)
                with m.If(self.failed):
                    m.next = "AwaitSegment"
                with m.Elif(enough & room):
                    with m.If(tables.short_valid):
                        use_symbol(tables.short[1])
                    with m.Else():
                        m.next = "LongCode"
            with m.State("LongCode"):
                m.d.sync += waited.eq(waited + 1)
                with m.If(waited == LONG_CYCLES - 1):
                    m.next = "LongSymbol"
            with m.State("LongSymbol"):
                m.d.comb += long.eq(enough_for_long)
                with m.If(enough_for_long):
                    use_symbol(tables.long)

        with m.If(self.begin):
            m.d.sync += [fetched.eq(0), open_.eq(1)]
        with m.If(self.block.ready):
            m.d.sync += [upcoming.eq(self.block.payload), fetched.eq(self.block.valid)]
            with m.If(self.block.valid & self.block.payload.segment_last):
                m.d.sync += open_.eq(0)

        # Checked a cycle later: nothing of a symbol that fails, or follows one that does, gets further.
        stage1 = data.StructLayout(
            {
                "bits": _SYMBOL_BITS, "entry": Entry, "dc": 1, "space": 6, "last": 1,
                "count": len(window.count), "ended": 1,
            }
        )  # fmt: skip
        valid1, one = Signal(), Signal(stage1)
        m.d.sync += [
            valid1.eq(used),
            one.bits.eq(window.bits[-_SYMBOL_BITS:]),
            one.entry.eq(tables.long),
            one.dc.eq(dc),
            one.space.eq(space),
            one.last.eq(ends),
            one.count.eq(window.count),
            one.ended.eq(ended),
        ]
        with m.If(~long):
            m.d.sync += Value.cast(one.entry).eq(Mux(dc, *(Value.cast(entry) for entry in tables.short)))
        wrong, over, good = Signal(), Signal(), Signal()
        finished = Signal()
        needed = Signal(5)
        m.d.comb += [
            wrong.eq(one.entry.bad | (one.entry.run > one.space)),
            needed.eq(Mux(wrong, one.entry.length + 1, one.entry.total)),
            over.eq(one.ended & (needed > one.count)),
            good.eq(valid1 & ~wrong & ~over & ~self.failed),
        ]
        with m.If(valid1 & (wrong | over) & ~self.failed):
            m.d.sync += self.failed.eq(1)
            with m.If(over):
                m.d.sync += self.error.eq(EntropyError.Ended)
            with m.Elif(one.entry.valid):
                m.d.sync += self.error.eq(EntropyError.BadCoefficient)
            with m.Else():
                m.d.sync += self.error.eq(EntropyError.BadCode)
        with m.If(good & one.last):
            m.d.sync += [self.mcu.eq(self.mcu + current.mcu_last), finished.eq(current.segment_last)]
        with m.If(self.begin):
            m.d.sync += [self.failed.eq(0), finished.eq(0)]
            with m.If(self.begin_scan):
                m.d.sync += self.mcu.eq(0)

        stage2 = data.StructLayout({"magnitude": 11, "size": 4, "dc": 1, "k": 6, "last": 1, "block": Block})
        valid2, two = Signal(), Signal(stage2)
        m.d.sync += [
            valid2.eq(good),
            two.magnitude.eq((one.bits << (one.entry.length + 1))[_SYMBOL_BITS - 11 : _SYMBOL_BITS]),
            two.size.eq(one.entry.size),
            two.dc.eq(one.dc),
            two.k.eq(63 - one.space + one.entry.run),
            two.last.eq(one.last),
            two.block.eq(current),
        ]
        # A magnitude whose first bit is 0 is a negative value, less 1.
        negative = Signal()
        m.d.comb += negative.eq(~two.magnitude[-1] & (two.size != 0))
        valid3, three = Signal(), Signal(data.StructLayout({"value": signed(12), "dc": 1, "token": Token}))
        m.d.sync += [
            valid3.eq(valid2),
            three.value.eq((Cat(two.magnitude, negative).as_signed() >> (11 - two.size)[:4]) + negative),
            three.dc.eq(two.dc),
            three.token.k.eq(two.k),
            three.token.last.eq(two.last),
            three.token.place.eq(two.block.place),
            three.token.inside.eq(two.block.inside),
            three.token.tq.eq(two.block.tq),
        ]
        predictors = Array(Signal(signed(16), name=f"predictor{n}") for n in range(3))
        predictor, token = predictors[three.token.place.plane], Signal(Token)
        m.d.comb += [
            token.eq(three.token),
            token.value.eq(three.value + Mux(three.dc, predictor, 0)),
            tokens.w_data.eq(token),
            tokens.w_en.eq(valid3),
            self.done.eq(finished & ~valid2 & ~valid3),
            self.empty.eq((tokens.level == 0) & ~valid1 & ~valid2 & ~valid3),
            self.o.valid.eq(tokens.r_rdy),
            Value.cast(self.o.payload).eq(tokens.r_data),
            tokens.r_en.eq(self.o.ready),
        ]
        with m.If(valid3 & three.dc):
            m.d.sync += predictor.eq(token.value)
        with m.If(self.begin):
            m.d.sync += [p.eq(0) for p in predictors]
        observe(m, self.o)
        return m
