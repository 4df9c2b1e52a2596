"""The compute engine with an ideal memory: surfaces in, surfaces out, nonsense refused."""

import cocotb
import numpy as np

from tessera.golden.frames import ChromaFormat
from tessera.golden.ops import scale
from tessera.hw.compute.engine import Compute, ComputeParameter
from tessera.hw.compute.scale import ScalerConfig
from tessera.hw.engine import SlotKind, Status
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.models.memory import EngineHarness
from tessera.tb.bench import Dut, keep_figures
from tessera.tb.compute.scale import FORMATS, bound, picture, targets
from tessera.tb.engine import EngineBench, Slot

DUTS = {
    "engine": Dut(
        lambda: EngineHarness(Compute(ScalerConfig(max_width=256)), window_lines=1 << 15),
        stalls=True,
        tests=r"engine\.(?!throughput)",
    ),
    "full": Dut(lambda: EngineHarness(Compute(), windows=4, window_lines=1 << 15), tests="throughput|each_bit|copies"),
}

SOURCE, TARGET = Slot(1), Slot(2)


def task(width, height, bypass=0, tag=7, source=SOURCE, target=TARGET, extra=0):
    params = width | height << 16 | bypass << 32 | extra << 40
    return {"tag": tag, "source": source.fields(), "target": target.fields(), "params": params}


class ComputeBench(EngineBench):
    """Frames in, frames out."""

    async def scale(self, frame, width, height, *, bypass=0, tag=7, source=SOURCE, target=TARGET):
        """Do a task, compare all that it left; its done message."""
        await self.write_surface(source, frame, timestamp=tag * 12345)
        return await self.again(frame, width, height, bypass=bypass, tag=tag, source=source, target=target)

    async def again(self, frame, width, height, *, bypass=0, tag=7, source=SOURCE, target=TARGET):
        """The same of a surface that is there."""
        expected = frame if bypass else scale(frame, width, height)
        layout = SurfaceLayout(expected.format, expected.width, expected.height)
        guard = min(128, target.lines - layout.lines)
        await self.write_lines(target.window, target.body + layout.lines, b"\x5a" * 64 * guard)
        done = await self.run(task(width, height, bypass, tag, source, target))
        what = f"{frame.format} {frame.width}x{frame.height} to {width}x{height}"
        assert (Status(done.status), done.where) == (Status.Ok, 0), f"{what}: {Status(done.status)} {done.where}"
        geometry = int(expected.format), expected.width, expected.height
        header = await self.read_header(target)
        for found in (done, header):
            assert (found.chroma_format.value, found.width, found.height) == geometry, what
        assert done.tag == header.tag == tag and done.last and done.bytes == 0, what
        assert header.kind == SlotKind.Surface and header.status == Status.Ok, what
        assert header.timestamp == tag * 12345, what
        difference = expected.first_difference(await self.read_surface(target, layout))
        assert difference is None, f"{what}: {difference}"
        behind = await self.read_lines(target.window, target.body + layout.lines, guard)
        assert (behind == 0x5A).all(), f"{what}: written behind the surface"
        return done


@cocotb.test()
@cocotb.parametrize(memory=[(4, 0), (20, 0), (60, 4), (10, 12), (150, 1)])
async def frames(dut, memory):
    """All formats, random sizes, from the quickest memory to one that holds back three quarters of the time."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset(latency=memory[0], stall=memory[1])
    rng = np.random.default_rng(memory)
    for n in range(8):
        size = tuple(int(s) for s in rng.integers(1, 70, 2))
        await bench.scale(picture(rng, FORMATS[n % 4], *size), *targets(rng, size, 100), tag=n)
    await bench.scale(picture(rng, ChromaFormat.C444, 33, 18), 0, 77, bypass=1)


@cocotb.test()
async def wide(dut):
    """More than a block of tiles across and down, and the widest."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(1)
    await bench.scale(picture(rng, ChromaFormat.C420, 256, 140), 250, 150)
    await bench.scale(picture(rng, ChromaFormat.C422, 130, 30), 256, 8)


