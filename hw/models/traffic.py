"""Makes memory traffic at full speed, so that long measurements need no testbench in the loop."""

from amaranth.hdl import *
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.memory.port import MemoryStatus, Op, line_port

__all__ = ["Pattern", "Traffic", "TrafficCounts"]

WIDTH, HEIGHT = 1920, 1088
FETCH = 21
_BLOCKS_ACROSS = 8


class Pattern(enum.Enum, shape=3):
    """Which lines are asked for."""

    Linear = 0
    """One after another, from line 0 on."""
    Fetches = 1
    """All tiles of 21x21 samples at random places of a 1920x1088 surface that lies at line 0."""
    Random = 2
    """Any line."""
    LinearWrites = 3
    """Written one after another."""
    Copy = 4
    """Read from line 0 on and written from line 2**16 on, by turns."""
    FetchesWrites = 5
    """Fetches, and every fourth request a write to the next line from 2**16 on."""


class TrafficCounts(data.Struct):
    """Since reset."""

    sent: 32
    received: 32
    failed: 32
    """Responses with another status than ``Ok``."""


class Traffic(wiring.Component):
    """Asks for a line in every cycle while ``go``, and takes every response at once.

    Consecutive requests use the ids 0 to ``ids - 1`` in turn; a fetch's all use the same, the next fetch the next.

    Parameters
    ----------
    ids : int
        1 to 8.
    seed : int
        Of what is random; not 0.

    Members
    -------
    go : :py:`In(1)`
        Send requests; an offered one is not withdrawn when ``go`` falls.
    pattern : :py:`In(Pattern)`
        Constant while any request is under way.
    port : :py:`Out(line_port())`
        The memory.
    counts : :py:`Out(TrafficCounts)`
        What was done.
    """

    def __init__(self, ids=4, seed=1):
        if not 1 <= ids <= 8:
            raise ValueError(f"ids is {ids}; 1 to 8 expected")
        if not 0 < seed < 2**64:
            raise ValueError(f"seed is {seed}; 1 to 2**64 - 1 expected")
        self.ids, self.seed = ids, seed
        super().__init__({"go": In(1), "pattern": In(Pattern), "port": Out(line_port()), "counts": Out(TrafficCounts)})

    def elaborate(self, platform):
        m = Module()
        state = Signal(64, init=self.seed * 0x9E3779B97F4A7C15 & 2**64 - 1 | 1)
        one = state ^ (state << 13)[:64]
        two = one ^ (one >> 7)
        noise = Signal(64)
        m.d.comb += noise.eq(two ^ (two << 17)[:64])
        m.d.sync += state.eq(noise)

        request, response = self.port.request, self.port.response
        step, id_ = Signal(32), Signal(3)
        x, y = Signal(8), Signal(8)
        fetching = (self.pattern == Pattern.Fetches) | (self.pattern == Pattern.FetchesWrites)

        # The next fetch's first and last tile both ways.
        corner = [Signal(11, name=f"corner_{n}") for n in "xy"]
        m.d.comb += [
            corner[0].eq((noise[0:24] * (WIDTH - FETCH + 1)) >> 24),
            corner[1].eq((noise[24:48] * (HEIGHT - FETCH + 1)) >> 24),
        ]
        ends = [(corner[n] >> 3, (corner[n] + FETCH - 1) >> 3) for n in range(2)]
        left, right, bottom = (Signal(8, name=name) for name in ("left", "right", "bottom"))
        begun = Signal()
        moved, between, last = Signal(), Signal(), Signal()
        tile_done = moved & ~between
        m.d.comb += [
            moved.eq(request.valid & request.ready),
            between.eq((self.pattern == Pattern.FetchesWrites) & (step[0:2] == 3)),
            last.eq((x == right) & (y == bottom)),
        ]
        with m.If(~begun | (tile_done & last)):
            m.d.sync += [begun.eq(1), left.eq(ends[0][0]), right.eq(ends[0][1]), bottom.eq(ends[1][1])]
            m.d.sync += [x.eq(ends[0][0]), y.eq(ends[1][0])]
        with m.Elif(tile_done):
            m.d.sync += x.eq(Mux(x == right, left, x + 1))
            with m.If(x == right):
                m.d.sync += y.eq(y + 1)
        with m.If(moved & (~fetching | (last & ~between))):
            m.d.sync += id_.eq(Mux(id_ == self.ids - 1, 0, id_ + 1))
        tile = Cat(x[0], y[0], x[1:5], y[1:4], ((y >> 4) * _BLOCKS_ACROSS + (x >> 5))[:21])

        payload = request.payload
        offered = Signal()
        m.d.comb += [
            request.valid.eq((self.go & begun) | offered),
            payload.op.eq(Op.Read),
            payload.id.eq(id_),
            payload.data.eq(Cat(step, payload.address).replicate(8) ^ (1 << 511)),
            response.ready.eq(1),
        ]
        where = Signal(30)
        drawn = Signal(30)
        m.d.comb += payload.address.eq(where)
        with m.If(moved):
            m.d.sync += [step.eq(step + 1), drawn.eq(noise[24:54])]
        m.d.sync += offered.eq(request.valid & ~request.ready)
        with m.Switch(self.pattern):
            with m.Case(Pattern.Linear):
                m.d.comb += where.eq(step)
            with m.Case(Pattern.Fetches):
                m.d.comb += where.eq(tile)
            with m.Case(Pattern.Random):
                m.d.comb += where.eq(drawn)
            with m.Case(Pattern.LinearWrites):
                m.d.comb += [where.eq(step), payload.op.eq(Op.Write)]
            with m.Case(Pattern.Copy):
                m.d.comb += [where.eq(step[1:] + (step[0] << 16)), payload.op.eq(Mux(step[0], Op.Write, Op.Read))]
            with m.Case(Pattern.FetchesWrites):
                m.d.comb += where.eq(Mux(between, (1 << 16) + step[2:], tile))
                m.d.comb += payload.op.eq(Mux(between, Op.Write, Op.Read))
        counts = self.counts
        got = response.valid & response.ready
        m.d.sync += [
            counts.sent.eq(counts.sent + moved),
            counts.received.eq(counts.received + got),
            counts.failed.eq(counts.failed + (got & (response.payload.status != MemoryStatus.Ok))),
        ]
        return m
