"""Lanes in Python: markers, scrambling, and what a lane sends."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace

__all__ = ["BITS", "DENSE", "SPARSE", "Fields", "lane_blocks", "marker_bits", "read", "sequence"]

BITS = 257
DENSE, SPARSE = 16, 1024
_MASK = (1 << BITS) - 1
_WIDTHS = 2, 4, 4, 1, 4, 4, 8
_BEGINNINGS = 0x1A827999FCEF324, 0x2ED9EBA16132A9C, 0x0F1BBCDCBFA53E0, 0x2953FD4E97C74DB


@dataclass(frozen=True)
class Fields:
    """Of a marker."""

    lane: int = 0
    used: int = 0
    heard: int = 0
    dense: int = 0
    session: int = 0
    node: int = 0
    number: int = 0

    def word(self) -> int:
        word, at = 0, 0
        for value, width in zip(astuple(self), _WIDTHS):
            assert 0 <= value < 1 << width
            word |= value << at
            at += width
        return word


def _pattern() -> int:
    bits = [0] * 7 + [1]
    while len(bits) < 128:
        bits.append(bits[-7] ^ bits[-6])
    return sum(bit << n for n, bit in enumerate(bits))


_PATTERN = _pattern()


def marker_bits(fields: Fields) -> int:
    """The 257 bits of a marker, the first on the wire in bit 0."""
    word = fields.word()
    return 1 | _PATTERN << 1 | (word | word << 32 | word << 64 | (word ^ 0xFFFFFFFF) << 96) << 129


def read(bits: int) -> tuple[bool, Fields]:
    """Whether a receiver takes `bits` for a marker, and what it then reads."""
    a, b, c, d = (bits >> 1 + 32 * n & 0xFFFFFFFF for n in (4, 5, 6, 7))
    word = a & b | a & c | b & c
    wrong = (bits >> 1 & (1 << 128) - 1) ^ _PATTERN
    good = sum(wrong >> 32 * n & 0xFFFFFFFF == 0 for n in range(4))
    return good >= 3 and word ^ d == 0xFFFFFFFF, _fields(word)


def _fields(word: int) -> Fields:
    values = []
    for width in _WIDTHS:
        values.append(word & (1 << width) - 1)
        word >>= width
    return Fields(*values)


def sequence(lane: int) -> Iterator[int]:
    """The keys of a lane's blocks from a marker on."""
    past, count = _BEGINNINGS[lane], 58
    while True:
        while count < 58 + BITS:
            # 39 more bits from those 58 and those 39 before each of them.
            past |= ((past >> count - 58 ^ past >> count - 39) & (1 << 39) - 1) << count
            count += 39
        yield past >> 58 & _MASK
        past >>= BITS
        count -= BITS


def lane_blocks(
    fields: Fields, plain: Iterator[int], distances: Iterator[int] | None = None
) -> Iterator[tuple[int, Fields | None, int]]:
    """What a lane sends from a marker on: its bits, and of a marker its fields, of another block what it carries.

    Markers are numbered from that of `fields`. From each to the next it is 16 or 1024 blocks, as the marker says; which
    one is of `fields`, or of the next of `distances`.
    """
    while True:
        distance = next(distances) if distances else DENSE if fields.dense else SPARSE
        fields = replace(fields, dense=int(distance == DENSE))
        yield marker_bits(fields), fields, 0
        keys = sequence(fields.lane)
        for _ in range(distance - 1):
            block = next(plain)
            yield (block ^ next(keys)) & _MASK, None, block
        fields = replace(fields, number=(fields.number + 1) % 256)
