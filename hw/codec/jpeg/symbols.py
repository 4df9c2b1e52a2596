"""Quantized blocks to symbols: zig-zag order, runs of zeros, DC differences."""

from amaranth.hdl import *
from amaranth.lib import data, enum, fifo, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg.tables import ZIGZAG_TO_NATURAL
from tessera.hw.codec.jpeg.quantize import LEVEL
from tessera.hw.lib.streams import connect

__all__ = ["BlockInfo", "RunLength", "Symbol", "SymbolKind"]

_BANKS = 4


class BlockInfo(data.Struct):
    """What coding needs to know of a block."""

    component: 2
    """0 Y, 1 Cb, 2 Cr."""
    dummy: 1
    """Only fills up the MCU: no coefficients come for it, and it codes as a block that repeats the DC."""
    restart: 1
    """A restart marker goes before it."""
    last: 1
    """The scan ends with it."""


class SymbolKind(enum.Enum, shape=2):
    """What a symbol stands for."""

    Dc = 0
    """A DC difference."""
    Ac = 1
    """Zeros and a coefficient; run 15 size 0 are sixteen zeros, run 0 size 0 ends the block."""
    Fill = 2
    """Ones up to the next whole byte."""
    Marker = 3
    """RSTn if ``run`` is 0, else EOI."""


class Symbol(data.Struct):
    """What is coded at once: a Huffman code and the bits behind it, or a marker."""

    kind: SymbolKind
    chroma: 1
    run: 4
    size: 4
    """Magnitude category: number of bits of ``magnitude`` that follow the code."""
    magnitude: 11
    """Of no meaning from bit ``size`` on."""


class _TokenKind(enum.Enum, shape=3):
    Dc = 0
    Ac = 1
    EndOfBlock = 2
    Fill = 3
    Restart = 4
    EndOfImage = 5


class _Token(data.Struct):
    kind: _TokenKind
    position: 6
    component: 2
    dummy: 1
    coded: 1
    """A coefficient goes with it."""
    last: 1
    """Of its block: the bank is free behind it."""


def _first(bits):
    """Number of the lowest bit that is set in `bits`, whose width is a power of two, and that bit alone."""
    if len(bits) == 1:
        return None, bits
    half = len(bits) // 2
    low, high = bits[:half], bits[half:]
    low_number, low_bit = _first(low)
    high_number, high_bit = _first(high)
    none = ~low.any()
    number = Cat(Mux(none, high_number, low_number), none) if half > 1 else none
    return number, Cat(low_bit, high_bit & none.replicate(half))


