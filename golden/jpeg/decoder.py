"""JPEG decoder: the bytes of a file to planes, equal to libjpeg-turbo's ISLOW decode bit for bit.

Decoded: sequential DCT with Huffman coding and 8-bit samples, baseline (SOF0) and extended (SOF1); one or three
components whose sampling factors amount to 4:0:0, 4:2:0, 4:2:2 or 4:4:4; interleaved, separate and mixed scans. Planes
come out as the file has them: no colour conversion, no upsampling, whatever JFIF or Adobe segments say.

The first error in the order of the bytes ends the decode with a `JpegStatus`; nothing is concealed. `JpegStatus` says
what `where` means. The rules, each in the order in which it is checked:

**Between segments.** The file begins with FF D8 (NotJpeg if it is longer than the difference, Truncated if it ends
there). Then each marker is FF, any number of further FF, and a code; anything else is BadMarker. The end of the file is
Truncated, at any place before EOI. What follows EOI is ignored.

- SOF2: UnsupportedProgressive. SOF9 to SOF11, SOF13 to SOF15, DAC: UnsupportedArithmetic. SOF3, SOF5 to SOF7, SOF55,
  DHP, EXP: UnsupportedLossless. At the marker, before its length is looked at.
- A second SOF0 or SOF1: BadFrame. SOS before any: MissingFrame. EOI before any: MissingFrame; before all components are
  scanned: MissingComponent. All at the marker.
- RST0 to RST7 and TEM stand alone and are skipped. APPn, COM and DNL are skipped by their length.
- SOI and all other codes, 00 included: BadMarker.

**Segments.** A length under 2 is BadLength. A file that ends within a segment is Truncated, unless an earlier byte was
at fault.

- *DQT*, for each table while bytes are left: Pq of 2 or more or Tq of 4 or more: BadTable. Fewer bytes left than the
  table needs: BadLength. An entry of 0: BadTable. 16-bit entries are taken with 8-bit samples, as encoders write them
  for low qualities, although T.81 B.2.4.1 forbids that.
- *DHT*, for each table while bytes are left: Tc of 2 or more or Th of 4 or more: BadTable. Fewer than 16 bytes left
  for BITS: BadLength. While codes are counted, from the shortest: more than the length has, the all-ones code being one
  that it does not have (T.81 C.2): BadTable. More than 256 codes: BadTable. More codes than bytes left: BadLength.
  Four tables of each class, for baseline too. A table may be empty.
- *DRI*: a length other than 4: BadLength. 0 turns restarts off.
- *SOF*: a length under 8: BadLength. P other than 8: UnsupportedPrecision. Y, then X, of 0 or above the limit: BadSize.
  Nf other than 1 or 3: UnsupportedComponents. A length other than 8 + 3 Nf: BadLength. For each component: an
  identifier that was there: BadFrame; H or V not in 1..4: BadFrame; Tq above 3: BadFrame. After the last:
  UnsupportedSampling, unless there is but one component, or Cb and Cr have the same factors and Y's are theirs times
  1x1, 2x1 or 2x2.
- *SOS*: a length under 6: BadLength. Ns of 0 or above Nf: BadScan. A length other than 6 + 2 Ns: BadLength. For each
  component: an identifier that the frame header lacks, or does not have after that of the component before (T.81
  B.2.3), or that was scanned: BadScan; Td or Ta above 3: BadScan; the quantization table, the DC table or the AC table
  undefined: MissingTable. Then Ss, Se, Ah and Al other than 0, 63, 0, 0: BadScan. Then a sum of H V above 10, if Ns is
  not 1: BadScan. Tables and restart interval are those defined when the scan begins.

**Scans.** A scan of one component goes over ceil(component width / 8) by ceil(component height / 8) MCUs of one block;
one of several over ceil(X / (8 Hmax)) by ceil(Y / (8 Vmax)), Hmax and Vmax over the *frame's* components. FF, any
number of FF, 00 is the data byte FF; FF, any number of FF and any other code is a marker, and ends the segment.

- Where bits are due and the segment has ended: MarkerInScan, or Truncated if the file has ended.
- Bits that are no code: BadCode, only if 16 bits are there (else the rule before).
- A DC category above 11, or a DC symbol above 15; an AC category above 10, or of 0 with a run that is neither 0 nor 15:
  BadCoefficient, before the magnitude's bits are due.
- With k the number of the next coefficient: k + run above 63: BadCoefficient, before the magnitude's bits are due. ZRL
  counts as a run of 15 and a coefficient of 0 at k + 15. Coefficient 63, whatever wrote it, ends the block without EOB.
- DC predictors wrap to signed 16 bits.
- After each restart interval that is not the scan's last, and after the scan's last MCU, bits and bytes up to the next
  marker are skipped, whatever they are. The former marker has to be the RSTn due, counted from RST0 in each scan:
  else BadRestart (Truncated if the file ends).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from ..frames import ChromaFormat, Frame
from .dct import dequantize, inverse
from .huffman import Lookup, SegmentError, decode_segment, lookup, next_marker, unstuff
from .status import JpegStatus
from .tables import MCU_BLOCKS_MAX, ZIGZAG_TO_NATURAL, Marker

__all__ = ["Component", "Decoded", "JpegError", "Scan", "decode"]


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
class Scan:
    """One scan: byte `offset` of its SOS, indexes of its `components`, their (Td, Ta), its `restart_interval` (0 is
    none) and its number of `mcus`."""

    offset: int
    components: tuple[int, ...]
    tables: tuple[tuple[int, int], ...]
    restart_interval: int
    mcus: int


@dataclass(frozen=True)
class Decoded:
    """A decoded file: the `frame`, and what it was made from. `size` is the offset right after EOI."""

    frame: Frame
    components: tuple[Component, ...]
    scans: tuple[Scan, ...]
    size: int

    @property
    def restart_interval(self) -> int:
        """The first scan's."""
        return self.scans[0].restart_interval


