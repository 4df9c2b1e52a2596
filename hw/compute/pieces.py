"""Which tiles of which layers are drawn where: found ahead of the drawing, and fetched."""

from itertools import pairwise

from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.compute.canvas import Bands, Piece
from tessera.hw.engine import Format
from tessera.hw.memory.port import Op, Request, Response
from tessera.hw.memory.surface import SurfaceMap, Tile

__all__ = ["Pieces", "PlacedLayer"]

_RUNS = 8
_PIECES = 64


class PlacedLayer(data.Struct):
    """A layer as it lies over the canvas."""

    window: 10
    body: 26
    """First line."""
    x: signed(17)
    """Column of the canvas on which the layer's first one lies, in luma samples."""
    y: signed(17)
    alpha: 8
    shown: 1
    """Else there is no such layer: nothing is drawn."""
    gray: 1
    """4:0:0, else 4:2:0."""
    width: 16
    """Luma samples, 1 or more."""
    height: 16


class _Run(data.Struct):
    """The part of a layer's plane that lies on one band."""

    draws: 1
    """Any."""
    end: 1
    """The band's last one."""
    flat: 1
    layer: 4
    alpha: 8
    window: 10
    body: 26
    stride: 9
    base: 18
    x: signed(17)
    """Place of the plane's first sample on the canvas's plane."""
    row: 3
    """The same for rows, modulo 8."""
    left: 16
    """First and last column and row of the layer's plane."""
    right: 16
    top: 16
    bottom: 16


