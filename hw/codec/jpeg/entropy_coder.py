"""Symbols to the bytes of entropy-coded segments."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg.tables import HUFF_AC_CHROMA, HUFF_AC_LUMA, HUFF_DC_CHROMA, HUFF_DC_LUMA, Marker
from tessera.hw.codec.jpeg.symbols import Symbol, SymbolKind
from tessera.hw.lib.streams import connect
from tessera.hw.memory.bitstream_writer import Chunk

__all__ = ["EntropyCoder"]

_CODED_MAX = 16 + 11
"""Most bits of a symbol: its code and the magnitude behind it."""


class _Code(data.Struct):
    code: 16
    length: 5


class _Bits(data.Struct):
    kind: SymbolKind
    end: 1
    """Of a marker: EOI."""
    bits: _CODED_MAX
    """The last of them is bit 0; zeros above ``length``."""
    length: 5


class _Word(data.Struct):
    data: 32
    """The first byte is the highest."""
    count: 3
    """Bytes, 1 to 4."""
    marker: 1
    last: 1


def _code_address(is_dc, chroma, run, size):
    """Where a symbol's code is: DC categories take places of AC symbols of size 0, which has but runs 0 and 15."""
    return Cat(Mux(is_dc, 0, size), Mux(is_dc, size + 1, run)[:4], chroma)


def _codes():
    """The code ROM (Ref: ITU-T T.81 C.2)."""
    rom = [{"code": 0, "length": 0}] * 512
    for chroma, dc_table, ac_table in ((0, HUFF_DC_LUMA, HUFF_AC_LUMA), (1, HUFF_DC_CHROMA, HUFF_AC_CHROMA)):
        for is_dc, (counts, symbols) in ((True, dc_table), (False, ac_table)):
            code, symbols = 0, iter(symbols)
            for length, count in enumerate(counts, 1):
                for _ in range(count):
                    run, size = divmod(next(symbols), 16)
                    place = 0 | (size + 1) << 4 if is_dc else size | run << 4
                    rom[chroma << 8 | place] = {"code": code, "length": length}
                    code += 1
                code <<= 1
    return rom


class _Coder(wiring.Component):
    """Symbols to bit strings: the Huffman code with the magnitude behind it. One a cycle, two cycles later."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(Symbol)), "o": Out(stream.Signature(_Bits))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.codes = memory = Memory(shape=_Code, depth=512, init=_codes())
        code = memory.read_port()
        go, valid = Signal(), Signal()
        symbol = self.i.payload
        before = Signal(data.StructLayout({"kind": SymbolKind, "end": 1, "size": 4, "magnitude": 11}))
        m.d.comb += [
            go.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(go),
            code.en.eq(go),
            code.addr.eq(_code_address(symbol.kind == SymbolKind.Dc, symbol.chroma, symbol.run, symbol.size)),
        ]
        magnitude = Signal(11)
        for n in range(11):
            m.d.comb += magnitude[n].eq(before.magnitude[n] & (before.size > n))
        with m.If(go):
            m.d.sync += [
                valid.eq(self.i.valid),
                before.kind.eq(symbol.kind),
                before.end.eq(symbol.run[0]),
                before.size.eq(symbol.size),
                before.magnitude.eq(symbol.magnitude),
                self.o.valid.eq(valid),
                self.o.payload.kind.eq(before.kind),
                self.o.payload.end.eq(before.end),
                self.o.payload.bits.eq((code.data.code << before.size) | magnitude),
                self.o.payload.length.eq(code.data.length + before.size),
            ]
        return m


class _Packer(wiring.Component):
    """Bit strings to words of four bytes, and of fewer before a marker. One a cycle, three cycles later."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(_Bits)), "o": Out(stream.Signature(_Word))})

    def elaborate(self, platform):
        m = Module()
        go = Signal()
        m.d.comb += [go.eq(~self.o.valid | self.o.ready), self.i.ready.eq(go)]

        # Where a string goes: bits waiting before it, at the top of a frame of 64.
        item = self.i.payload
        waiting = Signal(5)
        restarts = Signal(3)
        is_marker, is_fill = item.kind == SymbolKind.Marker, item.kind == SymbolKind.Fill
        length, bits = Signal(5), Signal(_CODED_MAX)
        ending = Signal(6)
        fill = Signal(3)
        m.d.comb += [
            fill.eq(-waiting),
            length.eq(Mux(is_fill, fill, item.length)),
            bits.eq(item.bits),
            ending.eq(waiting + length),
        ]
        with m.If(is_fill):
            m.d.comb += bits.eq((C(1, 8) << fill) - 1)
        with m.If(is_marker):
            m.d.comb += [bits.eq(0), length.eq(0)]
        valid = Signal(2)
        placed = Signal(_CODED_MAX)
        shift = Signal(6)
        gives = [Signal(name=f"gives{n}") for n in range(2)]
        kept = data.StructLayout({"count": 3, "code": 8, "marker": 1, "last": 1})
        word = [Signal(kept, name=f"word{n}") for n in range(2)]
        with m.If(go):
            m.d.sync += [
                valid.eq(Cat(self.i.valid, valid)),
                placed.eq(bits),
                shift.eq(64 - ending),
                gives[0].eq(ending[5] | (is_fill & (ending != 0)) | is_marker),
                word[0].count.eq(Mux(is_marker, 2, Mux(is_fill, ending >> 3, 4))),
                word[0].marker.eq(is_marker),
                word[0].last.eq(is_marker & item.end),
                word[0].code.eq(Mux(item.end, Marker.EOI, Marker.RST0 | restarts)),
            ]
            with m.If(self.i.valid):
                m.d.sync += waiting.eq(ending)
                with m.If(is_marker):
                    m.d.sync += restarts.eq(Mux(item.end, 0, restarts + 1))
                # What waits before a fill leaves with it, and a marker follows.
                with m.If(is_marker):
                    m.d.sync += waiting.eq(0)

        shifted, gathered = Signal(64), Signal(32)
        whole = gathered | shifted[32:]
        with m.If(go):
            m.d.sync += [
                shifted.eq(placed << shift),
                gives[1].eq(gives[0]),
                word[1].eq(word[0]),
                self.o.valid.eq(valid[1] & gives[1]),
                self.o.payload.data.eq(Mux(word[1].marker, Cat(C(0, 16), word[1].code, C(0xFF, 8)), whole)),
                self.o.payload.count.eq(word[1].count),
                self.o.payload.marker.eq(word[1].marker),
                self.o.payload.last.eq(word[1].last),
            ]
            with m.If(valid[1]):
                m.d.sync += gathered.eq(Mux(gives[1], shifted[:32], whole))
        return m


