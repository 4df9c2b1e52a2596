"""The JPEG decoder: a file in a bitstream slot to the picture's planes in a surface slot."""

from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, wiring

from tessera.golden.jpeg.tables import Marker
from tessera.hw.codec.jpeg.bits import ByteFeed, Unstuffer
from tessera.hw.codec.jpeg.coefficients import Dequantizer
from tessera.hw.codec.jpeg.entropy_decoder import EntropyDecoder, EntropyError
from tessera.hw.codec.jpeg.idct import Idct, IdctParameters
from tessera.hw.codec.jpeg.mcu import McuWalk
from tessera.hw.codec.jpeg.parser import Parser, ParserParameters, Verdict
from tessera.hw.engine import SlotKind, SlotRef, Status
from tessera.hw.lib.envelope import CoreSignature, Envelope
from tessera.hw.lib.streams import connect, observe
from tessera.hw.memory.bitstream_reader import BitstreamReader
from tessera.hw.memory.share import PortShare
from tessera.hw.memory.surface import SurfaceWriter, TilePlace

__all__ = ["JpegDecoder", "JpegDecoderCore", "JpegDecoderParameters"]


@dataclass(frozen=True)
class JpegDecoderParameters:
    """Parameters of :class:`JpegDecoder`.

    Parameters
    ----------
    max_width, max_height : int
        Largest picture, in samples, 1 to 65535.
    short_bits : int
        Longest Huffman code that is decoded in one cycle, 5 to 8.
    lines : int
        Lines of the bitstream that are asked for ahead, a power of two from 2.
    """

    max_width: int = 65535
    max_height: int = 65535
    short_bits: int = 6
    lines: int = 8

    def __post_init__(self):
        ParserParameters(self.max_width, self.max_height)
        if not 5 <= self.short_bits <= 8:
            raise ValueError(f"short_bits is {self.short_bits}; 5 to 8 expected")
        if self.lines < 2 or self.lines & (self.lines - 1):
            raise ValueError(f"lines is {self.lines}; a power of two from 2 expected")