class Pieces(wiring.Component):
    """Goes through the layers, band by band, and gives the pieces to draw with their tiles.

    A tile is read for a band if a sample of it lies on that band of the canvas and the layer is not fully transparent,
    and no other is: once if it lies on one band, twice if on two. Tiles are asked for as far ahead as there is room, at
    most one a cycle, whatever is done with them; a layer that is not on a band costs a cycle.

    One picture is gone through after reset.

    Memory: ``depth`` tiles of 512 bits.

    Parameters
    ----------
    id : int
        Of the requests.
    depth : int
        Tiles under way, a power of two: room is kept for each of them.

    Members
    -------
    running : In(1)
        High from when the next four are valid.
    width, height : In(16)
        Luma samples of the canvas, 1 or more.
    tiles_y : In(array of 2 x 14)
        Tiles down the canvas, luma and chroma.
    count : In(5)
        Layers, 0 to 16.
    index : Out(4), layer : In(PlacedLayer)
        The layer of a number, in the same cycle; the first one is drawn first.
    o : :py:`Out(stream.Signature(Piece))`
    o_tile : :py:`Out(stream.Signature(Tile))`
        One for each piece that draws and is not flat.
    request : :py:`Out(stream.Signature(Request))`
    response : :py:`In(stream.Signature(Response))`
        Taken at once, always.
    """

    def __init__(self, id, depth=32):
        if depth < 4 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; a power of two from 4 expected")
        self.id, self.depth = id, depth
        super().__init__(
            {
                "running": In(1),
                "width": In(16),
                "height": In(16),
                "tiles_y": In(data.ArrayLayout(14, 2)),
                "count": In(5),
                "index": Out(4),
                "layer": In(PlacedLayer),
                "o": Out(stream.Signature(Piece)),
                "o_tile": Out(stream.Signature(Tile)),
                "request": Out(stream.Signature(Request)),
                "response": In(stream.Signature(Response)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.map = surface_map = SurfaceMap()
        m.submodules.runs = runs = fifo.SyncFIFOBuffered(width=Shape.cast(_Run).width, depth=_RUNS)
        m.submodules.pieces = pieces = fifo.SyncFIFOBuffered(width=Shape.cast(Piece).width, depth=_PIECES)
        m.submodules.tiles = tiles = fifo.SyncFIFOBuffered(width=512, depth=self.depth)

        # Each layer of each band goes through four stages without stopping: room for its run is kept.
        bands = Bands("seen", self.tiles_y)
        promised = Signal(range(_RUNS + 1))
        issue, drop, pop = Signal(), Signal(), Signal()
        last = self.index + 1 >= self.count
        m.d.comb += issue.eq(self.running & ~bands.done & (promised != _RUNS))
        m.d.sync += promised.eq(promised + issue - drop - pop)
        with m.If(issue):
            m.d.sync += self.index.eq(self.index + 1)
            with m.If(last):
                m.d.sync += self.index.eq(0)
                bands.advance(m)

        stages = [Signal(_Run, name=f"run{n}") for n in range(4)]
        valid = [Signal(name=f"valid{n}") for n in range(4)]
        for before, after in zip([issue, *valid], valid):
            m.d.sync += after.eq(before)
        for before, after in pairwise(stages):
            m.d.sync += after.eq(before)

        given = self.layer
        layer = Signal(PlacedLayer)
        plane, band = Signal(2), Signal(13)
        first = stages[0]
        m.d.sync += [
            layer.eq(given),
            plane.eq(bands.plane),
            band.eq(bands.band),
            first.draws.eq(given.shown & (given.alpha != 0) & (self.count != 0)),
            first.end.eq(last),
            first.flat.eq(given.gray & (bands.plane != 0)),
            first.layer.eq(self.index),
            first.alpha.eq(given.alpha),
            first.window.eq(given.window),
            first.body.eq(given.body),
        ]

        # Sizes and places in the plane. The map's stride comes with the second stage, its base with the third.
        chroma = plane != 0
        plane1, plane2 = Signal.like(plane), Signal.like(plane)
        y, start_row = Signal(signed(17)), Signal(16)
        sizes = {name: Signal(16, name=f"plane_{name}") for name in ("width", "height", "canvas_width")}
        depth = Signal(3)
        canvas_height = Mux(chroma, (self.height + 1) >> 1, self.height)
        below = canvas_height - 1 - (band << 3)
        m.d.comb += [
            surface_map.chroma_format.eq(Mux(layer.gray, Format.Gray, Format.C420)),
            surface_map.width.eq(layer.width),
            surface_map.height.eq(layer.height),
        ]
        m.d.sync += [
            stages[1].x.eq(Mux(chroma, layer.x >> 1, layer.x)),
            y.eq(Mux(chroma, layer.y >> 1, layer.y)),
            sizes["width"].eq(Mux(chroma, (layer.width + 1) >> 1, layer.width)),
            sizes["height"].eq(Mux(chroma, (layer.height + 1) >> 1, layer.height)),
            sizes["canvas_width"].eq(Mux(chroma, (self.width + 1) >> 1, self.width)),
            start_row.eq(band << 3),
            depth.eq(Mux(below > 7, 7, below)),
            plane1.eq(plane),
            plane2.eq(plane1),
            stages[2].stride.eq(surface_map.stride[plane1 != 0]),
        ]

        # The band and the canvas as the layer's plane sees them, and what of them it covers.
        x = stages[1].x
        top, left, right = (Signal(signed(19), name=f"canvas_{side}") for side in ("top", "left", "right"))
        rows = Signal(3)
        last_column, last_row = Signal(16), Signal(16)
        m.d.sync += [
            top.eq(start_row - y),
            left.eq(-x),
            right.eq(sizes["canvas_width"] - 1 - x),
            rows.eq(depth),
            last_column.eq(sizes["width"] - 1),
            last_row.eq(sizes["height"] - 1),
            stages[2].row.eq(y[:3]),
        ]
        bottom = top + rows
        run = stages[3]
        meets = (bottom >= 0) & (top <= last_row) & (right >= 0) & (left <= last_column)
        m.d.sync += [
            run.draws.eq(stages[2].draws & meets),
            run.base.eq(surface_map.base[plane2]),
            run.left.eq(Mux(left < 0, 0, left)),
            run.right.eq(Mux(right > last_column, last_column, right)),
            run.top.eq(Mux(top < 0, 0, top)),
            run.bottom.eq(Mux(bottom > last_row, last_row, bottom)),
        ]
        keep = run.draws | run.end
        m.d.comb += [runs.w_en.eq(valid[3] & keep), runs.w_data.eq(run), drop.eq(valid[3] & ~keep)]

        # A piece for each tile, row by row: at most two rows of tiles lie on a band.
        head = data.View(_Run, runs.r_data)
        column, second = Signal(13), Signal()
        tile_x = (head.left[3:] + column)[:13]
        tile_y = (head.top[3:] + second)[:13]
        right_end = tile_x == head.right[3:]
        bottom_end = tile_y == head.bottom[3:]
        reads = head.draws & ~head.flat
        under_way = Signal(range(self.depth + 1))
        step_in, emit = Signal(), Signal()
        piece = Signal(Piece)
        m.d.comb += [
            emit.eq(runs.r_rdy & pieces.w_rdy & (~reads | (step_in & (under_way != self.depth)))),
            pop.eq(emit & (~head.draws | (right_end & bottom_end))),
            runs.r_en.eq(pop),
            piece.draws.eq(head.draws),
            piece.flat.eq(head.flat),
            piece.end.eq(head.end & pop),
            piece.layer.eq(head.layer),
            piece.alpha.eq(head.alpha),
            piece.column.eq((head.x >> 3) + tile_x),
            piece.shift.eq(head.x[:3]),
            piece.left.eq(Mux(column == 0, head.left[:3], 0)),
            piece.right.eq(Mux(right_end, head.right[:3], 7)),
            piece.top.eq(Mux(second, 0, head.top[:3])),
            piece.bottom.eq(Mux(bottom_end, head.bottom[:3], 7)),
            piece.row.eq(head.row),
            pieces.w_en.eq(emit),
            pieces.w_data.eq(piece),
            self.o.valid.eq(pieces.r_rdy),
            self.o.payload.eq(pieces.r_data),
            pieces.r_en.eq(self.o.ready),
        ]
        with m.If(emit & head.draws):
            m.d.sync += column.eq(column + 1)
            with m.If(right_end):
                m.d.sync += [column.eq(0), second.eq(~bottom_end)]

        # To its line, as in a surface that holds still.
        asked = Signal()
        row_block, block_x, inside = Signal(18), Signal(18), Signal(9)
        window, body = Signal(10), Signal(26)
        request = self.request
        step_out = ~request.valid | request.ready
        m.d.comb += [
            step_in.eq(~asked | step_out),
            request.payload.op.eq(Op.Read),
            request.payload.id.eq(self.id),
        ]
        with m.If(step_in):
            m.d.sync += [
                asked.eq(emit & reads),
                row_block.eq((tile_y >> 4) * head.stride),
                block_x.eq(head.base + (tile_x >> 5)),
                inside.eq(Cat(tile_x[0], tile_y[0], tile_x[1:5], tile_y[1:4])),
                window.eq(head.window),
                body.eq(head.body),
            ]
        with m.If(step_out):
            m.d.sync += [
                request.valid.eq(asked),
                request.payload.window.eq(window),
                request.payload.offset.eq(body + Cat(inside, (row_block + block_x)[:18])),
            ]
        m.d.sync += under_way.eq(under_way + (emit & reads) - (tiles.r_rdy & tiles.r_en))
        m.d.comb += [
            self.response.ready.eq(1),
            tiles.w_en.eq(self.response.valid),
            tiles.w_data.eq(self.response.payload.data),
            self.o_tile.valid.eq(tiles.r_rdy),
            self.o_tile.payload.eq(tiles.r_data),
            tiles.r_en.eq(self.o_tile.ready),
        ]
        return m
