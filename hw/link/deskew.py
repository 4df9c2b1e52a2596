"""Lanes side by side: their blocks become stripes again."""

from functools import reduce
from operator import and_, or_

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.block import Marker
from tessera.hw.link.lane import Received
from tessera.hw.link.packet import stripe

__all__ = ["PAUSE", "SILENCE", "WAIT", "Deskew"]

WAIT = 10
"""Cycles that lanes wait for another one: up to 7 blocks of skew, and what the crossing of clocks adds."""
PAUSE = 14
"""Cycles after a vain wait in which none is begun. With the wait, one and a half distances of dense markers: so the
first markers that are looked at again are all of one number, whatever the skew."""
SILENCE = 16
"""Cycles without a block after which a lane is not heard."""


class Deskew(wiring.Component):
    """Puts lanes side by side, by what their markers tell.

    ``used`` of a marker names the lanes that form stripes from there on. The first block behind such a marker waits
    until those of all lanes named do, all behind markers of one ``number`` and with the same ``used``; then they are a
    stripe, and the blocks behind them the next ones. All other blocks are dropped: a lane not in use never waits.

    When lanes have waited for another one for 10 cycles, for its marker or amid blocks, or one has no room to wait any
    more, ``clear`` empties all queues, and there are no stripes until all have markers again; these count from 14
    cycles later on.

    Lanes may be crossed end to end: what comes on lane n may be lane ``lanes - 1 - n``, as its marker says. A lane that
    says it is yet another is never in use nor heard.

    A stripe is offered the cycle after all its blocks were. One per cycle, as long as all are taken at once.

    Parameters
    ----------
    lanes : int
        1, 2 or 4.

    Members
    -------
    i0 .. : :py:`In(stream.Signature(Received))`
        The lanes of this end.
    crowded : :py:`In(lanes)`
        As many blocks of the lane wait as may. With one lane of no meaning: it does not wait.
    clear : :py:`Out(1)`
        Empty all queues. From a register.
    o : :py:`Out(stream.Signature(stripe(lanes)))`
        Blocks in the order of their lanes' numbers; from ``used`` on they mean nothing.
    used : :py:`Out(range(lanes + 1))`
        Blocks of the stripe that is offered: 1, 2 or 4.
    heard : :py:`Out(4)`
        Lanes, by the sender's numbers, of which blocks come.
    told : :py:`Out(Marker)`
        What the last right marker said, from the cycle on in which the first stripe behind it is offered. ``lane`` and
        ``number`` are of any one lane.
    """

    def __init__(self, lanes):
        shape = stripe(lanes)
        self.lanes = lanes
        super().__init__(
            {
                **{f"i{n}": In(stream.Signature(Received)) for n in range(lanes)},
                "crowded": In(lanes),
                "clear": Out(1),
                "o": Out(stream.Signature(shape)),
                "used": Out(range(lanes + 1)),
                "heard": Out(4),
                "told": Out(Marker),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes = range(self.lanes)
        inputs = [getattr(self, f"i{n}") for n in lanes]
        heads = [Signal(Received, name=f"head{n}") for n in lanes]
        there, pop = Signal(self.lanes), Signal(self.lanes)
        crossed = Signal()
        for n, head in enumerate(heads):
            plain, other = inputs[n], inputs[-1 - n]
            m.d.comb += [
                head.eq(Mux(crossed, other.payload.as_value(), plain.payload.as_value())),
                there[n].eq(Mux(crossed, other.valid, plain.valid)),
                plain.ready.eq(Mux(crossed, pop[-1 - n], pop[n])),
            ]

        # Of each lane's block: it comes behind a marker; of this lane; which names the lane; so it waits.
        first, own, waiting = Signal(self.lanes), Signal(self.lanes), Signal(self.lanes)
        running, pausing = Signal(self.lanes), Signal()
        for n, head in enumerate(heads):
            m.d.comb += [
                first[n].eq(there[n] & head.first),
                own[n].eq(head.marker.lane == n),
                waiting[n].eq(first[n] & own[n] & head.marker.used[n] & ~pausing),
            ]

        # What any of those that wait says, all must say: so they agree.
        says = [Cat(head.marker.used[: self.lanes], head.marker.number) for head in heads]
        any_says, all_say = Signal.like(says[0]), Signal.like(says[0])
        m.d.comb += [
            any_says.eq(reduce(or_, (Mux(waiting[n], says[n], 0) for n in lanes))),
            all_say.eq(reduce(and_, (Mux(waiting[n], says[n], ~0) for n in lanes))),
        ]
        leaving, moving, together, free = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            leaving.eq((running & first).any()),
            moving.eq(running.any() & ~leaving & ~(running & ~there).any()),
            together.eq((any_says == all_say) & (any_says[: self.lanes] == waiting) & (leaving | ~running.any())),
            free.eq(~self.o.valid | self.o.ready),
        ]
        for n in lanes:
            with m.If(waiting[n]):
                m.d.comb += pop[n].eq(together & free)
            with m.Elif(running[n]):
                m.d.comb += pop[n].eq((moving | leaving) & free)
            with m.Else():
                m.d.comb += pop[n].eq(1)

        chosen = Signal(self.lanes)
        m.d.comb += chosen.eq(Mux(together, waiting, running))
        blocks = _in_order(chosen, [head.block.as_value() for head in heads])
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(together | moving),
                *(self.o.payload[n].eq(block) for n, block in enumerate(blocks)),
                self.used.eq(reduce(lambda a, b: a + b, chosen)),
            ]
            with m.If(together):
                m.d.sync += running.eq(waiting)
            with m.Elif(leaving):
                m.d.sync += running.eq(0)

        arrived = Signal(self.lanes)
        m.d.comb += arrived.eq(first & pop)
        for n in reversed(lanes):
            # A lane that is not in use may be ahead of those that are.
            with m.If(arrived[n] & own[n] & heads[n].right & (waiting[n] | running[n] | ~running.any())):
                m.d.sync += self.told.eq(heads[n].marker)

        for n in lanes:
            quiet = Signal(range(SILENCE), name=f"quiet{n}")
            m.d.sync += quiet.eq(Mux(there[n], 0, quiet + 1))
            with m.If(arrived[n]):
                m.d.sync += self.heard[n].eq(own[n])
            with m.Elif(~there[n] & (quiet == SILENCE - 1)):
                m.d.sync += self.heard[n].eq(0)

        if self.lanes > 1:
            opposite = Cat(head.marker.lane == self.lanes - 1 - n for n, head in enumerate(heads))
            with m.If((arrived & opposite).any() & (self.heard == 0)):
                m.d.sync += crossed.eq(~crossed)

            waited = Signal(range(WAIT + PAUSE))
            vain = Signal()
            # Those that wait while others still move, wait for these.
            m.d.comb += vain.eq((waiting.any() | (running.any() & ~leaving)) & ~together & ~moving)
            m.d.sync += self.clear.eq(0)
            with m.If(self.crowded.any() | (vain & free & ~pausing & (waited == WAIT - 1))):
                m.d.sync += [running.eq(0), self.clear.eq(1), pausing.eq(1), waited.eq(WAIT)]
            with m.Elif(pausing):
                m.d.sync += waited.eq(waited + 1)
                with m.If(waited == WAIT + PAUSE - 1):
                    m.d.sync += [waited.eq(0), pausing.eq(0)]
            with m.Elif(~vain):
                m.d.sync += waited.eq(0)
            with m.Elif(free):
                m.d.sync += waited.eq(waited + 1)
        return m


def _in_order(chosen, items):
    """The first of the chosen items, the second and so on; if there are more than two, they are all."""
    if len(items) == 1:
        return items
    if len(items) == 2:
        return [Mux(chosen[0], items[0], items[1]), items[1]]
    either = chosen[0] | chosen[1]
    return [
        Mux(chosen[0], items[0], Mux(chosen[1], items[1], Mux(chosen[2], items[2], items[3]))),
        Mux(chosen[0] & chosen[1], items[1], Mux(either & chosen[2], items[2], items[3])),
        items[2],
        items[3],
    ]
