"""Bitstream slots out of memory: lines in, groups of eight bytes out."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.hw.lib.streams import observe
from tessera.hw.memory.port import Op, Request, Response

__all__ = ["Bitstream", "BitstreamReader", "ByteGroup"]


class Bitstream(data.Struct):
    """Where the bytes are."""

    window: 10
    body: 26
    """Line of the first byte."""
    bytes: 32


class ByteGroup(data.Struct):
    """Up to eight bytes that follow each other, the first in bits 7:0."""

    data: 64
    count: 4
    """0 to 8; less than 8 only in the last group."""
    last: 1
    """No byte follows."""


class BitstreamReader(wiring.Component):
    """Reads the bytes of a bitstream, ahead of who takes them.

    Throughput is one group per cycle. The first group is offered 5 cycles and the memory's latency after ``start`` was
    taken. Up to `depth` lines are asked for or wait to be taken, so that nothing is lost to a latency of L cycles if
    lines are taken L / (`depth` - 1) cycles apart or more. After the last group was taken, a next start is taken.

    A bitstream of no bytes is one group of count 0. An answer other than Ok counts as a line of garbage: whoever owns
    the memory port ends the work.

    Parameters
    ----------
    id : int
        Of the requests.
    depth : int
        Lines, a power of two: room is kept for each line that is asked for.

    Members
    -------
    start : :py:`In(stream.Signature(Bitstream))`
    o : :py:`Out(stream.Signature(ByteGroup))`
    request : :py:`Out(stream.Signature(Request))`
    response : :py:`In(stream.Signature(Response))`
        Taken at once, always.
    """

    def __init__(self, id, depth=8):
        if not 0 <= id <= 7:
            raise ValueError(f"id is {id}; 0 to 7 expected")
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; a power of two from 2 expected")
        self.id, self.depth = id, depth
        super().__init__(
            {
                "start": In(stream.Signature(Bitstream)),
                "o": Out(stream.Signature(ByteGroup)),
                "request": Out(stream.Signature(Request)),
                "response": In(stream.Signature(Response)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        pointer = range(self.depth)
        # One narrow memory for each eight bytes of a line: a group is read from one of them.
        lanes = []
        for n in range(8):
            memory = Memory(shape=64, depth=self.depth, init=[])
            m.submodules[f"lane{n}"] = memory
            lanes.append((memory.write_port(), memory.read_port(domain="comb")))

        asking, next_line, lines_left = Signal(), Signal(26), Signal(26)
        window = Signal(10)
        groups_left, last_count = Signal(30), Signal(4)
        busy = Signal()
        landed, reserved = Signal(range(self.depth + 1)), Signal(range(self.depth + 1))
        wr, rd, lane = Signal(pointer), Signal(pointer), Signal(3)

        begin = self.start.payload
        m.d.comb += self.start.ready.eq(~busy)
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += [
                busy.eq(1),
                window.eq(begin.window),
                next_line.eq(begin.body),
                lines_left.eq((begin.bytes + 63) >> 6),
                asking.eq(begin.bytes != 0),
                groups_left.eq(Mux(begin.bytes == 0, 1, (begin.bytes + 7) >> 3)),
                last_count.eq(Mux((begin.bytes[:3] == 0) & (begin.bytes != 0), 8, begin.bytes[:3])),
                lane.eq(0),
            ]
        empty_file = Signal()
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += empty_file.eq(begin.bytes == 0)

        # Requests come out of registers: the way through arbiters to the memory is long.
        m.d.comb += [
            self.request.payload.op.eq(Op.Read),
            self.request.payload.id.eq(self.id),
            self.request.payload.window.eq(window),
        ]
        asked, freed = Signal(), Signal()
        m.d.comb += asked.eq(asking & (reserved != self.depth) & (~self.request.valid | self.request.ready))
        with m.If(self.request.ready):
            m.d.sync += self.request.valid.eq(0)
        with m.If(asked):
            m.d.sync += [self.request.valid.eq(1), self.request.payload.offset.eq(next_line)]
            m.d.sync += [next_line.eq(next_line + 1), lines_left.eq(lines_left - 1), asking.eq(lines_left != 1)]

        m.d.comb += self.response.ready.eq(1)
        for n, (write, read) in enumerate(lanes):
            m.d.comb += [
                write.en.eq(self.response.valid),
                write.addr.eq(wr),
                write.data.eq(self.response.payload.data.word_select(n, 64)),
                read.addr.eq(rd),
            ]
        with m.If(self.response.valid):
            m.d.sync += wr.eq(wr + 1)

        words = Array(read.data for _, read in lanes)
        take = Signal()
        final = groups_left == 1
        m.d.comb += take.eq(busy & (groups_left != 0) & ((landed != 0) | empty_file) & (~self.o.valid | self.o.ready))
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(take):
            m.d.sync += [
                self.o.valid.eq(1),
                self.o.payload.data.eq(words[lane]),
                self.o.payload.count.eq(Mux(final, last_count, 8)),
                self.o.payload.last.eq(final),
                groups_left.eq(groups_left - 1),
                lane.eq(lane + 1),
            ]
        m.d.comb += freed.eq(take & ~empty_file & (final | (lane == 7)))
        with m.If(freed):
            m.d.sync += rd.eq(rd + 1)
        with m.If(self.o.valid & self.o.ready & self.o.payload.last):
            m.d.sync += busy.eq(0)
        m.d.sync += [landed.eq(landed + self.response.valid - freed), reserved.eq(reserved + asked - freed)]
        observe(m, self.o)
        observe(m, self.request)
        return m
