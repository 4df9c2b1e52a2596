"""Whose turn it is, as one bit of many."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Turns", "one_of"]


class Turns(wiring.Component):
    """Chooses one of those that want, in fair turns: the next one after the last that went.

    Members
    -------
    wants : :py:`In(count)`
    chosen : :py:`Out(count)`
        One bit, in the same cycle, or none if none wants.
    go : :py:`In(1)`
        The one that is chosen goes.
    """

    def __init__(self, count):
        if count < 1:
            raise ValueError(f"count is {count}; 1 or more expected")
        self.count = count
        super().__init__({"wants": In(count), "chosen": Out(count), "go": In(1)})

    def elaborate(self, platform):
        m = Module()
        # Those behind the last one that went.
        behind, later = Signal(self.count), Signal(self.count)
        m.d.comb += [
            later.eq(self.wants & behind),
            self.chosen.eq(Mux(later.any(), _lowest(later), _lowest(self.wants))),
        ]
        with m.If(self.go & self.wants.any()):
            m.d.sync += behind.eq(Cat(self.chosen[:n].any() for n in range(self.count)))
        return m


def _lowest(bits):
    return Cat(bit & ~bits[:n].any() for n, bit in enumerate(bits))


def one_of(chosen, items):
    """The item whose bit in `chosen` is set; all zeros if none is."""
    taken = [Mux(bit, Value.cast(item), 0) for bit, item in zip(chosen, items, strict=True)]
    while len(taken) > 1:
        taken = [a | b for a, b in zip(taken[::2], [*taken[1::2], 0])]
    return taken[0]
