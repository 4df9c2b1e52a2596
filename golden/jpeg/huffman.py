"""Huffman tables and entropy-coded segments (Ref: ITU-T T.81 annexes C and F.1.2, F.2.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .status import JpegStatus
from .tables import AC_CATEGORY_MAX, DC_CATEGORY_MAX, ZIGZAG_TO_NATURAL

__all__ = ["Lookup", "SegmentError", "codes", "decode_segment", "lookup", "next_marker", "pack", "unstuff"]

Lookup = list[tuple[int, int, int]]

# Values of `run` that mark the entries of a lookup that are no symbol; ZRL and EOB have run 15 and 0.
_NO_CODE = 16
_NO_CATEGORY = 17

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_STUFFED = re.compile(rb"\xff+\x00")


class SegmentError(Exception):
    """Entropy-coded data ended or broke: `status`, and the number of the MCU within the segment."""

    def __init__(self, status: JpegStatus, mcu: int) -> None:
        super().__init__(status, mcu)
        self.status = status
        self.mcu = mcu


def codes(bits: Sequence[int], values: Sequence[int]) -> dict[int, tuple[int, int]]:
    """(code, length) of each symbol (Ref: T.81 C.2).

    Raises
    ------
    ValueError
        More codes than there are of a length, the all-ones code counted as one that there is not.
    """
    table: dict[int, tuple[int, int]] = {}
    code = 0
    symbols = iter(values)
    for length, count in enumerate(bits, 1):
        if code + count >= 1 << length:
            raise ValueError(f"{count} codes of {length} bits from {code:#x} on")
        for _ in range(count):
            table[next(symbols)] = code, length
            code += 1
        code <<= 1
    return table


@lru_cache(64)
def lookup(bits: tuple[int, ...], values: tuple[int, ...], ac: bool) -> Lookup:
    """What the next 16 bits are: (run, category, bits of code and magnitude), run above 15 where they are no symbol.

    Raises
    ------
    ValueError
        As `codes`.
    """
    table: Lookup = []
    codes(bits, values)
    symbols = iter(values)
    for length, count in enumerate(bits, 1):
        for _ in range(count):
            run, category = divmod(next(symbols), 16)
            if ac:
                valid = 1 <= category <= AC_CATEGORY_MAX or (category == 0 and run in (0, 15))
            else:
                valid = run == 0 and category <= DC_CATEGORY_MAX
            entry = (run, category, length + category) if valid else (_NO_CATEGORY, 0, length)
            table += [entry] * (1 << (16 - length))
    table += [(_NO_CODE, 0, 16)] * (65536 - len(table))
    return table


def next_marker(data: bytes, start: int) -> int:
    """Offset of the 0xFF right before the code of the first marker from `start` on; the length of `data` if none."""
    match = _MARKER.search(data, start)
    return match.start() if match else len(data)


def unstuff(segment: bytes) -> bytes:
    """Entropy-coded bytes without stuffing, nor the fill bytes that end them (Ref: T.81 B.1.1.5)."""
    return _STUFFED.sub(b"\xff", segment.rstrip(b"\xff"))


def decode_segment(
    data: bytes,
    end: JpegStatus,
    mcus: int,
    first: int,
    blocks: Sequence[tuple[int, Lookup, Lookup]],
    places: Sequence[list[int]],
    values: Sequence[list[int]],
    counts: list[int],
) -> None:
    """Decode the MCUs of one entropy-coded segment.

    Parameters
    ----------
    data
        The segment's bytes, unstuffed.
    end
        The status if the data ends too early.
    mcus
        Number of MCUs to decode.
    first
        Number of the first one in its scan.
    blocks
        The blocks of an MCU: index of the component in the lists that follow, its DC and AC table.
    places, values
        For each component, appended to: 64 * block + 8 * row + column of coefficients that are not zero, and of all
        DC's, and these coefficients (a DC of more than 16 bits is to be wrapped).
    counts
        For each component the number of blocks decoded so far; updated.

    Raises
    ------
    SegmentError
        With the MCU's number in its scan.
    """
    total = len(data) * 8
    # One block overruns the end by at most 64 symbols of 27 bits before that is noticed.
    padded = np.frombuffer(data + bytes(240), np.uint8).astype(np.uint64)
    windows = np.zeros(len(padded) - 8, np.uint64)
    for n in range(8):
        windows |= padded[n : len(windows) + n] << np.uint64(56 - 8 * n)
    words: list[int] = windows.tolist()
    predictors = [0] * len(counts)
    natural = ZIGZAG_TO_NATURAL
    position = 0

    for mcu in range(first, first + mcus):
        for component, dc, ac in blocks:
            place, value = places[component].append, values[component].append
            base = 64 * counts[component]

            word, offset = words[position >> 3], position & 7
            run, category, used = dc[(word >> (48 - offset)) & 0xFFFF]
            if run:
                raise SegmentError(_failure(run, position + used, total, end), mcu)
            if category:
                mask = (1 << category) - 1
                difference = (word >> (64 - offset - used)) & mask
                predictors[component] += difference if difference > mask >> 1 else difference - mask
            position += used
            place(base)
            value(predictors[component])

            k = 1
            while k < 64:
                word, offset = words[position >> 3], position & 7
                run, category, used = ac[(word >> (48 - offset)) & 0xFFFF]
                if category:
                    k += run
                    if k > 63:
                        raise SegmentError(_failure(_NO_CATEGORY, position + used - category, total, end), mcu)
                    mask = (1 << category) - 1
                    magnitude = (word >> (64 - offset - used)) & mask
                    place(base + natural[k])
                    value(magnitude if magnitude > mask >> 1 else magnitude - mask)
                    position += used
                    k += 1
                elif run == 0:
                    position += used
                    break
                elif run == 15:
                    position += used
                    k += 16
                    if k > 64:
                        raise SegmentError(_failure(_NO_CATEGORY, position, total, end), mcu)
                else:
                    raise SegmentError(_failure(run, position + used, total, end), mcu)

            if position > total:
                raise SegmentError(end, mcu)
            counts[component] += 1


def _failure(kind: int, position: int, total: int, end: JpegStatus) -> JpegStatus:
    """The status of a failed code whose last bit is before `position`; that the data ended before it goes first."""
    if position > total:
        return end
    return JpegStatus.BadCode if kind == _NO_CODE else JpegStatus.BadCoefficient


def pack(values: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Bytes of a sequence of bit strings, the first bit the highest; zeros fill the last byte."""
    ends = np.cumsum(lengths)
    places = np.repeat(ends, lengths) - np.arange(ends[-1] if len(ends) else 0) - 1
    return np.packbits((np.repeat(values, lengths) >> places).astype(np.uint8) & 1)
