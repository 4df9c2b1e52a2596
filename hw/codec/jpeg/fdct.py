"""Forward DCT of 8x8 blocks, libjpeg's ISLOW method exact to the bit."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg import tables as t
from tessera.hw.memory.surface import Tile

__all__ = ["COEFFICIENT", "Fdct"]

COEFFICIENT = signed(14)
"""Eight times a coefficient of T.81 A.3.3."""

_BANKS = 4

# The outputs as sums of products: row k holds what the differences (odd outputs) or sums (even ones) of input pairs
# 0 to 3 are multiplied by. Nothing is rounded before the end, so it is the fast algorithm's result to the bit.
_Z5 = t.FIX_1_175875602
_Z1, _Z2, _Z3, _Z4 = -t.FIX_0_899976223, -t.FIX_2_562915447, _Z5 - t.FIX_1_961570560, _Z5 - t.FIX_0_390180644
_PRODUCTS = {
    1: (t.FIX_1_501321110 + _Z1 + _Z4, _Z5, _Z4, _Z5 + _Z1),
    3: (_Z5, t.FIX_3_072711026 + _Z2 + _Z3, _Z5 + _Z2, _Z3),
    5: (_Z4, _Z5 + _Z2, t.FIX_2_053119869 + _Z2 + _Z4, _Z5),
    7: (_Z5 + _Z1, _Z3, _Z5, t.FIX_0_298631336 + _Z1 + _Z3),
    2: (
        t.FIX_0_541196100 + t.FIX_0_765366865,
        t.FIX_0_541196100,
        -t.FIX_0_541196100,
        -t.FIX_0_541196100 - t.FIX_0_765366865,
    ),
    6: (
        t.FIX_0_541196100,
        t.FIX_0_541196100 - t.FIX_1_847759065,
        t.FIX_1_847759065 - t.FIX_0_541196100,
        -t.FIX_0_541196100,
    ),
}


class _Pass(wiring.Component):
    """One-dimensional transforms, one after the other, of four pairs (x[j], x[7-j]) each, j from 0 to 3.

    While ``en``, a pair is taken with ``i_valid`` in each cycle, and outputs 2n and 2n+1 leave with ``o_valid``, n from
    0 to 3, the first of them four cycles after the last pair was taken.
    """

    def __init__(self, first, shape_in, shape_out):
        self._first = first
        self._in = shape_in
        self._out = shape_out
        super().__init__(
            {
                "en": In(1),
                "i_valid": In(1),
                "i": In(data.ArrayLayout(shape_in, 2)),
                "o_valid": Out(1),
                "o": Out(data.ArrayLayout(shape_out, 2)),
            }
        )

    def elaborate(self, platform):
        m = Module()

        width = self._in.width + 1
        number = Signal(2)
        total, difference = Signal(signed(width)), Signal(signed(width))
        factors = {k: Signal(signed(15), name=f"factor{k}") for k in _PRODUCTS}
        products = {k: Signal(signed(width + 15), name=f"product{k}") for k in _PRODUCTS}
        terms = {k: Signal(signed(width + 1), name=f"term{k}") for k in (0, 4)}
        sums = {k: Signal(signed(width + (2 if k in (0, 4) else 16)), name=f"sum{k}") for k in range(8)}
        guard = t.PASS1_BITS
        shift = t.CONST_BITS - guard if self._first else t.CONST_BITS + guard
        held = Signal(data.ArrayLayout(data.ArrayLayout(self._out, 2), 4))
        # Valid, first and last of four, in each stage.
        stages = [Signal(3, name=f"stage{n}") for n in range(3)]
        left = Signal(4)

        with m.If(self.en):
            with m.If(self.i_valid):
                m.d.sync += number.eq(number + 1)
            m.d.sync += [
                stages[0].eq(Cat(self.i_valid, number == 0, number == 3)),
                stages[1].eq(stages[0]),
                stages[2].eq(stages[1]),
                total.eq(self.i[0] + self.i[1]),
                difference.eq(self.i[0] - self.i[1]),
            ]
            with m.Switch(number):
                for n in range(4):
                    with m.Case(n):
                        m.d.sync += [factors[k].eq(_PRODUCTS[k][n]) for k in _PRODUCTS]
            second = Signal()
            m.d.sync += second.eq((number == 1) | (number == 2))
            m.d.sync += [terms[0].eq(total), terms[4].eq(Mux(second, -total, total))]
            for k, factor in factors.items():
                m.d.sync += products[k].eq(factor * (difference if k & 1 else total))

            with m.If(stages[1][0]):
                for k in range(8):
                    if k in terms:
                        term, half = terms[k], 0 if self._first else 1 << (guard - 1)
                    else:
                        term, half = products[k], 1 << (shift - 1)
                    m.d.sync += sums[k].eq(Mux(stages[1][1], half, sums[k]) + term)

            m.d.sync += left.eq(left[1:])
            for n in range(3):
                m.d.sync += held[n].eq(held[n + 1])
            with m.If(stages[2][0] & stages[2][2]):
                m.d.sync += left.eq(0b1111)
                for k in range(8):
                    if k in terms:
                        result = sums[k] << guard if self._first else sums[k] >> guard
                    else:
                        result = sums[k] >> shift
                    m.d.sync += held[k // 2][k % 2].eq(result)

        m.d.comb += [self.o_valid.eq(left[0]), self.o.eq(held[0])]
        return m


class Fdct(wiring.Component):
    """Forward DCT of tiles, with the level shift by 128.

    Equals :func:`tessera.golden.jpeg.dct.forward`.

    Throughput is one block every 32 cycles without gaps, 2 coefficients a cycle; the first coefficients of a block are
    offered 48 cycles after its tile, the last 31 cycles later. A tile is taken 31 cycles after its work began. Up to
    four blocks wait inside when the output is not taken.

    Ref: ITU-T T.81 A.3.3; C. Loeffler, A. Ligtenberg and G. S. Moschytz, ICASSP 1989

    Members
    -------
    i : :py:`In(stream.Signature(Tile))`
        Tiles; a tile is held until its last row was used.
    o : :py:`Out(stream.Signature(data.ArrayLayout(COEFFICIENT, 2)))`
        Coefficients, column by column (horizontal frequency); of a column rows 0 and 1, 2 and 3, 4 and 5, 6 and 7.
    """

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(Tile)),
                "o": Out(stream.Signature(data.ArrayLayout(COEFFICIENT, 2))),
            }
        )

    def elaborate(self, platform):
        m = Module()

        between = signed(13)
        m.submodules.rows = rows = _Pass(True, signed(8), between)
        m.submodules.columns = columns = _Pass(False, between, COEFFICIENT)

        # Blocks that pass 1 has begun and pass 2 not yet read, and those of them that are complete.
        begun, complete = Signal(range(_BANKS + 1)), Signal(range(_BANKS + 1))
        begin, finish, free = Signal(), Signal(), Signal()
        m.d.sync += begun.eq(begun + begin - free)
        m.d.sync += complete.eq(complete + finish - free)

        # Pass 1, over rows: never held back once a block has begun.
        step = Signal(5)
        row, pair = step[2:], step[:2]
        working, at_end = Signal(), Signal()
        m.d.comb += working.eq(self.i.valid & ((step != 0) | (begun != _BANKS)))
        # A tile stays until it is taken, so it is there at its last step.
        m.d.comb += [begin.eq(working & (step == 0)), self.i.ready.eq(at_end)]
        m.d.sync += at_end.eq(working & (step == 30))
        m.d.comb += rows.en.eq(1)
        m.d.sync += rows.i_valid.eq(working)
        with m.If(working):
            m.d.sync += step.eq(step + 1)
        samples = self.i.payload.as_value()
        for n, column in enumerate((Cat(pair, C(0, 1)), Cat(~pair, C(1, 1)))):
            sample = samples.word_select(Cat(column, row), 8)
            # The level shift turns offset binary into two's complement.
            m.d.sync += rows.i[n].eq(Cat(sample[:7], ~sample[7]).as_signed())

        # A memory for each half of the rows and each parity of the columns: two are written and two read at a time.
        memories = {}
        for half in range(2):
            for parity in range(2):
                memory = Memory(shape=between, depth=16 * _BANKS, init=[])
                m.submodules[f"half{half}_parity{parity}"] = memory
                memories[half, parity] = memory.write_port(), memory.read_port()

        wr_step = Signal(5)
        wr_bank, rd_bank = Signal(range(_BANKS)), Signal(range(_BANKS))
        for (half, parity), (write, _) in memories.items():
            m.d.comb += [
                write.addr.eq(Cat(wr_step[:4], wr_bank)),
                write.data.eq(rows.o[parity]),
                write.en.eq(rows.o_valid & (wr_step[4] == half)),
            ]
        with m.If(rows.o_valid):
            m.d.sync += wr_step.eq(wr_step + 1)
            with m.If(wr_step == 31):
                m.d.comb += finish.eq(1)
                m.d.sync += wr_bank.eq(wr_bank + 1)

        # Pass 2, over columns: all of it halts while the output waits.
        go = Signal()
        m.d.comb += go.eq(~self.o.valid | self.o.ready)
        rd_step, rd_odd = Signal(5), Signal()
        rd_pair, column = rd_step[:2], rd_step[2:]
        reading, read = Signal(), Signal()
        m.d.comb += reading.eq(complete != 0)
        for (half, _), (_, port) in memories.items():
            m.d.comb += [
                port.addr.eq(Cat(column[1:], ~rd_pair if half else rd_pair, rd_bank)),
                port.en.eq(go),
            ]
        with m.If(go):
            m.d.sync += [read.eq(reading), rd_odd.eq(column[0])]
            with m.If(reading):
                m.d.sync += rd_step.eq(rd_step + 1)
                with m.If(rd_step == 31):
                    m.d.comb += free.eq(1)
                    m.d.sync += rd_bank.eq(rd_bank + 1)
        m.d.comb += [columns.en.eq(go), columns.i_valid.eq(read)]
        for half in range(2):
            m.d.comb += columns.i[half].eq(Mux(rd_odd, memories[half, 1][1].data, memories[half, 0][1].data))
        m.d.comb += [self.o.valid.eq(columns.o_valid), self.o.payload.eq(columns.o)]
        return m