class _Stuffer(wiring.Component):
    """A zero behind each byte 0xFF that is no marker's (Ref: ITU-T T.81 B.1.1.5). One word a cycle, a cycle later."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(_Word)), "o": Out(stream.Signature(Chunk))})

    def elaborate(self, platform):
        m = Module()
        go = Signal()
        m.d.comb += [go.eq(~self.o.valid | self.o.ready), self.i.ready.eq(go)]
        word = self.i.payload
        stuffed = Signal(4)
        outputs = [Const(0, 8)] * 8
        before = Const(0, 2)
        for n in range(4):
            byte = word.data[24 - 8 * n : 32 - 8 * n]
            m.d.comb += stuffed[n].eq(byte.all() & (word.count > n) & ~word.marker)
            for k in range(n + 1):
                outputs[n + k] = outputs[n + k] | Mux((before == k) & (word.count > n), byte, 0)
            before = Signal(3, name=f"before{n + 1}")
            m.d.comb += before.eq(sum(stuffed[i] for i in range(n + 1)))
        with m.If(go):
            m.d.sync += [
                self.o.valid.eq(self.i.valid),
                self.o.payload.count.eq(word.count + before),
                self.o.payload.last.eq(word.last),
            ]
            for k in range(8):
                m.d.sync += self.o.payload.data[k].eq(outputs[k])
        return m


class EntropyCoder(wiring.Component):
    """Codes symbols with the Huffman tables of annex K, packs and stuffs them.

    ``Fill`` ends a segment with ones; what follows it must be a ``Marker``, which becomes RST0 to RST7 in turn, or EOI,
    which ends the stream. The next stream begins like the first.

    Throughput is one symbol per cycle; what completes four bytes is offered six cycles after it was taken.

    Ref: ITU-T T.81 F.1.2, annex K.3

    Members
    -------
    i : :py:`In(stream.Signature(Symbol))`
    o : :py:`Out(stream.Signature(Chunk))`
        Bytes, ``last`` with the second one of EOI.
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(Symbol)), "o": Out(stream.Signature(Chunk))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.coder = coder = _Coder()
        m.submodules.packer = packer = _Packer()
        m.submodules.stuffer = stuffer = _Stuffer()
        connect(m, wiring.flipped(self.i), coder.i)
        connect(m, coder.o, packer.i)
        connect(m, packer.o, stuffer.i)
        connect(m, stuffer.o, wiring.flipped(self.o))
        return m
