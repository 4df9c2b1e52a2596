"""Counters of events, for software to read."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["EventCounters"]


class EventCounters(wiring.Component):
    """Counts in how many cycles each event was high.

    ``value`` shows the counter selected two cycles after ``select``; one beyond the last shows 0.

    Parameters
    ----------
    count : int
        Number of events.
    width : int
        Bits of a counter, which wraps.

    Members
    -------
    events : :py:`In(count)`
    select : :py:`In(16)`
    value : :py:`Out(64)`
    clear : :py:`In(1)`
    """

    def __init__(self, count, width=40):
        if not 1 <= count <= 1 << 16:
            raise ValueError(f"count is {count}; 1 to {1 << 16} expected")
        if not 1 <= width <= 64:
            raise ValueError(f"width is {width}; 1 to 64 expected")
        self.count, self.width = count, width
        super().__init__({"events": In(count), "select": In(16), "value": Out(64), "clear": In(1)})

    def elaborate(self, platform):
        m = Module()
        counters = [Signal(self.width, name=f"counter{n}") for n in range(self.count)]
        happened, chosen = Signal(self.count), Signal(16)
        m.d.sync += [happened.eq(self.events), chosen.eq(self.select), self.value.eq(0)]
        for n, counter in enumerate(counters):
            with m.If(self.clear):
                m.d.sync += counter.eq(0)
            with m.Elif(happened[n]):
                m.d.sync += counter.eq(counter + 1)
        with m.Switch(chosen):
            for n, counter in enumerate(counters):
                with m.Case(n):
                    m.d.sync += self.value.eq(counter)
        return m
