"""The canvas: layers are drawn into a row of tiles at a time, and what is complete goes out as tiles."""

from amaranth.hdl import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from tessera.hw.compute.stream import LANES
from tessera.hw.memory.surface import PlacedTile, Tile

__all__ = ["FLAT", "Bands", "Canvas", "Piece"]

FLAT = 128
"""The samples of a layer's plane that is not there."""

_ROWS = 2
"""Rows of the canvas in a word of its memory."""
_OPAQUE = 255
_Row = data.ArrayLayout(8, LANES)


class Piece(data.Struct):
    """What one tile of a layer puts on one band. Bits that are not needed for that mean nothing."""

    draws: 1
    """Else nothing is drawn: the piece is there for its ``end``."""
    flat: 1
    """There is no tile: all its samples are :data:`FLAT`."""
    end: 1
    """The band is complete with this piece."""
    layer: 4
    """Number of the layer. Pieces of one layer do not overlap."""
    alpha: 8
    column: signed(14)
    """Tile of the canvas in which the tile's first column lies; -1 is to the left of the canvas."""
    shift: 3
    """Column within that tile."""
    left: 3
    """First and last column of the tile to draw: what is drawn lies on the canvas."""
    right: 3
    top: 3
    """First and last row to draw."""
    bottom: 3
    row: 3
    """Row of the band on which the tile's row 0 would lie, modulo 8."""


class Bands:
    """Goes through the bands of a picture: rows of tiles of a plane, top to bottom; planes Y, Cb, Cr."""

    def __init__(self, name, tiles_y):
        self.plane = Signal(2, name=f"{name}_plane")
        self.band = Signal(13, name=f"{name}_band")
        self.done = Signal(name=f"{name}_done")
        self.chroma = self.plane != 0
        self.last = self.band + 1 == tiles_y[self.chroma]

    def advance(self, m):
        m.d.sync += self.band.eq(self.band + 1)
        with m.If(self.last):
            m.d.sync += [self.band.eq(0), self.plane.eq(self.plane + 1), self.done.eq(self.plane == 2)]


class _Step(data.Struct):
    """One row of a tile, or of the background, on its way into the band."""

    bank: 1
    fill: 1
    """Both rows of the word are written."""
    end: 1
    layer: 4
    alpha: 8
    column: 14
    shift: 3
    row: 3
    mask: 8
    """Of the samples."""
    samples: _Row

    def conflicts(self, other):
        """Whether it may have to see what `other` writes. What is of one layer never has to."""
        same_word = (self.bank == other.bank) & (self.row[1:] == other.row[1:])
        same_row = (self.row[0] == other.row[0]) | self.fill | other.fill
        one_layer = (self.fill == other.fill) & (self.fill | (self.layer == other.layer))
        return same_word & same_row & ~one_layer


