"""Quantization: tables scaled to a quality, and the exact rounding division by them."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg.tables import CHROMA_QUANT, LUMA_QUANT, ZIGZAG_TO_NATURAL
from tessera.hw.codec.jpeg.fdct import COEFFICIENT

__all__ = ["LEVEL", "Quantizer", "QuantizerEntry", "QuantizerTables"]

LEVEL = signed(11)
"""A quantized coefficient."""

_RECIPROCAL_BITS = 18
_MAGNITUDE_MAX = 1 << (COEFFICIENT.width - 1)


def _reciprocal(q):
    """The factor r for which m * r >> 18 is m // q, for every m that the quantizer divides by q.

    Quotient and factor meet where each m // q <= m * r / 2**18 < m // q + 1: the first r that does for all m.
    """
    largest = ((_MAGNITUDE_MAX >> 2) + q) >> 1
    r = max(-(-(m // q << _RECIPROCAL_BITS) // m) for m in range(1, largest + 1))
    if any(m * r >> _RECIPROCAL_BITS != m // q for m in range(largest + 1)):
        raise ValueError(f"no reciprocal of {q}")
    return r


class QuantizerEntry(data.Struct):
    """One entry of a quantization table."""

    place: 6
    """8 * row + column."""
    chroma: 1
    q: 8
    """1 to 255."""


class QuantizerTables(wiring.Component):
    """The tables of annex K at a quality: clamp((table * scale + 50) // 100, 1, 255), with scale 5000 // quality below
    50 and 200 - 2 * quality from there on.

    Equals :func:`tessera.golden.jpeg.encoder.quantizers`. One entry a cycle; the first is offered four cycles after the
    quality.

    Members
    -------
    i : :py:`In(stream.Signature(7))`
        Quality, 1 to 100, taken with the last entry.
    o : :py:`Out(stream.Signature(QuantizerEntry))`
        The 64 entries of luma's table, then the 64 of chroma's, each in zig-zag order.
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(7)), "o": Out(stream.Signature(QuantizerEntry))})

    def elaborate(self, platform):
        m = Module()

        scales = [5000 // q if q < 50 else 200 - 2 * q for q in range(1, 101)]
        m.submodules.scales = scale_rom = Memory(shape=13, depth=128, init=[0, *scales])
        m.submodules.base = base_rom = Memory(
            shape=data.StructLayout({"base": 7, "place": 6}),
            depth=128,
            init=[
                {"base": table[place], "place": place}
                for table in (LUMA_QUANT, CHROMA_QUANT)
                for place in ZIGZAG_TO_NATURAL
            ],
        )
        scale, base = scale_rom.read_port(), base_rom.read_port()

        go = Signal()
        number = Signal(8)
        m.d.comb += go.eq(~self.o.valid | self.o.ready)
        m.d.comb += [scale.addr.eq(self.i.payload), base.addr.eq(number[:7]), base.en.eq(go), scale.en.eq(go)]

        # Stages: read, multiply and round, divide, clamp. A scaled entry from 25600 on is above 255 anyway.
        stages = [Signal(name=f"stage{n}") for n in range(3)]
        chroma = [Signal(name=f"chroma{n}") for n in range(3)]
        place = [Signal(6, name=f"place{n}") for n in range(2)]
        scaled = Signal(20)
        large = Signal()
        quotient = Signal(9)
        with m.If(go):
            m.d.sync += [
                stages[0].eq(self.i.valid & ~number[7]),
                chroma[0].eq(number[6]),
                stages[1].eq(stages[0]),
                chroma[1].eq(chroma[0]),
                place[0].eq(base.data.place),
                scaled.eq(base.data.base * scale.data + 50),
                stages[2].eq(stages[1]),
                chroma[2].eq(chroma[1]),
                place[1].eq(place[0]),
                large.eq(scaled >= 25600),
                quotient.eq((scaled[:15] * 5243) >> 19),
                self.o.valid.eq(stages[2]),
                self.o.payload.chroma.eq(chroma[2]),
                self.o.payload.place.eq(place[1]),
                self.o.payload.q.eq(Mux(large | quotient[8], 255, Mux(quotient == 0, 1, quotient))),
            ]
            with m.If(self.i.valid & ~number[7]):
                m.d.sync += number.eq(number + 1)
        last = self.o.valid & self.o.payload.chroma & (self.o.payload.place == 63)
        m.d.comb += self.i.ready.eq(last & self.o.ready)
        with m.If(self.i.ready):
            m.d.sync += number.eq(0)
        return m


class Quantizer(wiring.Component):
    """Divides coefficients by eight times their table entry, rounding half away from zero.

    Equals :func:`tessera.golden.jpeg.dct.quantize`. Blocks are taken when both tables are there.

    Throughput is 2 coefficients a cycle, a block in 32 cycles without gaps; latency four cycles.

    Members
    -------
    i_entry : :py:`In(stream.Signature(QuantizerEntry))`
        128 entries make both tables; always taken. More of them are for after a reset.
    i_chroma : :py:`In(stream.Signature(1))`
        Of each block which table; taken with the block's last coefficients.
    i : :py:`In(stream.Signature(data.ArrayLayout(COEFFICIENT, 2)))`
        As :class:`Fdct` gives them.
    o : :py:`Out(stream.Signature(data.ArrayLayout(LEVEL, 2)))`
        In the same order.
    """

    def __init__(self):
        super().__init__(
            {
                "i_entry": In(stream.Signature(QuantizerEntry)),
                "i_chroma": In(stream.Signature(1)),
                "i": In(stream.Signature(data.ArrayLayout(COEFFICIENT, 2))),
                "o": Out(stream.Signature(data.ArrayLayout(LEVEL, 2))),
            }
        )

    def elaborate(self, platform):
        m = Module()

        entries = Signal(8)
        loaded = entries[7]
        entry = self.i_entry.payload
        m.d.comb += self.i_entry.ready.eq(1)
        with m.If(self.i_entry.valid & ~loaded):
            m.d.sync += entries.eq(entries + 1)

        go, taken = Signal(), Signal()
        step = Signal(5)
        m.d.comb += [
            go.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(go & loaded & self.i_chroma.valid),
            taken.eq(self.i.valid & self.i.ready),
            self.i_chroma.ready.eq(taken & (step == 31)),
        ]
        with m.If(taken):
            m.d.sync += step.eq(step + 1)

        stages = [Signal(name=f"stage{n}") for n in range(3)]
        with m.If(go):
            m.d.sync += [
                stages[0].eq(taken),
                stages[1].eq(stages[0]),
                stages[2].eq(stages[1]),
                self.o.valid.eq(stages[2]),
            ]

        # The ROM has no factor for 1, which would need a bit more.
        m.submodules.reciprocals = reciprocals = Memory(
            shape=_RECIPROCAL_BITS, depth=256, init=[0, 0] + [_reciprocal(q) for q in range(2, 256)]
        )
        # Even and odd rows apart; the order within is that of the coefficients: column, then row.
        for parity in range(2):
            memory = Memory(shape=8, depth=64, init=[])
            m.submodules[f"table{parity}"] = memory
            write, read = memory.write_port(), memory.read_port()
            reciprocal = reciprocals.read_port()
            row, column = entry.place[3:], entry.place[:3]
            m.d.comb += [
                write.addr.eq(Cat(row[1:], column, entry.chroma)),
                write.data.eq(entry.q),
                write.en.eq(self.i_entry.valid & ~loaded & (row[0] == parity)),
                read.addr.eq(Cat(step, self.i_chroma.payload)),
                read.en.eq(go),
                reciprocal.addr.eq(read.data),
                reciprocal.en.eq(go),
            ]
            coefficient = self.i.payload[parity]
            magnitude = Signal(COEFFICIENT.width)
            negative = Signal(3)
            dividend, undivided = Signal(COEFFICIENT.width - 3), Signal(COEFFICIENT.width - 3)
            one = Signal(2)
            divided = Signal(COEFFICIENT.width - 3)
            quotient = Mux(one[1], undivided, divided)[: LEVEL.width]
            with m.If(go):
                m.d.sync += [
                    magnitude.eq(Mux(coefficient < 0, -coefficient, coefficient)),
                    negative.eq(Cat(coefficient < 0, negative)),
                    # (magnitude + 4 * q) // (8 * q), with what cannot matter shifted out first.
                    dividend.eq(((magnitude >> 2) + read.data) >> 1),
                    one.eq(Cat(read.data == 1, one)),
                    divided.eq((dividend * reciprocal.data) >> _RECIPROCAL_BITS),
                    undivided.eq(dividend),
                    self.o.payload[parity].eq(Mux(negative[2], -quotient, quotient)),
                ]
        return m