@cocotb.test()
async def tall(dut):
    """More than 32 and than 256 rows of tiles, in a slot and a window that hold them to the line."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(11)
    for format, height in ((ChromaFormat.C420, 300), (ChromaFormat.C420, 2176)):
        layouts = [SurfaceLayout(format, 9, rows) for rows in (height - 20, height)]
        source, target = (Slot(slot.window, lines=layout.lines) for slot, layout in zip((SOURCE, TARGET), layouts))
        frame = picture(rng, format, 9, height - 20)
        await bench.write_surface(source, frame, timestamp=7 * 12345)
        for window, layout in ((SOURCE.window, layouts[0]), (TARGET.window, layouts[1])):
            bench.set_memory(latency=4, window=window, limit=SOURCE.body + layout.lines)
            await bench.again(frame, 9, height, source=source, target=target)
        bench.set_memory(latency=4)


@cocotb.test()
async def slowest_memory(dut):
    """It takes a request in every sixteenth cycle: tiles wait to be written."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset(latency=4, stall=15)
    await bench.scale(picture(np.random.default_rng(12), ChromaFormat.Gray, 44, 20), 0, 0, bypass=1)


@cocotb.test()
async def copies(dut):
    """With the scaler bypassed the target is the source, in its format; width and height do not matter."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset(latency=8, stall=2)
    rng = np.random.default_rng(2)
    for format in FORMATS:
        await bench.scale(picture(rng, format, 45, 27), 0, 60000, bypass=1)


@cocotb.test()
async def nonsense(dut):
    """Each way in which a task makes no sense; the next one is as good, and as quick, as ever."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(3)
    frame = picture(rng, ChromaFormat.C420, 40, 24)
    cycles = (await bench.scale(frame, 30, 30)).cycles
    bad = Status.BadTask
    lines = SurfaceLayout(ChromaFormat.C420, 30, 30).lines
    wrong_slot = {"kind": SlotKind.Bitstream, "bytes": 100}
    cases = [
        ({}, task(0, 30), bad, ComputeParameter.Width),
        ({}, task(4, 30), bad, ComputeParameter.Width),
        ({}, task(257, 30), bad, ComputeParameter.Width),
        ({}, task(65535, 30), bad, ComputeParameter.Width),
        ({}, task(30, 0), bad, ComputeParameter.Height),
        ({}, task(30, 2), bad, ComputeParameter.Height),
        ({}, task(30, 193), bad, ComputeParameter.Height),
        ({}, task(30, 65535), bad, ComputeParameter.Height),
        ({}, task(30, 30, bypass=2), bad, ComputeParameter.Bypass),
        ({}, task(30, 30, bypass=0x81), bad, ComputeParameter.Bypass),
        ({}, task(30, 30, extra=1 << 87), bad, ComputeParameter.Bypass),
        ({"width": 0}, task(30, 30), bad, ComputeParameter.SourceWidth),
        ({"width": 0}, task(30, 30, bypass=1), bad, ComputeParameter.SourceWidth),
        ({"width": 257}, task(200, 30), bad, ComputeParameter.SourceWidth),
        ({"width": 65535}, task(30, 30), bad, ComputeParameter.SourceWidth),
        ({"height": 0}, task(30, 30), bad, ComputeParameter.SourceHeight),
        ({"width": 31}, task(249, 30), bad, ComputeParameter.Width),
        ({}, task(30, 30, target=Slot(2, lines=lines - 1)), Status.TargetTooSmall, lines),
        ({}, task(30, 30, target=Slot(2, lines=lines - 513)), Status.TargetTooSmall, lines),
        ({}, task(30, 30, target=Slot(2, lines=511)), Status.TargetTooSmall, lines),
        ({}, task(30, 30, bypass=1, target=Slot(2, lines=0)), Status.TargetTooSmall, lines),
        ({"status": Status.Poison}, task(30, 30), Status.SourceFailed, Status.Poison.value),
        ({"status": Status.BadTask}, task(30, 30), Status.SourceFailed, Status.BadTask.value),
        (wrong_slot, task(30, 30), Status.WrongSource, SlotKind.Bitstream.value),
        ({"kind": SlotKind.Empty}, task(30, 30), Status.WrongSource, 0),
        # Beyond the window: the memory refuses.
        ({}, task(30, 30, source=Slot(1, body=1 << 20)), Status.Refused, 0),
        ({}, task(30, 30, target=Slot(2, body=1 << 20)), Status.Refused, 9),
        ({}, task(30, 30, target=Slot(9)), Status.Refused, None),
        ({}, task(30, 30, source=Slot(9)), Status.Refused, 7),
    ]
    for fields, what, status, where in cases:
        await bench.write_surface(SOURCE, frame)
        if fields:
            geometry = {"kind": SlotKind.Surface, "chroma_format": 1, "width": 40, "height": 24}
            await bench.write_header(SOURCE, **{**geometry, **fields})
        await bench.write_lines(TARGET.window, TARGET.body, b"\x5a" * 64 * lines)
        done = await bench.run(what)
        where = done.where if where is None else where if isinstance(where, int) else where.value
        name = f"{fields} {what}"
        assert (Status(done.status), done.where) == (status, where), f"{name}: {Status(done.status)} {done.where}"
        assert (done.width, done.height, done.tag) == (0, 0, 7), name
        if status in (Status.BadTask, Status.TargetTooSmall, Status.SourceFailed, Status.WrongSource):
            header = await bench.read_header(TARGET)
            assert (Status(header.status), header.where) == (status, where), name
            body = await bench.read_lines(TARGET.window, TARGET.body, lines)
            assert (body == 0x5A).all(), f"{name}: the target was written to"
        good = await bench.scale(frame, 30, 30)
        assert good.cycles == cycles or bench.stalled, f"after {name}: {good.cycles} cycles, {cycles} at first"


