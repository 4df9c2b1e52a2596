"""The CRC of a packet."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.packet import CheckedPart

__all__ = ["PacketCrc"]

_POLYNOMIAL = 0x82F63B78
"""Reflected: bit 31 is of x^0."""


_SUMS = [(n, which) for n in range(0, 32, 4) for which in range(1, 16)]
"""Of each four bits of a remainder, 15 ways of going into some of them."""


def _sums(bits, zeros=0):
    """The bits of a message added up, by which of each four bits of the remainder they go into: that takes half as much
    as each bit of the remainder on its own. The first bit is the lowest, and so many zeros come behind them."""
    columns = [1]
    for _ in range(zeros + len(bits)):
        columns.append(columns[-1] >> 1 ^ (_POLYNOMIAL if columns[-1] & 1 else 0))
    columns = columns[: -len(bits) - 1 : -1]
    return Cat(Cat(bit for bit, column in zip(bits, columns) if column >> n & 15 == which).xor() for n, which in _SUMS)


def _remainder(sums):
    """What the CRC's register holds after a message, when it held 0 before it."""
    parts = [[bit for bit, (of, which) in zip(sums, _SUMS) if of == n & ~3 and which >> n % 4 & 1] for n in range(32)]
    return Cat(Cat(part).xor() for part in parts)


class PacketCrc(wiring.Component):
    """CRC-32C (Castagnoli) of packets, for who sends them and for who receives them.

    It is of the packet's bytes, words with their lowest byte first. (Ref: RFC 3720 12.1.)

    One part per cycle without gaps; latency two cycles.

    Members
    -------
    i : :py:`In(stream.Signature(CheckedPart))`
        The parts of packets, each from ``first`` to ``last``; ``first`` forgets what was before. ``crc``, looked at
        beside ``last``: 0, or the CRC as received.
    o : :py:`Out(stream.Signature(CheckedPart))`
        The same parts; beside ``last``, ``crc`` is the packet's CRC XORed with that of ``i``: what is to be sent, or 0
        if what was received is right. Elsewhere it means nothing.
    """

    i: In(stream.Signature(CheckedPart))
    o: Out(stream.Signature(CheckedPart))

    def elaborate(self, platform):
        m = Module()
        step_out, step_in = Signal(), Signal()
        valid, between = Signal(), Signal(CheckedPart)
        m.d.comb += [step_out.eq(~self.o.valid | self.o.ready), step_in.eq(~valid | step_out), self.i.ready.eq(step_in)]

        # What is in the register before a message's first 32 bits does the same as if it were XORed with these.
        part = self.i.payload.part
        head, body, line = (Value.cast(bits) for bits in (part.head, part.body, part.line))
        begun = Cat(~head[:32], head[32:])
        sums = Signal(len(_SUMS))
        after_head, of_line = Signal(32), Signal(len(_SUMS))
        m.d.comb += sums.eq(Mux(part.has_body, _sums(Cat(begun, body)), _sums(begun)))
        with m.If(step_in):
            m.d.sync += [
                valid.eq(self.i.valid),
                between.eq(self.i.payload),
                after_head.eq(_remainder(sums)),
                of_line.eq(_sums(line)),
            ]

        register, before, after, of_all = Signal(32), Signal(32), Signal(32), Signal(len(_SUMS))
        m.d.comb += [
            before.eq(Mux(between.part.first, after_head, register)),
            of_all.eq(_sums(before, 480) ^ of_line),
            after.eq(Mux(between.part.has_line, _remainder(of_all), before)),
        ]
        with m.If(step_out):
            m.d.sync += [
                self.o.valid.eq(valid),
                self.o.payload.part.eq(between.part),
                self.o.payload.crc.eq(~after ^ between.crc),
            ]
            with m.If(valid):
                m.d.sync += register.eq(after)
        return m
