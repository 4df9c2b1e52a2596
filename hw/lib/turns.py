"""Whose turn it is, as one bit of many."""

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
        The chosen one's; all zeros if none is. Sooner than by ``chosen``.
    """

    def __init__(self, count, shape=None):
        if count < 1:
            raise ValueError(f"count is {count}; 1 or more expected")
        self.count, self.shape = count, shape
        items = {} if shape is None else {"items": In(data.ArrayLayout(shape, count)), "item": Out(shape)}
        super().__init__({"wants": In(count), "chosen": Out(count), "go": In(1), **items})

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
        if self.shape is not None:
            # Either way's is there when it is known which way is gone.
            items = [self.items[n] for n in range(self.count)]
            either = one_of(_lowest(later), items), one_of(_lowest(self.wants), items)
            m.d.comb += Value.cast(self.item).eq(Mux(later.any(), *either))
        return m


def _lowest(bits):
    return Cat(bit & ~bits[:n].any() for n, bit in enumerate(bits))


def one_of(chosen, items):
    """The item whose bit in `chosen` is set; all zeros if none is."""
    taken = [Mux(bit, Value.cast(item), 0) for bit, item in zip(chosen, items, strict=True)]
    while len(taken) > 1:
        taken = [a | b for a, b in zip(taken[::2], [*taken[1::2], 0])]
    return taken[0]
