"""Testbench of hw/codec/jpeg/decoder.py: whole files, good, damaged and hostile, against the golden decoder."""

import cocotb
import numpy as np
from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from tessera.golden.frames import ChromaFormat
from tessera.golden.jpeg.decoder import JpegError, decode
from tessera.golden.jpeg.encoder import encode
from tessera.golden.jpeg.headers import HeaderReader
from tessera.golden.jpeg.tables import ZIGZAG_TO_NATURAL, Marker
from tessera.hw.codec.jpeg.decoder import JpegDecoder, JpegDecoderParameters
from tessera.hw.codec.jpeg.idct import BLOCK_CYCLES
from tessera.hw.config import ddr4_3200aa
from tessera.hw.engine import EngineSignature, Status
from tessera.hw.lib.streams import connect
from tessera.hw.memory.ddr import DdrController
from tessera.hw.memory.fabric import Fabric
from tessera.hw.memory.layout import SurfaceLayout
from tessera.hw.memory.port import WindowWrite
from tessera.hw.models.dram import DramDevices
from tessera.hw.models.memory import WINDOW_LINES, EngineHarness, IdealMemory, Knobs
from tessera.hw.models.storage import Backdoor
from tessera.sim.clips import BUILT_IN
from tessera.tb.bench import Dut, keep_figures
from tessera.tb.codec.jpeg.corpus import clip_frame, exotic, hostile, mutations, picture, pillow_files
from tessera.tb.codec.jpeg.multiplex import segment
from tessera.tb.engine import EngineBench, Slot


