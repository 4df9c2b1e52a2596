"""Testbench of hw/compute/canvas.py: pieces of any kind against a picture in NumPy, and the cycles claimed."""

import cocotb
import numpy as np

from tessera.golden.frames import ChromaFormat, Frame
from tessera.golden.ops import Layer, compose
from tessera.hw.compute.canvas import FLAT, Canvas
from tessera.tb.bench import Bench, Dut
from tessera.tb.compute.pieces import bands_of

DUTS = {
    "16": Dut(lambda: Canvas(16), tests="pictures|restless|constructor", watched=True),
    "256": Dut(lambda: Canvas(256), watched=True),
}


def blended(below, above, alpha):
    """Of arrays, by the golden model."""
    layers = [Layer(Frame(ChromaFormat.Gray, (plane,)), 0, 0, a) for plane, a in ((below, 255), (above, alpha))]
    return compose(layers, *below.shape[::-1], (0, 0, 0)).planes[0]


class CanvasBench(Bench):
    """Pieces and tiles in, a picture out."""

    async def start(self, width, height, background):
        """Reset, and begin a canvas."""
        self.dut.running.value = 0
        await self.reset()
        sizes = [ChromaFormat.C420.plane_size(n, width, height) for n in (0, 1)]
        self.dut.tiles_x.value = sum(-(-w // 8) << 14 * n for n, (w, _) in enumerate(sizes))
        self.dut.tiles_y.value = sum(-(-h // 8) << 14 * n for n, (_, h) in enumerate(sizes))
        self.dut.background.value = sum(value << 8 * n for n, value in enumerate(background))
        await self.cycles(1)
        self.dut.running.value = 1

    async def draw(self, width, height, background, bands, *, stall_in=0.0, stall_out=0.0):
        """A canvas with lists of (piece, tile or None) for each band; the cycles it took. All is compared."""
        await self.start(width, height, background)
        pieces = [piece for band in bands for piece, _ in band]
        tiles = [tile for band in bands for _, tile in band if tile is not None]
        places = bands_of(width, height)
        count = sum(tiles_x for *_, tiles_x in places)
        limit = 40 * (8 * len(pieces) + 8 * count + 100)
        began = self.now()
        sends = [
            cocotb.start_soon(self.send("i", pieces, stall_in)),
            cocotb.start_soon(self.send("i_tile", [int.from_bytes(t.tobytes(), "little") for t in tiles], stall_in)),
        ]
        found = await self.within(limit, self.receive("o", count, stall_out), f"{width}x{height}")
        took = self.now() - began
        await self.cycles(2)
        assert self.get("done") and not self.get("o.valid")
        assert all(task.done() for task in sends), "a piece or a tile was not taken"
        found = iter(found)
        for (plane, row, tiles_x), band in zip(places, bands, strict=True):
            expected = self.band(tiles_x, background[plane], band)
            for column in range(tiles_x):
                placed = next(found)
                place = placed.place.plane, placed.place.x, placed.place.y
                assert place == (plane, column, row), f"tile {(plane, column, row)} expected, {place} found"
                samples = np.frombuffer(placed.tile.as_bits().to_bytes(64, "little"), np.uint8).reshape(8, 8)
                want = expected[:, 8 * column : 8 * column + 8]
                if not np.array_equal(want, samples):
                    r, c = np.argwhere(want != samples)[0]
                    raise AssertionError(
                        f"{width}x{height} plane {plane}, band {row}, tile {column}, row {r}, column {c}: "
                        f"{want[r, c]} expected, {samples[r, c]} found"
                    )
        return took

    @staticmethod
    def band(tiles_x, value, pieces):
        """What a band shall be."""
        margin = 16
        band = np.full((8, 8 * tiles_x + 2 * margin), value, np.uint8)
        for piece, tile in pieces:
            if not piece["draws"]:
                continue
            tile = np.full((8, 8), FLAT, np.uint8) if piece["flat"] else tile
            for row in range(piece["top"], piece["bottom"] + 1):
                at = margin + 8 * piece["column"] + piece["shift"]
                columns = slice(at + piece["left"], at + piece["right"] + 1)
                line = band[(piece["row"] + row) % 8, columns]
                above = tile[row, piece["left"] : piece["right"] + 1]
                line[:] = blended(line[None], above[None], piece["alpha"])[0]
        return band[:, margin:-margin]


def tile_of(rng):
    return rng.integers(0, 256, (8, 8), dtype=np.uint8)


def piece_of(rng, tiles_x, number, *, rows=None):
    """A random piece on a band."""
    at = int(rng.integers(-7, 8 * tiles_x))
    left, right = max(0, -at), min(7, 8 * tiles_x - 1 - at)
    left, right = sorted(int(n) for n in rng.integers(left, right + 1, 2)) if rng.random() < 0.5 else (left, right)
    top, bottom = rows or sorted(int(n) for n in rng.integers(0, 8, 2))
    piece = {
        "draws": 1, "flat": int(rng.random() < 0.1), "end": 0, "layer": number % 16,
        "alpha": int(rng.choice([255, 1, 128, rng.integers(0, 256)])),
        "column": at >> 3, "shift": at & 7, "left": left, "right": right, "top": top, "bottom": bottom,
        "row": int(rng.integers(0, 8)),
    }  # fmt: skip
    return piece, None if piece["flat"] else tile_of(rng)


def ended(band):
    """A band's pieces with an end: the last one's, or one more that draws nothing."""
    if band and band[-1][0]["layer"] % 2:
        return [*band[:-1], ({**band[-1][0], "end": 1}, band[-1][1])]
    # What means nothing is there all the same.
    means_nothing = {"flat": 0, "layer": 9, "alpha": 255, "column": 0, "shift": 3, "left": 0, "right": 7}
    return [*band, ({**means_nothing, "draws": 0, "end": 1, "top": 5, "bottom": 7, "row": 3}, None)]


def background_of(rng):
    return tuple(int(n) for n in rng.integers(0, 256, 3))


@cocotb.test()
@cocotb.parametrize(stalls=[(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.9, 0.9)])
async def pictures(dut, stalls):
    """Random pieces on canvases of random sizes."""
    bench = CanvasBench(dut, DUTS)
    rng = np.random.default_rng(int(100 * stalls[0] + stalls[1]))
    widest = 8 * bench.component._columns
    for n in range(10):
        width, height = int(rng.integers(1, min(widest, 60) + 1)), int(rng.integers(1, 40))
        bands = [
            ended([piece_of(rng, tiles_x, k) for k in range(int(rng.integers(0, 2 + n)))])
            for *_, tiles_x in bands_of(width, height)
        ]
        await bench.draw(width, height, background_of(rng), bands, stall_in=stalls[0], stall_out=stalls[1])


@cocotb.test()
async def restless(dut):
    """Layer after layer on the same few samples, a row or two at a time: each sees what the one before has left."""
    bench = CanvasBench(dut, DUTS)
    rng = np.random.default_rng(3)
    for height in (1, 3, 2, 7):
        bands = []
        for _, _, tiles_x in bands_of(8, 8 * height):
            band = []
            for n in range(40):
                first = int(rng.integers(0, 8))
                piece, tile = piece_of(rng, tiles_x, n, rows=(first, min(7, first + int(rng.integers(0, 2)))))
                band.append(({**piece, "row": (int(rng.integers(0, 2)) - first) % 8, "alpha": 77}, tile))
            bands.append(ended(band))
        await bench.draw(8, 8 * height, background_of(rng), bands)


def bound(places, bands):
    """Cycles that the docstring allows for a canvas whose pieces and tiles are there, and whose tiles are taken."""
    drawn, out = [0, 0], [0, 0]
    for (*_, tiles_x), band in zip(places, bands):
        rows = sum(piece["bottom"] - piece["top"] + 1 if piece["draws"] else 1 for piece, _ in band)
        # It is begun when the band before is drawn and the one before that is out.
        drawn.append(max(drawn[-1], out[-2]) + 4 * tiles_x + rows)
        out.append(max(drawn[-1] + 5, out[-1]) + 4 * tiles_x + 1)
    return out[-1]


@cocotb.test()
async def one_layer_side_by_side(dut):
    """A layer's tiles of one row each, one after the other, that share their words of memory: no cycle is lost."""
    bench = CanvasBench(dut, DUTS)
    rng = np.random.default_rng(4)
    places = bands_of(256, 8)
    for shift in range(8):
        bands = []
        for *_, tiles_x in places:
            band = []
            for column in range(-1, tiles_x):
                at = 8 * column + shift
                piece, tile = piece_of(rng, tiles_x, 5, rows=(6, 6))
                edges = {"left": max(0, -at), "right": min(7, 8 * tiles_x - 1 - at)}
                piece |= {"column": column, "shift": shift, "row": 3, "flat": 0, "alpha": 99, **edges}
                if piece["left"] <= piece["right"]:
                    band.append((piece, tile_of(rng) if tile is None else tile))
            bands.append(ended(band))
        took = await bench.draw(256, 8, background_of(rng), bands)
        # The first row may have to wait for the background.
        allowed = bound(places, bands) + 3 * len(bands) + 3
        assert took <= allowed, f"shift {shift}: {took} cycles, {allowed} allowed"


@cocotb.test()
@cocotb.parametrize(order=[(0, 1, 2, 3, 4, 5, 6, 7), (0, 2, 1, 3, 4, 6, 5, 7), (0, 2, 4, 1, 3, 5)])
async def rows_that_share_a_word(dut, order):
    """Layers of one row each, on different rows of the same words one, two or three cycles apart: no cycle is lost."""
    bench = CanvasBench(dut, DUTS)
    rng = np.random.default_rng(6)
    places = bands_of(8, 8)
    bands = []
    for _ in places:
        band = [piece_of(rng, 1, n, rows=(3, 3)) for n in range(12 * len(order))]
        bands.append(ended([({**piece, "row": order[n % len(order)] - 3 & 7}, t) for n, (piece, t) in enumerate(band)]))
    took = await bench.draw(8, 8, background_of(rng), bands)
    allowed = bound(places, bands) + 3 * len(bands) + 3
    assert took <= allowed, f"{took} cycles, {allowed} allowed"


@cocotb.test()
@cocotb.parametrize(size=[(8, 200), (16, 100), (40, 80), (256, 64)])
async def cycles(dut, size):
    """Layers of whole tiles: four cycles for a tile of the canvas, one for a row that is drawn."""
    bench = CanvasBench(dut, DUTS)
    rng = np.random.default_rng(5)
    width, height = size
    places = bands_of(width, height)
    for count in (0, 1, 4):
        bands = []
        for *_, tiles_x in places:
            pieces = [piece_of(rng, tiles_x, k, rows=(0, 7)) for k in range(count)]
            bands.append(ended([({**piece, "row": 0}, tile) for piece, tile in pieces]))
        took = await bench.draw(width, height, background_of(rng), bands)
        allowed = bound(places, bands) + 3
        dut._log.info(f"{width}x{height}, {count} pieces on a band: {took} cycles, {allowed} allowed")
        assert took <= allowed, f"{width}x{height}, {count} pieces on a band: {took} cycles, {allowed} allowed"


@cocotb.test()
async def constructor(dut):
    for width in (0, 8, 24, 32768):
        try:
            Canvas(width)
        except ValueError as error:
            assert f"max_width is {width}" in str(error)
        else:
            raise AssertionError(f"max_width {width} was accepted")