@cocotb.test()
async def the_limits_are_allowed(dut):
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(4)
    lines = SurfaceLayout(ChromaFormat.C420, 5, 192).lines
    await bench.scale(picture(rng, ChromaFormat.C420, 40, 24), 5, 192, target=Slot(2, lines=lines))
    await bench.scale(picture(rng, ChromaFormat.C444, 32, 24), 256, 3)


def refusal(format, source, target, widest):
    """What is said of a task for whose target there is no room."""
    axes = (source[0], target[0], widest), (source[1], target[1], 65535)
    bad = [here == 0 or here > most for here, _, most in axes]
    bad += [not 0 < there <= most or there > 8 * here or 8 * there < here for here, there, most in axes]
    names = ComputeParameter.SourceWidth, ComputeParameter.SourceHeight, ComputeParameter.Width, ComputeParameter.Height
    for wrong, name in zip(bad, names):
        if wrong:
            return Status.BadTask, name.value
    return Status.TargetTooSmall, SurfaceLayout(format, *target).lines


@cocotb.test()
async def sizes_of_each_bit(dut):
    """Sizes of each bit, at the limits and just beyond. There is no room, so that none of the tasks is begun."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    widest = bench.component.engine.core.config.max_width
    pairs = []
    for n in range(16):
        for here in (1 << n, 0xFFFF ^ 1 << n):
            pairs += [(here, there) for there in (-(-here // 8) - 1, -(-here // 8), 8 * here, 8 * here + 1)]
        # But for one bit they would do.
        pairs += [(16, 16 | 1 << n), (16 | 1 << n, 16)]
    pairs = [(here, there) for here, there in pairs if there < 1 << 16]
    for number, (here, there) in enumerate(pairs):
        source_format = (ChromaFormat.Gray, ChromaFormat.C444)[number % 2]
        format = (ChromaFormat.Gray, ChromaFormat.C420)[number % 2]
        for source, target in (((here, 16), (there, 16)), ((16, here), (16, there))):
            geometry = {"chroma_format": int(source_format), "width": source[0], "height": source[1]}
            await bench.write_header(SOURCE, kind=SlotKind.Surface, **geometry)
            done = await bench.run(task(*target, target=Slot(2, lines=0)))
            found, expected = (Status(done.status), done.where), refusal(format, source, target, widest)
            assert found == expected, f"{source_format} {source} to {target}: {expected} expected, {found} found"


@cocotb.test()
async def rooms_that_are_just_too_small(dut):
    """A line less than the target needs, whatever that is."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    random = np.random.default_rng(9)
    for format in [ChromaFormat.C422, ChromaFormat.C444] * 40:
        size = int(random.integers(1, 257)), int(2 ** random.uniform(0, 16))
        lines = SurfaceLayout(format, *size).lines
        await bench.write_header(
            SOURCE, kind=SlotKind.Surface, chroma_format=int(format), width=size[0], height=size[1]
        )
        done = await bench.run(task(0, 0, bypass=1, target=Slot(2, lines=lines - 1)))
        found = Status(done.status), done.where
        assert found == (Status.TargetTooSmall, lines), f"{format} {size}: {lines} lines expected, {found} found"