class _Scan(wiring.Component):
    """The places of a block's symbols: DC, each coefficient that is not zero, the end of block; and the markers.

    One token a cycle.
    """

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(64)),
                "i_info": In(stream.Signature(BlockInfo)),
                "o": Out(stream.Signature(_Token)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        go = Signal()
        m.d.comb += go.eq(~self.o.valid | self.o.ready)
        info = self.i_info.payload
        left, bit = Signal(64), Signal(64)
        position = Signal(6)
        first, first_bit = _first(left)
        m.d.comb += [position.eq(first), bit.eq(first_bit)]
        restarted, ending = Signal(), Signal()
        token = self.o.payload

        with m.If(go):
            m.d.sync += [
                self.o.valid.eq(0),
                token.component.eq(info.component),
                token.dummy.eq(info.dummy),
                token.position.eq(position),
                token.last.eq(0),
            ]

        def give(kind):
            coded = kind in (_TokenKind.Dc, _TokenKind.Ac)
            return [self.o.valid.eq(1), token.kind.eq(kind), token.coded.eq(coded)]

        def finish_block():
            m.d.comb += self.i_info.ready.eq(1)
            m.d.sync += token.last.eq(~info.dummy)
            with m.If(info.last):
                m.d.sync += ending.eq(1)
                m.next = "Fill"
            with m.Else():
                m.next = "Dc"

        with m.FSM(name="scan"):
            with m.State("Dc"):
                with m.If(go & self.i_info.valid):
                    with m.If(info.restart & ~restarted):
                        m.d.sync += give(_TokenKind.Fill)
                        m.next = "Marker"
                    with m.Elif(info.dummy | self.i.valid):
                        m.d.sync += [*give(_TokenKind.Dc), token.position.eq(0), restarted.eq(0)]
                        m.d.sync += left.eq(Mux(info.dummy, 0, Cat(C(0, 1), self.i.payload[1:])))
                        m.d.comb += self.i.ready.eq(~info.dummy)
                        m.next = "Ac"
            with m.State("Ac"):
                with m.If(go):
                    m.d.sync += left.eq(left & ~bit)
                    with m.If(left.any()):
                        m.d.sync += give(_TokenKind.Ac)
                        with m.If(bit[63]):
                            finish_block()
                    with m.Else():
                        m.d.sync += give(_TokenKind.EndOfBlock)
                        finish_block()
            with m.State("Fill"):
                with m.If(go):
                    m.d.sync += give(_TokenKind.Fill)
                    m.next = "Marker"
            with m.State("Marker"):
                with m.If(go):
                    with m.If(ending):
                        m.d.sync += give(_TokenKind.EndOfImage)
                    with m.Else():
                        m.d.sync += give(_TokenKind.Restart)
                    m.d.sync += [restarted.eq(~ending), ending.eq(0)]
                    m.next = "Dc"
        return m


class RunLength(wiring.Component):
    """Codes blocks as symbols, in the zig-zag order of their coefficients.

    A block's symbols are its DC difference, then one for each AC coefficient that is not zero and for each run of
    sixteen zeros before one, then the end of block unless coefficient 63 is not zero. Predictors start at 0, and do so
    again at each restart. Before a restart come ``Fill`` and ``Marker``, as after the last block.

    Throughput is one symbol per cycle without gaps; a block enters in 32 cycles. The first symbol of a block is offered
    six cycles after its last coefficients were taken. Up to four blocks wait inside.

    Ref: ITU-T T.81 F.1.2

    Members
    -------
    i : :py:`In(stream.Signature(data.ArrayLayout(LEVEL, 2)))`
        Coefficients column by column, of each rows 0 and 1, 2 and 3, 4 and 5, 6 and 7.
    i_info : :py:`In(stream.Signature(BlockInfo))`
        One for each block, dummies included; taken with the block's last symbol.
    o : :py:`Out(stream.Signature(Symbol))`
    """

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(data.ArrayLayout(LEVEL, 2))),
                "i_info": In(stream.Signature(BlockInfo)),
                "o": Out(stream.Signature(Symbol)),
            }
        )

    def elaborate(self, platform):
        m = Module()

        # Blocks in, each a bank of coefficients and a mask of those that are not zero.
        begun = Signal(range(_BANKS + 1))
        begin, free = Signal(), Signal()
        m.d.sync += begun.eq(begun + begin - free)
        step = Signal(5)
        wr_bank = Signal(range(_BANKS))
        taken = Signal()
        m.d.comb += [
            self.i.ready.eq((step != 0) | (begun != _BANKS)),
            taken.eq(self.i.valid & self.i.ready),
            begin.eq(taken & (step == 0)),
        ]
        coefficients = []
        for parity in range(2):
            memory = Memory(shape=LEVEL, depth=32 * _BANKS, init=[])
            m.submodules[f"rows{parity}"] = memory
            write = memory.write_port()
            coefficients.append(memory.read_port())
            m.d.comb += [write.addr.eq(Cat(step, wr_bank)), write.data.eq(self.i.payload[parity]), write.en.eq(taken)]

        m.submodules.masks = masks = fifo.SyncFIFOBuffered(width=64, depth=_BANKS)
        building, mask = Signal(64), Signal(64)
        for n in range(64):
            row, column = divmod(ZIGZAG_TO_NATURAL[n], 8)
            here = (step == column * 4 + row // 2) & (self.i.payload[row % 2] != 0)
            m.d.comb += mask[n].eq(building[n] & (step != 0) | here)
        m.d.comb += [masks.w_data.eq(mask), masks.w_en.eq(taken & (step == 31))]
        with m.If(taken):
            m.d.sync += [step.eq(step + 1), building.eq(mask)]
            with m.If(step == 31):
                m.d.sync += wr_bank.eq(wr_bank + 1)

        m.submodules.scan = scan = _Scan()
        connect(m, wiring.flipped(self.i_info), scan.i_info)
        m.d.comb += [scan.i.valid.eq(masks.r_rdy), scan.i.payload.eq(masks.r_data), masks.r_en.eq(scan.i.ready)]

        # Positions to runs; a long one holds its token while the sixteens leave.
        go = Signal()
        token = scan.o.payload
        next_position = Signal(6)
        run = Signal(6)
        sixteen = Signal()
        m.d.comb += [
            go.eq(~self.o.valid | self.o.ready),
            run.eq(token.position - next_position),
            sixteen.eq((token.kind == _TokenKind.Ac) & (run[4:] != 0)),
            scan.o.ready.eq(go & ~sixteen),
        ]
        valid = Signal(3)
        coded = data.StructLayout({"kind": SymbolKind, "chroma": 1, "run": 4, "size": 4})
        symbols = [Signal(coded, name=f"symbol{n}") for n in range(3)]
        tokens = [Signal(_Token, name=f"token{n}") for n in range(2)]
        place = Signal(6)
        with m.If(go):
            m.d.sync += [
                valid.eq(Cat(scan.o.valid, valid)),
                tokens[0].eq(token),
                tokens[0].last.eq(scan.o.valid & token.last & ~sixteen),
                symbols[0].chroma.eq(token.component != 0),
                symbols[0].run.eq(Mux(sixteen, 15, run[:4])),
                # Of no value behind the code: sixteen zeros, the end of block and markers.
                symbols[0].size.eq(Mux(token.coded & ~sixteen, 15, 0)),
            ]
            with m.Switch(token.position):
                for n, natural in enumerate(ZIGZAG_TO_NATURAL):
                    with m.Case(n):
                        m.d.sync += place.eq(natural)
            with m.Switch(token.kind):
                with m.Case(_TokenKind.Dc):
                    m.d.sync += [symbols[0].kind.eq(SymbolKind.Dc), symbols[0].run.eq(0)]
                with m.Case(_TokenKind.Ac):
                    m.d.sync += symbols[0].kind.eq(SymbolKind.Ac)
                with m.Case(_TokenKind.EndOfBlock):
                    m.d.sync += [symbols[0].kind.eq(SymbolKind.Ac), symbols[0].run.eq(0)]
                with m.Case(_TokenKind.Fill):
                    m.d.sync += [symbols[0].kind.eq(SymbolKind.Fill), symbols[0].run.eq(0)]
                with m.Default():
                    m.d.sync += symbols[0].kind.eq(SymbolKind.Marker)
                    m.d.sync += symbols[0].run.eq(token.kind == _TokenKind.EndOfImage)
            with m.If(scan.o.valid):
                m.d.sync += next_position.eq(Mux(sixteen, next_position + 16, token.position + 1))

        # The coefficient of a symbol.
        rd_bank = Signal(range(_BANKS))
        odd_row = Signal()
        row, column = place[3:], place[:3]
        for port in coefficients:
            m.d.comb += [port.addr.eq(Cat(row[1:], column, rd_bank)), port.en.eq(go)]
        m.d.comb += free.eq(go & tokens[0].last)
        with m.If(go):
            m.d.sync += [symbols[1].eq(symbols[0]), tokens[1].eq(tokens[0]), odd_row.eq(row[0])]
            with m.If(tokens[0].last):
                m.d.sync += rd_bank.eq(rd_bank + 1)

        # DC differences. A dummy block's is 0.
        level, value = Signal(LEVEL), Signal(signed(LEVEL.width + 1))
        predictors = Array(Signal(LEVEL, name=f"predictor{n}") for n in range(3))
        predictor = predictors[tokens[1].component]
        m.d.comb += level.eq(Mux(odd_row, coefficients[1].data, coefficients[0].data))
        with m.If(go):
            m.d.sync += [symbols[2].eq(symbols[1]), value.eq(level)]
            with m.If(symbols[1].kind == SymbolKind.Dc):
                m.d.sync += value.eq(Mux(tokens[1].dummy, 0, level - predictor))
                with m.If(valid[1] & ~tokens[1].dummy):
                    m.d.sync += predictor.eq(level)
            with m.If(valid[1] & (symbols[1].kind == SymbolKind.Marker)):
                m.d.sync += [predictors[n].eq(0) for n in range(3)]

        # Category and magnitude.
        magnitude = Signal(LEVEL.width)
        m.d.comb += magnitude.eq(Mux(value < 0, -value, value))
        size = Signal(4)
        for n in range(LEVEL.width):
            with m.If(magnitude[n]):
                m.d.comb += size.eq(n + 1)
        with m.If(go):
            m.d.sync += [
                self.o.valid.eq(valid[2]),
                self.o.payload.kind.eq(symbols[2].kind),
                self.o.payload.chroma.eq(symbols[2].chroma),
                self.o.payload.run.eq(symbols[2].run),
                self.o.payload.size.eq(size & symbols[2].size),
                self.o.payload.magnitude.eq(Mux(value < 0, value - 1, value)),
            ]
        return m
