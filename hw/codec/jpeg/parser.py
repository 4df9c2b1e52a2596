"""The structure of a JPEG file: markers, headers and tables (Ref: ITU-T T.81 annex B)."""

from contextlib import contextmanager
from dataclasses import dataclass

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.golden.jpeg.tables import MCU_BLOCKS_MAX, Marker
from tessera.hw.codec.jpeg.bits import Ending, FileBytes
from tessera.hw.codec.jpeg.coefficients import QuantizerLoad
from tessera.hw.codec.jpeg.huffman import HuffmanLoad, LoadKind
from tessera.hw.codec.jpeg.mcu import Scan
from tessera.hw.engine import Format, Status
from tessera.hw.lib.streams import observe
from tessera.hw.memory.surface import SurfaceMap

__all__ = ["FrameHeader", "Parser", "ParserParameters", "Verdict"]

_UNSUPPORTED = {
    Status.JpegUnsupportedProgressive: ["SOF2"],
    Status.JpegUnsupportedArithmetic: ["SOF9", "SOF10", "SOF11", "SOF13", "SOF14", "SOF15", "DAC"],
    Status.JpegUnsupportedLossless: ["SOF3", "SOF5", "SOF6", "SOF7", "SOF55", "DHP", "EXP"],
}


@dataclass(frozen=True)
class ParserParameters:
    """Parameters of :class:`Parser`.

    Parameters
    ----------
    max_width, max_height : int
        Of a picture, in samples, 1 to 65535; larger ones are ``JpegBadSize``.
    """

    max_width: int = 65535
    max_height: int = 65535

    def __post_init__(self):
        for name in ("max_width", "max_height"):
            if not 1 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name} is {getattr(self, name)}; 1 to 65535 expected")


class FrameHeader(data.Struct):
    """What a frame header says of the picture."""

    chroma_format: Format
    width: 16
    height: 16


class Verdict(data.Struct):
    """How a file ended."""

    status: Status
    where: 32


class _Component(data.Struct):
    id: 8
    h: 3
    v: 3
    tq: 2