@cocotb.test()
async def copies_of_each_bit(dut):
    """A copy needs as much room as its source, whatever its size."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    for source in [size for n in range(16) for size in ((1 << n, 16), (16, 1 << n))]:
        geometry = {"chroma_format": int(ChromaFormat.C422), "width": source[0], "height": source[1]}
        await bench.write_header(SOURCE, kind=SlotKind.Surface, **geometry)
        done = await bench.run(task(0, 0, bypass=1, target=Slot(2, lines=0)))
        expected = refusal(ChromaFormat.C422, source, source, bench.component.engine.core.config.max_width)
        found = Status(done.status), done.where
        assert found == expected, f"copy of {source}: {expected} expected, {found} found"


@cocotb.test()
async def parameters_of_each_bit(dut):
    """Above the parameters all is 0, and no stage but the first is there to be bypassed."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    await bench.write_header(SOURCE, kind=SlotKind.Surface, chroma_format=0, width=16, height=16)
    expected = Status.BadTask, ComputeParameter.Bypass.value
    for name, fields in [(f"bypass {1 << n}", {"bypass": 1 << n}) for n in range(1, 8)] + [
        (f"bit {40 + n}", {"extra": 1 << n}) for n in range(88)
    ]:
        done = await bench.run(task(16, 16, target=Slot(2, lines=0), **fields))
        found = Status(done.status), done.where
        assert found == expected, f"{name}: {expected} expected, {found} found"


@cocotb.test()
async def places_of_each_bit(dut):
    """Slots in each window and at lines of each bit, those that are not there refused; and rooms of each bit."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    frame = picture(np.random.default_rng(8), ChromaFormat.Gray, 9, 9)
    windows = bench.memory.windows
    cases = [(Slot(n), Slot((n + 1) % windows), None) for n in range(windows)]
    # In a window that is not there the header is refused, at a line that is not there the body.
    for n in range(3, 6):
        cases += [(Slot(1 << n), TARGET, (Status.Refused, 7)), (SOURCE, Slot(1 << n), (Status.Refused, 15))]
    for n in range(9, 26):
        there = 1 << n < bench.window_lines
        cases += [(Slot(1, body=1 << n), TARGET, None if there else (Status.Refused, 0))]
        cases += [(SOURCE, Slot(2, body=1 << n), None if there else (Status.Refused, 9))]
    lines = SurfaceLayout(ChromaFormat.Gray, 9, 9).lines
    for n in range(24):
        cases += [(SOURCE, Slot(2, lines=1 << n), None if 1 << n >= lines else (Status.TargetTooSmall, lines))]
    await bench.write_surface(SOURCE, frame)
    for source, target, expected in cases:
        if expected is None:
            await bench.scale(frame, 9, 9, source=source, target=target)
            continue
        # What no window holds is not written to one that is there.
        elsewhere = [n for n in range(windows) if n != SOURCE.window and target.window >= windows]
        for window in elsewhere:
            await bench.write_lines(window, target.body, b"\x5a" * 64 * lines)
        done = await bench.run(task(9, 9, source=source, target=target))
        found = Status(done.status), done.where
        assert found == expected, f"{source} to {target}: {expected} expected, {found} found"
        for window in elsewhere:
            body = await bench.read_lines(window, target.body, lines)
            assert (body == 0x5A).all(), f"{target}: window {window} was written to"


@cocotb.test()
async def aborted(dut):
    """Aborted anywhere in the task: it ends, and the next one is as on a cold chip."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(5)
    big, small = picture(rng, ChromaFormat.C444, 90, 50), picture(rng, ChromaFormat.C420, 33, 20)
    cycles = (await bench.scale(small, 50, 17)).cycles
    for wait in (30, 90, 150, 300, 700, 1200, 1500):
        await bench.write_surface(SOURCE, big)
        await bench.send("task", [task(60, 70)])
        await bench.cycles(wait)
        dut.abort.value = 1
        (done,) = await bench.within(2000, bench.receive("done", 1), f"abort after {wait} cycles")
        dut.abort.value = 0
        assert Status(done.status) == Status.Aborted, f"after {wait} cycles: {Status(done.status)}"
        good = await bench.scale(small, 50, 17)
        assert good.cycles == cycles or bench.stalled, f"abort after {wait}: {good.cycles} cycles, {cycles} at first"


