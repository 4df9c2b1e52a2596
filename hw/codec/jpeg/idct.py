"""The inverse transform: 8x8 blocks of coefficients to 64 samples, exact to libjpeg's ISLOW method."""

from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg import tables as t
from tessera.hw.lib.streams import observe

__all__ = ["BLOCK_CYCLES", "LATENCY", "Idct", "IdctParameters"]

_STAGES = 6
BLOCK_CYCLES = 8 + _STAGES + 8
"""Cycles from the first column of a block to that of the next, when neither side stalls."""
LATENCY = 8 + _STAGES + 8 + _STAGES
"""Cycles from the one in which a block's first column is taken to the one in which its tile is offered."""


@dataclass(frozen=True)
class IdctParameters:
    """Parameters of :class:`Idct`.

    Parameters
    ----------
    place : shape-like
        Shape of what travels with a block unchanged: where its tile goes.
    """

    place: object = unsigned(1)


class Idct(wiring.Component):
    """Inverse DCT of 8x8 blocks, in two passes over one 1-D transform of 12 multipliers.

    Exact to :func:`tessera.golden.jpeg.dct.inverse`, wraps and saturations of damaged data included.

    Blocks come as eight columns, left to right. One block leaves each 22 cycles (8 columns, 6 stages, 8 rows; the
    rows' stages overlap the next block's columns) if neither side stalls; its tile is offered 28 cycles after its first
    column was taken. Tiles wait in a register: a block's rows start only when the tile before has left.

    Parameters
    ----------
    parameters : :class:`IdctParameters`

    Members
    -------
    i : :py:`In(stream.Signature(..))`
        ``column``: eight dequantized coefficients, signed 16 bits, top (no vertical frequency) first; ``place``: looked
        at with the last column of a block.
    o : :py:`Out(stream.Signature(..))`
        ``samples``: 64 of 8 bits in raster order; ``place``.
    """

    def __init__(self, parameters=None):
        self.parameters = parameters or IdctParameters()
        place = self.parameters.place
        column = data.StructLayout({"column": data.ArrayLayout(signed(16), 8), "place": place})
        tile = data.StructLayout({"samples": data.ArrayLayout(8, 64), "place": place})
        super().__init__(
            {
                "i": In(stream.Signature(column)),
                "o": Out(stream.Signature(tile)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.line = line = _Line()

        # Pass 1 writes columns of this block, pass 2 reads its rows.
        block = Signal(data.ArrayLayout(data.ArrayLayout(signed(16), 8), 8))
        samples = Signal(data.ArrayLayout(data.ArrayLayout(8, 8), 8))
        place = Signal(self.parameters.place)
        full = Signal()
        index = Signal(3)

        m.d.comb += [
            self.o.valid.eq(full),
            Value.cast(self.o.payload.samples).eq(Value.cast(samples)),
            Value.cast(self.o.payload.place).eq(Value.cast(place)),
        ]
        with m.If(full & self.o.ready):
            m.d.sync += full.eq(0)

        waiting_place = Signal(self.parameters.place)
        with m.FSM(name="idct"):
            with m.State("Columns"):
                m.d.comb += [self.i.ready.eq(1), line.start.eq(self.i.valid), line.second.eq(0)]
                m.d.comb += [line.i[n].eq(self.i.payload.column[n]) for n in range(8)]
                with m.If(self.i.valid):
                    m.d.sync += index.eq(index + 1)
                    with m.If(index == 7):
                        m.d.sync += Value.cast(waiting_place).eq(Value.cast(self.i.payload.place))
                        m.next = "Stages"
            with m.State("Stages"):
                # The last column is in the block when rows begin; the tile before must leave before its rows are lost.
                m.d.sync += index.eq(Mux(index == _STAGES - 1, index, index + 1))
                with m.If((index == _STAGES - 1) & (~full | self.o.ready)):
                    m.d.sync += [index.eq(0), Value.cast(place).eq(Value.cast(waiting_place))]
                    m.next = "Rows"
            with m.State("Rows"):
                m.d.comb += [line.start.eq(1), line.second.eq(1)]
                with m.Switch(index):
                    for r in range(8):
                        with m.Case(r):
                            m.d.comb += [line.i[c].eq(block[r][c]) for c in range(8)]
                m.d.sync += index.eq(index + 1)
                with m.If(index == 7):
                    m.next = "Columns"
        m.d.comb += line.index.eq(index)

        with m.If(line.done & ~line.done_second):
            with m.Switch(line.done_index):
                for c in range(8):
                    with m.Case(c):
                        m.d.sync += [block[r][c].eq(line.o[r]) for r in range(8)]
        with m.If(line.done & line.done_second):
            with m.Switch(line.done_index):
                for r in range(8):
                    with m.Case(r):
                        m.d.sync += [samples[r][c].eq(line.o[c][:8]) for c in range(8)]
            with m.If(line.done_index == 7):
                m.d.sync += full.eq(1)
        observe(m, self.o)
        return m


class _Line(wiring.Component):
    """One pass over a line of eight, a line a cycle, result after ``_STAGES`` registers.

    First pass: descaled by 11, saturated to signed 16 bits. Second: descaled by 18, saturated to 8 bits, plus 128.
    """

    start: In(1)
    second: In(1)
    index: In(3)
    i: In(signed(16)).array(8)
    done: Out(1)
    done_second: Out(1)
    done_index: Out(3)
    o: Out(signed(16)).array(8)

    def elaborate(self, platform):
        m = Module()
        controls = [(self.start, self.second, self.index)]
        for n in range(1, _STAGES + 1):
            control = Signal(name=f"start{n}"), Signal(name=f"second{n}"), Signal(3, name=f"index{n}")
            m.d.sync += [a.eq(b) for a, b in zip(control, controls[-1])]
            controls.append(control)
        m.d.comb += [a.eq(b) for a, b in zip((self.done, self.done_second, self.done_index), controls[-1])]

        def registers(stage, **values):
            kept = {}
            for name, (value, shape) in values.items():
                kept[name] = Signal(shape, name=f"{name}_{stage}")
                m.d.sync += kept[name].eq(value)
            return kept

        s16, s17, s32 = signed(16), signed(17), signed(32)
        i = registers(1, **{f"i{n}": (self.i[n], s16) for n in range(8)})
        i = [i[f"i{n}"] for n in range(8)]

        def wrap(value):
            return value[:16].as_signed()

        z3, z4 = wrap(i[7] + i[3]), wrap(i[5] + i[1])
        f = registers(
            2,
            e0=(i[0] + i[4], s16), e1=(i[0] - i[4], s16), r=(i[2] + i[6], s17), i2=(i[2], s16), i6=(i[6], s16),
            z3=(z3, s16), z4=(z4, s16), z5=(z3 + z4, s17), z1=(i[7] + i[1], s17), z2=(i[5] + i[3], s17),
            i1=(i[1], s16), i3=(i[3], s16), i5=(i[5], s16), i7=(i[7], s16),
        )  # fmt: skip
        factors = {
            "r": t.FIX_0_541196100, "i6": t.FIX_1_847759065, "i2": t.FIX_0_765366865, "z5": t.FIX_1_175875602,
            "z1": t.FIX_0_899976223, "z2": t.FIX_2_562915447, "z3": t.FIX_1_961570560, "z4": t.FIX_0_390180644,
            "i1": t.FIX_1_501321110, "i3": t.FIX_3_072711026, "i5": t.FIX_2_053119869, "i7": t.FIX_0_298631336,
        }  # fmt: skip
        products = {name: (f[name] * C(factor, signed(16)), s32) for name, factor in factors.items()}
        p = registers(3, e0=(f["e0"], s16), e1=(f["e1"], s16), **products)

        # Rounding for the descale rides on the even half's first terms.
        half = Signal(s32)
        first_shift, second_shift = t.CONST_BITS - t.PASS1_BITS, t.CONST_BITS + t.PASS1_BITS + 3
        m.d.comb += half.eq(Mux(controls[3][1], 1 << (second_shift - 1), 1 << (first_shift - 1)))
        f = registers(
            4,
            e0=((p["e0"] << t.CONST_BITS) + half, s32), e1=((p["e1"] << t.CONST_BITS) + half, s32),
            e2=(p["r"] - p["i6"], s32), e3=(p["r"] + p["i2"], s32),
            z3=(p["z5"] - p["z3"], s32), z4=(p["z5"] - p["z4"], s32),
            o0=(p["i1"] - p["z1"], s32), o1=(p["i3"] - p["z2"], s32),
            o2=(p["i5"] - p["z2"], s32), o3=(p["i7"] - p["z1"], s32),
        )  # fmt: skip
        f = registers(
            5,
            e0=(f["e0"] + f["e3"], s32), e1=(f["e1"] + f["e2"], s32),
            e2=(f["e1"] - f["e2"], s32), e3=(f["e0"] - f["e3"], s32),
            o0=(f["o0"] + f["z4"], s32), o1=(f["o1"] + f["z3"], s32),
            o2=(f["o2"] + f["z4"], s32), o3=(f["o3"] + f["z3"], s32),
        )  # fmt: skip
        sums = {f"s{n}": (f[f"e{n}"] + f[f"o{n}"], s32) for n in range(4)}
        sums |= {f"s{7 - n}": (f[f"e{n}"] - f[f"o{n}"], s32) for n in range(4)}
        s = registers(6, **sums)

        for n in range(8):
            value = s[f"s{n}"]
            first = Signal(signed(32 - first_shift), name=f"first{n}")
            second = Signal(signed(32 - second_shift), name=f"second{n}")
            m.d.comb += [first.eq(value >> first_shift), second.eq(value >> second_shift)]
            with m.If(controls[6][1]):
                fits = (second[7:].all()) | ~(second[7:].any())
                m.d.comb += self.o[n].eq(Mux(fits, second[:8], Mux(second[-1], 0x80, 0x7F)) ^ 0x80)
            with m.Else():
                fits = (first[15:].all()) | ~(first[15:].any())
                m.d.comb += self.o[n].eq(Mux(fits, first[:16], Mux(first[-1], 0x8000, 0x7FFF)))
        return m
