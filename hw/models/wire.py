"""The wires between two ends of a link, for simulation, and what can go wrong on them."""

from functools import reduce
from operator import xor

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.block import BLOCK_BITS

__all__ = ["Noise", "Wire"]

_ERRORS = 4
"""Bit errors that a block may have, besides bursts."""


class Noise(wiring.Component):
    """64 bits in each cycle, from a seed that is not 0 (xorshift: Marsaglia 2003, 13 7 17)."""

    o: Out(64)

    def __init__(self, seed):
        self.seed = seed
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        state = Signal(64, init=self.seed)
        a = state ^ (state << 13)[:64]
        b = a ^ (a >> 7)
        c = b ^ (b << 17)[:64]
        m.d.sync += state.eq(c)
        # A sum is not linear over bits as the states are, nor close to 0 whenever the state is.
        m.d.comb += self.o.eq(state + state.rotate_left(23))
        return m


class Wire(wiring.Component):
    """One direction of a link's wires, a block of each lane per cycle.

    Rates are parts of 2**32. What is changed depends on the seed and the cycle alone, not on what is sent.

    Parameters
    ----------
    latencies : tuple of int
        Of each lane, in cycles, 1 to 64; its length is the number of lanes.
    seed : int

    Members
    -------
    i : :py:`In(data.ArrayLayout(257, lanes))`
    o : :py:`Out(data.ArrayLayout(257, lanes))`
        The latencies are of this end's lanes.
    crossed : :py:`In(1)`
        What is sent on lane n comes on lane ``lanes - 1 - n``.
    errors : :py:`In(32)`
        Of a bit to be wrong, up to 1 in 100; errors are independent of each other.
    bursts : :py:`In(32)`
        Of a block to have a burst: each bit of 1 to 64 in a row is wrong or not.
    drops : :py:`In(32)`
        Of a block to be noise.
    cut : :py:`In(lanes)`
        These lanes of this end bring noise.
    """

    def __init__(self, latencies, seed=1):
        if not latencies or not all(1 <= latency <= 64 for latency in latencies):
            raise ValueError(f"latencies is {latencies}; of each lane 1 to 64 expected")
        self.latencies, self.seed = tuple(latencies), seed
        self.lanes = len(self.latencies)
        shape = data.ArrayLayout(BLOCK_BITS, self.lanes)
        super().__init__(
            {
                "i": In(shape),
                "o": Out(shape),
                "crossed": In(1),
                "errors": In(32),
                "bursts": In(32),
                "drops": In(32),
                "cut": In(self.lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # As many chances of an error in each block, each 257 / 4 times as likely as an error of a bit.
        likely = Signal(40)
        m.d.comb += likely.eq((self.errors * BLOCK_BITS) >> 2)
        for n, latency in enumerate(self.latencies):
            words = []
            for k in range(_ERRORS + 2):
                seed = (self.seed * 0x9E3779B97F4A7C15 + (8 * n + k + 1) * 0xD1342543DE82EF95) % 2**64
                m.submodules[f"noise{n}_{k}"] = noise = Noise(seed or 1)
                words.append(noise.o)
            wrong = [_one_bit(m, f"wrong{n}_{k}", word, likely) for k, word in enumerate(words[:_ERRORS])]
            burst, place = words[_ERRORS], words[_ERRORS + 1]
            bits = Signal(BLOCK_BITS, name=f"bits{n}")
            m.d.comb += bits.eq(reduce(xor, wrong))
            length = (place[32:38] + 1)[:7]
            run = Signal(BLOCK_BITS + 64, name=f"run{n}")
            with m.If(place[:32] < self.bursts):
                m.d.comb += run.eq((burst & ((C(1, 65) << length) - 1)) << _place(m, f"start{n}", place[40:56]))
            block = Mux(self.crossed, self.i[-1 - n], self.i[n])
            with m.If(self.cut[n] | (burst[:32] < self.drops)):
                # Their own words would be 0 in just those blocks that are dropped.
                m.d.comb += bits.eq(Cat(words[:_ERRORS], place)[:BLOCK_BITS])
            delayed = block ^ bits ^ run[:BLOCK_BITS]
            for k in range(latency):
                stage = Signal(BLOCK_BITS, name=f"stage{n}_{k}")
                m.d.sync += stage.eq(delayed)
                delayed = stage
            m.d.comb += self.o[n].eq(delayed)
        return m


def _place(m, name, word):
    """One of a block's bits, from 16 of noise."""
    place = Signal(range(BLOCK_BITS), name=name)
    m.d.comb += place.eq((word * BLOCK_BITS) >> 16)
    return place


def _one_bit(m, name, word, likely):
    """A block with one bit set at any place, or none."""
    bits = Signal(BLOCK_BITS, name=name)
    with m.If(word[:32] < likely):
        m.d.comb += bits.eq(C(1, 1) << _place(m, f"{name}_at", word[40:56]))
    return bits