class Canvas(wiring.Component):
    """Draws pieces over a background, band by band, and gives the picture's tiles, each once.

    A **band** is one row of tiles of one plane. Its pieces come in the order in which they are drawn, and the last one
    ends it; a band with nothing to draw has one that only ends it. There are two banks: while one band goes out, the
    next one is drawn.

    Samples are blended as ``golden.ops.compose`` says. To draw a band takes 4 cycles for each of its tiles, and one for
    each row of each piece, or one for a piece that draws nothing; up to 3 more where a piece meets what was drawn in
    the last 3 cycles. It then goes out, beginning 5 cycles later, in 4 cycles for each tile and one. A band is begun
    when the one before is drawn, and the one before that is out.

    One picture is made after reset; the next one needs a reset again.

    Memory: ``max_width`` x 32 samples in 16 memories; 16 block RAMs of 18 kbit for 2048.

    Parameters
    ----------
    max_width : int
        Samples of the widest canvas: a power of two, 16 to 16384.

    Members
    -------
    running : In(1)
        High from when the next three are valid.
    tiles_x, tiles_y : In(array of 2 x 14)
        Tiles of the canvas, luma and chroma, 1 or more.
    background : In(array of 3 x 8)
    i : :py:`In(stream.Signature(Piece))`
    i_tile : :py:`In(stream.Signature(Tile))`
        One for each piece that draws and is not flat.
    o : :py:`Out(stream.Signature(PlacedTile))`
        Planes Y, Cb, Cr; in a plane rows of tiles, top to bottom; in these tiles, left to right.
    done : Out(1)
        The last tile was taken.
    """

    def __init__(self, max_width):
        if not 16 <= max_width <= 16384 or max_width & (max_width - 1):
            raise ValueError(f"max_width is {max_width}; a power of two from 16 to 16384 expected")
        self._columns = max_width // 8
        super().__init__(
            {
                "running": In(1),
                "tiles_x": In(data.ArrayLayout(14, 2)),
                "tiles_y": In(data.ArrayLayout(14, 2)),
                "background": In(data.ArrayLayout(8, 3)),
                "i": In(stream.Signature(Piece)),
                "i_tile": In(stream.Signature(Tile)),
                "o": Out(stream.Signature(PlacedTile)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        place = exact_log2(self._columns)
        # Each column of a tile has a memory of its own in each bank, so that a row may straddle two tiles.
        reads, writes = [], []
        for bank in range(2):
            words = [
                memory.Memory(shape=data.ArrayLayout(8, _ROWS), depth=self._columns * 8 // _ROWS, init=[])
                for _ in range(LANES)
            ]
            for lane, part in enumerate(words):
                m.submodules[f"bank{bank}_{lane}"] = part
            reads.append([part.read_port() for part in words])
            writes.append([part.write_port(granularity=1) for part in words])
        drainable = Signal(2)
        claimed = Signal(2)
        """From a band's last piece until it is out."""

        # What comes next: the background, and then the rows of the pieces.
        issue, accept = Signal(), Signal()
        step = Signal(_Step)
        into = Signal()
        drawn = Bands("drawn", self.tiles_y)
        filling = Signal(init=1)
        fill_column, fill_rows = Signal(14), Signal(2)
        piece = self.i.payload
        row = Signal(3)
        from_row = (piece.top + row)[:3]
        final = Signal()
        m.d.comb += [step.bank.eq(into), final.eq(~piece.draws | (from_row == piece.bottom))]
        with m.If(filling):
            m.d.comb += [
                issue.eq(self.running & ~drawn.done & ~claimed.bit_select(into, 1)),
                step.fill.eq(1),
                step.alpha.eq(_OPAQUE),
                step.column.eq(fill_column),
                step.row.eq(fill_rows << 1),
                step.mask.eq(~0),
                step.samples.eq(self.background[drawn.plane].replicate(LANES)),
            ]
            with m.If(issue & accept):
                m.d.sync += fill_rows.eq(fill_rows + 1)
                with m.If(fill_rows == 3):
                    m.d.sync += fill_column.eq(fill_column + 1)
                    with m.If(fill_column + 1 == self.tiles_x[drawn.chroma]):
                        m.d.sync += [fill_column.eq(0), filling.eq(0)]
        with m.Else():
            needs_tile = piece.draws & ~piece.flat
            samples = Mux(piece.flat, C(FLAT, 8).replicate(LANES), Value.cast(self.i_tile.payload[from_row]))
            m.d.comb += [
                issue.eq(self.i.valid & (~needs_tile | self.i_tile.valid)),
                step.end.eq(piece.end & final),
                step.layer.eq(piece.layer),
                step.alpha.eq(piece.alpha),
                step.column.eq(piece.column),
                step.shift.eq(piece.shift),
                step.row.eq(piece.row + from_row),
                step.samples.eq(samples),
                self.i.ready.eq(issue & accept & final),
                self.i_tile.ready.eq(self.i.ready & needs_tile),
            ]
            for n in range(LANES):
                m.d.comb += step.mask[n].eq(piece.draws & (piece.left <= n) & (piece.right >= n))
            with m.If(issue & accept):
                m.d.sync += row.eq(Mux(final, 0, row + 1))
                with m.If(step.end):
                    m.d.sync += [filling.eq(1), into.eq(~into), claimed.bit_select(into, 1).eq(1)]
                    drawn.advance(m)

        # The pipeline: rows are turned to their columns while the canvas is read, multiplied, summed, and written.
        steps = [Signal(_Step, name=f"step{n}") for n in range(1, 5)]
        valid = [Signal(name=f"valid{n}") for n in range(1, 5)]
        turned, read, multiplied, summed = steps
        waits = Cat(v & turned.conflicts(later) for v, later in zip(valid[1:], steps[1:])).any()
        m.d.comb += accept.eq(~valid[0] | ~waits)
        with m.If(accept):
            m.d.sync += [valid[0].eq(issue), turned.eq(step)]
        m.d.sync += [valid[1].eq(valid[0] & ~waits), valid[2].eq(valid[1]), valid[3].eq(valid[2])]
        m.d.sync += [read.eq(turned), multiplied.eq(read), summed.eq(multiplied)]
        samples, mask = Value.cast(turned.samples), turned.mask
        for bit, by in enumerate((1, 2, 4)):
            samples = Mux(turned.shift[bit], samples.rotate_left(8 * by), samples)
            mask = Mux(turned.shift[bit], mask.rotate_left(by), mask)
        m.d.sync += [read.samples.eq(samples), read.mask.eq(mask)]

        def address(of, lane):
            column = Mux(lane < of.shift, of.column + 1, of.column)
            return Cat(column[:place], of.row[1:])

        results = Signal(_Row)
        for lane in range(LANES):
            below, before = Signal(8, name=f"below{lane}"), Signal(8, name=f"before{lane}")
            product = Signal(signed(17), name=f"product{lane}")
            total = Signal(16, name=f"total{lane}")
            words = [Value.cast(bank[lane].data) for bank in reads]
            m.d.comb += below.eq(Mux(read.bank, *reversed(words)).word_select(read.row[0], 8))
            # With alpha a, (s - d) * a + 255 * d.
            m.d.sync += [
                product.eq((read.samples[lane] - below) * read.alpha),
                before.eq(below),
                total.eq(product + Cat(C(0, 8), before) - before + 128),
            ]
            m.d.comb += results[lane].eq((total + total[8:])[8:])

        # Complete bands go out, two rows at a time.
        gone = Bands("gone", self.tiles_y)
        going = Signal()
        out_column, out_rows, asked = Signal(14), Signal(2), Signal()
        held, held_column, held_rows = Signal(), Signal(14), Signal(2)
        drains = drainable.bit_select(going, 1)
        reading = Signal()
        offered = held & (held_rows == 3)
        m.d.comb += reading.eq(drains & ~asked & (~offered | self.o.ready))
        with m.If(reading):
            m.d.sync += [held.eq(1), held_column.eq(out_column), held_rows.eq(out_rows), out_rows.eq(out_rows + 1)]
            with m.If(out_rows == 3):
                m.d.sync += out_column.eq(out_column + 1)
                m.d.sync += asked.eq(out_column + 1 == self.tiles_x[gone.chroma])
        with m.Elif(offered & self.o.ready):
            m.d.sync += held.eq(0)
            with m.If(asked):
                m.d.sync += [
                    drainable.bit_select(going, 1).eq(0),
                    claimed.bit_select(going, 1).eq(0),
                    going.eq(~going),
                    asked.eq(0),
                    out_column.eq(0),
                ]
                gone.advance(m)
        rows = Signal(data.ArrayLayout(_Row, _ROWS))
        for n in range(_ROWS):
            for lane in range(LANES):
                words = [bank[lane].data[n] for bank in reads]
                m.d.comb += rows[n][lane].eq(Mux(going, *reversed(words)))
        parts = [Signal.like(rows, name=f"rows{2 * n}") for n in range(3)]
        for n, part in enumerate(parts):
            with m.If(held & (held_rows == n)):
                m.d.sync += part.eq(rows)
        m.d.comb += [
            self.o.valid.eq(offered),
            self.o.payload.tile.eq(Cat(*parts, rows)),
            self.o.payload.place.plane.eq(gone.plane),
            self.o.payload.place.x.eq(held_column),
            self.o.payload.place.y.eq(gone.band),
            self.done.eq(gone.done),
        ]

        for bank in range(2):
            with m.If(valid[3] & summed.end & (summed.bank == bank)):
                m.d.sync += drainable[bank].eq(1)
            for lane, (from_port, to_port) in enumerate(zip(reads[bank], writes[bank])):
                m.d.comb += [
                    from_port.en.eq(~drainable[bank] | reading),
                    from_port.addr.eq(
                        Mux(drainable[bank], Cat(out_column[:place], out_rows), address(turned, lane))
                    ),
                    to_port.addr.eq(address(summed, lane)),
                    to_port.data.eq(results[lane].replicate(_ROWS)),
                ]
                written = valid[3] & (summed.bank == bank) & summed.mask[lane]
                m.d.comb += to_port.en.eq(Cat(written & (summed.fill | (summed.row[0] == n)) for n in range(_ROWS)))
        return m
