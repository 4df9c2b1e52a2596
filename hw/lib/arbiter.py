"""Several streams into one, in fair turns."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RoundRobin"]


class RoundRobin(wiring.Component):
    """Takes from the inputs in turns, one item a cycle, without latency.

    An input that waits is served after at most one item of each of the others. Once an item is offered it stays
    offered until it is taken.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    inputs : int
        Number of inputs, ``i0`` and on.
    ahead : bool
        Choose a cycle ahead, by a register, so that only that choice stands between ``i`` and ``o``. An item at an
        input whose turn it is not waits a cycle more, unless others wait too.
    """

    def __init__(self, shape, inputs, *, ahead=False):
        if inputs < 1:
            raise ValueError(f"inputs is {inputs}; 1 or more expected")
        self.inputs, self.ahead = inputs, ahead
        members = {f"i{n}": In(stream.Signature(shape)) for n in range(inputs)}
        super().__init__({**members, "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        inputs = [getattr(self, f"i{n}") for n in range(self.inputs)]
        wants = Cat(i.valid for i in inputs)
        last = Signal(range(max(self.inputs, 2)))
        turn, grant = Signal.like(last), Signal.like(last)

        # The next one that wants after the last served.
        m.d.comb += turn.eq(last)
        with m.Switch(last):
            for n in range(self.inputs):
                with m.Case(n):
                    for k in reversed(range(1, self.inputs + 1)):
                        candidate = (n + k) % self.inputs
                        with m.If(wants[candidate]):
                            m.d.comb += turn.eq(candidate)
        with m.Switch(grant):
            for n, i in enumerate(inputs):
                with m.Case(n):
                    m.d.comb += [self.o.valid.eq(i.valid), self.o.payload.eq(i.payload), i.ready.eq(self.o.ready)]
        if self.ahead:
            m.d.comb += grant.eq(last)
            with m.If(~self.o.valid | self.o.ready):
                m.d.sync += last.eq(turn)
        else:
            # A choice that was offered is kept.
            held, chosen = Signal(), Signal.like(last)
            m.d.comb += grant.eq(Mux(held, chosen, turn))
            m.d.sync += [held.eq(self.o.valid & ~self.o.ready), chosen.eq(grant)]
            with m.If(self.o.valid & self.o.ready):
                m.d.sync += last.eq(grant)
        return m
