"""The additive scrambler of a lane."""

from functools import reduce
from math import isqrt
from operator import xor

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.block import BLOCK_BITS

__all__ = ["BEGINNINGS", "DEGREE", "Scrambler"]

DEGREE, TAP = 58, 39
BEGINNINGS = tuple(isqrt(n << 2 * DEGREE) % (1 << DEGREE) for n in (2, 3, 5, 7))
"""Of each lane's sequence the 58 bits before its first, the earliest in bit 0: 58 bits of a square root's fraction."""


def _taps():
    """For each of the next bits, those of the 58 before, as a mask, whose parity it is."""
    bits = [1 << n for n in range(DEGREE)]
    for _ in range(BLOCK_BITS):
        bits.append(bits[-DEGREE] ^ bits[-TAP])
    return bits[DEGREE:]


class Scrambler(wiring.Component):
    """The sequence that a lane's blocks are XORed with: s[n] = s[n-39] + s[n-58] mod 2, 257 bits a cycle.

    Members
    -------
    begin : :py:`In(1)`
        There is a marker in this cycle: in the next one, the sequence begins anew.
    lane : :py:`In(2)`
        Whose sequence then begins.
    key : :py:`Out(257)`
        For the block of this cycle, its first bit in bit 0.
    """

    begin: In(1)
    lane: In(2)
    key: Out(BLOCK_BITS)

    def elaborate(self, platform):
        m = Module()
        last = Signal(DEGREE, init=BEGINNINGS[0])
        for bit, mask in zip(self.key, _taps()):
            m.d.comb += bit.eq(reduce(xor, (last[n] for n in range(DEGREE) if mask >> n & 1)))
        m.d.sync += last.eq(self.key[-DEGREE:])
        with m.If(self.begin):
            with m.Switch(self.lane):
                for lane, beginning in enumerate(BEGINNINGS):
                    with m.Case(lane):
                        m.d.sync += last.eq(beginning)
        return m