class JpegDecoderCore(wiring.Component):
    """The core of :class:`JpegDecoder`, with :class:`CoreSignature`. Ids 0 (bitstream) and 1 (tiles)."""

    def __init__(self, parameters=None):
        self.parameters = parameters or JpegDecoderParameters()
        super().__init__(CoreSignature())

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.reader = reader = BitstreamReader(id=0, depth=p.lines)
        m.submodules.feed = feed = ByteFeed()
        m.submodules.parser = parser = Parser(ParserParameters(p.max_width, p.max_height))
        m.submodules.unstuffer = unstuffer = Unstuffer()
        m.submodules.walk = walk = McuWalk()
        m.submodules.entropy = entropy = EntropyDecoder(p.short_bits)
        m.submodules.dequantizer = dequantizer = Dequantizer()
        m.submodules.idct = idct = Idct(IdctParameters(place=TilePlace))
        m.submodules.writer = writer = SurfaceWriter(id=1)
        m.submodules.share = share = PortShare(2)

        for source, sink in (
            (reader.request, share.request0),
            (share.response0, reader.response),
            (writer.request, share.request1),
            (share.memory.request, self.memory.request),
            (self.memory.response, share.memory.response),
            (reader.o, feed.i),
            (parser.huffman, entropy.load),
            (parser.quantizers, dequantizer.load),
            (unstuffer.o, entropy.i),
            (walk.o, entropy.block),
            (entropy.o, dequantizer.i),
            (dequantizer.o, idct.i),
        ):
            connect(m, source, sink)
        used = ("window", "body")
        target = Signal(data.StructLayout({name: SlotRef.as_shape()[name].shape for name in used}))
        # A surface's lines, and so the room that counts, are a multiple of 512.
        room = Signal(15)
        m.d.comb += [
            share.response1.ready.eq(1),
            idct.o.ready.eq(writer.i.ready),
            writer.i.valid.eq(idct.o.valid),
            writer.i.payload.place.eq(idct.o.payload.place),
            Value.cast(writer.i.payload.tile).eq(Value.cast(idct.o.payload.samples)),
            writer.surface.window.eq(target.window),
            writer.surface.body.eq(target.body),
            writer.surface.chroma_format.eq(parser.frame.chroma_format),
            writer.surface.width.eq(parser.frame.width),
            writer.surface.height.eq(parser.frame.height),
            parser.room[9:].eq(room),
            parser.huffman_bad.eq(entropy.bad),
            parser.huffman_codes.eq(entropy.codes),
            parser.file.eq(feed.o),
            parser.offset.eq(feed.offset),
            unstuffer.file.eq(feed.o),
            unstuffer.offset.eq(feed.offset),
            feed.take.eq(parser.take | unstuffer.take),
        ]

        # Tiles that are decoded but not yet handed to the memory.
        tiles = Signal(4)
        decoded = entropy.o.valid & entropy.o.ready & entropy.o.payload.last & entropy.o.payload.inside
        m.d.sync += tiles.eq(tiles + decoded - (writer.request.valid & writer.request.ready))
        drained = Signal()
        m.d.comb += drained.eq(entropy.empty & (tiles == 0))

        m.d.comb += walk.start.payload.eq(parser.scan.payload)
        m.d.comb += [parser.resume.payload.eq(unstuffer.ending), entropy.ended.eq(unstuffer.ending.found)]
        ending = unstuffer.ending
        restart = Signal(3)
        verdict = Signal(Verdict)

        def fail(status):
            m.d.sync += [verdict.status.eq(status), verdict.where.eq(entropy.mcu)]
            m.next = "Drain"

        with m.FSM(name="decoder"):
            with m.State("AwaitTask"):
                task = self.start.payload.task
                begin = reader.start
                m.d.comb += [
                    begin.payload.window.eq(task.source.window),
                    begin.payload.body.eq(task.source.body),
                    begin.payload.bytes.eq(self.start.payload.source.bytes),
                    begin.valid.eq(self.start.valid),
                    self.start.ready.eq(begin.ready),
                    parser.start.eq(begin.valid & begin.ready),
                ]
                m.d.sync += [getattr(target, name).eq(getattr(task.target, name)) for name in used]
                m.d.sync += room.eq(task.target.lines[9:])
                with m.If(self.start.valid & begin.ready):
                    m.next = "Headers"
            with m.State("Headers"):
                m.d.comb += [walk.start.valid.eq(parser.scan.valid), parser.scan.ready.eq(walk.start.ready)]
                m.d.comb += [parser.verdict.ready.eq(1), entropy.begin_scan.eq(1)]
                m.d.sync += restart.eq(0)
                with m.If(parser.scan.valid & parser.scan.ready):
                    m.d.comb += entropy.begin.eq(1)
                    m.next = "Segment"
                with m.If(parser.verdict.valid):
                    m.d.sync += verdict.eq(parser.verdict.payload)
                    m.next = "Drain"
            with m.State("Segment"):
                m.d.comb += unstuffer.run.eq(1)
                with m.If(entropy.failed):
                    with m.Switch(entropy.error):
                        with m.Case(EntropyError.BadCode):
                            fail(Status.JpegBadCode)
                        with m.Case(EntropyError.BadCoefficient):
                            fail(Status.JpegBadCoefficient)
                        with m.Default():
                            fail(Mux(ending.file, Status.JpegTruncated, Status.JpegMarkerInScan))
                with m.Elif(entropy.done):
                    m.next = "SkipToMarker"
            with m.State("SkipToMarker"):
                # What is left of the segment is dropped by the entropy decoder.
                m.d.comb += unstuffer.run.eq(1)
                with m.If(ending.found):
                    m.next = "EndScan"
                    with m.If(~walk.scan_last):
                        m.next = "NextSegment"
                        with m.If(ending.file):
                            fail(Status.JpegTruncated)
                        with m.Elif(ending.code != Marker.RST0 + restart):
                            fail(Status.JpegBadRestart)
            with m.State("NextSegment"):
                m.d.comb += entropy.begin.eq(1)
                m.d.sync += restart.eq(restart + 1)
                m.next = "Segment"
            with m.State("EndScan"):
                # Tables may change now: what was decoded with them has to be out of their way.
                # The parser waits for it.
                m.d.comb += [unstuffer.run.eq(1), parser.resume.valid.eq(drained)]
                with m.If(drained):
                    m.next = "Headers"
            with m.State("Drain"):
                with m.If(drained):
                    m.next = "Finish"
            with m.State("Finish"):
                result = self.finish.payload
                m.d.comb += [self.finish.valid.eq(1), result.status.eq(verdict.status), result.where.eq(verdict.where)]
                with m.If(verdict.status == Status.Ok):
                    m.d.comb += [
                        result.bytes.eq(feed.offset),
                        result.chroma_format.eq(parser.frame.chroma_format),
                        result.width.eq(parser.frame.width),
                        result.height.eq(parser.frame.height),
                    ]
                with m.If(self.finish.ready):
                    m.next = "Finished"
            with m.State("Finished"):
                pass
        # Joints made with ``connect`` are observed there.
        observe(m, self.finish)
        return m


class JpegDecoder(Envelope):
    """Decodes JPEG files: an engine.

    The source is a bitstream slot with a whole file, the target a surface slot. All that
    :mod:`tessera.golden.jpeg.decoder` decodes is decoded, headers and tables by hardware too, with the same samples,
    and what it refuses is refused with the same status and ``where``; further statuses are ``TargetTooSmall``, found at
    the frame header, and those of :class:`Envelope`. The done message gives the picture's geometry and in ``bytes`` the
    offset after EOI; all are 0 when the task failed. The task has no parameters.

    Of failed tasks the target's body may have been written to, within the picture's planes.

    Time. The floor of a scan is the largest of

    - one cycle per Huffman symbol, EOB and ZRL included, and 3 more for each with a code longer than ``short_bits``;
    - 22 cycles per block of 8x8 samples within the picture (0.52 per pixel of 4:2:0);
    - 5 cycles per 8 bytes of file, and 1 for each FF in it.

    Header and tables come before it, a cycle per byte and about 100 more per Huffman table (1033 cycles in all with the
    standard's), and after it about 60 cycles for the last block's way to the memory, plus the memory's latencies.

    Parameters
    ----------
    parameters : :class:`JpegDecoderParameters`
    """

    def __init__(self, parameters=None, *, watchdog=1 << 16):
        core = JpegDecoderCore(parameters)
        super().__init__(core, source=SlotKind.Bitstream, target=SlotKind.Surface, watchdog=watchdog)
