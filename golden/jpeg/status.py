"""How the decode of a JPEG file ends: a table shared by golden and silicon."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["JpegStatus"]


class JpegStatus(IntEnum):
    """Status with which a decode ends; stable, 5 bits.

    A status comes with `where`, an unsigned number that says where in the file:

    - *inside a scan*, that is from the first MCU awaited to the last one decoded, `where` is the number of the MCU
      that could not be decoded, counted from 0 in the order of that scan. A restart marker that is not there counts
      for the MCU that would follow it.
    - *outside*, `where` is a byte offset in the file: for `Truncated` the file's length; for `BadMarker` on a byte
      that is not 0xFF where a marker was due, that byte's; for all others, that of the 0xFF right before the marker
      code of the segment at fault.

    Only `Truncated` occurs in both places. BadCode, BadCoefficient, BadRestart and MarkerInScan only inside scans, the
    rest only outside.
    """

    Ok = 0
    """The whole image was decoded, to its EOI."""
    Truncated = 1
    """The file ends before its EOI."""
    NotJpeg = 2
    """The file does not begin with SOI."""
    UnsupportedProgressive = 3
    """Progressive DCT (SOF2)."""
    UnsupportedArithmetic = 4
    """Arithmetic coding (SOF9 to SOF11, SOF13 to SOF15, DAC)."""
    UnsupportedLossless = 5
    """Lossless, JPEG-LS, differential or hierarchical (SOF3, SOF5 to SOF7, SOF55, DHP, EXP)."""
    UnsupportedPrecision = 6
    """Samples that are not of 8 bits."""
    UnsupportedComponents = 7
    """A number of components that is neither 1 nor 3 (CMYK)."""
    UnsupportedSampling = 8
    """Sampling factors that are none of 4:0:0, 4:2:0, 4:2:2 and 4:4:4."""
    BadMarker = 9
    """A marker that is reserved or not allowed there, or a byte that is no marker where one is due."""
    BadLength = 10
    """The length of a marker segment does not fit its contents."""
    BadSize = 11
    """A width or height of 0 (DNL included), or above the limit."""
    BadFrame = 12
    """The frame header contradicts itself: repeated component, factor or table out of range; or it is the second."""
    BadTable = 13
    """A Huffman table with too many codes or an all-ones code, a quantizer of 0, or a table's class or number."""
    MissingTable = 14
    """A scan refers to a table that was never defined."""
    BadScan = 15
    """The scan header: unknown component, wrong order, scanned before, table number, Ss Se Ah Al, or too big an MCU."""
    BadCode = 16
    """The next bits are no code of the Huffman table."""
    BadCoefficient = 17
    """A run beyond coefficient 63, or a magnitude category that 8-bit samples cannot have."""
    BadRestart = 18
    """Not the restart marker that is due."""
    MarkerInScan = 19
    """A marker where entropy-coded data was due."""
    MissingComponent = 20
    """EOI came before every component was scanned."""
    MissingFrame = 21
    """A scan or EOI came before any frame header."""
