"""Marker segments of a JPEG file (Ref: ITU-T T.81 annex B), by the rules that `golden.jpeg.decoder` lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from ..frames import ChromaFormat
from .huffman import Lookup, lookup
from .status import JpegStatus
from .tables import MCU_BLOCKS_MAX, ZIGZAG_TO_NATURAL, Marker

__all__ = ["Component", "HeaderReader", "JpegError", "Selection"]


class JpegError(ValueError):
    """A file that cannot be decoded.

    Parameters
    ----------
    status
        Which error.
    where
        The MCU's number if `in_scan`, else a byte offset: see `JpegStatus`.
    message
        What was found, for people.
    """

    def __init__(self, status: JpegStatus, where: int, message: str, in_scan: bool = False) -> None:
        place = f"MCU {where} of the scan" if in_scan else f"byte {where}"
        super().__init__(f"{status.name} at {place}: {message}")
        self.status = status
        self.where = where
        self.in_scan = in_scan


@dataclass
class Component:
    """One component of the frame.

    `h`, `v` and `tq` are the frame header's; `width` and `height` count samples (T.81 A.1.1). After its scan,
    `coefficients` are the quantized coefficients, int16 (blocks high, blocks wide, 8, 8) in natural order, with the
    blocks that pad the last MCUs of an interleaved scan (0 where a separate scan has none), and `quantizers` the
    (8, 8) table, uint16.
    """

    id: int
    h: int
    v: int
    tq: int
    width: int = 0
    height: int = 0
    coefficients: npt.NDArray[np.int16] | None = None
    quantizers: npt.NDArray[np.uint16] | None = None


@dataclass(frozen=True)
class Selection:
    """A component of a scan: its `index` in the frame header, `td` and `ta`, and what these stand for at that scan."""

    index: int
    td: int
    ta: int
    dc: Lookup
    ac: Lookup


_UNSUPPORTED = {
    Marker.SOF2: JpegStatus.UnsupportedProgressive,
    Marker.DAC: JpegStatus.UnsupportedArithmetic,
    Marker.SOF9: JpegStatus.UnsupportedArithmetic,
    Marker.SOF10: JpegStatus.UnsupportedArithmetic,
    Marker.SOF11: JpegStatus.UnsupportedArithmetic,
    Marker.SOF13: JpegStatus.UnsupportedArithmetic,
    Marker.SOF14: JpegStatus.UnsupportedArithmetic,
    Marker.SOF15: JpegStatus.UnsupportedArithmetic,
    Marker.SOF3: JpegStatus.UnsupportedLossless,
    Marker.SOF5: JpegStatus.UnsupportedLossless,
    Marker.SOF6: JpegStatus.UnsupportedLossless,
    Marker.SOF7: JpegStatus.UnsupportedLossless,
    Marker.SOF55: JpegStatus.UnsupportedLossless,
    Marker.DHP: JpegStatus.UnsupportedLossless,
    Marker.EXP: JpegStatus.UnsupportedLossless,
}

_FORMATS = {(1, 1): ChromaFormat.C444, (2, 1): ChromaFormat.C422, (2, 2): ChromaFormat.C420}


@dataclass
class HeaderReader:
    """Reads a file's segments, one scan header after the other.

    `position` is where it reads on; `segment` the offset of the marker of the segment at hand, `end` the offset after
    it. Components come with the frame header; whoever decodes their scan fills in their coefficients.
    """

    data: bytes
    max_width: int
    max_height: int
    position: int = 0
    segment: int = 0
    end: int = 0
    width: int = 0
    height: int = 0
    format: ChromaFormat = ChromaFormat.Gray
    components: list[Component] = field(default_factory=list)
    quantizers: dict[int, npt.NDArray[np.uint16]] = field(default_factory=dict)
    tables: dict[tuple[int, int], Lookup] = field(default_factory=dict)
    restart_interval: int = 0

    def soi(self) -> None:
        """The file's first two bytes."""
        if self.data[:2] != b"\xff\xd8":
            if self.data != b"\xff"[: len(self.data)]:
                raise JpegError(JpegStatus.NotJpeg, 0, "the file does not begin with FF D8")
            self.truncated()
        self.position = 2

    def scan(self) -> list[Selection] | None:
        """The next scan header, `position` at its entropy-coded data; None after EOI."""
        while (code := self.marker()) != Marker.EOI:
            if code in _UNSUPPORTED:
                self.fail(_UNSUPPORTED[Marker(code)], f"{Marker(code).name} is not supported")
            elif Marker.RST0 <= code <= Marker.RST7 or code == Marker.TEM:
                continue
            elif code in (Marker.SOF0, Marker.SOF1):
                self.sof()
            elif code == Marker.SOS:
                return self.sos()
            elif code == Marker.DQT:
                self.dqt()
            elif code == Marker.DHT:
                self.dht()
            elif code == Marker.DRI:
                if self.length() != 4:
                    self.fail(JpegStatus.BadLength, "DRI has a length of 4")
                self.restart_interval = self.word()
            elif Marker.APP0 <= code <= Marker.APP15 or code in (Marker.COM, Marker.DNL):
                self.length()
                self.position = self.end
            else:
                self.fail(JpegStatus.BadMarker, f"marker {code:02X} is reserved or not allowed here")
        if not self.components:
            self.fail(JpegStatus.MissingFrame, "EOI before a frame header")
        missing = [str(c.id) for c in self.components if c.coefficients is None]
        if missing:
            self.fail(JpegStatus.MissingComponent, f"no scan of component {', '.join(missing)}")
        return None

    def fail(self, status: JpegStatus, message: str) -> NoReturn:
        raise JpegError(status, self.segment, message)

    def truncated(self) -> NoReturn:
        raise JpegError(JpegStatus.Truncated, len(self.data), "the file ends too early")

    def byte(self) -> int:
        if self.position >= len(self.data):
            self.truncated()
        self.position += 1
        return self.data[self.position - 1]

    def word(self) -> int:
        return self.byte() << 8 | self.byte()

    def marker(self) -> int:
        """The next marker's code."""
        if (found := self.byte()) != 0xFF:
            raise JpegError(JpegStatus.BadMarker, self.position - 1, f"byte {found:02X} where a marker is due")
        while (code := self.byte()) == 0xFF:
            pass
        self.segment = self.position - 2
        return code

    def length(self) -> int:
        start = self.position
        length = self.word()
        if length < 2:
            self.fail(JpegStatus.BadLength, f"length {length}")
        self.end = start + length
        return length

    def dqt(self) -> None:
        self.length()
        while self.position < self.end:
            pq, tq = divmod(self.byte(), 16)
            if pq > 1 or tq > 3:
                self.fail(JpegStatus.BadTable, f"quantization table with Pq {pq}, Tq {tq}")
            if self.end - self.position < 64 << pq:
                self.fail(JpegStatus.BadLength, "DQT ends within a table")
            table = np.zeros(64, np.uint16)
            for natural in ZIGZAG_TO_NATURAL:
                table[natural] = quantizer = self.word() if pq else self.byte()
                if quantizer == 0:
                    self.fail(JpegStatus.BadTable, "quantizer of 0")
            self.quantizers[tq] = table.reshape(8, 8)

    def dht(self) -> None:
        self.length()
        while self.position < self.end:
            tc, th = divmod(self.byte(), 16)
            if tc > 1 or th > 3:
                self.fail(JpegStatus.BadTable, f"Huffman table with Tc {tc}, Th {th}")
            if self.end - self.position < 16:
                self.fail(JpegStatus.BadLength, "DHT ends within BITS")
            bits: list[int] = []
            code = 0
            for length in range(1, 17):
                bits.append(self.byte())
                code += bits[-1]
                if code >= 1 << length:
                    self.fail(JpegStatus.BadTable, f"more codes of {length} bits than there are")
                code <<= 1
            if sum(bits) > 256:
                self.fail(JpegStatus.BadTable, f"{sum(bits)} codes")
            if self.end - self.position < sum(bits):
                self.fail(JpegStatus.BadLength, "DHT ends within HUFFVAL")
            values = tuple(self.byte() for _ in range(sum(bits)))
            self.tables[tc, th] = lookup(tuple(bits), values, bool(tc))

    def sof(self) -> None:
        if self.components:
            self.fail(JpegStatus.BadFrame, "second frame header")
        length = self.length()
        if length < 8:
            self.fail(JpegStatus.BadLength, f"SOF of length {length}")
        if (precision := self.byte()) != 8:
            self.fail(JpegStatus.UnsupportedPrecision, f"{precision} bits per sample")
        self.height = self.word()
        if not 1 <= self.height <= self.max_height:
            self.fail(JpegStatus.BadSize, f"height {self.height}, 1 to {self.max_height} expected")
        self.width = self.word()
        if not 1 <= self.width <= self.max_width:
            self.fail(JpegStatus.BadSize, f"width {self.width}, 1 to {self.max_width} expected")
        count = self.byte()
        if count not in (1, 3):
            self.fail(JpegStatus.UnsupportedComponents, f"{count} components")
        if length != 8 + 3 * count:
            self.fail(JpegStatus.BadLength, f"SOF of {count} components and length {length}")
        components: list[Component] = []
        for _ in range(count):
            component = Component(self.byte(), *divmod(self.byte(), 16), 0)
            if component.id in [c.id for c in components]:
                self.fail(JpegStatus.BadFrame, f"component {component.id} is there twice")
            if not (1 <= component.h <= 4 and 1 <= component.v <= 4):
                self.fail(JpegStatus.BadFrame, f"sampling factors {component.h}x{component.v}")
            component.tq = self.byte()
            if component.tq > 3:
                self.fail(JpegStatus.BadFrame, f"quantization table {component.tq}")
            components.append(component)
        if count == 3:
            y, cb, cr = components
            ratio = (y.h // cb.h, y.v // cb.v)
            if (cb.h, cb.v) != (cr.h, cr.v) or (y.h % cb.h, y.v % cb.v) != (0, 0) or ratio not in _FORMATS:
                factors = ", ".join(f"{c.h}x{c.v}" for c in components)
                self.fail(JpegStatus.UnsupportedSampling, f"sampling factors {factors}")
            self.format = _FORMATS[ratio]
        for n, component in enumerate(components):
            component.width, component.height = self.format.plane_size(n, self.width, self.height)
        self.components = components

    def sos(self) -> list[Selection]:
        if not self.components:
            self.fail(JpegStatus.MissingFrame, "SOS before a frame header")
        length = self.length()
        if length < 6:
            self.fail(JpegStatus.BadLength, f"SOS of length {length}")
        count = self.byte()
        if not 1 <= count <= len(self.components):
            self.fail(JpegStatus.BadScan, f"scan of {count} components")
        if length != 6 + 2 * count:
            self.fail(JpegStatus.BadLength, f"SOS of {count} components and length {length}")
        selected: list[Selection] = []
        ids = [c.id for c in self.components]
        for _ in range(count):
            wanted = self.byte()
            if wanted not in ids[selected[-1].index + 1 if selected else 0 :]:
                self.fail(JpegStatus.BadScan, f"component {wanted} is unknown or out of order")
            index = ids.index(wanted)
            component = self.components[index]
            if component.coefficients is not None:
                self.fail(JpegStatus.BadScan, f"component {wanted} was scanned before")
            td, ta = divmod(self.byte(), 16)
            if td > 3 or ta > 3:
                self.fail(JpegStatus.BadScan, f"Huffman tables {td} and {ta}")
            if component.tq not in self.quantizers or (0, td) not in self.tables or (1, ta) not in self.tables:
                self.fail(
                    JpegStatus.MissingTable, f"component {wanted}: quantization {component.tq}, DC {td} or AC {ta}"
                )
            selected.append(Selection(index, td, ta, self.tables[0, td], self.tables[1, ta]))
        found = self.byte(), self.byte(), self.byte()
        if found != (0, 63, 0):
            self.fail(JpegStatus.BadScan, f"Ss {found[0]}, Se {found[1]}, Ah and Al {found[2]:02X}")
        blocks = sum(self.components[s.index].h * self.components[s.index].v for s in selected)
        if count > 1 and blocks > MCU_BLOCKS_MAX:
            self.fail(JpegStatus.BadScan, f"MCU of {blocks} blocks")
        return selected
