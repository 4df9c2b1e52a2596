"""Testbench of the JPEG encoder, as an engine: files equal the golden's byte for byte."""

import cocotb
import numpy as np

from tessera.golden.frames import ChromaFormat, Frame
from tessera.golden.jpeg.encoder import coefficients, encode
from tessera.golden.jpeg.tables import ZIGZAG_TO_NATURAL
from tessera.hw.codec.jpeg.encoder import JpegEncodeParams, JpegEncoder
from tessera.hw.engine import SlotKind, Status
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.models.memory import EngineHarness
from tessera.sim.clips import BUILT_IN
from tessera.tb.bench import Dut, keep_figures, pack
from tessera.tb.codec.jpeg.corpus import clip_frame
from tessera.tb.engine import EngineBench, Slot

DUTS = {"encoder": Dut(lambda: EngineHarness(JpegEncoder()), stalls=True)}

SOURCE, TARGET = Slot(1), Slot(2)
CANARY = 0x5C
FIXED = 220
"""Cycles of a task at the most that are none of the memory's latencies, nor of the blocks' or symbols'."""


def picture(chroma_format, width, height, seed, roughness=1.0):
    """A picture of smooth shades, edges and grain."""
    random = np.random.default_rng(seed)
    planes = []
    for plane in range(chroma_format.planes):
        w, h = chroma_format.plane_size(plane, width, height)
        y, x = np.mgrid[0:h, 0:w]
        shades = sum(
            random.uniform(10, 40) * np.sin(x * random.uniform(0, 0.2) + y * random.uniform(0, 0.2))
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


@cocotb.test()
async def slowest_memory(dut):
    """A memory that takes and answers a request in one of 16 cycles: the headers wait for it too."""
    bench = EngineBench(dut, DUTS)
    await bench.reset(stall=15)
    for number, chroma_format in enumerate(ChromaFormat):
        await run_good(bench, noise(chroma_format, 17, 9, number), 95, number)


@cocotb.test()
async def reads_the_picture_once(dut):
    """Four tiles are read while the headers are written; the source's window may then be closed."""
    bench = EngineBench(dut, DUTS)
    if bench.stalled:
        return
    await bench.reset(latency=4)
    frame = noise(ChromaFormat.Gray, 16, 16, 1)
    await bench.write_surface(SOURCE, frame)
    await bench.send("task", [task()])
    await bench.cycles(100)
    bench.set_memory(latency=4, window=SOURCE.window, limit=1)
    (done,) = await bench.within(5000, bench.receive("done", 1))
    assert (Status(done.status), done.where) == (Status.Ok, 0), f"something is read later: {done}"
    same_bytes(await bench.read_bitstream(TARGET, done.bytes), encode(frame, 75), "read at the beginning only")


@cocotb.test()
async def many_blocks_under_way(dut):
    """A third of the blocks are dummies, and symbols are slow: as many blocks wait as ever may."""
    bench = EngineBench(dut, DUTS)
    await bench.reset(latency=4)
    for columns in (21, 23, 25):
        await run_good(bench, noise(ChromaFormat.C420, 8 * columns, 8, 1), 100)


TARGET_CYCLES_PER_PIXEL = 1.5


def symbols_of(frame, quality):
    """Symbols of the whole scan, from the golden's coefficients, and of blocks."""
    planes = [plane.reshape(-1, 64)[:, ZIGZAG_TO_NATURAL] for plane in coefficients(frame, quality)]
    symbols = 0
    for block in np.concatenate(planes):
        places = np.flatnonzero(block[1:]) + 1
        zeros = np.diff(places, prepend=0) - 1
        symbols += 1 + len(places) + int((zeros // 16).sum()) + int(block[63] == 0)
    return symbols, sum(len(plane) for plane in planes)


@cocotb.test()
async def cycles_per_pixel(dut):
    """The rate on real pictures, everything counted, and the formula of the docstring."""
    bench = EngineBench(dut, DUTS)
    if bench.stalled:
        return
    await bench.reset(latency=100)
    figures = {}
    for name in BUILT_IN:
        for width, height in ((176, 144), (352, 288)):
            frame = clip_frame(name, width, height)
            for quality in (75, 90):
                cycles = await run_good(bench, frame, quality)
                key = f"{name} {width}x{height} 4:2:0 quality {quality}"
                figures[key] = round(cycles / (width * height), 4)
                assert figures[key] <= TARGET_CYCLES_PER_PIXEL, f"{key}: {figures[key]} cycles per pixel"
                check_formula(cycles, frame, quality, 100)
    keep_figures(**{"jpeg encode, cycles per pixel": figures})


@cocotb.test()
async def cycles_by_format(dut):
    """The formula where symbols rule and where blocks do."""
    bench = EngineBench(dut, DUTS)
    if bench.stalled:
        return
    for latency in (4, 60):
        await bench.reset(latency=latency)
        for chroma_format in ChromaFormat:
            for make, quality in ((picture, 75), (noise, 100)):
                frame = make(chroma_format, 96, 64, 1)
                check_formula(await run_good(bench, frame, quality), frame, quality, latency)


def check_formula(cycles, frame, quality, latency):
    symbols, blocks = symbols_of(frame, quality)
    floor = max(32 * blocks, symbols)
    assert floor <= cycles <= floor + FIXED + 3 * latency, f"{cycles} cycles for {blocks} blocks, {symbols} symbols"


@cocotb.test()
async def ends_at_every_room(dut):
    """Targets with less room than is needed: nothing is written outside, and the next task is as on a cold chip."""
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    frame = picture(ChromaFormat.C420, 40, 32, 5)
    cold = await run_good(bench, frame)
    needed = -(-len(encode(frame, 75)) // 64)
    for lines in [0, 1, 2, 9, needed - 2, needed - 1, needed]:
        await bench.write_lines(TARGET.window, 0, np.full((TARGET.body + needed + 8, 64), CANARY, np.uint8))
        small = Slot(TARGET.window, lines=lines)
        done = await bench.run(task(target=small))
        if lines < needed:
            assert (done.status, done.where) == (Status.TargetTooSmall, lines + 1), f"{lines} lines: {done}"
            assert (await bench.read_header(small)).status == Status.TargetTooSmall
        else:
            assert done.status == Status.Ok, f"{lines} lines: {done}"
        memory = await bench.read_lines(TARGET.window, 0, TARGET.body + needed + 8)
        outside = np.concatenate([memory[1 : TARGET.body], memory[TARGET.body + lines :]])
        assert (outside == CANARY).all(), f"written outside the {lines} lines of the target"
    again = await run_good(bench, frame)
    assert bench.stalled or again == cold, f"{again} cycles instead of {cold}"


def beginning(crop, width, height):
    """The first bytes of a file of a picture that begins with `crop`: up to the end of the first MCU."""
    data = bytearray(encode(crop, 100)[:-3])
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


@cocotb.test()
async def sizes_of_each_bit(dut):
    """Widths and heights of each bit: what is written until the target is full."""
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    room = bench.window_lines - SOURCE.body
    sizes = [size for n in range(16) for size in ((1 << n, 1), (1, 1 << n))]
    formats = ChromaFormat.Gray, ChromaFormat.C420
    for chroma_format, (width, height) in [(form, size) for form in formats for size in sizes]:
        what = f"{chroma_format} {width}x{height}"
        crop = noise(chroma_format, min(width, 16), min(height, 16), width + height)
        geometry = {"chroma_format": int(chroma_format), "width": width, "height": height}
        await bench.write_header(SOURCE, kind=SlotKind.Surface, **geometry)
        layout = SurfaceLayout(chroma_format, width, height)
        of_crop = SurfaceLayout(chroma_format, crop.width, crop.height)
        lines = of_crop.pack(crop)
        bases = [layout.base(plane) for plane in range(chroma_format.planes)]
        for plane, base in enumerate(bases):
            if base < room:
                first = of_crop.base(plane)
                await bench.write_lines(SOURCE.window, SOURCE.body + base, lines[first : first + 4])
        expected = beginning(crop, width, height)
        small = Slot(TARGET.window, lines=len(expected) // 64)
        done = await bench.run(task(quality=100, target=small))
        found = done.status, done.where
        if max(bases) >= room:
            assert found == (Status.Refused, 0), f"{what}, chroma beyond the window: {done}"
            continue
        assert found == (Status.TargetTooSmall, small.lines + 1), f"{what}, {small.lines} lines: {done}"
        same_bytes(await bench.read_bitstream(small, 64 * small.lines), expected[: 64 * small.lines], what)


@cocotb.test()
async def places_of_each_bit(dut):
    """Slots in each window and at lines of each bit, those that are not there refused; and rooms of each bit."""
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    frame = noise(ChromaFormat.Gray, 16, 8, 9)
    expected = encode(frame, 75)
    needed = -(-len(expected) // 64)
    # In a window that is not there the header is refused, at a line that is not there the body.
    cases = [(Slot(n), Slot((n + 3) % 8), None) for n in range(8)]
    cases += [(Slot(1 << n), TARGET, 7) for n in range(3, 6)] + [(SOURCE, Slot(1 << n), 15) for n in range(3, 6)]
    for n in range(26):
        there = 1 << n < bench.window_lines
        cases += [(SOURCE, Slot(2, body=1 << n), None if there else 9)] if n else []
        cases += [(Slot(1, body=1 << n), TARGET, None if there else 0)] if n >= 9 else []
    cases += [(SOURCE, Slot(2, lines=1 << n), None) for n in range(24)]
    for source, target, refused in cases:
        what = f"{source} to {target}"
        if source.window < 8 and source.body < bench.window_lines:
            await bench.write_surface(source, frame)
        elif source.window < 8:
            await bench.write_header(source, kind=SlotKind.Surface, chroma_format=0, width=16, height=8)
        done = await bench.run(task(target=target, source=source.fields()))
        found = Status(done.status), done.where
        if refused is not None:
            assert found == (Status.Refused, refused), f"{what}: {found}"
        elif target.lines < needed:
            assert found == (Status.TargetTooSmall, target.lines + 1), f"{what}: {found}"
        else:
            assert found == (Status.Ok, 0), f"{what}: {found}"
            same_bytes(await bench.read_bitstream(target, done.bytes), expected, what)


@cocotb.test()
async def refuses_bad_tasks(dut):
    """Each way for a task to be wrong, a good one after each."""
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    frame = picture(ChromaFormat.C422, 33, 9, 6)
    cold = await run_good(bench, frame)

    async def fails(expected, where, quality=75, **header):
        await bench.write_surface(SOURCE, frame, **header)
        done = await bench.run(task(quality))
        assert (done.status, done.where, done.bytes) == (expected, where, 0), f"{expected}, {where} expected: {done}"
        written = await bench.read_header(TARGET)
        assert (written.kind, written.status, written.where) == (SlotKind.Bitstream, expected, where), f"{written}"
        again = await run_good(bench, frame)
        assert bench.stalled or again == cold, f"the task behind a bad one took {again} cycles instead of {cold}"

    for quality in (0, 101, 127):
        await fails(Status.BadTask, 0, quality)
    await fails(Status.WrongSource, SlotKind.Surface.value, width=0)
    await fails(Status.WrongSource, SlotKind.Surface.value, height=0)
    await fails(Status.WrongSource, SlotKind.Bitstream.value, kind=SlotKind.Bitstream)
    await fails(Status.SourceFailed, Status.JpegBadCode.value, status=Status.JpegBadCode)


@cocotb.test()
@cocotb.parametrize(by=["abort", "refusal", "reset"])
async def restarts_dirty(dut, by):
    """A task cut off at any time leaves nothing behind."""
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    frame = picture(ChromaFormat.C420, 40, 40, 7)
    cold = await run_good(bench, frame, 90, 3)
    other = noise(ChromaFormat.C444, 48, 48, 8)
    for _ in range(6):
        after = bench.random.randint(10, 2500)
        await bench.write_surface(SOURCE, other)
        if by == "refusal":
            # The source's or the target's window ends early.
            window, limit = bench.random.choice([(1, 520), (1, 530), (2, 512), (2, 513), (2, 530)])
            bench.set_memory(window=window, limit=limit)
            done = await bench.run(task(95, 2))
            where = window - 1 | (window == 2) << 3
            assert (done.status, done.where) == (Status.Refused, where), f"{by} {window} {limit}: {done}"
            bench.set_memory()
        else:
            await bench.send("task", [task(95, 2)])
            await bench.cycles(after)
            if by == "abort":
                dut.abort.value = 1
                (done,) = await bench.within(1000, bench.receive("done", 1))
                dut.abort.value = 0
                assert done.status == Status.Aborted, f"aborted after {after} cycles: {done}"
            else:
                await bench.reset()
        again = await run_good(bench, frame, 90, 3)
        assert bench.stalled or again == cold, f"{by} after {after} cycles: then {again} cycles instead of {cold}"
