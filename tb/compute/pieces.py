"""Testbench of hw/compute/pieces.py: which tiles are asked for, in which order, and what is said of them."""

from typing import NamedTuple

import cocotb
from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge

from tessera.golden.frames import ChromaFormat
from tessera.hw.compute.canvas import Piece
from tessera.hw.compute.pieces import Pieces, PlacedLayer
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.memory.port import MemoryStatus, Op, Request, Response
from tessera.hw.memory.surface import SurfaceMap, Tile
from tessera.tb.bench import Bench, Dut

LAYERS = 16
READ_ID = 3


class Wanted(NamedTuple):
    """A tile of a layer on a band, as a model that looks at every column and row has it."""

    number: int
    """Of the layer."""
    plane: int
    band: int
    flat: bool
    tile: tuple[int, int]
    """Column and row in the layer's plane."""
    columns: tuple[int, int]
    """First and last one of the tile that is drawn."""
    rows: tuple[int, int]
    place: tuple[int, int]
    """Where the tile's first sample lies on the plane."""


def wanted(layers, width, height):
    """What is to be drawn of `layers`, a list of (format, width, height, x, y, alpha) or None, in order."""
    found = []
    for plane in range(3):
        across, down = ChromaFormat.C420.plane_size(plane, width, height)
        for band in range(-(-down // 8)):
            for number, layer in enumerate(layers):
                if layer is None or layer[5] == 0:
                    continue
                format, w, h, x, y, _ = layer
                w, h = ChromaFormat.C420.plane_size(plane, w, h)
                x, y = (x, y) if plane == 0 else (x >> 1, y >> 1)
                columns = range(max(0, -x), min(w, across - x))
                rows = range(max(0, 8 * band - y), min(h, min(8 * band + 8, down) - y))
                for ty in sorted({row // 8 for row in rows}):
                    for tx in sorted({column // 8 for column in columns}):
                        found.append(
                            Wanted(
                                number, plane, band, format == ChromaFormat.Gray and plane > 0, (tx, ty),
                                (max(columns[0] - 8 * tx, 0), min(columns[-1] - 8 * tx, 7)),
                                (max(rows[0] - 8 * ty, 0), min(rows[-1] - 8 * ty, 7)),
                                (x + 8 * tx, y + 8 * ty),
                            )
                        )  # fmt: skip
    return found


def bands_of(width, height):
    """(plane, band, tiles across) of each band of a canvas."""
    sizes = [ChromaFormat.C420.plane_size(plane, width, height) for plane in range(3)]
    return [(n, band, -(-w // 8)) for n, (w, h) in enumerate(sizes) for band in range(-(-h // 8))]


def body_of(number):
    """First line of a layer's surface: of all bits, whatever slots may have."""
    return (number & 1) << 25 | 0x9E3779 * (number + 1) & 0xFFFFFF


class Harness(wiring.Component):
    """The block with its layers in an array, and the canvas's tiles counted."""

    def __init__(self, depth=32):
        super().__init__(
            {
                "running": In(1),
                "width": In(16),
                "height": In(16),
                "count": In(5),
                "layers": In(data.ArrayLayout(PlacedLayer, LAYERS)),
                "o": Out(stream.Signature(Piece)),
                "o_tile": Out(stream.Signature(Tile)),
                "request": Out(stream.Signature(Request)),
                "response": In(stream.Signature(Response)),
            }
        )
        self.pieces = Pieces(READ_ID, depth)

    def elaborate(self, platform):
        m = Module()
        m.submodules.pieces = pieces = self.pieces
        m.submodules.map = surface_map = SurfaceMap()
        for name in ("o", "o_tile", "request", "response"):
            wiring.connect(m, getattr(pieces, name), wiring.flipped(getattr(self, name)))
        m.d.comb += [
            surface_map.chroma_format.eq(1),
            surface_map.width.eq(self.width),
            surface_map.height.eq(self.height),
            pieces.tiles_y.eq(surface_map.tiles_y),
            pieces.running.eq(self.running),
            pieces.width.eq(self.width),
            pieces.height.eq(self.height),
            pieces.count.eq(self.count),
            pieces.layer.eq(self.layers[pieces.index]),
        ]
        return m


DUTS = {
    "depth32": Dut(Harness, watched=True),
    "depth4": Dut(lambda: Harness(4), tests="layers_anywhere|room", watched=True),
}


class PiecesBench(Bench):
    """Layers in, pieces and tiles out; the memory answers with where it was asked."""

    async def start(self, layers, width, height, *, latency=20, stall=0.0):
        """Reset, and begin with `layers`; the requests are kept."""
        self.dut.running.value = 0
        await self.reset()
        bits = 0
        empty = PlacedLayer.as_shape().size
        for n, layer in enumerate(layers):
            if layer is not None:
                format, w, h, x, y, alpha = layer
                fields = {"window": n + 1, "body": body_of(n), "x": x, "y": y, "alpha": alpha, "shown": 1}
                fields |= {"gray": int(format == ChromaFormat.Gray), "width": w, "height": h}
                bits |= PlacedLayer.const(fields).as_bits() << n * empty
        self.dut.layers.value = bits
        self.dut.count.value = len(layers)
        self.dut.width.value, self.dut.height.value = width, height
        await self.cycles(4)
        self.requests, self.due = [], []
        self.dut.running.value = 1
        self.began = self.now()
        return [cocotb.start_soon(self.take(latency, stall)), cocotb.start_soon(self.answer())]

    async def take(self, latency, stall):
        while True:
            (request,) = await self.receive("request", 1, stall)
            self.requests.append((request.window, request.offset))
            assert (request.op, request.id) == (Op.Read, READ_ID)
            self.due.append((self.now() + latency, request.window << 26 | request.offset))

    async def answer(self):
        valid, payload = self.port("response.valid"), self.port("response.payload")
        while True:
            go = self.due and self.now() >= self.due[0][0]
            valid.value = int(bool(go))
            if go:
                fields = {"op": Op.Read, "id": READ_ID, "status": MemoryStatus.Ok, "data": self.due.pop(0)[1]}
                payload.value = Response.const(fields).as_bits()
            await RisingEdge(self.dut.clk)

    async def compare(self, layers, width, height, *, latency=20, stall=0.0):
        """All pieces and tiles of a picture against the model."""
        tasks = await self.start(layers, width, height, latency=latency, stall=stall)
        expected = wanted(layers, width, height)
        lines = []
        for piece in expected:
            if not piece.flat:
                format, w, h = layers[piece.number][:3]
                line = SurfaceLayout(format, w, h).line(piece.plane, *piece.tile)
                lines.append((piece.number + 1, body_of(piece.number) + int(line)))
        tiles = cocotb.start_soon(self.receive("o_tile", len(lines), stall))
        left = list(expected)
        limit = 1000 + latency
        for plane, band, _ in bands_of(width, height):
            end = False
            while not end:
                (piece,) = await self.within(limit, self.receive("o", 1, stall), "a piece")
                where = f"{width}x{height} of {layers}, plane {plane}, band {band}"
                end = piece.end
                if not piece.draws:
                    assert end, f"{where}: a piece for nothing"
                    continue
                assert left and (left[0].plane, left[0].band) == (plane, band), f"{where}: a piece too many: {piece}"
                want = left.pop(0)
                found = piece.layer, bool(piece.flat), (piece.left, piece.right), (piece.top, piece.bottom)
                assert found == (want.number, want.flat, want.columns, want.rows), f"{where}: {want} expected, {found}"
                x, y = 8 * piece.column + piece.shift, piece.row
                assert (x, y) == (want.place[0], want.place[1] % 8), f"{where}: {want} expected, at {x}, {y}"
                assert piece.alpha == layers[want.number][5], where
            assert not left or (left[0].plane, left[0].band) > (plane, band), f"{where}: {left[0]} is missing"
        found = await self.within(limit + 10 * len(lines), tiles, "the tiles")
        await self.cycles(latency + 20)
        assert not self.get("o.valid") and not self.get("o_tile.valid"), "more than there is"
        assert self.requests == lines, f"{width}x{height} of {layers}: other tiles were asked for"
        for n, (tile, (window, line)) in enumerate(zip(found, lines)):
            bits = tile.as_bits() if hasattr(tile, "as_bits") else int(tile)
            assert bits == window << 26 | line, f"tile {n} is another one's"
        for task in tasks:
            task.cancel()


def layers_of(rng, count, width, height, largest=40):
    """Random layers about a canvas; some are outside, some are missing, some are not seen."""
    layers = []
    for _ in range(count):
        w, h = rng.randint(1, largest), rng.randint(1, largest)
        x, y = rng.randint(-w - 2, width + 2), rng.randint(-h - 2, height + 2)
        alpha = rng.choice([0, 1, 255, rng.randint(1, 254)])
        layer = rng.choice([ChromaFormat.Gray, ChromaFormat.C420, ChromaFormat.C420]), w, h, x, y, alpha
        layers.append(None if rng.random() < 0.1 else layer)
    return layers


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def layers_anywhere(dut, stall):
    bench = PiecesBench(dut, DUTS)
    for n in range(30):
        width, height = bench.random.randint(1, 40), bench.random.randint(1, 40)
        layers = layers_of(bench.random, n % (LAYERS + 1), width, height)
        await bench.compare(layers, width, height, latency=bench.random.choice([1, 20, 50]), stall=stall)


@cocotb.test()
async def far_away_and_large(dut):
    """Places and sizes at their limits, of which a corner lies on the canvas; more than one block of tiles."""
    bench = PiecesBench(dut, DUTS)
    low, high = -(1 << 16), (1 << 16) - 1
    colour = ChromaFormat.C420
    cases = [(low, 5), (5, low), (high, 3), (3, high), (low, low), (high, high)]
    await bench.compare([(colour, 60, 60, x, y, 255) for x, y in cases], 50, 30)
    gray = ChromaFormat.Gray
    wide, tall = (colour, 65535, 6000, -65515, -5989, 9), (colour, 6000, 65535, -5980, -65524, 9)
    await bench.compare([wide, (gray, 65535, 9, -65530, 2, 200), tall, (gray, 9, 65535, 7, -65530, 200)], 40, 30)
    # Both edges of what is drawn, at columns of many bits.
    await bench.compare([(gray, 2090, 9, 3, 0, 255), (gray, 4000, 9, -30, 3, 255)], 2200, 9)
    await bench.compare([(colour, 700, 300, -270, -140, 255), (colour, 300, 150, 20, 9, 255)], 300, 170)


@cocotb.test()
async def tall_canvas(dut):
    """So many bands that the highest bits of their numbers and rows are needed."""
    bench = PiecesBench(dut, DUTS)
    await bench.compare([(ChromaFormat.C420, 3, 20, 1, 32995, 255), (ChromaFormat.C420, 9, 9, 0, 32763, 255)], 4, 33000)


@cocotb.test()
async def room_for_what_is_under_way(dut):
    """Nobody takes a tile: as many are asked for as there is room, and no more."""
    bench = PiecesBench(dut, DUTS)
    tasks = await bench.start([(ChromaFormat.C420, 200, 200, 0, 0, 255)], 200, 200)
    await bench.cycles(300)
    assert len(bench.requests) == bench.component.pieces.depth
    for task in tasks:
        task.cancel()


@cocotb.test()
async def a_layer_elsewhere_costs_a_cycle(dut):
    """A canvas with nothing on it: a cycle for each layer and band, one without a layer."""
    bench = PiecesBench(dut, DUTS)
    for count in (0, 1, 5, 16):
        layers = [(ChromaFormat.C420, 8, 8, 100, 0, 255)] * count
        tasks = await bench.start(layers, 16, 400)
        bands = len(bands_of(16, 400))
        await bench.receive("o", bands)
        took = bench.now() - bench.began
        assert took <= bands * max(count, 1) + 16, f"{count} layers, {bands} bands: {took} cycles"
        for task in tasks:
            task.cancel()


@cocotb.test()
async def constructor(dut):
    for depth in (0, 2, 3, 33):
        try:
            Pieces(0, depth)
        except ValueError as error:
            assert f"depth is {depth}" in str(error)
        else:
            raise AssertionError(f"depth {depth} was accepted")
