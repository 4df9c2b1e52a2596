"""The segments of a file before its scan."""

from amaranth.hdl import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg.tables import HUFF_AC_CHROMA, HUFF_AC_LUMA, HUFF_DC_CHROMA, HUFF_DC_LUMA, Marker
from tessera.hw.engine import Format
from tessera.hw.memory.bitstream_writer import Chunk

__all__ = ["HeaderWriter", "Picture"]


class Picture(data.Struct):
    """What a file's headers say of its picture."""

    chroma_format: Format
    width: 16
    height: 16
    restart_interval: 16
    """MCUs; 0 for none."""


class _Kind(enum.Enum, shape=3):
    Literal = 0
    Height = 1
    Width = 2
    Sampling = 3
    """Luma's factors."""
    Interval = 4
    Quantizers = 5
    """As many entries of a table as ``count`` says, in as many cycles."""


class _When(enum.Enum, shape=2):
    Always = 0
    Gray = 1
    Color = 2
    Restart = 3


class _Step(data.Struct):
    """A cycle's worth of header."""

    kind: _Kind
    when: _When
    count: 7
    last: 1
    literal: 64


def _steps():
    """The whole of a header, step by step (Ref: ITU-T T.81 B.2)."""
    steps = []

    def step(kind, count, when, literal=0):
        steps.append({"kind": kind, "when": when, "count": count, "literal": literal, "last": 0})

    def literal(payload, when=_When.Always):
        for start in range(0, len(payload), 8):
            part = bytes(payload[start : start + 8])
            step(_Kind.Literal, len(part), when, int.from_bytes(part, "little"))

    def segment(marker, payload, rest=0):
        """The beginning of a segment, of whose payload `rest` bytes follow."""
        return bytes((0xFF, marker)) + (2 + len(payload) + rest).to_bytes(2, "big") + bytes(payload)

    literal(b"\xff\xd8" + segment(Marker.APP0, b"JFIF\0" + bytes((1, 1, 0, 0, 1, 0, 1, 0, 0))))
    literal(segment(Marker.DQT, [0], 64))
    step(_Kind.Quantizers, 64, _When.Always)
    literal(segment(Marker.DQT, [1], 64), _When.Color)
    step(_Kind.Quantizers, 64, _When.Color)
    for when, components in ((_When.Gray, 1), (_When.Color, 3)):
        literal(segment(Marker.SOF0, [8], 5 + 3 * components), when)
    step(_Kind.Height, 2, _When.Always)
    step(_Kind.Width, 2, _When.Always)
    literal([1, 1], _When.Gray)
    literal([3, 1], _When.Color)
    step(_Kind.Sampling, 1, _When.Always)
    literal([0], _When.Gray)
    literal([0, 2, 0x11, 1, 3, 0x11, 1], _When.Color)
    huffman = ((0x00, HUFF_DC_LUMA), (0x10, HUFF_AC_LUMA)), ((0x01, HUFF_DC_CHROMA), (0x11, HUFF_AC_CHROMA))
    for when, tables in zip((_When.Always, _When.Color), huffman):
        literal(b"".join(segment(Marker.DHT, [tc_th, *counts, *symbols]) for tc_th, (counts, symbols) in tables), when)
    literal(segment(Marker.DRI, [], 2), _When.Restart)
    step(_Kind.Interval, 2, _When.Restart)
    literal(segment(Marker.SOS, [1, 1, 0, 0, 63, 0]), _When.Gray)
    steps[-1]["last"] = 1
    literal(segment(Marker.SOS, [3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0]), _When.Color)
    steps[-1]["last"] = 1
    return steps


_STEPS = _steps()


class HeaderWriter(wiring.Component):
    """Writes all from SOI to SOS: APP0 (JFIF 1.01), DQT, SOF0, DHT, DRI if there are restarts.

    Equals the beginning of what :func:`tessera.golden.jpeg.encoder.encode` writes.

    With the quantizer entries there in time the last bytes are offered 202 cycles after the picture, of a gray one 200.
    Entries that are of no use to a gray picture are taken, too.

    Members
    -------
    i : :py:`In(stream.Signature(Picture))`
        Taken with the last bytes.
    i_q : :py:`In(stream.Signature(8))`
        Entries of luma's and chroma's table, 64 each, in zig-zag order.
    o : :py:`Out(stream.Signature(Chunk))`
        ``last`` with the last bytes of the headers.
    """

    def __init__(self):
        super().__init__(
            {"i": In(stream.Signature(Picture)), "i_q": In(stream.Signature(8)), "o": Out(stream.Signature(Chunk))}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.steps = rom = Memory(shape=_Step, depth=len(_STEPS), init=_STEPS)
        read = rom.read_port()
        step, picture, output = read.data, self.i.payload, self.o.payload
        number, following = Signal(range(len(_STEPS))), Signal(range(len(_STEPS)))
        fetched = Signal()
        entries = Signal(6)

        wanted = Signal()
        with m.Switch(step.when):
            with m.Case(_When.Always):
                m.d.comb += wanted.eq(1)
            with m.Case(_When.Gray):
                m.d.comb += wanted.eq(picture.chroma_format == Format.Gray)
            with m.Case(_When.Color):
                m.d.comb += wanted.eq(picture.chroma_format != Format.Gray)
            with m.Case(_When.Restart):
                m.d.comb += wanted.eq(picture.restart_interval != 0)

        go, done, gives = Signal(), Signal(), Signal()
        m.d.comb += go.eq((~self.o.valid | self.o.ready) & fetched & self.i.valid)
        value = Signal(64)
        count = Signal(4)
        m.d.comb += [value.eq(step.literal), count.eq(step.count), gives.eq(wanted), done.eq(1)]

        def big_endian(number):
            return Cat(number[8:], number[:8])

        with m.Switch(step.kind):
            with m.Case(_Kind.Height):
                m.d.comb += value.eq(big_endian(picture.height))
            with m.Case(_Kind.Width):
                m.d.comb += value.eq(big_endian(picture.width))
            with m.Case(_Kind.Sampling):
                m.d.comb += value.eq(0x11)
                with m.If(picture.chroma_format == Format.C420):
                    m.d.comb += value.eq(0x22)
                with m.If(picture.chroma_format == Format.C422):
                    m.d.comb += value.eq(0x21)
            with m.Case(_Kind.Interval):
                m.d.comb += value.eq(big_endian(picture.restart_interval))
            with m.Case(_Kind.Quantizers):
                m.d.comb += [
                    value.eq(self.i_q.payload),
                    count.eq(1),
                    gives.eq(wanted & self.i_q.valid),
                    done.eq(self.i_q.valid & (entries == 63)),
                    self.i_q.ready.eq(go),
                ]
        m.d.comb += [read.addr.eq(following), following.eq(number)]
        m.d.sync += [number.eq(following), fetched.eq(1)]
        with m.If(go):
            with m.If(self.i_q.valid & self.i_q.ready):
                m.d.sync += entries.eq(entries + 1)
            with m.If(done):
                m.d.comb += following.eq(number + 1)
                with m.If(step.last & wanted):
                    m.d.comb += [following.eq(0), self.i.ready.eq(1)]
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                self.o.valid.eq(go & gives),
                Value.cast(output.data).eq(value),
                output.count.eq(count),
                output.last.eq(step.last & wanted),
            ]
        return m
