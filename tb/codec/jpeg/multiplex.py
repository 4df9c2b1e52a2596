"""JPEG files from coefficients: any scans, tables, sampling factors and restart intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tessera.golden.jpeg.huffman import codes
from tessera.golden.jpeg.tables import (
    HUFF_AC_CHROMA,
    HUFF_AC_LUMA,
    HUFF_DC_CHROMA,
    HUFF_DC_LUMA,
    ZIGZAG_TO_NATURAL,
    Marker,
)

__all__ = ["ANNEX_K", "Part", "Pass", "Table", "multiplex", "random_table", "segment"]

Table = tuple[Sequence[int], Sequence[int]]

ANNEX_K: dict[tuple[int, int], Table] = {
    (0, 0): HUFF_DC_LUMA,
    (1, 0): HUFF_AC_LUMA,
    (0, 1): HUFF_DC_CHROMA,
    (1, 1): HUFF_AC_CHROMA,
}
"""The standard's tables by (Tc, Th)."""


@dataclass
class Part:
    """A component to multiplex: quantized `coefficients` (blocks high, blocks wide, 8, 8) in natural order, at least
    its real blocks, `quant` (8, 8), identifier `id`, factors `h` and `v`, quantization table `tq`."""

    coefficients: npt.NDArray[np.int16]
    quant: npt.NDArray[np.uint16]
    id: int
    h: int = 1
    v: int = 1
    tq: int = 0


@dataclass
class Pass:
    """A scan to multiplex: indexes of `components`, `selectors` (Td, Ta) of each, restart interval, tables that are
    (re)defined before it, the bit that pads its segments, `stray` bytes that are put after each of them, and fill bytes
    that are put before markers."""

    components: tuple[int, ...]
    selectors: tuple[tuple[int, int], ...]
    restart: int = 0
    tables: dict[tuple[int, int], Table] = field(default_factory=dict)
    padding: int = 1
    stray: bytes = b""
    fill: bytes = b""


def segment(marker: int, payload: bytes) -> bytes:
    """A marker segment with its length."""
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2, "big") + payload


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


class _Bits:
    def __init__(self) -> None:
        self.words: list[str] = []

    def put(self, value: int, length: int) -> None:
        if length:
            self.words.append(format(value, f"0{length}b"))

    def bytes(self, padding: int) -> bytes:
        bits = "".join(self.words)
        bits += str(padding) * (-len(bits) % 8)
        return int(bits or "0", 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def _put_block(bits: _Bits, block: list[int], predictor: int, dc: dict, ac: dict) -> None:
    def put(table: dict, run: int, value: int) -> None:
        size = abs(value).bit_length()
        bits.put(*table[run * 16 + size])
        bits.put(value + (1 << size) - 1 if value < 0 else value, size)

    put(dc, 0, block[0] - predictor)
    run = 0
    for value in block[1:]:
        if value == 0:
            run += 1
            continue
        while run > 15:
            put(ac, 15, 0)
            run -= 16
        put(ac, run, value)
        run = 0
    if run:
        put(ac, 0, 0)


def multiplex(
    width: int, height: int, parts: Sequence[Part], passes: Sequence[Pass], sof: int = Marker.SOF0, wide: bool = False
) -> bytes:
    """A file of these components, coded in these scans; 16-bit quantization entries if `wide`.

    Blocks that only fill up an MCU repeat the component's last column and row. All differences have to have codes.
    """
    h_max, v_max = max(p.h for p in parts), max(p.v for p in parts)
    out = b"\xff\xd8"
    for tq in sorted({p.tq for p in parts}):
        flat = next(p.quant for p in parts if p.tq == tq).reshape(64)[list(ZIGZAG_TO_NATURAL)]
        out += segment(Marker.DQT, bytes((wide * 16 + tq,)) + flat.astype(">u2" if wide else "u1").tobytes())
    frame = bytes((8,)) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes((len(parts),))
    out += segment(sof, frame + b"".join(bytes((p.id, p.h * 16 + p.v, p.tq)) for p in parts))
    tables: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}
    restart = 0
    for scan in passes:
        for (tc, th), (lengths, values) in scan.tables.items():
            out += scan.fill + segment(Marker.DHT, bytes((tc * 16 + th, *lengths, *values)))
            tables[tc, th] = codes(lengths, values)
        if scan.restart != restart:
            out += scan.fill + segment(Marker.DRI, scan.restart.to_bytes(2, "big"))
            restart = scan.restart
        chosen = [parts[n] for n in scan.components]
        selectors = b"".join(bytes((p.id, td * 16 + ta)) for p, (td, ta) in zip(chosen, scan.selectors))
        out += scan.fill + segment(Marker.SOS, bytes((len(chosen),)) + selectors + bytes((0, 63, 0)))

        # Each MCU is a list of (component of the scan, block row, block column).
        if len(chosen) == 1:
            p = chosen[0]
            columns, rows = _ceil(_ceil(width * p.h, h_max), 8), _ceil(_ceil(height * p.v, v_max), 8)
            mcus = [[(0, y, x)] for y in range(rows) for x in range(columns)]
        else:
            columns, rows = _ceil(width, 8 * h_max), _ceil(height, 8 * v_max)
            mcus = [
                [(n, y * p.v + j, x * p.h + i) for n, p in enumerate(chosen) for j in range(p.v) for i in range(p.h)]
                for y in range(rows)
                for x in range(columns)
            ]
        zigzag = [
            p.coefficients.reshape(*p.coefficients.shape[:2], 64)[:, :, list(ZIGZAG_TO_NATURAL)].tolist()
            for p in chosen
        ]
        interval = scan.restart or len(mcus)
        for number, first in enumerate(range(0, len(mcus), interval)):
            if number:
                out += scan.fill + bytes((0xFF, Marker.RST0 + (number - 1) % 8))
            bits = _Bits()
            predictors = [0] * len(chosen)
            for mcu in mcus[first : first + interval]:
                for n, y, x in mcu:
                    rows_there = zigzag[n]
                    row = rows_there[min(y, len(rows_there) - 1)]
                    block = row[min(x, len(row) - 1)]
                    td, ta = scan.selectors[n]
                    _put_block(bits, block, predictors[n], tables[0, td], tables[1, ta])
                    predictors[n] = block[0]
            out += bits.bytes(scan.padding) + scan.stray
        out += scan.fill
    return out + bytes((0xFF, Marker.EOI))


def random_table(rng: np.random.Generator, ac: bool) -> Table:
    """A Huffman table of all symbols that 8-bit samples can need, of random lengths up to 16, in random order."""
    symbols = [0x00, 0xF0] + [run * 16 + size for run in range(16) for size in range(1, 11)] if ac else list(range(12))
    symbols = [symbols[n] for n in rng.permutation(len(symbols))]
    lengths = [0] * 16
    room = 65535
    for left in range(len(symbols), 0, -1):
        shortest = 17 - (room - left + 1).bit_length()
        length = int(rng.integers(min(16, shortest + (0 if left < 3 else 2)), 17))
        lengths[length - 1] += 1
        room -= 1 << (16 - length)
    return lengths, symbols
