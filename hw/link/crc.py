"""The CRC of a packet."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.packet import CheckedPart

__all__ = ["PacketCrc"]

_POLYNOMIAL = 0x82F63B78
"""Reflected: bit 31 is of x^0."""


def _remainder(bits):
    """What the CRC's register holds after the message ``bits``, the first one lowest, when it held 0 before them."""
    columns = []
    for _ in bits:
        before = columns[-1] if columns else 1
        columns.append(before >> 1 ^ (_POLYNOMIAL if before & 1 else 0))
    columns.reverse()
    return Cat(Cat(bit for bit, column in zip(bits, columns) if column >> n & 1).xor() for n in range(32))


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
        after_head, of_line = Signal(32), Signal(32)
        with m.If(step_in):
            m.d.sync += [
                valid.eq(self.i.valid),
                between.eq(self.i.payload),
                after_head.eq(Mux(part.has_body, _remainder(Cat(begun, body)), _remainder(begun))),
                of_line.eq(_remainder(line)),
            ]

        register, before, after = Signal(32), Signal(32), Signal(32)
        m.d.comb += [
            before.eq(Mux(between.part.first, after_head, register)),
            after.eq(Mux(between.part.has_line, _remainder(Cat(before, C(0, 480))) ^ of_line, before)),
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