def decode(data: bytes, max_width: int = 65535, max_height: int = 65535) -> Decoded:
    """Decode a JPEG file.

    Parameters
    ----------
    data
        The file; what follows EOI is ignored.
    max_width, max_height
        Larger images are BadSize.

    Raises
    ------
    JpegError
    """
    return _Decoder(data, max_width, max_height).run()


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

_SCAN_MESSAGES = {
    JpegStatus.Truncated: "the file ends within entropy-coded data",
    JpegStatus.MarkerInScan: "a marker where entropy-coded data is due",
    JpegStatus.BadCode: "bits that are no Huffman code",
    JpegStatus.BadCoefficient: "a coefficient past 63, or a magnitude category too large",
}

_FORMATS = {(1, 1): ChromaFormat.C444, (2, 1): ChromaFormat.C422, (2, 2): ChromaFormat.C420}


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


@dataclass
class _Decoder:
    data: bytes
    max_width: int
    max_height: int
    position: int = 0
    segment: int = 0
    """Offset of the marker of the segment at hand."""
    end: int = 0
    """Offset right after the segment, by its length."""
    width: int = 0
    height: int = 0
    format: ChromaFormat = ChromaFormat.Gray
    components: list[Component] = field(default_factory=list)
    quantizers: dict[int, npt.NDArray[np.uint16]] = field(default_factory=dict)
    tables: dict[tuple[int, int], Lookup] = field(default_factory=dict)
    restart_interval: int = 0
    scans: list[Scan] = field(default_factory=list)

    def run(self) -> Decoded:
        if self.data[:2] != b"\xff\xd8":
            if self.data != b"\xff"[: len(self.data)]:
                raise JpegError(JpegStatus.NotJpeg, 0, "the file does not begin with FF D8")
            self.truncated()
        self.position = 2
        while (code := self.marker()) != Marker.EOI:
            if code in _UNSUPPORTED:
                self.fail(_UNSUPPORTED[Marker(code)], f"{Marker(code).name} is not supported")
            elif Marker.RST0 <= code <= Marker.RST7 or code == Marker.TEM:
                continue
            elif code in (Marker.SOF0, Marker.SOF1):
                self.sof()
            elif code == Marker.SOS:
                self.sos()
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
                if self.end > len(self.data):
                    self.truncated()
                self.position = self.end
            else:
                self.fail(JpegStatus.BadMarker, f"marker {code:02X} is reserved or not allowed here")
        if not self.components:
            self.fail(JpegStatus.MissingFrame, "EOI before a frame header")
        missing = [str(n) for n, c in enumerate(self.components) if c.coefficients is None]
        if missing:
            self.fail(JpegStatus.MissingComponent, f"no scan of component {', '.join(missing)}")
        return Decoded(self.frame(), tuple(self.components), tuple(self.scans), self.position)

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

    def sos(self) -> None:
        offset = self.segment
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
        indexes: list[int] = []
        selected: list[tuple[int, int]] = []
        ids = [c.id for c in self.components]
        for _ in range(count):
            wanted = self.byte()
            if wanted not in ids[indexes[-1] + 1 if indexes else 0 :]:
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
            indexes.append(index)
            selected.append((td, ta))
        found = self.byte(), self.byte(), self.byte()
        if found != (0, 63, 0):
            self.fail(JpegStatus.BadScan, f"Ss {found[0]}, Se {found[1]}, Ah and Al {found[2]:02X}")
        components = [self.components[n] for n in indexes]
        if count > 1 and sum(c.h * c.v for c in components) > MCU_BLOCKS_MAX:
            self.fail(JpegStatus.BadScan, "MCU of more than 10 blocks")

        h_max, v_max = max(c.h for c in self.components), max(c.v for c in self.components)
        if count == 1:
            wide, high = _ceil(components[0].width, 8), _ceil(components[0].height, 8)
        else:
            wide, high = _ceil(self.width, 8 * h_max), _ceil(self.height, 8 * v_max)
        blocks: list[tuple[int, Lookup, Lookup]] = []
        for n, (component, (td, ta)) in enumerate(zip(components, selected)):
            blocks += [(n, self.tables[0, td], self.tables[1, ta])] * (component.h * component.v if count > 1 else 1)
        places, values = self.entropy_coded(blocks, count, wide * high)

        padded = _ceil(self.width, 8 * h_max), _ceil(self.height, 8 * v_max)
        for component, place, value in zip(components, places, values):
            h, v = (component.h, component.v) if count > 1 else (1, 1)
            flat = np.zeros(wide * high * h * v * 64, np.int16)
            flat[np.array(place)] = np.array(value, np.int64).astype(np.int16)
            scanned = flat.reshape(high, wide, v, h, 8, 8).swapaxes(1, 2).reshape(high * v, wide * h, 8, 8)
            component.coefficients = np.zeros((padded[1] * component.v, padded[0] * component.h, 8, 8), np.int16)
            component.coefficients[: high * v, : wide * h] = scanned
            component.quantizers = self.quantizers[component.tq]
        self.scans.append(Scan(offset, tuple(indexes), tuple(selected), self.restart_interval, wide * high))

    def entropy_coded(
        self, blocks: Sequence[tuple[int, Lookup, Lookup]], count: int, mcus: int
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Places and values of coefficients for each of the scan's `count` components, as `decode_segment` has them."""
        places: list[list[int]] = [[] for _ in range(count)]
        values: list[list[int]] = [[] for _ in range(count)]
        counts = [0] * count
        interval = self.restart_interval or mcus
        for number, first in enumerate(range(0, mcus, interval)):
            if number:
                due = Marker.RST0 + (number - 1) % 8
                if self.position >= len(self.data):
                    raise JpegError(JpegStatus.Truncated, first, "the file ends where a restart is due", True)
                code = self.data[self.position + 1]
                if code != due:
                    message = f"marker {code:02X}, RST{due - Marker.RST0} expected"
                    raise JpegError(JpegStatus.BadRestart, first, message, True)
                self.position += 2
            stop = next_marker(self.data, self.position)
            segment = unstuff(self.data[self.position : stop])
            end = JpegStatus.Truncated if stop == len(self.data) else JpegStatus.MarkerInScan
            try:
                decode_segment(segment, end, min(interval, mcus - first), first, blocks, places, values, counts)
            except SegmentError as error:
                raise JpegError(error.status, error.mcu, _SCAN_MESSAGES[error.status], True) from None
            self.position = stop
        return places, values

    def frame(self) -> Frame:
        planes: list[npt.NDArray[np.uint8]] = []
        for c in self.components:
            assert c.coefficients is not None and c.quantizers is not None
            samples = inverse(dequantize(c.coefficients, c.quantizers))
            plane = samples.swapaxes(1, 2).reshape(samples.shape[0] * 8, -1)
            planes.append(np.ascontiguousarray(plane[: c.height, : c.width]))
        return Frame(self.format, tuple(planes))