@cocotb.test()
async def dirty_restart(dut):
    """Reset anywhere in a task: the next one is as on a cold chip."""
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(6)
    frame = picture(rng, ChromaFormat.C422, 70, 40)
    cycles = (await bench.scale(frame, 50, 60)).cycles
    for wait in (20, 77, 200, 444, 900):
        await bench.send("task", [task(60, 70)])
        await bench.cycles(wait)
        await bench.reset()
        good = await bench.scale(frame, 50, 60)
        assert good.cycles == cycles or bench.stalled, f"reset after {wait}: {good.cycles} cycles, {cycles} at first"


@cocotb.test()
@cocotb.parametrize(
    case=[
        ((352, 288), (176, 144), ChromaFormat.C420, 0.22),
        ((176, 144), (352, 288), ChromaFormat.C420, 0.22),
        ((320, 240), (352, 288), ChromaFormat.C420, 0.22),
        ((176, 144), (88, 72), ChromaFormat.C420, 0.23),
        ((352, 288), (352, 288), ChromaFormat.C420, 0.22),
        ((352, 288), (352, 288), ChromaFormat.C444, 0.41),
        ((352, 288), (348, 284), ChromaFormat.C444, 0.41),
        ((352, 288), (348, 284), ChromaFormat.C422, 0.29),
        ((128, 96), (126, 94), ChromaFormat.C444, 0.5),
        ((1280, 720), (640, 360), ChromaFormat.C420, 0.20),
        ((640, 360), (1280, 720), ChromaFormat.C420, 0.20),
    ]
)
async def throughput(dut, case):
    """Cycles from task to done, at 20 cycles of latency, per pixel of the larger of source and target."""
    source, target, format, per_pixel = case
    bench = ComputeBench(dut, DUTS)
    await bench.reset()
    room = (1 << 15) - 512
    frame = picture(np.random.default_rng(7), format, *source)
    done = await bench.scale(frame, *target, source=Slot(1, lines=room), target=Slot(2, lines=room))
    pixels = max(source[0] * source[1], target[0] * target[1])
    dut._log.info(f"{format} {source} to {target}: {done.cycles} cycles, {done.cycles / pixels:.3f} per pixel")
    allowed = bound(format, source, target) + 5 * 20 + 50
    assert done.cycles <= allowed, f"{done.cycles} cycles, {allowed} allowed"
    sizes = f"{source[0]}x{source[1]} to {target[0]}x{target[1]}"
    keep_figures(**{f"{format.name} {sizes}, cycles per pixel": round(done.cycles / pixels, 4)})
    assert done.cycles <= per_pixel * pixels, f"{done.cycles} cycles, {done.cycles / pixels:.3f} per pixel"
    again = await bench.again(frame, *target, source=Slot(1, lines=room), target=Slot(2, lines=room))
    assert again.cycles == done.cycles
