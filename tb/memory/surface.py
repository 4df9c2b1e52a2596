"""Testbench of hw/memory/surface.py."""

import cocotb
import numpy as np
from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tessera.golden.frames import ChromaFormat, Frame
from tessera.hw.lib.streams import connect
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.memory.port import Op, Request
from tessera.hw.memory.surface import Surface, SurfaceReader, SurfaceWriter, Tile, TilePlace
from tessera.hw.models.memory import IdealMemory, Knobs
from tessera.hw.models.storage import Backdoor
from tessera.tb.bench import Bench, Dut, unpack
from tessera.tb.engine import EngineBench


class ReaderHarness(wiring.Component):
    """A surface reader in front of an ideal memory; ``asked`` tells that it takes request ``request``."""

    def __init__(self, depth):
        self.reader = SurfaceReader(id=3, depth=depth)
        self.memory = IdealMemory()
        super().__init__(
            {
                "surface": In(Surface),
                "i": In(stream.Signature(TilePlace)),
                "o": Out(stream.Signature(Tile)),
                "tiles_x": Out(data.ArrayLayout(14, 2)),
                "tiles_y": Out(data.ArrayLayout(14, 2)),
                "asked": Out(1),
                "request": Out(Request),
                "knobs": In(Knobs),
                "backdoor": In(Backdoor()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader = reader = self.reader
        m.submodules.memory = memory = self.memory
        m.d.comb += [reader.surface.eq(self.surface), memory.knobs.eq(self.knobs)]
        wiring.connect(m, wiring.flipped(self.backdoor), memory.backdoor)
        connect(m, self.i, reader.i)
        connect(m, reader.o, self.o)
        request = reader.request
        connect(m, request, memory.port.request)
        m.d.comb += [
            self.tiles_x.eq(reader.tiles_x),
            self.tiles_y.eq(reader.tiles_y),
            self.asked.eq(request.valid & request.ready),
            self.request.eq(request.payload),
        ]
        connect(m, memory.port.response, reader.response)
        return m


DUTS = {
    "reader": Dut(lambda: ReaderHarness(32), stalls=True, tests="reader", watched=True),
    "shallow": Dut(lambda: ReaderHarness(4), tests="reader_(gives|asks)", watched=True),
    "writer": Dut(lambda: SurfaceWriter(id=5), tests="writer", watched=True),
}
GEOMETRIES = [
    (ChromaFormat.C420, 61, 43),
    (ChromaFormat.C444, 300, 150),
    (ChromaFormat.C422, 257, 129),
    (ChromaFormat.Gray, 1, 1),
    (ChromaFormat.C420, 8, 8),
    (ChromaFormat.C422, 17, 9),
]
# Pictures of which only the lines' numbers are looked at.
LARGE = [
    (ChromaFormat.C420, 65535, 65535),
    (ChromaFormat.C444, 65535, 65535),
    (ChromaFormat.C422, 32769, 40001),
    (ChromaFormat.Gray, 65535, 1),
    (ChromaFormat.C420, 1, 65535),
    (ChromaFormat.C444, 43690, 21846),
    (ChromaFormat.C422, 21845, 43691),
    # An odd number of blocks before Cr.
    (ChromaFormat.C420, 515, 77),
    (ChromaFormat.C422, 600, 300),
    # Whole tiles and blocks.
    *((chroma, 1 << n, 1 << 15 - n // 2) for n in range(3, 16) for chroma in list(ChromaFormat)[1:]),
]


def picture(chroma, width, height, seed=1):
    random = np.random.default_rng(seed)
    sizes = [chroma.plane_size(plane, width, height) for plane in range(chroma.planes)]
    return Frame(chroma, tuple(random.integers(0, 256, (h, w), dtype=np.uint8) for w, h in sizes))


def surface_fields(frame, window, body):
    geometry = {"chroma_format": int(frame.format), "width": frame.width, "height": frame.height}
    return {"window": window, "body": body, **geometry}


async def set_surface(bench, frame, window, body):
    bench.dut.surface.value = Surface.const(surface_fields(frame, window, body)).as_bits()
    await bench.cycles(3)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5], memory_stall=[0, 8])
async def reader_gives_tiles_and_repeats_the_edge(dut, stall, memory_stall):
    bench = EngineBench(dut, DUTS)
    await bench.reset(stall=memory_stall)
    for geometry in GEOMETRIES:
        frame = picture(*geometry)
        layout = SurfaceLayout(*geometry)
        await set_surface(bench, frame, window=2, body=512)
        await bench.write_lines(2, 512, layout.pack(frame, fill=0xEE))
        places, expected = [], []
        for plane, samples in enumerate(frame.planes):
            across, down = layout.tiles(plane)
            padding = ((0, (down + 3) * 8 - samples.shape[0]), (0, (across + 3) * 8 - samples.shape[1]))
            padded = np.pad(samples, padding, mode="edge")
            for _ in range(60):
                x, y = bench.random.randrange(across + 3), bench.random.randrange(down + 3)
                places.append({"plane": plane, "x": x, "y": y})
                expected.append(padded[8 * y : 8 * y + 8, 8 * x : 8 * x + 8])
        cocotb.start_soon(bench.send("i", places, stall))
        tiles = await bench.within(20_000, bench.receive("o", len(places), stall))
        for place, tile, right in zip(places, tiles, expected):
            got = np.frombuffer(tile.as_bits().to_bytes(64, "little"), np.uint8).reshape(8, 8)
            np.testing.assert_array_equal(got, right, err_msg=f"{geometry}, {place}")


def somewhere(random, size):
    """A coordinate below `size`: anywhere, or near either end."""
    return random.choice([random.randrange(size), random.randrange(min(size, 40)), size - 1])


@cocotb.test()
async def reader_asks_for_the_lines_of_any_picture(dut):
    """Small and large, at any place of a window; beyond the last tile it is the last one that is asked for."""
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    random, requests = bench.random, []

    async def watch():
        while True:
            await ReadOnly()
            if bench.get("asked"):
                requests.append(unpack(Request, bench.get("request")))
            await RisingEdge(dut.clk)

    cocotb.start_soon(watch())
    for chroma, width, height in [*GEOMETRIES, *LARGE, *((c, random.randint(1, 65535), 77) for c in ChromaFormat)]:
        layout = SurfaceLayout(chroma, width, height)
        window, body = random.randrange(64), random.randrange(1 << 26)
        fields = {"window": window, "body": body, "chroma_format": int(chroma), "width": width, "height": height}
        dut.surface.value = Surface.const(fields).as_bits()
        await bench.cycles(3)
        for n, port in enumerate(("tiles_x", "tiles_y")):
            luma, chroma_tiles = bench.get(port) & 0x3FFF, bench.get(port) >> 14
            assert luma == layout.tiles(0)[n]
            assert chroma.planes == 1 or chroma_tiles == layout.tiles(1)[n]
        places, lines = [], []
        for plane in range(chroma.planes):
            across, down = layout.tiles(plane)
            for _ in range(20):
                x, y = (min(somewhere(random, size + 3), 8191) for size in (across, down))
                places.append({"plane": plane, "x": x, "y": y})
                lines.append((body + int(layout.line(plane, min(x, across - 1), min(y, down - 1)))) % (1 << 26))
        requests.clear()
        cocotb.start_soon(bench.send("i", places))
        await bench.within(2_000, bench.receive("o", len(places)))
        assert {(request.op, request.id, request.window) for request in requests} == {(Op.Read, 3, window)}
        assert [request.offset for request in requests] == lines, (chroma, width, height)


@cocotb.test()
async def reader_sustains_a_tile_per_cycle(dut):
    bench = EngineBench(dut, DUTS)
    if bench.stalled:
        return
    await bench.reset(latency=10)
    frame = picture(ChromaFormat.Gray, 256, 128)
    await set_surface(bench, frame, window=0, body=0)
    places = [{"plane": 0, "x": n % 32, "y": n // 32} for n in range(200)]
    began = bench.now()
    cocotb.start_soon(bench.send("i", places))
    await bench.within(1000, bench.receive("o", len(places)))
    # Latency: 1 for the clamp, 2 for the address, the memory's, 2 for the landing buffer, 2 for the edges.
    assert bench.now() - began == len(places) + 10 + 7


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def writer_puts_tiles_in_their_lines(dut, stall):
    bench = Bench(dut, DUTS)
    await bench.reset()
    for geometry in GEOMETRIES:
        frame = picture(*geometry, seed=2)
        layout = SurfaceLayout(*geometry)
        await set_surface(bench, frame, window=9, body=1024)
        assert bench.get("lines") == layout.lines
        image = layout.pack(frame)
        tiles, lines = [], []
        for plane in range(frame.format.planes):
            across, down = layout.tiles(plane)
            for _ in range(40):
                x, y = bench.random.randrange(across), bench.random.randrange(down)
                line = int(layout.line(plane, x, y))
                lines.append(line)
                rows = image[line].reshape(8, 8).tolist()
                tiles.append({"place": {"plane": plane, "x": x, "y": y}, "tile": rows})
        cocotb.start_soon(bench.send("i", tiles, stall))
        began = bench.now()
        requests = await bench.within(20_000, bench.receive("request", len(tiles), stall))
        if not stall:
            assert bench.now() - began == len(tiles) + 2
        for request, line in zip(requests, lines):
            assert request.op == Op.Write and request.id == 5 and request.window == 9
            assert request.offset == 1024 + line
            assert request.data.to_bytes(64, "little") == image[line].tobytes(), f"{geometry}, line {line}"


@cocotb.test()
async def writer_reaches_the_lines_of_any_picture(dut):
    bench = Bench(dut, DUTS)
    await bench.reset()
    random = bench.random
    for chroma, width, height in [*LARGE, *((c, 99, random.randint(1, 65535)) for c in ChromaFormat)]:
        layout = SurfaceLayout(chroma, width, height)
        window, body = random.randrange(64), random.randrange(1 << 26)
        fields = {"window": window, "body": body, "chroma_format": int(chroma), "width": width, "height": height}
        dut.surface.value = Surface.const(fields).as_bits()
        await bench.cycles(3)
        assert bench.get("lines") == layout.lines % (1 << 28)
        tiles, lines = [], []
        for plane in range(chroma.planes):
            across, down = layout.tiles(plane)
            for _ in range(20):
                x, y = somewhere(random, across), somewhere(random, down)
                tiles.append({"place": {"plane": plane, "x": x, "y": y}, "tile": [[plane] * 8] * 8})
                lines.append((body + int(layout.line(plane, x, y))) % (1 << 26))
        cocotb.start_soon(bench.send("i", tiles))
        requests = await bench.within(1_000, bench.receive("request", len(tiles)))
        assert {(request.op, request.id, request.window) for request in requests} == {(Op.Write, 5, window)}
        assert [request.offset for request in requests] == lines, (chroma, width, height)
