"""The scaler against ``golden.ops.scale``, bit for bit, and the cycles it claims."""

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from tessera.golden.frames import ChromaFormat, Frame
from tessera.golden.ops import axis_of, scale
from tessera.hw.compute.scale import Scaler, ScalerConfig
from tessera.tb.bench import Bench, Dut

DUTS = {
    "small": Dut(lambda: Scaler(ScalerConfig(max_width=128)), stalls=True, tests="sizes|restart|highest|held_up"),
    "full": Dut(lambda: Scaler(ScalerConfig()), tests="widest|throughput|highest|held_up"),
}

FORMATS = list(ChromaFormat)


def picture(rng, format, width, height):
    """Smooth areas, edges of full swing and noise."""
    planes = []
    for n in range(format.planes):
        w, h = format.plane_size(n, width, height)
        y, x = np.mgrid[0:h, 0:w]
        plane = 128 + 100 * np.sin(x / 5 + n) * np.cos(y / 7)
        plane = np.where((x // 3 + y // 5) % 4 == 0, 255 * rng.integers(0, 2, (h, w)), plane)
        plane = np.where(rng.random((h, w)) < 0.2, rng.integers(0, 256, (h, w)), plane)
        planes.append(plane.astype(np.uint8))
    return Frame(format, tuple(planes))


def rows_of(plane, fill):
    """A plane as items of a row stream; what lies past its edges is random."""
    height, width = plane.shape
    down, across = -(-height // 8), -(-width // 8)
    padded = fill.integers(0, 256, (down * 8, across * 8)).astype(np.uint8)
    padded[:height, :width] = plane
    tiles = padded.reshape(down, 8, across, 8).transpose(0, 2, 1, 3).reshape(-1, 8)
    return [int.from_bytes(row.tobytes(), "little") for row in tiles]


def plane_of(items, width, height):
    """And back."""
    down, across = -(-height // 8), -(-width // 8)
    samples = b"".join(item.to_bytes(8, "little") for item in items)
    tiles = np.frombuffer(samples, np.uint8).reshape(down, across, 8, 8)
    return tiles.transpose(0, 2, 1, 3).reshape(down * 8, across * 8)[:height, :width]


class ScaleBench(Bench):
    """Frames in, frames out."""

    def planes(self, format, source, target):
        shift_x, shift_y = format.shifts
        return [
            {
                "chroma": int(n > 0),
                "across": {"source": source[0], "target": target[0], "halved": shift_x},
                "down": {"source": source[1], "target": target[1], "halved": shift_y},
            }
            for n in range(format.planes)
        ]

    async def run(self, jobs, stall_in=0.0, stall_out=0.0):
        """Scale all of `jobs`, pairs of a frame and a size, back to back, and compare; the cycles it took."""
        rng = np.random.default_rng(len(jobs))
        planes, items, counts = [], [], []
        for frame, size in jobs:
            planes += self.planes(frame.format, (frame.width, frame.height), size)
            form = ChromaFormat.C420 if frame.format.planes == 3 else ChromaFormat.Gray
            for n, plane in enumerate(frame.planes):
                items += rows_of(plane, rng)
                w, h = form.plane_size(n, *size)
                counts.append(8 * -(-w // 8) * -(-h // 8))
        started = self.now()
        cocotb.start_soon(self.send("i_plane", planes, stall_in))
        cocotb.start_soon(self.send("i", items, stall_in))
        limit = 20 * (len(items) + sum(counts)) + 2000 * len(planes)
        received = await self.within(limit, self.receive("o", sum(counts), stall_out), f"{len(jobs)} frames")
        took = self.now() - started
        received = [int(item.as_bits()) if hasattr(item, "as_bits") else int(item) for item in received]
        await self.cycles(20)
        assert not self.get("o.valid"), "a row of no plane"
        for frame, (width, height) in jobs:
            expected = scale(frame, width, height)
            found = []
            for plane in expected.planes:
                count = 64 * -(-plane.shape[0] // 8) * -(-plane.shape[1] // 8) // 8
                found.append(plane_of(received[:count], plane.shape[1], plane.shape[0]).copy())
                del received[:count]
            difference = expected.first_difference(Frame(expected.format, tuple(found)))
            what = f"{frame.format} {frame.width}x{frame.height} to {width}x{height}"
            assert difference is None, f"{what}: {difference}"
        return took


def targets(rng, size, limit=128):
    return tuple(int(rng.integers(-(-n // 8), min(limit, 8 * n) + 1)) for n in size)


@cocotb.test()
@cocotb.parametrize(stalls=[(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.3, 0.3), (0.9, 0.0), (0.0, 0.9)])
async def random_sizes(dut, stalls):
    """Random sizes and ratios of all formats, one after the other without a pause."""
    bench = ScaleBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(int(100 * stalls[0] + 10 * stalls[1]))
    jobs = []
    for n in range(8):
        size = tuple(int(s) for s in rng.integers(1, 60, 2))
        jobs.append((picture(rng, FORMATS[n % 4], *size), targets(rng, size, 100)))
    await bench.run(jobs, *stalls)


@cocotb.test()
async def chosen_sizes(dut):
    """The limits of the ratios, both orders of the passes, whole and odd ratios, the same size."""
    bench = ScaleBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(1)
    sizes = [
        ((16, 16), (16, 16)), ((64, 64), (8, 8)), ((8, 8), (64, 64)), ((16, 9), (128, 2)), ((128, 4), (16, 32)),
        ((33, 17), (34, 18)), ((34, 18), (33, 17)), ((48, 40), (24, 20)), ((24, 20), (48, 40)), ((65, 31), (64, 32)),
        ((128, 16), (128, 8)), ((17, 24), (9, 24)), ((63, 7), (21, 5)), ((64, 100), (128, 100)),
    ]  # fmt: skip
    orders, shifts = set(), set()
    for n, (source, target) in enumerate(sizes):
        jobs = [(picture(rng, FORMATS[(n + k) % 4], *source), target) for k in range(2)]
        await bench.run(jobs)
        for frame, _ in jobs:
            for plane in range(len(frame.planes)):
                axes = [
                    axis_of(s, t, plane=plane, shift=shift) for s, t, shift in zip(source, target, frame.format.shifts)
                ]
                orders.add((plane > 0, *(axis.grow for axis in axes)))
                shifts |= {axis.shift for axis in axes if not axis.grow}
    assert len(orders) == 8, f"orders of passes, luma and chroma: {orders}"
    assert shifts == {1, 2, 3, 4}, f"shifts of a shrinking pass: {shifts}"


@cocotb.test()
async def tiny_sizes(dut):
    """1x1 to 8x8."""
    bench = ScaleBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(2)
    jobs = []
    for n in range(48):
        size = tuple(int(s) for s in rng.integers(1, 9, 2)) if n else (1, 1)
        jobs.append((picture(rng, FORMATS[n % 4], *size), targets(rng, size, 20)))
    jobs += [(picture(rng, format, 1, 1), (8, 8)) for format in FORMATS]
    jobs += [(picture(rng, format, 8, 8), (1, 1)) for format in FORMATS]
    await bench.run(jobs)


@cocotb.test()
async def dirty_restart(dut):
    """Reset in mid-plane, anywhere: the next frame is right."""
    bench = ScaleBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(3)
    frame = picture(rng, ChromaFormat.C444, 40, 30)
    cycles = []
    for wait in (3, 40, 100, 333, 500, 801):
        tasks = [
            cocotb.start_soon(bench.send("i_plane", bench.planes(frame.format, (40, 30), (25, 64)))),
            cocotb.start_soon(bench.send("i", [item for plane in frame.planes for item in rows_of(plane, rng)])),
            cocotb.start_soon(bench.receive("o")),
        ]
        await bench.cycles(wait)
        for task in tasks:
            task.cancel()
        await bench.reset()
        cycles.append(await bench.run([(frame, (31, 12))]))
    assert len(set(cycles)) == 1, f"cycles after resets differ: {cycles}"


def bound(format, source, target):
    """The cycles that the docstring allows."""
    total = 0
    for n in range(format.planes):
        shift_x, shift_y = format.shifts
        across = axis_of(source[0], target[0], plane=n, shift=shift_x)
        down = axis_of(source[1], target[1], plane=n, shift=shift_y)
        ends = [(a.coarse, a.fine) if a.grow else (a.fine, a.coarse) for a in (across, down)]
        (source_x, target_x), (source_y, target_y) = ends
        tiles_x = [-(-x // 8) for x in (source_x, target_x)]
        tiles_y = [-(-y // 8) for y in (source_y, target_y)]
        groups = [8 * x * y for x, y in zip(tiles_x, tiles_y)]
        between_x, between_y = (tiles_x[0], tiles_y[1]) if across.grow else (tiles_x[1], tiles_y[0])
        steps_across = between_y * (max(source_x, target_x) + 4)
        steps_down = max(between_x, 2) * (max(source_y, target_y) + 4)
        total += max(*groups, steps_across, steps_down) + 24 * max(tiles_x) + 150
    return total


@cocotb.test()
@cocotb.parametrize(
    case=[
        ((352, 288), (176, 144), ChromaFormat.C420, 0.22),
        ((176, 144), (352, 288), ChromaFormat.C420, 0.22),
        ((320, 240), (352, 288), ChromaFormat.C420, 0.22),
        ((352, 288), (348, 284), ChromaFormat.C444, 0.41),
        ((176, 144), (176, 144), ChromaFormat.C444, 0.43),
        ((352, 32), (176, 64), ChromaFormat.C420, 0.33),
    ]
)
async def throughput(dut, case):
    """Cycles of whole frames, start to end, below the docstring's bound and this many per pixel of the larger size."""
    bench = ScaleBench(dut, DUTS)
    await bench.reset()
    source, target, format, per_pixel = case
    frame = picture(np.random.default_rng(4), format, *source)
    took = await bench.run([(frame, target)])
    pixels = max(source[0] * source[1], target[0] * target[1])
    dut._log.info(f"{format} {source} to {target}: {took} cycles, {took / pixels:.3f} per pixel")
    assert took <= bound(format, source, target), f"{took} cycles, {bound(format, source, target)} allowed"
    assert took <= per_pixel * pixels, f"{took / pixels:.3f} cycles per pixel"


@cocotb.test()
async def the_widest(dut):
    """2048 samples across, either way."""
    bench = ScaleBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(5)
    await bench.run([(picture(rng, ChromaFormat.C420, 2048, 18), (2047, 9))])
    await bench.run([(picture(rng, ChromaFormat.C422, 1030, 9), (2048, 18))])
    await bench.run([(picture(rng, ChromaFormat.C420, 2048, 20), (1030, 3))])
    await bench.run([(picture(rng, ChromaFormat.C444, 1026, 4), (2048, 4))])


def column(number, format, source, target):
    """Plane `number` of a picture one sample wide and `source` high, of noise, and what it is when scaled."""
    rng = np.random.default_rng(source)
    sizes = [format.plane_size(n, 1, source) for n in range(format.planes)]
    frame = Frame(format, tuple(rng.integers(0, 256, (height, 1), np.uint8) for _, height in sizes))
    return frame.planes[number], scale(frame, 1, target).planes[number]


@cocotb.test()
async def highest_begin(dut):
    """The first rows of planes up to the highest ones: luma, and chroma that is halved or not."""
    bench = ScaleBench(dut, DUTS)
    rng = np.random.default_rng(7)
    for n in range(8, 16):
        for source, target in ((3 << n - 1, 1 << n), (1 << n, 3 << n - 1)):
            for number, format in ((0, ChromaFormat.Gray), (1, FORMATS[1 + n % 2])):
                await bench.reset()
                plane, expected = column(number, format, source, target)
                cocotb.start_soon(bench.send("i_plane", [bench.planes(format, (1, source), (1, target))[number]]))
                sending = cocotb.start_soon(bench.send("i", rows_of(plane[:256], rng)))
                what = f"plane {number} of {format} 1x{source} to 1x{target}"
                rows = await bench.within(2000, bench.receive("o", 64), what)
                sending.cancel()
                for row, (right, item) in enumerate(zip(expected[:, 0], rows)):
                    found = item.samples[0]
                    assert found == right, f"{what}: row {row}: {right} expected, {found} found"


@cocotb.test()
async def highest(dut):
    """Planes of thousands of rows of tiles take as many cycles as their rows do."""
    bench = ScaleBench(dut, DUTS)
    if bench.stalled:
        return
    for number, format, source, target in (
        (0, ChromaFormat.Gray, 65529, 8192),
        (0, ChromaFormat.Gray, 1064, 1496),
        (0, ChromaFormat.Gray, 1496, 1064),
        (0, ChromaFormat.Gray, 54613, 43691),
        (1, ChromaFormat.C420, 21846, 43691),
    ):
        await bench.reset()
        (height, rows) = (plane.shape[0] for plane in column(number, format, source, target))
        bench.port("i.valid").value = bench.port("o.ready").value = 1
        await bench.send("i_plane", [bench.planes(format, (1, source), (1, target))[number]])
        began = bench.now()
        least, most = 2 * max(height, rows), bound(ChromaFormat.Gray, (1, height), (1, rows))
        what = f"plane {number} of {format} 1x{source} to 1x{target}"
        await bench.within(most, over(bench.port("i_plane.ready")), what)
        took = bench.now() - began
        assert least <= took, f"{what}: {took} cycles, {least} at the least"


async def over(ready):
    await RisingEdge(ready)


@cocotb.test()
async def held_up(dut):
    """Some pictures with both ends held up half of the time."""
    bench = ScaleBench(dut, DUTS)
    await bench.reset()
    rng = np.random.default_rng(6)
    sizes = ((21, 19), (37, 9)), ((23, 30), (13, 31)), ((11, 9), (60, 20)), ((47, 17), (22, 40))
    await bench.run([(picture(rng, format, *size), to) for format, (size, to) in zip(FORMATS, sizes)], 0.5, 0.5)
