"""Blocks, what a lane moves in a cycle, and markers, the blocks that tell where blocks begin."""

from amaranth.hdl import *
from amaranth.lib import data

from tessera.hw.link.packet import Block

__all__ = ["BLOCK_BITS", "DENSE", "PATTERN", "SPARSE", "Block", "Marker", "marker_block", "read_marker"]

BLOCK_BITS = 257
DENSE = 16
"""Blocks from a marker to the next, as the ``dense`` of the first says."""
SPARSE = 1024
PATTERN = 0xFEA99DD2_C6F6B648_E17CAE68_9E286080
"""A 0, then the 127 bits of a[n+7] = a[n] + a[n+1] mod 2 from 0000001 on: of all maximal sequences of that length, from
any place and with a bit before or behind, the one with the best aperiodic autocorrelation: sidelobes up to 9 of 128."""


class Marker(data.Struct):
    """What a marker tells: see docs/link.md."""

    lane: 2
    used: 4
    heard: 4
    dense: 1
    session: 4
    node: 4
    number: 8


def marker_block(fields):
    """The :class:`Block` that carries ``fields``, a :class:`Marker`."""
    word = Cat(fields, C(0, 32 - Shape.cast(Marker).width))
    return Block(Cat(C(1, 1), C(PATTERN, 128), word, word, word, ~word))


def read_marker(block):
    """Whether ``block`` is a right marker, and its fields.

    It is one if three of the four words of the pattern are right, and word 7 is the complement of the majority of words
    4 to 6. A wrong bit in the pattern or in one of those three does not hide it.
    """
    words = block.words
    a, b, c, d = (words[n] == (PATTERN >> 32 * n) & 0xFFFFFFFF for n in range(4))
    majority = (words[4] & words[5]) | (words[4] & words[6]) | (words[5] & words[6])
    right = ((a & b) & (c | d)) | ((c & d) & (a | b))
    return right & (majority == ~words[7]), Marker(majority[: Shape.cast(Marker).width])