class Parser(wiring.Component):
    """Parses a file, by the rules of :mod:`tessera.golden.jpeg.decoder`.

    It takes a byte per cycle, two in segments that are skipped. A segment takes up to 4 cycles more, a quantization
    table 1, a Huffman table 2 for each of its 16 counts and up to 64 for its short codes: the headers of a 4:2:0 file
    with the standard's tables (623 bytes) take 1033 cycles.

    Tables go out as they come. At a scan's beginning the scan goes out and the parser leaves ``file`` alone until it
    gets, in ``resume``, the marker that followed the scan's data.

    Parameters
    ----------
    parameters : :class:`ParserParameters`

    Members
    -------
    start : :py:`In(1)`
        Strobe: a file begins. Once after reset.
    room : :py:`In(24)`
        Lines of the target; a picture that needs more is ``TargetTooSmall``.
    file, offset, take
        As of :class:`ByteFeed`.
    quantizers : :py:`Out(stream.Signature(QuantizerLoad))`
    huffman : :py:`Out(stream.Signature(HuffmanLoad))`
    huffman_bad, huffman_codes : :py:`In`
        As of :class:`HuffmanTables`.
    scan : :py:`Out(stream.Signature(Scan))`
        The payload holds still until ``resume``.
    resume : :py:`In(stream.Signature(Ending))`
    frame : :py:`Out(FrameHeader)`
        From before the first scan on.
    verdict : :py:`Out(stream.Signature(Verdict))`
        The file is over, well or not. Nothing follows.
    """

    def __init__(self, parameters=None):
        self.parameters = parameters or ParserParameters()
        super().__init__(
            {
                "start": In(1),
                "room": In(24),
                "file": In(FileBytes),
                "offset": In(32),
                "take": Out(2),
                "quantizers": Out(stream.Signature(QuantizerLoad)),
                "huffman": Out(stream.Signature(HuffmanLoad)),
                "huffman_bad": In(1),
                "huffman_codes": In(12),
                "scan": Out(stream.Signature(Scan)),
                "resume": In(stream.Signature(Ending)),
                "frame": Out(FrameHeader),
                "verdict": Out(stream.Signature(Verdict)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.map = surface_map = SurfaceMap()
        byte = self.file.bytes[0]
        high_nibble, low_nibble = byte[4:8], byte[0:4]
        verdict = self.verdict.payload

        marker, segment = Signal(8), Signal(32)
        length, left = Signal(16), Signal(16)

        def fail(status, where=segment):
            m.d.sync += [verdict.status.eq(status), verdict.where.eq(where)]
            m.next = "Over"

        @contextmanager
        def next_byte():
            with m.If(self.file.end):
                fail(Status.JpegTruncated, self.offset)
            with m.Elif(self.file.count != 0):
                m.d.comb += self.take.eq(1)
                m.d.sync += left.eq(left - 1)
                yield

        def next_segment_if(over):
            with m.If(over):
                m.next = "Marker"

        # Of the frame and its tables.
        have_frame, frame_count = Signal(), Signal(2)
        frame = self.frame
        components = [Signal(_Component, name=f"component{n}") for n in range(3)]
        scanned = Signal(3)
        quantizer_there, dc_there, ac_there = Signal(4), Signal(4), Signal(4)
        m.d.comb += [
            surface_map.chroma_format.eq(frame.chroma_format),
            surface_map.width.eq(frame.width),
            surface_map.height.eq(frame.height),
        ]

        # Of the scan.
        scan = self.scan.payload
        scan_count, selected, interval = Signal(2), Signal(3), Signal(16)
        chosen = [Signal(2, name=f"chosen{n}") for n in range(3)]
        tables = [Signal(data.StructLayout({"ta": 2, "td": 2}), name=f"tables{n}") for n in range(3)]
        m.d.comb += [
            scan.count.eq(scan_count),
            scan.interval.eq(interval),
            scan.h_max.eq(components[0].h),
            scan.v_max.eq(components[0].v),
            scan.tiles_x.eq(surface_map.tiles_x),
            scan.tiles_y.eq(surface_map.tiles_y),
        ]
        for n in range(3):
            item = scan.components[n]
            m.d.comb += [item.plane.eq(chosen[n]), item.td.eq(tables[n].td), item.ta.eq(tables[n].ta)]
            with m.Switch(chosen[n]):
                for c in range(3):
                    with m.Case(c):
                        source = components[c]
                        m.d.comb += [item.h.eq(source.h), item.v.eq(source.v), item.tq.eq(source.tq)]

        number = Signal(range(64))
        which = number[:2]
        high = Signal(8)
        with m.FSM(name="parser"):
            with m.State("AwaitFile"):
                with m.If(self.start):
                    m.next = "FirstByte"
            with m.State("FirstByte"), next_byte():
                m.next = "SecondByte"
                with m.If(byte != 0xFF):
                    fail(Status.JpegNotJpeg, 0)
            with m.State("SecondByte"), next_byte():
                m.next = "Marker"
                with m.If(byte != Marker.SOI):
                    fail(Status.JpegNotJpeg, 0)

            with m.State("Marker"), next_byte():
                m.next = "Code"
                with m.If(byte != 0xFF):
                    fail(Status.JpegBadMarker, self.offset)
            with m.State("Code"), next_byte():
                m.d.sync += [marker.eq(byte), segment.eq(self.offset - 1)]
                with m.If(byte != 0xFF):
                    m.next = "Dispatch"
            with m.State("Dispatch"):
                m.next = "LengthHigh"
                with m.Switch(marker):
                    for status, names in _UNSUPPORTED.items():
                        with m.Case(*(Marker[name] for name in names)):
                            fail(status)
                    with m.Case(Marker.SOF0, Marker.SOF1):
                        with m.If(have_frame):
                            fail(Status.JpegBadFrame)
                    with m.Case(Marker.SOS):
                        with m.If(~have_frame):
                            fail(Status.JpegMissingFrame)
                    with m.Case(Marker.EOI):
                        with m.If(~have_frame):
                            fail(Status.JpegMissingFrame)
                        with m.Elif(scanned != Mux(frame_count[1], 7, 1)):
                            fail(Status.JpegMissingComponent)
                        with m.Else():
                            fail(Status.Ok, 0)
                    with m.Case(*range(Marker.RST0, Marker.RST7 + 1), Marker.TEM):
                        m.next = "Marker"
                    with m.Case(*range(Marker.APP0, Marker.APP15 + 1), Marker.COM, Marker.DNL):
                        pass
                    with m.Case(Marker.DQT, Marker.DHT, Marker.DRI):
                        pass
                    with m.Default():
                        fail(Status.JpegBadMarker)

            with m.State("LengthHigh"), next_byte():
                m.d.sync += length[8:].eq(byte)
                m.next = "LengthLow"
            with m.State("LengthLow"), next_byte():
                m.d.sync += [length[:8].eq(byte), left.eq(Cat(byte, length[8:]) - 2)]
                m.next = "Segment"
            with m.State("Segment"):
                with m.Switch(marker):
                    for markers, least, state in (
                        ((Marker.DQT,), 2, "QuantizerHead"),
                        ((Marker.DHT,), 2, "HuffmanHead"),
                        ((Marker.SOF0, Marker.SOF1), 8, "Precision"),
                        ((Marker.SOS,), 6, "ScanCount"),
                        ((Marker.DRI,), 4, "IntervalHigh"),
                    ):
                        with m.Case(*markers):
                            m.next = state
                            if least == 2:
                                next_segment_if(left == 0)
                            with m.If((length != 4) if state == "IntervalHigh" else (length < least)):
                                fail(Status.JpegBadLength)
                    with m.Default():
                        m.next = "Skip"
                        with m.If(length < 2):
                            fail(Status.JpegBadLength)
            with m.State("Skip"):
                with m.If(left == 0):
                    m.next = "Marker"
                with m.Elif(self.file.count[1] & (left != 1)):
                    m.d.comb += self.take.eq(2)
                    m.d.sync += left.eq(left - 2)
                with m.Else(), next_byte():
                    pass

            with m.State("QuantizerHead"), next_byte():
                m.d.sync += high.eq(byte)
                m.next = "QuantizerCheck"
            pq, tq = Signal(), Signal(2)
            quantizer = self.quantizers.payload
            with m.State("QuantizerCheck"):
                m.d.sync += [pq.eq(high[4]), tq.eq(high[:2]), high.eq(0), number.eq(0)]
                m.next = "QuantizerLow"
                with m.If(high[4]):
                    m.next = "QuantizerHigh"
                with m.If((high[5:] != 0) | (high[2:4] != 0)):
                    fail(Status.JpegBadTable)
                with m.Elif(left[6:] < Mux(high[4], 2, 1)):
                    fail(Status.JpegBadLength)
            with m.State("QuantizerHigh"), next_byte():
                m.d.sync += high.eq(byte)
                m.next = "QuantizerLow"
            m.d.comb += [quantizer.tq.eq(tq), quantizer.k.eq(number), quantizer.value.eq(Cat(byte, high))]
            with m.State("QuantizerLow"):
                m.d.comb += self.quantizers.valid.eq(self.file.count != 0)
                with m.If(self.file.end | self.quantizers.ready), next_byte():
                    m.d.sync += number.eq(number + 1)
                    with m.If(pq):
                        m.next = "QuantizerHigh"
                    with m.If(number == 63):
                        m.d.sync += quantizer_there.bit_select(tq, 1).eq(1)
                        m.next = "QuantizerHead"
                        next_segment_if(left == 1)
                    with m.If(quantizer.value == 0):
                        fail(Status.JpegBadTable)

            with m.State("HuffmanHead"), next_byte():
                m.d.sync += high.eq(byte)
                m.next = "HuffmanCheck"
            with m.State("HuffmanCheck"):
                m.d.sync += number.eq(0)
                m.next = "HuffmanTable"
                with m.If((high[5:] != 0) | (high[2:4] != 0)):
                    fail(Status.JpegBadTable)
                with m.Elif(~left[4:].any()):
                    fail(Status.JpegBadLength)
            load = self.huffman.payload
            codes_left = Signal(9)
            with m.State("HuffmanTable"):
                m.d.comb += [self.huffman.valid.eq(1), load.kind.eq(LoadKind.Table)]
                m.d.comb += load.byte.eq(Cat(high[:2], high[4]))
                with m.If(self.huffman.ready):
                    m.next = "HuffmanCount"
            with m.State("HuffmanCount"):
                m.d.comb += [self.huffman.valid.eq(self.file.count != 0), load.kind.eq(LoadKind.Count)]
                m.d.comb += load.byte.eq(byte)
                with m.If(self.file.end | self.huffman.ready), next_byte():
                    m.d.sync += number.eq(number + 1)
                    m.next = "HuffmanCounted"
            with m.State("HuffmanCounted"):
                m.d.sync += codes_left.eq(self.huffman_codes)
                with m.If(self.huffman.ready):
                    m.next = "HuffmanCount"
                    with m.If(self.huffman_bad):
                        fail(Status.JpegBadTable)
                    with m.Elif(number[4]):
                        m.next = "HuffmanValues"
                        with m.If(self.huffman_codes > 256):
                            fail(Status.JpegBadTable)
                        with m.Elif(left < self.huffman_codes):
                            fail(Status.JpegBadLength)
            with m.State("HuffmanValues"):
                m.d.comb += [load.kind.eq(LoadKind.Value), load.byte.eq(byte)]
                with m.If(codes_left == 0):
                    with m.If(high[4]):
                        m.d.sync += ac_there.bit_select(high[:2], 1).eq(1)
                    with m.Else():
                        m.d.sync += dc_there.bit_select(high[:2], 1).eq(1)
                    m.next = "HuffmanHead"
                    next_segment_if(left == 0)
                with m.Else():
                    m.d.comb += self.huffman.valid.eq(self.file.count != 0)
                    with m.If(self.file.end | self.huffman.ready), next_byte():
                        m.d.sync += codes_left.eq(codes_left - 1)

            with m.State("IntervalHigh"), next_byte():
                m.d.sync += interval[8:].eq(byte)
                m.next = "IntervalLow"
            with m.State("IntervalLow"), next_byte():
                m.d.sync += interval[:8].eq(byte)
                m.next = "Marker"

            with m.State("Precision"), next_byte():
                m.next = "HeightHigh"
                with m.If(byte != 8):
                    fail(Status.JpegUnsupportedPrecision)
            after = {"Height": "WidthHigh", "Width": "ComponentCount"}
            for what, size, limit in (
                ("Height", frame.height, self.parameters.max_height),
                ("Width", frame.width, self.parameters.max_width),
            ):
                with m.State(f"{what}High"), next_byte():
                    m.d.sync += size[8:].eq(byte)
                    m.next = f"{what}Low"
                with m.State(f"{what}Low"), next_byte():
                    m.d.sync += size[:8].eq(byte)
                    m.next = f"{what}Check"
                with m.State(f"{what}Check"):
                    m.next = after[what]
                    with m.If((size == 0) | (size > limit)):
                        fail(Status.JpegBadSize)
            with m.State("ComponentCount"), next_byte():
                m.d.sync += [frame_count.eq(byte), number.eq(0)]
                m.next = "ComponentCountCheck"
                with m.If((byte != 1) & (byte != 3)):
                    fail(Status.JpegUnsupportedComponents)
            with m.State("ComponentCountCheck"):
                m.next = "ComponentId"
                with m.If(length != Mux(frame_count[1], 17, 11)):
                    fail(Status.JpegBadLength)
            with m.State("ComponentId"), next_byte():
                m.next = "ComponentFactors"
                for n in range(3):
                    with m.If(which == n):
                        m.d.sync += components[n].id.eq(byte)
            with m.State("ComponentFactors"), next_byte():
                m.next = "ComponentTable"
                for n in range(3):
                    with m.If(which == n):
                        m.d.sync += [components[n].h.eq(high_nibble), components[n].v.eq(low_nibble)]
                same = [components[a].id == components[b].id for a, b in ((0, 1), (0, 2), (1, 2))]
                twice = Mux(which == 2, same[1] | same[2], (which == 1) & same[0])
                factors_bad = [(f == 0) | (f > 4) for f in (high_nibble, low_nibble)]
                with m.If(twice | factors_bad[0] | factors_bad[1]):
                    fail(Status.JpegBadFrame)
            with m.State("ComponentTable"), next_byte():
                for n in range(3):
                    with m.If(which == n):
                        m.d.sync += components[n].tq.eq(byte)
                m.d.sync += number.eq(number + 1)
                m.next = "ComponentId"
                with m.If(which + 1 == frame_count):
                    m.next = "Sampling"
                with m.If(byte[2:].any()):
                    fail(Status.JpegBadFrame)
            with m.State("Sampling"):
                y, cb, cr = components
                alike = (cb.h == cr.h) & (cb.v == cr.v)
                m.d.sync += [have_frame.eq(1), number.eq(0)]
                m.next = "Room"
                with m.If(~frame_count[1]):
                    m.d.sync += frame.chroma_format.eq(Format.Gray)
                with m.Elif(alike & (y.h == cb.h) & (y.v == cb.v)):
                    m.d.sync += frame.chroma_format.eq(Format.C444)
                with m.Elif(alike & (y.h == cb.h << 1) & (y.v == cb.v)):
                    m.d.sync += frame.chroma_format.eq(Format.C422)
                with m.Elif(alike & (y.h == cb.h << 1) & (y.v == cb.v << 1)):
                    m.d.sync += frame.chroma_format.eq(Format.C420)
                with m.Else():
                    fail(Status.JpegUnsupportedSampling)
            with m.State("Room"):
                # The map follows the geometry by two cycles.
                m.d.sync += number.eq(number + 1)
                with m.If(which == 3):
                    m.next = "Marker"
                    # A surface's lines are a multiple of 512.
                    with m.If(surface_map.lines[9:] > self.room[9:]):
                        fail(Status.TargetTooSmall, surface_map.lines)

            with m.State("ScanCount"), next_byte():
                m.d.sync += [scan_count.eq(byte), number.eq(0), selected.eq(0)]
                m.next = "ScanCountCheck"
                with m.If((byte == 0) | (byte > frame_count)):
                    fail(Status.JpegBadScan)
            after_chosen, blocks, spectral_bad = Signal(3), Signal(6), Signal()
            with m.State("ScanCountCheck"):
                # Components that may come next: those after the last one chosen.
                m.d.sync += [after_chosen.eq(Mux(frame_count[1], 7, 1)), blocks.eq(0), spectral_bad.eq(0)]
                m.next = "ScanComponent"
                with m.If(length != 6 + (scan_count << 1)):
                    fail(Status.JpegBadLength)
            component, component_tables = Signal(2), Signal(8)
            # Of an MCU, known long before: a product of small numbers, not worth a multiplier.
            component_blocks = [Signal(5, name=f"component_blocks{n}") for n in range(3)]
            for c, sink in zip(components, component_blocks):
                m.d.sync += sink.eq(sum(Mux(c.v[n], c.h << n, 0) for n in range(3)))
            matches = Cat((components[n].id == byte) & after_chosen[n] for n in range(3))
            with m.State("ScanComponent"), next_byte():
                with m.If(matches[0]):
                    m.d.sync += [component.eq(0), after_chosen.eq(after_chosen & 0b110)]
                with m.Elif(matches[1]):
                    m.d.sync += [component.eq(1), after_chosen.eq(after_chosen & 0b100)]
                with m.Else():
                    m.d.sync += [component.eq(2), after_chosen.eq(0)]
                m.next = "ScanTables"
                with m.If((matches & ~scanned) == 0):
                    fail(Status.JpegBadScan)
            with m.State("ScanTables"), next_byte():
                m.d.sync += component_tables.eq(byte)
                m.next = "ScanTablesCheck"
            with m.State("ScanTablesCheck"):
                td, ta = component_tables[4:8], component_tables[0:4]
                tq_of = Array(c.tq for c in components)[component]
                for n in range(3):
                    with m.If(which == n):
                        m.d.sync += [chosen[n].eq(component), tables[n].td.eq(td), tables[n].ta.eq(ta)]
                m.d.sync += [
                    selected.eq(selected | (1 << component)),
                    number.eq(number + 1),
                    blocks.eq(blocks + Array(component_blocks)[component]),
                ]
                m.next = "ScanComponent"
                with m.If(which + 1 == scan_count):
                    m.next = "SpectralStart"
                there = dc_there.bit_select(td[:2], 1) & ac_there.bit_select(ta[:2], 1)
                there = there & quantizer_there.bit_select(tq_of, 1)
                with m.If(td[2:].any() | ta[2:].any()):
                    fail(Status.JpegBadScan)
                with m.Elif(~there):
                    fail(Status.JpegMissingTable)
            for state, after_it, right in (
                ("SpectralStart", "SpectralEnd", 0),
                ("SpectralEnd", "Approximation", 63),
                ("Approximation", "ScanCheck", 0),
            ):
                with m.State(state), next_byte():
                    m.d.sync += spectral_bad.eq(spectral_bad | (byte != right))
                    m.next = after_it
            with m.State("ScanCheck"):
                m.next = "Scan"
                with m.If(spectral_bad | ((scan_count != 1) & (blocks > MCU_BLOCKS_MAX))):
                    fail(Status.JpegBadScan)
            with m.State("Scan"):
                m.d.comb += self.scan.valid.eq(1)
                with m.If(self.scan.ready):
                    m.next = "AwaitScan"
            with m.State("AwaitScan"):
                ending = self.resume.payload
                m.d.comb += self.resume.ready.eq(1)
                with m.If(self.resume.valid):
                    m.d.sync += [scanned.eq(scanned | selected), marker.eq(ending.code), segment.eq(ending.where)]
                    m.next = "Dispatch"
                    with m.If(ending.file):
                        fail(Status.JpegTruncated, self.offset)

            with m.State("Over"):
                m.d.comb += self.verdict.valid.eq(1)
                with m.If(self.verdict.ready):
                    m.next = "AwaitFile"
        for interface in (self.quantizers, self.huffman, self.scan, self.verdict):
            observe(m, interface)
        return m
