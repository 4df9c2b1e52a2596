"""Whose turn it is, as one bit of many."""

from itertools import combinations

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Turns", "one_of"]


class Turns(wiring.Component):
    """Chooses one of those that want, in fair turns: the next one after the last that went.

    Parameters
    ----------
    count : int
    shape : shape-like
        Of what each one has, if the chosen one's is to be told.

    Members
    -------
    wants : :py:`In(count)`
    chosen : :py:`Out(count)`
        One bit, in the same cycle, or none if none wants.
    go : :py:`In(1)`
        The one that is chosen goes.
    items : :py:`In(data.ArrayLayout(shape, count))`, item : :py:`Out(shape)`
        The chosen one's; all zeros if none is.
    """

    def __init__(self, count, shape=None):
        if count < 1:
            raise ValueError(f"count is {count}; 1 or more expected")
        self.count, self.shape = count, shape
        items = {} if shape is None else {"items": In(data.ArrayLayout(shape, count)), "item": Out(shape)}
        super().__init__({"wants": In(count), "chosen": Out(count), "go": In(1), **items})

    def elaborate(self, platform):
        m = Module()
        # Of each two, whether the first one is before the second one: not if the last one that went is between them.
        pairs = combinations(range(self.count), 2)
        before = {(first, second): Signal(init=1, name=f"before{first}_{second}") for first, second in pairs}
        for n in range(self.count):
            sooner = [self.wants[k] & before[k, n] for k in range(n)]
            sooner += [self.wants[k] & ~before[n, k] for k in range(n + 1, self.count)]
            m.d.comb += self.chosen[n].eq(self.wants[n] & ~Cat(sooner).any())
        with m.If(self.go & self.wants.any()):
            m.d.sync += [bit.eq(~self.chosen[first:second].any()) for (first, second), bit in before.items()]
        if self.shape is not None:
            m.d.comb += Value.cast(self.item).eq(one_of(self.chosen, [self.items[n] for n in range(self.count)]))
        return m


def one_of(chosen, items):
    """The item whose bit in `chosen` is set; all zeros if none is."""
    taken = [Mux(bit, Value.cast(item), 0) for bit, item in zip(chosen, items, strict=True)]
    while len(taken) > 1:
        taken = [a | b for a, b in zip(taken[::2], [*taken[1::2], 0])]
    return taken[0]
