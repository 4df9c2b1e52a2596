"""The row stream: what flows between the stages of the compute engine, and its two ends.

A stage has a row stream in and one out, and learns each plane's geometry from the engine before the plane's first row.
Between stages nothing is written to memory. The order of rows:

    planes Y, Cb, Cr; in a plane rows of tiles, top to bottom; in these tiles, left to right; in a tile 8 rows

so every tile is 8 items, those at the right and lower edge included. Samples past the plane's edge mean nothing; a
stage that looks beyond the edge replicates by itself.
"""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.memory.surface import Tile

__all__ = ["LANES", "Row", "RowsToTiles", "TilesToRows"]

LANES = 8
"""Samples of a row, handled in one cycle."""


class Row(data.Struct):
    """One row of a tile."""

    samples: data.ArrayLayout(8, LANES)


class TilesToRows(wiring.Component):
    """Cuts tiles into rows.

    One row per cycle without gaps; the first row is offered one cycle after the tile was taken, and the next tile is
    taken with a tile's last row.

    Members
    -------
    i : :py:`In(stream.Signature(Tile))`
        Tiles in the order of the row stream.
    o : :py:`Out(stream.Signature(Row))`
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(Tile)), "o": Out(stream.Signature(Row))})

    def elaborate(self, platform):
        m = Module()
        rest = Signal(data.ArrayLayout(64, 8))
        left = Signal(range(9))
        m.d.comb += [
            self.o.valid.eq(left != 0),
            self.o.payload.samples.eq(rest[0]),
            self.i.ready.eq((left == 0) | ((left == 1) & self.o.ready)),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [left.eq(left - 1), *(rest[n].eq(rest[n + 1]) for n in range(7))]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [rest.eq(self.i.payload), left.eq(8)]
        return m


class RowsToTiles(wiring.Component):
    """Gathers rows into tiles.

    Takes one row per cycle without gaps; a tile is offered one cycle after its last row was taken, and must be taken
    before the next tile's last row is.

    Members
    -------
    i : :py:`In(stream.Signature(Row))`
    o : :py:`Out(stream.Signature(Tile))`
    """

    def __init__(self):
        super().__init__({"i": In(stream.Signature(Row)), "o": Out(stream.Signature(Tile))})

    def elaborate(self, platform):
        m = Module()
        rows = Signal(data.ArrayLayout(64, 7))
        row = Signal(3)
        step_out = ~self.o.valid | self.o.ready
        m.d.comb += self.i.ready.eq((row != 7) | step_out)
        with m.If(step_out):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [row.eq(row + 1), *(rows[n].eq(rows[n + 1]) for n in range(6))]
            m.d.sync += rows[6].eq(self.i.payload.samples)
            with m.If(row == 7):
                m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(Cat(rows, self.i.payload.samples))]
        return m
