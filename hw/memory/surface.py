"""Surfaces: tiles by plane and place, in and out of memory."""

from amaranth.hdl import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.hw.engine import Format
from tessera.hw.memory.port import Op, Request, Response

__all__ = ["PlacedTile", "Surface", "SurfaceMap", "SurfaceReader", "SurfaceWriter", "Tile", "TilePlace"]

Tile = data.ArrayLayout(data.ArrayLayout(8, 8), 8)
"""Rows of samples: ``tile[row][column]``."""


class Surface(data.Struct):
    """A surface to work on: must hold still while anything is under way."""

    window: 10
    body: 26
    """First line."""
    chroma_format: Format
    width: 16
    """Luma samples, 1 to 65535."""
    height: 16


class TilePlace(data.Struct):
    """A tile's place: plane 0 luma, 1 Cb, 2 Cr; column and row in tiles."""

    plane: 2
    x: 13
    y: 13


class PlacedTile(data.Struct):
    """A tile and where it belongs."""

    place: TilePlace
    tile: Tile


class SurfaceMap(wiring.Component):
    """From a picture's geometry to where its planes lie.

    Outputs follow the geometry by two cycles.

    Members
    -------
    chroma_format, width, height : In
    tiles_x, tiles_y : Out(array of 2 x 14)
        Tiles across and down that hold samples, luma and chroma.
    stride : Out(array of 2 x 9)
        Blocks across, luma and chroma.
    base : Out(array of 3 x 18)
        First block of each plane.
    lines : Out(28)
        Of the whole surface.
    last_x, last_y : Out(array of 2 x 3)
        Last column and row of a plane's last tile that hold samples of the picture.
    """

    def __init__(self):
        super().__init__(
            {
                "chroma_format": In(Format),
                "width": In(16),
                "height": In(16),
                "tiles_x": Out(data.ArrayLayout(14, 2)),
                "tiles_y": Out(data.ArrayLayout(14, 2)),
                "last_x": Out(data.ArrayLayout(3, 2)),
                "last_y": Out(data.ArrayLayout(3, 2)),
                "stride": Out(data.ArrayLayout(9, 2)),
                "base": Out(data.ArrayLayout(18, 3)),
                "lines": Out(28),
            }
        )

    def elaborate(self, platform):
        m = Module()
        halved_x = (self.chroma_format == Format.C420) | (self.chroma_format == Format.C422)
        halved_y = self.chroma_format == Format.C420
        widths = self.width, Mux(halved_x, (self.width + 1) >> 1, self.width)
        heights = self.height, Mux(halved_y, (self.height + 1) >> 1, self.height)
        blocks_y = [Signal(10, name=f"blocks_y{n}") for n in range(2)]
        sizes = [Signal(18, name=f"size{n}") for n in range(2)]
        for n in range(2):
            m.d.sync += [
                self.tiles_x[n].eq((widths[n] + 7) >> 3),
                self.tiles_y[n].eq((heights[n] + 7) >> 3),
                self.last_x[n].eq(widths[n] - 1),
                self.last_y[n].eq(heights[n] - 1),
                self.stride[n].eq((widths[n] + 255) >> 8),
                blocks_y[n].eq((heights[n] + 127) >> 7),
            ]
            m.d.comb += sizes[n].eq(self.stride[n] * blocks_y[n])
        m.d.sync += [
            self.base[1].eq(sizes[0]),
            self.base[2].eq(sizes[0] + sizes[1]),
            self.lines.eq((sizes[0] + Mux(self.chroma_format == Format.Gray, 0, sizes[1] << 1)) << 9),
        ]
        return m


