"""Tables and constants of JPEG (Ref: ITU-T T.81 (09/92)), shared by golden and silicon. Pure data."""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "AC_CATEGORY_MAX",
    "CHROMA_QUANT",
    "CONST_BITS",
    "DC_CATEGORY_MAX",
    "FIX_0_298631336",
    "FIX_0_390180644",
    "FIX_0_541196100",
    "FIX_0_765366865",
    "FIX_0_899976223",
    "FIX_1_175875602",
    "FIX_1_501321110",
    "FIX_1_847759065",
    "FIX_1_961570560",
    "FIX_2_053119869",
    "FIX_2_562915447",
    "FIX_3_072711026",
    "HUFF_AC_CHROMA",
    "HUFF_AC_LUMA",
    "HUFF_DC_CHROMA",
    "HUFF_DC_LUMA",
    "LUMA_QUANT",
    "MCU_BLOCKS_MAX",
    "NATURAL_TO_ZIGZAG",
    "PASS1_BITS",
    "ZIGZAG_TO_NATURAL",
    "Marker",
]


class Marker(IntEnum):
    """Second byte of a marker; the first is 0xFF (Ref: T.81 table B.1)."""

    TEM = 0x01
    """Temporary private use in arithmetic coding; stands alone."""
    SOF0 = 0xC0
    """Baseline DCT."""
    SOF1 = 0xC1
    """Extended sequential DCT, Huffman."""
    SOF2 = 0xC2
    """Progressive DCT, Huffman."""
    SOF3 = 0xC3
    """Lossless, Huffman."""
    DHT = 0xC4
    """Huffman tables."""
    SOF5 = 0xC5
    """Differential sequential DCT, Huffman."""
    SOF6 = 0xC6
    """Differential progressive DCT, Huffman."""
    SOF7 = 0xC7
    """Differential lossless, Huffman."""
    JPG = 0xC8
    """Reserved for extensions."""
    SOF9 = 0xC9
    """Extended sequential DCT, arithmetic."""
    SOF10 = 0xCA
    """Progressive DCT, arithmetic."""
    SOF11 = 0xCB
    """Lossless, arithmetic."""
    DAC = 0xCC
    """Arithmetic coding conditioning."""
    SOF13 = 0xCD
    """Differential sequential DCT, arithmetic."""
    SOF14 = 0xCE
    """Differential progressive DCT, arithmetic."""
    SOF15 = 0xCF
    """Differential lossless, arithmetic."""
    RST0 = 0xD0
    """Restart with modulo 8 count 0; RST1 to RST6 follow; stands alone."""
    RST7 = 0xD7
    """Restart with modulo 8 count 7; stands alone."""
    SOI = 0xD8
    """Start of image; stands alone."""
    EOI = 0xD9
    """End of image; stands alone."""
    SOS = 0xDA
    """Scan header; entropy-coded segments follow it."""
    DQT = 0xDB
    """Quantization tables."""
    DNL = 0xDC
    """Number of lines."""
    DRI = 0xDD
    """Restart interval."""
    DHP = 0xDE
    """Hierarchical progression."""
    EXP = 0xDF
    """Expand reference components."""
    APP0 = 0xE0
    """Application data, JFIF's; APP1 to APP14 follow."""
    APP15 = 0xEF
    """Application data, the last."""
    SOF55 = 0xF7
    """JPEG-LS (Ref: ITU-T T.87 C.1.1); T.81 reserves it as JPG7."""
    COM = 0xFE
    """Comment."""


ZIGZAG_TO_NATURAL = (
    0, 1, 8, 16, 9, 2, 3, 10,
    17, 24, 32, 25, 18, 11, 4, 5,
    12, 19, 26, 33, 40, 48, 41, 34,
    27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36,
    29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46,
    53, 60, 61, 54, 47, 55, 62, 63,
)  # fmt: skip
"""Place in the block, 8 * row + column, of each coefficient of the zig-zag sequence (Ref: T.81 figure A.6)."""

NATURAL_TO_ZIGZAG = tuple(ZIGZAG_TO_NATURAL.index(n) for n in range(64))
"""Place in the zig-zag sequence of each coefficient of the block."""

LUMA_QUANT = (
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
"""Luma quantization at quality 50, in natural order (Ref: T.81 table K.1)."""

CHROMA_QUANT = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
)  # fmt: skip
"""Chroma quantization at quality 50, in natural order (Ref: T.81 table K.2)."""

# Each Huffman table is (BITS, HUFFVAL): the number of codes of each length 1..16, and the symbols by ascending code.

HUFF_DC_LUMA = (
    (0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0),
    tuple(range(12)),
)
"""Luma DC differences (Ref: T.81 K.3.3.1, table K.3)."""

HUFF_DC_CHROMA = (
    (0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0),
    tuple(range(12)),
)
"""Chroma DC differences (Ref: T.81 K.3.3.1, table K.4)."""

HUFF_AC_LUMA = (
    (0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125),
    (
        0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
        0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0,
        0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28,
        0x29, 0x2A, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
        0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
        0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
        0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7,
        0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3, 0xC4, 0xC5,
        0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
        0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
        0xF9, 0xFA,
    ),
)  # fmt: skip
"""Luma AC coefficients (Ref: T.81 K.3.3.2, table K.5)."""

HUFF_AC_CHROMA = (
    (0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119),
    (
        0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
        0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0,
        0x15, 0x62, 0x72, 0xD1, 0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26,
        0x27, 0x28, 0x29, 0x2A, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
        0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
        0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
        0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5,
        0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
        0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
        0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
        0xF9, 0xFA,
    ),
)  # fmt: skip
"""Chroma AC coefficients (Ref: T.81 K.3.3.2, table K.6)."""

DC_CATEGORY_MAX = 11
"""Largest magnitude category of a DC difference of 8-bit samples (Ref: T.81 F.1.2.1.1)."""
AC_CATEGORY_MAX = 10
"""Largest magnitude category of an AC coefficient of 8-bit samples (Ref: T.81 F.1.2.2.1)."""
MCU_BLOCKS_MAX = 10
"""Most blocks of an interleaved MCU (Ref: T.81 B.2.3)."""

# The transform's constants, cos and sin sums of Loeffler, Ligtenberg and Moschytz (1989), rounded to 13 fraction bits.

CONST_BITS = 13
"""Fraction bits of the transform's constants."""
PASS1_BITS = 2
"""Guard bits that the transform keeps between its passes."""
FIX_0_298631336 = 2446
"""0.298631336, of CONST_BITS fraction bits, as all that follow."""
FIX_0_390180644 = 3196
FIX_0_541196100 = 4433
FIX_0_765366865 = 6270
FIX_0_899976223 = 7373
FIX_1_175875602 = 9633
FIX_1_501321110 = 12299
FIX_1_847759065 = 15137
FIX_1_961570560 = 16069
FIX_2_053119869 = 16819
FIX_2_562915447 = 20995
FIX_3_072711026 = 25172
