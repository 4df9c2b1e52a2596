"""From coefficients in zig-zag order to the columns of dequantized blocks (Ref: ITU-T T.81 A.3.4, A.3.6)."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg.tables import ZIGZAG_TO_NATURAL
from tessera.hw.codec.jpeg.entropy_decoder import Token
from tessera.hw.lib.streams import observe
from tessera.hw.memory.surface import TilePlace

__all__ = ["Column", "Dequantizer", "QuantizerLoad"]


class QuantizerLoad(data.Struct):
    """An entry of a quantization table."""

    tq: 2
    k: 6
    """In zig-zag order."""
    value: 16


Column = data.StructLayout({"column": data.ArrayLayout(signed(16), 8), "place": TilePlace})
"""As :class:`Idct` takes it."""


class Dequantizer(wiring.Component):
    """Multiplies coefficients by their quantizers, puts them in their places, fills up with zeros and offers columns.

    One token per cycle; columns of a block are offered from 3 cycles after its last token was taken, one per cycle. One
    block fills while another leaves. A block that is not ``inside`` is dropped, which costs 2 cycles.

    Products wrap to signed 16 bits.

    Members
    -------
    load : :py:`In(stream.Signature(QuantizerLoad))`
        Always taken; effective for tokens taken later.
    i : :py:`In(stream.Signature(Token))`
    o : :py:`Out(stream.Signature(Column))`
        Left to right.
    """

    load: In(stream.Signature(QuantizerLoad))
    i: In(stream.Signature(Token))
    o: Out(stream.Signature(Column))

    def elaborate(self, platform):
        m = Module()
        m.submodules.quantizers = quantizers = Memory(shape=16, depth=256, init=[])
        write, read = quantizers.write_port(), quantizers.read_port()
        new = self.load.payload
        m.d.comb += [
            self.load.ready.eq(1),
            write.en.eq(self.load.valid),
            write.addr.eq(Cat(new.k, new.tq)),
            write.data.eq(new.value),
        ]

        bank, out_bank = Signal(), Signal()
        closed, full = Signal(2), Signal(2)
        token = self.i.payload
        m.d.comb += [self.i.ready.eq(~closed.bit_select(bank, 1)), read.addr.eq(Cat(token.k, token.tq)), read.en.eq(1)]
        taken = self.i.valid & self.i.ready
        with m.If(taken & token.last):
            m.d.sync += closed.bit_select(bank, 1).eq(1)
            # A block that is dropped leaves its bank to the next one.
            m.d.sync += bank.eq(bank ^ token.inside)

        stage = data.StructLayout(
            {"valid": 1, "bank": 1, "place": 6, "last": 1, "inside": 1, "tile": TilePlace, "value": signed(16)}
        )
        one, two = Signal(stage), Signal(stage)
        with m.Switch(token.k):
            for k, natural in enumerate(ZIGZAG_TO_NATURAL):
                with m.Case(k):
                    m.d.sync += one.place.eq(natural)
        m.d.sync += [
            one.valid.eq(taken),
            one.bank.eq(bank),
            one.last.eq(token.last),
            one.inside.eq(token.inside),
            one.tile.eq(token.place),
            one.value.eq(token.value),
            two.eq(one),
            two.value.eq((one.value * read.data)[:16].as_signed()),
        ]

        tiles = [Signal(TilePlace, name=f"tile{n}") for n in range(2)]
        # Which coefficients of each bank were written; the others are 0.
        written = [Signal(64, name=f"written{n}") for n in range(2)]
        rows = []
        for r in range(8):
            m.submodules[f"row{r}"] = memory = Memory(shape=signed(16), depth=16, init=[])
            port = memory.write_port()
            m.d.comb += [
                port.addr.eq(Cat(two.place[:3], two.bank)),
                port.data.eq(two.value),
                port.en.eq(two.valid & (two.place[3:] == r)),
            ]
            rows.append(memory.read_port(domain="comb"))
        column = Signal(3)
        leaves = Signal(2)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += column.eq(column + 1)
            with m.If(column == 7):
                m.d.comb += leaves.bit_select(out_bank, 1).eq(1)
                m.d.sync += out_bank.eq(~out_bank)
        for n in range(2):
            with m.If(two.valid & (two.bank == n)):
                m.d.sync += written[n].eq(written[n] | (1 << two.place))
                with m.If(two.last):
                    with m.If(two.inside):
                        m.d.sync += [full[n].eq(1), tiles[n].eq(two.tile)]
                    with m.Else():
                        m.d.sync += [closed[n].eq(0), written[n].eq(0)]
            with m.If(leaves[n]):
                m.d.sync += [full[n].eq(0), closed[n].eq(0), written[n].eq(0)]
        m.d.comb += [
            self.o.valid.eq(full.bit_select(out_bank, 1)),
            self.o.payload.place.eq(Mux(out_bank, Value.cast(tiles[1]), Value.cast(tiles[0]))),
        ]
        mask = Mux(out_bank, written[1], written[0])
        for r, port in enumerate(rows):
            m.d.comb += port.addr.eq(Cat(column, out_bank))
            m.d.comb += self.o.payload.column[r].eq(Mux(mask.word_select(r, 8).bit_select(column, 1), port.data, 0))
        observe(m, self.o)
        return m