class _Addresser(wiring.Component):
    """Tile places in, lines of the window out, in order, one a cycle, two cycles later."""

    def __init__(self, extra):
        """`extra` is the shape of what goes along."""
        self._in = data.StructLayout({"place": TilePlace, "extra": extra})
        self._out = data.StructLayout({"line": 26, "extra": extra})
        super().__init__(
            {
                "surface": In(Surface),
                "i": In(stream.Signature(self._in)),
                "o": Out(stream.Signature(self._out)),
                "stride": In(data.ArrayLayout(9, 2)),
                "base": In(data.ArrayLayout(18, 3)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        place = self.i.payload.place
        chroma = place.plane != 0
        valid = Signal()
        row_block = Signal(18)
        block_x = Signal(18)
        inside = Signal(9)
        extra = Signal.like(self.i.payload.extra, name="extra_before")
        step_out = ~self.o.valid | self.o.ready
        step_in = ~valid | step_out
        m.d.comb += self.i.ready.eq(step_in)
        with m.If(step_in):
            m.d.sync += [
                valid.eq(self.i.valid),
                row_block.eq((place.y >> 4) * self.stride[chroma]),
                block_x.eq(self.base[place.plane] + (place.x >> 5)),
                inside.eq(Cat(place.x[0], place.y[0], place.x[1:5], place.y[1:4])),
                extra.eq(self.i.payload.extra),
            ]
        with m.If(step_out):
            m.d.sync += [
                self.o.valid.eq(valid),
                self.o.payload.line.eq(self.surface.body + Cat(inside, (row_block + block_x)[:18])),
                self.o.payload.extra.eq(extra),
            ]
        return m


class SurfaceWriter(wiring.Component):
    """Writes tiles to their places.

    Throughput is one tile per cycle; a tile's request is offered two cycles after it was taken. Tiles must lie within
    the plane's ``SurfaceMap.tiles_x`` and ``tiles_y``. Whoever waits for the writes counts the acknowledgements.

    Parameters
    ----------
    id : int
        Of the requests.

    Members
    -------
    surface : :py:`In(Surface)`
        Set two cycles or more before the first tile.
    i : :py:`In(stream.Signature(PlacedTile))`
    request : :py:`Out(stream.Signature(Request))`
    lines : :py:`Out(28)`
        Of the whole surface, two cycles after ``surface``.
    """

    def __init__(self, id):
        self.id = id
        super().__init__(
            {
                "surface": In(Surface),
                "i": In(stream.Signature(PlacedTile)),
                "request": Out(stream.Signature(Request)),
                "lines": Out(28),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.map = surface_map = SurfaceMap()
        m.submodules.addresser = addresser = _Addresser(Tile)
        m.d.comb += [
            surface_map.chroma_format.eq(self.surface.chroma_format),
            surface_map.width.eq(self.surface.width),
            surface_map.height.eq(self.surface.height),
            self.lines.eq(surface_map.lines),
            addresser.surface.eq(self.surface),
            addresser.stride.eq(surface_map.stride),
            addresser.base.eq(surface_map.base),
            addresser.i.valid.eq(self.i.valid),
            addresser.i.payload.place.eq(self.i.payload.place),
            addresser.i.payload.extra.eq(self.i.payload.tile),
            self.i.ready.eq(addresser.i.ready),
            self.request.valid.eq(addresser.o.valid),
            self.request.payload.op.eq(Op.Write),
            self.request.payload.id.eq(self.id),
            self.request.payload.window.eq(self.surface.window),
            self.request.payload.offset.eq(addresser.o.payload.line),
            self.request.payload.data.eq(addresser.o.payload.extra),
            addresser.o.ready.eq(self.request.ready),
        ]
        return m


class _Edge(data.Struct):
    """One axis of a tile at the edge: columns (or rows) after ``last``, or all if ``beyond``, repeat ``last``."""

    last: 3
    beyond: 1

    def covers(self, n):
        """Whether column (or row) `n` is a repetition."""
        return self.beyond | (n > self.last)


class _Edges(data.Struct):
    x: _Edge
    y: _Edge


class SurfaceReader(wiring.Component):
    """Reads tiles, in the order asked for; past the picture's edge the last column and row are repeated.

    Any place may be asked for: one beyond the plane gives the tile that replication puts there. Tiles come one per
    cycle, seven cycles and the memory's latency after they were asked for.

    Parameters
    ----------
    id : int
        Of the requests.
    depth : int
        Tiles under way, a power of two: room is kept for each of them.

    Members
    -------
    surface : :py:`In(Surface)`
        Set two cycles or more before the first place.
    i : :py:`In(stream.Signature(TilePlace))`
    o : :py:`Out(stream.Signature(Tile))`
    request : :py:`Out(stream.Signature(Request))`
    response : :py:`In(stream.Signature(Response))`
        Taken at once, always.
    tiles_x, tiles_y : Out(array of 2 x 14)
        Tiles across and down that hold samples, luma and chroma, two cycles after ``surface``.
    """

    def __init__(self, id, depth=32):
        if depth < 4 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; a power of two from 4 expected")
        self.id, self.depth = id, depth
        super().__init__(
            {
                "surface": In(Surface),
                "i": In(stream.Signature(TilePlace)),
                "o": Out(stream.Signature(Tile)),
                "request": Out(stream.Signature(Request)),
                "response": In(stream.Signature(Response)),
                "tiles_x": Out(data.ArrayLayout(14, 2)),
                "tiles_y": Out(data.ArrayLayout(14, 2)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.map = surface_map = SurfaceMap()
        m.submodules.addresser = addresser = _Addresser(unsigned(1))
        m.submodules.edges = edges = fifo.SyncFIFOBuffered(width=Shape.cast(_Edges).width, depth=self.depth)
        m.submodules.tiles = tiles = fifo.SyncFIFOBuffered(width=512, depth=self.depth)
        m.d.comb += [
            surface_map.chroma_format.eq(self.surface.chroma_format),
            surface_map.width.eq(self.surface.width),
            surface_map.height.eq(self.surface.height),
            self.tiles_x.eq(surface_map.tiles_x),
            self.tiles_y.eq(surface_map.tiles_y),
            addresser.surface.eq(self.surface),
            addresser.stride.eq(surface_map.stride),
            addresser.base.eq(surface_map.base),
        ]

        # A tile beyond the last one is the last one, of which only the last column or row is shown.
        asked, clamped = self.i.payload, addresser.i.payload.place
        chroma = asked.plane != 0
        wanted = Signal(_Edges)
        step_clamp = ~addresser.i.valid | addresser.i.ready
        under_way = Signal(range(self.depth + 1))
        room = under_way != self.depth
        taken, given = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(room & step_clamp),
            taken.eq(self.i.valid & self.i.ready),
            given.eq(tiles.r_rdy & tiles.r_en),
            edges.w_en.eq(addresser.i.valid & addresser.i.ready),
            edges.w_data.eq(wanted),
        ]
        with m.If(step_clamp):
            m.d.sync += [addresser.i.valid.eq(taken), clamped.plane.eq(asked.plane)]
            for axis, coordinate, bound, last, edge in (
                (asked.x, clamped.x, surface_map.tiles_x[chroma], surface_map.last_x[chroma], wanted.x),
                (asked.y, clamped.y, surface_map.tiles_y[chroma], surface_map.last_y[chroma], wanted.y),
            ):
                beyond = axis >= bound
                m.d.sync += [
                    edge.beyond.eq(beyond),
                    coordinate.eq(Mux(beyond, bound - 1, axis)),
                    edge.last.eq(Mux(axis + 1 >= bound, last, 7)),
                ]
        m.d.sync += under_way.eq(under_way + taken - given)
        m.d.comb += [
            self.request.valid.eq(addresser.o.valid),
            self.request.payload.op.eq(Op.Read),
            self.request.payload.id.eq(self.id),
            self.request.payload.window.eq(self.surface.window),
            self.request.payload.offset.eq(addresser.o.payload.line),
            addresser.o.ready.eq(self.request.ready),
            self.response.ready.eq(1),
            tiles.w_en.eq(self.response.valid),
            tiles.w_data.eq(self.response.payload.data),
        ]

        # First columns, then rows, a register after each.
        tile, edge = data.View(Tile, tiles.r_data), data.View(_Edges, edges.r_data)
        rows_edge = Signal(_Edge)
        half_done = Signal(Tile)
        half_valid = Signal()
        step_out = ~self.o.valid | self.o.ready
        step_half = ~half_valid | step_out
        m.d.comb += [tiles.r_en.eq(step_half), edges.r_en.eq(tiles.r_rdy & step_half)]
        with m.If(step_half):
            m.d.sync += [half_valid.eq(tiles.r_rdy), rows_edge.eq(edge.y)]
            for row in range(8):
                last = tile[row][edge.x.last]
                for column in range(8):
                    m.d.sync += half_done[row][column].eq(Mux(edge.x.covers(column), last, tile[row][column]))
        with m.If(step_out):
            m.d.sync += self.o.valid.eq(half_valid)
            last = half_done[rows_edge.last]
            for row in range(8):
                m.d.sync += self.o.payload[row].eq(
                    Mux(rows_edge.covers(row), Value.cast(last), Value.cast(half_done[row]))
                )
        return m
