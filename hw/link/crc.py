"""The CRC of a packet."""

from functools import reduce
from operator import xor

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.link.packet import CheckedPart, Part

__all__ = ["PacketCrc"]

_POLYNOMIAL = 0x82F63B78
"""Reflected: bit 31 is of x^0."""


_SEGMENT = 64
"""Bits of a line that are looked at as one: what they add to the remainder is a register of its own, so that no bit has
to be brought to all places."""


def _remainder(bits, zeros=0):
    """What the CRC's register holds after a message and so many zeros, when it held 0 before them; the message's first
    bit is the lowest. Bits that go into the same ones of four neighbours of the remainder are added up once for all."""
    columns = [1]
    for _ in range(zeros + len(bits)):
        columns.append(columns[-1] >> 1 ^ (_POLYNOMIAL if columns[-1] & 1 else 0))
    bits, columns = list(bits), columns[: -len(bits) - 1 : -1]
    remainder = []
    for first in range(0, 32, 4):
        groups = [[bit for bit, column in zip(bits, columns) if column >> first & 15 == which] for which in range(16)]
        sums = [Cat(group).xor() for group in groups]
        remainder += [Cat(sums[which] for which in range(16) if which >> n & 1).xor() for n in range(4)]
    return Cat(remainder)


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
    coming : :py:`Out(Part)`
        What ``o`` offers in the next cycle, if it offers another part then.
    """

    i: In(stream.Signature(CheckedPart))
    o: Out(stream.Signature(CheckedPart))
    coming: Out(Part)

    def elaborate(self, platform):
        m = Module()
        step_out, step_in = Signal(), Signal()
        # With a reset it is forgotten that there was something; what it was stays: a reset that reaches few is quicker.
        valid, between, given = Signal(), Signal(CheckedPart, reset_less=True), Signal(CheckedPart, reset_less=True)
        m.d.comb += [self.o.payload.eq(given), self.coming.eq(between.part)]
        m.d.comb += [step_out.eq(~self.o.valid | self.o.ready), step_in.eq(~valid | step_out), self.i.ready.eq(step_in)]

        # What is in the register before a message's first 32 bits does the same as if it were XORed with these.
        part = self.i.payload.part
        head, body, line = (Value.cast(bits) for bits in (part.head, part.body, part.line))
        begun = Cat(~head[:32], head[32:])
        of_head, of_body = Signal(32, reset_less=True), Signal(32, reset_less=True)
        of_line = [Signal(32, name=f"of_line{n}", reset_less=True) for n in range(len(line) // _SEGMENT)]
        with m.If(step_in):
            m.d.sync += [
                valid.eq(self.i.valid),
                between.eq(self.i.payload),
                of_head.eq(Mux(part.has_body, _remainder(begun, len(body)), _remainder(begun))),
                of_body.eq(Mux(part.has_body, _remainder(body), 0)),
            ]
            for n, of_segment in enumerate(of_line):
                first, behind = n * _SEGMENT, (n + 1) * _SEGMENT
                m.d.sync += of_segment.eq(_remainder(line[first:behind], len(line) - behind))

        register, before, with_line, after = (Signal(32) for _ in range(4))
        m.d.comb += [
            before.eq(Mux(between.part.first, of_head ^ of_body, register)),
            with_line.eq(reduce(xor, of_line, _remainder(before, len(line) - 32))),
            after.eq(Mux(between.part.has_line, with_line, before)),
        ]
        with m.If(step_out):
            m.d.sync += [
                self.o.valid.eq(valid),
                given.part.eq(between.part),
                given.crc.eq(~after ^ between.crc),
            ]
            with m.If(valid):
                m.d.sync += register.eq(after)
        return m
