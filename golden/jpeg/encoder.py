"""JPEG encoder: planes to a complete baseline file, equal to what libjpeg-turbo writes by default from these planes.

The file is JFIF 1.01 with the quantization tables of T.81 annex K scaled to a quality of 1 to 100 as libjpeg scales
them, the Huffman tables of annex K, and one interleaved scan. Its segments, in this order: SOI; APP0 (JFIF, density 1:1
without unit, no thumbnail); DQT 0; DQT 1 (not 4:0:0); SOF0; DHT for DC 0, AC 0, and (not 4:0:0) DC 1, AC 1, each a
segment; DRI if there are restarts; SOS; entropy-coded segments; EOI. Components are 1, 2, 3; luma has the tables 0,
chroma the tables 1; sampling factors are luma's 1x1, 2x1 or 2x2, chroma's 1x1.

Planes are padded to whole blocks by replication of their last column and row. Blocks that only fill up an MCU are
not transformed: their AC coefficients are 0, and their DC is that of the block coded before it in the MCU (right edge),
or of the last block of the row of blocks above in the MCU (bottom edge). The last byte of each entropy-coded segment is
filled up with ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..frames import ChromaFormat, Frame
from .dct import forward, quantize
from .huffman import codes, pack
from .tables import (
    CHROMA_QUANT,
    HUFF_AC_CHROMA,
    HUFF_AC_LUMA,
    HUFF_DC_CHROMA,
    HUFF_DC_LUMA,
    LUMA_QUANT,
    ZIGZAG_TO_NATURAL,
    Marker,
)

__all__ = ["coefficients", "encode", "quantizers"]

_ZIGZAG = np.array(ZIGZAG_TO_NATURAL)


def quantizers(quality: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Luma's and chroma's (8, 8) tables at a quality of 1 to 100, entries 1 to 255."""
    if not 1 <= quality <= 100:
        raise ValueError(f"quality {quality}: 1 to 100 expected")
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma, chroma = (
        np.clip((np.array(table) * scale + 50) // 100, 1, 255).astype(np.uint16).reshape(8, 8)
        for table in (LUMA_QUANT, CHROMA_QUANT)
    )
    return luma, chroma


def _factors(frame: Frame) -> list[tuple[int, int]]:
    """(H, V) of each component."""
    h, v = frame.format.shifts
    return [(1 << h, 1 << v), (1, 1), (1, 1)][: frame.format.planes]


def coefficients(frame: Frame, quality: int) -> tuple[npt.NDArray[np.int16], ...]:
    """Quantized coefficients of each plane, as coded.

    Returns
    -------
    For each plane int16 (blocks high, blocks wide, 8, 8) in natural order, whole MCUs.
    """
    tables = quantizers(quality)
    h_max, v_max = _factors(frame)[0]
    mcus_wide, mcus_high = -(-frame.width // (8 * h_max)), -(-frame.height // (8 * v_max))
    result: list[npt.NDArray[np.int16]] = []
    for n, (plane, (h, v)) in enumerate(zip(frame.planes, _factors(frame))):
        high, wide = (-(-size // 8) for size in plane.shape)
        samples = np.pad(plane, ((0, high * 8 - plane.shape[0]), (0, wide * 8 - plane.shape[1])), "edge")
        blocks = samples.reshape(high, 8, wide, 8).swapaxes(1, 2)
        coded = np.zeros((mcus_high * v, mcus_wide * h, 8, 8), np.int16)
        coded[:high, :wide] = quantize(forward(blocks), tables[n > 0])
        for column in range(wide, mcus_wide * h):
            coded[:high, column, 0, 0] = coded[:high, column - 1, 0, 0]
        for row in range(high, mcus_high * v):
            coded[row, :, 0, 0] = np.repeat(coded[row - 1, h - 1 :: h, 0, 0], h)
        result.append(coded)
    return tuple(result)


def _categories(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Magnitude categories: the number of bits of the magnitude."""
    return np.frexp(np.abs(values).astype(np.float64))[1].astype(np.int64)


def _magnitudes(values: npt.NDArray[np.int64], categories: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bits that follow the category's code (Ref: T.81 F.1.2.1.1)."""
    return np.where(values < 0, values + (1 << categories) - 1, values)


def _code_table(table: tuple[Sequence[int], Sequence[int]]) -> npt.NDArray[np.int64]:
    """(256, 2): code and length of each symbol."""
    result = np.zeros((256, 2), np.int64)
    for symbol, code in codes(*table).items():
        result[symbol] = code
    return result


_DC_CODES = np.stack([_code_table(HUFF_DC_LUMA), _code_table(HUFF_DC_CHROMA)])
_AC_CODES = np.stack([_code_table(HUFF_AC_LUMA), _code_table(HUFF_AC_CHROMA)])


def _entropy_coded(
    blocks: npt.NDArray[np.int64], component: npt.NDArray[np.int64], segment: npt.NDArray[np.int64]
) -> bytes:
    """Entropy-coded segments with restart markers between them.

    Parameters
    ----------
    blocks
        (n, 64) zig-zag sequences in the order of coding.
    component, segment
        (n,) of each block: its component, and its segment, ascending from 0.
    """
    chroma = (component > 0).astype(np.int64)
    differences = blocks[:, 0].copy()
    for n in range(3):
        places = np.flatnonzero(component == n)
        first = np.diff(segment[places], prepend=-1) != 0
        dc = blocks[places, 0]
        differences[places] = dc - np.where(first, 0, np.roll(dc, 1))

    # Each code word with its magnitude is an event: block, order within the block, bits, number of bits.
    category = _categories(differences)
    code = _DC_CODES[chroma, category]
    count = len(blocks)
    events = [
        (
            np.arange(count),
            np.zeros(count, np.int64),
            code[:, 0],
            code[:, 1],
            category,
            _magnitudes(differences, category),
        )
    ]

    row, k = np.nonzero(blocks[:, 1:])
    k += 1
    value = blocks[row, k]
    previous = np.where(np.diff(row, prepend=-1) != 0, 0, np.roll(k, 1))
    run = k - previous - 1
    category = _categories(value)
    code = _AC_CODES[chroma[row], (run % 16) * 16 + category]
    events.append((row, 2 * k, code[:, 0], code[:, 1], category, _magnitudes(value, category)))

    zrl_row, zrl_k = np.repeat(row, run // 16), np.repeat(k, run // 16)
    code = _AC_CODES[chroma[zrl_row], 0xF0]
    none = np.zeros(len(zrl_row), np.int64)
    events.append((zrl_row, 2 * zrl_k - 1, code[:, 0], code[:, 1], none, none))

    eob_row = np.flatnonzero(blocks[:, 63] == 0)
    code = _AC_CODES[chroma[eob_row], 0x00]
    none = np.zeros(len(eob_row), np.int64)
    events.append((eob_row, none + 128, code[:, 0], code[:, 1], none, none))

    block, order, code, length, category, magnitude = (np.concatenate(column) for column in zip(*events))
    order = np.argsort(block * 256 + order, kind="stable")
    bits, lengths = ((code << category) | magnitude)[order], (length + category)[order]

    # Ones fill the last byte of each segment.
    of_event = segment[block[order]]
    sizes = np.bincount(of_event, lengths).astype(np.int64)
    fill = -sizes % 8
    after = np.searchsorted(of_event, np.arange(len(sizes)), "right")
    packed = pack(np.insert(bits, after, (1 << fill) - 1), np.insert(lengths, after, fill)).tobytes()
    ends = np.cumsum((sizes + fill) // 8).tolist()
    result = bytearray()
    for n, (start, end) in enumerate(zip([0, *ends], ends)):
        if n:
            result += bytes((0xFF, Marker.RST0 + (n - 1) % 8))
        result += packed[start:end].replace(b"\xff", b"\xff\x00")
    return bytes(result)


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2, "big") + payload


def encode(frame: Frame, quality: int, restart_interval: int = 0) -> bytes:
    """A complete JFIF file.

    Parameters
    ----------
    frame
        Any chroma format; width and height 1 to 65535.
    quality
        1 to 100.
    restart_interval
        MCUs between restart markers, 1 to 65535; 0 for none.

    Raises
    ------
    ValueError
        With what was expected.
    """
    if not 0 <= restart_interval <= 65535:
        raise ValueError(f"restart_interval {restart_interval}: 0 to 65535 expected")
    if not (1 <= frame.width <= 65535 and 1 <= frame.height <= 65535):
        raise ValueError(f"size {frame.width}x{frame.height}: 1x1 to 65535x65535 expected")
    factors = _factors(frame)
    gray = frame.format == ChromaFormat.Gray

    mcus: list[npt.NDArray[np.int64]] = []
    component: list[int] = []
    for n, (coded, (h, v)) in enumerate(zip(coefficients(frame, quality), factors)):
        zigzag = coded.reshape(*coded.shape[:2], 64)[:, :, _ZIGZAG].astype(np.int64)
        mcu = zigzag.reshape(coded.shape[0] // v, v, coded.shape[1] // h, h, 64).swapaxes(1, 2)
        mcus.append(mcu.reshape(-1, h * v, 64))
        component += [n] * (h * v)
    blocks = np.concatenate(mcus, axis=1)
    segment = np.repeat(np.arange(len(blocks)) // (restart_interval or len(blocks)), len(component))
    scan = _entropy_coded(blocks.reshape(-1, 64), np.tile(component, len(blocks)), segment)

    out = b"\xff\xd8" + _segment(Marker.APP0, b"JFIF\0" + bytes((1, 1, 0, 0, 1, 0, 1, 0, 0)))
    for n, table in enumerate(quantizers(quality)[: 1 if gray else 2]):
        out += _segment(Marker.DQT, bytes((n,)) + table.reshape(64)[_ZIGZAG].astype(np.uint8).tobytes())
    header = bytes((8,)) + frame.height.to_bytes(2, "big") + frame.width.to_bytes(2, "big") + bytes((len(factors),))
    for n, (h, v) in enumerate(factors):
        header += bytes((n + 1, h * 16 + v, min(n, 1)))
    out += _segment(Marker.SOF0, header)
    huffman = [(0x00, HUFF_DC_LUMA), (0x10, HUFF_AC_LUMA), (0x01, HUFF_DC_CHROMA), (0x11, HUFF_AC_CHROMA)]
    for tc_th, (bits, values) in huffman[: 2 if gray else 4]:
        out += _segment(Marker.DHT, bytes((tc_th, *bits, *values)))
    if restart_interval:
        out += _segment(Marker.DRI, restart_interval.to_bytes(2, "big"))
    selectors = b"".join(bytes((n + 1, 0x11 * min(n, 1))) for n in range(len(factors)))
    out += _segment(Marker.SOS, bytes((len(factors),)) + selectors + bytes((0, 63, 0)))
    return out + scan + bytes((0xFF, Marker.EOI))
