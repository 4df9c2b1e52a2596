"""JPEG decoder: the bytes of a file to planes, equal to libjpeg-turbo's ISLOW decode bit for bit.

Decoded: sequential DCT with Huffman coding and 8-bit samples, baseline (SOF0) and extended (SOF1); one or three
components whose sampling factors amount to 4:0:0, 4:2:0, 4:2:2 or 4:4:4; interleaved, separate and mixed scans. Planes
come out as the file has them: no colour conversion, no upsampling, whatever JFIF or Adobe segments say.

The first error in the order of the bytes ends the decode with a `JpegStatus`; nothing is concealed. `JpegStatus` says
what `where` means. The rules, each in the order in which it is checked:

**Between segments.** The file begins with FF D8: another byte is NotJpeg, the file's end Truncated. Then each marker is
FF, any number of further FF, and a code; anything else is BadMarker. The end of the file is Truncated, at any place
before EOI. What follows EOI is ignored.

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
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..frames import Frame
from .dct import dequantize, inverse
from .headers import Component, HeaderReader, JpegError, Selection
from .huffman import Lookup, SegmentError, decode_segment, next_marker, unstuff
from .status import JpegStatus
from .tables import Marker

__all__ = ["Component", "Decoded", "JpegError", "Scan", "decode"]


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
    reader = HeaderReader(data, max_width, max_height)
    reader.soi()
    scans: list[Scan] = []
    while (selected := reader.scan()) is not None:
        scans.append(_scan(reader, selected))
    frame = Frame(reader.format, tuple(_plane(component) for component in reader.components))
    return Decoded(frame, tuple(reader.components), tuple(scans), reader.position)


_SCAN_MESSAGES = {
    JpegStatus.Truncated: "the file ends within entropy-coded data",
    JpegStatus.MarkerInScan: "a marker where entropy-coded data is due",
    JpegStatus.BadCode: "bits that are no Huffman code",
    JpegStatus.BadCoefficient: "a coefficient past 63, or a magnitude category too large",
}


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _scan(reader: HeaderReader, selected: Sequence[Selection]) -> Scan:
    """Decode a scan into its components' coefficients; `reader` goes on to the marker after it."""
    offset, count = reader.segment, len(selected)
    components = [reader.components[s.index] for s in selected]
    h_max, v_max = max(c.h for c in reader.components), max(c.v for c in reader.components)
    padded = _ceil(reader.width, 8 * h_max), _ceil(reader.height, 8 * v_max)
    if count == 1:
        wide, high = _ceil(components[0].width, 8), _ceil(components[0].height, 8)
        factors = [(1, 1)]
    else:
        wide, high = padded
        factors = [(c.h, c.v) for c in components]
    blocks: list[tuple[int, Lookup, Lookup]] = []
    for n, (selection, (h, v)) in enumerate(zip(selected, factors)):
        blocks += [(n, selection.dc, selection.ac)] * (h * v)
    places, values = _entropy_coded(reader, blocks, count, wide * high)

    for component, (h, v), place, value in zip(components, factors, places, values):
        flat = np.zeros(wide * high * h * v * 64, np.int16)
        flat[np.array(place)] = np.array(value, np.int64).astype(np.int16)
        scanned = flat.reshape(high, wide, v, h, 8, 8).swapaxes(1, 2).reshape(high * v, wide * h, 8, 8)
        component.coefficients = np.zeros((padded[1] * component.v, padded[0] * component.h, 8, 8), np.int16)
        component.coefficients[: high * v, : wide * h] = scanned
        component.quantizers = reader.quantizers[component.tq]
    tables = tuple((s.td, s.ta) for s in selected)
    return Scan(offset, tuple(s.index for s in selected), tables, reader.restart_interval, wide * high)


def _entropy_coded(
    reader: HeaderReader, blocks: Sequence[tuple[int, Lookup, Lookup]], count: int, mcus: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Places and values of coefficients for each of the scan's `count` components, as `decode_segment` has them."""
    data = reader.data
    places: list[list[int]] = [[] for _ in range(count)]
    values: list[list[int]] = [[] for _ in range(count)]
    counts = [0] * count
    interval = reader.restart_interval or mcus
    for number, first in enumerate(range(0, mcus, interval)):
        if number:
            due = Marker.RST0 + (number - 1) % 8
            if reader.position >= len(data):
                raise JpegError(JpegStatus.Truncated, first, "the file ends where a restart is due", True)
            code = data[reader.position + 1]
            if code != due:
                message = f"marker {code:02X}, RST{due - Marker.RST0} expected"
                raise JpegError(JpegStatus.BadRestart, first, message, True)
            reader.position += 2
        stop = next_marker(data, reader.position)
        segment = unstuff(data[reader.position : stop])
        end = JpegStatus.Truncated if stop == len(data) else JpegStatus.MarkerInScan
        try:
            decode_segment(segment, end, min(interval, mcus - first), first, blocks, places, values, counts)
        except SegmentError as error:
            raise JpegError(error.status, error.mcu, _SCAN_MESSAGES[error.status], True) from None
        reader.position = stop
    return places, values


def _plane(c: Component) -> npt.NDArray[np.uint8]:
    """The component's samples."""
    assert c.coefficients is not None and c.quantizers is not None
    samples = inverse(dequantize(c.coefficients, c.quantizers))
    plane = samples.swapaxes(1, 2).reshape(samples.shape[0] * 8, -1)
    return np.ascontiguousarray(plane[: c.height, : c.width])
