"""Bytes to the lines of a bitstream slot."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import connect
from tessera.hw.memory.port import Op, Request

__all__ = ["BitstreamWriter", "Chunk", "Written"]


class Chunk(data.Struct):
    """Some bytes of a bitstream."""

    data: data.ArrayLayout(8, 8)
    """Byte 0 is the first; what lies beyond ``count`` is of no meaning."""
    count: 4
    """1 to 8."""
    last: 1
    """The bitstream ends with these."""


class Written(data.Struct):
    """What became of a bitstream."""

    too_small: 1
    """It needs more lines than there are; what follows those was not written."""
    bytes: 32
    """Of the bitstream; of those taken so far if it was too small."""


class _Word(data.Struct):
    """Eight bytes of a bitstream, zeros behind its end."""

    data: 64
    last: 1


class _Aligner(wiring.Component):
    """Chunks to words. One chunk a cycle, a word two cycles after the chunk that fills it."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(Chunk)), "o": Out(stream.Signature(_Word))})

    def elaborate(self, platform):
        m = Module()
        go = Signal()
        chunk = self.i.payload
        waiting = Signal(3)
        total = Signal(4)
        bytes_in = Signal(64)
        for n in range(8):
            m.d.comb += bytes_in.word_select(n, 8).eq(Mux(chunk.count > n, chunk.data[n], 0))
        m.d.comb += total.eq(waiting + chunk.count)

        valid, full, last, rest = Signal(), Signal(), Signal(), Signal()
        shifted = Signal(120)
        gathered = Signal(64)
        # The last chunk may fill a word and leave a rest, which takes a cycle of its own.
        again = Signal()
        m.d.comb += [
            go.eq(~self.o.valid | self.o.ready),
            again.eq(valid & full & last & rest),
            self.i.ready.eq(go & ~again),
        ]
        with m.If(go):
            m.d.sync += [
                self.o.valid.eq(valid & (full | last)),
                self.o.payload.data.eq(gathered | shifted[:64]),
                self.o.payload.last.eq(last & ~again),
            ]
            with m.If(valid):
                m.d.sync += gathered.eq(Mux(full, shifted[64:], gathered | shifted[:64]))
                with m.If(last & ~again):
                    m.d.sync += gathered.eq(0)
            with m.If(again):
                m.d.sync += [full.eq(0), shifted.eq(0)]
            with m.Else():
                m.d.sync += [
                    valid.eq(self.i.valid),
                    full.eq(total[3]),
                    rest.eq(total[:3] != 0),
                    last.eq(chunk.last),
                    shifted.eq(bytes_in << Cat(C(0, 3), waiting)),
                ]
                with m.If(self.i.valid):
                    m.d.sync += waiting.eq(Mux(chunk.last, 0, total))
        return m


class BitstreamWriter(wiring.Component):
    """Writes a bitstream from line ``base`` of a window on, the last line padded with zeros.

    The room is checked before each line: the first one beyond it is not written, and nothing more is taken until reset.

    Throughput is one chunk per cycle while the memory takes a line in the time that eight words need; a line's request
    is offered four cycles after the chunk that fills it. At the end one more cycle may go to a rest of less than a
    word.

    Parameters
    ----------
    id : int
        Of the requests, 0 to 7.

    Members
    -------
    window, base, lines : In(10), In(26), In(24)
        Where to, and for how many lines there is room. Must hold still from the first chunk on.
    i : :py:`In(stream.Signature(Chunk))`
    request : :py:`Out(stream.Signature(Request))`
        Whoever waits for the writes counts the acknowledgements.
    o : :py:`Out(stream.Signature(Written))`
        One for each bitstream, when the request of its last line was taken, or when it was found too long. The next
        bitstream is taken when this was.
    """

    def __init__(self, id):
        if not 0 <= id <= 7:
            raise ValueError(f"id is {id}; 0 to 7 expected")
        self.id = id
        super().__init__(
            {
                "window": In(10),
                "base": In(26),
                "lines": In(24),
                "i": In(stream.Signature(Chunk)),
                "request": Out(stream.Signature(Request)),
                "o": Out(stream.Signature(Written)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.aligner = aligner = _Aligner()
        taken, closed = Signal(32), Signal()
        chunks = stream.Signature(Chunk).create()
        connect(m, wiring.flipped(self.i), chunks)
        m.d.comb += [
            aligner.i.payload.eq(chunks.payload),
            aligner.i.valid.eq(chunks.valid & ~closed),
            chunks.ready.eq(aligner.i.ready & ~closed),
        ]
        with m.If(chunks.valid & chunks.ready):
            m.d.sync += [taken.eq(taken + chunks.payload.count), closed.eq(chunks.payload.last)]

        # A line is gathered while the one before it waits for the memory.
        line = Signal(data.ArrayLayout(64, 8))
        place = Signal(3)
        complete, ending = Signal(), Signal()
        number = Signal(24)
        request, moves = self.request, Signal()
        # The comparison is a cycle old, so it does not count right behind a move.
        room, settled = Signal(), Signal()
        m.d.sync += [room.eq(number != self.lines), settled.eq(~moves)]
        m.d.comb += [
            moves.eq(complete & settled & room & (~request.valid | request.ready)),
            aligner.o.ready.eq(~ending & (~complete | moves)),
            request.payload.op.eq(Op.Write),
            request.payload.id.eq(self.id),
            request.payload.window.eq(self.window),
        ]
        with m.If(request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(moves):
            m.d.sync += [
                request.valid.eq(1),
                request.payload.data.eq(line),
                request.payload.offset.eq(self.base + number),
                number.eq(number + 1),
                complete.eq(0),
            ]
        with m.If(aligner.o.valid & aligner.o.ready):
            with m.If(place == 0):
                m.d.sync += Value.cast(line).eq(aligner.o.payload.data)
            with m.Else():
                m.d.sync += line[place].eq(aligner.o.payload.data)
            m.d.sync += place.eq(place + 1)
            with m.If((place == 7) | aligner.o.payload.last):
                m.d.sync += [complete.eq(1), ending.eq(aligner.o.payload.last), place.eq(0)]

        too_small = complete & settled & ~room
        m.d.comb += [
            self.o.valid.eq(too_small | (ending & ~complete & ~request.valid)),
            self.o.payload.too_small.eq(too_small),
            self.o.payload.bytes.eq(taken),
        ]
        with m.If(self.o.valid & self.o.ready & ~too_small):
            m.d.sync += [taken.eq(0), number.eq(0), ending.eq(0), closed.eq(0)]
        return m