class EitherMemory(wiring.Component):
    """An engine with an ideal memory and with a fabric and DDR4: ``real`` chooses while the engine is idle."""

    def __init__(self, engine):
        self.engine, self.ideal = engine, IdealMemory()
        self.devices = DramDevices(ddr4_3200aa(), depth=8 * WINDOW_LINES)
        members = dict(EngineSignature().members)
        del members["memory"]
        backdoors = {"backdoor": In(Backdoor()), "dram": In(Backdoor())}
        inputs = {"knobs": In(Knobs), "real": In(1), "window": In(stream.Signature(WindowWrite))}
        super().__init__({**members, **backdoors, **inputs, "violations": Out(32), "held": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = engine = self.engine
        m.submodules.ideal = ideal = self.ideal
        m.submodules.devices = devices = self.devices
        m.submodules.controller = controller = DdrController(ddr4_3200aa())
        m.submodules.fabric = fabric = Fabric(5)
        wiring.connect(m, fabric.lines, controller.port)
        wiring.connect(m, controller.dram, devices.bus)
        wiring.connect(m, wiring.flipped(self.backdoor), ideal.backdoor)
        wiring.connect(m, wiring.flipped(self.dram), devices.backdoor)
        wiring.connect(m, wiring.flipped(self.task), engine.task)
        wiring.connect(m, engine.done, wiring.flipped(self.done))
        connect(m, wiring.flipped(self.window), fabric.window)
        m.d.comb += [
            ideal.knobs.eq(self.knobs),
            engine.abort.eq(self.abort),
            fabric.refused.ready.eq(1),
            self.violations.eq(devices.violations),
            self.held.eq(controller.activity.held),
        ]
        request, response = engine.memory.request, engine.memory.response
        for port, chosen in ((ideal.port, ~self.real), (fabric.client0, self.real)):
            m.d.comb += [port.request.payload.eq(request.payload), port.request.valid.eq(request.valid & chosen)]
            m.d.comb += port.response.ready.eq(response.ready & chosen)
            with m.If(chosen):
                m.d.comb += [
                    request.ready.eq(port.request.ready),
                    response.valid.eq(port.response.valid),
                    response.payload.eq(port.response.payload),
                ]
        return m


DUTS = {
    "decoder": Dut(
        lambda: EngineHarness(JpegDecoder(), window_lines=1 << 16),
        tests="files|nothing|targets|aborts|throughput|sizes_of_each_bit|rooms|skipped|faults",
    ),
    "limited": Dut(
        lambda: EngineHarness(JpegDecoder(JpegDecoderParameters(max_width=40, max_height=24, short_bits=5, lines=2))),
        stalls=True,
        tests="limits|files_of_all_kinds|small_files|anywhere|skipped|faults_with",
    ),
    "memory": Dut(
        lambda: EitherMemory(JpegDecoder()), tests="slowdown|small_files|anywhere|sizes_of_each_bit|skipped|faults_with"
    ),
}
SOURCE, TARGET = Slot(1), Slot(2)


class EitherBench(EngineBench):
    """Bench of an :class:`EitherMemory`."""

    def choose(self, real):
        """Use the DRAM from now on, or the ideal memory."""
        self.port("real").value = int(real)
        self.backdoor = "dram" if real else "backdoor"

    @property
    def memory(self):
        return self.component.devices if self.backdoor == "dram" else self.component.ideal

    window_lines = WINDOW_LINES

    async def open_windows(self):
        """Windows over the DRAM, as the ideal memory has them."""
        lines, rights = WINDOW_LINES, {"read": 1, "write": 1}
        windows = [{"base": n * lines, "length": lines, "rights": rights} for n in range(8)]
        await self.send("window", [{"index": n, "window": window} for n, window in enumerate(windows)])

    async def read_lines(self, window, line, count):
        # The controller acknowledges a line while it still waits for its bank.
        while self.get("held"):
            await self.cycles(10)
        await self.cycles(20)
        return await super().read_lines(window, line, count)

    async def reset(self, cycles=4, **knobs):
        for port in ("load", "dump"):
            self.port(f"dram.{port}").value = 0
        self.choose(False)
        await super().reset(cycles, **knobs)


def bench_of(dut):
    """The bench that suits the build."""
    bench = EngineBench(dut, DUTS)
    return EitherBench(dut, DUTS) if bench.name == "memory" else bench


LIMITS = {"limited": (40, 24)}
"""Of a picture's size, in some builds."""


def lines_of(data, limits):
    """Lines of the surface that the frame header asks for; 0 if there is no good one before the first scan."""
    reader = HeaderReader(data, *limits)
    try:
        reader.soi()
        reader.scan()
    except JpegError:
        pass
    return SurfaceLayout(reader.format, reader.width, reader.height).lines if reader.components else 0


async def decode_one(bench, name, data, tag=1, target=TARGET, timeout=400_000, source=SOURCE):
    """One file through the silicon, compared with the golden; its done message."""
    limits = LIMITS.get(bench.name, (65535, 65535))
    try:
        golden, error = decode(data, *limits), None
    except JpegError as e:
        golden, error = None, e
    expected = (Status.Ok, 0) if error is None else (Status(int(error.status)), error.where)
    # The room is checked as soon as the frame header was accepted.
    lines = lines_of(data, limits)
    if lines > target.lines:
        expected = Status.TargetTooSmall, lines
    await bench.write_bitstream(source, data, timestamp=tag * 1000)
    task = {"tag": tag, "source": source.fields(), "target": target.fields()}
    done = await bench.run(task, timeout=timeout)
    assert done.tag == tag and done.last, name
    found = Status(done.status), done.where
    assert found == expected, f"{name}: {expected} expected ({error}), {found} found"
    if expected[0] is Status.Ok:
        frame = golden.frame
        geometry = int(frame.format), frame.width, frame.height, golden.size
        said = done.chroma_format.value, done.width, done.height, done.bytes
        assert said == geometry, f"{name}: format, width, height, size {geometry} expected, {said} found"
        layout = SurfaceLayout(frame.format, frame.width, frame.height)
        difference = frame.first_difference(await bench.read_surface(target, layout))
        assert difference is None, f"{name}: {difference}"
    else:
        assert (done.width, done.height, done.bytes) == (0, 0, 0), name
    return done


@cocotb.test()
@cocotb.parametrize(memory_stall=[0, 8])
async def files_of_all_kinds(dut, memory_stall):
    """Files by Pillow and others that it would not write, back to back."""
    bench = EngineBench(dut, DUTS)
    await bench.reset(latency=4 if memory_stall else 30, stall=memory_stall)
    count = 12 if memory_stall or bench.stalled else 40
    files = [*pillow_files(11 + memory_stall, count), *exotic(12 + memory_stall, count)]
    formats, refused = set(), 0
    for n, (name, data) in enumerate(files):
        done = await decode_one(bench, name, data, tag=n + 1)
        refused += Status(done.status) is not Status.Ok
        formats.add(done.chroma_format)
    if bench.name == "limited":
        assert refused and len(formats) > 1
    else:
        assert not refused and len(formats) == 4


@cocotb.test()
async def small_files(dut):
    """A picture of each format, twice in the same time, and a file for each status; then a task that is cut off."""
    bench = bench_of(dut)
    await bench.reset()
    random = np.random.default_rng(2)
    for n, chroma_format in enumerate(ChromaFormat):
        # The last one has more restarts than there are markers for them.
        width, height = (17, 9) if n < 3 else (40, 24)
        data = encode(picture(random, width, height, chroma_format), 80, (0, 1, 2, 1)[n])
        first, again = [await decode_one(bench, f"{chroma_format}", data, tag=n) for _ in range(2)]
        assert bench.stalled or first.cycles == again.cycles, f"{chroma_format}: {first.cycles}, then {again.cycles}"
    seen = set()
    for name, file in [*exotic(12, 4, 24), *hostile()]:
        status = status_of(file, LIMITS.get(bench.name, (65535, 65535)))
        if status not in seen:
            seen.add(status)
            await decode_one(bench, name, file)
            # And all of it a few cycles later, an odd number of them.
            await decode_one(bench, f"{name}, with a comment", file[:2] + segment(Marker.COM, b"ab") + file[2:])
    assert len(seen) >= 20
    await bench.write_bitstream(SOURCE, data)
    await bench.send("task", [{"tag": 9, "source": SOURCE.fields(), "target": TARGET.fields()}])
    await bench.cycles(first.cycles * 3 // 4)
    dut.abort.value = 1
    (done,) = await bench.within(2000, bench.receive("done", 1))
    dut.abort.value = 0
    assert Status(done.status) is Status.Aborted
    again = await decode_one(bench, "after an abort", data)
    assert bench.stalled or first.cycles == again.cycles, f"after an abort: {first.cycles}, then {again.cycles} cycles"


@cocotb.test()
async def skipped_bytes(dut):
    """A segment that is of no interest takes half a cycle per byte, from the task to done."""
    bench = bench_of(dut)
    if bench.stalled:
        return
    # What the memory is slow with may hide a cycle.
    await bench.reset(latency=4)
    good = encode(picture(np.random.default_rng(3), 9, 9, ChromaFormat.Gray), 60)
    cycles = []
    for count in range(16):
        data = good[:2] + segment(Marker.COM, bytes(2 * count)) + good[2:]
        cycles.append((await decode_one(bench, f"{2 * count} bytes of comment", data)).cycles)
    assert cycles == [cycles[0] + count for count in range(16)], f"cycles with 0, 2, 4 .. bytes of comment: {cycles}"


@cocotb.test()
async def faults_with_blocks_under_way(dut):
    """A bad marker behind a scan, and scans that end too early, when more or less is still on its way to the memory."""
    bench = bench_of(dut)
    await bench.reset()
    random = np.random.default_rng(4)
    for n in range(12):
        good = encode(picture(random, 8 + 8 * (n % 3), 8, ChromaFormat.Gray), 20 + 7 * n)
        await decode_one(bench, f"bad marker behind scan {n}", good[:-2] + b"\xff\x02")
        await decode_one(bench, f"scan {n} without its end", good[: -3 - n])


@cocotb.test()
async def faults_far_into_the_file(dut):
    """Bad markers at offsets of each bit, and scans that end at numbers of MCUs of more than 8 bits."""
    bench = bench_of(dut)
    await bench.reset()
    for place in [bits for n in range(5, 16) for bits in (1 << n, 0x5A5A5A5A >> (31 - n))] + [1 << 16]:
        left, data = place - 2, b"\xff\xd8"
        while left:
            size = left if left < 60_000 else left - 30_000
            data += segment(Marker.COM, bytes(size - 4))
            left -= size
        await decode_one(bench, f"bad marker at {place}", data + b"\xff\x02")
    good = encode(picture(np.random.default_rng(14), 272, 272, ChromaFormat.Gray), 60)
    scan = good.index(b"\xff\xda")
    for sixteenths in (4, 7, 10, 15):
        cut = scan + (len(good) - scan) * sixteenths // 16
        await decode_one(bench, f"scan that ends at byte {cut}", good[:cut] + b"\xff\xd9")
    for quality in (20, 60, 90):
        good = encode(picture(np.random.default_rng(15), 272, 272, ChromaFormat.Gray), quality)
        await decode_one(bench, f"bad marker behind a scan of {len(good)} bytes", good[:-2] + b"\xff\x02")


@cocotb.test()
async def rooms_that_are_just_too_small(dut):
    """A line less than the picture needs, whatever that is: told at its frame header."""
    bench = bench_of(dut)
    await bench.reset()
    random = np.random.default_rng(10)
    good = encode(picture(random, 9, 9, ChromaFormat.C444), 50)
    size = good.index(b"\xff\xc0") + 5
    for n in range(40):
        width, height = (int(2 ** random.uniform(0, 16)) for _ in range(2))
        data = good[:size] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + good[size + 4 :]
        # And the room is looked at in even and odd cycles.
        data = data[:2] + segment(Marker.COM, bytes(2 * (n % 2))) + data[2:]
        lines = SurfaceLayout(ChromaFormat.C444, width, height).lines
        await decode_one(bench, f"{width}x{height}", data, target=Slot(2, lines=lines - 1))


def status_of(data, limits):
    """Of a file, from the golden."""
    try:
        decode(data, *limits)
    except JpegError as error:
        return Status(int(error.status))
    return Status.Ok


@cocotb.test()
async def sizes_of_each_bit(dut):
    """Widths and heights of each bit: the room that they need is told before anything is decoded."""
    bench = bench_of(dut)
    await bench.reset()
    good = encode(picture(np.random.default_rng(7), 9, 9, ChromaFormat.C444), 50)
    size = good.index(b"\xff\xc0") + 5
    for n in range(16):
        for width, height in ((1 << n, 1), (1, 1 << n), (0xFFFF ^ 1 << n, 0x5A5A)):
            data = good[:size] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + good[size + 4 :]
            await decode_one(bench, f"{width}x{height}", data, target=Slot(2, lines=0))


@cocotb.test()
async def hostile_files(dut):
    """One file against each rule: status and place are golden's, and the good file after each of them comes out as on a
    cold chip, with as many cycles."""
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    good = encode(picture(np.random.default_rng(3), 24, 17, ChromaFormat.C420), 70, 1)
    cold = await decode_one(bench, "good file on a cold chip", good)
    seen = set()
    for n, (name, data) in enumerate(hostile()):
        done = await decode_one(bench, name, data, tag=n + 2)
        seen.add(Status(done.status))
        after = await decode_one(bench, f"good file after '{name}'", good)
        assert after.cycles == cold.cycles, f"after '{name}': {cold.cycles} cycles expected, {after.cycles} found"
    wanted = {status for status in Status if status.name.startswith("Jpeg")} | {Status.Ok, Status.TargetTooSmall}
    assert seen == wanted, f"statuses never seen: {wanted - seen}"


@cocotb.test()
async def damaged_files(dut):
    """300 mutated files without a reset, a good one after every tenth."""
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    random = np.random.default_rng(9)
    originals = [data for _, data in [*pillow_files(21, 6, 40), *exotic(22, 6, 40)]]
    seen = {}
    good = None
    for n in range(30):
        original = originals[n % len(originals)]
        for name, data in mutations(original, random, 10):
            done = await decode_one(bench, f"mutation {n}: {name}", data, tag=n + 1)
            seen[Status(done.status)] = seen.get(Status(done.status), 0) + 1
        done = await decode_one(bench, "good file after damaged ones", originals[0])
        good = good or done.cycles
        assert done.cycles == good
    dut._log.info(f"300 damaged files: {sorted((count, status.name) for status, count in seen.items())}")
    assert len(seen) >= 10


@cocotb.test()
async def nothing_is_written_outside_the_planes(dut):
    """Around the surface, and past its planes' last blocks, memory keeps what it held."""
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    random = np.random.default_rng(13)
    lines = 512 * 3
    target = Slot(2, lines=lines, head=512, body=1024)
    garbage = random.integers(0, 256, (1024 + lines + 512, 64), dtype=np.uint8)
    original = encode(picture(random, 47, 33, ChromaFormat.C420), 80, 3)
    damaged = [data for _, data in mutations(original, random, 20)]
    layout = SurfaceLayout(ChromaFormat.C420, 47, 33)
    for n, data in enumerate([original, *damaged]):
        await bench.write_lines(2, 0, garbage)
        await decode_one(bench, f"file {n}", data, target=target)
        kept = await bench.read_lines(2, 0, len(garbage))
        changed = np.flatnonzero((kept != garbage).any(axis=1))
        allowed = {512} | {1024 + int(line) for plane in range(3) for line in layout._lines_of(plane)}
        if n:
            # A damaged header may tell of another picture; it still must fit the target.
            allowed |= set(range(1024, 1024 + lines))
        strays = [int(line) for line in changed if line not in allowed]
        assert not strays, f"file {n}: lines {strays[:8]} were written to"


@cocotb.test()
async def targets_too_small_and_refused(dut):
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    good = encode(picture(np.random.default_rng(4), 40, 40, ChromaFormat.C444), 80)
    cold = await decode_one(bench, "good file", good)
    for lines in (0, 1, 1535, 1536):
        done = await decode_one(bench, f"target of {lines} lines", good, target=Slot(2, lines=lines))
        assert (Status(done.status) is Status.Ok) == (lines == 1536)
    bench.set_memory(window=2, limit=512 + 700)
    await bench.write_bitstream(SOURCE, good)
    task = {"tag": 9, "source": SOURCE.fields(), "target": TARGET.fields()}
    done = await bench.run(task)
    assert (Status(done.status), done.where) == (Status.Refused, 1 | 8)
    bench.set_memory(window=1, limit=512 + 3)
    done = await bench.run(task)
    assert (Status(done.status), done.where) == (Status.Refused, 0)
    bench.set_memory()
    again = await decode_one(bench, "good file after refusals", good)
    assert again.cycles == cold.cycles


@cocotb.test()
async def targets_and_files_anywhere(dut):
    """In each window, at lines of each bit, those that are not there refused; and targets with room of each bit."""
    bench = bench_of(dut)
    await bench.reset()
    data = encode(picture(np.random.default_rng(8), 17, 9, ChromaFormat.Gray), 100)
    bits = bench.window_lines.bit_length() - 1
    bodies = [512 * 31, 512 * 21, *(1 << n for n in range(bits)), *(512 * 5 ^ 1 << n for n in range(9))]
    for n, body in enumerate(bodies):
        source, target = Slot(n % 8, body=1 << n % bits), Slot((n + 3) % 8, body=body)
        await decode_one(bench, f"{source} to {target}", data, source=source, target=target)
    for n in range(24):
        await decode_one(bench, f"room of {1 << n} lines", data, target=Slot(2, lines=1 << n))
    # In a window that is not there the header is refused, at a line that is not there the body.
    cases = [(Slot(1 << n), TARGET, 7) for n in range(3, 6)] + [(SOURCE, Slot(1 << n), 15) for n in range(3, 6)]
    for n in range(bits, 26):
        cases += [(Slot(1, body=1 << n), TARGET, 0), (SOURCE, Slot(2, body=1 << n), 1 | 8)]
    await bench.write_bitstream(SOURCE, data)
    for source, target, where in cases:
        done = await bench.run({"tag": 9, "source": source.fields(), "target": target.fields()})
        found = Status(done.status), done.where
        assert found == (Status.Refused, where), f"{source} to {target}: {found}"


@cocotb.test()
async def aborts_and_resets_in_mid_work(dut):
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    good = encode(picture(np.random.default_rng(5), 48, 32, ChromaFormat.C420), 90)
    cold = await decode_one(bench, "good file", good)
    await bench.write_bitstream(SOURCE, good)
    task = {"tag": 9, "source": SOURCE.fields(), "target": TARGET.fields()}
    for delay in range(20, cold.cycles - 20, cold.cycles // 12):
        await bench.send("task", [task])
        await bench.cycles(delay)
        dut.abort.value = 1
        (done,) = await bench.within(2000, bench.receive("done", 1))
        dut.abort.value = 0
        assert Status(done.status) is Status.Aborted
        again = await decode_one(bench, f"good file after an abort at {delay}", good)
        assert again.cycles == cold.cycles
        await bench.write_bitstream(SOURCE, good)
        await bench.send("task", [task])
        await bench.cycles(delay)
        await bench.reset()
        again = await decode_one(bench, f"good file after a reset at {delay}", good)
        assert again.cycles == cold.cycles


def symbols(data):
    """Of a file without ZRL: its Huffman symbols, and its blocks within the picture."""
    golden = decode(data)
    inside = sum(-(-c.width // 8) * -(-c.height // 8) for c in golden.components)
    blocks = np.concatenate([c.coefficients.reshape(-1, 64) for c in golden.components])
    zigzag = blocks[:, list(ZIGZAG_TO_NATURAL)]
    last = np.array([np.flatnonzero(np.append(1, b[1:])).max() for b in zigzag])
    count = (zigzag[:, 1:] != 0).sum() + len(zigzag) + (last < 63).sum()
    return int(count), inside


@cocotb.test()
async def throughput(dut):
    """Cycles per pixel on real pictures, header, tables and drain included."""
    bench = EngineBench(dut, DUTS)
    await bench.reset(latency=20)
    figures = {}
    for clip in BUILT_IN:
        for width, height in ((176, 144), (352, 288)):
            for quality in (75, 90):
                data = encode(clip_frame(clip, width, height), quality)
                name = f"{clip} {width}x{height} 4:2:0 quality {quality}"
                done = await decode_one(bench, name, data)
                figures[name] = round(done.cycles / (width * height), 4)
                count, inside = symbols(data)
                floor = max(count, BLOCK_CYCLES * inside, len(data) * 5 // 8)
                assert floor <= done.cycles <= 1.5 * width * height, f"{name}: {done.cycles} cycles, floor {floor}"
    keep_figures(**{"jpeg decode, cycles per pixel": figures})


@cocotb.test()
async def slowdown(dut):
    """What DDR4-3200 behind the fabric costs, against a memory that answers each request four cycles later."""
    bench = EitherBench(dut, DUTS)
    await bench.reset(latency=4)
    await bench.open_windows()
    figures = {}
    for clip in BUILT_IN:
        for quality in (75, 90):
            data = encode(clip_frame(clip, 352, 288), quality)
            name = f"{clip} 352x288 4:2:0 quality {quality}"
            cycles = []
            for real in (False, True):
                bench.choose(real)
                done = await decode_one(bench, f"{name}, {'DDR4' if real else 'ideal memory'}", data)
                cycles.append(done.cycles)
            figures[name] = round(cycles[1] / cycles[0], 5)
            assert cycles[0] <= cycles[1] <= 1.05 * cycles[0], f"{name}: {cycles} cycles"
    assert not bench.get("violations")
    keep_figures(**{"jpeg decode on DDR4-3200, slowdown": figures})


@cocotb.test()
async def limits(dut):
    """Pictures above the limit are BadSize, those at it are not."""
    bench = EngineBench(dut, DUTS)
    await bench.reset()
    for width, height in ((40, 24), (41, 24), (40, 25), (1, 1)):
        data = encode(picture(np.random.default_rng(6), width, height, ChromaFormat.C422), 50)
        done = await decode_one(bench, f"{width}x{height}", data)
        assert (Status(done.status) is Status.Ok) == (width <= 40 and height <= 24)
