"""Serializers and deserializers, for simulation: where a receiver does not know which bit is a block's first."""

from itertools import pairwise

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.block import BLOCK_BITS

__all__ = ["BitDeserializer", "BitSerializer", "Deserializer"]


class Deserializer(wiring.Component):
    """A lane's wire and deserializer, of which only the phase matters: blocks in, 257 other bits out in each cycle.

    Parameters
    ----------
    delay : int
        ``o`` is of the new phase so many cycles after the one of ``slip``; 2 to 16.

    Members
    -------
    i : :py:`In(257)`
        What is sent, a block in each cycle.
    o : :py:`Out(257)`
        What is received: in the cycle after a block, the last ``257 - phase`` bits of the one before it, and the first
        ``phase`` of it. From a register.
    slip : :py:`In(1)`
        Begin one bit later.
    move, phase : :py:`In(1)`, :py:`In(range(257))`
        Begin at that bit of a block from now on.
    """

    i: In(BLOCK_BITS)
    o: Out(BLOCK_BITS)
    slip: In(1)
    move: In(1)
    phase: In(range(BLOCK_BITS))

    def __init__(self, delay=2):
        if not 2 <= delay <= 16:
            raise ValueError(f"delay is {delay}; 2 to 16 expected")
        self.delay = delay
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        before, at = Signal(BLOCK_BITS), Signal(range(BLOCK_BITS))
        slips = [self.slip, *(Signal(name=f"slip{n}") for n in range(self.delay - 2))]
        m.d.sync += [after.eq(earlier) for earlier, after in pairwise(slips)]
        with m.If(self.move):
            m.d.sync += at.eq(self.phase)
        with m.Elif(slips[-1]):
            m.d.sync += at.eq(Mux(at == BLOCK_BITS - 1, 0, at + 1))
        m.d.sync += [before.eq(self.i), self.o.eq(Cat(before, self.i) >> at)]
        return m


class BitSerializer(wiring.Component):
    """Sends blocks bit by bit. The clock is that of the bits.

    Members
    -------
    i : :py:`In(257)`
    take : :py:`Out(1)`
        ``i`` is taken in this cycle, each 257th; its first bit is sent in the next one.
    o : :py:`Out(1)`
    """

    i: In(BLOCK_BITS)
    take: Out(1)
    o: Out(1)

    def elaborate(self, platform):
        m = Module()
        bits, left = Signal(BLOCK_BITS), Signal(range(BLOCK_BITS))
        m.d.comb += [self.take.eq(left == 0), self.o.eq(bits[0])]
        m.d.sync += [bits.eq(bits >> 1), left.eq(left - 1)]
        with m.If(self.take):
            m.d.sync += [bits.eq(self.i), left.eq(BLOCK_BITS - 1)]
        return m


class BitDeserializer(wiring.Component):
    """Makes blocks of bits. The clock is that of the bits.

    Parameters
    ----------
    phase : int
        Cycles, 0 to 256, from reset to the first bit of a block.

    Members
    -------
    i : :py:`In(1)`
    slip : :py:`In(1)`
        With ``give``: the next block but one begins one bit later.
    give : :py:`Out(1)`
        ``o`` is the next block in this cycle, each 257th.
    o : :py:`Out(257)`
    """

    i: In(1)
    slip: In(1)
    give: Out(1)
    o: Out(BLOCK_BITS)

    def __init__(self, phase):
        if not 0 <= phase < BLOCK_BITS:
            raise ValueError(f"phase is {phase}; 0 to {BLOCK_BITS - 1} expected")
        self.phase = phase
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        left = Signal(range(BLOCK_BITS + 1), init=self.phase)
        m.d.sync += [self.o.eq(Cat(self.o[1:], self.i)), left.eq(left - 1)]
        m.d.comb += self.give.eq(left == 0)
        with m.If(self.give):
            m.d.sync += left.eq(Mux(self.slip, BLOCK_BITS, BLOCK_BITS - 1))
        return m
